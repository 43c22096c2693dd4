"""People look at figures; tests see that they are whole PNGs, show what they were given, and refuse
bad input.
"""

import numpy as np
import pytest

from cellsignal.common.errors import InputError
from cellsignal.report import confusion

pytestmark = pytest.mark.slow


def read(path):
    """(H, W, 3): cv2 checks and decodes the PNG."""
    import cv2

    assert path.read_bytes().startswith(b"\x89PNG") and sorted(path.parent.iterdir()) == [path]
    return cv2.imread(str(path))[..., ::-1]


def share_of(picture, colour):
    """Share of the pixels that have exactly this colour, #rrggbb."""
    rgb = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    return (picture == rgb).all(axis=-1).mean()


def test_confusion_matrix_of_few_classes(tmp_path):
    rng = np.random.default_rng(0)
    true = rng.integers(0, 4, 200)
    confusion.confusion_matrix(
        tmp_path / "c.png", true, true, ["DMSO", "Actin", "Eg5", "a long class name"]
    )
    # the darkest blue: the diagonal is all
    assert share_of(read(tmp_path / "c.png"), "#08306b") > 0.05
    with pytest.raises(InputError, match="outside the 3 class names"):
        confusion.confusion_matrix(tmp_path / "d.png", true, true, ["a", "b", "c"])


def test_confusion_matrix_of_many_classes(tmp_path):
    rng = np.random.default_rng(0)
    true = np.repeat(np.arange(120), 5)
    predicted = np.where(rng.random(600) < 0.8, true, rng.integers(0, 120, 600))
    confusion.confusion_matrix(
        tmp_path / "c.png", true, predicted, [str(k) for k in range(120)], group=np.arange(120) % 4
    )
    assert read(tmp_path / "c.png").shape[0] > 600


def test_confused_classes_stand_together_within_their_group():
    share = np.eye(12) * 0.5
    pairs = [(0, 8), (2, 4), (6, 10), (1, 11), (3, 7), (5, 9)]
    for a, b in pairs:
        share[a, b] = share[b, a] = 0.5
    group = np.arange(12) % 2
    order = confusion.confusion_order(share, group)
    assert sorted(order) == list(range(12)) and group[order].tolist() == [0] * 6 + [1] * 6
    place = np.argsort(order)
    assert all(abs(place[a] - place[b]) == 1 for a, b in pairs)

"""People look at figures; tests see that they are whole PNGs, show what they were given, and refuse
bad input.
"""

import numpy as np
import pandas as pd
import pytest

from cellsignal.common.errors import InputError
from cellsignal.evaluation.ladder import Step
from cellsignal.metrics.accuracy import Accuracy
from cellsignal.report import plots

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


COLUMNS = [
    *("fold", "stage", "model", "epoch", "train_loss"),
    *("valid_loss", "valid_accuracy", "lr"),
]


def logs_frame(folds=(0, 1), valid=True):
    rows = [
        (
            f,
            s,
            m,
            e,
            5.0 / (e + 1),
            6.0 / (e + 1) if valid else np.nan,
            e / 9 if valid else np.nan,
            1e-3 / (e + 1),
        )
        for f in folds
        for s in ("all", "HUVEC")
        for m in ("a", "b")
        for e in range(8)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def test_learning_curves(tmp_path):
    plots.learning_curves(tmp_path / "c.png", logs_frame(), guess=0.1)
    assert share_of(read(tmp_path / "c.png"), plots.CYCLE[0]) > 1e-4
    for bad, message in (
        (logs_frame().drop(columns="lr"), "no column 'lr'"),
        (logs_frame().iloc[:0], "no rows"),
    ):
        with pytest.raises(InputError, match=message):
            plots.learning_curves(tmp_path / "d.png", bad)


def test_learning_curves_without_validation_and_with_one_epoch(tmp_path):
    logs = logs_frame(folds=("all",), valid=False)
    plots.learning_curves(tmp_path / "c.png", logs[logs.epoch == 0])
    assert share_of(read(tmp_path / "c.png"), plots.CYCLE[1]) > 0


def test_ladder_plot_marks_a_step_that_harms(tmp_path):
    steps = [Step(f"s{n}", Accuracy.of(n, 100), 0.01) for n in (50, 70, 40)]
    plots.ladder_plot(tmp_path / "l.png", steps)
    assert share_of(read(tmp_path / "l.png"), plots.VERMILION) > 0
    (tmp_path / "l.png").unlink()
    plots.ladder_plot(tmp_path / "l.png", steps[:2])
    assert share_of(read(tmp_path / "l.png"), plots.VERMILION) == 0
    with pytest.raises(InputError, match="no steps"):
        plots.ladder_plot(tmp_path / "m.png", [])


def test_a_score_of_several_labels_has_its_prevalence(tmp_path):
    logs = logs_frame().rename(columns={"valid_accuracy": "valid_average_precision"})
    shares = []
    for name, prevalence in (("without", None), ("with", 0.08)):
        path = tmp_path / name / "c.png"
        plots.learning_curves(path, logs, score="average_precision", guess=prevalence)
        shares.append(share_of(read(path), plots.MUTED.lower()))
    assert shares[1] > shares[0]
    with pytest.raises(InputError, match="no column 'valid_accuracy'"):
        plots.learning_curves(tmp_path / "d.png", logs)


def test_label_distribution_draws_the_parts_in_their_share(tmp_path):
    counts = pd.DataFrame({"train": [30, 60], "test": [10, 20]}, index=["few", "many"])
    plots.label_distribution(tmp_path / "l.png", counts)
    shares = [share_of(read(tmp_path / "l.png"), colour) for colour in plots.CYCLE[:2]]
    assert shares[0] / shares[1] == pytest.approx(3, rel=0.1)


def test_label_distribution_of_many_classes(tmp_path):
    counts = pd.DataFrame(
        {"train": np.arange(100), "test": np.arange(100)[::-1] * 3},
        index=[f"c{n}" for n in range(100)],
    )
    plots.label_distribution(tmp_path / "l.png", counts, what="wells", title="classes")
    assert min(share_of(read(tmp_path / "l.png"), colour) for colour in plots.CYCLE[:2]) > 1e-5


@pytest.mark.parametrize(
    "counts",
    [
        pd.DataFrame(),
        pd.DataFrame({"train": []}),
        pd.DataFrame({"train": [3, -1]}),
        pd.DataFrame({"a": [np.nan]}),
    ],
)
def test_label_distribution_refuses(tmp_path, counts):
    with pytest.raises(InputError, match="label distribution"):
        plots.label_distribution(tmp_path / "l.png", counts)

"""The pictures of re-identification hold the numbers they are drawn from, reach the disk whole, and
refuse what does not fit.
"""

import cv2
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from sklearn.metrics import roc_auc_score, roc_curve

from cellsignal.common.errors import InputError
from cellsignal.evaluation.reid import reid
from cellsignal.report import reid_plots as plots
from cellsignal.report.figure_style import BLUE, CYCLE, GREEN, VERMILION


@pytest.fixture
def drawn(monkeypatch):
    """The figures of this test, in order; they are written as well."""
    figures, write = [], plots.save

    def keep(figure, path):
        figures.append(figure)
        write(figure, path, dpi=50)

    monkeypatch.setattr(plots, "save", keep)
    return figures


def scored(seed=0, protocol="published", n=20):
    rng = np.random.default_rng(seed)
    query, gallery = (
        pd.DataFrame(
            {
                "label": drug % 3,
                "compound": [f"d{d}" for d in drug],
                "library": rng.choice(["l1", "l2"], len(drug)),
            }
        )
        for drug in (rng.integers(9, size=n), rng.integers(9, size=30))
    )
    return reid(rng.random((n, 30)), query, gallery, protocol)


def line_of(axis, colour):
    return next(line for line in axis.lines if to_hex(line.get_color()).lower() == colour.lower())


def test_cmc_curves_are_the_shares_of_the_ranks(tmp_path, drawn):
    one, other = scored(), scored(1, "strict")
    plots.cmc_curves(tmp_path / "c.png", {"a": one, "b": other}, ranks=20)
    axis = drawn[0].axes[0]
    for found, colour in ((one, CYCLE[0]), (other, CYCLE[1])):
        k, share = line_of(axis, colour).get_data()
        assert list(k) == list(range(1, 21)) and share == pytest.approx(
            [found.rank(n).value for n in range(1, 21)]
        )
    # two models, two protocols' random orders, two bands
    assert len(axis.lines) == 4 and len(axis.collections) == 2
    assert axis.lines[2].get_ydata()[4] == pytest.approx(one.random_rank(5))
    assert cv2.imread(str(tmp_path / "c.png")) is not None


def test_cmc_curves_of_one_protocol_have_one_chance_and_short_lists_end_flat(tmp_path, drawn):
    one = scored()
    plots.cmc_curves(tmp_path / "c.png", {"a": one, "b": one}, ranks=1000)
    axis = drawn[0].axes[0]
    assert (
        len(axis.lines) == 3
        and len(axis.lines[0].get_xdata()) == len(one.cmc)
        and axis.lines[0].get_ydata()[-1] == 1
    )
    for found, ranks in (({}, 5), ({"a": one}, 0)):
        with pytest.raises(InputError, match="at least one model and one rank"):
            plots.cmc_curves(tmp_path / "d.png", found, ranks=ranks)


def test_roc_curves_and_their_mean(tmp_path, drawn):
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=60)
    logits = rng.normal(size=(60, 5)) + 1.2 * np.eye(5)[labels]  # classes 3 and 4 have no query
    plots.roc_curves(tmp_path / "r.png", logits, labels)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    axis = drawn[0].axes[0]
    thin = axis.lines[:3]
    for k, line in enumerate(thin):
        false, true, _ = roc_curve(labels == k, p[:, k], drop_intermediate=False)
        np.testing.assert_allclose(line.get_xydata(), np.c_[false, true])
    areas = [roc_auc_score(labels == k, p[:, k]) for k in range(3)]
    mean = line_of(axis, BLUE)
    assert f"mean of 3 classes: AUC {np.mean(areas):.3f}" in mean.get_label()
    at, height = mean.get_data()
    assert (
        (np.diff(at) >= 0).all()
        and (np.diff(height) >= 0).all()
        and (at[0], height[0], at[-1], height[-1]) == (0, 0, 1, 1)
    )
    # at every place the mean of the highest points there
    for x, y in list(zip(at, height, strict=True))[1:]:
        assert y == pytest.approx(
            np.mean([max(t for f, t in line.get_xydata() if f <= x) for line in thin])
        )


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros((3, 2)), [0, 1], "do not fit"),
        (np.full((2, 2), np.nan), [0, 1], "not finite"),
        (np.zeros((3, 2)), [1, 1, 1], "no class has queries of its own and others"),
    ],
)
def test_roc_curves_refuse(tmp_path, logits, labels, message):
    with pytest.raises(InputError, match=message):
        plots.roc_curves(tmp_path / "r.png", logits, np.array(labels))
    assert not list(tmp_path.iterdir())


def test_clip_frames_puts_channels_into_colours_and_frames_in_order():
    # 2 channels x 3 frames: plane c * 3 + t
    planes = np.arange(6, dtype=np.uint8)[:, None, None] * np.ones((6, 2, 4), np.uint8)
    clip = plots.clip_frames(planes, 3)
    assert clip.shape == (3, 2, 4, 3) and clip.dtype == np.uint8
    assert clip[:, 0, 0].tolist() == [[0, 3, 0], [1, 4, 0], [2, 5, 0]]


def clips(n, size=12, frames=4, value=100):
    out = np.zeros((n, frames, size, size, 3), np.uint8)
    for frame in range(frames):
        out[:, frame, 2:6, frame : frame + 4] = value
    return out


def test_nearest_tracks_shows_every_frame_of_every_track_in_order(tmp_path, drawn):
    query, *others = clips(3, value=60)
    others[1] = clips(1, size=20, value=200)[0]
    plots.nearest_tracks_picture(
        tmp_path / "n.png",
        query,
        others,
        ["the query", "first", "second"],
        matches=[True, False],
        stretch=False,
    )
    axes = drawn[0].axes
    for axis, clip in zip(axes, (query, *others), strict=True):
        strip, (frames, height, width, _) = axis.images[0].get_array(), clip.shape
        gap = (strip.shape[1] - frames * width) // (frames - 1)
        assert strip.shape[0] == height and gap >= 1
        for frame in range(frames):
            np.testing.assert_array_equal(
                strip[:, frame * (width + gap) : frame * (width + gap) + width], clip[frame]
            )
    told = [axis.get_title("left") for axis in axes]
    assert (
        told[0] == "the query"
        and told[1].endswith("same mechanism")
        and told[2].endswith("another mechanism")
    )
    assert [to_hex(axis._left_title.get_color()).upper() for axis in axes[1:]] == [GREEN, VERMILION]
    assert cv2.imread(str(tmp_path / "n.png")) is not None


def test_stretching_keeps_the_change_over_time_and_takes_grey_clips(tmp_path, drawn):
    grey = np.zeros((3, 8, 8), np.uint8)
    grey[0, :4], grey[1, :4], grey[2, :4] = 10, 20, 40
    plots.nearest_tracks_picture(tmp_path / "n.png", grey, [grey // 2], ["q", "1"])
    for axis in drawn[0].axes:
        strip = axis.images[0].get_array()
        assert [int(strip[0, at * 9, 0]) for at in range(3)] == pytest.approx(
            [255 / 4, 255 / 2, 255], abs=1
        ) and (strip[7, :8] == 0).all()
    dark = np.zeros((3, 8, 8), np.uint8)
    plots.nearest_tracks_picture(tmp_path / "d.png", dark, [dark], ["q", "1"])
    assert drawn[1].axes[0].images[0].get_array()[:, :8].max() == 0


def test_nearest_tracks_refuses(tmp_path):
    query, other = clips(2)
    for bad, message in (
        ((query, [], ["q"]), "0 neighbours"),
        ((query, [other], ["q"]), "1 neighbours with 1 captions"),
        ((query, [other[:3]], ["q", "1"]), r"\(3, 12, 12, 3\) is not a clip of 4 frames"),
        ((query, [other.astype(float)], ["q", "1"]), "float64 .* is not a clip"),
    ):
        with pytest.raises(InputError, match=message):
            plots.nearest_tracks_picture(tmp_path / "n.png", *bad)
    with pytest.raises(InputError, match="one for each"):
        plots.nearest_tracks_picture(
            tmp_path / "n.png", query, [other], ["q", "1"], matches=[True, False]
        )
    assert not list(tmp_path.iterdir())

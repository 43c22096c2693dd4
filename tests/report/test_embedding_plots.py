"""Embeddings in the plane keep neighbours together; the figures show what they were given and
refuse bad input.
"""

import cv2
import numpy as np
import pandas as pd
import pytest

from cellsignal.common.errors import InputError
from cellsignal.report import embedding_plots as plots
from cellsignal.report.figure_style import CYCLE, MUTED


def share_of(path, colour):
    """Share of the pixels of a whole PNG that have exactly this colour, #rrggbb."""
    picture = cv2.imread(str(path))[..., ::-1]
    return (picture == [int(colour[at : at + 2], 16) for at in (1, 3, 5)]).all(axis=-1).mean()


def groups(classes=3, each=20, width=80, apart=20.0):
    rng, labels = np.random.default_rng(0), np.repeat(np.arange(classes), each)
    return rng.normal(0, apart, (classes, width))[labels] + rng.normal(
        size=(len(labels), width)
    ), labels


def test_tsne_keeps_groups_apart_and_its_seed_decides():
    embeddings, labels = groups()
    places = plots.tsne(embeddings, seed=1)
    distance = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    assert (labels[distance.argmin(axis=1)] == labels).all() and places.shape == (60, 2)
    np.testing.assert_array_equal(places, plots.tsne(embeddings, seed=1))


@pytest.mark.parametrize(("n", "width"), [(3, 2), (4, 1), (9, 200)])
def test_tsne_of_few_points(n, width):
    assert np.isfinite(plots.tsne(np.random.default_rng(0).normal(size=(n, width)))).all()
    assert np.isfinite(plots.tsne(np.zeros((n, width)))).all()  # all in one place


def test_tsne_plot_colours_the_largest_classes(tmp_path):
    embeddings, labels = groups(classes=4, each=15)
    keep = np.r_[0:15, 15:30, 30:38, 45:48]  # 15, 15, 8 and 3 points
    plots.tsne_plot(tmp_path / "t.png", embeddings[keep], labels[keep], ["a", "b", "c", "d"], top=2)
    assert share_of(tmp_path / "t.png", "#bbbbbb") > 1e-4  # the two small ones
    plots.tsne_plot(tmp_path / "u.png", embeddings[keep], labels[keep], ["a", "b", "c", "d"], top=4)
    assert share_of(tmp_path / "u.png", "#bbbbbb") < 5e-5  # but for an edge of a letter


@pytest.mark.parametrize(
    ("embeddings", "labels", "message"),
    [
        (np.zeros((2, 3)), [0, 0], "three or more"),
        (np.zeros((4, 3)), [0, 0, 0], "three or more"),
        (np.array([[0.0], [1], [np.nan]]), [0, 0, 0], "embedding 2 is not finite"),
        (np.zeros((3, 3)), [0, 1, 2], "outside the 2 class names"),
    ],
)
def test_tsne_plot_refuses(tmp_path, embeddings, labels, message):
    with pytest.raises(InputError, match=message):
        plots.tsne_plot(tmp_path / "t.png", embeddings, labels, ["a", "b"])
    assert not list(tmp_path.iterdir())


def test_label_distribution_draws_the_parts_in_their_share(tmp_path):
    counts = pd.DataFrame({"train": [30, 60], "test": [10, 20]}, index=["few", "many"])
    plots.label_distribution(tmp_path / "l.png", counts)
    shares = [share_of(tmp_path / "l.png", colour) for colour in CYCLE[:2]]
    assert shares[0] / shares[1] == pytest.approx(3, rel=0.1)


def test_label_distribution_of_many_classes(tmp_path):
    counts = pd.DataFrame(
        {"train": np.arange(100), "test": np.arange(100)[::-1] * 3},
        index=[f"c{n}" for n in range(100)],
    )
    plots.label_distribution(tmp_path / "l.png", counts, what="wells", title="classes")
    assert min(share_of(tmp_path / "l.png", colour) for colour in CYCLE[:2]) > 1e-5


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


def logs(folds=2, epochs=5, **more):
    rows = [
        (f"fold{f}", "train", "all", e, 2 / e, 3 / e, 0.4 - 0.3 / e)
        for f in range(folds)
        for e in range(1, epochs + 1)
    ]
    return pd.DataFrame(rows, columns=list(plots._LOG_COLUMNS)).assign(**more)


def test_average_precision_curves_show_the_prevalence(tmp_path):
    shares = []
    for name, prevalence in (("without", None), ("with", 0.08)):
        plots.average_precision_curves(tmp_path / f"{name}.png", logs(), prevalence)
        assert share_of(tmp_path / f"{name}.png", CYCLE[0]) > 1e-3
        shares.append(share_of(tmp_path / f"{name}.png", MUTED.lower()))
    assert shares[1] > shares[0]


def test_average_precision_curves_of_one_epoch_and_without_validation(tmp_path):
    plots.average_precision_curves(tmp_path / "a.png", logs(1, 1))
    plots.average_precision_curves(
        tmp_path / "b.png", logs(valid_loss=np.nan, valid_average_precision=np.nan), 0.1
    )
    assert share_of(tmp_path / "a.png", CYCLE[0]) > 0 and share_of(tmp_path / "b.png", CYCLE[0]) > 0
    for bad, message in (
        (logs().drop(columns="valid_loss"), "no column 'valid_loss'"),
        (logs().iloc[:0], "no rows"),
    ):
        with pytest.raises(InputError, match=message):
            plots.average_precision_curves(tmp_path / "c.png", bad)

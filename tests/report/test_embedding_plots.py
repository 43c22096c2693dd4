"""Embeddings in the plane keep neighbours together; the figures show what they were given and
refuse bad input.
"""

import cv2
import numpy as np
import pytest

from cellsignal.common.errors import InputError
from cellsignal.report import embedding_plots as plots


@pytest.fixture
def drawn(monkeypatch):
    """The figures of this test, in order; they are written as well."""
    figures, write = [], plots.save

    def keep(figure, path):
        figures.append(figure)
        write(figure, path, dpi=50)

    monkeypatch.setattr(plots, "save", keep)
    return figures


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


def test_reid_tsne_draws_every_query_and_every_gallery_track(tmp_path, drawn):
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 5, (4, 6))
    asked, held = np.repeat([0, 1, 2, 3], [9, 7, 2, 1]), np.repeat(np.arange(4), 8)
    query, gallery = (
        centres[labels] + rng.normal(size=(len(labels), 6)) for labels in (asked, held)
    )
    scale = rng.uniform(1, 100, (len(held), 1))  # cosine: lengths say nothing
    plots.reid_tsne(tmp_path / "t.png", query, asked, gallery * scale, held, list("abcd"), top=2)
    groups = drawn[0].axes[0].collections  # points and stars of the others, of a, of b
    assert [len(group.get_offsets()) for group in groups] == [3, 16, 9, 8, 7, 8]
    key = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert key == ["query (19)", "gallery (32)", "a", "b", "others"]
    places = [group.get_offsets() for group in groups[2:]]
    assert (
        np.linalg.norm(places[0].mean(0) - places[1].mean(0))
        < np.linalg.norm(places[0].mean(0) - places[2].mean(0)) / 2
    )
    right = (query, asked, gallery, held)
    for at, wrong in ((0, query[:, :3]), (1, asked[1:]), (0, query * np.nan), (3, held + 1)):
        bad = [wrong if place == at else part for place, part in enumerate(right)]
        with pytest.raises(InputError, match="t-SNE"):
            plots.reid_tsne(tmp_path / "u.png", *bad, list("abcd"))

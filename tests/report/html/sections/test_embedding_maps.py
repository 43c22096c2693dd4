"""Maps of embeddings: correction takes a planted plate effect out, and the page says what it shows."""

import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from pages import Page

from cellsignal.common.errors import InputError
from cellsignal.prediction.embeddings import save_embeddings
from cellsignal.report.html.page import Section, page
from cellsignal.report.html.sections import embedding_maps as maps

pytestmark = pytest.mark.slow

CLASSES = ("a", "b", "c")


@pytest.fixture
def view(tmp_path):
    """A run whose embeddings are a plate effect, a smaller label effect, and noise."""
    rng = np.random.default_rng(0)
    wells = pd.DataFrame(
        [
            (f"e{e}", str(p), f"{row}{column:02d}")
            for e in range(3)
            for p in (1, 2)
            for row in "BC"
            for column in range(2, 8)
        ],
        columns=["experiment", "plate", "well"],
    )
    wells["label"] = np.arange(len(wells)) % 4
    wells["role"] = np.where(wells.label == 3, "negative_control", "treatment")
    wells["label"] = wells.label.where(wells.label < 3, -1)
    wells["well_id"] = wells.experiment + wells.plate + wells.well
    wells["sample_id"] = wells["target_id"] = wells.well_id
    facts = {"cell_type": "x", "split": "train", "model": "all", "site": 1}
    wells = wells.assign(**facts, part=np.where(wells.role == "treatment", "oof", "none"))
    plate = wells.groupby(["experiment", "plate"]).ngroup().to_numpy()
    values = 20 * rng.normal(size=(6, 16))[plate] + rng.normal(size=(4, 16))[wells.label]
    values += 0.1 * rng.normal(size=values.shape)
    save_embeddings(
        tmp_path / "embeddings" / "fold0_all.npz", wells, values, {"classes": list(CLASSES)}
    )
    return SimpleNamespace(folders=[tmp_path], command="run", truth=None)


def test_correction_brings_labels_together_and_mixes_experiments(view):
    text = Page(page("t", "l", [Section("m", maps.embedding_maps(view), "m")]))
    assert text.faults == []
    rows = [line for line in text.text.split("\n") if line]
    before, after = (rows.index(state) for state in maps.STATES)
    shares = np.array([[float(rows[at + 1]), float(rows[at + 2])] for at in (before, after)])
    assert shares[0, 1] > 0.95 and shares[1, 0] > 0.95  # plates first, labels after
    assert shares[1, 1] < 0.6
    assert len(text.alts) == 8 and "by plate on all its wells" in text.text
    assert "54 held-out and test wells" in text.text


def test_correction_by_controls_centres_the_controls_of_each_plate():
    rng = np.random.default_rng(1)
    wells = pd.DataFrame({"experiment": ["a"] * 6 + ["b"] * 6, "plate": "1"})
    reference = np.tile([True, True, True, False, False, False], 2)
    values = rng.normal(size=(12, 5)) + np.repeat([[0.0], [9.0]], 6, axis=0)
    corrected = maps._correct(values, wells, reference)
    for plate in (slice(0, 3), slice(6, 9)):
        np.testing.assert_allclose(corrected[plate].mean(axis=0), 0, atol=1e-5)
        np.testing.assert_allclose(corrected[plate].std(axis=0), 1, atol=1e-4)
    assert abs(corrected[3:6].mean() - corrected[9:].mean()) < 3


def test_without_embeddings_a_line_says_what_makes_them(tmp_path):
    view = SimpleNamespace(folders=[tmp_path], command="run", truth=None)
    with pytest.raises(InputError, match="cellsignal embed run"):
        maps.embedding_maps(view)


def test_umap_serves_where_it_is_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    assert maps._projection()[0] == "t-SNE"

    class UMAP:
        def __init__(self, random_state):
            self.seed = random_state

        def fit_transform(self, values):
            return values[:, :2] + self.seed

    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=UMAP))
    name, plane = maps._projection()
    assert name == "UMAP" and plane(np.ones((4, 3))).shape == (4, 2)

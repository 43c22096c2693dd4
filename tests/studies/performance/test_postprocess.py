"""The benchmark of post-processing measures the layout it names, in small."""

import numpy as np
import pytest
from scipy.special import log_softmax

from cellsignal.studies.performance import postprocess

pytestmark = pytest.mark.slow


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(postprocess, "CLASSES_AND_CONTROLS", (48, 4))
    monkeypatch.setattr(
        postprocess, "REAL_TRAIN_EXPERIMENTS", {"HEPG2": 1, "HUVEC": 1, "RPE": 1, "U2OS": 1}
    )
    monkeypatch.setattr(
        postprocess, "REAL_TEST_EXPERIMENTS", {"HEPG2": 1, "HUVEC": 1, "RPE": 0, "U2OS": 0}
    )


def test_both_layouts_are_measured_and_solved(small):
    table = postprocess.bench_plate_assignment(rounds=1, signal=8.0)
    assert table.plates.tolist() == [2 * 4, 6 * 4] and table.wells.tolist() == [2 * 48, 6 * 48]
    assert (table.right == 1).all() and (table[["bare", "infer", "assign"]] > 0).all().all()
    assert table.ratio.to_numpy() == pytest.approx(
        ((table.infer + table["assign"]) / table.bare).to_numpy()
    )
    assert (postprocess.bench_plate_assignment(rounds=1, signal=0.0).right < 0.3).all()
    text = postprocess.postprocess_text(table.rename(columns={"plates": "step"})[["step"]], table)
    assert "18 test experiments" in text and "ratio" in text


def test_scores_are_log_probabilities_of_two_merged_sites(small):
    label = np.arange(20_000) % 48
    scores = postprocess._scores(label, 3.0, 0)
    assert np.abs(scores - log_softmax(scores, axis=1)).max() < 1e-5
    own = scores[np.arange(len(label)), label]
    others = scores[np.arange(len(label)), (label + 1) % 48]
    assert (own - others).mean() == pytest.approx(3.0, abs=0.05)
    assert (own - others).std() == pytest.approx(1.0, abs=0.03)  # two of SD 1 / sqrt(2)

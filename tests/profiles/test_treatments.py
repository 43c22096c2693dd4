"""From images to treatments by two medians, against loops and by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellsignal.common.errors import InputError
from cellsignal.profiles.treatments import predict_treatments, treatments_text


def frame(rows) -> pd.DataFrame:
    """(treatment, well, label) rows, each an image; the compound is the treatment's first letter."""
    found = pd.DataFrame(rows, columns=["treatment", "well_id", "label"])
    return found.assign(compound=found.treatment.str[0])


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(2, 5))
def test_as_loops_find(seed, treatments, classes):
    rng = np.random.default_rng(seed)
    rows = [
        (f"{'ABC'[t % 3]}{t}", f"w{t}.{w}", t % classes)
        for t in range(treatments)
        for w in range(rng.integers(1, 4))
        for _ in range(rng.integers(1, 5))
    ]
    samples = frame(rows).sample(frac=1, random_state=seed).reset_index(drop=True)
    p = rng.dirichlet(np.ones(classes), len(samples))
    found = predict_treatments(p, samples)
    for row in found.table.itertuples():
        wells = [
            np.median([p[i] for i in part.index], axis=0)
            for _, part in samples[samples.treatment == row.treatment].groupby("well_id")
        ]
        assert row.predicted == np.argmax(np.median(wells, axis=0)) and row.wells == len(wells)
    assert (found.accuracy.correct, found.accuracy.total) == (
        (found.table.predicted == found.table.label).sum(),
        treatments,
    )


def test_absent_replicates_are_absent():
    """One well of three was predicted, and is sure of class 1; two wells of zeros would have made
    it class 0.
    """
    samples = frame([("a", "w1", 1), ("a", "w1", 1), ("b", "w2", 0)])
    p = np.array([[0.1, 0.9], [0.3, 0.7], [0.8, 0.2]])
    found = predict_treatments(p, samples)
    assert (
        found.table.predicted.to_list() == [1, 0]
        and found.table.wells.to_list() == [1, 1]
        and found.table.images.to_list() == [2, 1]
    )
    assert np.argmax(np.median([[0.2, 0.8], [0, 0], [0, 0]], axis=0)) == 0


def test_a_well_counts_once_however_many_images_it_has():
    samples = frame([("a", "w1", 0)] * 9 + [("a", "w2", 0), ("a", "w3", 0)])
    p = np.array([[0.0, 1.0]] * 9 + [[0.6, 0.4]] * 2)
    assert predict_treatments(p, samples).table.predicted.to_list() == [0]


def test_text_counts_and_names_the_wrong_ones():
    samples = frame([("a1", "w1", 0), ("a2", "w2", 0), ("b1", "w3", 1)])
    found = predict_treatments(np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6]]), samples)
    text = treatments_text(found, ("Actin", "Eg5"))
    assert text.splitlines()[2].startswith("             2/3") or "2/3" in text.splitlines()[2]
    assert text.splitlines()[-1].split() == ["a2", "Actin", "Eg5", "1"]
    assert math.isnan(found.cluster_low) and "95 % over 2 compounds" in text and "nan" not in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"treatment": None}, "has no treatment"),
        ({"label": None}, "has no label"),
        ({"treatment": "a"}, "disagree on label"),
    ],
)
def test_refused(change, message):
    with pytest.raises(InputError, match=message):
        predict_treatments(
            np.full((2, 2), 0.5), frame([("a", "w1", 0), ("b", "w2", 1)]).assign(**change)
        )


def test_nothing_and_infinite_are_refused():
    with pytest.raises(InputError, match="0 predictions"):
        predict_treatments(np.zeros((0, 2)), frame([]))
    with pytest.raises(InputError, match="finite"):
        predict_treatments(np.array([[np.nan, 1]]), frame([("a", "w1", 0)]))


def test_equal_medians_are_drawn_among_and_counted():
    """A network that says the same of every image is right by chance, not as often as the first
    class is frequent.
    """
    samples = pd.DataFrame(
        {
            "treatment": [f"t{n}" for n in range(900)],
            "compound": "c",
            "label": 0,
            "well_id": [f"w{n}" for n in range(900)],
        }
    )
    found = predict_treatments(np.full((900, 3), 1 / 3), samples)
    # 5 standard errors
    assert (found.table.tied == 3).all() and found.accuracy.value == pytest.approx(1 / 3, abs=0.08)

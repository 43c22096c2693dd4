"""Corrections of embeddings against figures made by hand, and what asked wells may move."""

import numpy as np
import pandas as pd
import pytest

from cellsignal.studies.shift.embeddings import ComBat, scorer_of, standardise_batch

WAYS = {"standardise_controls": False, "tvn": False, "standardise_asked": True, "combat": True}


@pytest.fixture(scope="module")
def plates() -> tuple[np.ndarray, pd.DataFrame]:
    """Three plates of three classes, shifted and scaled each; the last is the test plate."""
    rng = np.random.default_rng(0)
    rows = [
        {"experiment": f"e{e}", "plate": "1", "role": role, "label": k % 3}
        for e in range(3)
        for role, number in (("treatment", 24), ("negative_control", 12))
        for k in range(number)
    ]
    table = pd.DataFrame(rows)
    table.loc[table.role != "treatment", "label"] = -1
    table["is_test"] = table.experiment == "e2"
    centres = 2.5 * np.eye(4)[:3]
    x = np.where((table.label >= 0).to_numpy()[:, None], centres[table.label.clip(0)], 0)
    x = x + 0.5 * rng.normal(size=x.shape)
    experiment = pd.factorize(table.experiment)[0]
    scale = np.array([1, 1.5, 3])[experiment]
    shift = np.array([[0, 0, 0, 0], [2, -1, 0, 1], [-9, 9, -4, 0]])[experiment]
    return x * scale[:, None] + shift, table


@pytest.mark.parametrize("how", WAYS)
def test_every_way_finds_the_classes_of_a_shifted_plate(plates, how):
    x, table = plates
    asked = np.flatnonzero(table.is_test & (table.role == "treatment"))
    (scores,) = scorer_of(how, x, table)([asked])
    assert (scores.argmax(1) == table.label.iloc[asked]).mean() > 0.9
    plain = scorer_of("standardise_controls", x, table.assign(plate="1", experiment="e0"))
    assert (plain([asked])[0].argmax(1) == table.label.iloc[asked]).mean() < 0.9


@pytest.mark.parametrize(("how", "moves"), WAYS.items())
def test_other_asked_wells_move_scores_only_where_the_batch_is_the_reference(plates, how, moves):
    x, table = plates
    asked = np.flatnonzero(table.is_test & (table.role == "treatment"))
    one_class = asked[table.label.iloc[asked] == 0]
    scorer = scorer_of(how, x, table)
    even, skewed = scorer([asked, one_class])
    alone = even[np.searchsorted(asked, one_class)]
    assert np.allclose(alone, skewed) is not moves


def test_a_batch_of_one_well_again_and_again_is_centred():
    np.testing.assert_array_equal(standardise_batch(np.ones((3, 2)) * 5), np.zeros((3, 2)))
    found = standardise_batch(np.array([[1.0, 0], [3, 0]]))
    np.testing.assert_allclose(found, [[-1, 0], [1, 0]])


def combat_of(features: int, seed: int = 0) -> tuple[ComBat, np.random.Generator]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(400, features))
    table = pd.DataFrame({"experiment": "e", "plate": np.repeat(["1", "2"], 200)})
    return ComBat(x, table, np.arange(400)), rng


def test_combat_takes_out_the_shift_and_scale_of_a_large_batch():
    combat, rng = combat_of(30)
    shift, scale = rng.normal(size=30), np.exp(0.3 * rng.normal(size=30))
    found = combat(rng.normal(size=(5000, 30)) * scale + shift)
    np.testing.assert_allclose(found.mean(0), 0, atol=0.05)
    np.testing.assert_allclose(found.std(0), 1, atol=0.05)


def test_combat_shrinks_a_small_batch_towards_what_features_have_in_common():
    """All features are shifted by 2: eight wells tell it better together than each alone."""
    combat, rng = combat_of(200)
    truth = rng.normal(size=(8, 200))
    error = np.abs(combat(truth + 2).mean(0) - truth.mean(0)).mean()
    alone = np.abs(standardise_batch(truth + 2).mean(0) - truth.mean(0)).mean()
    assert error < 0.7 * alone  # half of it, in expectation


@pytest.mark.parametrize("how", ["harmony"])
def test_harmony_names_its_package_or_scores(plates, how):
    pytest.importorskip("harmonypy")
    x, table = plates
    asked = np.flatnonzero(table.is_test & (table.role == "treatment"))
    (scores,) = scorer_of(how, x, table)([asked])
    assert scores.shape == (len(asked), 3)

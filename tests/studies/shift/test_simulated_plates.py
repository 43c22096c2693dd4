"""The asked batches: Dirichlet shares, who is on them, and that each class leads in turn."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from cellsignal.simulation.output import generator
from cellsignal.studies.shift.simulated_plates import (
    ALPHAS,
    Design,
    ask_batches,
    draw_shares,
    draw_wells,
)

SMALL = Design(
    classes=4,
    positives=3,
    negatives=2,
    train_experiments=1,
    test_experiments=2,
    plates=2,
    train_wells=1,
    test_wells=2,
    size=16,
)


@pytest.fixture(scope="module")
def wells():
    return draw_wells(3, SMALL)


def test_every_plate_has_its_classes_and_controls(wells):
    table = wells.table
    assert wells.images.shape == (len(table), 6, 16, 16) and wells.images.dtype == np.uint8
    counts = table.groupby(["is_test", "experiment", "plate", "role"]).size()
    assert set(counts[:, :, :, "positive_control"]) == {3}
    assert set(counts[:, :, :, "negative_control"]) == {2}
    assert set(counts[False, :, :, "treatment"]) == {4} and len(counts[False]) == 6
    assert set(counts[True, :, :, "treatment"]) == {8} and len(counts[True]) == 12
    treated = table[table.role == "treatment"]
    assert treated.groupby(["experiment", "plate"]).label.nunique().eq(4).all()
    assert (table.label[table.role != "treatment"] == -1).all()
    assert not table.duplicated(["experiment", "plate", "well"]).any()


@pytest.mark.parametrize("alpha", [0.01, 0.1, 1.0])
def test_shares_follow_the_dirichlet(alpha):
    """A share of Dirichlet(alpha, ..., alpha) is Beta(alpha, (K - 1) alpha)."""
    rng = np.random.default_rng(0)
    shares = np.array([draw_shares(5, alpha, rng) for _ in range(3000)])
    np.testing.assert_allclose(shares.sum(1), 1)
    np.testing.assert_allclose(shares.mean(0), 0.2, atol=0.03)
    # below 1e-12 of Beta(.01, .04) doubles differ by method
    clipped = np.clip(shares[:, 0], 1e-12, 1 - 1e-12)
    drawn = np.clip(stats.beta(alpha, 4 * alpha).rvs(20_000, random_state=1), 1e-12, 1 - 1e-12)
    assert stats.ks_2samp(clipped, drawn).pvalue > 0.001


def test_infinite_alpha_is_even():
    np.testing.assert_array_equal(draw_shares(4, np.inf, np.random.default_rng(0)), [0.25] * 4)


def test_batches_are_of_treatments_of_one_test_plate(wells):
    table = wells.table
    asked = list(ask_batches(table, 3, {3: 1, 9: 1}))
    assert len(asked) == 2 * len(ALPHAS) * 2
    for batch in asked:
        assert len(batch.rows) == 2
        for number, rows in enumerate(batch.rows, 1):
            chosen = table.iloc[rows]
            assert len(rows) == batch.size
            assert set(chosen.role) == {"treatment"} and chosen.is_test.all()
            assert set(chosen.experiment) == {batch.experiment}
            assert set(chosen.plate) == {str(number)}
            counts = np.bincount(chosen.label, minlength=4)
            if np.isinf(batch.alpha):
                assert np.ptp(counts) <= 1
            # a well comes again only after all of its class
            uses = pd.Series(rows).value_counts()
            spread = uses.groupby(table.label[uses.index].to_numpy()).agg(np.ptp)
            assert (spread <= 1).all()


def test_each_class_leads_in_turn(wells):
    """2 experiments x 2 plates x 2 repeats: each of 4 classes twice."""
    asked = ask_batches(wells.table, 3, {64: 2}, alphas=(0.01,))
    labels = wells.table.label.to_numpy()
    leaders = [np.bincount(labels[rows]).argmax() for batch in asked for rows in batch.rows]
    assert sorted(leaders) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_draws_are_the_same_again_and_others_for_another_seed(wells):
    first, again, other = (
        list(ask_batches(wells.table, seed, {8: 1, 32: 1})) for seed in (3, 3, 4)
    )
    assert all(np.array_equal(a.rows, b.rows) for a, b in zip(first, again, strict=True))
    assert any(not np.array_equal(a.rows, b.rows) for a, b in zip(first, other, strict=True))
    assert generator(1, "a").random() == generator(1, "a").random()

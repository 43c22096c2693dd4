"""Replicate consistency, against scikit-learn's cosines and exhaustive random sets."""

import itertools

import numpy as np
import pytest
from scipy.stats import false_discovery_control, kstest
from sklearn.metrics.pairwise import cosine_similarity

from cellsignal.common.errors import InputError
from cellsignal.evaluation.consistency import replicate_consistency


def brute_cosine(x):
    return cosine_similarity(x)[np.tril_indices(len(x), -1)].mean()


def test_cosines_are_the_mean_over_pairs_and_q_is_benjamini_hochbergs():
    rng = np.random.default_rng(0)
    names, x = np.repeat([f"p{n}" for n in range(12)], 4), rng.normal(size=(48, 6))
    table = replicate_consistency(x, names, ["b"] * 48, sets=200)
    expected = [brute_cosine(x[names == name]) for name in table.perturbation]
    assert table.cosine.to_numpy() == pytest.approx(expected)
    assert table.q.to_numpy() == pytest.approx(false_discovery_control(table.p))


def test_p_is_that_of_all_sets_matched_by_batch():
    """Two wells of batch a and one of b: every such set is written out."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(14, 4))
    batch = np.array(["a"] * 8 + ["b"] * 6)
    names = np.array(
        ["one"] * 2 + [f"x{n}" for n in range(6)] + ["one"] + [f"y{n}" for n in range(5)]
    )
    every = [
        brute_cosine(x[[*pair, other]])
        for pair in itertools.combinations(range(8), 2)
        for other in range(8, 14)
    ]
    own = brute_cosine(x[names == "one"])
    table = replicate_consistency(x, names, batch, sets=20_000)
    assert list(table.perturbation) == ["one"]
    assert table.p[0] == pytest.approx(np.mean(np.array(every) >= own - 1e-12), abs=0.015)


def test_batches_alone_make_no_consistency():
    """Wells of one batch resemble each other; sets matched by batch take that out."""
    rng = np.random.default_rng(2)
    batch = np.repeat(np.arange(20), 30)
    x = 2 * rng.normal(size=(20, 8))[batch] + rng.normal(size=(600, 8))
    names = np.repeat(np.arange(200), 3).astype(str)  # three wells of one batch
    batch = batch.astype(str)
    fair = replicate_consistency(x, names, batch, sets=400)
    unfair = replicate_consistency(x, names, ["all"] * 600, sets=400)
    assert (fair.p < 0.05).mean() < 0.12 and (unfair.p < 0.05).mean() > 0.5


def test_p_of_noise_is_uniform_and_of_replicates_small():
    rng = np.random.default_rng(3)
    names, batch = np.tile(np.arange(300), 4).astype(str), np.repeat(np.arange(4), 300).astype(str)
    noise = rng.normal(size=(1200, 10))
    assert kstest(replicate_consistency(noise, names, batch, sets=500).p, "uniform").pvalue > 0.001
    alike = rng.normal(size=(300, 10))[names.astype(int)] + noise
    assert (replicate_consistency(alike, names, batch, sets=500).q < 0.05).mean() > 0.8


def test_genes_that_do_nothing_can_be_the_null():
    rng = np.random.default_rng(4)
    names = np.repeat([f"n{k}" for k in range(30)] + ["gene"], 3)
    x = rng.normal(size=(93, 5))
    null = [f"n{k}" for k in range(30)]
    table = replicate_consistency(x, names, ["b"] * 93, null)
    drawn = [brute_cosine(x[names == name]) for name in null]
    own = brute_cosine(x[names == "gene"])
    assert list(table.perturbation) == ["gene"]
    assert table.p[0] == pytest.approx((1 + sum(value >= own for value in drawn)) / 31)


def test_what_cannot_be_tested_is_refused():
    x = np.eye(4)
    with pytest.raises(InputError, match="no perturbation has two wells"):
        replicate_consistency(x, list("abcd"), ["b"] * 4)
    with pytest.raises(InputError, match="--sets 5"):
        replicate_consistency(x, list("aabb"), ["b"] * 4, sets=5)
    with pytest.raises(InputError, match="1 perturbations of the null"):
        replicate_consistency(x, list("aabb"), ["b"] * 4, ["a"])

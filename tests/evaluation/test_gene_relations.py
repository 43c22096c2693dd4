"""Recall of known relations, against EFAAR's own code where it is installed, and by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from sklearn.metrics.pairwise import cosine_similarity

from cellsignal.common.errors import InputError
from cellsignal.evaluation.gene_relations import (
    exchange_p,
    exchanged_recalls,
    gene_interval,
    part_interval,
    recall_relations,
)
from cellsignal.metrics.intervals import mean_interval


def planted(complexes=10, size=3, others=40, likeness=0.9, seed=0):
    """A map whose first genes form complexes, and the pairs within them."""
    rng = np.random.default_rng(seed)
    count = complexes * size
    centre = np.repeat(rng.normal(size=(complexes, 16)), size, axis=0)
    own = rng.normal(size=(count + others, 16))
    x = own.copy()
    x[:count] = np.sqrt(likeness) * centre + np.sqrt(1 - likeness) * own[:count]
    first, second = np.triu_indices(count, 1)
    same = first // size == second // size
    return x, np.stack([first[same], second[same]], axis=1)


def brute_force(x, pairs, low, high):
    cosine = cosine_similarity(x)
    every = [cosine[a, b] for a in range(len(x)) for b in range(a + 1, len(x))]
    right = 0
    for a, b in pairs:
        below = sum(value < cosine[a, b] - 1e-9 for value in every) / len(every)
        at_most = sum(value <= cosine[a, b] + 1e-9 for value in every) / len(every)
        right += at_most <= low or below >= high
    return right / len(pairs)


@pytest.mark.parametrize("likeness", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("thresholds", [(0.05, 0.95), (0.1, 0.8)])
def test_recall_is_that_of_the_definition(likeness, thresholds):
    x, pairs = planted(likeness=likeness)
    found = recall_relations(x, pairs[:, ::-1], thresholds)
    assert found.value == pytest.approx(brute_force(x, pairs, *thresholds))


def test_recall_is_that_of_the_published_code(tmp_path):
    """`pip install --no-deps efaar-benchmarking geomloss` gives the package."""
    benchmarking = pytest.importorskip("efaar_benchmarking.benchmarking")
    from sklearn.utils import Bunch

    x, pairs = planted(likeness=0.4)
    names = np.array([f"g{n}" for n in range(len(x))])
    frame = pd.DataFrame(names[pairs], columns=["entity1", "entity2"])
    frame.to_csv(tmp_path / "known.txt", index=False)
    data = Bunch(features=pd.DataFrame(x), metadata=pd.DataFrame({"gene": names}))
    table = benchmarking.known_relationship_benchmark(
        data, "gene", ["known"], [(0.05, 0.95), (0.1, 0.9)], benchmark_data_dir=str(tmp_path)
    )
    for low, high in ((0.05, 0.95), (0.1, 0.9)):
        value = recall_relations(x, pairs, (low, high)).value
        assert value == pytest.approx(table[f"recall_{low}_{high}"].iloc[0])


def test_many_genes_are_counted_as_in_one_block(monkeypatch):
    x, pairs = planted()
    whole = recall_relations(x, pairs)
    monkeypatch.setattr("cellsignal.evaluation.gene_relations._BLOCK", 7)
    monkeypatch.setattr("cellsignal.evaluation.gene_relations._PAIRS", 4)
    parts = recall_relations(x, pairs)
    assert (whole.cosine == parts.cosine).all() and (whole.rank == parts.rank).all()
    assert (exchanged_recalls(x, whole, 5) == exchanged_recalls(x, parts, 5)).all()


def test_opposite_genes_count_on_their_own_side():
    x, pairs = planted()
    x[0] *= -1
    side = recall_relations(x, pairs).side
    assert list(side[(pairs == 0).any(axis=1)]) == [-1, -1] and side.max() == 1


def test_ties_stand_out_at_neither_end():
    """Of equal cosines at the border none is recalled, as in the published code."""
    x = np.eye(20)[np.arange(40) % 20]  # every cosine 0 or 1, those of 1 under 5 % of all
    assert recall_relations(x, np.array([[0, 20]])).value == 1
    assert recall_relations(x, np.array([[0, 1]])).value == 0
    assert recall_relations(np.ones((9, 4)), np.array([[0, 1]])).value == 0


def test_exchanged_names_are_at_chance_and_planted_ones_are_not():
    x, pairs = planted()
    found = recall_relations(x, pairs)
    draws = exchanged_recalls(x, found, 400)
    assert found.value > 0.9 and draws.mean() == pytest.approx(0.1, abs=0.02)
    assert exchange_p(found.value, draws) == pytest.approx(1 / 401)
    noise = recall_relations(np.random.default_rng(1).normal(size=x.shape), pairs)
    assert noise.value < 0.35


def test_p_of_relations_that_mean_nothing_is_uniform():
    rng, below = np.random.default_rng(0), 0
    x = rng.normal(size=(60, 8))
    for _ in range(100):
        order = rng.permutation(60)[:40].reshape(-1, 2)
        found = recall_relations(x, np.sort(order, axis=1))
        below += (
            exchange_p(found.value, exchanged_recalls(x, found, 49, int(rng.integers(1e9)))) <= 0.1
        )
    assert below / 100 <= 0.1 + norm.ppf(0.999) * np.sqrt(0.09 / 100)


def test_the_interval_of_pairs_that_share_no_gene_is_that_of_as_many_draws():
    rng = np.random.default_rng(0)
    hit = rng.random(80) < 0.4
    apart = np.arange(160).reshape(-1, 2)
    # each pair gives its deviation to two genes: the same variance, twice the degrees of freedom
    expected = mean_interval(hit, np.arange(80))
    assert gene_interval(hit, apart) == pytest.approx(expected, abs=0.01)
    assert part_interval(hit, apart) == pytest.approx(expected)


def test_a_gene_of_many_pairs_widens_the_interval():
    hit = np.arange(60) < 24
    apart = np.arange(120).reshape(-1, 2)
    hubs = np.stack([np.where(hit, 0, 1), np.arange(2, 62)], axis=1)
    low, high = gene_interval(hit, apart)
    wide_low, wide_high = gene_interval(hit, hubs)
    assert wide_high - wide_low > 2 * (high - low)


def test_relations_in_one_piece_have_no_interval_over_parts():
    chain = np.stack([np.arange(30), np.arange(1, 31)], axis=1)
    assert np.isnan(part_interval(np.arange(30) < 9, chain)).all()
    assert np.isnan(gene_interval(np.array([True]), np.array([[0, 1]]))).all()


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(InputError, match="no known pair"):
        recall_relations(np.eye(4), np.empty((0, 2)))
    with pytest.raises(InputError, match="2 genes"):
        recall_relations(np.eye(2), np.array([[0, 1]]))
    with pytest.raises(InputError, match="not a finite number"):
        recall_relations(np.full((4, 2), np.nan), np.array([[0, 1]]))

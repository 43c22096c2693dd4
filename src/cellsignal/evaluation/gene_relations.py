"""Count how many known gene relations stand out among all gene pairs, as EFAAR's benchmark does.

Source: Celik et al., PLOS Comput Biol 2024 (bioRxiv 2022.12.09.519400), and the package
`efaar_benchmarking` of its authors. A map has one vector a gene. The cosine of every pair of genes
is taken; a known relation is recalled if its cosine lies among the lowest 5 % or the highest 5 % of
all pairs: genes that work against each other count, too. At random 10 % are recalled.

Numbers in, numbers out; the relations' files are read in `profiles.relation_tables`.
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cellsignal.common.errors import InputError
from cellsignal.common.ties import unit_vectors
from cellsignal.evaluation.map_defaults import EXCHANGES, THRESHOLDS
from cellsignal.metrics.intervals import (
    LEAST_UNITS,
    NO_INTERVAL,
    influence_interval,
    mean_interval,
)

LEAST_PARTS = 10
_BLOCK, _PAIRS = 512, 8192  # genes and pairs at a time
_DIGITS = 9  # cosines that are equal but for rounding are one


@dataclass(frozen=True)
class Recall:
    """Known relations that stand out among all pairs.

    Attributes:
        pairs: (M, 2) int, the rows of the genes of each known pair, the smaller first.
        cosine: (M,) float64.
        rank: (M,) the share of all pairs with a lower cosine.
        side: (M,) int: 1 among the highest, -1 among the lowest, 0 neither.
        cut: a pair is among the lowest below the first, among the highest above the second.
        over_genes: 95 % interval for another draw of genes, see `gene_interval`.
        over_parts: 95 % interval for other complexes, see `part_interval`; NaN where the relations
            do not fall into parts.
    """

    pairs: np.ndarray
    cosine: np.ndarray
    rank: np.ndarray
    side: np.ndarray
    cut: tuple[float, float]
    over_genes: tuple[float, float]
    over_parts: tuple[float, float]

    @property
    def value(self) -> float:
        """The share of the known pairs that is recalled."""
        return float((self.side != 0).mean())

    @property
    def genes(self) -> int:
        """How many genes the known pairs have."""
        return len(np.unique(self.pairs))


def recall_relations(
    x: np.ndarray, pairs: np.ndarray, thresholds: tuple[float, float] = THRESHOLDS
) -> Recall:
    """Return how many known pairs lie beyond the thresholds of all pairs.

    Args:
        x: (G, D) one row a gene. A row of zeros has the cosine 0 with every other.
        pairs: (M, 2) int rows of `x`, no pair twice in either order, none of a gene with itself.
        thresholds: low and high share of all pairs.

    Raises:
        InputError: no pair, less than three genes, or a value that is not finite.
    """
    unit, pairs = _checked(x, pairs)
    every, cosine = _cosines(unit, pairs)
    every.sort()
    fewest, most = thresholds
    low = every[int(np.floor(fewest * len(every) + 1e-9))]
    high = every[int(np.ceil(most * len(every) - 1e-9)) - 1]
    side = (cosine > high).astype(int) - (cosine < low).astype(int)
    rank = np.searchsorted(every, cosine, side="left") / len(every)
    intervals = gene_interval(side != 0, pairs), part_interval(side != 0, pairs)
    return Recall(pairs, cosine, rank, side, (float(low), float(high)), *intervals)


def exchanged_recalls(
    x: np.ndarray, recall: Recall, draws: int = EXCHANGES, seed: int = 0
) -> np.ndarray:
    """Return the recall of the same relations with the genes' names exchanged. (draws,) float64.

    All cosines stay, and so does the graph of the relations; what a gene's vector has to do with
    its name goes.
    """
    unit, shares = unit_vectors(x), np.empty(draws)
    rng = np.random.default_rng(seed)
    low, high = recall.cut
    for draw in range(draws):
        order = rng.permutation(len(unit))
        hits = 0
        for start in range(0, len(recall.pairs), _PAIRS):
            first, second = order[recall.pairs[start : start + _PAIRS]].T
            cosine = np.einsum("md,md->m", unit[first], unit[second]).round(_DIGITS)
            hits += int(((cosine < low) | (cosine > high)).sum())
        shares[draw] = hits / len(recall.pairs)
    return shares


def exchange_p(value: float, draws: np.ndarray) -> float:
    """Return the share of the draws, the value itself counted, that recall as much."""
    return float((1 + (draws >= value - 1e-12).sum()) / (1 + len(draws)))


def gene_interval(hit: np.ndarray, pairs: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of a share of pairs, for other genes of the same complexes.

    Pairs that share a gene are not independent, so the gene counts as one draw: its influence is
    the sum of the deviations of its pairs. Each pair is then counted at both of its genes; what is
    counted twice is taken off the variance again, as in the dyadic-robust variance of Aronow, Samii
    & Assenova (Political Analysis 23, 2015), which is never taken below that of independent pairs.

    Args:
        hit: (M,) bool.
        pairs: (M, 2) int.

    Returns:
        (low, high); NaN with fewer than `LEAST_UNITS` genes.
    """
    hit = np.asarray(hit, np.float64)
    genes, codes = np.unique(pairs, return_inverse=True)
    if len(genes) < LEAST_UNITS:
        return NO_INTERVAL
    deviation, codes = (hit - hit.mean()) / len(hit), codes.ravel()
    share = np.bincount(codes) / len(codes)
    influence = np.bincount(codes, weights=np.repeat(deviation, 2))
    by_gene, by_pair = float((influence**2).sum()), float((deviation**2).sum())
    if by_gene > 0:
        influence *= np.sqrt(max(by_gene - by_pair, by_pair) / by_gene)
    return influence_interval(float(hit.mean()), influence, share, bounded=True)


def part_interval(hit: np.ndarray, pairs: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of a share of pairs, for other complexes.

    The unit is a connected part of the graph of the relations. Published graphs are mostly one
    part, and then there is no such interval.

    Returns:
        (low, high); NaN with fewer than `LEAST_PARTS` parts, or one with most of the pairs.
    """
    genes, codes = np.unique(pairs, return_inverse=True)
    codes = codes.reshape(pairs.shape)
    edges = coo_array((np.ones(len(codes)), codes.T), shape=(len(genes), len(genes)))
    count, part = connected_components(edges, directed=False)
    part = part[codes[:, 0]]
    if count < LEAST_PARTS or np.bincount(part).max() > len(part) / 2:
        return NO_INTERVAL
    return mean_interval(hit, part)


def _checked(x: np.ndarray, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, pairs = np.asarray(x, np.float64), np.asarray(pairs, np.int64).reshape(-1, 2)
    if len(x) < LEAST_UNITS:
        raise InputError(f"relations: {len(x)} genes; at least {LEAST_UNITS} are needed")
    if not len(pairs):
        raise InputError("relations: no known pair has both genes among the profiles")
    if not np.isfinite(x).all():
        raise InputError("relations: a gene has a value that is not a finite number")
    pairs = np.sort(pairs, axis=1)
    assert (pairs[:, 0] < pairs[:, 1]).all() and len(np.unique(pairs, axis=0)) == len(pairs)
    return unit_vectors(x), pairs


def _cosines(unit: np.ndarray, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cosines of all pairs, (G (G - 1) / 2,), in an order that does not matter; the known."""
    count = len(unit)
    every, known, done = np.empty(count * (count - 1) // 2), np.empty(len(pairs)), 0
    for start in range(0, count, _BLOCK):
        block = (unit[start : start + _BLOCK] @ unit[start:].T).round(_DIGITS)
        rows, columns = np.triu_indices(len(block), 1, block.shape[1])
        every[done : done + len(rows)] = block[rows, columns]
        done += len(rows)
        here = (pairs[:, 0] >= start) & (pairs[:, 0] < start + _BLOCK)
        known[here] = block[pairs[here, 0] - start, pairs[here, 1] - start]
    return every, known

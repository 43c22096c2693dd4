"""How often the intervals of the recall of gene relations hold the truth, by simulation.

A gene's profile is what its complex does, what it does alone, both by the strength of its
knock-down, and noise. Half of the genes belong to complexes. How alike the genes of a complex are
differs from complex to complex.
"""

from dataclasses import dataclass

import numpy as np

from cellsignal.evaluation.gene_relations import recall_relations

DIMENSIONS = 32
IN_COMPLEXES = 0.5  # share of the genes
SIZES, GENES = (2, 4, 10, 30), (60, 200)
FEWEST = 3  # complexes


@dataclass(frozen=True)
class Case:
    """What is drawn anew in each simulation.

    Attributes:
        same: genes of the same complexes; else other complexes.
        size: genes of a complex (of the same complexes: on average).
        genes: of the map.
    """

    same: bool
    size: int
    genes: int

    @property
    def complexes(self) -> int:
        """How many complexes there are."""
        return int(self.genes * IN_COMPLEXES / self.size)


@dataclass(frozen=True)
class Coverage:
    """How often the intervals held the truth.

    Attributes:
        truth: recall of all simulations together.
        pairs: mean number of known pairs.
        over_genes, over_parts: share of the intervals that hold the truth; NaN without any.
        width: median width of the interval over genes.
    """

    case: Case
    truth: float
    pairs: float
    over_genes: float
    over_parts: float
    width: float


def cases() -> list[Case]:
    """All cases with enough complexes."""
    every = [Case(same, size, n) for same in (True, False) for size in SIZES for n in GENES]
    return [case for case in every if case.complexes >= FEWEST]


def measure(case: Case, simulations: int, seed: int) -> Coverage:
    """Simulate one case."""
    rng = np.random.default_rng((seed, case.same, case.size, case.genes))
    centres = _complexes(rng, case.complexes)
    hits, ends = [], []
    for _ in range(simulations):
        if not case.same:
            centres = _complexes(rng, case.complexes)
        x, pairs = _draw(rng, case, *centres)
        if len(pairs) < FEWEST:
            continue
        recall = recall_relations(x, pairs)
        hits.append((int((recall.side != 0).sum()), len(pairs)))
        ends.append((*recall.over_genes, *recall.over_parts))
    right, total = np.array(hits).sum(axis=0)
    truth, bounds = right / total, np.array(ends)
    held = [_held(bounds[:, :2], truth), _held(bounds[:, 2:], truth)]
    width = float(np.nanmedian(bounds[:, 1] - bounds[:, 0]))
    return Coverage(case, float(truth), float(total / len(hits)), *held, width)


def _complexes(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """What each complex does, (C, D), and how alike its genes are, (C,)."""
    return rng.normal(size=(count, DIMENSIONS)), rng.beta(1.0, 1.5, size=count)


def _draw(
    rng: np.random.Generator, case: Case, centre: np.ndarray, alike: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A map (G, D), and the pairs of genes of one complex (M, 2)."""
    member = np.full(case.genes, -1)
    if case.same:
        inside = rng.random(case.genes) < IN_COMPLEXES
        member[inside] = rng.integers(0, case.complexes, inside.sum())
    else:
        count = case.complexes * case.size
        member[:count] = np.repeat(np.arange(case.complexes), case.size)
    x = rng.normal(size=(case.genes, DIMENSIONS))
    inside = member >= 0
    share = alike[member[inside], None]
    x[inside] = np.sqrt(share) * centre[member[inside]] + np.sqrt(1 - share) * x[inside]
    x *= rng.gamma(2.0, 1.0, size=(case.genes, 1))
    x += rng.normal(size=x.shape)
    first, second = np.triu_indices(case.genes, 1)
    known = inside[first] & (member[first] == member[second])
    return x, np.stack([first[known], second[known]], axis=1)


def _held(bounds: np.ndarray, truth: float) -> float:
    given = np.isfinite(bounds).all(axis=1)
    if not given.any():
        return float("nan")
    low, high = bounds[given].T
    return float(((low <= truth) & (truth <= high)).mean())

"""Test whether the replicates of a perturbation resemble each other more than random wells do.

Source: the perturbation consistency of EFAAR's benchmark (Celik et al., PLOS Comput Biol 2024; the
package `efaar_benchmarking`). The mean cosine of all pairs of a perturbation's wells is compared
with that of random sets of wells, each of as many wells from each batch. The p value is one-sided,
with the set itself counted: (1 + sets that are as alike) / (1 + sets). The published one leaves the
1 out, so that it can be 0.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.ties import unit_vectors
from cellsignal.evaluation.map_defaults import SETS

LEAST_SETS = 20
_BLOCK = 2_000_000  # numbers of profiles gathered at a time


def replicate_consistency(
    x: np.ndarray,
    perturbation: Sequence[str],
    batch: Sequence[str],
    null: Iterable[str] | None = None,
    sets: int = SETS,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare each perturbation's replicates with random sets of wells.

    Args:
        x: (W, D) profiles of treated wells.
        perturbation, batch: of each well.
        null: perturbations known to do nothing (genes that are not expressed); their mean cosines
            are then the null, in place of random sets, and they are not tested.
        sets: random sets for each composition of batches.

    Returns:
        A row a perturbation of two wells or more, sorted: perturbation, wells, cosine, p, and q by
        Benjamini & Hochberg.

    Raises:
        InputError: no perturbation has two wells, or too few sets.
    """
    if sets < LEAST_SETS:
        raise InputError(f"--sets {sets}: at least {LEAST_SETS}; of fewer no p is below .05")
    unit, names = unit_vectors(x), np.asarray(perturbation, object)
    groups = {name: rows for name, rows in _groups(names).items() if len(rows) > 1}
    if not groups:
        raise InputError("consistency: no perturbation has two wells")
    if null is not None:
        table = _against_null(unit, groups, set(null))
    else:
        table = _against_sets(unit, groups, np.asarray(batch, object), sets, seed)
    from scipy.stats import false_discovery_control

    frame = pd.DataFrame(table, columns=["perturbation", "wells", "cosine", "p"])
    return frame.assign(q=false_discovery_control(frame.p))


def mean_cosine(total: np.ndarray, wells: int) -> np.ndarray:
    """Return the mean cosine of all pairs of unit vectors from their sum.

    Args:
        total: (..., D) sum of `wells` unit vectors.
    """
    return ((total**2).sum(-1) - wells) / (wells * (wells - 1))


def _groups(names: np.ndarray) -> dict[str, np.ndarray]:
    return {str(name): rows for name, rows in pd.Series(names).groupby(names).indices.items()}


def _against_null(unit: np.ndarray, groups: dict[str, np.ndarray], null: set[str]) -> list[tuple]:
    cosine = {
        name: float(mean_cosine(unit[rows].sum(0), len(rows))) for name, rows in groups.items()
    }
    drawn = np.array([value for name, value in cosine.items() if name in null])
    if len(drawn) < LEAST_SETS:
        raise InputError(
            f"consistency: {len(drawn)} perturbations of the null have two wells; at least "
            f"{LEAST_SETS} are needed, of fewer no p is below .05"
        )
    tested = [name for name in groups if name not in null]
    if not tested:
        raise InputError("consistency: all perturbations belong to the null")
    return [(n, len(groups[n]), cosine[n], _p(cosine[n], drawn)) for n in tested]


def _against_sets(
    unit: np.ndarray, groups: dict[str, np.ndarray], batch: np.ndarray, sets: int, seed: int
) -> list[tuple]:
    batches = _groups(batch)
    by_composition: dict[tuple, list[str]] = {}
    for name, rows in groups.items():
        counts = pd.Series(batch[rows]).value_counts().sort_index()
        by_composition.setdefault(tuple(counts.items()), []).append(name)
    table = []
    for number, (composition, names) in enumerate(by_composition.items()):
        rng = np.random.default_rng((seed, number))
        drawn = _random_cosines(unit, batches, composition, sets, rng)
        for name in names:
            rows = groups[name]
            value = float(mean_cosine(unit[rows].sum(0), len(rows)))
            table.append((name, len(rows), value, _p(value, drawn)))
    return sorted(table)


def _random_cosines(
    unit: np.ndarray,
    batches: dict[str, np.ndarray],
    composition: tuple[tuple[str, int], ...],
    sets: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """The mean cosine of `sets` random sets with so many wells of each batch."""
    chosen = np.hstack(
        [_draw_rows(batches[str(name)], int(count), sets, rng) for name, count in composition]
    )
    wells = chosen.shape[1]
    step = max(1, _BLOCK // (wells * unit.shape[1]))
    sums = [unit[chosen[i : i + step]].sum(1) for i in range(0, sets, step)]
    return mean_cosine(np.concatenate(sums), wells)


def _draw_rows(rows: np.ndarray, count: int, sets: int, rng: np.random.Generator) -> np.ndarray:
    """(sets, count) of the rows, none twice in a set."""
    if count > len(rows) // 2:
        return rows[rng.random((sets, len(rows))).argsort(axis=1)[:, :count]]
    drawn = rng.integers(0, len(rows), (sets, count))
    while True:  # draw a set anew that holds a row twice
        ordered = np.sort(drawn, axis=1)
        twice = np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=1))
        if not len(twice):
            return rows[drawn]
        drawn[twice] = rng.integers(0, len(rows), (len(twice), count))


def _p(value: float, drawn: np.ndarray) -> float:
    return float((1 + (drawn >= value - 1e-12).sum()) / (1 + len(drawn)))

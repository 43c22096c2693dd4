"""Measure whether profiles of one perturbation retrieve each other: CPJUMP1's three tasks.

Source: Chandrasekaran et al., Nat Methods 21:1114, 2024, by copairs. A query ranks its positives
and negatives by cosine; its average precision (AP) is averaged over the queries of a group (a
treatment, a target): mAP. What profiles cannot separate (equal cosines, profiles of zeros) counts
as a random order: AP is its mean over the orders of ties.

- Replicates: wells of a treatment against the negative controls of their own plates.
- Targets: median profiles of treatments that share a target against those that share none, within a
  modality.
- Compound and gene: the same between two modalities.

mAP alone says little: with many positives and few negatives a random order scores high too. So each
figure stands beside the AP expected of a random order (exact, see `expected_ap`), and the share of
groups that beat a permutation null with q < .05 (Benjamini-Hochberg), "fraction retrieved". There
are two such figures, which must not be set side by side (`retrieval_null`): copairs' holds a
group's mAP against the mean of random orders of all its queries at once; the published one gives
each query a p value (random orders with a strictly greater AP) and takes the mean of -log10 p over
the group's queries. On four real plates of CPJUMP1 they are 187/306 and 203/306 of the same AP.

Replicates often stand in one position of every plate, so each task has two controls: the same task
with profiles that say nothing but the position (`baselines`), and how often negative
controls in one position retrieve each other (`controls_by_position`).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.ties import (
    CHORD_TOLERANCE,
    chord,
    expected_average_precision,
    has_mixed_tie,
    unit_vectors,
)
from cellsignal.evaluation.retrieval_null import DEFAULT_NULL, THRESHOLD, Null
from cellsignal.metrics.accuracy import Accuracy

Task = Literal["replicates", "targets", "compound_gene"]
TASKS: tuple[Task, ...] = ("replicates", "targets", "compound_gene")
_BLOCK = 256  # queries whose cosines to all rows are in memory at a time


@dataclass(frozen=True)
class Retrieval:
    """What a task scores.

    Attributes:
        table: one row a group, sorted: group, queries, positives and negatives (means over the
            queries), mean_average_precision, random (expected of a random order), gain (the
            difference), p_value, q_value, retrieved.
        mean_average_precision, random, gain: means over the groups.
        retrieved: groups with q < .05, with Wilson's interval. Groups may share wells: the interval
            takes them as independent.
        tied: queries with a positive and a negative at one distance, whose order counts as random.
        queries: how many queries there are.
    """

    table: pd.DataFrame
    mean_average_precision: float
    random: float
    gain: float
    retrieved: Accuracy
    tied: int
    queries: int


@dataclass(frozen=True)
class _Query:
    """One query: `row` ranks `positives` among `negatives`; its AP counts for `group`."""

    row: int
    group: str
    positives: np.ndarray
    negatives: np.ndarray


# the tasks
# --------------------------------------------------------------------------------------------------


def replicate_retrieval(
    x: np.ndarray, wells: pd.DataFrame, null: Null = DEFAULT_NULL, other_positions: bool = False
) -> Retrieval:
    """Rank for each well the other wells of its treatment among its plate's negative controls.

    Args:
        x: (W, D) one row a well.
        wells: W rows with experiment, plate, role and treatment. Negative controls are never a
            group; rows without treatment are left out. With `other_positions` also well.
        other_positions: rank only the treatment's wells in other positions.

    Raises:
        InputError: no treatment has two wells, or a query's plate has no negative control (the
            plate is named), or a profile is not finite.
    """
    control = (wells.role == "negative_control").to_numpy()
    keep = control | wells.treatment.notna().to_numpy()
    x, wells, control = np.asarray(x)[keep], wells[keep], control[keep]
    plate = _plate_codes(wells)
    bare = ~np.isin(plate, plate[control])
    if bare.any():
        row = wells.iloc[int(bare.argmax())]
        raise InputError(
            f"replicates: plate {row.plate} of experiment {row.experiment} has no negative "
            "control to rank against"
        )
    treated = np.flatnonzero(~control)
    controls = {code: np.flatnonzero(control & (plate == code)) for code in np.unique(plate)}
    treatment = wells.treatment.to_numpy(object)
    position = wells.well.to_numpy(object) if other_positions else treatment
    wells_of = wells[~control].groupby("treatment").indices
    queries = []
    for row in treated:
        same = treated[wells_of[treatment[row]]]
        if other_positions:
            same = same[position[same] != position[row]]
        queries.append(_Query(row, treatment[row], same[same != row], controls[plate[row]]))
    return _retrieve("replicates", x, queries, null)


def controls_by_position(
    x: np.ndarray, wells: pd.DataFrame, null: Null = DEFAULT_NULL
) -> Retrieval:
    """Rank for each negative control those in its position on other plates; retrieved is position.

    Negatives are the controls in other positions of its own plate.

    Args:
        x: (W, D) one row a well.
        wells: W rows with experiment, plate, well and role.

    Raises:
        InputError: no position holds a control on two plates, or no plate has two controls; see
            also `replicate_retrieval`.
    """
    control = (wells.role == "negative_control").to_numpy()
    position = wells.well[control].to_numpy(object)
    plate = _plate_codes(wells[control])
    queries = []
    for row in range(len(position)):
        same_position, same_plate = position == position[row], plate == plate[row]
        positives = np.flatnonzero(same_position & ~same_plate)
        negatives = np.flatnonzero(~same_position & same_plate)
        queries.append(_Query(row, position[row], positives, negatives))
    return _retrieve("controls by position", np.asarray(x)[control], queries, null)


def target_matching(
    x: np.ndarray, targets: Sequence[tuple[str, ...]], null: Null = DEFAULT_NULL
) -> Retrieval:
    """Rank profiles that share a target among those that share none; a group is a target.

    A profile with several targets queries for each.

    Args:
        x: (T, D) one row a treatment of one modality, median over its wells.
        targets: gene symbols of each; a profile without any is a negative of all others.

    Raises:
        InputError: no two profiles share a target, or all do.
    """
    compared = ~np.eye(len(targets), dtype=bool)
    queries = _target_queries("targets", targets, compared)
    return _retrieve("targets", np.asarray(x), queries, null)


def compound_gene_matching(
    x: np.ndarray,
    targets: Sequence[tuple[str, ...]],
    modality: Sequence[str],
    null: Null = DEFAULT_NULL,
) -> Retrieval:
    """Match targets between two modalities: compounds rank genes and genes compounds.

    Profiles of one modality are never compared.

    Args:
        modality: of each row of x, two kinds in all. The others as in `target_matching`.

    Raises:
        InputError: as in `target_matching`, or there are not two modalities.
    """
    kinds = sorted(set(modality))
    if len(kinds) != 2:
        raise InputError(
            f"compound and gene: two modalities needed, got {', '.join(kinds) or 'none'}"
        )
    modality = np.asarray(modality, object)
    compared = modality[:, None] != modality[None, :]
    queries = _target_queries("compound and gene", targets, compared)
    return _retrieve("compound and gene", np.asarray(x), queries, null)


def _plate_codes(wells: pd.DataFrame) -> np.ndarray:
    return wells.groupby(["experiment", "plate"], sort=False).ngroup().to_numpy()


def _target_queries(
    task: str, targets: Sequence[tuple[str, ...]], compared: np.ndarray
) -> list[_Query]:
    """Make a query per profile and target: profiles that share it against those that do not.

    Args:
        compared: (T, T) bool, the profiles that each one is compared with.
    """
    names = sorted(set().union(*targets))
    has = np.array([[name in genes for name in names] for genes in targets], bool)
    has = has.reshape(len(targets), len(names))
    queries = []
    for row, genes in enumerate(targets):
        shares = has[:, has[row]].any(axis=1)
        others = compared[row]
        if others.any() and shares[others].all():
            raise InputError(
                f"{task}: every profile shares a target with profile {row + 1} "
                f"({', '.join(sorted(set(genes)))}); there is nothing to rank it against"
            )
        negatives = np.flatnonzero(others & ~shares)
        for column in np.flatnonzero(has[row]):
            positives = np.flatnonzero(others & has[:, column])
            queries.append(_Query(row, names[column], positives, negatives))
    return queries


# scores
# --------------------------------------------------------------------------------------------------


def expected_ap(positives: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Return the AP expected of a random order of `total` items, `positives` of them relevant.

    ((M - 1) / (L - 1) (L - H) + H) / L, H the L-th harmonic number: rank k holds a positive with
    probability M / L, and the precision there is then 1 / k (1 + (k - 1)(M - 1) / (L - 1)) on
    average; the sum over k / M.
    """
    m, length = np.asarray(positives, float), np.asarray(total, int)
    sums = np.cumsum(1 / np.arange(1, length.max(initial=0) + 1))
    harmonic = np.concatenate([[0], sums])[length]
    return ((m - 1) / np.maximum(length - 1, 1) * (length - harmonic) + harmonic) / length


def _retrieve(task: str, x: np.ndarray, queries: Iterable[_Query], null: Null) -> Retrieval:
    """AP of every query, and mAP, p and q of every group."""
    bad = ~np.isfinite(x).all(axis=1)
    if bad.any():
        raise InputError(f"{task}: profile {int(bad.argmax()) + 1} of {len(x)} is not finite")
    queries = [query for query in queries if len(query.positives)]
    if not queries:
        raise InputError(f"{task}: unable to find positive pairs among {len(x)} profiles")
    queries = [query for query in queries if len(query.negatives)]
    if not queries:
        raise InputError(f"{task}: no profile has both positives and negatives among {len(x)}")
    rows = []
    for query, cosine in _cosines(unit_vectors(x), queries):
        ranked = np.concatenate([query.positives, query.negatives])
        positive = np.arange(len(ranked)) < len(query.positives)
        distance = chord(cosine[ranked])
        precision = expected_average_precision(distance, positive, CHORD_TOLERANCE)
        tied = has_mixed_tie(distance, positive, CHORD_TOLERANCE)
        rows.append((query.group, precision, len(query.positives), len(ranked), tied))
    columns = ["group", "average_precision", "n_pos_pairs", "n_total_pairs", "tied"]
    return _summarise(pd.DataFrame(rows, columns=columns), null)


def _cosines(unit: np.ndarray, queries: Sequence[_Query]) -> Iterator[tuple[_Query, np.ndarray]]:
    """Yield each query with the cosines (W,) of its row to all rows, a block at a time."""
    for start in range(0, len(queries), _BLOCK):
        block = queries[start : start + _BLOCK]
        rows, place = np.unique([query.row for query in block], return_inverse=True)
        cosines = unit[rows] @ unit.T
        yield from zip(block, cosines[place], strict=True)


def _summarise(scores: pd.DataFrame, null: Null) -> Retrieval:
    tests = null.test(scores)
    scores = scores.assign(
        random=expected_ap(scores.n_pos_pairs, scores.n_total_pairs),
        negatives=scores.n_total_pairs - scores.n_pos_pairs,
    )
    table = scores.groupby("group").agg(
        queries=("random", "size"),
        positives=("n_pos_pairs", "mean"),
        negatives=("negatives", "mean"),
        random=("random", "mean"),
    )
    table = table.join(tests).sort_index().rename_axis("group").reset_index()
    table["gain"] = table.mean_average_precision - table.random
    table["retrieved"] = table.q_value < THRESHOLD
    mean, random = float(table.mean_average_precision.mean()), float(table.random.mean())
    retrieved = Accuracy.of(int(table.retrieved.sum()), len(table))
    tied = int(scores.tied.sum())
    return Retrieval(table, mean, random, mean - random, retrieved, tied, len(scores))

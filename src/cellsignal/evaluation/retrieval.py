"""Do profiles of one perturbation find each other? CPJUMP1's three tasks (Chandrasekaran et al.,
Nat Methods 21:1114, 2024), by copairs.

A query ranks its positives and negatives by cosine; its average precision (AP) is averaged over the
queries of a group (a treatment, a target): mAP. What profiles cannot tell apart (equal cosines,
profiles of zeros) counts as a random order: AP is its mean over the orders of ties.
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
Beside them stand two controls, since replicates often stand in one position of every plate: the
same task with profiles that say nothing but the position (`position_profiles`), and how often
negative controls in one position retrieve each other (`controls_by_position`).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

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
from cellsignal.evaluation.matching import treatment_profiles
from cellsignal.evaluation.retrieval_null import DEFAULT_NULL, THRESHOLD, Null
from cellsignal.metrics.accuracy import Accuracy

Task = Literal["replicates", "targets", "compound_gene"]
TASKS: tuple[Task, ...] = ("replicates", "targets", "compound_gene")
_WELL = r"^([A-Z]{1,2})(\d{1,2})$"


@dataclass(frozen=True)
class Retrieval:
    """What a task found.

    Attributes:
        table: one row a group, sorted: group, queries, positives and negatives (means over the
        queries), mean_average_precision, random (expected of a random
            order), gain (the difference), p_value, q_value, retrieved.
        mean_average_precision, random, gain: means over the groups.
        retrieved: groups with q < .05, with Wilson's interval. Groups may share wells: the interval
        takes them as independent. tied: queries with a positive and a negative at one distance,
        whose order counts as random. queries: how many queries there are.
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
    """Row `row` ranks the rows `positives` among the rows `negatives`; its AP counts for `group`."""

    row: int
    group: str
    positives: np.ndarray
    negatives: np.ndarray


def replicate_retrieval(x: np.ndarray, wells: pd.DataFrame, null: Null = DEFAULT_NULL) -> Retrieval:
    """Each well ranks the other wells of its treatment (on any plate) among the negative controls
    of its own plate.

    Args:
        x: (W, D) one row a well.
        wells: W rows with experiment, plate, role and treatment. Negative controls are never a
        group; rows without treatment are left out.

    Raises:
        InputError: no treatment has two wells, or a query's plate has no negative control (the
        plate is named), or a profile is not finite.
    """
    control = (wells.role == "negative_control").to_numpy()
    keep = control | wells.treatment.notna().to_numpy()
    x, wells, control = np.asarray(x)[keep], wells[keep], control[keep]
    plate = wells.groupby(["experiment", "plate"], sort=False).ngroup().to_numpy()
    bare = ~np.isin(plate, plate[control])
    if bare.any():
        row = wells.iloc[int(bare.argmax())]
        raise InputError(
            f"replicates: plate {row.plate} of experiment {row.experiment} has no negative "
            "control to rank against"
        )
    treatment = wells.treatment.to_numpy(object)
    treated = np.flatnonzero(~control)
    replicates = {
        name: treated[rows] for name, rows in wells[~control].groupby("treatment").indices.items()
    }
    controls = {number: np.flatnonzero(control & (plate == number)) for number in np.unique(plate)}
    queries = []
    for row in treated:
        positives = replicates[treatment[row]]
        queries.append(
            _Query(row, treatment[row], positives[positives != row], controls[plate[row]])
        )
    return _retrieve("replicates", x, queries, null)


def controls_by_position(
    x: np.ndarray, wells: pd.DataFrame, null: Null = DEFAULT_NULL
) -> Retrieval:
    """Negative controls alone: a well ranks those in its own position on other plates among those
    elsewhere on its own plate. What is retrieved is position.

    Args:
        x: (W, D) one row a well.
        wells: W rows with experiment, plate, well and role.

    Raises:
        InputError: no position holds a control on two plates, or no plate has two controls; see
        also `replicate_retrieval`.
    """
    control = (wells.role == "negative_control").to_numpy()
    wells = wells[control]
    position = wells.well.to_numpy(object)
    plate = wells.groupby(["experiment", "plate"]).ngroup().to_numpy()
    queries = [
        _Query(
            row,
            position[row],
            np.flatnonzero((position == position[row]) & (plate != plate[row])),
            np.flatnonzero((position != position[row]) & (plate == plate[row])),
        )
        for row in range(len(wells))
    ]
    return _retrieve("controls by position", np.asarray(x)[control], queries, null)


def target_matching(
    x: np.ndarray, targets: Sequence[tuple[str, ...]], null: Null = DEFAULT_NULL
) -> Retrieval:
    """Profiles that share a target rank each other among those that share none. A group is a
    target; a profile with several targets queries for each.

    Args:
        x: (T, D) one row a treatment of one modality, median over its wells.
        targets: gene symbols of each; a profile without any is a negative of all others.

    Raises:
        InputError: no two profiles share a target, or all do.
    """
    return _retrieve("targets", np.asarray(x), _target_queries("targets", targets, None), null)


def compound_gene_matching(
    x: np.ndarray,
    targets: Sequence[tuple[str, ...]],
    modality: Sequence[str],
    null: Null = DEFAULT_NULL,
) -> Retrieval:
    """As `target_matching` between two modalities: compounds rank genes and genes compounds;
    profiles of one modality are never compared.

    Args:
        modality: of each row of x, two kinds in all.

    Raises:
        InputError: as in `target_matching`, or there are not two modalities.
    """
    if len(set(modality)) != 2:
        raise InputError(
            "compound and gene: two modalities needed, got "
            f"{', '.join(sorted(set(modality))) or 'none'}"
        )
    return _retrieve(
        "compound and gene",
        np.asarray(x),
        _target_queries("compound and gene", targets, modality),
        null,
    )


def position_profiles(wells: pd.DataFrame) -> np.ndarray:
    """Profiles of nothing but the position: row and column of the plate, one-hot. (W, D) float32.

    Raises:
        InputError: an address that is no plate position such as C07.
    """
    found = wells.well.astype(str).str.upper().str.extract(_WELL)
    wrong = found.isna().any(axis=1)
    if wrong.any():
        raise InputError(f"position: well {wells.well[wrong].iloc[0]!r} is no address such as C07")
    return np.hstack(
        [pd.get_dummies(column).to_numpy(np.float32) for column in (found[0], found[1].astype(int))]
    )


def expected_ap(positives: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Expected AP of a random order of `total` items, `positives` of them relevant: ((M - 1) / (L -
    1) (L - H) + H) / L, H the L-th harmonic number.

    Rank k holds a positive with probability M / L, and the precision there is then 1 / k (1 + (k -
    1)(M - 1) / (L - 1)) on average; the sum over k / M.
    """
    m, length = np.asarray(positives, float), np.asarray(total, int)
    harmonic = np.concatenate([[0], np.cumsum(1 / np.arange(1, length.max(initial=0) + 1))])[length]
    return ((m - 1) / np.maximum(length - 1, 1) * (length - harmonic) + harmonic) / length


@dataclass(frozen=True)
class Measured:
    """One figure of a data set.

    Attributes:
        where: the values of the columns it was measured within, and the modality.
        task: "replicates", "targets" or "compound_gene".
        profiles: what the profiles are of, as `measure` was told; "position only", the same task
        with `position_profiles`; or "controls by position". found: the figure, or why there is
        none.
    """

    where: str
    task: Task
    profiles: str
    found: Retrieval | InputError


def measure(
    x: np.ndarray,
    wells: pd.DataFrame,
    tasks: Sequence[Task] = TASKS,
    null: Null = DEFAULT_NULL,
    within: Sequence[str] = ("cell_type",),
    replicable: bool = True,
    label: str = "images",
) -> Iterator[Measured]:
    """The tasks, each with its position-only baseline, within each modality and each value of the
    columns `within`.

    Args:
        wells: W rows as in `replicate_retrieval`, with well_id, well, compound, targets and
        modality (None where unknown). label: what the profiles are of, for the rows made from them.
        replicable: the other tasks take the treatments whose replicates were retrieved (q < .05),
        as published; for the baseline the same ones.
    """
    x = np.asarray(x)
    kinds = {label: x, "position only": position_profiles(wells)}
    for name, rows in (
        wells.groupby(list(within)).indices if within else {"all wells": np.arange(len(wells))}
    ).items():
        medians: dict[str | None, dict[str, tuple[np.ndarray, pd.DataFrame]]] = {}
        # pandas gives one column's name bare
        place = ", ".join(map(str, name if isinstance(name, tuple) else (name,)))
        for modality, chosen in _modalities(wells.iloc[rows]):
            here, part = rows[chosen], wells.iloc[rows[chosen]].reset_index(drop=True)
            where = place if modality is None else f"{place}, {modality}"
            found = {
                kind: _attempt(replicate_retrieval, values[here], part, null)
                for kind, values in kinds.items()
            }
            if "replicates" in tasks:
                yield from (Measured(where, "replicates", kind, one) for kind, one in found.items())
                yield Measured(
                    where,
                    "replicates",
                    "controls by position",
                    _attempt(controls_by_position, x[here], part, null),
                )
            kept = (part.role != "negative_control").to_numpy() & part.treatment.notna().to_numpy()
            if replicable:
                table = found[label].table if isinstance(found[label], Retrieval) else None
                kept &= part.treatment.isin(
                    [] if table is None else table.group[table.retrieved]
                ).to_numpy()
            if kept.any():
                medians[modality] = {
                    kind: _consensus(values[here][kept], part[kept])
                    for kind, values in kinds.items()
                }
            if "targets" in tasks:
                for kind in kinds:
                    yield Measured(
                        where, "targets", kind, _matched(medians, [modality], kind, null)
                    )
        for gene in ("crispr", "orf"):
            if "compound_gene" in tasks and gene in set(wells.modality.iloc[rows]):
                for kind in kinds:
                    yield Measured(
                        f"{place}, compound and {gene}",
                        "compound_gene",
                        kind,
                        _matched(medians, ["compound", gene], kind, null),
                    )


def _modalities(wells: pd.DataFrame) -> Iterator[tuple[str | None, np.ndarray]]:
    """Each modality and the positions of its wells, with the negative controls of their plates;
    None and all where none is known.
    """
    control = (wells.role == "negative_control").to_numpy()
    plate = wells.groupby(["experiment", "plate"]).ngroup().to_numpy()
    known = wells.modality.where(~control)
    if known.isna().all():
        yield None, np.arange(len(wells))
    for modality in sorted(known.dropna().unique()):
        treated = (known == modality).to_numpy()
        yield modality, np.flatnonzero(treated | (control & np.isin(plate, plate[treated])))


def _consensus(x: np.ndarray, wells: pd.DataFrame) -> tuple[np.ndarray, pd.DataFrame]:
    """Median profiles of the treatments and what is known of each."""
    profiles, table = treatment_profiles(x, wells)
    return profiles, table[["treatment"]].merge(
        wells.drop_duplicates("treatment")[["treatment", "targets", "modality"]], on="treatment"
    )


def _matched(
    medians: dict, modalities: Sequence[str | None], kind: str, null: Null
) -> Retrieval | InputError:
    """Target matching within one modality, or between two."""
    if any(modality not in medians for modality in modalities):
        return InputError("no treatment whose replicates were retrieved")
    x = np.concatenate([medians[modality][kind][0] for modality in modalities])
    table = pd.concat([medians[modality][kind][1] for modality in modalities], ignore_index=True)
    targets = [genes if isinstance(genes, tuple | list) else () for genes in table.targets]
    if len(modalities) == 2:
        return _attempt(compound_gene_matching, x, targets, table.modality, null)
    return _attempt(target_matching, x, targets, null)


def _attempt(task: Callable[..., Retrieval], *arguments: Any) -> Retrieval | InputError:
    try:
        return task(*arguments)
    except InputError as error:
        return error


def _target_queries(
    task: str, targets: Sequence[tuple[str, ...]], modality: Sequence[str] | None
) -> list[_Query]:
    """A query for each profile and target: those that share the target against those that share
    none; of the other modality alone where there are two.
    """
    _check_negatives(task, targets, modality)
    sets = [frozenset(genes) for genes in targets]
    genes = sorted(set().union(*sets))
    holds = np.array([[gene in one for gene in genes] for one in sets], bool).reshape(
        len(sets), len(genes)
    )
    queries = []
    for row in range(len(sets)):
        compared = (
            np.arange(len(sets)) != row
            if modality is None
            else np.array([kind != modality[row] for kind in modality])
        )
        negatives = np.flatnonzero(compared & ~holds[:, holds[row]].any(axis=1))
        for number in np.flatnonzero(holds[row]):
            queries.append(
                _Query(row, genes[number], np.flatnonzero(compared & holds[:, number]), negatives)
            )
    return queries


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
    unit = unit_vectors(x)
    rows = []
    for query in queries:
        ranked = np.concatenate([query.positives, query.negatives])
        positive = np.arange(len(ranked)) < len(query.positives)
        distance = chord(unit[ranked] @ unit[query.row])
        precision = expected_average_precision(distance, positive, CHORD_TOLERANCE)
        tied = has_mixed_tie(distance, positive, CHORD_TOLERANCE)
        rows.append((query.group, precision, len(query.positives), len(ranked), tied))
    columns = ["group", "average_precision", "n_pos_pairs", "n_total_pairs", "tied"]
    scores = pd.DataFrame(rows, columns=columns)
    return _result(scores, null.test(scores))


def _check_negatives(
    task: str, targets: Sequence[tuple[str, ...]], modality: Sequence[str] | None
) -> None:
    """Refuse a query that shares a target with every other profile: genes of one label set may lack
    negatives in a small library.
    """
    sets = [frozenset(genes) for genes in targets]
    for a, mine in enumerate(sets):
        others = [
            b
            for b in range(len(sets))
            if b != a and (modality is None or modality[a] != modality[b])
        ]
        if others and all(mine & sets[b] for b in others):
            raise InputError(
                f"{task}: every profile shares a target with profile {a + 1} "
                f"({', '.join(sorted(mine))}); there is nothing to rank it against"
            )


def _result(scores: pd.DataFrame, found: pd.DataFrame) -> Retrieval:
    scores = scores.assign(
        random=expected_ap(scores.n_pos_pairs, scores.n_total_pairs),
        negatives=scores.n_total_pairs - scores.n_pos_pairs,
    )
    means = scores.groupby("group").agg(
        queries=("random", "size"),
        positives=("n_pos_pairs", "mean"),
        negatives=("negatives", "mean"),
        random=("random", "mean"),
    )
    table = means.join(found).sort_index().rename_axis("group").reset_index()
    table["gain"] = table.mean_average_precision - table.random
    table["retrieved"] = table.q_value < THRESHOLD
    mean, random = float(table.mean_average_precision.mean()), float(table.random.mean())
    retrieved = Accuracy.of(int(table.retrieved.sum()), len(table))
    return Retrieval(
        table, mean, random, mean - random, retrieved, int(scores.tied.sum()), len(scores)
    )

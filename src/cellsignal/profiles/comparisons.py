"""Compare well profiles: match mechanisms, retrieve replicates and targets, count treatments.

From profiles to the tables of the profile protocols, as text. The protocols themselves are in
`evaluation.matching`, `evaluation.retrieval` and `profiles.treatments`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.files import write_csv
from cellsignal.common.tables import aligned
from cellsignal.common.ties import duplicates_notes
from cellsignal.evaluation.baselines import SHUFFLED, baseline_profiles, shuffled_mechanisms
from cellsignal.evaluation.matching import (
    Matches,
    not_same_compound,
    not_same_compound_or_batch,
)
from cellsignal.evaluation.matching_text import match_text
from cellsignal.evaluation.retrieval import TASKS, Retrieval, Task
from cellsignal.evaluation.retrieval_null import NULL_SIZE, Null, NullKind
from cellsignal.evaluation.retrieval_tasks import Measured, measure
from cellsignal.profiles.batch_effects import Reference, Unit
from cellsignal.profiles.profile_steps import (
    Profiles,
    Step,
    choose_steps,
    normalise_profiles,
    steps_text,
)
from cellsignal.profiles.sources import COLUMNS

MATCH_STEPS: tuple[Step, ...] = ("tvn",)
RETRIEVE_STEPS: tuple[Step, ...] = ("mad_robustize", "feature_select", "spherize")
NO_GENES = "the profiles have no wells of crispr or orf treatments"
LEAST_NULL = 20  # random orders: of 19 the smallest p is .05
NULL_NOTES = {
    "copairs": "retrieved by copairs' null (a group's mAP against means of random orders); "
    "not the published fraction retrieved, which --null published gives",
    "published": "retrieved by the null of Chandrasekaran et al. 2024 (-log10 p of each well, "
    "mean over a group); "
    "comparable with the published fraction retrieved, not with copairs' (--null copairs)",
}
RETRIEVAL_HEADER = (
    *("where", "task", "profiles", "groups", "mAP", "random", "gain"),
    *("retrieved, q < .05", "of groups", "95 % interval"),
)
GAIN_NOTE = (
    "random: expected mAP of a random order; gain: mAP less that; position only, cell count only: "
    "the same task with profiles of nothing but row and column, or the number of cells; shuffled "
    "labels: with the treated wells of each plate exchanged"
)


def match_table(
    loaded: Profiles,
    normalise: Sequence[Step] | None = None,
    by: Unit = "plate",
    reference: Reference = "negative_controls",
    *,
    drop_variance: float = 0.0,
    position_reference: Reference = "all",
    out: Path | None = None,
) -> str:
    """Return NSC and NSCB of treatments beside the baselines, as text.

    Treatments that trained no network also get rows of their own.

    Args:
        loaded: see `sources`.
        normalise: None is `MATCH_STEPS`, or no step for profiles that say they are normalised.
        drop_variance, position_reference: see `normalise_profiles`.
        out: a CSV of every treatment of every row.

    Raises:
        InputError: no mechanism is known, nothing can be compared, or see `normalise_profiles`.
    """
    steps = choose_steps(loaded, normalise, MATCH_STEPS)
    profiles = normalise_profiles(loaded, steps, by, reference, drop_variance, position_reference)
    matches, notes = _matches(profiles.x, profiles.wells)
    empty = [match.protocol for match in matches if not match.table.candidates.any()]
    reason = "no treatment has another to be compared with"
    if len(empty) == len(matches):
        raise InputError(f"{' and '.join(empty)}: {reason}")
    matches = [match for match in matches if match.protocol not in empty]
    notes += [f"{protocol}: not given, {reason}" for protocol in empty]
    if profiles.trained:
        matches += _untrained_matches(matches, profiles.trained)
    baselines = _baseline_matches(profiles, {match.protocol for match in matches})
    if out is not None:
        named = [match.table.assign(protocol=match.protocol) for match in (*matches, *baselines)]
        write_csv(out, pd.concat(named, ignore_index=True))
    done = steps_text(loaded, steps, normalise is not None, by, reference)
    text = match_text(matches, baselines)
    return "\n".join([*head_lines(profiles, done), *notes, "", text])


def _matches(x: np.ndarray, wells: pd.DataFrame) -> tuple[list[Matches], list[str]]:
    """NSC, and NSCB or why there is none."""
    matches = [not_same_compound(x, wells)]
    try:
        return [*matches, not_same_compound_or_batch(x, wells)], []
    except InputError as error:  # all in one batch: NSC still stands
        return matches, [str(error)]


def _baseline_matches(profiles: Profiles, protocols: set[str]) -> list[Matches]:
    """The same protocols with profiles of position and of cell count, and shuffled mechanisms."""
    kinds = baseline_profiles(profiles.x, profiles.wells)
    data = {name: (x, profiles.wells) for name, x in kinds.items()}
    data[SHUFFLED] = (profiles.x, shuffled_mechanisms(profiles.wells))
    return [
        replace(match, protocol=f"{match.protocol}, {name}")
        for name, arrays in data.items()
        for match in _matches(*arrays)[0]
        if match.protocol in protocols
    ]


def _untrained_matches(matches: Iterable[Matches], trained: frozenset[str]) -> list[Matches]:
    """The same matches over the treatments that did not train the network."""
    alone = []
    for match in matches:
        untrained = [name for name in match.table.treatment if name not in trained]
        if untrained:
            alone.append(match.of(untrained, f"{match.protocol}, not trained on"))
    return alone


def retrieval_table(
    loaded: Profiles,
    tasks: Sequence[Task] | None = None,
    normalise: Sequence[Step] | None = None,
    by: Unit = "plate",
    reference: Reference = "negative_controls",
    null_size: int = NULL_SIZE,
    seed: int = 0,
    within: Sequence[str] = ("cell_type",),
    replicable: bool = True,
    out: Path | None = None,
    *,
    null: NullKind = "copairs",
    drop_variance: float = 0.0,
    position_reference: Reference = "all",
) -> str:
    """Return mAP of replicates, targets, compound and gene beside the baselines, as text.

    Args:
        loaded: see `sources`.
        tasks: None measures what the data set allows, and says what it does not.
        normalise: None is `RETRIEVE_STEPS`, or no step for profiles that say they are normalised.
        within: columns of the wells, such as cell_type; wells that differ are measured apart.
        replicable: match targets among treatments whose replicates were retrieved, as published.
        out: a CSV of every group of every row.
        null: see `evaluation.retrieval_null.Null`.
        drop_variance, position_reference: see `normalise_profiles`.

    Raises:
        InputError: a task cannot be measured, or see `normalise_profiles`.
    """
    if null_size < LEAST_NULL:
        reason = f"at least {LEAST_NULL}; of fewer random orders no p is below .05"
        raise InputError(f"--null-size {null_size}: {reason}")
    _check_within(loaded.wells, within)
    steps = choose_steps(loaded, normalise, RETRIEVE_STEPS)
    profiles = normalise_profiles(loaded, steps, by, reference, drop_variance, position_reference)
    data, label = (profiles.x, profiles.wells), profiles.label
    with TemporaryDirectory() as cache:
        orders = Null(null_size, seed, Path(cache), null)
        figures = list(measure(*data, tasks or TASKS, orders, within, replicable, label))
    lines, tables, notes = _retrieval_rows(figures, label, strict=tasks is not None)
    _refuse_unmeasured(set(tasks or ()), tables, notes)
    if out is not None:
        write_csv(out, pd.concat(tables, ignore_index=True))
    done = steps_text(loaded, steps, normalise is not None, by, reference)
    text = aligned(lines, right={3, 4, 5, 6, 7, 8})
    notes += [GAIN_NOTE, NULL_NOTES[null]]
    return "\n".join([*head_lines(profiles, done), "", text, "", *notes])


def _refuse_unmeasured(tasks: set[Task], tables: list[pd.DataFrame], notes: list[str]) -> None:
    """Refuse to go on where a task, or every one, has no figure."""
    unmeasured = tasks - {task for table in tables for task in table.task}
    if unmeasured or not tables:
        why = notes[0].replace(": not measured", "") if notes else NO_GENES
        raise InputError(f"{', '.join(sorted(unmeasured or TASKS))}: nothing was measured: {why}")


def _retrieval_rows(
    figures: Iterable[Measured], label: str, strict: bool
) -> tuple[list[tuple[str, ...]], list[pd.DataFrame], list[str]]:
    """Lines of the text, the groups of each line, and notes.

    With `strict`, a task that cannot be measured on the profiles themselves is an error.
    """
    lines: list[tuple[str, ...]] = [RETRIEVAL_HEADER]
    tables: list[pd.DataFrame] = []
    notes: list[str] = []
    for row in figures:
        result = row.result
        own_profiles = row.profiles == label
        if isinstance(result, InputError):
            if strict and own_profiles:
                raise result
            notes.append(f"{row.where}, {row.task}, {row.profiles}: not measured: {result}")
            continue
        lines.append((row.where, row.task, row.profiles, *_retrieval_cells(result)))
        if result.tied and own_profiles:
            notes.append(
                f"{row.where}, {row.task}: {result.tied} of {result.queries} queries have "
                "positives and negatives at one distance; their order counts as random"
            )
        tables.append(result.table.assign(where=row.where, task=row.task, profiles=row.profiles))
    return lines, tables, notes


def _retrieval_cells(result: Retrieval) -> tuple[str, ...]:
    share = result.retrieved
    return (
        f"{share.total}",
        f"{result.mean_average_precision:.3f}",
        f"{result.random:.3f}",
        f"{result.gain:+.3f}",
        f"{share.value:.3f}",
        f"{share.correct}/{share.total}",
        f"{share.low:.3f} .. {share.high:.3f}",
    )


def _check_within(wells: pd.DataFrame, within: Sequence[str]) -> None:
    """Refuse columns that do not exist, or that are empty for some wells."""
    for column in within:
        if column not in wells.columns:
            known = ", ".join(name for name in COLUMNS if name != "well_id")
            raise InputError(f"--within {column}: no such column of the wells; they have {known}")
        empty = wells[column].isna()
        if empty.any():
            raise InputError(
                f"--within {column}: is not known of {int(empty.sum())} of {len(wells)} wells, "
                f"first {wells.well_id[empty].iloc[0]!r}"
            )


def head_lines(profiles: Profiles, done: str) -> list[str]:
    """Write lines on the profiles of a table.

    Args:
        profiles: after normalisation.
        done: what was done to them, see `profile_steps.steps_text`.
    """
    shape = f"{len(profiles.wells):,} wells, {profiles.x.shape[1]} features of {profiles.files}"
    first = f"{profiles.data_set}: {shape}; {done}" if profiles.data_set else f"{shape}; {done}"
    return [first, *profiles.notes, *duplicates_notes(profiles.x, "wells")]

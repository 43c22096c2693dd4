"""Compare well profiles: match mechanisms, retrieve replicates and targets, count treatments.

From a config to the tables of the profile protocols, as text. The protocols themselves are in
`evaluation.matching`, `evaluation.retrieval` and `profiles.treatments`.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.files import write_csv
from cellsignal.common.tables import aligned
from cellsignal.common.ties import duplicates_notes, listed
from cellsignal.config import Config
from cellsignal.evaluation.matching import (
    Matches,
    match_text,
    not_same_compound,
    not_same_compound_or_batch,
)
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
from cellsignal.profiles.profile_tables import UNMATCHED
from cellsignal.profiles.sources import COLUMNS, Source, load_profiles, source_names
from cellsignal.profiles.treatments import predict_treatments, treatments_text

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
    "random: expected mAP of a random order; gain: mAP less that; position only: the same task "
    "with profiles of nothing but row and column"
)


def match_table(
    config: Config,
    source: Source = "plain",
    normalise: Sequence[Step] | None = None,
    by: Unit = "plate",
    reference: Reference = "negative_controls",
    *,
    features: Sequence[str] = (),
    unmatched: float = UNMATCHED,
) -> str:
    """Return NSC and NSCB of a data set's treatments as text.

    Treatments that trained no network also get rows of their own.

    Args:
        normalise: None is `MATCH_STEPS`, or no step for profiles that say they are normalised.

    Raises:
        InputError: the data set names no mechanisms, nothing can be compared, or see
            `load_profiles` and `normalise_profiles`.
    """
    loaded = load_profiles(config, source, features, unmatched)
    steps = choose_steps(loaded, normalise, MATCH_STEPS)
    profiles = normalise_profiles(loaded, steps, by, reference)
    matches, notes = [not_same_compound(profiles.x, profiles.wells)], []
    try:
        matches.append(not_same_compound_or_batch(profiles.x, profiles.wells))
    except InputError as error:  # all in one batch: NSC still stands
        notes.append(str(error))
    empty = [match.protocol for match in matches if not match.table.candidates.any()]
    reason = "no treatment has another to be compared with"
    if len(empty) == len(matches):
        raise InputError(f"{' and '.join(empty)}: {reason}")
    matches = [match for match in matches if match.protocol not in empty]
    notes += [f"{protocol}: not given, {reason}" for protocol in empty]
    if profiles.trained:
        matches += _untrained_matches(matches, profiles.trained)
    done = steps_text(loaded, steps, normalise is not None, by, reference)
    return "\n".join([*_head(config, profiles, source, done), *notes, "", match_text(matches)])


def _untrained_matches(matches: Iterable[Matches], trained: frozenset[str]) -> list[Matches]:
    """The same matches over the treatments that did not train the network."""
    alone = []
    for match in matches:
        untrained = [name for name in match.table.treatment if name not in trained]
        if untrained:
            alone.append(match.of(untrained, f"{match.protocol}, not trained on"))
    return alone


def retrieval_table(
    config: Config,
    source: Source = "plain",
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
    features: Sequence[str] = (),
    unmatched: float = UNMATCHED,
) -> str:
    """Return mAP of replicates, targets, compound and gene beside position alone, as text.

    Args:
        tasks: None measures what the data set allows, and says what it does not.
        normalise: None is `RETRIEVE_STEPS`, or no step for profiles that say they are normalised.
        within: columns of the wells, such as cell_type; wells that differ are measured apart.
        replicable: match targets among treatments whose replicates were retrieved, as published.
        out: a CSV of every group of every row.
        null: see `evaluation.retrieval_null.Null`.

    Raises:
        InputError: a task cannot be measured, or see `load_profiles` and `normalise_profiles`.
    """
    if null_size < LEAST_NULL:
        reason = f"at least {LEAST_NULL}; of fewer random orders no p is below .05"
        raise InputError(f"--null-size {null_size}: {reason}")
    loaded = load_profiles(config, source, features, unmatched)
    _check_within(loaded.wells, within)
    steps = choose_steps(loaded, normalise, RETRIEVE_STEPS)
    profiles = normalise_profiles(loaded, steps, by, reference)
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
    return "\n".join([*_head(config, profiles, source, done), "", text, "", *notes])


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


def treatment_table(config: Config) -> str:
    """Count the treatments that are right out of fold, as Kensert et al. do.

    Reads `<run folder>/predictions/*.npz`; views and repeated images are averaged first.

    Raises:
        InputError: no predictions, several labels a sample, or samples that name no treatment.
    """
    from cellsignal.prediction.entry import open_entry
    from cellsignal.prediction.freshness import config_predictions

    files = config_predictions(config, all_seeds=False)
    entry = open_entry(files, config.submit, root=config.data.root)
    entry.competition.task.require_one_label("treatments")
    parts = []
    for member in entry.final():
        rows = np.flatnonzero(member.ids["part"] == "oof")
        views = [member.logits(view)[rows].astype(np.float32) for view in member.views]
        mean = sum(entry.competition.task.probabilities(logits) for logits in views) / len(views)
        parts.append(pd.DataFrame(mean, index=member.ids["sample_id"][rows]))
    probabilities = pd.concat(parts).groupby(level=0, sort=True).mean()
    samples = entry.samples.set_index("sample_id")
    treated = samples[samples.label.notna() & (samples.role == "treatment")]
    if treated.treatment.isna().all():
        raise InputError(f"treatments: the samples of {entry.competition.id} name no treatment")
    counted = predict_treatments(probabilities.to_numpy(), samples.loc[probabilities.index])
    text = treatments_text(counted, tuple(entry.competition.classes(entry.root)))
    missing = sorted(set(treated.treatment.dropna()) - set(counted.table.treatment))
    if missing:
        text += (
            f"\n\n{len(missing)} treatments have no out-of-fold prediction and are not counted, "
            f"first {missing[0]}"
        )
    return text


def _head(config: Config, profiles: Profiles, source: Source, done: str) -> list[str]:
    """Write lines on the sources of a table.

    Args:
        profiles: after normalisation.
        done: what was done to them, see `profile_steps.steps_text`.
    """
    names = listed(Path(name).name for name in source_names(source))
    shape = f"{len(profiles.wells):,} wells, {profiles.x.shape[1]} features"
    first = f"{config.competition}: {shape} of {names}; {done}"
    return [first, *profiles.notes, *duplicates_notes(profiles.x, "wells")]

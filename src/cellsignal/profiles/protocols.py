"""From a config to the tables of the profile protocols: well profiles of some source, normalised,
then matched, retrieved or counted.

Three sources of well profiles: plain image features of the store (`plain`: a baseline without a
network), an embeddings file (`cellsignal embed`), or a table of well profiles with Metadata_Plate
and Metadata_Well (CellProfiler, pycytominer). The protocols themselves are in `evaluation`.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from tqdm import tqdm

from cellsignal.common.errors import InputError
from cellsignal.common.files import write_csv
from cellsignal.common.ties import duplicates_notes, listed
from cellsignal.competitions import get_competition
from cellsignal.config import Config
from cellsignal.evaluation.matching import match_text, not_same_compound, not_same_compound_or_batch
from cellsignal.evaluation.retrieval import TASKS, Retrieval, Task, measure
from cellsignal.evaluation.retrieval_null import NULL_SIZE, Null, NullKind
from cellsignal.profiles.steps import (
    Profiles,
    Step,
    choose_steps,
    looks_normalised,
    normalise_profiles,
    steps_text,
)
from cellsignal.profiles.tables import UNMATCHED, read_profiles
from cellsignal.profiles.treatments import predict_treatments, treatments_text
from cellsignal.profiles.well_profiles import Reference, Unit, average

COLUMNS = ["well_id", "experiment", "plate", "well", "role", "compound", "treatment", "cell_type"]
MATCH_STEPS: tuple[Step, ...] = ("tvn",)
RETRIEVE_STEPS: tuple[Step, ...] = ("mad_robustize", "feature_select", "spherize")
NO_GENES = "the profiles have no wells of crispr or orf treatments"
LEAST_NULL = 20  # random orders: of 19 the smallest p is .05
Source = Path | str | Sequence[Path | str]
__all__ = [
    "Profiles",
    "load_profiles",
    "match_table",
    "normalise_profiles",
    "retrieval_table",
    "treatment_table",
]


def load_profiles(
    config: Config,
    source: Source = "plain",
    features: Sequence[str] = (),
    unmatched: float = UNMATCHED,
) -> Profiles:
    """Load well profiles of the config's data set.

    Args:
        source: `plain`, an embeddings .npz, or one or several tables of well profiles (.csv,
        .csv.gz, .tsv, .parquet). features: Of tables: see `profile_tables.read_profiles`.
        unmatched: Of tables: largest share of rows of wells that the data set has not.

    Raises:
        InputError: no such source, or it does not fit the data set.
    """
    competition, root = get_competition(config.competition), config.data.root
    sources = _sources(source)
    if sources == ["plain"]:
        found = _plain(config)
    elif any(Path(name).suffix == ".npz" for name in sources):
        if len(sources) > 1:
            raise InputError(f"{sources[0]}: an embeddings file is a source of its own; give one")
        found = _embedded(Path(sources[0]), competition.samples(root))
    else:
        wells = competition.profile_wells(root)
        found = _tabulated([Path(name) for name in sources], wells, features, unmatched)
    known = competition.treatments(root)
    facts = (
        pd.DataFrame(columns=["treatment"])
        if known is None
        else known[known.role != "negative_control"]
    )
    if facts.treatment.duplicated().any():
        raise InputError(
            f"{root}: treatment {facts.treatment[facts.treatment.duplicated()].iloc[0]!r} is "
            "described twice"
        )
    facts = facts.reindex(columns=["treatment", "moa", "targets", "modality"]).astype(object)
    wells = found.wells[COLUMNS].merge(facts, on="treatment", how="left", validate="many_to_one")
    return replace(found, wells=wells.astype(object).where(wells.notna(), None))


def _sources(source: Source) -> list[str]:
    return [str(source)] if isinstance(source, Path | str) else [str(name) for name in source]


def _plain(config: Config) -> Profiles:
    from cellsignal.data.store import Store
    from cellsignal.studies.split_audit import image_features

    store = Store.open(config.data.store)
    rows = tqdm(store.samples.row, desc="image features", unit="image", disable=None)
    x, wells = average(
        np.stack([image_features(store.read(int(row))) for row in rows]), store.samples, ["well_id"]
    )
    return Profiles(
        x,
        wells,
        tuple(f"feature{number}" for number in range(x.shape[1])),
        notes=("plain image features, no network",),
    )


def _embedded(path: Path, samples: pd.DataFrame) -> Profiles:
    from cellsignal.prediction.embeddings import load_embeddings

    found = load_embeddings(path)
    models = sorted(found.samples.model.unique())
    if len(models) > 1:
        raise InputError(
            f"{path}: has embeddings of {len(models)} models ({', '.join(models)}), whose spaces "
            "cannot be compared; embed a stage with one model"
        )
    place = pd.Index(samples.sample_id).get_indexer(found.samples.sample_id)
    if (place < 0).any():
        raise InputError(
            f"{path}: sample {found.samples.sample_id[int(np.argmax(place < 0))]!r} is not in "
            "this data set"
        )
    rows = samples.iloc[place].reset_index(drop=True)
    x, wells = average(found.values, rows, ["well_id"])
    trained = frozenset(rows.treatment[(found.samples.part == "train").to_numpy()].dropna())
    asked = set(rows.treatment[(rows.role != "negative_control").to_numpy()].dropna())
    fold = (
        "all labelled treatments"
        if found.about.get("fold") is None
        else f"fold {found.about['fold']}"
    )
    note = f"{path.name}: the network was trained ({fold}) on wells and labels of {len(trained & asked)} of the {len(asked)} treatments, which flatters them"
    return Profiles(
        x,
        wells,
        tuple(f"embedding{number}" for number in range(x.shape[1])),
        trained,
        (note,),
        "embeddings",
    )


def _tabulated(
    paths: Sequence[Path], wells: pd.DataFrame, features: Sequence[str], unmatched: float
) -> Profiles:
    read = read_profiles(paths, wells, features, unmatched)
    named = f"a file's name says {read.named_normalised!r}" if read.named_normalised else ""
    seen = looks_normalised(read.x, read.wells)
    if named and not seen:
        named += ", though its values do not look it"
    label = "cellprofiler" if read.compartments else paths[0].name
    return Profiles(read.x, read.wells, read.features, None, read.notes, label, named or seen)


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
    """NSC and NSCB of a data set's treatments, for a terminal; those that trained no network also
    by themselves.

    Args:
        normalise: None is `MATCH_STEPS`, or no step for profiles that say they are normalised.

    Raises:
        InputError: the data set names no mechanisms, nothing can be compared, or see
        `load_profiles` and
            `normalise_profiles`.
    """
    loaded = load_profiles(config, source, features, unmatched)
    steps = choose_steps(loaded, normalise, MATCH_STEPS)
    profiles = normalise_profiles(loaded, steps, by, reference)
    rows, notes = [not_same_compound(profiles.x, profiles.wells)], []
    try:
        rows.append(not_same_compound_or_batch(profiles.x, profiles.wells))
    except InputError as error:  # all in one batch: NSC still stands
        notes.append(str(error))
    empty = [one.protocol for one in rows if not one.table.candidates.any()]
    alone = "no treatment has another to be compared with"
    if len(empty) == len(rows):
        raise InputError(f"{' and '.join(empty)}: {alone}")
    rows = [one for one in rows if one.protocol not in empty]
    notes += [f"{protocol}: not given, {alone}" for protocol in empty]
    for one in list(rows) if profiles.trained else []:
        unseen = [name for name in one.table.treatment if name not in profiles.trained]
        rows += [one.of(unseen, f"{one.protocol}, not trained on")] if unseen else []
    done = steps_text(loaded, steps, normalise is not None, by, reference)
    return "\n".join([*_head(config, profiles, source, done), *notes, "", match_text(rows)])


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
    """Replicates, targets, compound and gene, each with its position-only baseline, for a terminal.

    Args:
        tasks: None measures what the data set allows, and says what it does not.
        normalise: None is `RETRIEVE_STEPS`, or no step for profiles that say they are normalised.
        within: columns of the wells; what differs in them (cell lines, time points) is measured
        apart. replicable: targets and genes are matched among treatments whose replicates were
        retrieved, as published. out: a CSV of every group of every row. null: see
        `evaluation.retrieval.Null`.

    Raises:
        InputError: a task asked for cannot be measured, or see `load_profiles` and
        `normalise_profiles`.
    """
    from cellsignal.common.tables import aligned

    if null_size < LEAST_NULL:
        raise InputError(
            f"--null-size {null_size}: at least {LEAST_NULL}; of fewer random orders no p is "
            "below .05"
        )
    loaded = load_profiles(config, source, features, unmatched)
    _check_within(loaded.wells, within)
    steps = choose_steps(loaded, normalise, RETRIEVE_STEPS)
    profiles = normalise_profiles(loaded, steps, by, reference)
    lines = [
        (
            "where",
            "task",
            "profiles",
            "groups",
            "mAP",
            "random",
            "gain",
            "retrieved, q < .05",
            "of groups",
            "95 % interval",
        )
    ]
    tables, notes = [], []
    with TemporaryDirectory() as cache:
        drawn = Null(null_size, seed, Path(cache), null)
        for one in measure(
            profiles.x, profiles.wells, tasks or TASKS, drawn, within, replicable, profiles.label
        ):
            found = one.found
            if isinstance(found, InputError):
                if tasks is not None and one.profiles == profiles.label:
                    raise found
                notes.append(f"{one.where}, {one.task}, {one.profiles}: not measured: {found}")
                continue
            lines.append((one.where, one.task, one.profiles, *_figures(found)))
            if found.tied and one.profiles == profiles.label:
                tied = f"{found.tied} of {found.queries} queries have positives and negatives at one distance"
                notes.append(f"{one.where}, {one.task}: {tied}; their order counts as random")
            tables.append(found.table.assign(where=one.where, task=one.task, profiles=one.profiles))
    unmeasured = set(tasks or ()) - {task for table in tables for task in table.task}
    if unmeasured or not tables:
        why = notes[0].replace(": not measured", "") if notes else NO_GENES
        raise InputError(f"{', '.join(sorted(unmeasured or TASKS))}: nothing was measured: {why}")
    if out is not None:
        write_csv(out, pd.concat(tables, ignore_index=True))
    notes += [
        "random: expected mAP of a random order; gain: mAP less that; position only: the same "
        "task with profiles of nothing but row and column"
    ]
    done = steps_text(loaded, steps, normalise is not None, by, reference)
    notes.append(NULL_NOTES[null])
    return "\n".join(
        [
            *_head(config, profiles, source, done),
            "",
            aligned(lines, right={3, 4, 5, 6, 7, 8}),
            "",
            *notes,
        ]
    )


def _check_within(wells: pd.DataFrame, within: Sequence[str]) -> None:
    """Refuse columns that are not there, or that are empty for some wells, which would be measured
    nowhere.
    """
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


NULL_NOTES = {
    "copairs": "retrieved by copairs' null (a group's mAP against means of random orders); "
    "not the published fraction retrieved, which --null published gives",
    "published": "retrieved by the null of Chandrasekaran et al. 2024 (-log10 p of each well, mean over a group); "
    "comparable with the published fraction retrieved, not with copairs' (--null copairs)",
}


def _figures(found: Retrieval) -> tuple[str, ...]:
    a = found.retrieved
    return (
        f"{a.total}",
        f"{found.mean_average_precision:.3f}",
        f"{found.random:.3f}",
        f"{found.gain:+.3f}",
        f"{a.value:.3f}",
        f"{a.correct}/{a.total}",
        f"{a.low:.3f} .. {a.high:.3f}",
    )


def treatment_table(config: Config) -> str:
    """Treatments right out of fold, as Kensert et al. count them, from `<run
    folder>/predictions/*.npz`. Views and doubled images are averaged first.

    Raises:
        InputError: no predictions, several labels a sample, or a data set whose samples name no
        treatment.
    """
    from cellsignal.prediction.ensemble import log_softmax
    from cellsignal.prediction.freshness import config_predictions
    from cellsignal.prediction.submit import open_entry

    files = config_predictions(config, all_seeds=False)
    entry = open_entry(files, config.submit, root=config.data.root)
    if entry.competition.multilabel:
        raise InputError(f"treatments: a sample of {entry.competition.id} has several labels")
    parts = []
    for member in entry.final():
        rows = np.flatnonzero(member.ids["part"] == "oof")
        mean = sum(
            np.exp(log_softmax(member.logits(view)[rows].astype(np.float32)))
            for view in member.views
        ) / len(member.views)
        parts.append(pd.DataFrame(mean, index=member.ids["sample_id"][rows]))
    found = pd.concat(parts).groupby(level=0, sort=True).mean()
    samples = entry.samples.set_index("sample_id")
    treated = samples[samples.label.notna() & (samples.role == "treatment")]
    if treated.treatment.isna().all():
        raise InputError(f"treatments: the samples of {entry.competition.id} name no treatment")
    counted = predict_treatments(found.to_numpy(), samples.loc[found.index])
    missing = sorted(set(treated.treatment.dropna()) - set(counted.table.treatment))
    note = (
        f"\n\n{len(missing)} treatments have no out-of-fold prediction and are not counted, first "
        f"{missing[0]}"
        if missing
        else ""
    )
    return treatments_text(counted, tuple(entry.competition.classes(entry.root))) + note


def _head(config: Config, profiles: Profiles, source: Source, done: str) -> list[str]:
    """What the table below it was made from.

    Args:
        profiles: After normalisation.
        done: What was done to them, see `profile_steps.steps_text`.
    """
    names = listed(Path(name).name for name in _sources(source))
    made = f"{config.competition}: {len(profiles.wells):,} wells, {profiles.x.shape[1]} features of {names}; {done}"
    return [made, *profiles.notes, *duplicates_notes(profiles.x, "wells")]

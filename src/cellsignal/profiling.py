"""From a config to the tables of the profile protocols: well profiles of some source, normalised, then matched, retrieved or counted.

Three sources of well profiles: plain image features of the store (`plain`: a baseline without a network), an embeddings file (`cellsignal embed`), or a table
of well profiles with Metadata_Plate and Metadata_Well (CellProfiler, pycytominer). The protocols themselves are in `evaluation`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import pandas as pd
from tqdm import tqdm

from cellsignal.competitions import get_competition
from cellsignal.config import Config
from cellsignal.errors import InputError
from cellsignal.evaluation.matching import match_text, not_same_compound, not_same_compound_or_batch
from cellsignal.evaluation.profiles import Reference, Unit, average, sphere, tvn
from cellsignal.evaluation.retrieval import NULL_SIZE, TASKS, Null, Task, measure
from cellsignal.evaluation.treatments import predict_treatments, treatments_text
from cellsignal.files import write_csv

Step = Literal["standardize", "mad_robustize", "feature_select", "spherize", "tvn"]
COLUMNS = ["well_id", "experiment", "plate", "well", "role", "compound", "treatment", "cell_type"]
SELECTION = ["variance_threshold", "correlation_threshold", "drop_outliers", "blocklist"]


@dataclass(frozen=True)
class Profiles:
    """Well profiles.

    Attributes:
        x: (W, D) float32, finite.
        wells: W rows with `COLUMNS`, and moa, targets (tuple of gene symbols) and modality, None where unknown.
        features: D names.
        trained: treatments whose wells trained the network that made the profiles; None where no network was trained.
        notes: what a reader of a figure made from them must know.
    """

    x: np.ndarray
    wells: pd.DataFrame
    features: tuple[str, ...]
    trained: frozenset[str] | None = None
    notes: tuple[str, ...] = ()


def load_profiles(config: Config, source: Path | str = "plain") -> Profiles:
    """Well profiles of the config's data set: `plain`, an embeddings .npz, or a .csv, .csv.gz or .parquet of well profiles.

    Raises:
        InputError: no such source, or it does not fit the data set.
    """
    competition, root = get_competition(config.competition), config.data.root
    if str(source) == "plain":
        found = _plain(config)
    elif Path(source).suffix == ".npz":
        found = _embedded(Path(source), competition.samples(root))
    else:
        found = _tabulated(Path(source), competition.samples(root))
    known = competition.treatments(root)
    facts = pd.DataFrame(columns=["treatment"]) if known is None else known[known.role != "negative_control"]
    if facts.treatment.duplicated().any():
        raise InputError(f"{root}: treatment {facts.treatment[facts.treatment.duplicated()].iloc[0]!r} is described twice")
    facts = facts.reindex(columns=["treatment", "moa", "targets", "modality"]).astype(object)
    wells = found.wells[COLUMNS].merge(facts, on="treatment", how="left", validate="many_to_one")
    return replace(found, wells=wells.astype(object).where(wells.notna(), None))


def _plain(config: Config) -> Profiles:
    from cellsignal.data.store import Store
    from cellsignal.evaluation.audit import image_features

    store = Store.open(config.data.store)
    rows = tqdm(store.samples.row, desc="image features", unit="image", disable=None)
    x, wells = average(np.stack([image_features(store.read(int(row))) for row in rows]), store.samples, ["well_id"])
    return Profiles(x, wells, tuple(f"feature{number}" for number in range(x.shape[1])), notes=("plain image features, no network",))


def _embedded(path: Path, samples: pd.DataFrame) -> Profiles:
    from cellsignal.prediction.embeddings import load_embeddings

    found = load_embeddings(path)
    models = sorted(found.samples.model.unique())
    if len(models) > 1:
        raise InputError(f"{path}: has embeddings of {len(models)} models ({', '.join(models)}), whose spaces cannot be compared; embed a stage with one model")
    place = pd.Index(samples.sample_id).get_indexer(found.samples.sample_id)
    if (place < 0).any():
        raise InputError(f"{path}: sample {found.samples.sample_id[int(np.argmax(place < 0))]!r} is not in this data set")
    rows = samples.iloc[place].reset_index(drop=True)
    x, wells = average(found.values, rows, ["well_id"])
    trained = frozenset(rows.treatment[(found.samples.part == "train").to_numpy()].dropna())
    asked = set(rows.treatment[(rows.role != "negative_control").to_numpy()].dropna())
    fold = "all labelled treatments" if found.about.get("fold") is None else f"fold {found.about['fold']}"
    note = f"{path.name}: the network was trained ({fold}) on wells and labels of {len(trained & asked)} of the {len(asked)} treatments, which flatters them"
    return Profiles(x, wells, tuple(f"embedding{number}" for number in range(x.shape[1])), trained, (note,))


def _tabulated(path: Path, samples: pd.DataFrame) -> Profiles:
    try:
        table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, low_memory=False)
    except ImportError:
        raise InputError(f"{path}: reading parquet needs pyarrow (pip install pyarrow); a .csv does not") from None
    except (OSError, ValueError) as error:  # pandas' and pyarrow's errors of damage are ValueErrors
        raise InputError(f"{path}: not a readable table ({str(error).splitlines()[0][:100]})") from None
    for column in ("Metadata_Plate", "Metadata_Well"):
        if column not in table:
            raise InputError(f"{path}: no column {column!r}, which says where a profile is from")
    wells = samples.drop_duplicates("well_id")
    keys = wells.plate.astype(str) + " " + wells.well.astype(str).str.upper()
    if keys.duplicated().any():
        raise InputError(f"{path}: plate and well {keys[keys.duplicated()].iloc[0]!r} occur in several experiments of the data set")
    place = pd.Index(keys).get_indexer(table.Metadata_Plate.astype(str) + " " + table.Metadata_Well.astype(str).str.upper())
    if (place < 0).all():
        raise InputError(f"{path}: none of its plates and wells is in the data set, first {table.Metadata_Plate.iloc[0] if len(table) else 'none'!r}")
    numbers = table.loc[place >= 0, [name for name in table if not name.startswith("Metadata_")]].select_dtypes("number")
    whole = np.isfinite(numbers).all() & (numbers.abs() < np.finfo(np.float32).max).all()
    if not whole.any():
        raise InputError(f"{path}: no column of finite numbers beside Metadata_*")
    x, wells = average(numbers.loc[:, whole].to_numpy(), wells.iloc[place[place >= 0]].reset_index(drop=True), ["well_id"])
    note = f"{path.name}: {int((place < 0).sum())} rows of wells that the data set has not, {int((~whole).sum())} features with missing values left out"
    return Profiles(x, wells, tuple(numbers.columns[whole]), notes=(note,))


def normalise_profiles(
    profiles: Profiles, steps: Sequence[Step], by: Unit = "plate", reference: Reference = "negative_controls"
) -> Profiles:
    """Apply the steps in their order; labels are never looked at, roles are.

    Args:
        steps: `standardize`, `mad_robustize`: pycytominer's, by plate or experiment, on its reference wells; features that become larger than 1e6 (their
            reference wells do not vary) are dropped. `feature_select`: pycytominer's `SELECTION`. `spherize`: `profiles.sphere` on all reference wells.
            `tvn`: `profiles.tvn`.

    Raises:
        InputError: an unknown step, a unit with too few reference wells (named), or no feature is left.
    """
    for step in steps:
        if step in ("standardize", "mad_robustize"):
            profiles = _by_unit(profiles, step, by, reference)
        elif step == "feature_select":
            profiles = _selected(profiles)
        elif step == "spherize":
            profiles = replace(profiles, x=sphere(profiles.x, profiles.wells, reference))
        elif step == "tvn":
            x = tvn(profiles.x, profiles.wells, by, reference)
            profiles = replace(profiles, x=x, features=tuple(f"tvn{number}" for number in range(x.shape[1])))
        else:
            raise InputError(f"normalise: {step!r} is none of standardize, mad_robustize, feature_select, spherize, tvn")
        if not profiles.x.shape[1]:
            raise InputError(f"normalise: {step} leaves no feature")
    return profiles


def _by_unit(profiles: Profiles, method: str, by: Unit, reference: Reference) -> Profiles:
    from pycytominer import normalize

    features, wells = list(profiles.features), profiles.wells
    frame = pd.DataFrame(profiles.x.astype(np.float64), columns=features).assign(Metadata_role=wells.role.to_numpy())
    query = {"negative_controls": "Metadata_role == 'negative_control'", "controls": "Metadata_role != 'treatment'", "all": "all"}[reference]
    out = np.empty(profiles.x.shape)
    for name, rows in wells.groupby(["experiment", "plate"] if by == "plate" else ["experiment"], sort=True).indices.items():
        part = frame.iloc[rows]
        count = len(part) if reference == "all" else len(part.query(query))
        if count < 2:
            unit = f"{by} {' '.join(map(str, name if isinstance(name, tuple) else (name,)))}"
            raise InputError(f"{method}: {unit} has {count} wells of the reference {reference!r}, at least 2 needed; choose another reference")
        done = normalize(part, features=features, meta_features=["Metadata_role"], samples=query, method=method)
        out[rows] = done[features].to_numpy()
    fine = (np.isfinite(out) & (np.abs(out) < 1e6)).all(axis=0)
    return _columns(profiles, out, fine, f"{method}: {int((~fine).sum())} features left out, whose reference wells do not vary")


def _selected(profiles: Profiles) -> Profiles:
    from pycytominer import feature_select

    frame = pd.DataFrame(profiles.x.astype(np.float64), columns=list(profiles.features))
    kept = feature_select(frame, features=list(profiles.features), operation=SELECTION).columns
    return _columns(profiles, profiles.x, np.isin(profiles.features, kept), f"feature_select: {len(kept)} of {len(profiles.features)} features kept")


def _columns(profiles: Profiles, x: np.ndarray, keep: np.ndarray, note: str) -> Profiles:
    names = tuple(name for name, kept in zip(profiles.features, keep, strict=True) if kept)
    notes = profiles.notes if keep.all() else (*profiles.notes, note)
    return replace(profiles, x=np.ascontiguousarray(x[:, keep], np.float32), features=names, notes=notes)


def match_table(
    config: Config, source: Path | str = "plain", normalise: Sequence[Step] = ("tvn",), by: Unit = "plate", reference: Reference = "negative_controls"
) -> str:
    """NSC and NSCB of a data set's treatments, for a terminal; those that trained no network also by themselves.

    Raises:
        InputError: the data set names no mechanisms, or see `load_profiles` and `normalise_profiles`.
    """
    profiles = normalise_profiles(load_profiles(config, source), normalise, by, reference)
    rows, notes = [not_same_compound(profiles.x, profiles.wells)], []
    try:
        rows.append(not_same_compound_or_batch(profiles.x, profiles.wells))
    except InputError as error:  # all in one batch: NSC still stands
        notes.append(str(error))
    for one in list(rows) if profiles.trained else []:
        unseen = [name for name in one.table.treatment if name not in profiles.trained]
        rows += [one.of(unseen, f"{one.protocol}, not trained on")] if unseen else []
    return "\n".join([*_head(config, profiles, source, normalise), *notes, "", match_text(rows)])


def retrieval_table(
    config: Config, source: Path | str = "plain", tasks: Sequence[Task] | None = None,
    normalise: Sequence[Step] = ("mad_robustize", "feature_select", "spherize"), by: Unit = "plate", reference: Reference = "negative_controls",
    null_size: int = NULL_SIZE, seed: int = 0, within: Sequence[str] = ("cell_type",), replicable: bool = True, out: Path | None = None,
) -> str:  # fmt: skip
    """Replicates, targets, compound and gene, each with its position-only baseline, for a terminal.

    Args:
        tasks: None measures what the data set allows, and says what it does not.
        within: columns of the wells; what differs in them (cell lines, time points) is measured apart.
        replicable: targets and genes are matched among treatments whose replicates were retrieved, as published.
        out: a CSV of every group of every row.

    Raises:
        InputError: a task asked for cannot be measured, or see `load_profiles` and `normalise_profiles`.
    """
    from cellsignal.evaluation.ladder import aligned

    profiles = normalise_profiles(load_profiles(config, source), normalise, by, reference)
    lines, tables, notes = [("where", "task", "profiles", "groups", "mAP", "random", "gain", "retrieved, q < .05", "95 % interval")], [], []
    with TemporaryDirectory() as cache:
        for one in measure(profiles.x, profiles.wells, tasks or TASKS, Null(null_size, seed, Path(cache)), within, replicable):
            found = one.found
            if isinstance(found, InputError):
                if tasks is not None and one.profiles == "images":
                    raise found
                notes.append(f"{one.where}, {one.task}, {one.profiles}: not measured: {found}")
                continue
            a = found.retrieved
            lines.append((one.where, one.task, one.profiles, f"{a.total}", f"{found.mean_average_precision:.3f}", f"{found.random:.3f}", f"{found.gain:+.3f}",
                          f"{a.value:.3f}", f"{a.low:.3f} .. {a.high:.3f}"))  # fmt: skip
            tables.append(found.table.assign(where=one.where, task=one.task, profiles=one.profiles))
    if out is not None and tables:
        write_csv(out, pd.concat(tables, ignore_index=True))
    notes += ["random: expected mAP of a random order; gain: mAP less that; position only: the same task with profiles of nothing but row and column"]
    return "\n".join([*_head(config, profiles, source, normalise), "", aligned(lines, right={3, 4, 5, 6, 7}), "", *notes])


def treatment_table(config: Config) -> str:
    """Treatments right out of fold, as Kensert et al. count them, from `<run folder>/predictions/*.npz`. Views and doubled images are averaged first.

    Raises:
        InputError: no predictions, several labels a sample, or a data set whose samples name no treatment.
    """
    from cellsignal.prediction.ensemble import log_softmax
    from cellsignal.prediction.submit import open_entry

    folder = config.run_folder / "predictions"
    files = sorted(folder.glob("*.npz"))
    if not files:
        raise InputError(f"{folder}: no predictions; run `cellsignal predict` first")
    entry = open_entry(files, config.submit, root=config.data.root)
    if entry.competition.multilabel:
        raise InputError(f"treatments: a sample of {entry.competition.id} has several labels")
    parts = []
    for member in entry.final():
        rows = np.flatnonzero(member.ids["part"] == "oof")
        mean = sum(np.exp(log_softmax(member.logits(view)[rows].astype(np.float32))) for view in member.views) / len(member.views)
        parts.append(pd.DataFrame(mean, index=member.ids["sample_id"][rows]))
    found = pd.concat(parts).groupby(level=0, sort=True).mean()
    samples = entry.samples.set_index("sample_id")
    treated = samples[samples.label.notna() & (samples.role == "treatment")]
    if treated.treatment.isna().all():
        raise InputError(f"treatments: the samples of {entry.competition.id} name no treatment")
    counted = predict_treatments(found.to_numpy(), samples.loc[found.index])
    missing = sorted(set(treated.treatment.dropna()) - set(counted.table.treatment))
    note = f"\n\n{len(missing)} treatments have no out-of-fold prediction and are not counted, first {missing[0]}" if missing else ""
    return treatments_text(counted, tuple(entry.competition.classes(entry.root))) + note


def _head(config: Config, profiles: Profiles, source: Path | str, steps: Sequence[str]) -> list[str]:
    """What the table below it was made from."""
    made = f"{config.competition}: {len(profiles.wells):,} wells, {profiles.x.shape[1]} features of {source}; {' > '.join(steps) or 'not normalised'}"
    return [made, *profiles.notes]

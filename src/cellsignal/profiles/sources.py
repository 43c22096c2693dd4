"""Load well profiles, of a config's data set or of tables alone.

Of a config there are three sources: plain image features of the store (`plain`: a baseline without
a network), an embeddings file (`cellsignal embed`), or tables of well profiles with Metadata_Plate
and Metadata_Well (CellProfiler, pycytominer). Tables alone say in their metadata columns what a
well is. All become one `Profiles`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from cellsignal.common.errors import InputError
from cellsignal.common.ties import listed
from cellsignal.competitions import get_competition
from cellsignal.config import Config
from cellsignal.evaluation.matching import average
from cellsignal.profiles.image_features import image_features
from cellsignal.profiles.metadata_columns import add_annotations, find_column, make_wells
from cellsignal.profiles.profile_steps import Profiles, looks_normalised
from cellsignal.profiles.profile_tables import (
    UNMATCHED,
    ProfileTable,
    join_parts,
    read_profiles,
)
from cellsignal.profiles.table_files import read_part

COLUMNS = ["well_id", "experiment", "plate", "well", "role", "compound", "treatment", "cell_type"]
Source = Path | str | Sequence[Path | str]


def load_profiles(
    config: Config,
    source: Source = "plain",
    features: Sequence[str] = (),
    unmatched: float = UNMATCHED,
) -> Profiles:
    """Load well profiles of the config's data set.

    Args:
        source: `plain`, an embeddings .npz, or one or several tables (.csv, .csv.gz, .tsv,
            .parquet, .h5ad).
        features: of tables: see `profile_tables.read_profiles`.
        unmatched: of tables: largest share of rows whose wells the data set does not have.

    Raises:
        InputError: no such source, or it does not fit the data set.
    """
    competition, root = get_competition(config.competition), config.data.root
    names = source_names(source)
    if names == ["plain"]:
        profiles = _image_profiles(config)
    elif any(Path(name).suffix == ".npz" for name in names):
        if len(names) > 1:
            raise InputError(f"{names[0]}: an embeddings file is a source of its own; give one")
        profiles = _embedding_profiles(Path(names[0]), competition.samples(root))
    else:
        wells = competition.profile_wells(root)
        profiles = _table_profiles([Path(name) for name in names], wells, features, unmatched)
    facts = _treatment_facts(competition.treatments(root), root)
    wells = profiles.wells[COLUMNS].merge(facts, on="treatment", how="left", validate="many_to_one")
    files = listed(Path(name).name for name in names)
    return replace(profiles, wells=_with_none(wells), data_set=config.competition, files=files)


def load_tables(
    paths: Sequence[Path],
    columns: Mapping[str, str] | None = None,
    controls: Mapping[str, str] | None = None,
    *,
    features: Sequence[str] = (),
    batch_pattern: str | None = None,
    annotations: Path | None = None,
) -> Profiles:
    """Load well profiles of tables that say themselves what each well is.

    Args:
        paths: .csv, .tsv (or either with .gz), .parquet or .h5ad files.
        columns: meaning -> column, see `metadata_columns.USUAL`; others are found by usual names.
        controls: column -> value of the negative controls; by default a control type or DMSO.
        features: see `profile_tables.read_profiles`.
        batch_pattern: regular expression whose match in the plate's name is the batch.
        annotations: a table with more metadata columns, joined by treatment or compound.

    Raises:
        InputError: no readable table, a column that is missing, or a cell that is wrong; names the
            file, and the row or the nearest column.
    """
    named = dict(columns or {})

    def find_keys(path: Path, names: Sequence[str]) -> tuple[str, str]:
        plate, well = (find_column(path, names, word, named) for word in ("plate", "well"))
        assert plate is not None and well is not None
        return plate, well

    parts = [read_part(Path(path), features, find_keys) for path in paths]
    if annotations is not None:
        parts = [add_annotations(part, annotations, named) for part in parts]
    wells = make_wells(parts, named, controls or {}, batch_pattern)
    profiles = _profiles_of(
        join_parts(parts, wells, 0.0, not features), [part.path for part in parts]
    )
    files = listed(part.path.name for part in parts)
    notes = profiles.notes
    if not (profiles.wells.role == "negative_control").any():
        notes += ("no well is a negative control; --controls COLUMN=VALUE names them",)
    return replace(profiles, wells=_with_none(profiles.wells), files=files, notes=notes)


def _with_none(wells: pd.DataFrame) -> pd.DataFrame:
    """The wells with None for what is unknown."""
    return wells.astype(object).where(wells.notna(), None)


def source_names(source: Source) -> list[str]:
    """The source, or the several files that it is, as text."""
    return [str(source)] if isinstance(source, Path | str) else [str(name) for name in source]


def _treatment_facts(treatments: pd.DataFrame | None, root: Path) -> pd.DataFrame:
    """Columns treatment, moa, targets and modality; one row a treatment, without the controls."""
    facts = pd.DataFrame(columns=["treatment"])
    if treatments is not None:
        facts = treatments[treatments.role != "negative_control"]
    doubled = facts.treatment[facts.treatment.duplicated()]
    if len(doubled):
        raise InputError(f"{root}: treatment {doubled.iloc[0]!r} is described twice")
    return facts.reindex(columns=["treatment", "moa", "targets", "modality"]).astype(object)


def _image_profiles(config: Config) -> Profiles:
    from cellsignal.data.store import Store

    store = Store.open(config.data.store)
    rows = tqdm(store.samples.row, desc="image features", unit="image", disable=None)
    x = np.stack([image_features(store.read(int(row))) for row in rows])
    x, wells = average(x, store.samples, ["well_id"])
    names = tuple(f"feature{number}" for number in range(x.shape[1]))
    return Profiles(x, wells, names, notes=("plain image features, no network",))


def _embedding_profiles(path: Path, samples: pd.DataFrame) -> Profiles:
    from cellsignal.prediction.embeddings import load_embeddings

    embeddings = load_embeddings(path)
    models = sorted(embeddings.samples.model.unique())
    if len(models) > 1:
        raise InputError(
            f"{path}: has embeddings of {len(models)} models ({', '.join(models)}), whose spaces "
            "cannot be compared; embed a stage with one model"
        )
    position = pd.Index(samples.sample_id).get_indexer(embeddings.samples.sample_id)
    if (position < 0).any():
        unknown = embeddings.samples.sample_id[int(np.argmax(position < 0))]
        raise InputError(f"{path}: sample {unknown!r} is not in this data set")
    rows = samples.iloc[position].reset_index(drop=True)
    x, wells = average(embeddings.values, rows, ["well_id"])
    trained = frozenset(rows.treatment[(embeddings.samples.part == "train").to_numpy()].dropna())
    treatments = set(rows.treatment[rows.role != "negative_control"].dropna())
    fold = embeddings.about.get("fold")
    trained_on = "all labelled treatments" if fold is None else f"fold {fold}"
    note = (
        f"{path.name}: the network was trained ({trained_on}) on wells and labels of "
        f"{len(trained & treatments)} of the {len(treatments)} treatments, so these scores are "
        "optimistic"
    )
    names = tuple(f"embedding{number}" for number in range(x.shape[1]))
    return Profiles(x, wells, names, trained, (note,), "embeddings")


def _table_profiles(
    paths: Sequence[Path], wells: pd.DataFrame, features: Sequence[str], unmatched: float
) -> Profiles:
    return _profiles_of(read_profiles(paths, wells, features, unmatched), paths)


def _profiles_of(table: ProfileTable, paths: Sequence[Path]) -> Profiles:
    by_name = f"a file's name says {table.named_normalised!r}" if table.named_normalised else ""
    by_values, record = looks_normalised(table.x, table.wells), table.record
    if by_name and not by_values:
        by_name += ", though its values do not look it"
    label = record.label or ("cellprofiler" if table.compartments else paths[0].name)
    normalised = record.normalised or by_name or by_values
    facts = (record.trained, table.notes, label, normalised)
    return Profiles(table.x, table.wells, table.features, *facts)

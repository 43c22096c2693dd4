"""Write well profiles as one parquet or AnnData file that the profile commands read back the same.

The file holds a row a well, the metadata that the commands know under their usual names, and a
record of what it was made from (see `stored_tables`). Its wells are read back before it is written.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.files import provenance
from cellsignal.common.tables import normalise_wells
from cellsignal.profiles.batch_effects import Reference, Unit
from cellsignal.profiles.comparisons import head_lines
from cellsignal.profiles.metadata_columns import make_wells
from cellsignal.profiles.profile_steps import Profiles, Step, normalise_profiles, steps_text
from cellsignal.profiles.stored_tables import PACKAGES, load_package, write_stored
from cellsignal.profiles.table_files import TablePart

# column of the wells -> column of the file; the concentration stands in the treatment
COLUMNS = {
    "plate": "Metadata_Plate",
    "well": "Metadata_Well",
    "treatment": "Metadata_Treatment",
    "compound": "Metadata_Compound",
    "role": "Metadata_control_type",
    "experiment": "Metadata_Batch",
    "cell_type": "Metadata_Cell_Type",
    "moa": "Metadata_moa",
    "targets": "Metadata_Targets",
    "modality": "Metadata_Modality",
    "gene": "Metadata_Gene",
    "count": "Metadata_Object_Count",
}
_NORMALISING = ("standardize", "mad_robustize", "spherize", "tvn", "combat", "harmony")


def check_out(out: Path, inputs: Sequence[Path]) -> None:
    """Refuse a name that is no .parquet or .h5ad, a missing package, and one of the inputs."""
    if out.suffix not in PACKAGES:
        raise InputError(f"--out {out}: name a {' or '.join(PACKAGES)} file")
    load_package(out)
    if out.is_dir():
        raise InputError(f"--out {out}: is a folder")
    for path in inputs:
        if path.exists() and out.exists() and path.samefile(out):
            raise InputError(f"--out {out}: is an input itself; give another name")


def export_profiles(
    loaded: Profiles,
    out: Path,
    inputs: Sequence[Path],
    options: dict[str, Any],
    steps: Sequence[Step] = (),
    by: Unit = "plate",
    reference: Reference = "negative_controls",
    drop_variance: float = 0.0,
    position_reference: Reference = "all",
) -> str:
    """Write the profiles after the steps; return what was written, as text.

    Args:
        out: .parquet or .h5ad.
        inputs: the files that the profiles were made from; their hashes are kept.
        options: of the command, kept as they are.
        steps, by, reference, drop_variance, position_reference: see `normalise_profiles`.

    Raises:
        InputError: see `normalise_profiles`; a well that would be read back as another one; the
            file cannot be written.
    """
    profiles = normalise_profiles(loaded, steps, by, reference, drop_variance, position_reference)
    wells, notes = _distinct_plates(profiles.wells)
    bare = wells.treatment.isna() & wells["compound"].notna()
    if bare.any():
        notes.append(f"{bare.sum()} wells have no treatment: in the file it is their compound")
    metadata = _metadata(wells)
    applied = [step for step in steps if step in _NORMALISING]
    facts = {
        "label": profiles.label,
        "normalised": f"{' > '.join(applied)} before export" if applied else profiles.normalised,
        "trained": None if profiles.trained is None else sorted(profiles.trained),
        "notes": list(profiles.notes),
    }
    record = provenance(
        {str(path): path for path in inputs},
        data_set=profiles.data_set,
        steps=list(steps),
        options=options,
        profiles=facts,
    )
    _check_read_back(out, wells, metadata, record)
    write_stored(out, metadata, profiles.x, list(profiles.features), record)
    done = steps_text(loaded, steps, True, by, reference)
    return "\n".join([*head_lines(profiles, done), *notes, f"{out}"])


def _distinct_plates(wells: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The wells with plates that have a name of their own in all batches, and a note on it."""
    plates = wells[["experiment", "plate"]].drop_duplicates()
    if not plates.plate.duplicated().any():
        return wells, []
    named = wells.experiment.astype(str) + "_" + wells.plate.astype(str)
    example = f"{wells.plate.iloc[0]} of {wells.experiment.iloc[0]} is {named.iloc[0]}"
    note = f"plates of several experiments have one name: here plate {example}"
    return wells.assign(plate=named), [note]


def _metadata(wells: pd.DataFrame) -> pd.DataFrame:
    """The wells as the columns of the file; the index is plate_well."""
    frame = pd.DataFrame(index=range(len(wells)))
    for column, name in COLUMNS.items():
        if column not in wells or wells[column].isna().all():
            continue
        cells = wells[column].reset_index(drop=True)
        if column == "count":
            frame[name] = cells.astype(float)
        elif column == "targets":
            frame[name] = [_joined(genes) for genes in cells]
        else:
            frame[name] = cells.map(lambda cell: "" if pd.isna(cell) else str(cell))
    if COLUMNS["treatment"] not in frame:
        frame[COLUMNS["treatment"]] = ""
    frame[COLUMNS["well"]] = normalise_wells(frame[COLUMNS["well"]])
    texts = [name for name in frame.columns if name != COLUMNS["count"]]
    frame[texts] = frame[texts].astype(object)
    names = frame[COLUMNS["plate"]] + "_" + frame[COLUMNS["well"]]
    return frame.set_axis(pd.Index(names, dtype=object, name=None))


def _joined(genes: tuple[str, ...] | None) -> str:
    return "|".join(genes) if isinstance(genes, tuple) else ""


def _check_read_back(
    out: Path, wells: pd.DataFrame, metadata: pd.DataFrame, record: dict[str, Any]
) -> None:
    """Refuse wells that the file would give back as others, say a compound called NA."""
    keys = metadata[[COLUMNS["plate"], COLUMNS["well"]]].set_axis(["plate", "well"], axis=1)
    rows = pd.RangeIndex(2, len(keys) + 2)
    part = TablePart(
        out, pd.DataFrame(index=rows), keys.set_axis(rows), {}, metadata.set_axis(rows), record
    )
    if keys.duplicated().any():
        twice = keys[keys.duplicated()].iloc[0]
        raise InputError(f"{out}: not written: plate {twice.plate} has two wells {twice.well}")
    read = make_wells([part], {}, {})
    for column, cells in _expected(wells).items():
        for row, (before, after) in enumerate(zip(cells, read[column], strict=True)):
            if before != after and not (pd.isna(before) and pd.isna(after)):
                raise InputError(
                    f"{out}: not written: {column} {before!r} of well {keys.plate.iloc[row]} "
                    f"{keys.well.iloc[row]} would be read back as {after!r}"
                )


def _expected(wells: pd.DataFrame) -> dict[str, list[Any]]:
    """The columns of the wells as a table gives them: controls have no moa and no targets."""
    treated = (wells.role != "negative_control").to_numpy()
    frame = wells.astype(object).where(wells.notna(), None)
    compound = frame["compound"].fillna(frame.treatment)
    columns = {
        "plate": frame.plate.map(str),
        "well": normalise_wells(frame.well.map(str)),
        "role": frame.role,
        "compound": compound,
        "treatment": frame.treatment.fillna(compound),
        "experiment": frame.experiment.map(str),
        "cell_type": frame.cell_type.fillna("all wells"),
    }
    for name in ("moa", "modality", "gene"):
        if name in frame:
            columns[name] = frame[name] if name == "modality" else frame[name].where(treated, None)
    if "count" in frame:
        columns["count"] = frame["count"].astype(float)
    expected = {name: list(column) for name, column in columns.items()}
    if "targets" in frame:
        genes = [cell if isinstance(cell, tuple) else () for cell in frame.targets]
        expected["targets"] = [
            tuple(sorted(set(cell))) if is_treated else ()
            for cell, is_treated in zip(genes, treated, strict=True)
        ]
    return expected


def file_inputs(paths: Sequence[Path | str | None]) -> list[Path]:
    """The paths that are files, each one time."""
    files = [Path(path) for path in paths if path is not None and Path(path).is_file()]
    return list(dict.fromkeys(files))

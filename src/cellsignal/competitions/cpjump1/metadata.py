"""CPJUMP1's tables as published, and the join of rows and files by what both say: row, column and
field, never their order.

A root is a part of the bucket's `cpg0000-jump-pilot/source_4/` with the bucket's own paths, so that
a sync of it is a root too:

- `images/<batch>/images/<barcode>__<time>-Measurement1/Images/r01c01f01p01-ch1sk1fk1fl1.tiff`
- `workspace/load_data_csv/<batch>/<barcode>/load_data.csv`
- `workspace/metadata/platemaps/<batch>/barcode_platemap.csv`, and `platemap/<map>.txt` (or .tsv)
  beside it
- `workspace/metadata/external_metadata/<map with _metadata for _platemap>.tsv`
- `experiment-metadata.tsv`: the publication's table of plates (Batch, Assay_Plate_Barcode,
  Perturbation, Cell_type, Time, ...)

Ours: a well whose `broad_sample` is `?` in the platemap, and every well of a plate that
barcode_platemap.csv lacks, is hidden.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.tables import normalise_wells, read_table, refuse_rows
from cellsignal.competitions.samples import origins
from cellsignal.competitions.stated import Places, refuse_misstated

CHANNELS = ("AGP", "DNA", "ER", "Mito", "RNA")
# ch1..ch5 in a file's name; ch6..ch8 are brightfield
CHANNEL_NUMBERS = {"Mito": 1, "AGP": 2, "RNA": 3, "ER": 4, "DNA": 5}
MODALITIES = ("compound", "crispr", "orf")
HIDDEN = "?"
# genes that the compounds' table calls by their former symbol and the others by their own
RENAMED = {"ATP5D": "ATP5F1D", "GUCY1B3": "GUCY1B1"}
LOAD_DATA, PLATEMAPS = "workspace/load_data_csv", "workspace/metadata/platemaps"
EXTERNAL, EXPERIMENTS = "workspace/metadata/external_metadata", "experiment-metadata.tsv"

_STAINS = {str(number): channel for channel, number in CHANNEL_NUMBERS.items()}
_FILE = re.compile(r"r(\d{2})c(\d{2})f(\d{2})(?:p\d+)?(?:-ch(\d+))?[^/]*$", re.IGNORECASE)
_KEY = r"(r\d{2}c\d{2}f\d{2})"
_WELL = r"[A-P](?:0[1-9]|1\d|2[0-4])"  # 16 rows by 24 columns


@dataclass(frozen=True)
class Fields:
    """The join of a plate's rows and files.

    Attributes:
        rows: columns batch, plate, well, site (int), files (tuple, one path a channel, relative to
        the root), origin (see `check_samples`); rows
            that have a file.
        without_file: "plate well site" of rows none of whose files is there: not fetched.
        without_row: paths of files that no row names.
    """

    rows: pd.DataFrame
    without_file: tuple[str, ...]
    without_row: tuple[str, ...]


def stated(name: str) -> dict[str, str]:
    """What `.../BR00116991__2020-...-Measurement1/Images/r01c01f01p01-ch1sk1fk1fl1.tiff` says: see
    `Competition.stated`.
    """
    match = _FILE.search(name)
    if match is None:
        return {}
    row, column, site, channel = match.groups()
    facts = {"well": f"{chr(64 + int(row))}{column}", "site": str(int(site))}
    if channel is not None:
        facts["channel"] = _STAINS.get(channel, f"ch{channel}")
    folders = name.split("/")[:-1]
    if len(folders) > 1 and "__" in folders[-2]:
        facts["plate"] = folders[-2].split("__")[0]
    return facts


def keys_of(names: pd.Series) -> pd.Series:
    """The key r..c..f.. in each file name, lower-cased; missing where there is none."""
    return names.str.lower().str.extract(_KEY, expand=False)


def wells_of(keys: pd.Series) -> pd.Series:
    """The well of each key: r02c11f09 -> B11."""
    return keys.str[1:3].astype(int).map(lambda row: chr(64 + row)) + keys.str[4:6]


def read_plates(root: Path) -> pd.DataFrame:
    """The publication's table of plates: index (batch, plate); columns cell_type, time (hours,
    text), modality.

    Raises:
        InputError: a column is missing, a cell empty, a plate doubled in its batch, or an unknown
        perturbation.
    """
    path = Path(root) / EXPERIMENTS
    columns = {
        "Batch": "batch",
        "Assay_Plate_Barcode": "plate",
        "Cell_type": "cell_type",
        "Time": "time",
        "Perturbation": "modality",
    }
    table = read_table(path, tuple(columns), any_row=True, delimiter="\t")
    known = table.Perturbation.isin(MODALITIES)
    refuse_rows(path, table, ~known, "Perturbation", f"is none of {', '.join(MODALITIES)}")
    doubled = table.duplicated(["Batch", "Assay_Plate_Barcode"])
    refuse_rows(path, table, doubled, "Assay_Plate_Barcode", "stands twice in its batch")
    return table[list(columns)].rename(columns=columns).set_index(["batch", "plate"])


def read_platemaps(root: Path, batch: str) -> dict[str, str]:
    """Barcode -> name of the platemap, for the plates of a batch whose layout is known."""
    path = Path(root) / PLATEMAPS / batch / "barcode_platemap.csv"
    frame = read_table(
        path, ("Assay_Plate_Barcode", "Plate_Map_Name"), unique="Assay_Plate_Barcode"
    )
    return dict(zip(frame.Assay_Plate_Barcode, frame.Plate_Map_Name, strict=True))


def read_platemap(path: Path) -> pd.DataFrame:
    """A platemap: columns well and treatment (`broad_sample`; "" where the well got solvent or
    nothing); its index is the row.

    Raises:
        InputError: a well that is no address on a 384-well plate, or stands twice.
    """
    columns = ("well_position", "broad_sample")
    frame = read_table(path, columns, filled=columns[:1], any_row=True, delimiter="\t")
    wells = normalise_wells(frame.well_position)
    refuse_rows(
        path, frame, ~wells.str.fullmatch(_WELL), "well_position", "is no well of a 384-well plate"
    )
    refuse_rows(path, frame, wells.duplicated(), "well_position", "stands twice")
    return pd.DataFrame({"well": wells, "treatment": frame.broad_sample})


def read_perturbations(path: Path, modality: str) -> pd.DataFrame:
    """What a metadata table says of each treatment.

    Returns:
        One row a treatment: treatment (`broad_sample`; "DMSO" for a compound plate's solvent),
        compound (`pert_iname` or `gene`: two samples of a compound, two guides of a gene are one),
        role, targets (tuple of gene symbols: a compound's `target_list`, else the gene itself),
        modality.
    """
    compounds = modality == "compound"
    named = "pert_iname" if compounds else "gene"
    columns = ("broad_sample", named, "control_type", *(["target_list"] if compounds else []))
    frame = read_table(path, columns, filled=(), delimiter="\t")
    listed = frame.target_list if compounds else frame[named]
    out = pd.DataFrame(
        {
            "treatment": frame.broad_sample.where(
                frame.broad_sample.ne("NA") | (not compounds), "DMSO"
            ),
            "compound": frame[named].where(frame[named] != "", None),
            "role": [_role(control) for control in frame.control_type],
            "targets": [
                tuple(
                    sorted(
                        {RENAMED.get(gene.strip(), gene.strip()) for gene in text.split("|")}
                        - {"", "NA"}
                    )
                )
                for text in listed
            ],
            "modality": modality,
        }
    ).drop_duplicates()
    if not compounds:  # a control gene or guide is there to hit nothing
        out["targets"] = [
            () if role == "negative_control" else genes
            for role, genes in zip(out.role, out.targets, strict=True)
        ]
    kept = frame.loc[out.index]
    refuse_rows(
        path, kept, out.treatment.duplicated(), "broad_sample", "has another row that disagrees"
    )
    unnamed = out.compound.isna() & (out.role != "negative_control")
    refuse_rows(path, kept, unnamed, "broad_sample", f"has no {named}")
    return out.reset_index(drop=True)


def _role(control_type: str) -> str:
    if control_type == "negcon":
        return "negative_control"
    return "positive_control" if control_type.startswith("poscon") else "treatment"


def read_layout(root: Path, batch: str, platemap: str, modality: str) -> pd.DataFrame:
    """What stands in the wells of a plate: columns well, treatment, compound, role, targets,
    modality; treatment "?" where it is hidden.

    A blank cell is "DMSO" on a compound plate and "untreated" on the others: a negative control.

    Raises:
        InputError: no such platemap, or a treatment that its metadata table does not have.
    """
    root = Path(root)
    stem = root / PLATEMAPS / batch / "platemap" / platemap
    path = next(
        (
            p
            for p in (stem.with_name(f"{platemap}.tsv"), stem.with_name(f"{platemap}.txt"))
            if p.is_file()
        ),
        None,
    )
    if path is None:
        raise InputError(f"{stem}.txt: no such file, named in the batch's barcode_platemap.csv")
    wells = read_platemap(path)
    known = read_perturbations(
        root / EXTERNAL / f"{platemap.replace('_platemap', '_metadata')}.tsv", modality
    )
    blank = "DMSO" if modality == "compound" else "untreated"
    wells["treatment"] = wells.treatment.replace({"": blank, "NA": blank})
    bare = ~wells.treatment.isin({blank, HIDDEN, *known.treatment})
    named = wells.rename(columns={"treatment": "broad_sample"})
    refuse_rows(path, named, bare, "broad_sample", f"is not in the metadata of {platemap}")
    joined = wells.merge(known[known.treatment != blank], on="treatment", how="left")
    for column, value in (
        ("role", "negative_control"),
        ("compound", blank if modality == "compound" else None),
    ):
        joined[column] = joined[column].where(joined.treatment != blank, value)
    joined["targets"] = joined.targets.map(lambda genes: genes if isinstance(genes, tuple) else ())
    return joined.assign(role=joined.role.fillna("treatment"), modality=modality)


def join_fields(root: Path) -> Fields:
    """Every field of every plate that has a load_data.csv, with its files.

    Raises:
        InputError: no load_data.csv; one that names a plate, well or site in another way than its
        place or its files' names do, or a field twice;
            a barcode in two batches; two folders of one plate.
    """
    root = Path(root)
    tables = sorted((root / LOAD_DATA).glob("*/*/load_data.csv"))
    if not tables:
        raise InputError(f"{root / LOAD_DATA}: no <batch>/<plate>/load_data.csv here")
    seen: dict[str, Path] = {}
    parts = []
    for path in tables:
        if path.parent.name in seen:
            raise InputError(
                f"{path}: plate {path.parent.name} also stands in {seen[path.parent.name]}; keep "
                "one imaging of a plate in a root"
            )
        seen[path.parent.name] = path
        parts.append(_join_plate(root, path))
    rows = pd.concat([part.rows for part in parts], ignore_index=True)
    return Fields(
        rows,
        sum((part.without_file for part in parts), ()),
        sum((part.without_row for part in parts), ()),
    )


def _join_plate(root: Path, path: Path) -> Fields:
    batch, plate = path.parts[-3:-1]
    named = [f"FileName_Orig{channel}" for channel in CHANNELS]
    table = read_table(
        path, (*named, "Metadata_Plate", "Metadata_Well", "Metadata_Site"), any_row=True
    )
    wells, sites = normalise_wells(table.Metadata_Well), table.Metadata_Site
    elsewhere = table.Metadata_Plate != plate
    refuse_rows(path, table, elsewhere, "Metadata_Plate", f"is not the plate {plate} of its folder")
    refuse_rows(
        path, table, ~wells.str.fullmatch(_WELL), "Metadata_Well", "is no well of a 384-well plate"
    )
    refuse_rows(
        path, table, ~sites.str.fullmatch(r"[1-9]\d?"), "Metadata_Site", "is no site number"
    )
    row = wells.str[0].map(lambda letter: f"r{ord(letter) - 64:02d}")
    keys = row + "c" + wells.str[1:] + "f" + sites.str.zfill(2)
    refuse_rows(path, table, keys.duplicated(), "Metadata_Site", "of this well stands twice")
    for column in named:
        refuse_rows(
            path,
            table,
            keys_of(table[column]) != keys,
            column,
            "is not a file of the row's well and site",
        )
    origin = origins(f"{LOAD_DATA}/{batch}/{plate}/load_data.csv", table)
    files = list(_with_folders(table, named).itertuples(index=False, name=None))
    stating = pd.DataFrame({"files": files, "plate": plate, "origin": origin.to_numpy()})
    refuse_misstated(stating, Places(root, stating), CHANNELS, stated)
    folder = _image_folder(root, batch, plate)
    there = (
        {}
        if folder is None
        else {name.lower(): name for name in sorted(p.name for p in folder.iterdir())}
    )
    place = "" if folder is None else folder.relative_to(root).as_posix()
    names = table[named].to_numpy()
    found = np.array([[name.lower() in there for name in row] for row in names]).any(axis=1)
    files = [
        tuple(f"{place}/{there.get(name.lower(), name)}" for name in row) for row in names[found]
    ]
    rows = pd.DataFrame(
        {
            "batch": batch,
            "plate": plate,
            "well": wells[found].to_numpy(),
            "site": sites[found].astype(int).to_numpy(),
            "files": files,
            "origin": origin[found].to_numpy(),
        }
    )
    claimed = {
        name.lower()
        for column in table.columns
        if column.startswith("FileName_")
        for name in table[column]
    }
    images = pd.Series(sorted(set(there) - claimed), dtype=object)
    without_row = (
        tuple(f"{place}/{there[name]}" for name in images[keys_of(images).notna()])
        if len(images)
        else ()
    )
    without_file = tuple(
        f"{plate} {well} {site}" for well, site in zip(wells[~found], sites[~found], strict=True)
    )
    return Fields(rows, without_file, without_row)


def _with_folders(table: pd.DataFrame, named: list[str]) -> pd.DataFrame:
    """The files of a load_data.csv behind the last two of their folders, which say the plate, where
    it names any.
    """
    files = table[named].copy()
    for column in named:
        folder = column.replace("FileName_", "PathName_")
        if folder in table.columns:
            last = table[folder].str.rstrip("/").str.split("/").str[-2:].str.join("/")
            files[column] = (last + "/").where(last != "", "") + files[column]
    return files


def _image_folder(root: Path, batch: str, plate: str) -> Path | None:
    """A plate's folder of images, named by its barcode, two underscores and the time; None where
    nothing was fetched.
    """
    above = root / "images" / batch / "images"
    found = sorted(
        p for p in above.glob(f"{plate}*/Images") if p.parent.name.split("__")[0] == plate
    )
    if len(found) > 1:
        raise InputError(
            f"{above}: two folders of plate {plate}: {found[0].parent.name} and "
            f"{found[1].parent.name}"
        )
    return found[0] if found else None

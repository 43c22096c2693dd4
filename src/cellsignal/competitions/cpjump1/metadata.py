"""CPJUMP1's tables as published: plates, platemaps and treatments.

A root is a part of the bucket's `cpg0000-jump-pilot/source_4/` with the bucket's own paths, so a
sync of the bucket is a root too:

- `images/<batch>/images/<barcode>__<time>-Measurement1/Images/r01c01f01p01-ch1sk1fk1fl1.tiff`
- `workspace/load_data_csv/<batch>/<barcode>/load_data.csv`
- `workspace/metadata/platemaps/<batch>/barcode_platemap.csv`, and `platemap/<map>.txt` (or .tsv)
  beside it
- `workspace/metadata/external_metadata/<map with _metadata for _platemap>.tsv`
- `experiment-metadata.tsv`: the publication's table of plates (Batch, Assay_Plate_Barcode,
  Perturbation, Cell_type, Time, ...)

Hidden wells are an addition of this project: a well with `?` in the platemap, and every well of a
plate that barcode_platemap.csv lacks.
"""

import re
from pathlib import Path

import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.tables import normalise_wells, read_table, refuse_rows

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
KEY = r"(r\d{2}c\d{2}f\d{2})"
WELL = r"[A-P](?:0[1-9]|1\d|2[0-4])"  # 16 rows by 24 columns
NO_WELL = "is not a well of a 384-well plate"


# file names
# --------------------------------------------------------------------------------------------------


def stated(name: str) -> dict[str, str]:
    """Parse a file name; see `Competition.stated`.

    Such a name is `.../BR00116991__2020-...-Measurement1/Images/r01c01f01p01-ch1sk1fk1fl1.tiff`.
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
    """Return the key r..c..f.. in each file name, in lower case; missing if there is none."""
    return names.str.lower().str.extract(KEY, expand=False)


def wells_of(keys: pd.Series) -> pd.Series:
    """Return the well of each key: r02c11f09 -> B11."""
    return keys.str[1:3].astype(int).map(lambda row: chr(64 + row)) + keys.str[4:6]


# plates and layouts
# --------------------------------------------------------------------------------------------------


def read_plates(root: Path) -> pd.DataFrame:
    """Read the publication's table of plates.

    Returns:
        Index (batch, plate); columns cell_type, time (hours, text), modality.

    Raises:
        InputError: a missing column, an empty cell, a plate twice in its batch, or an unknown
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
    refuse_rows(path, table, ~known, "Perturbation", f"is not one of {', '.join(MODALITIES)}")
    doubled = table.duplicated(["Batch", "Assay_Plate_Barcode"])
    refuse_rows(path, table, doubled, "Assay_Plate_Barcode", "occurs twice in its batch")
    return table[list(columns)].rename(columns=columns).set_index(["batch", "plate"])


def read_platemaps(root: Path, batch: str) -> dict[str, str]:
    """Read the name of the platemap of each plate of a batch whose layout is known."""
    path = Path(root) / PLATEMAPS / batch / "barcode_platemap.csv"
    barcode = "Assay_Plate_Barcode"
    table = read_table(path, (barcode, "Plate_Map_Name"), unique=barcode)
    return dict(zip(table[barcode], table.Plate_Map_Name, strict=True))


def read_perturbations(path: Path, modality: str) -> pd.DataFrame:
    """Read the metadata table of treatments.

    Returns:
        One row a treatment: treatment (`broad_sample`; "DMSO" for a compound plate's solvent),
        compound (`pert_iname` or `gene`: two samples of a compound, two guides of a gene are one),
        role, targets (tuple of gene symbols: a compound's `target_list`, else the gene itself),
        modality.
    """
    is_compound = modality == "compound"
    name = "pert_iname" if is_compound else "gene"
    target = "target_list" if is_compound else "gene"
    columns = tuple(dict.fromkeys(("broad_sample", name, "control_type", target)))
    table = read_table(path, columns, filled=(), delimiter="\t")
    treatment = table.broad_sample.replace("NA", "DMSO") if is_compound else table.broad_sample
    targets = table[target].map(_split_targets)
    roles = table.control_type.map(_role)
    if not is_compound:  # a control gene or guide is there to hit nothing
        pairs = zip(roles, targets, strict=True)
        targets = [() if role == "negative_control" else genes for role, genes in pairs]
    compound = table[name].where(table[name] != "", None)
    facts = {"treatment": treatment, "compound": compound, "role": roles, "targets": targets}
    frame = pd.DataFrame(facts).assign(modality=modality).drop_duplicates()
    table = table.loc[frame.index]
    doubled = frame.treatment.duplicated()
    refuse_rows(path, table, doubled, "broad_sample", "has another row that disagrees")
    unnamed = frame.compound.isna() & (frame.role != "negative_control")
    refuse_rows(path, table, unnamed, "broad_sample", f"has no {name}")
    return frame.reset_index(drop=True)


def _split_targets(text: str) -> tuple[str, ...]:
    genes = {gene.strip() for gene in text.split("|")} - {"", "NA"}
    return tuple(sorted({RENAMED.get(gene, gene) for gene in genes}))


def _role(control_type: str) -> str:
    if control_type == "negcon":
        return "negative_control"
    return "positive_control" if control_type.startswith("poscon") else "treatment"


def read_layout(root: Path, batch: str, platemap: str, modality: str) -> pd.DataFrame:
    """Read the treatments in the wells of a platemap.

    A blank cell is "DMSO" on a compound plate and "untreated" on the others: a negative control.

    Returns:
        Columns well, treatment ("?" if it is hidden), compound, role, targets, modality.

    Raises:
        InputError: no such platemap, a well that is not an address or occurs twice, or a treatment
            that its metadata table does not have.
    """
    stem = Path(root) / PLATEMAPS / batch / "platemap" / platemap
    path = stem.with_name(f"{platemap}.tsv")
    if not path.is_file():
        path = stem.with_name(f"{platemap}.txt")
    if not path.is_file():
        raise InputError(f"{path}: no such file, named in the batch's barcode_platemap.csv")
    metadata = platemap.replace("_platemap", "_metadata")
    known = read_perturbations(Path(root) / EXTERNAL / f"{metadata}.tsv", modality)
    columns = ("well_position", "broad_sample")
    table = read_table(path, columns, filled=columns[:1], any_row=True, delimiter="\t")
    wells = normalise_wells(table.well_position)
    refuse_rows(path, table, ~wells.str.fullmatch(WELL), "well_position", NO_WELL)
    refuse_rows(path, table, wells.duplicated(), "well_position", "occurs twice")
    blank = "DMSO" if modality == "compound" else "untreated"
    table["broad_sample"] = table.broad_sample.replace({"": blank, "NA": blank})
    unknown = ~table.broad_sample.isin({blank, HIDDEN, *known.treatment})
    refuse_rows(path, table, unknown, "broad_sample", f"is not in the metadata of {platemap}")
    frame = pd.DataFrame({"well": wells, "treatment": table.broad_sample})
    frame = frame.merge(known[known.treatment != blank], on="treatment", how="left")
    is_blank = frame.treatment == blank
    blank_compound = blank if modality == "compound" else None
    frame["compound"] = frame["compound"].where(~is_blank, blank_compound)
    frame["role"] = frame.role.where(~is_blank, "negative_control").fillna("treatment")
    frame["targets"] = frame.targets.map(lambda genes: genes if isinstance(genes, tuple) else ())
    return frame.assign(modality=modality)


def read_layouts(root: Path, plates: pd.DataFrame) -> pd.DataFrame:
    """Read the treatment of every well of some plates, plate by plate.

    Args:
        plates: of `read_plates`, or a part of it; plates without a platemap are left out.

    Returns:
        One row a well: those of `read_layout`, batch, plate, platemap, cell_type, experiment.
    """
    layouts: dict[tuple[str, str, str], pd.DataFrame] = {}
    parts = []
    for batch in sorted(plates.index.unique("batch")):
        for plate, platemap in read_platemaps(root, batch).items():
            if (batch, plate) not in plates.index:
                continue
            facts = plates.loc[(batch, plate)]
            key = (batch, platemap, facts.modality)
            if key not in layouts:
                layouts[key] = read_layout(root, *key)
            experiment = f"{batch}_{facts.cell_type}_{facts.time}h_{facts.modality}"
            names = {"batch": batch, "plate": plate, "platemap": platemap}
            parts.append(
                layouts[key].assign(**names, cell_type=facts.cell_type, experiment=experiment)
            )
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def read_known_wells(root: Path) -> pd.DataFrame:
    """Read the wells of all plates with a platemap whose treatment is not hidden.

    Returns:
        As `read_layouts`.

    Raises:
        InputError: no plate of the experiment metadata has a platemap, or a table is wrong.
    """
    plates = read_plates(root)
    batches = plates.index.get_level_values("batch")
    with_maps = [(root / PLATEMAPS / batch).is_dir() for batch in batches]
    wells = read_layouts(root, plates[with_maps])
    if wells.empty:
        raise InputError(f"{root}: no platemap of a plate in the experiment metadata")
    return wells[wells.treatment != HIDDEN].reset_index(drop=True)


def read_answers(path: Path, id_column: str, target_column: str) -> pd.DataFrame:
    """Read the answers of wells named `<plate>_<well>`, with plate and, if given, cell_type.

    Raises:
        InputError: an id that is empty, doubled or no such name, or an empty target; names the row.
    """
    table = read_table(path, (id_column, target_column))
    if table.empty:
        raise InputError(f"{path}: holds a header and no rows")
    parts = table[id_column].str.rpartition("_")
    ids = table[id_column].where(parts[0] == "", parts[0] + "_" + normalise_wells(parts[2]))
    is_wrong = ~ids.str.fullmatch(r".+_[A-P]\d\d")
    refuse_rows(path, table, is_wrong, id_column, "is not <plate>_<well>")
    refuse_rows(path, table, ids.duplicated(), id_column, "occurs twice")
    answers = pd.DataFrame({id_column: ids, target_column: table[target_column]})
    answers = answers.assign(leaderboard="private", plate=parts[0])
    if "cell_type" in table:
        refuse_rows(path, table, table.cell_type == "", "cell_type", "is empty")
        answers["cell_type"] = table.cell_type
    return answers.reset_index(drop=True)

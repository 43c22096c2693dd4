"""The tables of simulated CPJUMP1 plates: treatments, layouts, plates and their images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.files import atomic_path, write_csv
from cellsignal.competitions.cpjump1.metadata import (
    CHANNEL_NUMBERS,
    CHANNELS,
    EXPERIMENTS,
    EXTERNAL,
    HIDDEN,
    LOAD_DATA,
    PLATEMAPS,
)
from cellsignal.simulation.output import generator
from cellsignal.simulation.plates import WELLS

GENES = (
    *("AURKB", "BRD4", "CDK2", "EGFR", "HDAC3", "HSP90AA1", "IGF1R", "JAK1", "KCNN1", "MAPK14"),
    *("MET", "NAMPT", "PARP1", "PIK3CG", "PLK1", "RET", "SCN5A", "SLC7A11", "TOP1", "TUBB"),
)
BATCH = "2020_11_04_CPJUMP1"
KNOWN_MAP, GUIDE_MAP = "JUMP-Target-1_compound", "JUMP-Target-1_crispr"
HIDDEN_MAP = "JUMP-Target-2_compound"  # of the test plates
MAPS = (KNOWN_MAP, GUIDE_MAP, HIDDEN_MAP)


def file_name(well: str, site: int, channel: str) -> str:
    row, column = ord(well[0]) - 64, well[1:]
    return f"r{row:02d}c{column}f{site:02d}p01-ch{CHANNEL_NUMBERS[channel]}sk1fk1fl1.tiff"


def make_compounds(genes: int, per_gene: int) -> pd.DataFrame:
    """Return the compound metadata: treatments, one positive control, DMSO.

    `gene_hit` says whose effect a compound has.
    """
    rows = []
    for number in range(genes * per_gene):
        gene = number // per_gene
        targets = {GENES[gene]}
        if number % per_gene % 2:
            targets.add(GENES[(gene + 1) % genes])
        sample, name = f"BRD-K{10_000_000 + number}-001-01-1", f"cmpd-{number:03d}"
        rows.append((sample, name, "|".join(sorted(targets)), "trt", "NA", GENES[gene]))
    control = ("BRD-K20000000-001-01-1", "poscon-000", GENES[0], "control", "poscon_cp", "poscon")
    rows += [control, ("NA", "DMSO", "NA", "control", "negcon", "")]
    columns = "broad_sample pert_iname target_list pert_type control_type gene_hit"
    return pd.DataFrame(rows, columns=columns.split())


def make_guides(genes: int) -> pd.DataFrame:
    """Return the CRISPR metadata: two guides a gene, and two that cut nothing."""
    rows = []
    for number in range(2 * genes):
        gene = GENES[number // 2]
        rows.append((f"BRDN{1_000_000_000 + number}", gene, "trt", "", gene))
    for number in range(2):
        rows.append((f"BRDN{2_000_000_000 + number}", "", "control", "negcon", ""))
    columns = "broad_sample gene pert_type control_type gene_hit"
    return pd.DataFrame(rows, columns=columns.split())


def make_layout(seed: int, name: str, table: pd.DataFrame, controls: int) -> pd.DataFrame:
    """Put each treatment into one random well, and the negative controls into others in turn.

    Returns:
        Columns well, treatment, control_type, gene ("" for negative controls).
    """
    is_negative = table.control_type == "negcon"
    negative = table[is_negative]
    repeated = negative.iloc[np.arange(controls) % len(negative)]
    rows = pd.concat([table[~is_negative], repeated], ignore_index=True)
    wells = generator(seed, "layout", name).permutation(WELLS)[: len(rows)].tolist()
    facts = {
        "well": wells,
        "treatment": rows.broad_sample,
        "control_type": rows.control_type,
        "gene": rows.gene_hit,
    }
    return pd.DataFrame(facts).sort_values("well", ignore_index=True)


def make_plates(counts: dict[str, int], cell_types: list[str]) -> pd.DataFrame:
    """Return the table of plates as the publication writes it."""
    rows = []
    for name, count in counts.items():
        modality = name.rpartition("_")[2]
        time = "48" if modality == "compound" else "144"
        for cell_type in np.repeat(cell_types, count).tolist():
            plate = f"BR9{len(rows) + 1:07d}"
            rows.append((BATCH, f"{name}_platemap", plate, modality, cell_type, time))
    columns = "Batch Plate_Map_Name Assay_Plate_Barcode Perturbation Cell_type Time"
    return pd.DataFrame(rows, columns=columns.split())


def make_answers(
    plates: pd.DataFrame, layout: pd.DataFrame | None, compounds: pd.DataFrame
) -> pd.DataFrame:
    """Return the answers of the hidden wells: columns well_id, perturbation, cell_type."""
    if layout is None:
        return pd.DataFrame(columns=["well_id", "perturbation", "cell_type"])
    treated = layout[layout.control_type == "NA"]
    names = treated.treatment.map(compounds.set_index("broad_sample").pert_iname)
    treated = treated.assign(perturbation=names)
    test_plates = plates[plates.Plate_Map_Name == f"{HIDDEN_MAP}_platemap"]
    wells = test_plates.merge(treated, how="cross")
    wells = wells.assign(well_id=wells.Assay_Plate_Barcode + "_" + wells.well)
    wells = wells.rename(columns={"Cell_type": "cell_type"})
    return wells[["well_id", "perturbation", "cell_type"]].sort_values("well_id")


def write_layout(out: Path, name: str, layout: pd.DataFrame, table: pd.DataFrame) -> None:
    """Write a platemap and the metadata beside it.

    The cell of a well is blank for DMSO and `?` for the treatment of a test plate.
    """
    cells = layout.treatment.replace("NA", "")
    if name == HIDDEN_MAP:
        cells = cells.where(layout.control_type != "NA", HIDDEN)
    platemap = pd.DataFrame({"well_position": layout.well, "broad_sample": cells})
    _write_tsv(out / PLATEMAPS / BATCH / "platemap" / f"{name}_platemap.tsv", platemap)
    _write_tsv(out / EXTERNAL / f"{name}_metadata.tsv", table.drop(columns=["gene_hit"]))


def write_load_data(out: Path, plate: str, folder: str, wells: Sequence[str], sites: int) -> None:
    """Write a plate's load_data.csv; `folder` is that of its images, relative to `out`."""
    rows = []
    for well in wells:
        for site in range(1, sites + 1):
            row = {f"FileName_Orig{name}": file_name(well, site, name) for name in CHANNELS}
            row |= {f"PathName_Orig{name}": folder for name in CHANNELS}
            row |= {"Metadata_Plate": plate, "Metadata_Well": well, "Metadata_Site": site}
            rows.append(row)
    write_csv(out / LOAD_DATA / BATCH / plate / "load_data.csv", pd.DataFrame(rows))


def write_plates(out: Path, plates: pd.DataFrame) -> None:
    maps = plates[["Assay_Plate_Barcode", "Plate_Map_Name"]]
    write_csv(out / PLATEMAPS / BATCH / "barcode_platemap.csv", maps)
    _write_tsv(out / EXPERIMENTS, plates)


def _write_tsv(path: Path, frame: pd.DataFrame) -> None:
    with atomic_path(path) as temporary:
        frame.to_csv(temporary, sep="\t", index=False)

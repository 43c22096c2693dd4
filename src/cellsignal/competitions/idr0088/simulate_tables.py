"""The tables of simulated idr0088 plates: the annotation, the list of images, the answers."""

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cellsignal.common.files import atomic_path
from cellsignal.competitions.idr0088 import moa
from cellsignal.competitions.idr0088.images import IMAGE_COLUMNS
from cellsignal.competitions.idr0088.metadata import COLUMNS, FILE, NEGATIVE_CONTROL

RULES = {"idr0088_gpcr": moa.gpcr_classes, "idr0088_moa": moa.moa_classes}
CELLS = {  # of the reporter line -> cell line, its ontology and accession, the look
    "A549": ("A549", "EFO", "EFO_0001086", "MCF7"),
    "HepG2": ("HepG2", "EFO", "EFO_0001187", "HEPG2"),
    "WPMY1": ("WPMY-1", "CLO", "CLO_0009628", "RPE"),
}


@dataclass(frozen=True)
class Compound:
    """A compound of the library; `raw` is its MoA in the annotation, "" for none.

    A hidden compound is a test compound: its MoA is known to the answers alone.
    """

    inchikey: str
    name: str
    raw: str
    mechanisms: tuple[str, ...]
    is_hidden: bool


@dataclass(frozen=True)
class PlateJob:
    """One plate to draw; `layout` has well, compound (None: DMSO) and dose in uM."""

    number: int
    line: str
    experiment: str
    batch: int
    layout: tuple[tuple[str, Compound | None, float], ...]


def write_annotation(out: Path, jobs: list[PlateJob]) -> None:
    """Write the zip, with the same bytes every time."""
    number_of: dict[str, int] = {}
    rows = []
    for job in jobs:
        cells, green, red = job.line.split("-")
        name, ontology, accession, _ = CELLS[cells]
        species = ("Homo sapiens", "NCBITaxon", "NCBITaxon_9606")
        fixed = (*species, name, ontology, accession, job.line)
        channels = f"Ch1 (blue): Nuclei/Cytoplasm, Ch2 (green): {green}, Ch3 (red): {red}"
        line = job.line.replace("-", "")
        location = f"{job.experiment}/PpsL05{line}_{job.experiment[7:]}_{job.number}"
        for well, compound, dose in job.layout:
            cells = _treatment_cells(compound, dose, number_of)
            rows.append((str(job.number), well, *fixed, *cells, channels, location))
    text = io.StringIO()
    pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(text, index=False, lineterminator="\n")
    member = zipfile.ZipInfo(FILE.removesuffix(".zip"))
    with (
        atomic_path(out / FILE) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        archive.writestr(member, text.getvalue(), zipfile.ZIP_DEFLATED)


def _treatment_cells(
    compound: Compound | None, dose: float, number_of: dict[str, int]
) -> tuple[str, ...]:
    """Return the cells from the concentration to the control type."""
    if compound is None:
        return ("", "", "", "DMSO", *[""] * 5, NEGATIVE_CONTROL)
    number = number_of.setdefault(compound.name, 1 + len(number_of))
    moa = "" if compound.is_hidden else compound.raw
    kind = "MoA Reference" if moa else "Prestwick Natural Product"
    link = f"https://pubchem.ncbi.nlm.nih.gov/compound/{number}"
    names = (compound.name, f"CPD{number:04d}", "C", compound.inchikey)
    return (f"{dose:g}", kind, moa, *names, str(number), link, "")


def list_images(jobs: list[PlateJob], fields: int) -> pd.DataFrame:
    rows = []
    for job in jobs:
        for well, _, _ in job.layout:
            for field in range(1, fields + 1):
                files = [f"images/{job.number}/{well}_f{field}_ch{c}.png" for c in (1, 2, 3)]
                rows.append((str(job.number), well, field, 5_000_001 + len(rows), *files))
    return pd.DataFrame(rows, columns=list(IMAGE_COLUMNS))


def make_answers(out: Path, jobs: list[PlateJob], competition: str) -> pd.DataFrame:
    """Return the classes of the hidden compounds' wells, a column a class."""
    _, classes = moa.label_compounds(out / FILE, RULES[competition])
    moas_of = moa.read_moa_table().moas
    rows = []
    for job in jobs:
        for well, compound, _ in job.layout:
            if compound is None or not compound.is_hidden:
                continue
            # an inert compound is known to do nothing
            moas = moas_of([compound.raw], out) if compound.raw else ()
            labels = set(moa.labels_of(moas, classes))
            has_class = [int(number in labels) for number in range(len(classes))]
            ids = (compound.inchikey, str(job.number), job.line)
            rows.append((f"{job.number}_{well}", *has_class, *ids))
    return pd.DataFrame(rows, columns=["well_id", *classes, "compound", "plate", "cell_type"])

"""Simulated CPJUMP1: replicate plates, compounds and guides that hit the same genes, 16-bit TIFFs.

A compound mostly does what its gene's knock-out does, so that targets can be matched within and
across modalities. A well's position has an effect that all plates share, as on the real ones. Test
plates have the same compounds in another layout, which is hidden, so that position does not help.
`noise=1` writes planes of shot noise alone: nothing in them can tell a label.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
from tifffile import imwrite

from cellsignal.common.errors import InputError
from cellsignal.common.files import write_csv
from cellsignal.competitions.base import answers_path
from cellsignal.competitions.cpjump1 import simulate_tables as tables
from cellsignal.competitions.cpjump1.metadata import CHANNELS
from cellsignal.simulation import output, phenotypes
from cellsignal.simulation.cells import STAINS
from cellsignal.simulation.plates import WELLS, Plate, Site, draw_optics, draw_plate

# name -> the look of `cells.CELL_TYPES` that it is drawn with
CELL_TYPES = {"A549": "RPE", "U2OS": "U2OS"}
CHANNEL_STAINS = {"AGP": "actin", "DNA": "nuclei", "ER": "er", "Mito": "mito", "RNA": "rna"}
STARTED, COURSE_PLATE = "2020-11-05T19_51_35-Measurement1", "BR90000001"
POSITION_SHIFT, GENE_SHARE, OWN_SHARE = 0.6, 0.9, 0.4
_COUNTS, _NOISE = 24.0, 1000.0  # counts for each gray level; mean of a noise plane
_MEAN, _CONTRAST, _PLATE_SPREAD = 32.0, 0.6, 0.2
_RANGES = {
    "genes": (1, len(tables.GENES)),
    "compounds_per_gene": (1, None),
    "controls": (1, None),
    "plates": (1, None),
    "crispr_plates": (0, None),
    "test_plates": (0, None),
    "cell_types": (1, len(CELL_TYPES)),
    "sites": (1, 99),
    "size": (16, None),
    "noise": (0, 1),
}


@dataclass(frozen=True)
class PlateJob:
    """One plate to draw.

    Attributes:
        wells: address, what the well got, and its gene ("" if it has none).
    """

    plate: str
    folder: Path
    cell_type: str
    experiment: str
    wells: tuple[tuple[str, str, str], ...]


@output.simulator
def simulate_cpjump1(
    out: Path | str,
    seed: int = 0,
    *,
    genes: int = 6,
    compounds_per_gene: int = 2,
    controls: int = 6,
    plates: int = 3,
    crispr_plates: int = 2,
    test_plates: int = 1,
    cell_types: int = 2,
    sites: int = 2,
    size: int = 64,
    noise: int = 0,
    workers: int = 1,
) -> None:
    """Write simulated plates to `out` in the bucket's layout, and their answers beside it.

    Args:
        out: new, empty, or this very simulation; the answers go to `answers_path(out)`.
        genes: that compounds and guides hit; two guides a gene.
        compounds_per_gene: every second one hits the next gene as well.
        controls: DMSO wells of a compound plate; wells of guides that cut nothing of a CRISPR
            plate. One positive control stands beside them.
        plates, crispr_plates, test_plates: for each cell type; test plates are compound plates.
        cell_types: 1 (A549) or 2 (and U2OS).
        sites, size: fields a well; height and width in pixels.
        noise: 1 for planes without cells.
        workers: processes that draw.

    Raises:
        InputError: an argument out of its range, or `out` holds something else.
    """
    sizes = {name: value for name, value in locals().items() if name in _RANGES}
    output.check_sizes("cpjump1", sizes, _RANGES)
    _simulate_plates(Path(out), seed, SimpleNamespace(**sizes), workers)


def _simulate_plates(out: Path, seed: int, sizes: SimpleNamespace, workers: int) -> None:
    n_wells = max(sizes.genes * sizes.compounds_per_gene + 1, 2 * sizes.genes) + sizes.controls
    if n_wells > len(WELLS):
        raise InputError(
            f"simulate cpjump1: {n_wells} wells, more wells than the {len(WELLS)} of a plate; "
            "lower genes, compounds_per_gene or controls"
        )
    settings = {"competition": "cpjump1", "seed": seed, **vars(sizes)}
    output.claim_folder(out, answers_path(out), settings)
    compounds = tables.make_compounds(sizes.genes, sizes.compounds_per_gene)
    guides = tables.make_guides(sizes.genes)
    treatments = dict(zip(tables.MAPS, (compounds, guides, compounds), strict=True))
    plates = sizes.plates, sizes.crispr_plates, sizes.test_plates
    counts = dict(zip(tables.MAPS, plates, strict=True))
    layouts = {
        name: tables.make_layout(seed, name, table, sizes.controls)
        for name, table in treatments.items()
        if counts[name]
    }
    plate_table = tables.make_plates(counts, list(CELL_TYPES)[: sizes.cell_types])
    jobs = [_plate_job(out, row, layouts) for row in plate_table.itertuples()]
    n_fields = sum(len(job.wells) for job in jobs) * sizes.sites
    draw = partial(_draw, seed=seed, sizes=sizes)
    output.run_jobs(draw, jobs, n_fields, workers)
    hidden_layout = layouts.get(tables.HIDDEN_MAP)
    write_csv(answers_path(out), tables.make_answers(plate_table, hidden_layout, compounds))
    for job in jobs:
        folder = job.folder.relative_to(out).as_posix()
        wells = [well for well, _, _ in job.wells]
        tables.write_load_data(out, job.plate, folder, wells, sizes.sites)
    for name, layout in layouts.items():
        tables.write_layout(out, name, layout, treatments[name])
    tables.write_plates(out, plate_table)


@output.simulator
def simulate_course(
    out: Path | str,
    seed: int = 0,
    *,
    compounds: int = 8,
    wells: int = 3,
    singles: int = 4,
    controls: int = 8,
    sites: int = 4,
    size: int = 64,
    noise: int = 0,
    workers: int = 1,
) -> None:
    """Write one simulated plate to `out` as the course has it: RNA planes and metadata.csv.

    Of each compound with several wells one well is hidden.

    Args:
        compounds: names with `wells` (2 or more) wells each.
        singles: names with one well; with `compounds` and DMSO 50 names at most.
        controls: DMSO wells, a quarter of them hidden.
        out, sites, size, noise, workers: as `simulate_cpjump1`.

    Raises:
        InputError: an argument out of its range, or `out` holds something else.
    """
    ranges = {"compounds": (1, 49 - singles), "wells": (2, None), "singles": (0, None)}
    ranges |= {"controls": (2, None), "sites": (1, 99), "size": (16, None), "noise": (0, 1)}
    sizes = {name: value for name, value in locals().items() if name in ranges}
    output.check_sizes("cpjump1_course", sizes, ranges)
    _simulate_course_plate(Path(out), seed, SimpleNamespace(**sizes), workers)


def _simulate_course_plate(out: Path, seed: int, sizes: SimpleNamespace, workers: int) -> None:
    names = [f"compound-{i:02d}" for i in range(sizes.compounds) for _ in range(sizes.wells)]
    names += [f"single-{i:02d}" for i in range(sizes.singles)]
    names += ["DMSO"] * sizes.controls
    if len(names) > len(WELLS):
        raise InputError(
            f"simulate cpjump1_course: {len(names)} wells on a plate of {len(WELLS)}; lower "
            "compounds, wells, singles or controls"
        )
    settings = {"competition": "cpjump1_course", "seed": seed, **vars(sizes)}
    output.claim_folder(out, answers_path(out), settings)
    table = pd.DataFrame({"name": names})
    table["well"] = output.generator(seed, "places").permutation(WELLS)[: len(names)].tolist()
    table["gene"] = table.name.replace("DMSO", "")
    table["hidden"] = (table.index % sizes.wells == 0) & (
        table.index < sizes.compounds * sizes.wells
    )
    table.loc[len(names) - max(1, sizes.controls // 4) :, "hidden"] = True
    well_rows = tuple(table[["well", "name", "gene"]].itertuples(index=False, name=None))
    job = PlateJob(COURSE_PLATE, out / "images", "A549", "course", well_rows)
    draw = partial(_draw, seed=seed, sizes=sizes, channels=("RNA",))
    output.run_jobs(draw, [job], len(names) * sizes.sites, workers)
    table = table.sort_values("well")
    hidden = table[table.hidden]
    answers = {"well_id": f"{COURSE_PLATE}_" + hidden.well, "pert_iname": hidden.name}
    write_csv(answers_path(out), pd.DataFrame(answers))
    rows = table.merge(pd.DataFrame({"site": range(1, sizes.sites + 1)}), how="cross")
    files = [tables.file_name(row.well, row.site, "RNA").capitalize() for row in rows.itertuples()]
    frame = pd.DataFrame(
        {
            "FileName_OrigRNA": files,  # the course's case is mixed
            "Metadata_pert_iname": rows.name,
            "Metadata_Well": rows.well,
            "Metadata_Plate": COURSE_PLATE,
        }
    )
    write_csv(out / "test.csv", frame[rows.hidden].drop(columns="Metadata_pert_iname"))
    write_csv(out / "metadata.csv", frame[~rows.hidden])


# planes
# --------------------------------------------------------------------------------------------------


def _plate_job(out: Path, row, layouts: dict[str, pd.DataFrame]) -> PlateJob:
    layout = layouts[row.Plate_Map_Name.removesuffix("_platemap")]
    plate = row.Assay_Plate_Barcode
    folder = out / "images" / tables.BATCH / "images" / f"{plate}__{STARTED}" / "Images"
    wells = tuple(layout[["well", "treatment", "gene"]].itertuples(index=False, name=None))
    return PlateJob(plate, folder, row.Cell_type, f"{row.Cell_type}-{row.Perturbation}", wells)


def _draw(
    job: PlateJob, seed: int, sizes: SimpleNamespace, channels: tuple[str, ...] = CHANNELS
) -> int:
    """Draw one plate and write its planes; return the number of fields."""
    job.folder.mkdir(parents=True, exist_ok=True)
    pairs = [(well, site) for well, _, _ in job.wells for site in range(1, sizes.sites + 1)]
    if sizes.noise:
        mean = np.full((len(channels), sizes.size, sizes.size), _NOISE)
        for well, site in pairs:
            rng = output.generator(seed, "counts", job.plate, well, site)
            _write_counts(job.folder, well, site, channels, mean, rng)
        return len(pairs)
    pair_of = {f"{job.plate}_{well}_s{site}": (well, site) for well, site in pairs}
    stains = tuple(STAINS.index(CHANNEL_STAINS[channel]) for channel in channels)
    plate = _plate_to_draw(job, seed, pair_of, len(channels))
    for site_drawn, image in draw_plate(plate, sizes.size, seed, stains):
        well, site = pair_of[site_drawn.name]
        rng = output.generator(seed, "counts", job.plate, well, site)
        mean = np.maximum(image + rng.uniform(-0.5, 0.5, image.shape), 0.5) * _COUNTS
        _write_counts(job.folder, well, site, channels, mean, rng)
    return len(pairs)


def _plate_to_draw(
    job: PlateJob, seed: int, pair_of: dict[str, tuple[str, int]], n_channels: int
) -> Plate:
    rng = output.generator(seed, "brightness", job.plate)
    mean = _MEAN * np.exp(_PLATE_SPREAD * rng.normal(size=n_channels))
    optics = draw_optics(mean, _CONTRAST * mean, seed, job.experiment, job.plate)
    response = phenotypes.experiment_response(seed, job.experiment)
    looks = {}
    for well, treatment, gene in job.wells:
        full_effect = _effect(seed, treatment, gene, job.cell_type, well)
        units = phenotypes.well_effect(seed, full_effect, response, (job.plate,), well)
        looks[well] = phenotypes.look_of(CELL_TYPES[job.cell_type], units)
    sites = tuple(Site(name, well, looks[well]) for name, (well, _) in pair_of.items())
    return Plate(job.plate, optics, sites)


def _write_counts(
    folder: Path,
    well: str,
    site: int,
    channels: tuple[str, ...],
    mean: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """Draw the photon counts of a field, whose means are (C, H, W), and write its planes."""
    counts = np.rint(mean + np.sqrt(mean) * rng.normal(size=mean.shape))
    planes = np.clip(counts, 0, 65535).astype(np.uint16)
    for channel, plane in zip(channels, planes, strict=True):
        path = folder / tables.file_name(well, site, channel)
        try:
            imwrite(path, plane, compression="zlib", metadata=None)
        except OSError as error:
            raise InputError(f"{path}: could not be written ({error.strerror or error})") from error


def _effect(seed: int, treatment: str, gene: str, cell_type: str, well: str) -> np.ndarray:
    """Return (N_EFFECTS,) units: the gene's, the treatment's own, and those of the position."""
    rng = output.generator(seed, "position", well)
    position = POSITION_SHIFT * rng.normal(size=phenotypes.N_EFFECTS)
    if not gene:
        return position
    gene_effect = GENE_SHARE * phenotypes.effect(seed, f"gene {gene}", cell_type)
    return gene_effect + OWN_SHARE * phenotypes.effect(seed, treatment, cell_type) + position

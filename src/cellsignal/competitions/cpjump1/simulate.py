"""Simulated CPJUMP1: replicate plates of one layout, compounds and CRISPR guides that hit the same
genes, position effects, 16-bit TIFFs.

What a compound does is mostly what its gene's knock-out does, so that targets can be matched within
and across modalities. A well's place has an effect of its own that all plates share, as on the real
ones. The compounds of test plates are the same, their layout is another one and hidden: position
does not help. `noise=1` writes planes of shot noise alone: whatever is "predicted" from them was
not seen in an image.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.files import atomic_path, write_csv
from cellsignal.simulation.cells import STAINS
from cellsignal.simulation.output import claim_folder, generator, run_jobs, simulator
from cellsignal.simulation.phenotypes import (
    N_EFFECTS,
    effect,
    experiment_response,
    look_of,
    well_effect,
)
from cellsignal.simulation.plates import WELLS, Plate, Site, draw_optics, draw_plate

GENES = (
    *("AURKB", "BRD4", "CDK2", "EGFR", "HDAC3", "HSP90AA1", "IGF1R", "JAK1", "KCNN1", "MAPK14"),
    *("MET", "NAMPT", "PARP1", "PIK3CG", "PLK1", "RET", "SCN5A", "SLC7A11", "TOP1", "TUBB"),
)
# name -> the look of `cells.CELL_TYPES` that it is drawn with
CELL_TYPES = {"A549": "RPE", "U2OS": "U2OS"}
HIDDEN_MAP = "JUMP-Target-2_compound"  # of the test plates
BATCH, STARTED = "2020_11_04_CPJUMP1", "2020-11-05T19_51_35-Measurement1"
# number in the file's name, stain
CHANNELS = {
    "AGP": (2, "actin"),
    "DNA": (5, "nuclei"),
    "ER": (4, "er"),
    "Mito": (1, "mito"),
    "RNA": (3, "rna"),
}
POSITION_SHIFT, GENE_SHARE, OWN_SHARE = 0.6, 0.9, 0.4
_COUNTS, _NOISE = 24.0, 1000.0  # counts for each gray level; mean of a noise plane
_MEAN, _CONTRAST, _PLATE_SPREAD = 32.0, 0.6, 0.2
_MOST = 10**6
_PLATEMAPS = f"workspace/metadata/platemaps/{BATCH}"
_RANGES = {
    **{
        "genes": (1, len(GENES)),
        "cell_types": (1, len(CELL_TYPES)),
        "noise": (0, 1),
        "sites": (1, 99),
        "size": (16, _MOST),
    },
    **{
        "compounds_per_gene": (1, _MOST),
        "controls": (1, _MOST),
        "plates": (1, _MOST),
        "crispr_plates": (0, _MOST),
        "test_plates": (0, _MOST),
    },
}


@dataclass(frozen=True)
class _Job:
    """One plate to draw: its folder, and (address, what the well got, its gene or "") of each well."""

    plate: str
    folder: Path
    cell_type: str
    experiment: str
    wells: tuple[tuple[str, str, str], ...]


@simulator
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
    """Write simulated plates to `out` (new, empty, or this very simulation) in the bucket's layout,
    and the answers to `answers_path(out)`.

    Args:
        genes: that compounds and guides hit; two guides a gene.
        compounds_per_gene: every second one hits the next gene as well.
        controls: DMSO wells of a compound plate; wells of two cutting-nothing guides of a CRISPR
        plate. One positive control stands beside them. plates, crispr_plates, test_plates: for each
        cell type; test plates are compound plates. cell_types: 1 (A549) or 2 (and U2OS). sites,
        size: fields a well; height and width in pixels. noise, workers: 1 for planes without cells;
        processes that draw.

    Raises:
        InputError: an argument out of its range, or `out` holds something else.
    """
    # imported late, for competitions import this module
    from cellsignal.competitions.base import answers_path

    out = Path(out)
    numbers = {
        "genes": genes,
        "compounds_per_gene": compounds_per_gene,
        "controls": controls,
        "plates": plates,
        "crispr_plates": crispr_plates,
    }
    _check(
        "cpjump1",
        numbers := numbers
        | {
            "test_plates": test_plates,
            "cell_types": cell_types,
            "sites": sites,
            "size": size,
            "noise": noise,
        },
        _RANGES,
    )
    if (wells := max(genes * compounds_per_gene + 1, 2 * genes) + controls) > len(WELLS):
        raise InputError(
            f"simulate cpjump1: {wells} wells, more wells than the {len(WELLS)} of a plate; lower "
            "genes, compounds_per_gene or controls"
        )
    claim_folder(out, answers_path(out), {"competition": "cpjump1", "seed": seed, **numbers})
    tables = {"compound": _compounds(genes, compounds_per_gene), "crispr": _guides(genes)}
    counts = {
        "JUMP-Target-1_compound": plates,
        "JUMP-Target-1_crispr": crispr_plates,
        HIDDEN_MAP: test_plates,
    }
    layouts = {
        name: _layout(seed, name, tables[name.rsplit("_")[-1]], controls)
        for name, count in counts.items()
        if count
    }
    jobs, about = _plates(out, layouts, counts, list(CELL_TYPES)[:cell_types])
    run_jobs(
        partial(_draw, seed=seed, size=size, sites=sites, noise=bool(noise)),
        jobs,
        sum(len(job.wells) for job in jobs) * sites,
        workers,
    )
    write_csv(answers_path(out), _answers(about, layouts, tables["compound"]))
    for job in jobs:
        _write_load_data(out, job, sites)
    for name, layout in layouts.items():
        _write_layout(out, name, layout, tables[name.rsplit("_")[-1]])
    _write_plates(out, about)


@simulator
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
    """Write one simulated plate to `out` as the course project has it: RNA planes and metadata.csv;
    of each compound of several wells one is hidden.

    Args:
        compounds: names with `wells` (2 or more) wells each.
        singles: names with one well; with `compounds` and DMSO 50 names at most.
        controls: DMSO wells, a quarter of them hidden.
        sites, size, noise, workers: as `simulate_cpjump1`.

    Raises:
        InputError: an argument out of its range, or `out` holds something else.
    """
    from cellsignal.competitions.base import answers_path

    out = Path(out)
    numbers = {
        "compounds": compounds,
        "wells": wells,
        "singles": singles,
        "controls": controls,
        "sites": sites,
        "size": size,
        "noise": noise,
    }
    least = {
        "compounds": 1,
        "wells": 2,
        "singles": 0,
        "controls": 2,
        "sites": 1,
        "size": 16,
        "noise": 0,
    }
    most = {"compounds": 49 - singles, "sites": 99, "noise": 1}
    _check(
        "cpjump1_course",
        numbers,
        {name: (low, most.get(name, _MOST)) for name, low in least.items()},
    )
    names = (
        [f"compound-{i:02d}" for i in range(compounds) for _ in range(wells)]
        + [f"single-{i:02d}" for i in range(singles)]
        + ["DMSO"] * controls
    )
    if len(names) > len(WELLS):
        raise InputError(
            f"simulate cpjump1_course: {len(names)} wells on a plate of {len(WELLS)}; lower "
            "compounds, wells, singles or controls"
        )
    claim_folder(out, answers_path(out), {"competition": "cpjump1_course", "seed": seed, **numbers})
    plate = "BR90000001"
    places = generator(seed, "places").permutation(WELLS)[: len(names)].tolist()
    got = tuple(
        (well, name, "" if name == "DMSO" else name)
        for well, name in zip(places, names, strict=True)
    )
    draw = partial(_draw, seed=seed, size=size, sites=sites, noise=bool(noise), channels=("RNA",))
    run_jobs(
        draw, [_Job(plate, out / "images", "A549", "course", got)], len(names) * sites, workers
    )
    hidden = np.isin(
        np.arange(len(names)),
        [
            *range(0, compounds * wells, wells),
            *range(len(names) - max(1, controls // 4), len(names)),
        ],
    )
    table = pd.DataFrame({"well": places, "name": names, "hidden": hidden}).sort_values("well")
    asked = table[table.hidden]
    write_csv(
        answers_path(out),
        pd.DataFrame({"well_id": plate + "_" + asked.well, "pert_iname": asked["name"]}),
    )
    rows = table.merge(pd.DataFrame({"site": range(1, sites + 1)}), how="cross")
    # the course's case is mixed
    files = [
        _file_name(well, site, "RNA").capitalize()
        for well, site in zip(rows.well, rows.site, strict=True)
    ]
    frame = pd.DataFrame(
        {
            "FileName_OrigRNA": files,
            "Metadata_pert_iname": rows["name"],
            "Metadata_Well": rows.well,
            "Metadata_Plate": plate,
        }
    )
    write_csv(out / "test.csv", frame[rows.hidden].drop(columns="Metadata_pert_iname"))
    write_csv(out / "metadata.csv", frame[~rows.hidden])


def _check(competition: str, numbers: dict[str, int], ranges: dict[str, tuple[int, int]]) -> None:
    for name, value in numbers.items():
        low, high = ranges[name]
        if not low <= value <= high:
            wanted = f"at least {low}" if high == _MOST else f"{low} to {high}"
            raise InputError(f"simulate {competition}: {name} is {value}, {wanted} needed")


def _plates(
    out: Path, layouts: dict[str, pd.DataFrame], counts: dict[str, int], cell_types: list[str]
) -> tuple[list[_Job], pd.DataFrame]:
    """Every plate to draw, and the table of plates as the publication writes it."""
    jobs, rows = [], []
    for name, layout in layouts.items():
        modality = name.rsplit("_")[-1]
        wells = tuple(layout[["well", "treatment", "gene"]].itertuples(index=False, name=None))
        for cell_type in [cell_type for cell_type in cell_types for _ in range(counts[name])]:
            plate = f"BR9{len(jobs) + 1:07d}"
            jobs.append(
                _Job(
                    plate,
                    out / "images" / BATCH / "images" / f"{plate}__{STARTED}" / "Images",
                    cell_type,
                    f"{cell_type}-{modality}",
                    wells,
                )
            )
            rows.append(
                (
                    BATCH,
                    f"{name}_platemap",
                    plate,
                    modality,
                    cell_type,
                    "48" if modality == "compound" else "144",
                )
            )
    return jobs, pd.DataFrame(
        rows,
        columns=[
            "Batch",
            "Plate_Map_Name",
            "Assay_Plate_Barcode",
            "Perturbation",
            "Cell_type",
            "Time",
        ],
    )


def _answers(
    about: pd.DataFrame, layouts: dict[str, pd.DataFrame], compounds: pd.DataFrame
) -> pd.DataFrame:
    """What stands in the hidden wells: columns well_id, perturbation, cell_type."""
    empty = pd.DataFrame(columns=["well", "treatment", "control_type"])
    asked = (
        layouts.get(HIDDEN_MAP, empty)
        .query("control_type == 'NA'")
        .merge(compounds, left_on="treatment", right_on="broad_sample")
    )
    pairs = about[about.Plate_Map_Name == f"{HIDDEN_MAP}_platemap"].merge(asked, how="cross")
    cells = {
        "well_id": pairs.Assay_Plate_Barcode + "_" + pairs.well,
        "perturbation": pairs.pert_iname,
        "cell_type": pairs.Cell_type,
    }
    return pd.DataFrame(cells).sort_values("well_id")


def _compounds(genes: int, per_gene: int) -> pd.DataFrame:
    """The compound metadata: treatments, one positive control, DMSO. `gene` says whose effect a
    compound has.
    """
    rows = []
    for number in range(genes * per_gene):
        gene = number // per_gene
        targets = sorted(
            {GENES[gene], GENES[(gene + 1) % genes]} if number % per_gene % 2 else {GENES[gene]}
        )
        rows.append(
            (
                f"BRD-K{10_000_000 + number}-001-01-1",
                f"cmpd-{number:03d}",
                "|".join(targets),
                "trt",
                "NA",
                GENES[gene],
            )
        )
    rows.append(
        ("BRD-K20000000-001-01-1", "poscon-000", GENES[0], "control", "poscon_cp", "poscon")
    )
    rows.append(("NA", "DMSO", "NA", "control", "negcon", ""))
    return pd.DataFrame(
        rows,
        columns=[
            "broad_sample",
            "pert_iname",
            "target_list",
            "pert_type",
            "control_type",
            "gene_hit",
        ],
    )


def _guides(genes: int) -> pd.DataFrame:
    """The CRISPR metadata: two guides a gene, two that cut nothing."""
    rows = [
        (f"BRDN{1_000_000_000 + 2 * g + i}", GENES[g], "trt", "", GENES[g])
        for g in range(genes)
        for i in range(2)
    ]
    rows += [(f"BRDN{2_000_000_000 + i}", "", "control", "negcon", "") for i in range(2)]
    return pd.DataFrame(
        rows, columns=["broad_sample", "gene", "pert_type", "control_type", "gene_hit"]
    )


def _layout(seed: int, key: str, table: pd.DataFrame, controls: int) -> pd.DataFrame:
    """Random wells: columns well, treatment, control_type, gene ("" for negative controls); each
    treatment once, the negative controls in turn.
    """
    negative = table[table.control_type == "negcon"]
    rows = pd.concat(
        [table[table.control_type != "negcon"], negative.iloc[np.arange(controls) % len(negative)]],
        ignore_index=True,
    )
    places = generator(seed, "layout", key).permutation(WELLS)[: len(rows)].tolist()
    frame = pd.DataFrame(
        {
            "well": places,
            "treatment": rows.broad_sample,
            "control_type": rows.control_type,
            "gene": rows.gene_hit,
        }
    )
    return frame.sort_values("well", ignore_index=True)


def _effect(seed: int, treatment: str, gene: str, cell_type: str, well: str) -> np.ndarray:
    """(N_EFFECTS,) units: the gene's, the treatment's own, and that of the place."""
    place = POSITION_SHIFT * generator(seed, "position", well).normal(size=N_EFFECTS)
    if not gene:
        return place
    return (
        GENE_SHARE * effect(seed, f"gene {gene}", cell_type)
        + OWN_SHARE * effect(seed, treatment, cell_type)
        + place
    )


def _draw(
    job: _Job,
    seed: int,
    size: int,
    sites: int,
    noise: bool,
    channels: tuple[str, ...] = tuple(CHANNELS),
) -> int:
    """Draw one plate and write its planes; says how many fields."""
    job.folder.mkdir(parents=True, exist_ok=True)
    number = 0
    for well, site, image in _fields(job, seed, size, sites, noise, channels):
        rng = generator(seed, "counts", job.plate, well, site)
        mean = (
            np.maximum(image + rng.uniform(-0.5, 0.5, image.shape), 0.5) * _COUNTS
            if image is not None
            else np.full((len(channels), size, size), _NOISE)
        )
        counts = np.clip(
            np.rint(mean + np.sqrt(mean) * rng.normal(size=mean.shape)), 0, 65535
        ).astype(np.uint16)
        for channel, plane in zip(channels, counts, strict=True):
            _write_tiff(job.folder / _file_name(well, site, channel), plane)
        number += 1
    return number


def _fields(
    job: _Job, seed: int, size: int, sites: int, noise: bool, channels: tuple[str, ...]
) -> Iterator[tuple[str, int, np.ndarray | None]]:
    """Well, site, and the picture (C, size, size) uint8; None for noise."""
    names = {
        f"{job.plate}_{well}_s{site}": (well, site)
        for well, _, _ in job.wells
        for site in range(1, sites + 1)
    }
    if noise:
        yield from ((well, site, None) for well, site in names.values())
        return
    rng = generator(seed, "brightness", job.plate)
    mean = _MEAN * np.exp(_PLATE_SPREAD * rng.normal(size=len(channels)))
    optics = draw_optics(mean, _CONTRAST * mean, seed, job.experiment, job.plate)
    response = experiment_response(seed, job.experiment)
    looks = {}
    for well, treatment, gene in job.wells:
        seen = well_effect(
            seed, _effect(seed, treatment, gene, job.cell_type, well), response, (job.plate,), well
        )
        looks[well] = look_of(CELL_TYPES[job.cell_type], seen)
    plate = Plate(
        job.plate, optics, tuple(Site(name, well, looks[well]) for name, (well, _) in names.items())
    )
    for site, image in draw_plate(
        plate, size, seed, tuple(STAINS.index(CHANNELS[channel][1]) for channel in channels)
    ):
        yield *names[site.name], image


def _file_name(well: str, site: int, channel: str) -> str:
    return (
        f"r{ord(well[0]) - 64:02d}c{well[1:]}f{site:02d}p01-ch{CHANNELS[channel][0]}sk1fk1fl1.tiff"
    )


def _write_tiff(path: Path, plane: np.ndarray) -> None:
    from tifffile import imwrite

    try:
        imwrite(path, plane, compression="zlib", metadata=None)
    except OSError as error:
        raise InputError(f"{path}: could not be written ({error.strerror or error})") from error


def _write_layout(out: Path, name: str, layout: pd.DataFrame, table: pd.DataFrame) -> None:
    """The platemap, blank where DMSO is and `?` where a test plate's treatment is, and the metadata
    beside it.
    """
    cells = layout.treatment.replace("NA", "")
    if name == HIDDEN_MAP:
        cells = cells.where(layout.control_type != "NA", "?")
    _write_tsv(
        out / _PLATEMAPS / "platemap" / f"{name}_platemap.tsv",
        pd.DataFrame({"well_position": layout.well, "broad_sample": cells}),
    )
    _write_tsv(
        out / "workspace/metadata/external_metadata" / f"{name}_metadata.tsv",
        table.drop(columns=["gene_hit"]),
    )


def _write_plates(out: Path, about: pd.DataFrame) -> None:
    write_csv(
        out / _PLATEMAPS / "barcode_platemap.csv", about[["Assay_Plate_Barcode", "Plate_Map_Name"]]
    )
    _write_tsv(out / "experiment-metadata.tsv", about)


def _write_load_data(out: Path, job: _Job, sites: int) -> None:
    place = job.folder.relative_to(out).as_posix()
    rows = [
        {f"FileName_Orig{channel}": _file_name(well, site, channel) for channel in CHANNELS}
        | {f"PathName_Orig{channel}": place for channel in CHANNELS}
        | {"Metadata_Plate": job.plate, "Metadata_Well": well, "Metadata_Site": site}
        for well, _, _ in job.wells
        for site in range(1, sites + 1)
    ]
    write_csv(
        out / "workspace/load_data_csv" / BATCH / job.plate / "load_data.csv", pd.DataFrame(rows)
    )


def _write_tsv(path: Path, frame: pd.DataFrame) -> None:
    with atomic_path(path) as temporary:
        frame.to_csv(temporary, sep="\t", index=False)

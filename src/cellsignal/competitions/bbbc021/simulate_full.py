"""Simulated BBBC021 in full: its two tables, its folders of 16-bit TIFFs, weeks of replicate plates
with DMSO wells.

As on the real plates one compound stands on every plate (there taxol), some doses of annotated
compounds have no annotation, and the wells of test compounds stand beside the others on the same
plates.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.files import write_csv, write_text
from cellsignal.competitions.bbbc021.simulate import BATCH_SHIFT, COMPOUND_SPREAD, FLAT
from cellsignal.competitions.bbbc021.simulate import MECHANISMS as SIX
from cellsignal.simulation.cells import STAINS
from cellsignal.simulation.output import claim_folder, generator, run_jobs, simulator
from cellsignal.simulation.phenotypes import N_EFFECTS, look_of, units, well_effect
from cellsignal.simulation.plates import Plate, Site, draw_optics, draw_plate

MECHANISMS: dict[str, np.ndarray] = {
    "Microtubule stabilizers": units(
        stain_er=1.8, er_texture=2.0, binucleate=2.0, rounded=1.2, density=-1.2, nucleus=0.8
    ),
    "Actin disruptors": units(
        stain_actin=-2.4, cortex=-2.0, fibre=-2.0, reach=-1.5, binucleate=1.5
    ),
    "Epithelial": units(clumping=2.4, cortex=2.2, stain_actin=1.4, elongation=-1.5, reach=-0.8),
    "Kinase inhibitors": units(
        reach=2.2, elongation=1.6, clumping=-2.0, fibre=1.8, stain_actin=0.8
    ),
    "Microtubule destabilizers": units(
        stain_er=-1.6, er_texture=-2.0, rounded=2.4, er_extent=-1.8, density=-1.4
    ),
    "Protein degradation": units(
        density=-2.8, er_extent=-1.2, rounded=1.6, nucleoli=2.4, chromatin=2.0, stain_nuclei=0.8
    ),
    **SIX,
}
CONTROL = "DMSO"
# the inner 60 of a 96-well plate
WELLS = tuple(f"{row}{column:02d}" for row in "BCDEFG" for column in range(2, 12))
# 16-bit counts a gray level of the drawing; the camera's own offset
COUNTS_PER_LEVEL, FLOOR = 20, 120
# small pictures show a small part of a field: real islands would leave many of their crops empty
EVEN = 0.3
# published name -> number in file names, stain
_CHANNELS = {"DAPI": (1, "nuclei"), "Tubulin": (2, "er"), "Actin": (4, "actin")}
# gray levels; SD of their logs between plates
_MEAN, _SD, _SPREAD = (30.0, 34.0, 36.0), (22.0, 20.0, 18.0), 0.2


@dataclass(frozen=True)
class _Sizes:
    compounds_per_class: int
    test_compounds_per_class: int
    doses: int
    replicates: int
    controls: int
    weeks: int
    sites: int
    size: int
    classes: int


@dataclass(frozen=True)
class _Well:
    week: int
    compound: str
    moa: str  # CONTROL for the solvent
    dose: float
    strength: float  # 0 .. 1 of the compound's effect
    annotated: bool
    test: bool
    plate: str = ""
    replicate: int = 0
    address: str = ""


@simulator
def simulate_bbbc021_full(
    out: Path | str,
    seed: int = 0,
    *,
    compounds_per_class: int = 3,
    test_compounds_per_class: int = 1,
    doses: int = 1,
    replicates: int = 3,
    controls: int = 4,
    weeks: int = 3,
    sites: int = 4,
    size: int = 128,
    classes: int = 12,
    workers: int = 1,
) -> None:
    """Write simulated plates to `out` in the published layout; the answers (well_id, moa, ...) go
    to `answers_path(out)`.

    The first compound stands on every plate; each other compound in one week, all its doses on each
    of the week's `replicates` plates. The first compound of every week has one more dose, a weak
    one, which is not annotated. The files depend on the arguments other than `workers` alone.

    Args:
        out: a new or empty folder, or one that holds this very simulation.
        seed: of everything random.
        compounds_per_class, test_compounds_per_class: annotated compounds of each mechanism, and
        others without any annotation. doses: of each compound, annotated where the compound is.
        replicates: plates a week. controls: DMSO wells a plate. weeks: batches, of plates of their
        own. sites: fields a well. size: height of a field in pixels, the width is 5/4 of it.
        Divisible by 8. classes: mechanisms, at most 12. workers: processes that draw.

    Raises:
        InputError: an argument out of its range, or `out` holds something else.
    """
    # imported late, for competitions import this module
    from cellsignal.competitions.base import answers_path

    out = Path(out)
    sizes = _check(
        _Sizes(
            compounds_per_class,
            test_compounds_per_class,
            doses,
            replicates,
            controls,
            weeks,
            sites,
            size,
            classes,
        )
    )
    claim_folder(
        out, answers_path(out), {"competition": "bbbc021_full", "seed": seed, **vars(sizes)}
    )
    wells = _wells(seed, sizes)
    table = _image_table(seed, wells, sizes.sites)
    plates = {well.plate: [] for well in wells}
    for well in wells:
        plates[well.plate].append(well)
    run_jobs(
        partial(_draw_plate, out=out, table=table, seed=seed, size=size),
        plates.values(),
        len(table),
        workers,
    )
    _write_tables(out, answers_path(out), wells, table)


def _wells(seed: int, sizes: _Sizes) -> list[_Well]:
    """All wells of all plates."""
    rng = generator(seed, "wells")
    names = list(MECHANISMS)[: sizes.classes]
    kinds = [
        (moa, number >= sizes.compounds_per_class)
        for moa in names
        for number in range(sizes.compounds_per_class + sizes.test_compounds_per_class)
    ]
    numbers = rng.permutation(len(kinds)) + 1  # names tell nothing of what they name
    week_of = np.arange(len(kinds)) % sizes.weeks
    week_of = np.concatenate([week_of[:1], rng.permutation(week_of[1:])])
    treated: list[_Well] = []
    for i, (moa, test) in enumerate(kinds):
        compound, top = f"SIM-{numbers[i]:03d}", float(rng.choice([0.3, 1.0, 3.0, 10.0, 30.0]))
        for week in range(sizes.weeks) if i == 0 else (int(week_of[i]),):
            for dose in range(sizes.doses if i else 1):
                strength = FLAT + (1 - FLAT) * (sizes.doses - dose) / sizes.doses
                treated.append(
                    _Well(
                        week,
                        compound,
                        moa,
                        round(top / 10 ** (dose / 2), 4),
                        strength,
                        not test,
                        test,
                    )
                )
            if (
                not test
                and i
                == np.flatnonzero((week_of == week) & ~np.array([is_test for _, is_test in kinds]))[
                    0
                ]
            ):
                treated.append(
                    _Well(
                        week,
                        compound,
                        moa,
                        round(top / 10 ** (sizes.doses / 2 + 0.5), 4),
                        0.1,
                        False,
                        False,
                    )
                )
    return [
        well
        for week in range(sizes.weeks)
        for well in _place(seed, week, [w for w in treated if w.week == week], sizes)
    ]


def _place(seed: int, week: int, treated: list[_Well], sizes: _Sizes) -> list[_Well]:
    """One week's wells on each of its plates, in places drawn anew for every week."""
    if len(treated) + sizes.controls > len(WELLS):
        raise InputError(
            f"simulate bbbc021_full: week {week + 1} needs {len(treated) + sizes.controls} wells "
            f"a plate, there are {len(WELLS)}; "
            "raise weeks, or lower doses, compounds or controls"
        )
    control = _Well(week, CONTROL, CONTROL, 0.0, 0.0, False, False)
    rng = generator(seed, "places", week)
    places = rng.permutation(WELLS).tolist()
    plates = sorted(
        (10_000 * (week + 2) + rng.choice(9_999, sizes.replicates, replace=False)).tolist()
    )
    return [
        _Well(
            **{
                **vars(well),
                "plate": f"Week{week + 1}_{plate}",
                "replicate": replicate,
                "address": address,
            }
        )
        for replicate, plate in enumerate(plates, start=1)
        for well, address in zip([*treated, *[control] * sizes.controls], places, strict=False)
    ]


def _image_table(seed: int, wells: list[_Well], sites: int) -> pd.DataFrame:
    """`BBBC021_v1_image.csv`, one row a field."""
    rows = []
    for well in wells:
        folder = f"{well.plate.split('_')[0]}/{well.plate}"
        rng = generator(seed, "names", well.plate, well.address)
        for site in range(1, sites + 1):
            row = {"TableNumber": well.week, "ImageNumber": len(rows) + 1}
            for channel, (number, _) in _CHANNELS.items():
                code = rng.bytes(16).hex().upper()
                code = "-".join((code[:8], code[8:12], code[12:16], code[16:20], code[20:]))
                row |= {
                    f"Image_FileName_{channel}": f"{well.address}_s{site}_w{number}{code}.tif",
                    f"Image_PathName_{channel}": folder,
                }
            row |= {
                "Image_Metadata_Plate_DAPI": well.plate,
                "Image_Metadata_Well_DAPI": well.address,
                "Replicate": well.replicate,
            }
            rows.append(
                row
                | {
                    "Image_Metadata_Compound": well.compound,
                    "Image_Metadata_Concentration": well.dose,
                }
            )
    return pd.DataFrame(rows)


def _draw_plate(wells: list[_Well], out: Path, table: pd.DataFrame, seed: int, size: int) -> int:
    """Draw one plate's fields, three TIFFs each; says how many fields."""
    name, week = wells[0].plate, f"week-{wells[0].week}"
    response = (
        np.eye(N_EFFECTS),
        BATCH_SHIFT * generator(seed, "batch", week).normal(size=N_EFFECTS),
    )
    drawn = np.exp(
        _SPREAD
        * generator(seed, "brightness", name).normal(size=(2, len(_CHANNELS)))
        * [[1.0], [0.5]]
    )
    rows = table[table.Image_Metadata_Plate_DAPI == name]
    optics = draw_optics(drawn[0] * _MEAN, drawn.prod(0) * _SD, seed, week, name)
    sites = []
    for well in wells:
        effect = np.zeros(N_EFFECTS)
        if well.moa != CONTROL:
            own = COMPOUND_SPREAD * generator(seed, "compound", well.compound).normal(
                size=N_EFFECTS
            )
            effect = well.strength * (MECHANISMS[well.moa] + own)
        look = look_of("MCF7", well_effect(seed, effect, response, (name,), well.address))
        look = replace(look, clumping=EVEN * look.clumping)
        sites += [
            Site(f"{name}_{well.address}_s{site}", well.address, look)
            for site in range(1, len(rows) // len(wells) + 1)
        ]
    (out / rows.Image_PathName_DAPI.iloc[0]).mkdir(parents=True, exist_ok=True)
    files = dict(zip((site.name for site in sites), rows.index, strict=True))
    stains = tuple(STAINS.index(stain) for _, stain in _CHANNELS.values())
    for site, image in draw_plate(Plate(name, optics, tuple(sites)), 5 * size // 4, seed, stains):
        row = rows.loc[files[site.name]]
        grain = generator(seed, "counts", site.name).integers(
            COUNTS_PER_LEVEL, size=image.shape, dtype=np.uint16
        )
        counts = (image * np.uint16(COUNTS_PER_LEVEL) + grain + np.uint16(FLOOR))[
            :, size // 8 : size // 8 + size
        ]
        for plane, channel in zip(counts, _CHANNELS, strict=True):
            _write_tiff(
                out / row[f"Image_PathName_{channel}"] / row[f"Image_FileName_{channel}"], plane
            )
    return len(sites)


def _write_tiff(path: Path, plane: np.ndarray) -> None:
    """(H, W) uint16 as a plain TIFF."""
    import tifffile

    try:
        tifffile.imwrite(path, np.ascontiguousarray(plane), photometric="minisblack", metadata=None)
    except OSError as error:
        raise InputError(f"{path}: could not be written ({error.strerror or error})") from error


def _write_tables(out: Path, answers: Path, wells: list[_Well], table: pd.DataFrame) -> None:
    hidden = [well for well in wells if well.test]
    rows = {
        "well_id": [f"{well.plate}_{well.address}" for well in hidden],
        "moa": [well.moa for well in hidden],
        "experiment": [well.plate.split("_")[0] for well in hidden],
        "plate": [well.plate for well in hidden],
        "compound": [well.compound for well in hidden],
    }
    write_csv(answers, pd.DataFrame(rows).sort_values("well_id"))
    told = sorted(
        {
            (well.compound, well.dose, well.moa)
            for well in wells
            if well.annotated or well.moa == CONTROL
        }
    )
    lines = [f'"{compound}",{dose:.6f},"{moa}"' for compound, dose, moa in told]
    write_text(
        out / "BBBC021_v1_moa.csv", "\n".join(['"compound",concentration,"moa"', *lines]) + "\n"
    )
    write_csv(out / "BBBC021_v1_image.csv", table)


def _check(sizes: _Sizes) -> _Sizes:
    for name, value in vars(sizes).items():
        least = {"size": 32, "classes": 2}.get(name, 1)
        if value < least:
            raise InputError(f"simulate bbbc021_full: {name} is {value}, at least {least} needed")
    if sizes.classes > len(MECHANISMS):
        raise InputError(
            f"simulate bbbc021_full: classes is {sizes.classes}, there are {len(MECHANISMS)} "
            "mechanisms"
        )
    if sizes.size % 8:
        raise InputError(f"simulate bbbc021_full: size is {sizes.size}, not divisible by 8")
    return sizes

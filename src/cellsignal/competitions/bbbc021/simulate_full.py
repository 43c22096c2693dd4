"""Simulated BBBC021 in full: its two tables, its folders of 16-bit TIFFs, replicate plates by week.

As on the real plates one compound stands on every plate (there taxol), some doses of annotated
compounds have no annotation, and the wells of test compounds stand beside the others on the same
plates.
"""

from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.files import write_csv, write_text
from cellsignal.competitions.base import answers_path
from cellsignal.competitions.bbbc021.metadata import CONTROL, IMAGE_CSV, MOA_CSV
from cellsignal.competitions.bbbc021.simulate import (
    LOWEST_DOSE,
    TOP_DOSES,
    TWELVE,
    batch_response,
    compound_effect,
    plate_brightness,
)
from cellsignal.simulation.cells import STAINS
from cellsignal.simulation.output import (
    check_sizes,
    claim_folder,
    generator,
    run_jobs,
    simulator,
)
from cellsignal.simulation.phenotypes import N_EFFECTS, look_of, well_effect
from cellsignal.simulation.plates import Plate, Site, draw_optics, draw_plate

# the inner 60 of a 96-well plate
WELLS = tuple(f"{row}{column:02d}" for row in "BCDEFG" for column in range(2, 12))
# 16-bit counts a gray level of the drawing; the camera's own offset
COUNTS_PER_LEVEL, FLOOR = 20, 120
# small pictures show a small part of a field: real islands would leave many of their crops empty
EVEN = 0.3
WEAK = 0.1  # share of a compound's effect that the dose without an annotation has
# published name -> number in file names, stain
_CHANNELS = {"DAPI": (1, "nuclei"), "Tubulin": (2, "er"), "Actin": (4, "actin")}
_MEAN, _SD = (30.0, 34.0, 36.0), (22.0, 20.0, 18.0)  # gray levels


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
    """Write simulated plates to `out` in the published layout.

    The answers (well_id, moa, ...) go to `answers_path(out)`. The first compound stands on every
    plate; each other compound in one week, all its doses on each of the week's `replicates` plates.
    The first compound of every week has one more dose, a weak one, which is not annotated. The
    files depend on the arguments other than `workers` alone.

    Args:
        out: a new or empty folder, or one that holds this very simulation.
        seed: of everything random.
        compounds_per_class, test_compounds_per_class: annotated compounds of each mechanism, and
            others without any annotation.
        doses: of each compound, annotated where the compound is.
        replicates: plates a week.
        controls: DMSO wells a plate.
        weeks: batches, of plates of their own.
        sites: fields a well.
        size: height of a field in pixels, divisible by 8; the width is 5/4 of it.
        classes: mechanisms, at most 12.
        workers: processes that draw.

    Raises:
        InputError: an argument out of its range, or `out` holds something else.
    """
    arguments = locals()
    sizes = _Sizes(**{field.name: arguments[field.name] for field in fields(_Sizes)})
    _check(sizes)
    _simulate_plates(Path(out), seed, sizes, workers)


def _simulate_plates(out: Path, seed: int, sizes: _Sizes, workers: int) -> None:
    settings = {"competition": "bbbc021_full", "seed": seed, **vars(sizes)}
    claim_folder(out, answers_path(out), settings)
    treated = _treatments(seed, sizes)
    wells = pd.concat(
        [_place(seed, week, treated[treated.week == week], sizes) for week in range(sizes.weeks)],
        ignore_index=True,
    )
    table = _image_table(seed, wells, sizes.sites)
    plates = [
        (rows, table.loc[table.Image_Metadata_Plate_DAPI == plate])
        for plate, rows in wells.groupby("plate", sort=False)
    ]
    run_jobs(partial(_draw_plate, out=out, seed=seed, size=sizes.size), plates, len(table), workers)
    _write_tables(out, answers_path(out), wells, table)


def _treatments(seed: int, sizes: _Sizes) -> pd.DataFrame:
    """Return one row per week, compound and dose: the treatments on each plate of the week.

    Columns week, compound, moa, dose, strength (0 .. 1 of the compound's effect), annotated, test.
    """
    rng = generator(seed, "wells")
    per_class = sizes.compounds_per_class + sizes.test_compounds_per_class
    moas = np.repeat(list(TWELVE)[: sizes.classes], per_class)
    is_test = np.arange(len(moas)) % per_class >= sizes.compounds_per_class
    numbers = rng.permutation(len(moas)) + 1  # names tell nothing of what they name
    week_of = np.arange(len(moas)) % sizes.weeks
    week_of[1:] = rng.permutation(week_of[1:])
    rows, weeks_with_weak_dose = [], set()
    for number, (moa, test, week) in enumerate(zip(moas, is_test, week_of, strict=True)):
        everywhere = number == 0
        top = float(rng.choice(TOP_DOSES))
        doses = np.arange(1 if everywhere else sizes.doses)
        strengths = LOWEST_DOSE + (1 - LOWEST_DOSE) * (sizes.doses - doses) / sizes.doses
        fixed = {"compound": f"SIM-{numbers[number]:03d}", "moa": str(moa), "test": bool(test)}
        for place in range(sizes.weeks) if everywhere else [week]:
            for number_of_dose, strength in zip(doses.tolist(), strengths.tolist(), strict=True):
                dose = round(top / 10 ** (number_of_dose / 2), 4)
                row = {"week": place, "dose": dose, "strength": strength, "annotated": not test}
                rows.append(fixed | row)
            if place == week and not test and week not in weeks_with_weak_dose:
                weeks_with_weak_dose.add(week)
                dose = round(top / 10 ** (sizes.doses / 2 + 0.5), 4)
                row = {"week": place, "dose": dose, "strength": WEAK, "annotated": False}
                rows.append(fixed | row)
    return pd.DataFrame(rows)


def _place(seed: int, week: int, treated: pd.DataFrame, sizes: _Sizes) -> pd.DataFrame:
    """Place one week's treatments in wells, at random and differently each week."""
    needed = len(treated) + sizes.controls
    if needed > len(WELLS):
        raise InputError(
            f"simulate bbbc021_full: week {week + 1} needs {needed} wells a plate, there are "
            f"{len(WELLS)}; raise weeks, or lower doses, compounds or controls"
        )
    control = {
        "week": week,
        "compound": CONTROL,
        "moa": CONTROL,
        "dose": 0.0,
        "strength": 0.0,
        "annotated": False,
        "test": False,
    }
    rng = generator(seed, "places", week)
    wells = pd.concat([treated, pd.DataFrame([control] * sizes.controls)], ignore_index=True)
    wells["address"] = rng.permutation(WELLS)[:needed].tolist()
    numbers = sorted(10_000 * (week + 2) + rng.choice(9_999, sizes.replicates, replace=False))
    plates = [
        wells.assign(plate=f"Week{week + 1}_{number}", replicate=replicate)
        for replicate, number in enumerate(numbers, start=1)
    ]
    return pd.concat(plates, ignore_index=True)


def _image_table(seed: int, wells: pd.DataFrame, sites: int) -> pd.DataFrame:
    """Return `BBBC021_v1_image.csv`, one row a field."""
    rows = []
    for well in wells.itertuples():
        rng = generator(seed, "names", well.plate, well.address)
        for site in range(1, sites + 1):
            row = {"TableNumber": well.week, "ImageNumber": len(rows) + 1}
            for channel, (number, _) in _CHANNELS.items():
                code = rng.bytes(16).hex().upper()
                code = "-".join((code[:8], code[8:12], code[12:16], code[16:20], code[20:]))
                file = f"{well.address}_s{site}_w{number}{code}.tif"
                row[f"Image_FileName_{channel}"] = file
                row[f"Image_PathName_{channel}"] = f"Week{well.week + 1}/{well.plate}"
            row |= {
                "Image_Metadata_Plate_DAPI": well.plate,
                "Image_Metadata_Well_DAPI": well.address,
                "Replicate": well.replicate,
                "Image_Metadata_Compound": well.compound,
                "Image_Metadata_Concentration": well.dose,
            }
            rows.append(row)
    return pd.DataFrame(rows)


def _draw_plate(plate: tuple[pd.DataFrame, pd.DataFrame], out: Path, seed: int, size: int) -> int:
    """Draw one plate's fields, three TIFFs each; return how many fields.

    Args:
        plate: its wells, and the rows of its fields in the image table.
    """
    wells, rows = plate
    name, week = wells.plate.iloc[0], f"week-{wells.week.iloc[0]}"
    response = batch_response(seed, week)
    optics = draw_optics(*plate_brightness(seed, name, _MEAN, _SD), seed, week, name)
    sites = []
    for well in wells.itertuples():
        effect = np.zeros(N_EFFECTS)
        if well.moa != CONTROL:
            effect = well.strength * compound_effect(seed, well.moa, well.compound)
        look = look_of("MCF7", well_effect(seed, effect, response, (name,), well.address))
        look = replace(look, clumping=EVEN * look.clumping)
        for site in range(1, len(rows) // len(wells) + 1):
            sites.append(Site(f"{name}_{well.address}_s{site}", well.address, look))
    (out / rows.Image_PathName_DAPI.iloc[0]).mkdir(parents=True, exist_ok=True)
    row_of = dict(zip((site.name for site in sites), rows.index, strict=True))
    stains = tuple(STAINS.index(stain) for _, stain in _CHANNELS.values())
    for site, image in draw_plate(Plate(name, optics, tuple(sites)), 5 * size // 4, seed, stains):
        row = rows.loc[row_of[site.name]]
        rng = generator(seed, "counts", site.name)
        grain = rng.integers(COUNTS_PER_LEVEL, size=image.shape, dtype=np.uint16)
        counts = image * np.uint16(COUNTS_PER_LEVEL) + grain + np.uint16(FLOOR)
        field = counts[:, size // 8 : size // 8 + size]
        for plane, channel in zip(field, _CHANNELS, strict=True):
            path = row[f"Image_PathName_{channel}"], row[f"Image_FileName_{channel}"]
            _write_tiff(out.joinpath(*path), plane)
    return len(sites)


def _write_tiff(path: Path, plane: np.ndarray) -> None:
    import tifffile

    try:
        tifffile.imwrite(path, np.ascontiguousarray(plane), photometric="minisblack", metadata=None)
    except OSError as error:
        raise InputError(f"{path}: could not be written ({error.strerror or error})") from error


def _write_tables(out: Path, answers: Path, wells: pd.DataFrame, table: pd.DataFrame) -> None:
    hidden = wells[wells.test].assign(
        well_id=wells.plate + "_" + wells.address,
        experiment=wells.plate.str.split("_").str[0],
    )
    columns = ["well_id", "moa", "experiment", "plate", "compound"]
    write_csv(answers, hidden[columns].sort_values("well_id"))
    known = wells[wells.annotated | (wells.moa == CONTROL)]
    treatments = (
        known[["compound", "dose", "moa"]].drop_duplicates().sort_values(["compound", "dose"])
    )
    lines = [f'"{row.compound}",{row.dose:.6f},"{row.moa}"' for row in treatments.itertuples()]
    write_text(out / MOA_CSV, "\n".join(['"compound",concentration,"moa"', *lines]) + "\n")
    write_csv(out / IMAGE_CSV, table)


def _check(sizes: _Sizes) -> None:
    least = {"size": 32, "classes": 2}
    check_sizes(
        "bbbc021_full", vars(sizes), {name: (least.get(name, 1), None) for name in vars(sizes)}
    )
    if sizes.classes > len(TWELVE):
        raise InputError(
            f"simulate bbbc021_full: classes is {sizes.classes}, there are {len(TWELVE)} mechanisms"
        )
    if sizes.size % 8:
        raise InputError(f"simulate bbbc021_full: size is {sizes.size}, not divisible by 8")

"""Simulated BBBC021: six mechanisms of action in MCF7 cells, in the layout of the six-class subset.

The test wells are of *other compounds* than the training wells.
"""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.files import write_csv
from cellsignal.competitions.base import answers_path
from cellsignal.competitions.bbbc021.mechanisms import (
    LOWEST_DOSE,
    SIX,
    TOP_DOSES,
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
    write_png,
)
from cellsignal.simulation.phenotypes import look_of, well_effect
from cellsignal.simulation.plates import WELLS, Plate, Site, draw_optics, draw_plate

N_SITES = 4
COMPOUNDS_PER_BATCH = 6
# pixel mean and SD of red (actin), green (tubulin) and blue (DAPI) in the 8-bit subset
_RED_GREEN_BLUE_MEAN = (35.0, 33.0, 29.0)
_RED_GREEN_BLUE_SD = (18.0, 22.0, 20.0)
# microtubules fill the cell about as its ER does
_CHANNELS = tuple(STAINS.index(stain) for stain in ("actin", "er", "nuclei"))


@simulator
def simulate_bbbc021(
    out: Path | str,
    seed: int = 0,
    *,
    compounds_per_class: int = 3,
    test_compounds_per_class: int = 2,
    doses: int = 2,
    replicates: int = 2,
    size: int = 64,
    workers: int = 1,
) -> None:
    """Write simulated wells to `out`: train.csv, test.csv, sample_submission.csv and images/.

    Pictures are RGB: actin, tubulin, DAPI. The answers (image_id, moa) go to `answers_path(out)`.
    Compounds of a mechanism share its effect and add their own; higher doses show more of it. A
    well is four sites; its replicates stand on different plates. The files depend on the arguments
    other than `workers` alone.

    Args:
        out: a new or empty folder, or one that holds this very simulation.
        seed: of everything random.
        compounds_per_class, test_compounds_per_class: compounds of each mechanism in train and in
            test; none is in both.
        doses: of each compound.
        replicates: wells of each dose.
        size: image height and width in pixels.
        workers: processes that draw.

    Raises:
        InputError: an argument out of its range, or `out` holds something else.
    """
    out = Path(out)
    sizes = {
        "compounds_per_class": compounds_per_class,
        "test_compounds_per_class": test_compounds_per_class,
        "doses": doses,
        "replicates": replicates,
        "size": size,
    }
    check_sizes("bbbc021", sizes, {name: (16 if name == "size" else 1, None) for name in sizes})
    claim_folder(out, answers_path(out), {"competition": "bbbc021", "seed": seed, **sizes})
    wells = _wells(seed, compounds_per_class, test_compounds_per_class, doses, replicates)
    images = _images(seed, wells)
    (out / "images").mkdir(exist_ok=True)
    draw = partial(_draw_plate, folder=out / "images", seed=seed, size=size)
    run_jobs(draw, (rows for _, rows in images.groupby("plate")), len(images), workers)
    _write_tables(images.sort_values("image_id"), out, answers_path(out))


def _wells(
    seed: int, compounds: int, test_compounds: int, doses: int, replicates: int
) -> pd.DataFrame:
    """Return one row a well.

    A batch of `replicates` plates is shared by a few compounds of any mechanism.
    """
    rng = generator(seed, "wells")
    screened = [
        (moa, f"{_initials(moa)}-{number + 1:02d}", number >= compounds)
        for moa in SIX
        for number in range(compounds + test_compounds)
    ]
    batch_of: dict[str, int] = {}
    for test in (False, True):  # a batch is train or test, as most plates of the subset are
        names = rng.permutation([name for _, name, is_test in screened if is_test == test])
        first = 1 + max(batch_of.values(), default=-1)
        for number, name in enumerate(names.tolist()):
            batch_of[name] = first + number // COMPOUNDS_PER_BATCH
    free: dict[int, list[str]] = {}  # plate -> the wells that are still empty
    rows = []
    for moa, compound, is_test in screened:
        top = float(rng.choice(TOP_DOSES))
        for dose in range(doses):
            for replicate in range(replicates):
                plate = batch_of[compound] * replicates + replicate
                address = free.setdefault(plate, rng.permutation(WELLS).tolist()).pop()
                row = {
                    "split": "test" if is_test else "train",
                    "moa": moa,
                    "compound": compound,
                    "concentration_uM": round(top / 10 ** ((doses - 1 - dose) / 2), 4),
                    "dose": dose,
                    "plate": plate,
                    "address": address,
                }
                rows.append(row)
    return pd.DataFrame(rows)


def _initials(moa: str) -> str:
    return "".join(word[0] for word in moa.replace("-", " ").split()).upper()


def _images(seed: int, wells: pd.DataFrame) -> pd.DataFrame:
    """Return one row per image; names are drawn so that they do not reveal the label."""
    rng = generator(seed, "names")
    lowest = 10 ** (max(5, len(str(40 * len(wells)))) - 1)
    ids = lowest + rng.choice(9 * lowest, size=N_SITES * len(wells), replace=False)
    numbers = rng.permutation(len(wells))
    plates = rng.permutation(1 + wells.plate.max())
    named = wells.assign(
        plate_id=[f"plate_{plates[plate]:02d}" for plate in wells.plate],
        well_id=[f"well_{number:03d}" for number in numbers],
    )
    images = named.loc[named.index.repeat(N_SITES)].reset_index(drop=True)
    images["image_id"] = [f"img_{number}" for number in ids]
    images["site"] = np.tile(np.arange(1, N_SITES + 1), len(wells))
    return images


def _draw_plate(images: pd.DataFrame, folder: Path, seed: int, size: int) -> int:
    """Draw one plate's pictures; return how many."""
    name = f"plate-{images.plate.iloc[0]}"
    doses = 1 + images.dose.max()
    response = batch_response(seed, name)
    brightness = plate_brightness(seed, name, _RED_GREEN_BLUE_MEAN, _RED_GREEN_BLUE_SD)
    optics = draw_optics(*brightness, seed, name, "1")
    sites, files = [], {}
    for row in images.itertuples():
        strength = LOWEST_DOSE + (1 - LOWEST_DOSE) * (row.dose + 1) / doses
        effect = strength * compound_effect(seed, row.moa, row.compound)
        look = look_of("MCF7", well_effect(seed, effect, response, (name,), row.address))
        site = Site(f"{name}_{row.address}_s{row.site}", row.address, look)
        sites.append(site)
        files[site.name] = folder / f"{row.image_id}.png"
    for site, image in draw_plate(Plate(name, optics, tuple(sites)), size, seed, _CHANNELS):
        write_png(files[site.name], np.moveaxis(image, 0, 2))
    return len(sites)


def _write_tables(images: pd.DataFrame, out: Path, answers: Path) -> None:
    public = ["image_id", "plate_id", "well_id"]
    train, test = images[images.split == "train"], images[images.split == "test"]
    write_csv(answers, test[["image_id", "moa"]])
    write_csv(out / "sample_submission.csv", test[["image_id"]].assign(moa=next(iter(SIX))))
    write_csv(out / "test.csv", test[public])
    write_csv(out / "train.csv", train[[*public, "compound", "concentration_uM", "moa"]])

"""Simulated BBBC021: six mechanisms of action in MCF7 cells, in the layout of the six-class subset.

The test wells are of *other compounds* than the training wells. What mechanisms, compounds and
batches do to the cells is shared with the simulator of the full set.
"""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.files import write_csv
from cellsignal.competitions.base import answers_path
from cellsignal.simulation.cells import STAINS
from cellsignal.simulation.output import (
    check_sizes,
    claim_folder,
    generator,
    run_jobs,
    simulator,
    write_png,
)
from cellsignal.simulation.phenotypes import N_EFFECTS, look_of, units, well_effect
from cellsignal.simulation.plates import WELLS, Plate, Site, draw_optics, draw_plate

# In the units of `phenotypes.SCALES`, as seen on the real wells.
SIX: dict[str, np.ndarray] = {
    "Aurora kinase inhibitors": units(
        nucleus=2.6, binucleate=2.2, reach=2.0, density=-1.0, elongation=1.0, stain_actin=-0.6
    ),
    "Cholesterol-lowering": units(
        density=-2.2,
        reach=-2.2,
        nucleus=-1.5,
        elongation=2.8,
        stain_er=2.0,
        cortex=-1.5,
        clumping=-0.5,
    ),
    "DNA damage": units(
        nucleus=1.6, reach=0.8, density=0.4, chromatin=1.2, stain_nuclei=-1.0, er_extent=0.8
    ),
    "DNA replication": units(
        density=-3.3, nucleus=0.6, reach=0.8, stain_er=0.8, chromatin=-1.0, fibre=1.0
    ),
    "Eg5 inhibitors": units(rounded=3.2, density=-2.4, stain_nuclei=1.5, nucleus=0.5, stain_er=1.0),
    "Protein synthesis": units(
        density=-1.8,
        nucleus=-1.8,
        reach=-1.4,
        stain_er=-1.8,
        nucleoli=-2.5,
        clumping=-1.2,
        cortex=-1.0,
    ),
}
TWELVE: dict[str, np.ndarray] = {
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
COMPOUND_SPREAD = 0.8  # SD of what a compound does beside its mechanism, in units
BATCH_SHIFT = 0.6  # SD of what all wells of a batch share, in units
PLATE_SPREAD = 0.2  # SD between plates of the log of the pixel mean
LOWEST_DOSE = 0.5  # share of a compound's effect that its lowest dose has
TOP_DOSES = [0.3, 1.0, 3.0, 10.0, 30.0]  # micromolar


def compound_effect(seed: int, moa: str, compound: str) -> np.ndarray:
    """Return the full effect of a compound, (N_EFFECTS,) units: its mechanism's and its own."""
    specific = generator(seed, "compound", compound).normal(size=N_EFFECTS)
    return TWELVE[moa] + COMPOUND_SPREAD * specific


def batch_response(seed: int, batch: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the mixing and the shift of a batch, for `phenotypes.well_effect`."""
    shift = BATCH_SHIFT * generator(seed, "batch", batch).normal(size=N_EFFECTS)
    return np.eye(N_EFFECTS), shift


def plate_brightness(
    seed: int, plate: str, mean: tuple[float, ...], sd: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the pixel mean and SD of a plate's three channels around the typical ones."""
    noise = generator(seed, "brightness", plate).normal(size=(2, 3))
    factor = np.exp(PLATE_SPREAD * noise * [[1.0], [0.5]])
    return factor[0] * mean, factor.prod(0) * sd


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

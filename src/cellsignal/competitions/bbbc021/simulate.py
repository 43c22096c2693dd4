"""Simulated BBBC021: six mechanisms of action in MCF7 cells, in the layout of the six-class subset.

The test wells are of *other compounds* than the training wells.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.files import write_csv
from cellsignal.simulation.cells import STAINS
from cellsignal.simulation.output import claim_folder, generator, run_jobs, simulator, write_png
from cellsignal.simulation.phenotypes import N_EFFECTS, look_of, units, well_effect
from cellsignal.simulation.plates import WELLS, Plate, Site, draw_optics, draw_plate

# What each mechanism does to the cells, in the units of `phenotypes.SCALES`, as seen on the real
# wells.
MECHANISMS: dict[str, np.ndarray] = {
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
N_SITES = 4
COMPOUND_SPREAD, BATCH_SHIFT, FLAT = 0.8, 0.6, 0.5
# Pixel mean and SD of red (actin), green (tubulin) and blue (DAPI) in the 8-bit subset, with their
# SD between plates,
# as logs.
_RED_GREEN_BLUE_MEAN = (35.0, 33.0, 29.0)
_RED_GREEN_BLUE_SD = (18.0, 22.0, 20.0)
_PLATE_SPREAD = 0.2
_CHANNELS = (
    STAINS.index("actin"),
    STAINS.index("er"),
    STAINS.index("nuclei"),
)  # microtubules fill the cell about as its ER does


@dataclass(frozen=True)
class _Well:
    split: str
    moa: str
    compound: str
    concentration: float
    dose: int
    plate: int
    address: str
    number: int  # unique over all plates


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
    """Write simulated wells to `out`: train.csv, test.csv, sample_submission.csv and
    images/{image_id}.png.

    Pictures are RGB: actin, tubulin, DAPI. The answers (image_id, moa) go to `answers_path(out)`.
    Compounds of a mechanism share its effect and add their own; higher doses show more of it. A
    well is four sites; its replicates stand on different plates. The files depend on the arguments
    other than `workers` alone.

    Args:
        out: a new or empty folder, or one that holds this very simulation.
        seed: of everything random.
        compounds_per_class, test_compounds_per_class: compounds of each mechanism in train and in
        test; none is in both. doses: of each compound. replicates: wells of each dose. size: image
        height and width in pixels. workers: processes that draw.

    Raises:
        InputError: an argument out of its range, or `out` holds something else.
    """
    # imported late, for competitions import this module
    from cellsignal.competitions.base import answers_path

    out = Path(out)
    numbers = {
        "compounds_per_class": compounds_per_class,
        "test_compounds_per_class": test_compounds_per_class,
        "doses": doses,
        "replicates": replicates,
        "size": size,
    }
    for name, value in numbers.items():
        least = 16 if name == "size" else 1
        if value < least:
            raise InputError(f"simulate bbbc021: {name} is {value}, at least {least} needed")
    claim_folder(out, answers_path(out), {"competition": "bbbc021", "seed": seed, **numbers})
    wells = _wells(seed, compounds_per_class, test_compounds_per_class, doses, replicates)
    frame = _image_table(seed, wells)
    (out / "images").mkdir(exist_ok=True)
    jobs = [
        [well for well in wells if well.plate == plate]
        for plate in sorted({well.plate for well in wells})
    ]
    names = {(row.number, row.site): row.image_id for row in frame.itertuples()}
    draw = partial(_draw_plate, folder=out / "images", names=names, seed=seed, size=size)
    run_jobs(draw, jobs, len(frame), workers)
    _write_tables(frame, out, answers_path(out))


def _wells(
    seed: int, compounds: int, test_compounds: int, doses: int, replicates: int
) -> list[_Well]:
    """All wells. A compound is screened on its own batch of `replicates` plates, shared by a few
    compounds of any mechanism.
    """
    rng = generator(seed, "wells")
    tested = [
        (
            moa,
            "".join(word[0] for word in moa.replace("-", " ").split()).upper()
            + f"-{number + 1:02d}",
            number >= compounds,
        )
        for moa in MECHANISMS
        for number in range(compounds + test_compounds)
    ]
    batch_of = {}
    for test in (False, True):  # a batch is train or test, as most plates of the subset are
        here = [name for _, name, is_test in tested if is_test == test]
        batch_of |= {name: (test, i // 6) for i, name in enumerate(rng.permutation(here).tolist())}
    batches = {batch: i for i, batch in enumerate(sorted(set(batch_of.values())))}
    places: dict[int, list[str]] = {}
    wells = []
    for moa, compound, is_test in tested:
        top = float(rng.choice([0.3, 1.0, 3.0, 10.0, 30.0]))
        for dose in range(doses):
            for replicate in range(replicates):
                plate = batches[batch_of[compound]] * replicates + replicate
                address = places.setdefault(plate, rng.permutation(WELLS).tolist()).pop()
                concentration = round(top / 10 ** ((doses - 1 - dose) / 2), 4)
                wells.append(
                    _Well(
                        "test" if is_test else "train",
                        moa,
                        compound,
                        concentration,
                        dose,
                        plate,
                        address,
                        len(wells),
                    )
                )
    return wells


def _image_table(seed: int, wells: list[_Well]) -> pd.DataFrame:
    """One row an image, sorted by image_id; names tell nothing of what they name."""
    rng = generator(seed, "names")
    digits = max(5, len(str(40 * len(wells))))
    ids = rng.choice(
        10**digits - 10 ** (digits - 1), size=N_SITES * len(wells), replace=False
    ) + 10 ** (digits - 1)
    numbers = rng.permutation(len(wells))
    plates = rng.permutation(1 + max(well.plate for well in wells))
    rows = [
        {
            "image_id": f"img_{ids[N_SITES * i + site - 1]}",
            "plate_id": f"plate_{plates[well.plate]:02d}",
            "well_id": f"well_{numbers[i]:03d}",
            "compound": well.compound,
            "concentration_uM": well.concentration,
            "moa": well.moa,
            "split": well.split,
            "number": well.number,
            "site": site,
        }
        for i, well in enumerate(wells)
        for site in range(1, N_SITES + 1)
    ]
    return pd.DataFrame(rows).sort_values("image_id", ignore_index=True)


def _draw_plate(
    wells: list[_Well], folder: Path, names: dict[tuple[int, int], str], seed: int, size: int
) -> int:
    """Draw one plate's pictures; says how many."""
    number = wells[0].plate
    doses = 1 + max(well.dose for well in wells)
    name = f"plate-{number}"
    response = (
        np.eye(N_EFFECTS),
        BATCH_SHIFT * generator(seed, "batch", name).normal(size=N_EFFECTS),
    )
    drawn = np.exp(
        _PLATE_SPREAD * generator(seed, "brightness", name).normal(size=(2, 3)) * [[1.0], [0.5]]
    )
    optics = draw_optics(
        drawn[0] * _RED_GREEN_BLUE_MEAN, drawn.prod(0) * _RED_GREEN_BLUE_SD, seed, name, "1"
    )
    sites, files = [], {}
    for well in wells:
        own = COMPOUND_SPREAD * generator(seed, "compound", well.compound).normal(size=N_EFFECTS)
        dose = FLAT + (1 - FLAT) * (well.dose + 1) / doses
        effect = dose * (MECHANISMS[well.moa] + own)
        look = look_of("MCF7", well_effect(seed, effect, response, (name,), well.address))
        for site in range(1, N_SITES + 1):
            sites.append(Site(f"{name}_{well.address}_s{site}", well.address, look))
            files[sites[-1].name] = names[well.number, site]
    for site, image in draw_plate(Plate(name, optics, tuple(sites)), size, seed, _CHANNELS):
        write_png(folder / f"{files[site.name]}.png", np.moveaxis(image, 0, 2))
    return len(sites)


def _write_tables(frame: pd.DataFrame, out: Path, answers: Path) -> None:
    public = ["image_id", "plate_id", "well_id"]
    train, test = frame[frame.split == "train"], frame[frame.split == "test"]
    write_csv(answers, test[["image_id", "moa"]])
    write_csv(out / "sample_submission.csv", test[["image_id"]].assign(moa=next(iter(MECHANISMS))))
    write_csv(out / "test.csv", test[public])
    write_csv(out / "train.csv", train[[*public, "compound", "concentration_uM", "moa"]])

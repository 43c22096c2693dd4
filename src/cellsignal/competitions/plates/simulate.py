"""Simulate plates as an Opera Phenix exports them, with platemaps and a `plates.yaml`.

Every plate has a layout of its own. The wells of the test are marked in the platemap; their
compounds are in the answers alone.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
from tifffile import imwrite

from cellsignal.common.errors import InputError
from cellsignal.common.files import write_csv, write_text
from cellsignal.competitions.base import answers_path
from cellsignal.competitions.plates.description import FILE
from cellsignal.simulation import output, phenotypes
from cellsignal.simulation.cells import STAINS
from cellsignal.simulation.plates import WELLS, Plate, Site, draw_optics, draw_plate

CHANNELS = {"DNA": "nuclei", "ER": "er", "Actin": "actin"}
STARTED = "2026-01-12T09_30_00-Measurement 1"
_COUNTS, _MEAN, _CONTRAST, _SPREAD = 24.0, 32.0, 0.6, 0.15
_OWN = 0.3  # of a compound's effect, what others of its mechanism do not have
_RANGES = {
    "classes": (2, 200),
    "compounds": (1, 26),
    "replicates": (1, None),
    "controls": (0, None),
    "hidden": (0, None),
    "plates": (1, None),
    "sites": (1, 99),
    "size": (16, None),
    "labels": (1, 3),
}
_INDEX = """<?xml version="1.0" encoding="utf-8"?>
<EvaluationInputData xmlns="http://www.perkinelmer.com/PEHH/HarmonyV5">
  <Maps><Map>
{entries}
  </Map></Maps>
</EvaluationInputData>
"""
_ENTRY = '    <Entry ChannelID="{number}"><ChannelName>{name}</ChannelName></Entry>'
_DESCRIPTION = """images:
  layout: phenix
  channels: {DNA: "1", ER: "2", Actin: "3"}
platemap: platemaps.csv
label: moa
compound: compound
batch: week
negative_controls: role = dmso
hidden: role = test
folds: plate
"""
_TASK = 'task: multi_label\nlabel_separator: "|"\n'


@dataclass(frozen=True)
class PlateJob:
    """One plate to draw: well, mechanisms ("" for DMSO) and compound of each well."""

    plate: str
    folder: Path
    wells: tuple[tuple[str, str, str], ...]


@output.simulator
def simulate_plates(
    out: Path | str,
    seed: int = 0,
    *,
    classes: int = 5,
    compounds: int = 2,
    replicates: int = 2,
    controls: int = 8,
    hidden: int = 1,
    plates: int = 3,
    sites: int = 2,
    size: int = 64,
    labels: int = 1,
    workers: int = 1,
) -> None:
    """Write simulated plates to `out`, and their answers beside it.

    Args:
        out: new, empty, or this very simulation; the answers go to `answers_path(out)`.
        classes: mechanisms of action, the labels.
        compounds: of each mechanism.
        replicates: wells of each compound on a plate whose compound is known.
        controls: DMSO wells of a plate.
        hidden: wells of each compound on the last plate that are the test.
        plates, sites, size: plates; fields a well; height and width in pixels.
        labels: most mechanisms of a compound; above 1 the question has several labels a well.
        workers: processes that draw.

    Raises:
        InputError: an argument out of its range, or `out` holds something else.
    """
    sizes = {name: value for name, value in locals().items() if name in _RANGES}
    output.check_sizes("plates", sizes, _RANGES)
    numbers, out = SimpleNamespace(**sizes), Path(out)
    _check_wells(numbers)
    output.claim_folder(
        out, answers_path(out), {"competition": _id_of(numbers), "seed": seed, **sizes}
    )
    platemap, answers = _make_platemap(seed, numbers)
    jobs = []
    for plate, part in platemap.groupby("plate"):
        folder = out / f"{plate}__{STARTED}" / "Images"
        wells = tuple(part[["well", "truth", "got"]].itertuples(index=False, name=None))
        jobs.append(PlateJob(plate, folder, wells))
    draw = partial(_draw, seed=seed, sizes=numbers)
    output.run_jobs(draw, jobs, len(platemap) * sites, workers)
    write_csv(out / "platemaps.csv", platemap.drop(columns=["truth", "got"]))
    write_csv(answers_path(out), answers)
    write_text(out / FILE, _DESCRIPTION + _TASK * (labels > 1))


def _check_wells(sizes: SimpleNamespace) -> None:
    needed = sizes.classes * sizes.compounds * (sizes.replicates + sizes.hidden) + sizes.controls
    if needed > len(WELLS):
        raise InputError(
            f"simulate plates: {needed} wells, more than the {len(WELLS)} of a plate; lower "
            "classes, compounds, replicates, hidden or controls"
        )


def _id_of(sizes: SimpleNamespace) -> str:
    return "plates_multi_label" if sizes.labels > 1 else "plates"


def _make_platemap(seed: int, sizes: SimpleNamespace) -> tuple[pd.DataFrame, pd.DataFrame]:
    moas = [f"moa {i + 1}" for i in range(sizes.classes)]
    names = []
    for i, k in np.ndindex(sizes.classes, sizes.compounds):
        several = {moas[(i + step) % sizes.classes] for step in range(1 + k % sizes.labels)}
        names.append(("|".join(sorted(several)), f"compound {i + 1}{chr(97 + k)}"))
    rows = []
    for number in range(1, sizes.plates + 1):
        plate = f"P{number:03d}"
        week = f"week {1 + 2 * (number - 1) // sizes.plates}"
        hidden = sizes.hidden if number == sizes.plates else 0
        wells = [(name, "treatment") for name in names for _ in range(sizes.replicates)]
        wells += [(name, "test") for name in names for _ in range(hidden)]
        wells += [(("", "DMSO"), "dmso")] * sizes.controls
        places = output.generator(seed, "layout", plate).permutation(len(WELLS))
        for ((moa, name), role), place in zip(wells, places, strict=False):
            shown = ("", "") if role == "test" else (moa, name)
            rows.append((plate, WELLS[place], *shown, role, week, moa, name))
    table = pd.DataFrame(
        rows, columns=["plate", "well", "moa", "compound", "role", "week", "truth", "got"]
    )
    table = table.sort_values(["plate", "well"], ignore_index=True)
    test = table[table.role == "test"]
    answers = pd.DataFrame({"well_id": test.plate + "_" + test.well, "label": test.truth})
    if sizes.labels > 1:
        answers = answers[["well_id"]].join(test.truth.str.get_dummies("|"))
    return table, answers


def _draw(job: PlateJob, seed: int, sizes: SimpleNamespace) -> int:
    """Draw one plate and write its planes; return the number of fields."""
    job.folder.mkdir(parents=True, exist_ok=True)
    entries = [_ENTRY.format(number=n, name=name) for n, name in enumerate(CHANNELS, 1)]
    write_text(job.folder / "Index.idx.xml", _INDEX.format(entries="\n".join(entries)))
    pairs = [(well, site) for well, _, _ in job.wells for site in range(1, sizes.sites + 1)]
    pair_of = {f"{job.plate}_{well}_s{site}": (well, site) for well, site in pairs}
    rng = output.generator(seed, "brightness", job.plate)
    mean = _MEAN * np.exp(_SPREAD * rng.normal(size=len(CHANNELS)))
    optics = draw_optics(mean, _CONTRAST * mean, seed, "plates", job.plate)
    response = phenotypes.experiment_response(seed, "plates")
    looks = {}
    for well, moa, name in job.wells:
        effect = phenotypes.units()
        if moa:
            effect = sum(phenotypes.effect(seed, part, "U2OS") for part in moa.split("|"))
            effect = effect + _OWN * phenotypes.effect(seed, name, "U2OS")
        effect = phenotypes.well_effect(seed, effect, response, (job.plate,), well)
        looks[well] = phenotypes.look_of("U2OS", effect)
    drawn = tuple(Site(name, well, looks[well]) for name, (well, _) in pair_of.items())
    stains = tuple(STAINS.index(stain) for stain in CHANNELS.values())
    for site, image in draw_plate(Plate(job.plate, optics, drawn), sizes.size, seed, stains):
        _write(job.folder, *pair_of[site.name], image, output.generator(seed, "counts", site.name))
    return len(pairs)


def _write(folder: Path, well: str, site: int, image: np.ndarray, rng: np.random.Generator) -> None:
    """Draw the photon counts of a field whose mean is (C, H, W), and write its planes."""
    mean = np.maximum(image + rng.uniform(-0.5, 0.5, image.shape), 0.5) * _COUNTS
    planes = np.rint(mean + np.sqrt(mean) * rng.normal(size=mean.shape))
    planes = np.clip(planes, 0, 65535).astype(np.uint16)
    row, column = ord(well[0]) - 64, int(well[1:])
    for channel, plane in enumerate(planes, 1):
        name = f"r{row:02d}c{column:02d}f{site:02d}p01-ch{channel}sk1fk1fl1.tiff"
        try:
            imwrite(folder / name, plane, compression="zlib", metadata=None)
        except OSError as error:
            raise InputError(
                f"{folder / name}: could not be written ({error.strerror or error})"
            ) from error

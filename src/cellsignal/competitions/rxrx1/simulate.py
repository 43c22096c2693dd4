"""Simulate RxRx1 in Kaggle's layout, with rotating class groups and batch effects."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.files import write_csv
from cellsignal.competitions.base import answers_path
from cellsignal.simulation.calibration import CELL_TYPE_NAMES, draw_experiment
from cellsignal.simulation.output import (
    check_sizes,
    claim_folder,
    generator,
    run_jobs,
    simulator,
    write_png,
)
from cellsignal.simulation.phenotypes import (
    N_EFFECTS,
    effect,
    experiment_response,
    look_of,
    well_effect,
)
from cellsignal.simulation.plates import WELLS, Plate, Site, draw_optics, draw_plate, place_wells

N_PLATES = 4
# experiments of the published data, for a simulation at full size
REAL_TRAIN_EXPERIMENTS = {"HEPG2": 7, "HUVEC": 16, "RPE": 7, "U2OS": 3}
REAL_TEST_EXPERIMENTS = {"HEPG2": 4, "HUVEC": 8, "RPE": 4, "U2OS": 2}


@dataclass(frozen=True)
class _Sizes:
    classes: int
    controls: int
    negatives: int
    size: int
    sites: int


@dataclass(frozen=True)
class _Relations:
    """Complexes of classes that look alike: class k is of complex k // complex_size, if any."""

    complexes: int
    complex_size: int
    likeness: int

    def group(self, label: int) -> int | None:
        """The complex of a class."""
        group = label // self.complex_size
        return group if group < self.complexes else None

    def pairs(self) -> pd.DataFrame:
        """All pairs of classes of one complex: entity1, entity2."""
        first, second = np.triu_indices(self.complexes * self.complex_size, 1)
        same = first // self.complex_size == second // self.complex_size
        return pd.DataFrame({"entity1": first[same], "entity2": second[same]})


@simulator
def simulate_rxrx1(
    out: Path | str,
    seed: int = 0,
    *,
    classes: int = 24,
    controls: int = 4,
    negatives: int = 1,
    size: int = 64,
    sites: int = 2,
    train_experiments: int | Mapping[str, int] = 3,
    test_experiments: int | Mapping[str, int] = 1,
    complexes: int = 0,
    complex_size: int = 3,
    likeness: int = 80,
    workers: int = 1,
) -> None:
    """Write simulated plates in Kaggle's file layout, with the answers in a CSV beside them.

    The answers go to `answers_path(out)`; tables are written last. All arguments but `workers`
    decide the bytes. For full size: the competition's numbers, `REAL_*_EXPERIMENTS`.

    Args:
        out: a folder that is new, empty, or holds the same simulation already.
        seed: seed of all random numbers.
        classes: treatments, divisible by 4: each plate holds a quarter of them, once each.
        controls: positive controls on every plate; their labels follow the treatments'.
        negatives: untreated wells on every plate, at least 1; their label follows the controls'.
        size: image height and width in pixels.
        sites: images per well.
        train_experiments, test_experiments: number for every cell type, or a mapping by cell type.
        complexes, complex_size, likeness: groups of (the first) classes that share so many percent
            of the variance of their effects; the pairs go to `relations_path(out)`.
        workers: number of processes.

    Raises:
        InputError: an argument is out of range, or `out` holds something else.
    """
    out = Path(out)
    sizes = _Sizes(classes, controls, negatives, size, sites)
    relations = _Relations(complexes, complex_size, likeness)
    counts = _checked_counts(sizes, relations, train_experiments, test_experiments)
    planted = vars(relations) if complexes else {}
    settings = {"competition": "rxrx1", "seed": seed, **vars(sizes), **counts, **planted}
    claim_folder(out, answers_path(out), settings)
    frame = plate_maps(seed, classes, controls, negatives, *counts.values())
    plates = [wells for _, wells in frame.groupby(["split", "experiment", "plate"], sort=False)]
    draw = partial(_draw_plate, root=out, seed=seed, sizes=sizes, relations=relations)
    run_jobs(draw, plates, len(frame) * sites, workers)
    write_tables(frame, out, answers_path(out))
    _write_relations(relations, out)


def _write_relations(relations: _Relations, out: Path) -> None:
    """Write the planted relations, if there are any."""
    if relations.complexes:
        write_csv(relations_path(out), relations.pairs())


def relations_path(root: Path) -> Path:
    """The file of the planted relations of a simulated root: <root>.relations.csv."""
    return root.with_name(f"{root.name}.relations.csv")


def plate_maps(
    seed: int,
    classes: int,
    controls: int,
    negatives: int,
    train_experiments: Mapping[str, int],
    test_experiments: Mapping[str, int],
) -> pd.DataFrame:
    """Place the classes in wells: one row per well, sorted as in Kaggle's tables.

    The classes are split into four random groups of equal size. The four plates of an experiment
    hold one group each, in the same cyclic order; which group comes first is random.

    Returns:
        Columns split, cell_type, experiment, plate, well, sirna, well_type, id_code.
    """
    groups = generator(seed, "groups").permutation(classes).reshape(N_PLATES, -1)
    plates = []
    for split, counts in (("train", train_experiments), ("test", test_experiments)):
        for cell_type in CELL_TYPE_NAMES:
            first = 1 + (train_experiments[cell_type] if split == "test" else 0)
            for number in range(first, first + counts[cell_type]):
                experiment = f"{cell_type}-{number:02d}"
                turn = int(generator(seed, "rotation", experiment).integers(N_PLATES))
                for plate in range(1, N_PLATES + 1):
                    group = groups[(plate - 1 + turn) % N_PLATES]
                    rng = generator(seed, "wells", experiment, plate)
                    wells = _plate_wells(group, classes, controls, negatives, rng)
                    plates.append(
                        wells.assign(
                            split=split, cell_type=cell_type, experiment=experiment, plate=plate
                        )
                    )
    frame = pd.concat(plates, ignore_index=True)
    frame["id_code"] = frame.experiment + "_" + frame.plate.astype(str) + "_" + frame.well
    return frame.sort_values(["split", "id_code"], ascending=[False, True], ignore_index=True)


def _plate_wells(
    group: np.ndarray, classes: int, controls: int, negatives: int, rng: np.random.Generator
) -> pd.DataFrame:
    """Place one group of classes and the controls on a plate: columns well, sirna, well_type."""
    positive, treated, negative = place_wells(controls, len(group), negatives, rng)
    kinds = ("positive_control", "treatment", "negative_control")
    sirnas = [
        *range(classes, classes + controls),
        *rng.permutation(group).tolist(),
        *[classes + controls] * negatives,
    ]
    return pd.DataFrame(
        {
            "well": [*positive, *treated, *negative],
            "sirna": sirnas,
            "well_type": np.repeat(kinds, (controls, len(group), negatives)),
        }
    )


def _draw_plate(
    wells: pd.DataFrame, root: Path, seed: int, sizes: _Sizes, relations: _Relations
) -> int:
    """Draw the images of one plate; return the number of sites."""
    first = wells.iloc[0]
    split, cell_type, experiment, number = first[["split", "cell_type", "experiment", "plate"]]
    brightness = generator(seed, "brightness", experiment)
    mean, sd = draw_experiment(cell_type, N_PLATES, brightness)[number - 1]
    response = experiment_response(seed, experiment)
    sites = []
    for row in wells.itertuples():
        treated = row.well_type != "negative_control"
        likeness, group = relations.likeness / 100, relations.group(row.sirna)
        class_effect = np.zeros(N_EFFECTS)
        if treated:
            class_effect = effect(seed, row.sirna, cell_type, group, likeness)
        visible = well_effect(seed, class_effect, response, (experiment, number), row.well)
        look = look_of(cell_type, visible)
        for site in range(1, sizes.sites + 1):
            sites.append(Site(f"{row.id_code}_s{site}", row.well, look))
    optics = draw_optics(mean, sd, seed, experiment, str(number))
    plate = Plate(f"{experiment}_{number}", optics, tuple(sites))
    folder = root / split / experiment / f"Plate{number}"
    folder.mkdir(parents=True, exist_ok=True)
    for site, image in draw_plate(plate, sizes.size, seed):
        stem = site.name.removeprefix(f"{plate.name}_")
        for channel, picture in enumerate(image, start=1):
            write_png(folder / f"{stem}_w{channel}.png", picture)
    return len(sites)


def write_tables(frame: pd.DataFrame, out: Path, answers: Path) -> None:
    """Write Kaggle's tables of the wells of `plate_maps`, and the answers."""
    columns = ["id_code", "experiment", "plate", "well"]
    treated = frame.well_type == "treatment"
    train, test = frame.split == "train", frame.split == "test"
    controls = [*columns, "sirna", "well_type"]
    answered = frame[test & treated]
    write_csv(answers, answered[["id_code", "sirna"]])
    write_csv(out / "sample_submission.csv", answered[["id_code"]].assign(sirna=0))
    write_csv(out / "test.csv", answered[columns])
    write_csv(out / "test_controls.csv", frame[test & ~treated][controls])
    write_csv(out / "train_controls.csv", frame[train & ~treated][controls])
    write_csv(out / "train.csv", frame[train & treated][[*columns, "sirna"]])


def _check_plate(sizes: _Sizes) -> None:
    least = {"classes": N_PLATES, "controls": 0, "negatives": 1, "size": 16, "sites": 1}
    check_sizes("rxrx1", vars(sizes), {name: (low, None) for name, low in least.items()})
    if sizes.classes % N_PLATES:
        raise InputError(
            f"simulate rxrx1: classes is {sizes.classes}, not divisible by the {N_PLATES} plates "
            "of an experiment"
        )
    wells = sizes.classes // N_PLATES + sizes.controls + sizes.negatives
    if wells > len(WELLS):
        raise InputError(
            f"simulate rxrx1: {wells} wells do not fit on a plate of {len(WELLS)}; lower classes, "
            "controls or negatives"
        )


def _checked_counts(
    sizes: _Sizes,
    relations: _Relations,
    train: int | Mapping[str, int],
    test: int | Mapping[str, int],
) -> dict[str, dict[str, int]]:
    """The experiments of each split and cell type, after all arguments are checked."""
    _check_plate(sizes)
    _check_relations(relations, sizes.classes)
    return {
        "train_experiments": _count_experiments(train, "train_experiments"),
        "test_experiments": _count_experiments(test, "test_experiments"),
    }


def _check_relations(relations: _Relations, classes: int) -> None:
    ranges = {"complexes": (0, None), "complex_size": (2, None), "likeness": (0, 100)}
    check_sizes("rxrx1", vars(relations), ranges)
    if relations.complexes * relations.complex_size > classes:
        raise InputError(
            f"simulate rxrx1: {relations.complexes} complexes of {relations.complex_size} classes "
            f"need more than the {classes} classes"
        )


def _count_experiments(wanted: int | Mapping[str, int], name: str) -> dict[str, int]:
    """Return the number of experiments to simulate for each cell type."""
    if not isinstance(wanted, Mapping):
        wanted = dict.fromkeys(CELL_TYPE_NAMES, wanted)
    unknown = sorted(set(wanted) - set(CELL_TYPE_NAMES))
    if unknown:
        known = ", ".join(CELL_TYPE_NAMES)
        raise InputError(
            f"simulate rxrx1: {name} names the unknown cell type {unknown[0]!r}; known: {known}"
        )
    counts = {cell_type: int(wanted.get(cell_type, 0)) for cell_type in CELL_TYPE_NAMES}
    if min(counts.values()) < 0 or max(counts.values()) > 99 or not sum(counts.values()):
        raise InputError(
            f"simulate rxrx1: {name} must be 0..99 for each cell type and not all 0, not {wanted}"
        )
    return counts

"""Draw the plates of the shift bench, and the batches of wells that are asked.

Plates are drawn as in simulated RxRx1: brightness at the spread measured on the real plates, other
optics and a shared response by experiment. A test plate is full, so that a batch of one class alone
is of several wells.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cellsignal.simulation.calibration import draw_experiment
from cellsignal.simulation.output import generator
from cellsignal.simulation.phenotypes import (
    N_EFFECTS,
    effect,
    experiment_response,
    look_of,
    well_effect,
)
from cellsignal.simulation.plates import Plate, Site, draw_optics, draw_plate, place_wells

ALPHAS = (np.inf, 1.0, 0.1, 0.01)
# wells of a batch -> draws; 3 x 8 plates: each of 24 classes is once the most frequent
REPEATS = {8: 3, 32: 3, 96: 3, 308: 1}


@dataclass(frozen=True)
class Design:
    """How many of everything are drawn.

    Attributes:
        classes, positives, negatives: treatments, and control wells of every plate.
        train_experiments, test_experiments: their numbers; each has `plates` plates.
        train_wells, test_wells: wells of a class on a plate.
        size: image side in pixels.
    """

    classes: int = 24
    positives: int = 30
    negatives: int = 14
    train_experiments: int = 8
    test_experiments: int = 4
    plates: int = 2
    train_wells: int = 3
    test_wells: int = 11
    size: int = 48
    cell_type: str = "HUVEC"


@dataclass(frozen=True)
class Wells:
    """Drawn wells, one image each.

    Attributes:
        images: (N, 6, size, size) uint8.
        table: N rows with experiment, plate, well, role, label (-1 of controls) and is_test.
    """

    images: np.ndarray
    table: pd.DataFrame

    def chosen(self, mask: np.ndarray) -> "Wells":
        """Return some of the wells."""
        return Wells(self.images[mask], self.table[mask].reset_index(drop=True))


@dataclass(frozen=True)
class Asked:
    """The batches of one experiment that are asked at a time, one of each plate.

    Attributes:
        alpha, size: the Dirichlet's concentration, and wells of a batch.
        repeat: number of the draw.
        rows: for each plate, (size,) rows of the wells' table; a well may come again.
    """

    alpha: float
    size: int
    repeat: int
    experiment: str
    rows: tuple[np.ndarray, ...]


def draw_wells(seed: int, design: Design) -> Wells:
    """Draw all plates of a seed; its classes and controls have effects of their own."""
    parts, tables = [], []
    for number in range(design.train_experiments + design.test_experiments):
        is_test = number >= design.train_experiments
        experiment = f"{'test' if is_test else 'train'}-{number:02d}"
        brightness = generator(seed, "brightness", experiment)
        levels = draw_experiment(design.cell_type, design.plates, brightness)
        for plate, (mean, sd) in enumerate(levels, 1):
            table = _plate_table(seed, experiment, str(plate), is_test, design)
            optics = draw_optics(mean, sd, seed, experiment, str(plate))
            sites = tuple(_sites(seed, table, design))
            drawn = draw_plate(Plate(f"{experiment}_{plate}", optics, sites), design.size, seed)
            parts.append(np.stack([image for _, image in drawn]))
            tables.append(table)
    return Wells(np.concatenate(parts), pd.concat(tables, ignore_index=True))


def _plate_table(
    seed: int, experiment: str, plate: str, is_test: bool, design: Design
) -> pd.DataFrame:
    """Place classes and controls: one row a well."""
    rng = generator(seed, "wells", experiment, plate)
    wells = design.test_wells if is_test else design.train_wells
    counts = (design.positives, design.classes * wells, design.negatives)
    places = place_wells(*counts, rng)
    roles = np.repeat(["positive_control", "treatment", "negative_control"], counts)
    classes = rng.permutation(np.repeat(np.arange(design.classes), wells))
    positives = design.classes + np.arange(design.positives)
    drawn = np.concatenate([positives, classes, np.full(design.negatives, -1)])
    table = pd.DataFrame({"well": np.concatenate([*map(np.asarray, places)]), "role": roles})
    treated = roles == "treatment"
    return table.assign(
        experiment=experiment,
        plate=plate,
        effect=drawn,
        label=np.where(treated, drawn, -1),
        is_test=is_test,
    )


def _sites(seed: int, table: pd.DataFrame, design: Design) -> Iterator[Site]:
    """Yield what is to be drawn in each well; an effect of -1 is untreated."""
    for row in table.itertuples():
        response = experiment_response(seed, row.experiment)
        of_class = np.zeros(N_EFFECTS)
        if row.effect >= 0:
            of_class = effect(seed, row.effect, design.cell_type)
        plate = (row.experiment, row.plate)
        visible = well_effect(seed, of_class, response, plate, row.well)
        name = f"{row.experiment}_{row.plate}_{row.well}"
        yield Site(name, row.well, look_of(design.cell_type, visible))


def ask_batches(
    table: pd.DataFrame,
    seed: int,
    repeats: Mapping[int, int] = REPEATS,
    alphas: tuple[float, ...] = ALPHAS,
) -> Iterator[Asked]:
    """Draw the batches of every test experiment, alpha and size.

    The shares of the classes follow a Dirichlet of `alpha` (infinity: all equal), for each plate
    another. Which class has the largest share goes round, so that over the plates and repeats of a
    seed the classes are in turn the most frequent one. The wells of a class come in random order,
    again where there are no more.

    Args:
        repeats: wells of a batch -> draws for each experiment.
    """
    treated = table[table.is_test & (table.role == "treatment")]
    classes = np.unique(treated.label)
    for alpha in alphas:
        for size, number in repeats.items():
            first = generator(seed, "first", alpha, size).permutation(len(classes))
            turn = 0
            for experiment, wells in treated.groupby("experiment", sort=True):
                for repeat in range(number):
                    rows = []
                    for plate, members in wells.groupby("plate", sort=True):
                        rng = generator(seed, "asked", experiment, plate, alpha, size, repeat)
                        shares = np.sort(draw_shares(len(classes), alpha, rng))[::-1]
                        order = np.roll(first, -turn)
                        turn += 1
                        shares = shares[np.argsort(order)]
                        rows.append(_draw_rows(members, classes, shares, size, rng))
                    yield Asked(alpha, size, repeat, str(experiment), tuple(rows))


def draw_shares(classes: int, alpha: float, rng: np.random.Generator) -> np.ndarray:
    """Draw the share of each class, (K,), of a Dirichlet of `alpha`; equal for infinity."""
    if np.isinf(alpha):
        return np.full(classes, 1 / classes)
    # logarithms of gamma variables: at .01 nearly all of the variables themselves are 0
    logs = np.log(rng.gamma(alpha + 1, size=classes)) + np.log(rng.random(classes)) / alpha
    shares = np.exp(logs - logs.max())
    return shares / shares.sum()


def _draw_rows(
    plate: pd.DataFrame,
    classes: np.ndarray,
    shares: np.ndarray,
    size: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Draw the wells of a batch: (size,) rows of the table."""
    if shares.std() == 0:  # as equal as can be
        turns = [rng.permutation(len(classes)) for _ in range(-(-size // len(classes)))]
        drawn = np.concatenate(turns)[:size]
    else:
        drawn = rng.choice(len(classes), size, p=shares)
    rows, labels = plate.index.to_numpy(), plate.label.to_numpy()
    result = np.empty(size, np.int64)
    for number in np.unique(drawn):
        places = np.flatnonzero(drawn == number)
        members = rng.permutation(rows[labels == classes[number]])
        result[places] = np.resize(members, len(places))
    return result

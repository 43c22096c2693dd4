"""Draw the effects of knock-downs on cells: one vector per class.

Effects live on the logarithms of `Look`'s fields, in units of `SCALES`, so that 0 is the untreated
look and effects add. The parts that make the task hard are here as well: knock-downs of unequal
strength, wells of unequal efficiency, and shifts that all wells of an experiment share.
"""

from dataclasses import fields, replace

import numpy as np

from cellsignal.simulation.cells import CELL_TYPES, Look
from cellsignal.simulation.output import generator

# log effect of one unit on each field that a knock-down or a batch may change
SCALES: dict[str, float] = {
    "density": 0.28,
    "clumping": 0.25,
    "nucleus": 0.11,
    "elongation": 0.12,
    "reach": 0.16,
    "rounded": 0.7,
    "binucleate": 0.7,
    "chromatin": 0.45,
    "er_extent": 0.3,
    "er_texture": 0.45,
    "fibre": 0.45,
    "cortex": 0.4,
    "nucleoli": 0.5,
    "mito_extent": 0.3,
    "mito_texture": 0.4,
    "golgi_size": 0.25,
    "golgi_offset": 0.25,
    "stain_nuclei": 0.2,
    "stain_er": 0.22,
    "stain_actin": 0.22,
    "stain_rna": 0.22,
    "stain_mito": 0.22,
    "stain_golgi": 0.22,
}
_FIELDS = tuple(SCALES)
_SCALE = np.array(list(SCALES.values()))
N_EFFECTS = len(_FIELDS)
assert set(_FIELDS) < {field.name for field in fields(Look)}

# of the variance of a class's effect: how its answer differs between cell types
CELL_TYPE_SHARE = 0.15
EXPERIMENT_MIX = 0.2  # how far an experiment mixes effects into one another
EXPERIMENT_SHIFT = 0.8  # SD, in units, of what all wells of an experiment share
STRENGTH = 1.6  # units; the median knock-down
PLATE_SHIFT = 0.12
WELL_NOISE = 0.15
LIMIT = 3.5  # units beyond which cells would no longer look like cells


def effect(
    seed: int, label: int, cell_type: str, group: int | None = None, likeness: float = 0.0
) -> np.ndarray:
    """Return the effect of a class on a cell type, (N_EFFECTS,) units.

    It is the same in every experiment and size of simulation.

    Args:
        group: the complex whose phenotype the class shares; None for none.
        likeness: the share of the variance of a class's effect, but for what is of one cell type
            alone, that all classes of its complex have in common.
    """
    rng = generator(seed, "class", label)
    common = rng.normal(size=N_EFFECTS) * (rng.random(N_EFFECTS) < 0.5) * np.sqrt(2.0)
    if group is not None:
        of_group = generator(seed, "complex", group)
        shared = of_group.normal(size=N_EFFECTS) * (of_group.random(N_EFFECTS) < 0.5) * np.sqrt(2.0)
        common = np.sqrt(likeness) * shared + np.sqrt(1 - likeness) * common
    strength = STRENGTH * np.exp(0.3 * rng.normal())
    specific = generator(seed, "class", label, cell_type).normal(size=N_EFFECTS)
    return strength * (np.sqrt(1 - CELL_TYPE_SHARE) * common + np.sqrt(CELL_TYPE_SHARE) * specific)


def experiment_response(seed: int, experiment: str) -> tuple[np.ndarray, np.ndarray]:
    """Return how an experiment turns effects into looks.

    Returns:
        A mixing matrix (N_EFFECTS, N_EFFECTS), and a shift (N_EFFECTS,) of all its wells.
    """
    rng = generator(seed, "response", experiment)
    noise = rng.normal(size=(N_EFFECTS, N_EFFECTS))
    mix = np.eye(N_EFFECTS) + EXPERIMENT_MIX / np.sqrt(N_EFFECTS) * noise
    return mix, EXPERIMENT_SHIFT * rng.normal(size=N_EFFECTS)


def well_effect(
    seed: int, effect: np.ndarray, response: tuple[np.ndarray, np.ndarray], plate: tuple, well: str
) -> np.ndarray:
    """Return the effect seen in one well, (N_EFFECTS,) units.

    Args:
        response: the mixing and the shift of its experiment.
        plate: what names the plate in the simulation, say (experiment, plate number).
    """
    mix, shift = response
    plate_shift = PLATE_SHIFT * generator(seed, "plate shift", *plate).normal(size=N_EFFECTS)
    rng = generator(seed, "well", *plate, well)
    efficiency = rng.uniform(0.7, 1.1)
    noise = WELL_NOISE * rng.normal(size=N_EFFECTS)
    return efficiency * (mix @ effect) + shift + plate_shift + noise


def look_of(cell_type: str, units: np.ndarray) -> Look:
    """Return the look of cells of a type under an effect of (N_EFFECTS,) units."""
    base = CELL_TYPES[cell_type]
    factors = np.exp(_SCALE * np.clip(units, -LIMIT, LIMIT))
    changed = {
        name: getattr(base, name) * factor for name, factor in zip(_FIELDS, factors, strict=True)
    }
    return replace(base, **changed)


def units(**named: float) -> np.ndarray:
    """Return an effect written by names: (N_EFFECTS,) units, 0 where not named."""
    assert set(named) <= set(_FIELDS), named
    return np.array([named.get(name, 0.0) for name in _FIELDS])

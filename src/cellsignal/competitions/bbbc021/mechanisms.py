"""What mechanisms, compounds and batches do to simulated MCF7 cells; shared by both simulators."""

import numpy as np

from cellsignal.simulation.output import generator
from cellsignal.simulation.phenotypes import N_EFFECTS, units

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

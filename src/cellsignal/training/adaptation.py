"""Choose the images that each unit's BatchNorm statistics are taken of (`predict.adapt`)."""

import logging
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.data.normalization import CONTROL_ROLES, choose_references
from cellsignal.data.samplers import in_order
from cellsignal.training.job import Job, predictable_samples, unit_codes
from cellsignal.training.ranks import ALONE, Ranks

log = logging.getLogger(__name__)
# below these, statistics of all wells of a unit follow what it holds (docs/results/shift.md)
LEAST_WELLS, LEAST_TREATMENTS = 32, 16
COMPARED_UNITS = 16  # training units that say how treatments differ from controls, at most


@dataclass(frozen=True)
class Unit:
    """Batches, lists of dataset indices, that share BatchNorm statistics.

    Attributes:
        statistics: none without adaptation.
        of_controls: whether they are of control wells, and foretell what treatments would give.
    """

    statistics: list[list[int]]
    predicted: list[list[int]]
    of_controls: bool = False

    @cached_property
    def holds_predicted(self) -> bool:
        """Whether all images to predict are among those of the statistics."""
        taken = {index for batch in self.statistics for index in batch}
        return bool(taken) and all(taken.issuperset(batch) for batch in self.predicted)


@dataclass(frozen=True)
class References:
    """The samples that the statistics of some units are taken of.

    Attributes:
        codes: (N,) int, the unit of each sample of the store.
        rows: unit -> positions of its reference samples in the store's samples.
        are_controls: (N,) bool, the samples of the control wells that `adapt_wells` names.
        from_experiment, from_unit: how many units, having no wells of the wanted role, take those
            of their experiment, or all their own.
    """

    codes: np.ndarray
    rows: dict[int, np.ndarray]
    are_controls: np.ndarray
    from_experiment: int
    from_unit: int


def choose_statistics(job: Job, chosen: np.ndarray) -> References | None:
    """Choose the samples of the statistics of units; None without `predict.adapt`.

    Args:
        chosen: (n,) positions in `job.store.samples`; their units are looked at.

    Raises:
        InputError: no sample at all is of the wells that `adapt_wells` names.
    """
    samples, config = job.store.samples, job.config.predict
    codes = unit_codes(samples, config.adapt)
    if codes is None:
        return None
    kept = counts = predictable_samples(job.config, job.store)
    are_controls = np.zeros(len(samples), bool)
    if config.adapt_wells != "all":
        are_controls = kept & samples.role.isin(CONTROL_ROLES[config.adapt_wells]).to_numpy()
        counts = are_controls
        if not counts.any():
            raise InputError(
                f"predict.adapt_wells: {config.adapt_wells}: none of the {kept.sum()} samples is "
                "of such a well; write adapt_wells: all"
            )
    wanted = np.unique(codes[chosen])
    members = [np.flatnonzero(kept & (codes == code)) for code in wanted]
    experiment = samples.experiment.to_numpy()
    rows, from_experiment, from_unit = choose_references(members, counts, experiment)
    by_code = dict(zip(wanted.tolist(), rows, strict=True))
    return References(codes, by_code, are_controls, from_experiment, from_unit)


def deal_units(job: Job, chosen: np.ndarray, ranks: Ranks = ALONE) -> tuple[np.ndarray, list[Unit]]:
    """Deal the units of some samples to the processes.

    Args:
        chosen: (n,) positions in `job.store.samples` to predict.

    Returns:
        (m,) positions of the images that this process reads, and its units, whose indices are
        places in these.
    """
    size, references = job.config.predict.batch_size, choose_statistics(job, chosen)
    if references is None:
        dealt = [chosen[batch] for batch in in_order(len(chosen), size)[ranks.rank :: ranks.world]]
        positions = np.concatenate([chosen[:0], *dealt])
        return positions, [Unit([], in_order(len(positions), size))]
    codes = references.codes[chosen]
    my_codes = np.unique(codes)[ranks.rank :: ranks.world]
    read = [chosen[np.isin(codes, my_codes)], *(references.rows[code] for code in my_codes)]
    positions = np.unique(np.concatenate(read))
    units = []
    for code in my_codes:
        statistics = np.searchsorted(positions, references.rows[code])
        predicted = np.searchsorted(positions, chosen[codes == code])
        of_controls = bool(references.are_controls[references.rows[code]].all())
        units.append(Unit(_spread(statistics, size), _spread(predicted, size), of_controls))
    return positions, units


def plan_comparison(job: Job) -> list[tuple[np.ndarray, np.ndarray]]:
    """Choose the training units whose images are compared with those of their controls.

    Up to `COMPARED_UNITS`, evenly among the units that have two images or more of each.

    Returns:
        For each, positions of control images and of images that train, in the store's samples;
        together they make one batch of `predict.batch_size` at most (or of 4).

    Raises:
        InputError: no training unit has controls.
    """
    references = choose_statistics(job, job.train)
    most = max(2, job.config.predict.batch_size // 2)
    units = []
    for code, rows in references.rows.items():
        controls = rows[references.are_controls[rows]]
        trained = np.sort(job.train[references.codes[job.train] == code])
        if min(len(controls), len(trained)) >= 2:
            units.append((_evenly(controls, most), _evenly(trained, most)))
    if not units:
        predict = job.config.predict
        raise InputError(
            f"predict.adapt_wells: {predict.adapt_wells}: no {predict.adapt} that {job.title} "
            "trains on has two images of such wells; write adapt_wells: all"
        )
    return [units[place] for place in _evenly(np.arange(len(units)), COMPARED_UNITS)]


def _evenly(values: np.ndarray, most: int) -> np.ndarray:
    """Return at most so many of the values, evenly among them."""
    if len(values) <= most:
        return values
    return values[np.arange(most) * len(values) // most]


def warn_of_units(job: Job, chosen: np.ndarray) -> None:
    """Warn, in a line each, of units whose statistics what they hold may move, or lack controls.

    Statistics of all wells are doubtful where a unit has fewer than `LEAST_WELLS` wells, or where
    fewer than `LEAST_TREATMENTS` treatments are known to be on it. What that costs is measured in
    docs/results/shift.md.

    Args:
        chosen: (n,) positions in `job.store.samples` to predict.
    """
    config = job.config.predict
    references = choose_statistics(job, chosen) if len(chosen) else None
    if references is None:
        return
    lacking = references.from_experiment + references.from_unit
    if lacking:
        log.warning(
            "predict.adapt_wells: %s: %d of %d %ss have none; %d take their experiment's, %d all "
            "wells of their own",
            config.adapt_wells,
            lacking,
            len(references.rows),
            config.adapt,
            references.from_experiment,
            references.from_unit,
        )
    if config.adapt_wells == "all":
        _warn_of_few(job.store.samples, references, config.adapt)


def _warn_of_few(samples: pd.DataFrame, references: References, unit: str) -> None:
    """Warn of units of few wells or treatments; unknown treatments are not counted as few."""
    few = []
    for rows in references.rows.values():
        mine = samples.iloc[rows]
        wells = mine.well_id.nunique()
        treated = mine[mine.role == "treatment"].treatment
        known = treated[treated.notna() & (treated != "")]
        skewed = len(treated) and len(known) == len(treated) and known.nunique() < LEAST_TREATMENTS
        if wells < LEAST_WELLS or skewed:
            few.append((wells, mine.iloc[0]))
    if few:
        wells, first = min(few, key=lambda item: item[0])
        log.warning(
            "predict.adapt: %d of %d %ss have fewer than %d wells or %d treatments, first %s plate "
            "%s with %d wells: BatchNorm statistics then follow what the %s holds; write "
            "adapt_wells: controls if there are controls, or adapt: none",
            len(few),
            len(references.rows),
            unit,
            LEAST_WELLS,
            LEAST_TREATMENTS,
            first.experiment,
            first.plate,
            wells,
            unit,
        )


def smallest_batch(job: Job, chosen: np.ndarray) -> int:
    """Count the images in the smallest batch of a unit's statistics; 0 without adaptation."""
    references = choose_statistics(job, chosen) if len(chosen) else None
    if references is None:
        return 0
    counts = np.array([len(rows) for rows in references.rows.values()])
    batches = np.ceil(counts / job.config.predict.batch_size).astype(int)
    return int((counts // batches).min())


def _spread(indices: np.ndarray, size: int) -> list[list[int]]:
    """Make batches of nearly equal size, none above `size`, each spread over the whole unit."""
    number = -(-len(indices) // size)
    return [indices[first::number].tolist() for first in range(number)]

"""Which grey levels count as zero and one for a site: the statistics of all, its experiment, its
plate, itself, or none.

Batches differ far more in brightness than treatments do, so what a site is standardised by decides
how much of the batch reaches the model (RxRx1, 2nd place: validation accuracy rises from "global"
over "experiment" to "plate"). All statistics come from the channel means and SDs that packing
stored; no pixel is read again, and no label is ever looked at, only the role of control wells.
"""

import logging

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.config.schema import Normalization

log = logging.getLogger(__name__)

# Grey levels; no SD is taken to be smaller. An SD below it means nearly all 8-bit pixels sit at one
# or two levels:
# dividing by it would blow rounding noise up. The smallest SD of any RxRx1 plate's channel is 1.03.
SMALLEST_SD = 0.5

_ROLES = {
    "controls": ("positive_control", "negative_control"),
    "negative_controls": ("negative_control",),
}


def global_statistics(mean: np.ndarray, sd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and population SD, per channel, of all pixels of the given sites together (sites of
    equally many pixels).

    Args:
        mean, sd: (n, C), each site's own.

    Returns:
        Two (C,) float64: the mean of the means; the root of mean(sd^2) + var(mean).
    """
    assert len(mean) and np.isfinite(mean).all() and np.isfinite(sd).all(), (
        "statistics of no packed site"
    )
    mean, sd = np.asarray(mean, np.float64), np.asarray(sd, np.float64)
    return mean.mean(0), np.sqrt(np.square(sd).mean(0) + mean.var(0))


def standardisation(
    samples: pd.DataFrame,
    mean: np.ndarray,
    sd: np.ndarray,
    config: Normalization,
    overall: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """What to subtract from and divide each sample's channels by.

    A unit (experiment; or plate, which is unique only within its experiment) is pooled over those
    of its `samples` that `config.wells` names. So give all samples of the store, control wells
    included, and choose rows of the result: a unit's figures then do not depend on what is trained
    or predicted. A unit without such wells takes its experiment's; without those too, all of its
    own. A warning says how many units did.

    Args:
        samples: n rows; the columns experiment, plate and role are used.
        mean, sd: (n, C), each row's own statistics.
        overall: for by="global", the (C,) mean and SD to use for every row (`global_statistics` of
        the training rows).

    Returns:
        shift, scale: (n, C) float32 in grey levels; the image becomes (x - shift) / scale. No scale
        is below
            `SMALLEST_SD`.

    Raises:
        InputError: no sample at all is of the wells that `config.wells` names.
    """
    assert len(samples) == len(mean) == len(sd)
    mean, sd = np.asarray(mean, np.float64), np.asarray(sd, np.float64)
    if config.by == "none":
        shift, scale = np.zeros_like(mean), np.full_like(mean, 255)
    elif config.by == "global":
        assert overall is not None, "by: global takes the overall statistics of the training rows"
        shift, scale = (np.broadcast_to(value, mean.shape) for value in overall)
    elif config.by == "image":
        shift, scale = mean, sd
    else:
        shift, scale = _by_unit(samples, mean, sd, config)
    return shift.astype(np.float32), np.maximum(scale, SMALLEST_SD).astype(np.float32)


def _by_unit(
    samples: pd.DataFrame, mean: np.ndarray, sd: np.ndarray, config: Normalization
) -> tuple[np.ndarray, np.ndarray]:
    counts = (
        np.ones(len(samples), bool)
        if config.wells == "all"
        else samples.role.isin(_ROLES[config.wells]).to_numpy()
    )
    if not counts.any():
        raise InputError(
            f"normalization.wells: {config.wells}: none of the {len(samples)} samples is of such "
            "a well; write wells: all"
        )
    experiment = pd.factorize(samples.experiment)[0]
    unit = (
        samples.groupby(["experiment", "plate"], sort=False).ngroup().to_numpy()
        if config.by == "plate"
        else experiment
    )
    order = np.argsort(unit, kind="stable")
    shift, scale = np.empty_like(mean), np.empty_like(mean)
    of_experiment = of_own = 0
    units = np.split(order, np.flatnonzero(np.diff(unit[order])) + 1)
    for rows in units:
        chosen = rows[counts[rows]]
        if not len(chosen):
            chosen = np.flatnonzero(counts & (experiment == experiment[rows[0]]))
            of_experiment += len(chosen) > 0
            of_own += len(chosen) == 0
        shift[rows], scale[rows] = (
            global_statistics(mean[chosen], sd[chosen])
            if len(chosen)
            else global_statistics(mean[rows], sd[rows])
        )
    if of_experiment or of_own:
        log.warning(
            "normalization by %s over %s: %d of %d %ss have none; %d take their experiment's, %d "
            "all wells of their own",
            config.by,
            config.wells,
            of_experiment + of_own,
            len(units),
            config.by,
            of_experiment,
            of_own,
        )
    return shift, scale


def pooled_over_frames(
    mean: np.ndarray, sd: np.ndarray, frames: int
) -> tuple[np.ndarray, np.ndarray]:
    """The statistics of clips with every frame of a channel given the whole channel's: what happens
    over time stays in the picture.

    Args:
        mean, sd: (n, C * frames), channel by channel.
    """
    if frames == 1:
        return mean, sd
    shape = (len(mean), -1, frames)
    mean = np.asarray(mean, np.float64).reshape(shape)
    sd = np.asarray(sd, np.float64).reshape(shape)
    pooled = mean.mean(2), np.sqrt(np.square(sd).mean(2) + mean.var(2))
    return tuple(np.repeat(values, frames, axis=1) for values in pooled)

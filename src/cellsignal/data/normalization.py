"""Compute shifts and scales of images (of plates, control wells ...) and apply them.

`compute_shift_scale` says which grey levels count as zero and one for a site: those of all sites,
its experiment, its plate, itself, or none. `standardize` applies them; the feed, the warps on CPU
and GPU, the albumentations path and prediction all call it.

Batches differ far more in brightness than treatments do, so what a site is standardised by decides
how much of the batch reaches the model (RxRx1, 2nd place: validation accuracy rises from "global"
over "experiment" to "plate"). All statistics come from the channel means and SDs that packing
stored; no pixel is read again, and no label is ever looked at, only the role of control wells.
"""

import logging
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import pandas as pd
import torch

from cellsignal.common.errors import InputError
from cellsignal.config.schema import Normalization

log = logging.getLogger(__name__)

# Grey levels; no SD is taken to be smaller. Below it nearly all 8-bit pixels sit at one or two
# levels, and dividing would blow rounding noise up. The smallest of any RxRx1 plate is 1.03.
SMALLEST_SD = 0.5
CONTROL_ROLES = {
    "controls": ("positive_control", "negative_control"),
    "negative_controls": ("negative_control",),
}
Array = TypeVar("Array", np.ndarray, torch.Tensor)


def standardize(grey: Array, shift: Array, scale: Array, out: Array | None = None) -> Array:
    """Return (grey - shift) / scale; no other function normalises pixels.

    Args:
        grey: float32 grey levels, or uint8 with a float32 `out`.
        shift, scale: float32 of `compute_shift_scale`, of shapes that broadcast to `grey`.
        out: where the result is put; may be `grey` itself.
    """
    library = torch if isinstance(grey, torch.Tensor) else np
    centred = library.subtract(grey, shift, out=out)
    return library.divide(centred, scale, out=centred)


def compute_shift_scale(
    samples: pd.DataFrame,
    mean: np.ndarray,
    sd: np.ndarray,
    config: Normalization,
    overall: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the shift and scale of each sample's channels.

    A unit (experiment, or plate within its experiment) is pooled over those of its samples that
    `config.wells` names. A unit without such wells takes its experiment's; without those too, all
    of its own; a warning says how many did. Give all samples of the store, control wells included,
    and choose rows of the result: a unit's figures then do not depend on what is predicted.

    Args:
        samples: n rows; the columns experiment, plate and role are used.
        mean, sd: (n, C), each row's own statistics.
        overall: for by="global", the (C,) mean and SD of the training rows (`pool_statistics`).

    Returns:
        shift, scale: (n, C) float32 in grey levels, for `standardize`; no scale is below
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
        shift, scale = _pool_units(samples, mean, sd, config)
    return shift.astype(np.float32), np.maximum(scale, SMALLEST_SD).astype(np.float32)


def _pool_units(
    samples: pd.DataFrame, mean: np.ndarray, sd: np.ndarray, config: Normalization
) -> tuple[np.ndarray, np.ndarray]:
    if config.wells == "all":
        counts = np.ones(len(samples), bool)
    else:
        counts = samples.role.isin(CONTROL_ROLES[config.wells]).to_numpy()
    if not counts.any():
        raise InputError(
            f"normalization.wells: {config.wells}: none of the {len(samples)} samples is of such "
            "a well; write wells: all"
        )
    columns = ["experiment", "plate"] if config.by == "plate" else ["experiment"]
    rows_of_unit = list(samples.groupby(columns, sort=False, dropna=False).indices.values())
    shift, scale = np.empty_like(mean), np.empty_like(mean)
    experiment = samples.experiment.to_numpy()
    references, from_experiment, from_unit = choose_references(rows_of_unit, counts, experiment)
    for rows, chosen in zip(rows_of_unit, references, strict=True):
        shift[rows], scale[rows] = pool_statistics(mean[chosen], sd[chosen])
    if from_experiment or from_unit:
        log.warning(
            "normalization by %s over %s: %d of %d %ss have none; %d take their experiment's, %d "
            "all wells of their own",
            config.by,
            config.wells,
            from_experiment + from_unit,
            len(rows_of_unit),
            config.by,
            from_experiment,
            from_unit,
        )
    return shift, scale


def choose_references(
    rows_of_unit: Sequence[np.ndarray], counts: np.ndarray, experiment: np.ndarray
) -> tuple[list[np.ndarray], int, int]:
    """Return the rows that each unit's statistics are taken of, and how many units lack their own.

    A unit without a row that counts takes those of its experiment; without those too, all its own.

    Args:
        rows_of_unit: the rows of each unit.
        counts: (N,) bool, the rows that statistics may be taken of.
        experiment: (N,) of each row.

    Returns:
        Rows for each unit; how many units take their experiment's; how many take all their own.
    """
    references, from_experiment, from_unit = [], 0, 0
    for rows in rows_of_unit:
        chosen = rows[counts[rows]]
        if not len(chosen):
            chosen = np.flatnonzero(counts & (experiment == experiment[rows[0]]))
            from_experiment += len(chosen) > 0
        if not len(chosen):
            chosen = rows
            from_unit += 1
        references.append(chosen)
    return references, from_experiment, from_unit


def pool_statistics(mean: np.ndarray, sd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the (C,) mean and population SD of all pixels of some sites of equally many pixels.

    Args:
        mean, sd: (n, C), each site's own.
    """
    assert len(mean) and np.isfinite(mean).all() and np.isfinite(sd).all(), (
        "statistics of no packed site"
    )
    mean, sd = np.asarray(mean, np.float64), np.asarray(sd, np.float64)
    return mean.mean(0), np.sqrt(np.square(sd).mean(0) + mean.var(0))


def pool_over_frames(
    mean: np.ndarray, sd: np.ndarray, frames: int
) -> tuple[np.ndarray, np.ndarray]:
    """Give every frame of a clip's channel the whole channel's statistics.

    So what happens over time stays in the picture.

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

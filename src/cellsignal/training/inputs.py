"""What the networks of a job are given: the images of its samples, standardised, augmented in
training.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from cellsignal.common.errors import InputError
from cellsignal.competitions import get_competition
from cellsignal.config import Config
from cellsignal.config.augment import Augmentation
from cellsignal.data.dataset import SiteDataset
from cellsignal.data.draws import Recipe, needs_albumentations
from cellsignal.data.normalization import compute_shift_scale, pool_over_frames, pool_statistics
from cellsignal.data.store import Store
from cellsignal.data.transforms import Transform
from cellsignal.training.job import Job


@dataclass(frozen=True)
class Pixels:
    """Standardisation of every sample of a store, and the training pixels' overall mean and SD that
    `by: global` needs again at prediction.
    """

    shift: np.ndarray  # (n, C), C the store's channels
    scale: np.ndarray  # (n, C)
    overall: tuple[np.ndarray, np.ndarray]


def pixel_statistics(
    config: Config, store: Store, train: np.ndarray | None = None, overall: tuple | None = None
) -> Pixels:
    """Shift and scale of every sample in `store.samples`; overall statistics from the training
    samples unless they are given.
    """
    samples: pd.DataFrame = store.samples
    rows = samples.row.to_numpy()
    mean, sd = pool_over_frames(
        store.mean[rows], store.sd[rows], get_competition(config.competition).frames
    )
    if overall is None:
        overall = pool_statistics(mean[train], sd[train])
    shift, scale = compute_shift_scale(samples, mean, sd, config.normalization, overall)
    return Pixels(shift, scale, overall)


def site_dataset(
    job: Job,
    positions: np.ndarray,
    pixels: Pixels,
    augmentations: tuple[Augmentation, ...] | None = None,
    seed: int = 0,
    device: torch.device | None = None,
) -> SiteDataset:
    """The images of some positions in `job.store.samples`; without augmentations (None) as
    validation and prediction see them.

    Args:
        device: where training images may be kept (`data.device_gib`).
    """
    config, samples = job.config, job.store.samples.iloc[positions]
    return SiteDataset(
        job.store,
        samples.row.to_numpy(),
        pixels.shift[positions][:, job.channels],
        pixels.scale[positions][:, job.channels],
        _augmentation(job, augmentations),
        seed,
        cache_gib=config.data.cache_gib,
        channels=None if config.data.channels is None else job.channels,
        device=device,
        device_gib=0.0 if device is None else config.data.device_gib,
    )


def output_shapes(job: Job) -> tuple[tuple[int, int], tuple[int, int]]:
    """(height, width) of the images that the job's network trains on, and of those it predicts
    from.

    Raises:
        InputError: an augmentation that cannot work on these images.
    """
    return _augmentation(job, job.stage.augment).output, _augmentation(job, None).output


def _augmentation(job: Job, augmentations: tuple[Augmentation, ...] | None) -> Recipe | Transform:
    channels, shape, pipeline = len(job.channels), job.store.shape[1:], job.config.data.pipeline
    frames = job.competition.frames
    stain, frame = (None, None) if frames == 1 else np.divmod(job.channels, frames)
    if augmentations is None:
        return Recipe((), channels, shape, job.config.predict.center_crop)
    why = needs_albumentations(augmentations)
    if pipeline == "warp" and why:
        raise InputError(
            f"data.pipeline: warp cannot make stage {job.stage.name!r}: {why}; write auto or "
            "albumentations"
        )
    if pipeline == "albumentations" or why:
        return Transform(augmentations, channels, stain, frame, shape)
    return Recipe(augmentations, channels, shape, stain=stain)

"""Measure how BatchNorm statistics of training images differ from those of control wells.

Where `predict.adapt_wells` names controls, `inference.predict_with` adds these offsets to the
statistics of a unit's controls, so that images are standardised about as training batches were.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from cellsignal.data.dataset import SiteDataset
from cellsignal.data.feed import feed_raw
from cellsignal.models.batch_norm import Offsets, measure_offsets
from cellsignal.training.adaptation import plan_comparison
from cellsignal.training.inference import Pixels, model_inputs, reading_workers, site_dataset
from cellsignal.training.job import Job
from cellsignal.training.optim import autocast


@dataclass(frozen=True)
class Comparison:
    """Images of training units and of their controls, for `unit_offsets`."""

    positions: np.ndarray  # of the dataset's images
    batches: tuple[tuple[int, list[int]], ...]  # number of controls, which come first; indices
    dataset: SiteDataset


def plan_offsets(job: Job, pixels: Pixels) -> Comparison | None:
    """Open the images that `unit_offsets` needs; None unless statistics are of controls.

    Raises:
        InputError: no training unit has controls.
    """
    if job.config.predict.adapt_wells == "all":
        return None
    parts = plan_comparison(job)
    positions = np.unique(np.concatenate([rows for unit in parts for rows in unit]))
    batches = tuple(
        (len(controls), np.searchsorted(positions, np.concatenate([controls, trained])).tolist())
        for controls, trained in parts
    )
    return Comparison(positions, batches, site_dataset(job, positions, pixels))


@torch.inference_mode()
def unit_offsets(job: Job, model: nn.Module, comparison: Comparison | None) -> Offsets | None:
    """Measure how statistics of training images differ from those of their unit's controls.

    With `predict.adapt_wells` other than all, `predict_with` adds them to each unit's statistics of
    controls. They are of the weights at hand: measure them again when these have changed.

    Args:
        job: whose training samples are compared; not one of new images.
        comparison: of `plan_offsets`.
    """
    if comparison is None:
        return None
    device = next(model.parameters()).device
    model.eval()
    inputs = model_inputs(job, comparison.dataset, comparison.positions, device)
    stream = feed_raw(
        comparison.dataset,
        [indices for _, indices in comparison.batches],
        reading_workers(job, comparison.dataset, device),
        device,
    )
    counts = (controls for controls, _ in comparison.batches)
    batches = ((next(counts), inputs(batch)) for batch in stream)
    with autocast(job.stage.amp, device):
        return measure_offsets(model, batches)

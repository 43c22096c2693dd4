"""Run images through a model, in every view, with BatchNorm adapted if configured.

The trainer's validation, its pseudo-labels and every prediction come through here, so that what was
validated is what predicts. Each image is read from the store once: its bytes stay on the device
while its unit's statistics are taken and all its views are made.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from cellsignal.common.errors import InputError
from cellsignal.competitions import get_competition
from cellsignal.config import Config
from cellsignal.config.augment import Augmentation
from cellsignal.data.dataset import GIB, SiteDataset
from cellsignal.data.draws import Recipe, needs_albumentations
from cellsignal.data.feed import Batch, feed_raw, standardize_batch
from cellsignal.data.normalization import compute_shift_scale, pool_over_frames, pool_statistics
from cellsignal.data.store import Store
from cellsignal.data.transforms import Transform
from cellsignal.data.views import apply_view
from cellsignal.models.batch_norm import Offsets, unit_statistics
from cellsignal.training.adaptation import Unit, deal_units
from cellsignal.training.job import Job, cell_type_vectors
from cellsignal.training.optim import autocast
from cellsignal.training.ranks import ALONE, Ranks

# a unit's images above this size are read twice, for its statistics and for its predictions
HELD_GIB = 4.0


@dataclass(frozen=True)
class Pixels:
    """How the pixels of every sample of a store are standardised."""

    shift: np.ndarray  # (n, C), C the store's channels
    scale: np.ndarray  # (n, C)
    # mean and SD of the training pixels; `by: global` needs them again at prediction
    overall: tuple[np.ndarray, np.ndarray]


def pixel_statistics(
    config: Config, store: Store, train: np.ndarray | None = None, overall: tuple | None = None
) -> Pixels:
    """Compute shift and scale of every sample in `store.samples`.

    Overall statistics are of the samples at `train`, unless they are given.
    """
    rows = store.samples.row.to_numpy()
    frames = get_competition(config.competition).frames
    mean, sd = pool_over_frames(store.mean[rows], store.sd[rows], frames)
    if overall is None:
        overall = pool_statistics(mean[train], sd[train])
    shift, scale = compute_shift_scale(store.samples, mean, sd, config.normalization, overall)
    return Pixels(shift, scale, overall)


def site_dataset(
    job: Job,
    positions: np.ndarray,
    pixels: Pixels,
    augmentations: tuple[Augmentation, ...] | None = None,
    seed: int = 0,
    device: torch.device | None = None,
) -> SiteDataset:
    """Make the dataset of some positions in `job.store.samples`.

    Without augmentations (None) it is what validation and prediction see. Training images may be
    kept on a `device` (`data.device_gib`).
    """
    data = job.config.data
    return SiteDataset(
        job.store,
        job.store.samples.row.to_numpy()[positions],
        pixels.shift[positions][:, job.channels],
        pixels.scale[positions][:, job.channels],
        _augmentation(job, augmentations),
        seed,
        cache_gib=data.cache_gib,
        channels=None if data.channels is None else job.channels,
        device=device,
        device_gib=0.0 if device is None else data.device_gib,
    )


def output_shapes(job: Job) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return (height, width) of training images, and of images to predict.

    Raises:
        InputError: an augmentation that cannot work on these images.
    """
    return _augmentation(job, job.stage.augment).output, _augmentation(job, None).output


def _augmentation(job: Job, augmentations: tuple[Augmentation, ...] | None) -> Recipe | Transform:
    channels, shape, pipeline = len(job.channels), job.store.shape[1:], job.config.data.pipeline
    if augmentations is None:
        return Recipe((), channels, shape, job.config.predict.center_crop)
    stain = frame = None
    if job.competition.frames > 1:
        stain, frame = np.divmod(job.channels, job.competition.frames)
    reason = needs_albumentations(augmentations)
    if pipeline == "warp" and reason:
        raise InputError(
            f"data.pipeline: warp cannot make stage {job.stage.name!r}: {reason}; write auto or "
            "albumentations"
        )
    if pipeline == "albumentations" or reason:
        return Transform(augmentations, channels, stain, frame, shape)
    return Recipe(augmentations, channels, shape, stain=stain)


@dataclass(frozen=True)
class Reading:
    """What `predict_with` reads, ready to be used again."""

    chosen: np.ndarray  # (n,) positions in the store's samples to predict
    positions: np.ndarray  # of the dataset's images: these, and all else of their units
    units: tuple[Unit, ...]
    dataset: SiteDataset


@dataclass(frozen=True)
class Pass:
    """A computation for every image: `forward` of one of its views, (B, width)."""

    forward: Callable[..., torch.Tensor]
    width: int
    view: str = "identity"


def plan_reading(job: Job, pixels: Pixels, chosen: np.ndarray, ranks: Ranks = ALONE) -> Reading:
    """Deal the units of some samples to the processes, and open their images.

    Args:
        chosen: (n,) positions in `job.store.samples`.
    """
    positions, units = deal_units(job, chosen, ranks)
    return Reading(chosen, positions, tuple(units), site_dataset(job, positions, pixels))


def predict_with(
    job: Job,
    model: nn.Module,
    reading: Reading,
    views: Sequence[str] = ("identity",),
    *,
    embeddings: bool = False,
    offsets: Offsets | None = None,
    ranks: Ranks = ALONE,
) -> dict[str, np.ndarray]:
    """Compute logits (or embeddings) of some samples.

    With `predict.adapt` each unit (cell type, experiment or plate) of the samples is predicted with
    BatchNorm statistics of the unit's images in the store, those of all wells, or those that its
    controls foretell (`predict.adapt_wells`): no label is looked at, and what else is predicted
    changes nothing.

    Args:
        model: on its device; left in evaluation mode.
        reading: of `plan_reading`, for the same ranks; each process predicts its own share.
        offsets: of `control_offsets.unit_offsets`, where statistics are of controls.

    Returns:
        view -> (n, K) float32, K = job.outputs; or (n, D). The same in every process.
    """
    forward, width = (model.embed, model.width) if embeddings else (model, job.outputs)
    passes = {view: Pass(forward, width, view) for view in views}
    return _run_passes(job, model, reading, passes, offsets, ranks)


def logits_and_embeddings(
    job: Job,
    model: nn.Module,
    reading: Reading,
    offsets: Offsets | None = None,
    ranks: Ranks = ALONE,
) -> tuple[np.ndarray, np.ndarray]:
    """Compute (n, K) logits and (n, D) embeddings, reading each image once for both."""
    passes = {"logits": Pass(model, job.outputs), "embeddings": Pass(model.embed, model.width)}
    results = _run_passes(job, model, reading, passes, offsets, ranks)
    return results["logits"], results["embeddings"]


@torch.inference_mode()
def _run_passes(
    job: Job,
    model: nn.Module,
    reading: Reading,
    passes: dict[str, Pass],
    offsets: Offsets | None,
    ranks: Ranks,
) -> dict[str, np.ndarray]:
    """Return name -> (n, width) float32; the first pass takes the units' statistics."""
    assert offsets is not None or job.config.predict.adapt_wells == "all"
    device = next(model.parameters()).device
    model.eval()
    first = next(iter(passes.values())).forward
    inputs = model_inputs(job, reading.dataset, reading.positions, device)
    # kept on the device: fetching each result would make it wait
    parts: dict[str, list[torch.Tensor]] = {name: [] for name in passes}
    with autocast(job.stage.amp, device):
        streams = _units(job, reading, device)
        for of_unit, (statistics, predicted) in zip(reading.units, streams, strict=True):
            unit = (inputs(batch) for batch in statistics)
            adapted = nullcontext()
            if job.config.predict.adapt != "none":
                added = offsets if of_unit.of_controls else None
                adapted = unit_statistics(model, unit, forward=first, offsets=added)
            with adapted:
                for _ in unit:
                    pass  # a model without BatchNorm has not looked at them
                for batch in predicted:
                    images, *others = inputs(batch)
                    for name, each in passes.items():
                        view = apply_view(images, each.view)
                        view = view.contiguous(memory_format=torch.channels_last)
                        parts[name].append(each.forward(view, *others).float())
    indices = [batch for unit in reading.units for batch in unit.predicted]
    done = reading.positions[np.concatenate(indices)] if indices else reading.chosen[:0]
    return {
        name: ranks.sum_array(_in_order_of(reading.chosen, done, parts[name], each.width))
        for name, each in passes.items()
    }


def model_inputs(
    job: Job, dataset: SiteDataset, positions: np.ndarray, device: torch.device
) -> Callable[[Batch], tuple[torch.Tensor, ...]]:
    """Return what makes a model's arguments of a batch of the dataset's images."""
    vectors = cell_type_vectors(job)

    def inputs(batch: Batch) -> tuple[torch.Tensor, ...]:
        index = batch.index
        images = standardize_batch(batch.images, dataset.shift[index], dataset.scale[index])
        if vectors is None:
            return (images,)
        return images, vectors[positions[index]].to(device)

    return inputs


def reading_workers(job: Job, dataset: SiteDataset, device: torch.device) -> int:
    """Return how many threads read the images; none where they are kept in a CPU's memory."""
    return 0 if dataset.is_kept_for(device) else job.config.data.workers


def _units(
    job: Job, reading: Reading, device: torch.device
) -> Iterator[tuple[Iterator[Batch], Iterator[Batch]]]:
    """Yield each unit's batches for its statistics, to be used up first, and those to predict."""
    dataset, units = reading.dataset, reading.units
    workers = reading_workers(job, dataset, device)
    image_bytes = dataset.shape[0] * np.prod(dataset.augmentation.input)

    def read_once(unit: Unit) -> bool:
        images = sum(map(len, unit.statistics))
        return unit.holds_predicted and image_bytes * images <= HELD_GIB * GIB

    batches = []
    for unit in units:
        batches += unit.statistics if read_once(unit) else [*unit.statistics, *unit.predicted]
    images = feed_raw(dataset, batches, workers, device)
    title = f"{job.title} predict"
    stream = iter(tqdm(images, title, len(batches), leave=False, disable=None))
    for unit in units:
        if read_once(unit):
            held = [next(stream) for _ in unit.statistics]
            yield iter(held), _batches_of(held, unit.predicted)
        else:
            yield (next(stream) for _ in unit.statistics), (next(stream) for _ in unit.predicted)


def _batches_of(held: list[Batch], batches: list[list[int]]) -> Iterator[Batch]:
    """Yield batches of images that are on the device already."""
    images = torch.cat([batch.images for batch in held])
    index = np.concatenate([batch.index for batch in held])
    held.clear()
    order = np.argsort(index)
    for batch in batches:
        rows = order[np.searchsorted(index, batch, sorter=order)]
        yield Batch(images[torch.from_numpy(rows).to(images.device)], np.asarray(batch))


def _in_order_of(
    chosen: np.ndarray, done: np.ndarray, parts: list[torch.Tensor], width: int
) -> np.ndarray:
    """Put the rows of the samples `done` at their places in `chosen`; zeros elsewhere."""
    result = np.zeros((len(chosen), width), np.float32)
    if len(done):
        order = np.argsort(chosen, kind="stable")
        result[order[np.searchsorted(chosen[order], done)]] = torch.cat(parts).cpu().numpy()
    return result

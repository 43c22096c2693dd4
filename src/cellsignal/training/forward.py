"""Images through a model: every view of some samples, BatchNorm adapted to each unit first where
the config asks for it.

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

from cellsignal.data.dataset import GIB, SiteDataset
from cellsignal.data.feed import Batch, feed_raw, standardize_batch
from cellsignal.data.samplers import in_order
from cellsignal.data.views import apply_view
from cellsignal.models.batch_norm import unit_statistics
from cellsignal.training.inputs import Pixels, site_dataset
from cellsignal.training.job import Job, cell_type_vectors, kept_samples, unit_codes
from cellsignal.training.precision import autocast
from cellsignal.training.ranks import ALONE, Ranks

# bytes of a unit's images kept on the device between its statistics and its predictions; larger
# units are read twice
HELD_GIB = 4.0


@dataclass(frozen=True)
class Unit:
    """What shares BatchNorm statistics: batches (lists of indices of the dataset) to take them
    from, none without adaptation, and batches of the samples that are asked for.
    """

    statistics: list[list[int]]
    own: list[list[int]]


@dataclass(frozen=True)
class Reading:
    """What `predict_with` reads, ready to be used again: (n,) `chosen` positions in the store's
    samples, their units, and the images of all of these, whose `positions` are those the dataset's
    indices stand for.
    """

    chosen: np.ndarray
    positions: np.ndarray
    units: tuple[Unit, ...]
    dataset: SiteDataset


@dataclass(frozen=True)
class Pass:
    """What is asked of every image: `forward` of one of its views, (B, width)."""

    forward: Callable[..., torch.Tensor]
    width: int
    view: str = "identity"


def plan_reading(job: Job, pixels: Pixels, chosen: np.ndarray, ranks: Ranks = ALONE) -> Reading:
    """The units of some samples, dealt to the processes, and their images (in memory where
    `data.cache_gib` allows).

    Args:
        chosen: (n,) positions in `job.store.samples`.
    """
    size = job.config.predict.batch_size
    codes = unit_codes(job.store.samples, job.config.predict.adapt)
    if codes is None:
        mine = [chosen[batch] for batch in in_order(len(chosen), size)[ranks.rank :: ranks.world]]
        positions = np.concatenate([chosen[:0], *mine])
        units = [Unit([], in_order(len(positions), size))]
    else:
        kept = kept_samples(job.config, job.store)
        codes_here = np.unique(codes[chosen])[ranks.rank :: ranks.world]
        positions = np.flatnonzero(kept & np.isin(codes, codes_here))
        place = np.full(len(codes), -1)
        place[positions] = np.arange(len(positions))
        units = [
            Unit(
                _spread(place[kept & (codes == code)], size),
                _spread(place[chosen[codes[chosen] == code]], size),
            )
            for code in codes_here
        ]
    return Reading(chosen, positions, tuple(units), site_dataset(job, positions, pixels))


def predict_with(
    job: Job,
    model: nn.Module,
    reading: Reading,
    views: Sequence[str] = ("identity",),
    *,
    embeddings: bool = False,
    ranks: Ranks = ALONE,
) -> dict[str, np.ndarray]:
    """Logits (or embeddings) of some samples.

    With `predict.adapt` each unit (cell type, experiment or plate) of the samples is predicted with
    BatchNorm statistics of all the unit's kept images in the store, whatever their role: no label
    is looked at, and what else is predicted changes nothing.

    Args:
        model: on its device; left in evaluation mode.
        reading: of `plan_reading`, for the same ranks; each process predicts its own share of the
        units.

    Returns:
        view -> (n, K) float32, K = job.outputs; or (n, D). The same in every process.
    """
    forward, width = (model.embed, model.width) if embeddings else (model, job.outputs)
    return _passes(job, model, reading, {view: Pass(forward, width, view) for view in views}, ranks)


def logits_and_embeddings(
    job: Job, model: nn.Module, reading: Reading, ranks: Ranks = ALONE
) -> tuple[np.ndarray, np.ndarray]:
    """(n, K) logits and (n, D) embeddings of some samples, as `predict_with` of the identity;
    images and units' statistics are taken once for both.
    """
    found = _passes(
        job,
        model,
        reading,
        {"logits": Pass(model, job.outputs), "embeddings": Pass(model.embed, model.width)},
        ranks,
    )
    return found["logits"], found["embeddings"]


@torch.inference_mode()
def _passes(
    job: Job, model: nn.Module, reading: Reading, passes: dict[str, Pass], ranks: Ranks
) -> dict[str, np.ndarray]:
    """Name -> (n, width) float32 of every pass; a unit's statistics are taken by the first one's
    forward.
    """
    device = next(model.parameters()).device
    model.eval()
    first = next(iter(passes.values())).forward
    vectors, dataset = cell_type_vectors(job), reading.dataset

    def inputs(batch: Batch) -> tuple[torch.Tensor, ...]:
        images = standardize_batch(
            batch.images, dataset.shift[batch.index], dataset.scale[batch.index]
        )
        return (
            (images,)
            if vectors is None
            else (images, vectors[reading.positions[batch.index]].to(device))
        )

    # on the device: fetching each would make it wait
    found: dict[str, list[torch.Tensor]] = {name: [] for name in passes}
    with autocast(job.stage.amp, device):
        for statistics, own in _units(job, reading, device):
            unit = (inputs(batch) for batch in statistics)
            with (
                unit_statistics(model, unit, forward=first)
                if job.config.predict.adapt != "none"
                else nullcontext()
            ):
                for _ in unit:
                    pass  # a model without BatchNorm has not looked at them
                for batch in own:
                    images, *others = inputs(batch)
                    for name, one in passes.items():
                        seen = apply_view(images, one.view).contiguous(
                            memory_format=torch.channels_last
                        )
                        found[name].append(one.forward(seen, *others).float())
    done = [batch for unit in reading.units for batch in unit.own]
    done = reading.positions[np.concatenate(done)] if done else reading.chosen[:0]
    return {
        name: ranks.sum_array(_restored(parts, done, reading.chosen, passes[name].width))
        for name, parts in found.items()
    }


def _units(
    job: Job, reading: Reading, device: torch.device
) -> Iterator[tuple[Iterator[Batch], Iterator[Batch]]]:
    """Each unit's batches for its statistics, to be used up first, and of its own samples, as bytes
    on the device.
    """
    dataset, units = reading.dataset, reading.units
    workers = 0 if dataset.kept is not None and device.type == "cpu" else job.config.data.workers
    image = dataset.shape[0] * np.prod(dataset.augmentation.input)
    held = [
        unit.statistics and image * sum(map(len, unit.statistics)) <= HELD_GIB * GIB
        for unit in units
    ]
    batches = [
        batch
        for unit, once in zip(units, held, strict=True)
        for batch in (*unit.statistics, *(() if once else unit.own))
    ]
    title = f"{job.title} predict"
    stream = iter(
        tqdm(
            feed_raw(dataset, batches, workers, device),
            desc=title,
            total=len(batches),
            disable=None,
            leave=False,
        )
    )
    for unit, once in zip(units, held, strict=True):
        if once:
            seen = [next(stream) for _ in unit.statistics]
            yield iter(seen), _again(seen, unit.own)
        else:
            yield (next(stream) for _ in unit.statistics), (next(stream) for _ in unit.own)


def _again(seen: list[Batch], batches: list[list[int]]) -> Iterator[Batch]:
    """Batches of images that are on the device already."""
    images = torch.cat([batch.images for batch in seen])
    index = np.concatenate([batch.index for batch in seen])
    seen.clear()
    order = np.argsort(index)
    for batch in batches:
        place = order[np.searchsorted(index, batch, sorter=order)]
        yield Batch(images[torch.from_numpy(place).to(images.device)], np.asarray(batch))


def _spread(indices: np.ndarray, size: int) -> list[list[int]]:
    """Batches of nearly equal size, none above `size`, each spread over the whole unit."""
    number = -(-len(indices) // size)
    return [indices[first::number].tolist() for first in range(number)]


def _restored(
    parts: list[torch.Tensor], done: np.ndarray, chosen: np.ndarray, width: int
) -> np.ndarray:
    """The rows of the samples `done` at their places in `chosen`; zeros elsewhere."""
    result = np.zeros((len(chosen), width), np.float32)
    if len(done):
        order = np.argsort(chosen, kind="stable")
        result[order[np.searchsorted(chosen[order], done)]] = torch.cat(parts).cpu().numpy()
    return result


def by_target(
    scores: np.ndarray, target_id: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores of samples, summed over the samples of a target.

    Args:
        scores: (n, K), of one row a sample.
        target_id: (n,) text.

    Returns:
        The T target ids, sorted; (T, K) sums; (T,) the first sample of each.
    """
    targets, first, inverse = np.unique(target_id, return_index=True, return_inverse=True)
    merged = np.zeros((len(targets), scores.shape[1]))
    np.add.at(merged, inverse, scores)
    return targets, merged, first

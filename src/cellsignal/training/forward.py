"""Images through a model: every view of some samples, BatchNorm adapted to each unit first where the config asks for
it.

The trainer's validation, its pseudo-labels and every prediction come through here, so that what was validated is what
predicts.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from cellsignal.data.dataset import loader
from cellsignal.data.samplers import in_order
from cellsignal.data.views import apply_view
from cellsignal.models.batch_norm import unit_statistics
from cellsignal.training.job import Job, Pixels, cell_type_vectors, kept_samples, site_dataset, unit_codes

Batch = dict[str, Any]


@torch.inference_mode()
def predict_with(
    job: Job,
    model: nn.Module,
    pixels: Pixels,
    chosen: np.ndarray,
    views: Sequence[str] = ("identity",),
    *,
    embeddings: bool = False,
) -> dict[str, np.ndarray]:
    """Logits (or embeddings) of some samples.

    With `predict.adapt` each unit (cell type, experiment or plate) of the samples is predicted with BatchNorm
    statistics of all the unit's kept images in the store, whatever their role: no label is looked at, and what else
    is predicted changes nothing.

    Args:
        model: on its device; left in evaluation mode.
        chosen: (n,) positions in `job.store.samples`.

    Returns:
        view -> (n, K) float32, K = job.outputs; or (n, D).
    """
    device = next(model.parameters()).device
    model.eval()
    forward = model.embed if embeddings else model
    vectors = cell_type_vectors(job)
    positions, plan = _plan(job, chosen)
    dataset = site_dataset(job, positions, pixels)
    batches = [batch for statistics, own in plan for batch in (*statistics, *own)]
    workers = 0 if dataset.cached is not None else job.config.data.workers
    stream = iter(tqdm(loader(dataset, batches, workers), desc=f"{job.title} predict", disable=None, leave=False))

    def inputs(batch: Batch, view: str) -> tuple[torch.Tensor, ...]:
        images = apply_view(batch["image"].to(device), view).contiguous(memory_format=torch.channels_last)
        return (images,) if vectors is None else (images, vectors[positions[batch["index"]]].to(device))

    found: dict[str, list[np.ndarray]] = {view: [] for view in views}
    kind = torch.float16 if job.stage.amp == "fp16" else torch.bfloat16
    with torch.autocast(device.type, kind, enabled=job.stage.amp != "off"):
        for statistics, own in plan:
            if statistics:
                unit = (inputs(next(stream), "identity") for _ in statistics)
                with unit_statistics(model, unit, forward=forward):
                    _collect(found, forward, inputs, (next(stream) for _ in own))
            else:
                _collect(found, forward, inputs, (next(stream) for _ in own))
    width = model.width if embeddings else job.outputs
    return {view: _restored(parts, positions, plan, chosen, width) for view, parts in found.items()}


def _collect(found: dict[str, list[np.ndarray]], forward: Callable, inputs: Callable, batches: Iterable[Batch]) -> None:
    for batch in batches:
        for view, parts in found.items():
            parts.append(forward(*inputs(batch, view)).float().cpu().numpy())


def _plan(job: Job, chosen: np.ndarray) -> tuple[np.ndarray, list[tuple[list[list[int]], list[list[int]]]]]:
    """Which store positions are read, and for every unit the batches (of indices into them) of its statistics and of
    its own chosen samples."""
    size, unit = job.config.predict.batch_size, job.config.predict.adapt
    codes = unit_codes(job.store.samples, unit)
    if codes is None:
        return chosen, [([], in_order(len(chosen), size))]
    kept = kept_samples(job.config, job.store)
    positions = np.flatnonzero(kept & np.isin(codes, codes[chosen]))
    place = np.full(len(codes), -1)
    place[positions] = np.arange(len(positions))
    plan = []
    for code in np.unique(codes[chosen]):
        members, mine = place[kept & (codes == code)], place[chosen[codes[chosen] == code]]
        plan.append((_batches(members, size), _batches(mine, size)))
    return positions, plan


def _batches(indices: np.ndarray, size: int) -> list[list[int]]:
    """Batches of nearly equal size, none above `size`, each spread over the whole unit."""
    number = -(-len(indices) // size)
    return [indices[first::number].tolist() for first in range(number)]


def _restored(parts: list[np.ndarray], positions: np.ndarray, plan: list, chosen: np.ndarray, width: int) -> np.ndarray:
    """The rows of all own batches in the order of `chosen`."""
    result = np.zeros((len(chosen), width), np.float32)
    if len(chosen):
        done = positions[np.concatenate([batch for _, own in plan for batch in own])]
        order = np.argsort(chosen, kind="stable")
        result[order[np.searchsorted(chosen[order], done)]] = np.concatenate(parts)
    return result


def by_target(scores: np.ndarray, target_id: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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

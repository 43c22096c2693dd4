"""Measure what each part of a fast training step is worth.

Memory layout, precision, fused optimiser, torch.compile, CUDA graphs, gradient checkpointing. The
batch is made once and stays on the device, so that nothing but the step is measured: forward,
backward, AdamW.
"""

import functools
import importlib.util
import logging
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch.nn import functional

from cellsignal.common.errors import InputError
from cellsignal.config.schema import Model
from cellsignal.config.stage import Optimizer
from cellsignal.models.backbones import build_model
from cellsignal.models.cost import checkpoint_activations, forward_flops, training_flops
from cellsignal.studies.performance.live_bytes import LiveBytes
from cellsignal.training.optim import build_optimizer
from cellsignal.training.throughput import device_peak

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Variant:
    """A way of making the step. `compile`: torch.compile's mode."""

    name: str
    channels_last: bool = True
    bf16: bool = True
    fused: bool = True
    compile: str | None = None
    checkpointed: bool = False


VARIANTS = (
    Variant("contiguous, fp32, AdamW not fused", channels_last=False, bf16=False, fused=False),
    Variant("channels_last, fp32", bf16=False, fused=False),
    Variant("contiguous, bf16", channels_last=False, fused=False),
    Variant("channels_last, bf16", fused=False),
    Variant("channels_last, bf16, fused"),
    Variant("... and gradient checkpointing", checkpointed=True),
    Variant("... and torch.compile", compile="default"),
    Variant("... and torch.compile with CUDA graphs", compile="reduce-overhead"),
)
WARM_UP = 3  # steps; CUDA graphs are recorded in the third

Step = Callable[[], None]


@dataclass(frozen=True)
class _Batch:
    """Inputs on the device: images (B, C, size, size), labels (B,), one-hot cell types if any."""

    images: torch.Tensor
    labels: torch.Tensor
    others: tuple[torch.Tensor, ...]


def bench_step(
    config: Model,
    sizes: Sequence[int],
    batch: int = 32,
    *,
    channels: int = 6,
    classes: int = 96,
    cell_types: int = 4,
    compiled: bool = False,
    rounds: int = 5,
    steps: int = 4,
    device: torch.device | None = None,
) -> pd.DataFrame:
    """Time the training step in all variants, in turn, so that a slow minute hits all.

    Args:
        config: the network; its weights are random.
        sizes: pixels a side of the images.
        compiled: also with torch.compile, which takes minutes to start.
        rounds, steps: each round makes `steps` steps of every variant; medians are over rounds.

    Returns:
        A row for each size and variant: size, batch, variant, images_per_s, ratio (median over the
        rounds, to the size's first variant), of_peak (share of the matmul rate in the variant's
        dtype), peak_gib (most memory in a step), start_s (first three steps), note (why none).

    Raises:
        InputError: no such backbone, or a batch of one image.
    """
    if batch < 2:
        raise InputError("the step's benchmark needs a batch of two images or more")
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kinds = cell_types if config.cell_type_vector else 0
    tables = []
    for size in sizes:
        inputs = _random_batch((batch, channels, size, size), classes, kinds, device)
        shape = (config, channels, classes, size, cell_types)
        network = functools.partial(build_model, *shape, initial_weights=False)
        flops = forward_flops(network(), channels, size, cell_types)
        rows = _measure(network, inputs, compiled, rounds, steps)
        for row, variant in zip(rows, VARIANTS, strict=True):
            if "images_per_s" in row:
                peak = device_peak(device, torch.bfloat16 if variant.bf16 else torch.float32)
                flops_per_image = training_flops(flops, variant.checkpointed)
                row["of_peak"] = row["images_per_s"] * flops_per_image / peak
        tables.append(pd.DataFrame(rows).assign(size=size, batch=batch))
        if compiled:
            torch.compiler.reset()  # the next size is compiled for itself
    columns = "size batch variant images_per_s ratio of_peak peak_gib start_s note"
    return pd.concat(tables, ignore_index=True).reindex(columns=columns.split())


def step_text(table: pd.DataFrame) -> str:
    """Write `bench_step`'s table in Markdown."""
    lines = [
        "| px | batch | step | images/s | x | of the matmul peak | GiB | to start, s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    formats = {"ratio": ".2f", "of_peak": ".0%", "peak_gib": ".2f", "start_s": ".1f"}
    for row in table.to_dict("records"):
        cells = [row["note"] or _format(row["images_per_s"], ",.1f")]
        cells += [_format(row[name], form) for name, form in formats.items()]
        start = f"| {row['size']} | {row['batch']} | {row['variant']}"
        lines.append(f"{start} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _format(value: float, form: str) -> str:
    return "" if pd.isna(value) else format(value, form)


def _random_batch(
    shape: tuple[int, int, int, int], classes: int, cell_types: int, device: torch.device
) -> _Batch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(shape, generator=generator)
    labels = torch.randint(classes, shape[:1], generator=generator)
    others: tuple[torch.Tensor, ...] = ()
    if cell_types:
        codes = torch.arange(shape[0]) % cell_types
        others = (functional.one_hot(codes, cell_types).float().to(device),)
    return _Batch(images.to(device), labels.to(device), others)


def _measure(
    network: Callable[[], torch.nn.Module], inputs: _Batch, compiled: bool, rounds: int, steps: int
) -> list[dict]:
    """Measure each variant, one row each; without images_per_s if it could not run."""
    device = inputs.images.device
    rows = [{"variant": variant.name} for variant in VARIANTS]
    ready: dict[int, Step] = {}
    for number, variant in enumerate(VARIANTS):
        note = _lacking(variant, device, compiled)
        try:
            if note is None:
                ready[number] = _start(variant, network, inputs, rows[number])
        except torch.OutOfMemoryError:
            note = "out of memory"
        except InputError as error:  # the network has no gradient checkpointing
            note = str(error)
        rows[number]["note"] = note or ""
        log.info("%s", rows[number])
    seconds: dict[int, list[float]] = {number: [] for number in ready}
    for _ in range(rounds):
        for number, step in list(ready.items()):
            try:
                seconds[number].append(_seconds(step, steps, device) / steps)
            except torch.OutOfMemoryError:  # beside all the others
                del ready[number]
                rows[number]["note"] = "out of memory"
    for number in ready:
        rows[number]["images_per_s"] = len(inputs.labels) / statistics.median(seconds[number])
        if 0 in ready:
            ratios = np.array(seconds[0]) / np.array(seconds[number])
            rows[number]["ratio"] = float(np.median(ratios))
    return rows


def _start(
    variant: Variant, network: Callable[[], torch.nn.Module], inputs: _Batch, row: dict
) -> Step:
    """Make and warm up the variant's step; write its time and memory of the start into `row`."""
    device = inputs.images.device
    before = _allocated(device)
    step, owned = _make(variant, network(), inputs)
    row["start_s"] = _seconds(step, WARM_UP, device)
    held = _allocated(device) - before
    row["peak_gib"] = _step_memory(step, owned, held, device, variant) / 2**30
    return step


def _lacking(variant: Variant, device: torch.device, compiled: bool) -> str | None:
    """Return why a variant cannot run on this machine, or None."""
    on_gpu = device.type == "cuda"
    if variant.bf16 and on_gpu and not torch.cuda.is_bf16_supported(including_emulation=False):
        return "the GPU has no bf16"
    if variant.compile is None:
        return None
    if variant.compile == "reduce-overhead" and not on_gpu:
        return "needs a GPU"
    if not compiled:
        return "left out (takes minutes to start)"
    if on_gpu:
        return "needs triton" if importlib.util.find_spec("triton") is None else None
    compilers = (os.environ.get("CXX", "c++"), "g++", "clang++")
    return None if any(map(shutil.which, compilers)) else "needs a C++ compiler"


def _make(
    variant: Variant, model: torch.nn.Module, inputs: _Batch
) -> tuple[Step, Callable[[], Iterator[torch.Tensor]]]:
    """Return the variant's step, and the tensors it holds between steps."""
    layout = torch.channels_last if variant.channels_last else torch.contiguous_format
    device = inputs.images.device
    model.to(device, memory_format=layout).train()
    images = inputs.images.clone(memory_format=layout)
    if variant.checkpointed:
        checkpoint_activations(model, (images[:2], *(other[:2] for other in inputs.others)))
    optimizer = build_optimizer(model, Optimizer(), fused=variant.fused)
    run = torch.compile(model, mode=variant.compile, dynamic=False) if variant.compile else model

    def step() -> None:
        if variant.compile == "reduce-overhead":
            torch.compiler.cudagraph_mark_step_begin()
        with torch.autocast(device.type, torch.bfloat16, enabled=variant.bf16):
            loss = functional.cross_entropy(run(images, *inputs.others), inputs.labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def owned() -> Iterator[torch.Tensor]:
        yield from (*model.parameters(), *model.buffers(), images)
        for state in optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, torch.Tensor))

    return step, owned


def _seconds(step: Step, steps: int, device: torch.device) -> float:
    _finish(device)
    started = time.perf_counter()
    for _ in range(steps):
        step()
    _finish(device)
    return time.perf_counter() - started


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# memory
# --------------------------------------------------------------------------------------------------


def _allocated(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def _step_memory(
    step: Step,
    owned: Callable[[], Iterator[torch.Tensor]],
    held: int,
    device: torch.device,
    variant: Variant,
) -> float:
    """Return the peak bytes of one step, plus the `held` bytes of the variant between steps.

    On a GPU the allocator's own count, work space included; on a CPU the sum of all live tensors.
    NaN where neither sees it: in a CUDA graph, which has a pool of its own, and in compiled code on
    a CPU.
    """
    if variant.compile == "reduce-overhead" or (variant.compile and device.type == "cpu"):
        return np.nan
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        _finish(device)
        return held + torch.cuda.max_memory_allocated(device) - before
    live = LiveBytes()
    for tensor in owned():
        live.count(tensor)
    with live:
        step()
    return live.most

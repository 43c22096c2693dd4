"""What each part of a fast training step is worth: memory layout, precision, fused optimiser,
torch.compile, CUDA graphs, gradient checkpointing.

The batch is made once and stays on the device, so that nothing but the step is measured: forward,
backward, AdamW.
"""

import functools
import importlib.util
import logging
import os
import shutil
import statistics
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cellsignal.common.errors import InputError
from cellsignal.config.schema import Model
from cellsignal.config.stage import Optimizer
from cellsignal.models.backbones import build_model
from cellsignal.models.cost import checkpoint_activations, forward_flops, training_flops
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
    """Inputs of one size, on the device: images (B, C, size, size) float32, labels (B,), cell types
    as the network wants them.
    """

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
    """Time the training step in all variants, one after another in every round, so that a slow
    minute hits all.

    Args:
        config: the network; its weights are random.
        sizes: of the images, pixels a side.
        compiled: also with torch.compile, which takes up to minutes to start.
        rounds, steps: each round makes `steps` steps of every variant; medians are over rounds.
        device: CUDA where there is one.

    Returns:
        A row for each size and variant: size, batch, variant, images_per_s, ratio (to the size's
        first variant: the median of the rounds' ratios), of_peak (share of the matmul rate in the
        variant's dtype), peak_gib (most memory that the variant's tensors take in a step, weights
        and optimiser included), start_s (the first three steps, in which torch.compile works), note
        (why a row has no figures, or empty).

    Raises:
        InputError: no such backbone, or a batch of one image.
    """
    if batch < 2:
        raise InputError("the step's benchmark needs a batch of two images or more")
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tables = []
    for size in sizes:
        inputs = _random_batch(
            (batch, channels, size, size),
            classes,
            cell_types if config.cell_type_vector else 0,
            device,
        )
        network = functools.partial(
            build_model, config, channels, classes, size, cell_types, initial_weights=False
        )
        flops = forward_flops(network(), channels, size, cell_types)
        rows = _measured(network, inputs, compiled, rounds, steps)
        for row, variant in zip(rows, VARIANTS, strict=True):
            if "images_per_s" in row:
                peak = device_peak(device, torch.bfloat16 if variant.bf16 else torch.float32)
                row["of_peak"] = (
                    row["images_per_s"] * training_flops(flops, variant.checkpointed) / peak
                )
        tables.append(pd.DataFrame(rows).assign(size=size, batch=batch))
        if compiled:
            torch.compiler.reset()  # the next size is compiled for itself
    columns = [
        "size",
        "batch",
        "variant",
        "images_per_s",
        "ratio",
        "of_peak",
        "peak_gib",
        "start_s",
        "note",
    ]
    return pd.concat(tables, ignore_index=True).reindex(columns=columns)


def step_text(table: pd.DataFrame) -> str:
    """`bench_step`'s table in Markdown."""

    def text(value: float, form: str) -> str:
        return "" if pd.isna(value) else format(value, form)

    lines = [
        "| px | batch | step | images/s | x | of the matmul peak | GiB | to start, s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in table.itertuples():
        figures = [
            text(row.images_per_s, ",.1f"),
            text(row.ratio, ".2f"),
            text(row.of_peak, ".0%"),
            text(row.peak_gib, ".2f"),
            text(row.start_s, ".1f"),
        ]
        figures[0] = row.note or figures[0]
        lines.append(f"| {row.size} | {row.batch} | {row.variant} | {' | '.join(figures)} |")
    return "\n".join(lines)


def _random_batch(
    shape: tuple[int, int, int, int], classes: int, cell_types: int, device: torch.device
) -> _Batch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(shape, generator=generator)
    labels = torch.randint(classes, shape[:1], generator=generator)
    kinds = (
        [functional.one_hot(torch.arange(shape[0]) % cell_types, cell_types).float()]
        if cell_types
        else []
    )
    return _Batch(images.to(device), labels.to(device), tuple(kind.to(device) for kind in kinds))


def _measured(
    network: Callable[[], torch.nn.Module], inputs: _Batch, compiled: bool, rounds: int, steps: int
) -> list[dict]:
    """A row for each variant; without images_per_s where it could not be made."""
    rows = [{"variant": variant.name} for variant in VARIANTS]
    made: dict[int, Step] = {}
    for number, variant in enumerate(VARIANTS):
        lacking = _lacking(variant, inputs.images.device, compiled)
        try:
            if lacking is None:
                made[number] = _started(variant, network, inputs, rows[number])
        except torch.OutOfMemoryError:
            lacking = "out of memory"
        except InputError as error:  # the network has no gradient checkpointing
            lacking = str(error)
        rows[number]["note"] = lacking or ""
        log.info("%s", rows[number])
    seconds: dict[int, list[float]] = {number: [] for number in made}
    for _ in range(rounds):
        for number in list(made):
            try:
                seconds[number].append(_seconds(made[number], steps, inputs.images.device) / steps)
            except torch.OutOfMemoryError:  # beside all the others
                del made[number]
                rows[number]["note"] = "out of memory"
    for number in made:
        rows[number]["images_per_s"] = len(inputs.labels) / statistics.median(seconds[number])
        if 0 in made:
            rows[number]["ratio"] = statistics.median(
                a / b for a, b in zip(seconds[0], seconds[number], strict=True)
            )
    return rows


def _started(
    variant: Variant, network: Callable[[], torch.nn.Module], inputs: _Batch, row: dict
) -> Step:
    """The variant's step, warm; `row` is told what that took."""
    device = inputs.images.device
    before = _allocated(device)
    step, owned = _make(variant, network(), inputs)
    row["start_s"] = _seconds(step, WARM_UP, device)
    row["peak_gib"] = (
        _step_memory(step, owned, _allocated(device) - before, device, variant) / 2**30
    )
    return step


def _lacking(variant: Variant, device: torch.device, compiled: bool) -> str | None:
    """Why the variant is left out here."""
    on_gpu = device.type == "cuda"
    if variant.bf16 and on_gpu and not torch.cuda.is_bf16_supported(including_emulation=False):
        return "the GPU has no bf16"
    if variant.compile == "reduce-overhead" and not on_gpu:
        return "needs a GPU"
    if variant.compile and not compiled:
        return "left out (takes minutes to start)"
    if variant.compile and on_gpu and importlib.util.find_spec("triton") is None:
        return "needs triton"
    if (
        variant.compile
        and not on_gpu
        and not any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++"))
    ):
        return "needs a C++ compiler"
    return None


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
        yield from (
            value
            for state in optimizer.state.values()
            for value in state.values()
            if isinstance(value, torch.Tensor)
        )

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
    """The most bytes that one step takes, with what the variant holds between steps (`held` bytes
    on a GPU).

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
    with _live_bytes(owned()) as live:
        step()
    return live.most


@contextmanager
def _live_bytes(held: Iterator[torch.Tensor]) -> Iterator["_LiveBytes"]:
    live = _LiveBytes()
    for tensor in held:
        live.count(tensor)
    with live:
        yield live


class _LiveBytes(TorchDispatchMode):
    """Adds up the storage of every tensor that an operation makes, from when it is made until
    nobody holds it.
    """

    def __init__(self):
        super().__init__()
        self.now, self.most, self.known = 0, 0, weakref.WeakKeyDictionary()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self.count(tensor)
        return made

    def count(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage not in self.known:
            self.known[storage] = None
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._gone, storage.nbytes())

    def _gone(self, size: int) -> None:
        self.now -= size

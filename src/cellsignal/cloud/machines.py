"""What common GPUs can do and cost, and how fast their hosts read images and launch steps.

Peaks are the vendors', list prices as remembered: check them before renting. `python -m
cellsignal.cloud.machines` measures this host's figures again.
"""

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cellsignal.common.errors import InputError

if TYPE_CHECKING:
    from torch import nn

PRICES_OF = "2025-06"  # the month that the prices are remembered from; nothing here was looked up
USUAL_CORES = 8  # of a machine with a GPU that the table does not know


@dataclass(frozen=True)
class Gpu:
    """One GPU, or several as one offer, and the cheapest usual machine that has it.

    Attributes:
        half: dense peak in float16 or bfloat16 summed in float32, TFLOP/s, of all GPUs together;
            from NVIDIA's data sheets, with matrix units where there are such.
        single: the same of float32 convolutions as torch makes them: TF32 where there is TF32.
        memory: GB of each.
        cores: virtual CPU cores of the machine, which read the images.
        usd: an hour, on demand, machine included; NaN where it is not known.
        source: whose price.
        count: GPUs.
    """

    name: str
    half: float
    single: float
    memory: int
    cores: int
    usd: float
    source: str
    count: int = 1


GPUS = (
    Gpu("T4", 65, 8.1, 16, 4, 0.53, "AWS g4dn.xlarge"),
    Gpu("T4 x2", 130, 16.2, 16, 4, 0.0, "Kaggle, hours rationed", 2),
    Gpu("P100", 18.7, 9.3, 16, 4, 0.0, "Kaggle, hours rationed"),
    Gpu("V100", 125, 15.7, 16, 8, 3.06, "AWS p3.2xlarge"),
    Gpu("L4", 121, 60, 24, 4, 0.80, "AWS g6.xlarge"),
    Gpu("A10G", 70, 35, 24, 4, 1.01, "AWS g5.xlarge"),
    Gpu("RTX 3090", 71, 35.6, 24, 8, 0.46, "RunPod"),
    Gpu("RTX 4090", 165, 82.6, 24, 8, 0.69, "RunPod"),
    Gpu("A100", 312, 156, 40, 12, 3.67, "Google a2-highgpu-1g"),
    Gpu("H100", 989, 494, 80, 16, 6.88, "AWS p5.4xlarge"),
    Gpu("H200", 989, 494, 141, 16, 3.99, "RunPod"),
)


def choose_gpus(
    words: Sequence[str] = (), prices: Mapping[str, str] | None = None, cores: int | None = None
) -> tuple[Gpu, ...]:
    """Return the GPUs that the options name, or all known ones.

    Args:
        words: NAME of the table, or NAME=HALF or NAME=HALF/SINGLE of any card: its peaks in TFLOP/s
            (`Gpu`).
        prices: NAME -> USD an hour; replaces the table's.
        cores: that read the images, on every machine; None takes the table's.

    Raises:
        InputError: an unknown name without a peak, a peak or price that is no such number, a price
            of a GPU that is not chosen.
    """
    chosen = {_key(gpu.name): gpu for gpu in map(_parse, words)}
    chosen = chosen or {_key(gpu.name): gpu for gpu in GPUS}
    for name, text in (prices or {}).items():
        usd = parse_number(text, f"--price {name}={text}", least=0.0)
        if _key(name) not in chosen:
            names = ", ".join(gpu.name for gpu in chosen.values())
            raise InputError(f"--price {name}: is not among {names}; name it by --gpu")
        chosen[_key(name)] = replace(chosen[_key(name)], usd=usd, source="--price")
    if cores is None:
        return tuple(chosen.values())
    if cores < 1:
        raise InputError(f"--cores {cores}: at least 1")
    return tuple(replace(gpu, cores=cores) for gpu in chosen.values())


def find_gpu(name: str, gpus: Sequence[Gpu] = GPUS) -> Gpu | None:
    """Return the GPU of that name, whatever its case, blanks and hyphens."""
    return next((gpu for gpu in gpus if _key(gpu.name) == _key(name)), None)


def _key(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.casefold())


def _parse(word: str) -> Gpu:
    name, equals, peaks = word.partition("=")
    name = name.strip()
    if not _key(name) or "|" in name:
        raise InputError(
            f"--gpu {word}: write NAME, or NAME=TFLOPS of a card that is not in the table"
        )
    gpu = find_gpu(name)
    if not equals:
        if gpu is None:
            names = ", ".join(known.name for known in GPUS)
            raise InputError(
                f"--gpu {name}: not in the table ({names}); give its dense float16 peak in "
                f"TFLOP/s, --gpu '{name}=100'"
            )
        return gpu
    half, slash, single = peaks.partition("/")
    half_peak = parse_number(half, f"--gpu {word}")
    single_peak = parse_number(single, f"--gpu {word}") if slash else half_peak / 2
    gpu = gpu or Gpu(name, 0.0, 0.0, 0, USUAL_CORES, math.nan, "price not given (--price)")
    return replace(gpu, half=half_peak, single=single_peak)


def parse_number(text: str, option: str, least: float = 1e-9) -> float:
    """Read the finite number from `least` of an option; a refusal names the option."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number >= least):
        kind = "from 0" if least == 0 else "above 0"
        raise InputError(f"{option}: {text!r} is not a number {kind}")
    return number


# the host
# --------------------------------------------------------------------------------------------------

# Reading, from docs/results/performance.md (2 cores of AMD EPYC; six-channel sites of 512 px, 8
# bits a pixel) and, for raw stores, from the same machine's DataLoader: batches as bytes in memory,
# one core.
SITE_BYTES = 6 * 512 * 512
ZSTD_BYTES_PER_S = 296 * SITE_BYTES  # one process of the "workers" table: 296 sites/s
LZ4_BYTES_PER_S = 1_589 / 715 * ZSTD_BYTES_PER_S  # one thread each (docs/results/readers.md)
RAW_BYTES_PER_S = 705 * SITE_BYTES  # 1,410 sites/s of two workers
CACHED_BYTES_PER_S = 1 / 0.0664e-3 * SITE_BYTES / 4  # a 256 px site from memory in .0664 ms
IMAGE_S = 0.0664e-3  # core-seconds that an image takes however small it is: the same row

# Launching, by `measure_host` on the same machine (torch 2.13, eager mode, one thread, AdamW): a
# chain of convolution, BatchNorm and ReLU on images of 4 x 4 pixels, so that arithmetic is nothing.
# The least of 60 steps. A GPU's driver comes on top of it: these are floors.
STEP_S = 0.34e-3  # of a training step, whatever the network: loss, optimiser, the loop
LAYER_S = 67e-6  # of a training step, for each layer: forward, backward, update
FORWARD_LAYER_S = 16e-6  # of a forward pass alone, for each layer


def read_seconds(image_bytes: int, codec: str, cached: str = "no") -> float:
    """Return the core-seconds that bringing one image from the store to the device takes.

    Args:
        image_bytes: of the stored image, C x H x W.
        codec: of the store, "zstd", "lz4" or "raw".
        cached: "memory" where the images stay in the host's memory, "device" where they stay on the
            GPU.
    """
    if cached == "device":
        return 0.0
    stored = {"zstd": ZSTD_BYTES_PER_S, "lz4": LZ4_BYTES_PER_S, "raw": RAW_BYTES_PER_S}[codec]
    return max(IMAGE_S, image_bytes / (CACHED_BYTES_PER_S if cached == "memory" else stored))


def count_layers(model: "nn.Module") -> int:
    """Count the layers that a forward pass launches.

    They are modules with weights of their own, and leaves that do something.
    """
    from torch import nn

    nothing = nn.Identity | nn.Dropout
    return sum(
        any(True for _ in module.parameters(recurse=False))
        or (not any(True for _ in module.children()) and not isinstance(module, nothing))
        for module in model.modules()
    )


def measure_host(few: int = 1, many: int = 10, steps: int = 60) -> dict[str, float]:
    """Measure this host's `STEP_S`, `LAYER_S` and `FORWARD_LAYER_S`: a line through two chains.

    Args:
        few, many: blocks (three layers each) of the chains.
    """
    chains = {blocks: _chain(blocks) for blocks in (few, many)}
    training = {n: _least_seconds(_training_step(net), steps) for n, net in chains.items()}
    forward = {n: _least_seconds(_forward_pass(net), steps) for n, net in chains.items()}
    layers = 3 * (many - few)
    layer_s = (training[many] - training[few]) / layers
    return {
        "STEP_S": training[few] - 3 * few * layer_s,
        "LAYER_S": layer_s,
        "FORWARD_LAYER_S": (forward[many] - forward[few]) / layers,
    }


def _chain(blocks: int) -> "nn.Sequential":
    from torch import nn

    layers = []
    for _ in range(blocks):
        layers += [nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU()]
    return nn.Sequential(*layers)


def _training_step(net: "nn.Module") -> Callable[[], None]:
    import torch

    images, labels = torch.randn(2, 4, 4, 4), torch.tensor([0, 1])
    optimizer = torch.optim.AdamW(net.parameters(), foreach=True)

    def step() -> None:
        loss = torch.nn.functional.cross_entropy(net(images).mean((2, 3)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def _forward_pass(net: "nn.Module") -> Callable[[], None]:
    import torch

    images = torch.randn(2, 4, 4, 4)
    return torch.no_grad()(lambda: net(images))


def _least_seconds(run: Callable[[], None], times: int) -> float:
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    for name, seconds in measure_host().items():
        print(f"{name} = {seconds * 1e6:.0f}e-6")

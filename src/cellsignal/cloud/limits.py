"""What bounds a training beside arithmetic: how fast a core reads images, and how fast a host
launches a step.

`python -m cellsignal.cloud.limits` measures the host's figures again.
"""

import time
from collections.abc import Callable

import torch
from torch import nn

# Reading, from docs/results/performance.md (2 cores of AMD EPYC; six-channel sites of 512 px, 8
# bits a pixel) and, for
# raw stores, from the same machine's DataLoader: batches as bytes in memory, one core.
SITE_BYTES = 6 * 512 * 512
ZSTD_BYTES_PER_S = 296 * SITE_BYTES  # one process of the "workers" table: 296 sites/s
RAW_BYTES_PER_S = 705 * SITE_BYTES  # 1,410 sites/s of two workers
CACHED_BYTES_PER_S = 1 / 0.0664e-3 * SITE_BYTES / 4  # a 256 px site from memory in .0664 ms
IMAGE_S = 0.0664e-3  # core-seconds that an image takes however small it is: the same row

# Launching, by `measure_host` on the same machine (torch 2.13, eager mode, one thread, AdamW): a
# chain of convolution,
# BatchNorm and ReLU on images of 4 x 4 pixels, so that arithmetic is nothing. The least of 60
# steps. A GPU's driver
# comes on top of it: these are floors.
STEP_S = 0.34e-3  # of a training step, whatever the network: loss, optimiser, the loop
LAYER_S = 67e-6  # of a training step, for each layer: forward, backward, update
FORWARD_LAYER_S = 16e-6  # of a forward pass alone, for each layer


def read_seconds(image_bytes: int, codec: str, cached: str = "no") -> float:
    """Core-seconds that bringing one image from the store to the device takes.

    Args:
        image_bytes: of the stored image, C x H x W.
        codec: of the store, "zstd" or "raw".
        cached: "memory" where the images stay in the host's memory, "device" where they stay on the
        GPU.
    """
    if cached == "device":
        return 0.0
    stored = {"zstd": ZSTD_BYTES_PER_S, "raw": RAW_BYTES_PER_S}[codec]
    return max(IMAGE_S, image_bytes / (CACHED_BYTES_PER_S if cached == "memory" else stored))


def count_layers(model: nn.Module) -> int:
    """Number of layers that a forward pass launches: modules with weights of their own, and leaves
    that do something.
    """
    nothing = nn.Identity | nn.Dropout
    return sum(
        any(True for _ in module.parameters(recurse=False))
        or (not any(True for _ in module.children()) and not isinstance(module, nothing))
        for module in model.modules()
    )


def measure_host(few: int = 1, many: int = 10, steps: int = 60) -> dict[str, float]:
    """Measure this host's `STEP_S`, `LAYER_S` and `FORWARD_LAYER_S`: two chains, a line through
    both.

    Args:
        few, many: blocks (three layers each) of the chains.
    """
    chains = {blocks: _chain(blocks) for blocks in (few, many)}
    training = {
        blocks: _least_seconds(_training_step(net), steps) for blocks, net in chains.items()
    }
    forward = {blocks: _least_seconds(_forward_pass(net), steps) for blocks, net in chains.items()}
    layers = 3 * (many - few)
    layer_s = (training[many] - training[few]) / layers
    return {
        "STEP_S": training[few] - 3 * few * layer_s,
        "LAYER_S": layer_s,
        "FORWARD_LAYER_S": (forward[many] - forward[few]) / layers,
    }


def _chain(blocks: int) -> nn.Sequential:
    layers = [
        layer
        for _ in range(blocks)
        for layer in (nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
    ]
    return nn.Sequential(*layers)


def _training_step(net: nn.Module) -> Callable[[], None]:
    images, labels = torch.randn(2, 4, 4, 4), torch.tensor([0, 1])
    optimizer = torch.optim.AdamW(net.parameters(), foreach=True)

    def step() -> None:
        loss = nn.functional.cross_entropy(net(images).mean((2, 3)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def _forward_pass(net: nn.Module) -> Callable[[], None]:
    images = torch.randn(2, 4, 4, 4)

    def forward() -> None:
        with torch.no_grad():
            net(images)

    return forward


def _least_seconds(run: Callable[[], None], times: int) -> float:
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name, seconds in measure_host().items():
        print(f"{name} = {seconds * 1e6:.0f}e-6")

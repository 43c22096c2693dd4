"""Train the lab's warm-up: a small convolutional network on handwritten digits.

The lab trains it on MNIST. Here the digits are scikit-learn's (1,797 images of 8x8 pixels), which
need no download, so it takes seconds. It shows what every later table keeps to: several seeds with
their mean and spread; a test part that chose nothing, neither the weights nor the number of epochs;
and a split by what the images come from. The digits stand writer by writer (scikit-learn's course,
"sample grouping", finds 14 blocks): split at random, the network has met every hand that it is
tested on; the last writers held out, it has not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn

from cellsignal.common.errors import InputError
from cellsignal.common.tables import aligned
from cellsignal.metrics.accuracy import Accuracy
from cellsignal.metrics.intervals import mean_interval

EPOCHS, BATCH, RATE = 15, 64, 3e-3
TEST_SHARE = 0.2
SPLIT_SEED = 0  # the test images are the same for every seed
LAST_WRITERS = 1415  # the first image of the last three blocks
Split = Literal["image", "writer"]


@dataclass(frozen=True)
class WarmUp:
    """Scores of the seeds of one split.

    Attributes:
        correct: (S, N) bool, seeds x test images.
        trained_on: training images.
    """

    split: Split
    seeds: tuple[int, ...]
    correct: np.ndarray
    trained_on: int
    parameters: int
    epochs: int


def digits_network() -> nn.Sequential:
    """Build the network: (B, 1, 8, 8) float in [0, 1] -> (B, 10) logits."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.25),
        nn.Flatten(),
        nn.Linear(64 * 2 * 2, 128),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(128, 10),
    )


def digits(split: Split) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Load training images (n, 1, 8, 8) in [0, 1] and labels, test images and labels.

    The test part is a random fifth, or the last three writers'.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, label = load_digits(return_X_y=True)
    images = (pixels / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    if split == "image":
        parts = train_test_split(
            images, label, test_size=TEST_SHARE, stratify=label, random_state=SPLIT_SEED
        )
    else:
        parts = [
            values[part]
            for values in (images, label)
            for part in (slice(LAST_WRITERS), slice(LAST_WRITERS, None))
        ]
    train, test, train_label, test_label = map(torch.from_numpy, parts)
    return train, train_label, test, test_label


def bench_warm_up(seeds: Sequence[int] = (0, 1, 2), epochs: int = EPOCHS) -> list[WarmUp]:
    """Train one network a split and seed, and test it once, at the end.

    A seed decides initial weights, order of the images and dropout.

    Raises:
        InputError: no seed, a doubled one, or no epoch.
    """
    if not seeds or len(set(seeds)) < len(seeds) or epochs < 1:
        raise InputError(
            f"warm-up: needs seeds that differ and at least one epoch, not {list(seeds)} and "
            f"{epochs}"
        )
    return [_warm_up(split, tuple(seeds), epochs) for split in ("image", "writer")]


def _warm_up(split: Split, seeds: tuple[int, ...], epochs: int) -> WarmUp:
    train, train_label, test, test_label = digits(split)
    with torch.random.fork_rng(devices=()):
        networks = [_trained(train, train_label, seed, epochs) for seed in seeds]
    with torch.inference_mode():
        correct = np.stack(
            [(network(test).argmax(1) == test_label).numpy() for network in networks]
        )
    return WarmUp(
        split, seeds, correct, len(train), sum(p.numel() for p in networks[0].parameters()), epochs
    )


def _trained(images: torch.Tensor, label: torch.Tensor, seed: int, epochs: int) -> nn.Module:
    """In evaluation mode."""
    torch.manual_seed(seed)
    network = digits_network().train()
    optimizer, loss = torch.optim.Adam(network.parameters(), lr=RATE), nn.CrossEntropyLoss()
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(BATCH):
            optimizer.zero_grad()
            loss(network(images[batch]), label[batch]).backward()
            optimizer.step()
    return network.eval()


def warm_up_text(results: Sequence[WarmUp]) -> str:
    """Show a line a seed with Wilson's interval; a split's mean and SD over the seeds.

    The mean has the interval over the test images (digits, each a draw of its own).
    """
    lines = [("split by", "seed", "accuracy on the test images", "trained on")]
    for result in results:
        for seed, row in zip(result.seeds, result.correct, strict=True):
            share = str(Accuracy.of(int(row.sum()), len(row)))
            lines.append((result.split, str(seed), share, f"{result.trained_on:,}"))
        each = result.correct.mean(axis=1)
        images = np.tile(np.arange(result.correct.shape[1]), len(result.seeds))
        low, high = mean_interval(result.correct.reshape(-1), images)
        spread = f" (SD {each.std(ddof=1):.3f})" if len(each) > 1 else ""
        mean = f"{each.mean():.3f} [{low:.2f}, {high:.2f}]{spread}"
        lines.append((result.split, "mean", mean, ""))
    first = results[0]
    about = f"{first.parameters:,} parameters, {first.epochs} epochs; tested once, at the end"
    return f"{about}\n{aligned(lines, right={1, 3})}"

"""The lab's warm-up: a small convolutional network on handwritten digits, before any cell is looked
at.

The lab trains it on MNIST. Here the digits are scikit-learn's (1,797 images of 8x8 pixels), which
are on the disk already, so it takes seconds without a download. It shows what every later table
keeps to: several seeds with their mean and spread; a test part that chose nothing, neither the
weights nor the number of epochs; and a split by what the images come from. The digits stand writer
by writer (scikit-learn's course, "sample grouping", finds 14 blocks): split at random, the network
has met every hand that it is tested on; the last writers held out, it has not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn

from cellsignal.common.errors import InputError
from cellsignal.common.tables import aligned
from cellsignal.metrics.accuracy import Accuracy, clustered_interval

EPOCHS, BATCH, RATE = 15, 64, 3e-3
TEST_SHARE = 0.2
SPLIT_SEED = 0  # the test images are the same for every seed
LAST_WRITERS = 1415  # the first image of the last three blocks
Split = Literal["image", "writer"]


@dataclass(frozen=True)
class WarmUp:
    """(S, N) bool `correct` of every seed and test image of one split; what was trained on and with
    how many parameters.
    """

    split: Split
    seeds: tuple[int, ...]
    correct: np.ndarray
    trained_on: int
    parameters: int
    epochs: int


def digits_network() -> nn.Sequential:
    """(B, 1, 8, 8) float in [0, 1] -> (B, 10) logits: conv, pool, conv, pool, dropout, dense,
    dropout, dense.
    """
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
    """Training images (n, 1, 8, 8) float32 in [0, 1] and labels (n,), test images and labels: a
    random fifth, or the last three writers'.
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
    """Train one network a split and seed (initial weights, order of the images, dropout) and test
    it once, at the end.

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


def warm_up_text(found: Sequence[WarmUp]) -> str:
    """A line a seed with Wilson's interval; a split's mean and SD over the seeds, with the interval
    of a bootstrap over the test images.
    """
    lines = [("split by", "seed", "accuracy on the test images", "trained on")]
    for one in found:
        for seed, row in zip(one.seeds, one.correct, strict=True):
            lines.append(
                (
                    one.split,
                    str(seed),
                    str(Accuracy.of(int(row.sum()), len(row))),
                    f"{one.trained_on:,}",
                )
            )
        each = one.correct.mean(axis=1)
        images = np.tile(np.arange(one.correct.shape[1]), len(one.seeds))
        low, high = clustered_interval(one.correct.reshape(-1), images, seed=0)
        spread = f" (SD {each.std(ddof=1):.3f})" if len(each) > 1 else ""
        lines.append((one.split, "mean", f"{each.mean():.3f} [{low:.2f}, {high:.2f}]{spread}", ""))
    about = f"{found[0].parameters:,} parameters, {found[0].epochs} epochs; tested once, at the end"
    return f"{about}\n{aligned(lines, right={1, 3})}"

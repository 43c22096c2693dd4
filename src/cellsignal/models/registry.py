"""Register networks, and define the methods that each must have.

A network of one's own: a class, a function with `@register_network` that builds it, and an import
of its module in backbones.py; options of its own are fields of `Model` in config/schema.py.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import nn

from cellsignal.config.schema import Model
from cellsignal.models.heads import Outputs
from cellsignal.models.stems import State


class Shape(NamedTuple):
    """What a network is built for."""

    channels: int
    classes: int
    image_size: int | None  # pixels a side
    cell_types: int
    names: tuple[str, ...] = ()  # of the channels; empty where they are not known


class Network(Protocol):
    """What every network offers. `cell_type`: (B, n) one-hot vectors, or a mixture after CutMix."""

    width: int  # D, the number of features under the heads

    def forward(self, x: torch.Tensor, cell_type: torch.Tensor | None = None) -> torch.Tensor:
        """Return the logits (B, K) of (B, C, H, W) images."""

    def embed(self, x: torch.Tensor, cell_type: torch.Tensor | None = None) -> torch.Tensor:
        """Return the features (B, D) under the heads, for retrieval."""

    def outputs(self, x: torch.Tensor, cell_type: torch.Tensor | None = None) -> Outputs:
        """Return all that a loss may ask for."""


@dataclass(frozen=True)
class Entry:
    """A network by name.

    Attributes:
        build: (config, shape, fetch) -> the network; `fetch`: with its published weights.
        stem: names of the layers that see the image, adapted to weights of other channels.
        head: names of the classifying layers, left out where the number of classes is another.
        options: fields of `Model` that it takes, beside those of every network (dropout, weights).
        finish: (network, config, shape) -> what is put on it after weights were loaded.
        adapt: (network, entry, weights) -> the weights of a file under the network's names and in
            its shapes, but for stem and head; None: the network's method `adapt_weights`, if any.
    """

    name: str
    build: Callable[[Model, Shape, bool], nn.Module]
    stem: tuple[str, ...]
    head: tuple[str, ...]
    options: frozenset[str]
    finish: Callable[[nn.Module, Model, Shape], nn.Module] | None = None
    adapt: Callable[[nn.Module, "Entry", State], State] | None = None


NETWORKS: dict[str, Entry] = {}
# fields of `Model` that only some networks take
OPTIONS = frozenset(
    {
        "pretrained",
        "drop_path",
        "dynamic_size",
        "channel_dropout",
        "channel_wise",
        "cell_type_vector",
        "neck",
        "cosine_head",
        "frozen",
        "layers",
        "keep_time",
        "base_width",
        "bnneck",
    }
)


def register_network(
    *names: str,
    stem: str | tuple[str, ...],
    head: tuple[str, ...] = ("head",),
    options: tuple[str, ...] = (),
    finish: Callable[[nn.Module, Model, Shape], nn.Module] | None = None,
) -> Callable:
    """Return a decorator that adds a function (config, shape) -> network to `NETWORKS`.

    Args:
        names: what `model.backbone` calls it.
        stem, head, options, finish: see `Entry`.
    """

    def register(build: Callable[[Model, Shape], nn.Module]) -> Callable:
        stems = (stem,) if isinstance(stem, str) else stem
        for name in names:
            assert name not in NETWORKS and set(options) <= OPTIONS, name
            NETWORKS[name] = Entry(
                name,
                lambda config, shape, fetch: build(config, shape),
                stems,
                head,
                frozenset(options),
                finish,
            )
        return build

    return register

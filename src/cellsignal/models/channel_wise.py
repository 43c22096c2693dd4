"""A network of single channels that looks at each channel of an image by itself.

`concat` puts the channels' features side by side ("bag of channels", as CHAMMI-75's MorphEm and
DINOv2 are used on cells): every channel counts, and the number of channels is fixed. `mean`
averages them, each multiplied by a gate of its stain's name, so that one network serves any set of
channels.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from cellsignal.common.errors import InputError
from cellsignal.models.stems import State
from cellsignal.models.weights import strip_names

_GATE = "channel_gate."


class ChannelSet(nn.Module):
    """What networks of sets of channels share: which channels they look at.

    Attributes:
        stains: of the images' channels, in their order.
        seen: indices of the channels that it looks at; None: all.
        channel_dropout: probability that a training batch is seen with some channels alone.
    """

    def __init__(self, stains: Sequence[str], channel_dropout: float):
        super().__init__()
        self.stains, self.seen = tuple(stains), None
        self.channel_dropout = channel_dropout

    def see(self, channels: Sequence[int] | None) -> None:
        """Look at some of the images' channels alone, from now on.

        Args:
            channels: indices into `stains`; None: all.

        Raises:
            InputError: none, one twice, or one that is not there.
        """
        if channels is not None:
            channels = tuple(channels)
            known = set(range(len(self.stains)))
            if not channels or not set(channels) <= known or len(set(channels)) < len(channels):
                raise InputError(
                    f"channels {[index + 1 for index in channels]}: the network knows 1 to "
                    f"{len(self.stains)} ({', '.join(self.stains)}), each to be given once"
                )
        self.seen = channels

    def use_stains(self, stains: Sequence[str]) -> None:
        """Take images of other stains from now on, each of which it knows.

        Raises:
            InputError: names the stains that it does not know.
        """
        unknown = [stain for stain in stains if stain not in self.known_stains()]
        if unknown:
            raise InputError(f"the network does not know the stains {', '.join(unknown)}")
        self.stains, self.seen = tuple(stains), None

    def known_stains(self) -> list[str]:
        """Return the stains that have weights of their own."""
        raise NotImplementedError

    def choose(self, x: torch.Tensor) -> tuple[torch.Tensor, list[int]]:
        """Return the channels to look at, (B, m, H, W), and their indices.

        In training, with the probability `channel_dropout`, they are m of the M channels, m drawn
        evenly from 1 to M - 1 (hierarchical channel sampling, arXiv:2309.16108).

        Raises:
            InputError: an image of another number of channels.
        """
        if x.shape[1] != len(self.stains):
            raise InputError(
                f"the network takes images of {len(self.stains)} channels "
                f"({', '.join(self.stains)}), got {x.shape[1]}"
            )
        chosen = list(range(len(self.stains)) if self.seen is None else self.seen)
        drops = self.training and self.channel_dropout > 0 and len(chosen) > 1
        if drops and torch.rand(()).item() < self.channel_dropout:
            kept = int(torch.randint(1, len(chosen), ()))
            chosen = [
                chosen[place] for place in sorted(torch.randperm(len(chosen))[:kept].tolist())
            ]
        return (x if chosen == list(range(x.shape[1])) else x[:, chosen]), chosen

    def rows(self, table: nn.ParameterDict, chosen: Sequence[int]) -> torch.Tensor:
        """Return the weights (m, D) of the chosen channels' stains.

        All stains have a gradient, as distributed training needs: zero for those not there.
        """
        names = list(table)
        stacked = torch.stack([table[name] for name in names])
        return stacked[[names.index(self.stains[index]) for index in chosen]]


class ChannelBag(nn.Module):
    """A timm network of one channel, whose features of all channels stand side by side.

    Attributes:
        network: timm's, of one channel, without a head.
        num_features: channels x D.
    """

    def __init__(self, network: nn.Module, channels: int):
        super().__init__()
        network.reset_classifier(0)
        self.network = network
        self.num_features = channels * width_of(network)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C x D), channel after channel."""
        return channel_features(self.network, x).flatten(1)

    def forward_head(self, features: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """The features: there is nothing left to do."""
        return features

    def reset_classifier(self, classes: int) -> None:
        """There is no classifier."""

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.network.set_grad_checkpointing(enable)


class ChannelMean(ChannelSet):
    """A timm network of one channel, whose features are averaged over the channels.

    Each channel's features are multiplied by its stain's gate (D numbers, one to begin with), or
    the mean could not tell one stain from another.

    Attributes:
        network: timm's, of one channel, without a head.
        num_features: D.
    """

    def __init__(self, network: nn.Module, stains: Sequence[str], channel_dropout: float):
        super().__init__(stains, channel_dropout)
        network.reset_classifier(0)
        self.network, self.num_features = network, width_of(network)
        self.channel_gate = nn.ParameterDict(
            {stain: torch.ones(self.num_features) for stain in sorted(set(stains))}
        )

    def known_stains(self) -> list[str]:
        """Return the stains that have a gate."""
        return list(self.channel_gate)

    def take_gates(self, tensors: State, path: Path) -> None:
        """Take the gates of a run's weights; a stain that they do not know gets their mean.

        Args:
            tensors: of the file at `path`, by name; without gates nothing changes.

        Raises:
            InputError: gates of another width.
        """
        names = {name[name.rindex(_GATE) :] for name in tensors if f".{_GATE}" in f".{name}"}
        if not names:
            return
        state = strip_names(tensors, names, path)
        gates = {name.removeprefix(_GATE): state[name] for name in names}
        wrong = [name for name, gate in gates.items() if gate.shape != (self.num_features,)]
        if wrong:
            shape = tuple(gates[wrong[0]].shape)
            raise InputError(
                f"{path}: the gate of {wrong[0]} has shape {shape}, the network's has "
                f"{(self.num_features,)}"
            )
        mean = torch.stack(tuple(gates.values())).mean(0)
        with torch.no_grad():
            for stain, gate in self.channel_gate.items():
                gate.copy_(gates.get(stain, mean))

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, D)."""
        x, chosen = self.choose(x)
        features = channel_features(self.network, x)
        return (features * self.rows(self.channel_gate, chosen)).mean(1)

    def forward_head(self, features: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """The features: there is nothing left to do."""
        return features

    def reset_classifier(self, classes: int) -> None:
        """There is no classifier."""

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.network.set_grad_checkpointing(enable)


def width_of(network: nn.Module) -> int:
    """Return the number of features under a timm network's head."""
    return getattr(network, "head_hidden_size", None) or network.num_features


def channel_features(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) -> (B, C, D): the pooled features of each channel by itself."""
    maps = network.forward_features(x.flatten(0, 1).unsqueeze(1))
    return network.forward_head(maps, pre_logits=True).unflatten(0, x.shape[:2])

"""Fit the layers that see the image to another number of channels: one rule for all networks."""

import logging

import torch

from cellsignal.common.errors import InputError

_log = logging.getLogger(__name__)
State = dict[str, torch.Tensor]


def adapt_stem(weight: torch.Tensor, channels: int, places: int = 1) -> torch.Tensor:
    """Adapt first-layer weights of I channels to C, so that a gray image gives the same output.

    w'[:, c] = w[:, c mod I] * I / C + rest / C, where the rest is what the sum over channels would
    lack: sum(w) - sum(w[:, c mod I] * I / C). So the sum over channels stays as it is, from any
    number of channels to any. Where C is a multiple of I the rest is zero, an image that repeats
    its I channels in turn gives the same output, too, and it is what timm does to the weights of
    its hub; C = 1 is the sum over I. Only for other numbers timm's rule has no rest, and outputs of
    a gray image change.

    Args:
        weight: (O, places * I, ...); (O, places * C, ...) is returned. Convolutions of images or
            clips, or linear layers of patches.
        places: pixels side by side that the layer sees as channels, the channel counted fastest
            (space to depth, linear patch embeddings).
    """
    parts = weight.unflatten(1, (places, -1))
    inputs = parts.shape[2]
    spread = parts[:, :, torch.arange(channels) % inputs] * (inputs / channels)
    rest = parts.sum(2, keepdim=True) - spread.sum(2, keepdim=True)
    if channels % inputs == 0:  # zero but for rounding
        rest = torch.zeros_like(rest)
    return (spread + rest / channels).flatten(1, 2)


def adapt_layer(
    state: State, network_state: State, name: str, channels: int | None, source: str
) -> None:
    """Adapt a first layer's weights, in place, to the network's number of channels.

    Args:
        name: of the weight in both states; one that is missing is left to the caller.
        channels: of the image; None: as many as the layer has inputs.
        source: what the weights are from, for messages.

    Raises:
        InputError: the layer's inputs are no whole number of channels.
    """
    if name not in state or name not in network_state or state[name].ndim < 2:
        return
    given, wanted = state[name].shape[1], network_state[name].shape[1]
    if given == wanted:
        return
    places = wanted // channels if channels and wanted % channels == 0 else 1
    if given % places:
        raise InputError(
            f"{source}: {name} has {given} inputs, which are no whole number of channels at "
            f"{places} pixels each"
        )
    wanted, given = wanted // places, given // places
    _log.info("%s: %s adapted from %d to %d channels", source, name, given, wanted)
    state[name] = adapt_stem(state[name], wanted, places)

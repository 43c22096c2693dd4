"""Starting a network from a local file of ImageNet weights: safetensors, or .pth read without unpickling code.

RGB weights fit any number of channels: the first convolution's are repeated over the channels in turn and scaled, so
that its outputs keep their size. A head for another number of classes is left out.
"""

import logging
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from cellsignal.errors import InputError

_log = logging.getLogger(__name__)
State = dict[str, torch.Tensor]
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(?=[12]\.)")  # torchvision's files say norm.1 for norm1


def load_weights(
    network: nn.Module, path: Path, stem: tuple[str, ...], head: tuple[str, ...], adapt: Callable[[State], State] | None = None
) -> None:
    """Fill a network from a file.

    Args:
        network: changed in place.
        path: .safetensors, or a .pth of tensors only. The weights may lie under "state_dict" or "model", and their
            names may all start with "module." or "backbone.".
        stem: names of the convolutions that see the image; adapted by `adapt_stem` to the network's channels.
        head: names of the classifying layers; where their number of classes is another, the network's own are kept.
        adapt: makes the file's weights the network's own before they are compared (other names, kernels of other axes).

    Raises:
        InputError: missing, unreadable or damaged file; keys that the network lacks, or the reverse; another shape.
    """
    state = read_weights(path)
    if adapt is not None:
        state = adapt(state)
    own = network.state_dict()
    for name in (f"{layer}.weight" for layer in stem):
        if name in state and name in own and state[name].ndim == 4 and state[name].shape[1] != own[name].shape[1]:
            _log.info("%s: %s adapted from %d to %d channels", path, name, state[name].shape[1], own[name].shape[1])
            state[name] = adapt_stem(state[name], own[name].shape[1])
    head_keys = {key for key in own if key.rpartition(".")[0] in head}
    if any(key not in state or state[key].shape != own[key].shape for key in head_keys):
        _log.info("%s: its head is left out, it is not one for this number of classes", path)
        state = {key: value for key, value in state.items() if key not in head_keys}
    else:
        head_keys = set()
    optional = head_keys | {key for key in own if key.endswith("num_batches_tracked")}  # old files lack these counters
    missing = [key for key in own if key not in state and key not in optional]
    unexpected = [key for key in state if key not in own]
    for keys, what in ((missing, "lacks"), (unexpected, "has unknown")):
        if keys:
            raise InputError(f"{path}: {what} {len(keys)} of the network's weights: {', '.join(keys[:3])}")
    for key, value in state.items():
        if value.shape != own[key].shape:
            raise InputError(f"{path}: {key} has shape {tuple(value.shape)}, the network's has {tuple(own[key].shape)}")
    network.load_state_dict(state, strict=False)


def adapt_stem(weight: torch.Tensor, channels: int) -> torch.Tensor:
    """First-layer weights for another number of channels: w'[:, c] = w[:, c mod I] * I / C, for C = 1 the sum over I.

    An image that repeats its I channels in turn gives the same output where C is a multiple of I (or a gray one, where
    C = 1); otherwise outputs keep their size. It is what timm does to the weights of its hub.

    Args:
        weight: (O, I, h, w).

    Returns:
        (O, channels, h, w), of the same type.
    """
    inputs = weight.shape[1]
    if channels == 1:
        return weight.sum(1, keepdim=True)
    return weight[:, torch.arange(channels) % inputs] * (inputs / channels)


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The named tensors of a file, on the CPU. Code in a .pth is never run.

    Raises:
        InputError: missing, damaged, or holding anything but tensors by name.
    """
    try:
        if path.suffix == ".safetensors":
            state = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file of weights") from None
    except pickle.UnpicklingError:
        raise InputError(f"{path}: not a file of plain weights (damaged, or it holds more than tensors)") from None
    except Exception as error:  # from damaged bytes torch.load raises anything, from IndexError to struct.error
        raise InputError(f"{path}: cannot be read as weights: {str(error).partition(chr(10))[0]}") from None
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not state or not all(map(_is_weight, state.items())):
        raise InputError(f"{path}: holds no weights (named tensors)")
    for prefix in ("module.", "backbone."):
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return {_OLD_DENSENET.sub(r"\1", key): value for key, value in state.items()}


def _is_weight(item: tuple[object, object]) -> bool:
    return isinstance(item[0], str) and isinstance(item[1], torch.Tensor)

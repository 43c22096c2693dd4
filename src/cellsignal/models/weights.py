"""Weights from a local file, of safetensors or of .pth, which is read without running its code.

They fit any number of channels (`stems.adapt_stem`), and vision transformers of another image size.
A head for another number of classes is left out.
"""

import logging
import pickle
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from cellsignal.common.errors import InputError
from cellsignal.models.published import rename
from cellsignal.models.stems import State, adapt_layer

_log = logging.getLogger(__name__)
# torch's, anywhere in a name
_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
# words in the keys of weights to predict with
_AVERAGED = {"ema", "teacher", "averaged", "average", "swa"}
# torchvision's files say norm.1 for norm1
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(?=[12]\.)")


def load_weights(
    network: nn.Module,
    path: Path,
    stem: tuple[str, ...],
    head: tuple[str, ...],
    adapt: Callable[[State], State] | None = None,
    channels: int | None = None,
) -> None:
    """Fill a network from a file.

    Args:
        network: changed in place.
        path: .safetensors, or a .pth of tensors only, under any keys and prefixes (`strip_names`),
            or under the names of other programs (`published.rename`).
        stem, head, adapt, channels: see `fill_network`.

    Raises:
        InputError: missing, unreadable or damaged file; what `fill_network` raises. Where names do
            not fit, it says which names the file has.
    """
    tensors = rename(read_weights(path))
    state = strip_names(tensors, network.state_dict().keys(), path)
    fill_network(network, state, str(path), stem, head, adapt, channels, describe_names(tensors))


def fill_network(
    network: nn.Module,
    state: State,
    source: str,
    stem: tuple[str, ...],
    head: tuple[str, ...],
    adapt: Callable[[State], State] | None = None,
    channels: int | None = None,
    described: str = "",
) -> None:
    """Fill a network with weights of another number of channels or classes.

    Args:
        network: changed in place.
        source: what the weights are from, for messages.
        stem: names of the layers that see the image; adapted by `stems.adapt_stem`.
        head: names of the classifying layers; where their number of classes is another, the
            network's own are kept.
        adapt: makes the weights the network's own before they are compared (other names, kernels of
            other axes, positions of another image size).
        channels: of the image; None: as many as the stem has inputs.
        described: what names the source has.

    Raises:
        InputError: keys that the network lacks, or the reverse; another shape.
    """
    network_state = network.state_dict()
    if adapt is not None:
        state = adapt(state)
    for layer in stem:
        given = state.get(f"{layer}.weight")
        adapt_layer(state, network_state, f"{layer}.weight", channels, source)
        if state.get(f"{layer}.weight") is not given and _standardises(network, layer):
            text = "%s: %s standardises its weights, so a gray image does not give what it gave"
            _log.warning(text, source, layer)
    left_out = _drop_other_head(state, network_state, head, source)
    # old files lack the counters of BatchNorm
    optional = left_out | {key for key in network_state if key.endswith("num_batches_tracked")}
    missing = [key for key in network_state if key not in state and key not in optional]
    unexpected = [key for key in state if key not in network_state]
    for keys, problem in (
        (missing, f"lacks {len(missing)} of the network's weights"),
        (unexpected, f"has weights that the network has not, {len(unexpected)} of them"),
    ):
        if keys:
            shown = f"{problem}: {', '.join(keys[:3])}"
            raise InputError(f"{source}: {shown}{described and '; '}{described}")
    for key, value in state.items():
        _check_values(source, key, value, network_state[key])
    network.load_state_dict(state, strict=False)


def _standardises(network: nn.Module, layer: str) -> bool:
    """Whether a convolution standardises its weights (timm's StdConv2d, ScaledStdConv2d)."""
    return "Std" in type(network.get_submodule(layer)).__name__


def _drop_other_head(
    state: State, network_state: State, head: tuple[str, ...], source: str
) -> set[str]:
    """Drop a head for another number of classes, in place, and return the keys left out."""
    keys = {key for key in network_state if key.rpartition(".")[0] in head}
    if any(key not in state for key in keys):
        reason = "there is none beside the other weights"
    elif any(state[key].shape != network_state[key].shape for key in keys):
        reason = "it is not one for this number of classes"
    else:
        return set()
    _log.info("%s: its head is left out, %s", source, reason)
    for key in keys:
        state.pop(key, None)
    return keys


def _check_values(source: str, key: str, value: torch.Tensor, expected: torch.Tensor) -> None:
    """Refuse weights of another shape, of whole numbers (quantised), without values, not finite."""
    if value.shape != expected.shape:
        raise InputError(
            f"{source}: {key} has shape {tuple(value.shape)}, the network's has "
            f"{tuple(expected.shape)}"
        )
    if value.is_meta:
        raise InputError(f"{source}: {key} has a shape and no values (a meta tensor)")
    if expected.is_floating_point() and not value.is_floating_point():
        raise InputError(
            f"{source}: {key} has values of type {value.dtype}, the network's are {expected.dtype}"
        )
    wrong = int((~torch.isfinite(value)).sum())
    if wrong:
        raise InputError(
            f"{source}: {key} has {wrong} of {value.numel()} weights that are not finite numbers"
        )


def strip_names(tensors: State, names: Collection[str], path: Path) -> State:
    """Return a file's tensors under the network's names, without prefixes of other programs.

    The prefix is the one whose stripping makes the most names fit, whatever it is called: wrappers
    (`module.`, `model.`, `backbone.`), keys of dicts in dicts (`state_dict.model.`), or several of
    them. Parts that wrappers put anywhere into a name (`_orig_mod`, `module`) are taken out.
    Other tensors are left aside, and logged. Of prefixes that fit equally, that of averaged weights
    (`ema`, `teacher`) is taken, then one that is not of MoCo's keys (`encoder_k`), then the
    shortest, with a warning.

    Args:
        tensors: of `read_weights`.
        names: the network's.

    Raises:
        InputError: no name fits.
    """
    shortened = {name: _without_wrappers(name) for name in tensors}
    places: dict[str, dict[str, str]] = {}  # prefix -> the network's name -> the file's
    for name, short in shortened.items():
        for prefix, rest in _splits(short):
            match = _match(rest, names)
            if match is not None:
                places.setdefault(prefix, {})[match] = name
    if not places:
        wanted = ", ".join([*names][:3])
        raise InputError(
            f"{path}: has none of the network's weights ({wanted}); {describe_names(tensors)}"
        )
    most = max(map(len, places.values()))
    fitting = [prefix for prefix, names_of in places.items() if len(names_of) == most]
    prefix, *others = sorted(fitting, key=_preference)
    if others:
        shown = ", ".join(repr(other) for other in others[:3])
        _log.warning(
            "%s: the weights under %r are taken; those under %s fit as well", path, prefix, shown
        )
    aside = [name for name, short in shortened.items() if not short.startswith(prefix)]
    if aside:
        counted = f"{len(aside)} tensors are left aside that are not under {prefix!r}"
        _log.info("%s: %s: %s", path, counted, ", ".join(aside[:3]))
    state = {match: tensors[name] for match, name in places[prefix].items()}
    known = {*places[prefix].values(), *aside}
    unknown = {
        short.removeprefix(prefix): tensors[name]
        for name, short in shortened.items()
        if name not in known
    }
    return {**unknown, **state}


def describe_names(tensors: State) -> str:
    """Return the first names in a file, and how many start with each first part, in one line."""
    starts = Counter(name.partition(".")[0] + "." for name in tensors if "." in name)
    counts = ", ".join(f"{start} ({count})" for start, count in starts.most_common(4))
    return f"the file has {', '.join([*tensors][:3])}" + (
        f"; its prefixes are {counts}" if counts else ""
    )


def read_weights(path: Path) -> State:
    """Return a file's tensors by name, on the CPU; dicts in dicts by their keys, joined with dots.

    Code in it is never run.

    Raises:
        InputError: missing, damaged, holding Python objects, or no tensor.
    """
    try:
        if path.suffix.lower() == ".safetensors":
            content = safetensors.torch.load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file of weights") from None
    except pickle.UnpicklingError:
        raise InputError(f"{path}: not a file of plain weights ({_needs_pickle(path)})") from None
    # from damaged bytes torch.load raises anything, from IndexError to struct.error
    except Exception as error:
        raise InputError(
            f"{path}: cannot be read as weights: {str(error).partition(chr(10))[0]}"
        ) from None
    state = {_OLD_DENSENET.sub(r"\1", name): tensor for name, tensor in _named_tensors(content, "")}
    if not state:
        raise InputError(f"{path}: holds no weights (named tensors)")
    return state


def _named_tensors(content: object, prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(content, Mapping):
        for key, value in content.items():
            name = f"{prefix}{key}"
            if isinstance(value, torch.Tensor):
                yield name, value
            else:
                yield from _named_tensors(value, f"{name}.")


def _needs_pickle(path: Path) -> str:
    """Return why a file cannot be read without running code, and what to do."""
    try:
        objects = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # not in torch's format, or damaged
        objects = []
    if not objects:
        return "damaged, or it holds more than tensors"
    shown = ", ".join(objects[:3])
    advice = "where you trust it, save its tensors alone: torch.save(model.state_dict(), FILE)"
    return f"it holds more than tensors, {shown}, which would run as code; {advice}"


def _without_wrappers(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _match(name: str, names: Collection[str]) -> str | None:
    """Return the network's name of a weight, also if the file was saved from several devices."""
    if name in names:
        return name
    first, *parts = name.split(".")
    inner = ".".join([first, *(part for part in parts if part != "module")])
    return inner if inner in names else None


def _splits(name: str) -> Iterator[tuple[str, str]]:
    """Yield every way to cut a name in two at a dot: ("", "a.b.c"), ("a.", "b.c"), ..."""
    yield "", name
    for dot in re.finditer(r"\.", name):
        yield name[: dot.end()], name[dot.end() :]


def _preference(prefix: str) -> tuple[bool, bool, int, str]:
    """Sort key of prefixes that fit equally: averaged weights, no MoCo keys, the shortest."""
    words = set(re.split(r"[._]", prefix.lower()))
    return not _AVERAGED & words, "k" in words, len(prefix), prefix

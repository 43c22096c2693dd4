"""From the `model` section of a config to a network. Start at `build_model`.

Networks are of the registry (`registry.NETWORKS`), or any of timm's backbones for any number of
channels, which take the same way. All offer what `registry.Network` says.

BatchNorm makes a constant column zero: where all images of a batch are of one cell type
(`batches.unit`, `predict.adapt`) the cell-type vector says nothing to a neck.
"""

from collections.abc import Sequence
from functools import partial

from torch import nn

# imported for what they register
import cellsignal.models.channel_vit
import cellsignal.models.lab_networks
import cellsignal.models.resnet3d  # noqa: F401
from cellsignal.common.errors import InputError
from cellsignal.config.schema import Model
from cellsignal.models.registry import NETWORKS, OPTIONS, Entry, Shape
from cellsignal.models.timm_networks import timm_entry
from cellsignal.models.weights import load_weights, read_weights

# why a network has not an option, where "has no such option" says too little
_REASONS = {
    "pretrained": "has no published weights",
    "drop_path": "has no residual branches that can be dropped",
    "channel_dropout": "takes all channels at once; the augmentation channel_dropout sets some "
    "to zero",
}


def build_model(
    config: Model,
    channels: int,
    classes: int,
    image_size: int | None,
    cell_types: int = 0,
    *,
    initial_weights: bool = True,
    names: tuple[str, ...] = (),
) -> nn.Module:
    """Make the network a config asks for, on the CPU.

    Args:
        image_size: pixels a side. The networks of the labs and backbones of a fixed size (vision
            transformers) are built for it; the others take any, and None.
        cell_types: number of cell types, for `cell_type_vector` alone.
        initial_weights: False leaves `pretrained` and `weights` out, for a network that a
            checkpoint will fill: then neither the internet nor the file is needed.
        names: of the channels, for networks that tell stains apart.

    Raises:
        InputError: unknown network (the nearest names are given), an option it does not have,
            weights that cannot be fetched or do not fit, a cell-type vector without cell types.
    """
    if config.cell_type_vector and cell_types < 1:
        raise InputError("model.cell_type_vector: there are no cell types to tell apart")
    assert len(names) in (0, channels), names
    shape = Shape(channels, classes, image_size, cell_types, names)
    entry = check_backbone(config)
    fetch = initial_weights and config.pretrained and config.weights is None
    model = entry.build(config, shape, fetch)
    if initial_weights and config.weights is not None:
        adapt = getattr(model, "adapt_weights", None)
        if entry.adapt is not None:
            adapt = partial(entry.adapt, model, entry)
        seen = channels if config.channel_wise == "none" else 1
        load_weights(model, config.weights, entry.stem, entry.head, adapt, seen)
    if not config.pool_relu:
        _drop_pool_relu(model, config)
    if entry.finish is not None:
        model = entry.finish(model, config, shape)
    if initial_weights and config.weights is not None and config.channel_wise == "mean":
        model.backbone.take_gates(read_weights(config.weights), config.weights)
    if config.bn_momentum is not None:
        _set_bn_momentum(model, config)
    return model


def see_channels(model: nn.Module, numbers: Sequence[int] | None) -> None:
    """Let a network look at some of its channels alone (`predict.channels`).

    Args:
        numbers: from 1, of the channels that it was built for; None: all.

    Raises:
        InputError: a network that takes all channels at once, or numbers that are not there.
    """
    trunk = getattr(model, "backbone", model)
    if not hasattr(trunk, "see"):
        if numbers is None:
            return
        raise InputError(
            "predict.channels: this network takes all channels at once; channel_vit_*, "
            "open_phenom and channel_wise: mean take some of them"
        )
    try:
        trunk.see(None if numbers is None else [number - 1 for number in numbers])
    except InputError as error:
        raise InputError(f"predict.channels: {error}") from None


def check_backbone(config: Model) -> Entry:
    """Return the entry of a config's network, after refusing options that it has not.

    Raises:
        InputError: unknown network (the nearest names are given), or an option of other networks.
    """
    name = config.backbone
    entry = NETWORKS[name] if name in NETWORKS else timm_entry(name)
    for key in sorted(OPTIONS - entry.options):
        is_default = getattr(config, key) == Model.model_fields[key].default
        if is_default or (key == "pretrained" and config.weights is not None):
            continue
        raise InputError(f"model.{key}: {name} {_REASONS.get(key, 'has no such option')}")
    takes_some = "channel_wise" not in entry.options or config.channel_wise == "mean"
    if config.channel_dropout and not takes_some:
        raise InputError(f"model.channel_dropout: {name} {_REASONS['channel_dropout']}")
    return entry


def _set_bn_momentum(model: nn.Module, config: Model) -> None:
    norms = [norm for norm in model.modules() if isinstance(norm, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        raise InputError(f"model.bn_momentum: {config.backbone} has no BatchNorm")
    for norm in norms:
        norm.momentum = config.bn_momentum


def _drop_pool_relu(model: nn.Module, config: Model) -> None:
    """Pool the signed output of the last norm: its ReLU becomes an identity.

    Raises:
        InputError: no ReLU between a last norm and the pooling, or the network is cut before it.
    """
    if config.layers is not None:
        raise InputError(
            "model.pool_relu: has no part in `layers`, which pools other outputs than the last "
            "norm's"
        )
    norm = getattr(getattr(model, "features", None), "norm5", getattr(model, "norm", None))
    if not isinstance(getattr(norm, "act", None), nn.ReLU):
        raise InputError(
            f"model.pool_relu: {config.backbone} has no ReLU between a last norm and the pooling"
        )
    norm.act = nn.Identity()

"""From the `model` section of a config to a network: any timm backbone for any number of channels, or the lab's LeNet.

Every network here has `forward(x)`, the logits, and `embed(x)`, the pooled features under the head, for retrieval.
"""

import difflib
import logging

import torch
from torch import nn

from cellsignal.config.schema import Model
from cellsignal.errors import InputError
from cellsignal.models.lenet import LeNet
from cellsignal.models.torchvision_cpu import import_timm
from cellsignal.models.weights import load_weights

_log = logging.getLogger(__name__)


class Classifier(nn.Module):
    """A timm network, whole. Its weights are called "backbone." and timm's names.

    Attributes:
        backbone: timm's network with its head.
    """

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, D): the pooled features that the head sees."""
        return self.backbone.forward_head(self.backbone.forward_features(x), pre_logits=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> logits (B, classes)."""
        return self.backbone(x)


def build_model(
    config: Model, channels: int, classes: int, image_size: int | None, *, initial_weights: bool = True
) -> nn.Module:
    """Make the network a config asks for, on the CPU.

    Args:
        image_size: pixels a side. LeNet and backbones of a fixed size (vision transformers) are built for it; the
            others take any, and None.
        initial_weights: False leaves `pretrained` and `weights` out, for a network that a checkpoint will fill: then
            neither the network nor the file is needed.

    Raises:
        InputError: unknown backbone (the nearest names are given), an option it does not have, weights that cannot be
            fetched or do not fit.
    """
    fetch = initial_weights and config.pretrained and config.weights is None
    if config.backbone == "lenet":
        model, target, stem, head = _lenet(config, channels, classes, image_size), None, ("conv1",), ("head",)
    else:
        model = Classifier(_timm(config, channels, classes, image_size, fetch))
        target, names = model.backbone, model.backbone.pretrained_cfg
        stem, head = _names(names.get("first_conv")), _names(names.get("classifier"))
    if initial_weights and config.weights is not None:
        load_weights(model if target is None else target, config.weights, stem, head)
    return model


def _lenet(config: Model, channels: int, classes: int, image_size: int | None) -> LeNet:
    if config.pretrained and config.weights is None:
        raise InputError("model.pretrained: lenet has no published weights")
    if config.drop_path:
        raise InputError("model.drop_path: lenet has no residual branches to drop")
    if image_size is None:
        raise InputError("model.backbone: lenet needs to know the image size (data.size)")
    return LeNet(channels, classes, image_size, config.dropout)


def _timm(config: Model, channels: int, classes: int, image_size: int | None, fetch: bool) -> nn.Module:
    timm = import_timm()
    name = config.backbone
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, ["lenet", *timm.list_models()], n=3)
        raise InputError(f"model.backbone: no backbone {name!r}" + (f"; near it: {', '.join(near)}" if near else ""))
    options = {"drop_rate": config.dropout or None, "drop_path_rate": config.drop_path or None}
    try:
        published = timm.get_pretrained_cfg(name)
        if published is not None and published.fixed_input_size:
            options["img_size"] = image_size
        if fetch and not (published and published.has_weights):
            raise InputError(f"model.pretrained: timm publishes no weights for {name}")
        return timm.create_model(name, pretrained=fetch, in_chans=channels, num_classes=classes, **options)
    except TypeError as error:
        for option, key in (("drop_rate", "dropout"), ("drop_path_rate", "drop_path")):
            if f"'{option}'" in str(error):
                raise InputError(f"model.{key}: {name} has no such option") from None
        raise
    except OSError as error:
        raise InputError(
            f"model.pretrained: the weights of {name} could not be fetched ({_line(error)}); "
            "without a network give a local file in model.weights"
        ) from None
    except RuntimeError as error:
        if "tag" not in str(error):
            raise
        raise InputError(f"model.backbone: {_line(error)}") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _names(value: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())

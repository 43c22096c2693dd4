"""From the `model` section of a config to a network: any timm backbone for any number of channels,
the small networks of the labs, or a 3-D ResNet.

Every network here has `forward(x, cell_type)`, the logits; `embed(x, cell_type)`, the features
under the heads, for retrieval; `outputs(x, cell_type)`, both and the cosines, for the losses; and
`width`, the number of those features. Networks without `cell_type_vector` do not look at
`cell_type`, a (B, n) one-hot vector an image (or a mixture of them, after CutMix).

BatchNorm makes a constant column zero: where all images of a batch are of one cell type
(`batches.unit`, `predict.adapt`) the vector says nothing to a neck.
"""

import difflib
import logging

import torch
from torch import nn

from cellsignal.common.errors import InputError
from cellsignal.config.schema import Model
from cellsignal.models.heads import CosineHead, Outputs, neck
from cellsignal.models.layers import PooledLayers
from cellsignal.models.lenet import LeNet
from cellsignal.models.resnet3d import ResNet3d
from cellsignal.models.scratch_cnn import VARIANTS, ScratchCnn
from cellsignal.models.torchvision_cpu import import_timm
from cellsignal.models.weights import load_weights

_log = logging.getLogger(__name__)

# networks for clips of three channels, and their layers
CLIPS = {"resnet3d18": 18, "resnet3d50": 50}
PLAIN = ("lenet", *VARIANTS, *CLIPS)  # what is no backbone of timm's


class Classifier(nn.Module):
    """A timm network and what a config puts on it. Its weights are called "backbone." and timm's
    names; neck and own heads are "neck.", "head.", "cosine.".

    The plain head is timm's own, unless `cell_type_vector` or `neck` change what it sees; then it
    is `head`, a dropout before it.

    Attributes:
        backbone: timm's network; without a head where there is an own one.
        width: D, the number of features that the heads see.
    """

    def __init__(self, backbone: nn.Module, config: Model, classes: int, cell_types: int):
        super().__init__()
        self.backbone = backbone
        self.cell_types = cell_types if config.cell_type_vector else 0
        pooled = getattr(backbone, "head_hidden_size", None) or backbone.num_features
        self.width = config.neck or pooled + self.cell_types
        self.neck = neck(pooled + self.cell_types, config.neck) if config.neck else None
        self.dropout, self.head = None, None
        if _has_own_head(config):
            backbone.reset_classifier(0)
            self.dropout, self.head = nn.Dropout(config.dropout), nn.Linear(self.width, classes)
            if config.layers is not None and config.neck is None:  # layers differ in scale
                self.head = nn.Sequential(nn.BatchNorm1d(self.width), self.head)
        self.cosine = CosineHead(self.width, classes) if config.cosine_head else None
        self.frozen = config.frozen
        if self.frozen:
            backbone.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Classifier":
        """As `nn.Module.train`; a frozen backbone stays as it predicts."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def embed(self, x: torch.Tensor, cell_type: torch.Tensor | None = None) -> torch.Tensor:
        """(B, C, H, W), cell types (B, n) -> (B, D): what the heads see."""
        return self._embedding(self.backbone.forward_features(x), cell_type)

    def forward(self, x: torch.Tensor, cell_type: torch.Tensor | None = None) -> torch.Tensor:
        """(B, C, H, W), cell types (B, n) -> logits (B, K) of the plain head."""
        if self.head is None:
            return self.backbone(x)
        return self.head(self.dropout(self.embed(x, cell_type)))

    def outputs(self, x: torch.Tensor, cell_type: torch.Tensor | None = None) -> Outputs:
        """(B, C, H, W), cell types (B, n) -> all that a loss may ask for, in one pass."""
        features = self.backbone.forward_features(x)
        embedding = self._embedding(features, cell_type)
        logits = (
            self.backbone.forward_head(features)
            if self.head is None
            else self.head(self.dropout(embedding))
        )
        return Outputs(embedding, logits, None if self.cosine is None else self.cosine(embedding))

    def _embedding(self, features: torch.Tensor, cell_type: torch.Tensor | None) -> torch.Tensor:
        embedding = self.backbone.forward_head(features, pre_logits=True)
        if self.cell_types:
            wanted = (len(embedding), self.cell_types)
            if cell_type is None or cell_type.shape != wanted:
                given = "none" if cell_type is None else f"shape {tuple(cell_type.shape)}"
                raise InputError(
                    f"model.cell_type_vector: the network needs cell types of shape {wanted}, got "
                    f"{given}"
                )
            embedding = torch.cat([embedding, cell_type.to(embedding.dtype)], 1)
        return embedding if self.neck is None else self.neck(embedding)


def build_model(
    config: Model,
    channels: int,
    classes: int,
    image_size: int | None,
    cell_types: int = 0,
    *,
    initial_weights: bool = True,
) -> nn.Module:
    """Make the network a config asks for, on the CPU.

    Args:
        image_size: pixels a side. LeNet and backbones of a fixed size (vision transformers) are
        built for it; the
            others take any, and None.
        cell_types: number of cell types, for `cell_type_vector` alone.
        initial_weights: False leaves `pretrained` and `weights` out, for a network that a
        checkpoint will fill: then
            neither the network nor the file is needed.

    Raises:
        InputError: unknown backbone (the nearest names are given), an option it does not have,
        weights that cannot be
            fetched or do not fit, a cell-type vector without cell types.
    """
    if config.cell_type_vector and cell_types < 1:
        raise InputError("model.cell_type_vector: there are no cell types to tell apart")
    check_backbone(config)
    fetch = initial_weights and config.pretrained and config.weights is None
    own = config.backbone in PLAIN
    if own:
        first = "convolutions.0" if config.backbone in VARIANTS else "conv1"
        model = _plain(config, channels, classes, image_size)
        stem = (first,)
        head = ("head", "bnneck")
    else:
        model = _timm(config, channels, classes, image_size, fetch)
        names = model.pretrained_cfg
        stem, head = _names(names.get("first_conv")), _names(names.get("classifier"))
    if initial_weights and config.weights is not None:
        load_weights(
            model,
            config.weights,
            stem,
            head,
            model.adapt_weights if config.backbone in CLIPS else None,
        )
    if not config.pool_relu:
        _drop_pool_relu(model, config)
    if not own:
        model = (
            model if config.layers is None else PooledLayers(model, config.layers, config.backbone)
        )
        model = Classifier(model, config, classes, cell_types)
    if config.bn_momentum is not None:
        _set_bn_momentum(model, config)
    return model


def check_backbone(config: Model) -> None:
    """Refuse a backbone that there is not, and options that it does not have; nothing is built.

    Raises:
        InputError: unknown backbone (the nearest names are given), or an option of other networks.
    """
    name = config.backbone
    for key in ("keep_time", "base_width", "bnneck"):
        if getattr(config, key) != Model.model_fields[key].default and name not in CLIPS:
            raise InputError(f"model.{key}: {name} has no such option")
    if name in PLAIN:
        _check_plain(config)
        return
    timm = import_timm()
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, [*PLAIN, *timm.list_models()], n=3)
        hint = f"; near it: {', '.join(near)}" if near else ""
        raise InputError(f"model.backbone: no backbone {name!r}{hint}")


def _check_plain(config: Model) -> None:
    name = config.backbone
    if config.pretrained and config.weights is None:
        raise InputError(f"model.pretrained: {name} has no published weights")
    if config.drop_path:
        raise InputError(f"model.drop_path: {name} has no residual branches that can be dropped")
    for key in ("cell_type_vector", "neck", "cosine_head", "frozen", "layers"):
        if getattr(config, key):
            raise InputError(f"model.{key}: {name} has no such option")


def _has_own_head(config: Model) -> bool:
    return (
        config.cell_type_vector
        or config.neck is not None
        or config.frozen
        or config.layers is not None
    )


def _set_bn_momentum(model: nn.Module, config: Model) -> None:
    norms = [
        module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)
    ]
    if not norms:
        raise InputError(f"model.bn_momentum: {config.backbone} has no BatchNorm")
    for norm in norms:
        norm.momentum = config.bn_momentum


def _drop_pool_relu(model: nn.Module, config: Model) -> None:
    """Pool what the last norm gives, signed: its ReLU becomes an identity.

    Raises:
        InputError: no ReLU stands between a last norm and the pooling, or the network is cut before
        it.
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


def _plain(
    config: Model, channels: int, classes: int, image_size: int | None
) -> LeNet | ScratchCnn | ResNet3d:
    """One of the networks that are no backbone of timm's."""
    name = config.backbone
    if name in CLIPS:
        if channels % 3:
            raise InputError(
                f"model.backbone: {name} takes clips of 3 channels; the images have {channels} "
                "planes, which 3 does not divide"
            )
        return ResNet3d(
            CLIPS[name],
            channels,
            classes,
            channels // 3,
            config.keep_time,
            config.bnneck,
            config.dropout,
            config.base_width,
        )
    if image_size is None:
        raise InputError(f"model.backbone: {name} needs to know the image size (data.size)")
    if name == "lenet":
        return LeNet(channels, classes, image_size, config.dropout)
    return ScratchCnn(name, channels, classes, image_size, config.dropout)


def _timm(
    config: Model, channels: int, classes: int, image_size: int | None, fetch: bool
) -> nn.Module:
    timm = import_timm()
    name = config.backbone
    dropout = None if _has_own_head(config) else config.dropout or None
    options = {"drop_rate": dropout, "drop_path_rate": config.drop_path or None}
    try:
        published = timm.get_pretrained_cfg(name)
        if published is not None and published.fixed_input_size:
            options["img_size"] = image_size
        if fetch and not (published and published.has_weights):
            raise InputError(f"model.pretrained: timm publishes no weights for {name}")
        return timm.create_model(
            name, pretrained=fetch, in_chans=channels, num_classes=classes, **options
        )
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

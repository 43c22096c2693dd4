"""From the `model` section of a config to a network. Start at `build_model`.

Networks are of the registry (`registry.NETWORKS`), or any of timm's backbones for any number of
channels, which take the same way. All offer what `registry.Network` says.

BatchNorm makes a constant column zero: where all images of a batch are of one cell type
(`batches.unit`, `predict.adapt`) the cell-type vector says nothing to a neck.
"""

import difflib

import torch
from torch import nn

# imported for what they register
import cellsignal.models.lab_networks
import cellsignal.models.resnet3d  # noqa: F401
from cellsignal.common.errors import InputError
from cellsignal.config.schema import Model
from cellsignal.models.heads import CosineHead, Outputs, PooledLayers, make_neck
from cellsignal.models.registry import NETWORKS, OPTIONS, Entry, Shape
from cellsignal.models.torchvision_cpu import import_timm
from cellsignal.models.weights import load_weights

TIMM_OPTIONS = OPTIONS - {"keep_time", "base_width", "bnneck"}
# why a network has not an option, where "has no such option" says too little
_REASONS = {
    "pretrained": "has no published weights",
    "drop_path": "has no residual branches that can be dropped",
}


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
        image_size: pixels a side. The networks of the labs and backbones of a fixed size (vision
            transformers) are built for it; the others take any, and None.
        cell_types: number of cell types, for `cell_type_vector` alone.
        initial_weights: False leaves `pretrained` and `weights` out, for a network that a
            checkpoint will fill: then neither the internet nor the file is needed.

    Raises:
        InputError: unknown network (the nearest names are given), an option it does not have,
            weights that cannot be fetched or do not fit, a cell-type vector without cell types.
    """
    if config.cell_type_vector and cell_types < 1:
        raise InputError("model.cell_type_vector: there are no cell types to tell apart")
    entry, shape = check_backbone(config), Shape(channels, classes, image_size, cell_types)
    fetch = initial_weights and config.pretrained and config.weights is None
    model = entry.build(config, shape, fetch)
    if initial_weights and config.weights is not None:
        adapt = getattr(model, "adapt_weights", None)
        load_weights(model, config.weights, entry.stem, entry.head, adapt)
    if not config.pool_relu:
        _drop_pool_relu(model, config)
    if entry.finish is not None:
        model = entry.finish(model, config, shape)
    if config.bn_momentum is not None:
        _set_bn_momentum(model, config)
    return model


def check_backbone(config: Model) -> Entry:
    """Return the entry of a config's network, after refusing options that it has not.

    Raises:
        InputError: unknown network (the nearest names are given), or an option of other networks.
    """
    name = config.backbone
    entry = NETWORKS[name] if name in NETWORKS else _timm_entry(name)
    for key in sorted(OPTIONS - entry.options):
        is_default = getattr(config, key) == Model.model_fields[key].default
        if is_default or (key == "pretrained" and config.weights is not None):
            continue
        raise InputError(f"model.{key}: {name} {_REASONS.get(key, 'has no such option')}")
    return entry


# timm's
# --------------------------------------------------------------------------------------------------


class Classifier(nn.Module):
    """A timm network with the neck and heads that a config adds.

    Its weights are called "backbone." and timm's names; neck and own heads are "neck.", "head.",
    "cosine.". The plain head is timm's own, unless `cell_type_vector`, `neck`, `frozen` or `layers`
    ask for another; then it is `head`, a dropout before it.

    Attributes:
        backbone: timm's network; without a head where there is an own one.
        width: D, the number of features that the heads see.
    """

    def __init__(self, backbone: nn.Module, config: Model, shape: Shape):
        super().__init__()
        self.backbone = backbone
        self.cell_types = shape.cell_types if config.cell_type_vector else 0
        pooled = getattr(backbone, "head_hidden_size", None) or backbone.num_features
        pooled += self.cell_types
        self.width = config.neck or pooled
        self.neck = make_neck(pooled, config.neck) if config.neck else None
        self.dropout, self.head = None, None
        if _has_own_head(config):
            backbone.reset_classifier(0)
            self.dropout = nn.Dropout(config.dropout)
            self.head = nn.Linear(self.width, shape.classes)
            if config.layers is not None and config.neck is None:  # layers differ in scale
                self.head = nn.Sequential(nn.BatchNorm1d(self.width), self.head)
        self.cosine = CosineHead(self.width, shape.classes) if config.cosine_head else None
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
        return self._pool(self.backbone.forward_features(x), cell_type)

    def forward(self, x: torch.Tensor, cell_type: torch.Tensor | None = None) -> torch.Tensor:
        """(B, C, H, W), cell types (B, n) -> logits (B, K) of the plain head."""
        if self.head is None:
            return self.backbone(x)
        return self.head(self.dropout(self.embed(x, cell_type)))

    def outputs(self, x: torch.Tensor, cell_type: torch.Tensor | None = None) -> Outputs:
        """(B, C, H, W), cell types (B, n) -> all that a loss may ask for, in one pass."""
        features = self.backbone.forward_features(x)
        embedding = self._pool(features, cell_type)
        if self.head is None:
            logits = self.backbone.forward_head(features)
        else:
            logits = self.head(self.dropout(embedding))
        return Outputs(embedding, logits, None if self.cosine is None else self.cosine(embedding))

    def _pool(self, features: torch.Tensor, cell_type: torch.Tensor | None) -> torch.Tensor:
        embedding = self.backbone.forward_head(features, pre_logits=True)
        if self.cell_types:
            expected = (embedding.shape[0], self.cell_types)
            if cell_type is None or cell_type.shape != expected:
                given = "none" if cell_type is None else f"shape {tuple(cell_type.shape)}"
                raise InputError(
                    f"model.cell_type_vector: the network needs cell types of shape {expected}, "
                    f"got {given}"
                )
            embedding = torch.cat([embedding, cell_type.to(embedding.dtype)], 1)
        return embedding if self.neck is None else self.neck(embedding)


def _has_own_head(config: Model) -> bool:
    needs_pooled = config.neck is not None or config.layers is not None
    return config.cell_type_vector or config.frozen or needs_pooled


def _timm_entry(name: str) -> Entry:
    timm = import_timm()
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, [*NETWORKS, *timm.list_models()], n=3)
        hint = f"; near it: {', '.join(near)}" if near else ""
        raise InputError(f"model.backbone: no backbone {name!r}{hint}")
    try:
        published = timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # of a known network, but no such tag
        raise InputError(f"model.backbone: {_one_line(error)}") from None
    stem = _names(published and published.first_conv)
    head = _names(published and published.classifier)
    return Entry(name, _build_timm, stem, head, TIMM_OPTIONS, _finish_timm)


def _build_timm(config: Model, shape: Shape, fetch: bool) -> nn.Module:
    timm = import_timm()
    name = config.backbone
    options = {"drop_path_rate": config.drop_path or None}
    options["drop_rate"] = None if _has_own_head(config) else config.dropout or None
    published = timm.get_pretrained_cfg(name)
    if published is not None and published.fixed_input_size:
        options["img_size"] = shape.image_size
    if fetch and not (published and published.has_weights):
        raise InputError(f"model.pretrained: timm publishes no weights for {name}")
    shape_options = {"in_chans": shape.channels, "num_classes": shape.classes}
    try:
        return timm.create_model(name, pretrained=fetch, **shape_options, **options)
    except TypeError:
        for option, key in (("drop_rate", "dropout"), ("drop_path_rate", "drop_path")):
            if options[option] is not None and not _takes(name, option, options[option]):
                raise InputError(f"model.{key}: {name} has no such option") from None
        raise
    except OSError as error:
        raise InputError(
            f"model.pretrained: the weights of {name} could not be fetched ({_one_line(error)}); "
            "without a network give a local file in model.weights"
        ) from None


def _takes(name: str, option: str, value: float) -> bool:
    """Whether a timm network can be made with an option; nothing is allocated."""
    try:
        with torch.device("meta"):
            import_timm().create_model(name, **{option: value})
    except TypeError:
        return False
    return True


def _finish_timm(model: nn.Module, config: Model, shape: Shape) -> Classifier:
    if config.layers is not None:
        model = PooledLayers(model, config.layers, config.backbone)
    return Classifier(model, config, shape)


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


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _names(value: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())

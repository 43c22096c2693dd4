"""timm's networks for any number of channels: how they are built, filled and finished."""

import difflib
import logging
import sys

import torch
from torch import nn

from cellsignal.common.errors import InputError
from cellsignal.config.schema import Model
from cellsignal.models.channel_wise import ChannelBag, ChannelMean, width_of
from cellsignal.models.heads import CosineHead, Outputs, PooledLayers, make_neck
from cellsignal.models.registry import NETWORKS, OPTIONS, Entry, Shape
from cellsignal.models.stains import stains_of
from cellsignal.models.stems import State
from cellsignal.models.torchvision_cpu import import_timm
from cellsignal.models.weights import fill_network

_log = logging.getLogger(__name__)
TIMM_OPTIONS = OPTIONS - {"keep_time", "base_width", "bnneck"}


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
        pooled = width_of(backbone) + self.cell_types
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
    needs_pooled = needs_pooled or config.channel_wise != "none"
    return config.cell_type_vector or config.frozen or needs_pooled


def timm_entry(name: str) -> Entry:
    """Return the entry of one of timm's networks.

    Raises:
        InputError: timm has none of this name (the nearest names are given).
    """
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
    return Entry(name, _build_timm, stem, head, TIMM_OPTIONS, finish_timm, _fit_weights)


def _build_timm(config: Model, shape: Shape, fetch: bool) -> nn.Module:
    model = _create(config, shape)
    if fetch:
        published = import_timm().get_pretrained_cfg(config.backbone)
        if not (published and published.has_weights):
            raise InputError(f"model.pretrained: timm publishes no weights for {config.backbone}")
        source = _create(config, shape, pretrained=True)
        entry, name = timm_entry(config.backbone), f"timm's weights of {config.backbone}"
        channels = shape.channels if config.channel_wise == "none" else 1
        fill_network(model, source.state_dict(), name, entry.stem, entry.head, channels=channels)
    return model


def _create(config: Model, shape: Shape, pretrained: bool = False) -> nn.Module:
    """Make the network of timm, or the one of its published weights, channels and classes."""
    timm = import_timm()
    name = config.backbone
    options = {"drop_path_rate": config.drop_path or None}
    options["drop_rate"] = None if _has_own_head(config) else config.dropout or None
    if config.dynamic_size:
        options["dynamic_img_size"] = True
    published = timm.get_pretrained_cfg(name)
    if published is not None and published.fixed_input_size:
        options["img_size"] = shape.image_size
    if not pretrained:
        channels = shape.channels if config.channel_wise == "none" else 1
        options |= {"in_chans": channels, "num_classes": shape.classes}
    try:
        return timm.create_model(name, pretrained=pretrained, **options)
    except TypeError:
        keys = {
            "drop_rate": "dropout",
            "drop_path_rate": "drop_path",
            "dynamic_img_size": "dynamic_size",
        }
        for option, key in keys.items():
            given = options.get(option)
            if given is not None and not _takes(name, option, given):
                raise InputError(f"model.{key}: {name} has no such option") from None
        raise
    except OSError as error:
        raise InputError(
            f"model.pretrained: the weights of {name} could not be fetched ({_one_line(error)}); "
            "without a network give a local file in model.weights"
        ) from None


def _fit_weights(network: nn.Module, entry: Entry, state: State) -> State:
    """Return a file's weights as the network has them, by timm's own filter where they differ.

    timm resamples positions of another image size, and knows the names of the networks' authors
    (DINOv2's, for one). Stem and head may differ still. Weights that do not fit after its filter
    are returned as they are, to be refused by name.
    """
    left, expected = _without_ends(state, entry), _without_ends(network.state_dict(), entry)
    if left == expected:
        return state
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return state
    try:
        converted = dict(convert(dict(state), network))
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        _log.info("%s: timm cannot convert these weights: %s", entry.name, _one_line(error))
        return state
    if _without_ends(converted, entry) != expected:
        return state
    changed = [key for key in left if left[key] != expected.get(key)]
    if changed:
        text = "%s: timm resampled or renamed %d weights, such as %s"
        _log.info(text, entry.name, len(changed), changed[0])
    return converted


def _without_ends(state: State, entry: Entry) -> dict[str, torch.Size]:
    """Return the shapes of all weights but those of stem, head and BatchNorm's counters."""
    ends = {*(f"{layer}.weight" for layer in entry.stem)}
    return {
        key: value.shape
        for key, value in state.items()
        if key not in ends
        and key.rpartition(".")[0] not in entry.head
        and not key.endswith("num_batches_tracked")
    }


def _takes(name: str, option: str, value: float) -> bool:
    """Whether a timm network can be made with an option; nothing is allocated."""
    try:
        with torch.device("meta"):
            import_timm().create_model(name, **{option: value})
    except TypeError:
        return False
    return True


def finish_timm(model: nn.Module, config: Model, shape: Shape) -> Classifier:
    """Return a network with the methods of timm's, with the neck and heads of a config."""
    if config.layers is not None:
        model = PooledLayers(model, config.layers, config.backbone)
    if config.channel_wise == "concat":
        model = ChannelBag(model, shape.channels)
    elif config.channel_wise == "mean":
        stains = stains_of(shape.names or shape.channels)
        model = ChannelMean(model, stains, config.channel_dropout)
    return Classifier(model, config, shape)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _names(value: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())

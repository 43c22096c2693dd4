"""The small networks of two labs, for images of any size and number of channels.

Both are Keras code, so its conventions are kept: "same" padding, max pooling without padding,
Glorot-uniform weights and zero biases.

lenet: the LeNet-like network of the Uppsala lab on BBBC021 (2019). For 3x256x256 and 6 classes it
has 1,121,062 parameters, as the lab's. scratch_cnn and its variants: the idr0088 bootcamp project.
For 3x224x224 and one class the plain one has 6,441,985 parameters, as the project's.
"""

import torch
from torch import nn
from torch.nn import functional

from cellsignal.common.errors import InputError
from cellsignal.config.schema import Model
from cellsignal.models.heads import Outputs
from cellsignal.models.registry import Shape, register_network

LENET_SMALLEST = 63  # pixels a side that leave one position after a stride of 2, pools of 2, 4, 4

# name -> filters of the convolutions, widths of the dense layers, slope of the activation below 0
VARIANTS: dict[str, tuple[tuple[int, ...], tuple[int, ...], float]] = {
    "scratch_cnn": ((32, 64), (32,), 0.0),
    "scratch_cnn_conv3": ((32, 64, 64), (32,), 0.0),
    "scratch_cnn_dense2": ((32, 64), (32, 32), 0.0),
    "scratch_cnn_leaky": ((32, 64), (32,), 0.2),
}


class _LabNetwork(nn.Module):
    """Features of images of one size, dropout, and a head. Subclasses define `features`."""

    def __init__(self, name: str, image_size: int, smallest: int, width: int):
        super().__init__()
        if image_size < smallest:
            raise InputError(
                f"{name}: needs images of {smallest} pixels or more a side, got {image_size}"
            )
        self.name, self.image_size, self.width = name, image_size, width

    def add_head(self, classes: int, dropout: float) -> None:
        """Add the head, and initialise all layers as Keras does."""
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.width, classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def embed(self, x: torch.Tensor, cell_type: torch.Tensor | None = None) -> torch.Tensor:
        """(B, C, image_size, image_size) -> (B, D): what the head sees, before dropout."""
        if x.shape[-2:] != (self.image_size, self.image_size):
            raise InputError(
                f"{self.name}: built for {self.image_size} pixels a side, got images of "
                f"{tuple(x.shape[-2:])}"
            )
        return self.features(x)

    def forward(self, x: torch.Tensor, cell_type: torch.Tensor | None = None) -> torch.Tensor:
        """(B, C, image_size, image_size) -> logits (B, classes)."""
        return self.outputs(x).logits

    def outputs(self, x: torch.Tensor, cell_type: torch.Tensor | None = None) -> Outputs:
        """(B, C, image_size, image_size) -> embedding and logits; there is no cosine head."""
        embedding = self.embed(x)
        return Outputs(embedding, self.head(self.dropout(embedding)), None)


class LeNet(_LabNetwork):
    """Three 5x5 convolutions (16, 32, 64), each max-pooled (2, 4, 4), and a dense layer of 1024.

    Raises:
        InputError: `image_size` below 63 pixels, where nothing is left after the last pool.
    """

    def __init__(self, channels: int, classes: int, image_size: int, dropout: float = 0.0):
        super().__init__("lenet", image_size, LENET_SMALLEST, 1024)
        positions = ((image_size + 1) // 2 // 2 // 4 // 4) ** 2
        self.conv1 = nn.Conv2d(channels, 16, 5, stride=2)
        self.conv2 = nn.Conv2d(16, 32, 5, padding="same")
        self.conv3 = nn.Conv2d(32, 64, 5, padding="same")
        self.dense = nn.Linear(64 * positions, self.width)
        self.add_head(classes, dropout)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.conv1(same_padding(x, kernel=5, stride=2)))
        x = functional.relu(self.conv2(functional.max_pool2d(x, 2)))
        x = functional.relu(self.conv3(functional.max_pool2d(x, 4)))
        return functional.relu(self.dense(functional.max_pool2d(x, 4).flatten(1)))


class ScratchCnn(_LabNetwork):
    """3x3 convolutions, each with ReLU and a 2x2 max pool, then dense layers.

    Raises:
        InputError: an image too small for the pools.
    """

    def __init__(
        self, variant: str, channels: int, classes: int, image_size: int, dropout: float = 0.0
    ):
        filters, dense, slope = VARIANTS[variant]
        super().__init__(variant, image_size, 2 ** len(filters), dense[-1])
        self.convolutions = nn.ModuleList()
        for outputs in filters:
            self.convolutions.append(nn.Conv2d(channels, outputs, 3, padding="same"))
            channels = outputs
        width = channels * (image_size // 2 ** len(filters)) ** 2
        self.dense = nn.ModuleList()
        for outputs in dense:
            self.dense.append(nn.Linear(width, outputs))
            width = outputs
        self.activation = nn.LeakyReLU(slope)
        self.pool = nn.MaxPool2d(2)
        self.add_head(classes, dropout)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.convolutions:
            x = self.pool(self.activation(layer(x)))
        x = x.flatten(1)
        for layer in self.dense:
            x = self.activation(layer(x))
        return x


@register_network("lenet", stem="conv1")
def build_lenet(config: Model, shape: Shape) -> LeNet:
    return LeNet(shape.channels, shape.classes, _known_size(config, shape), config.dropout)


@register_network(*VARIANTS, stem="convolutions.0")
def build_scratch_cnn(config: Model, shape: Shape) -> ScratchCnn:
    size = _known_size(config, shape)
    return ScratchCnn(config.backbone, shape.channels, shape.classes, size, config.dropout)


def _known_size(config: Model, shape: Shape) -> int:
    if shape.image_size is None:
        raise InputError(
            f"model.backbone: {config.backbone} needs to know the image size (data.size)"
        )
    return shape.image_size


def same_padding(x: torch.Tensor, kernel: int, stride: int) -> torch.Tensor:
    """Pad the last two axes with zeros as TensorFlow's "same" does.

    To ceil(n / stride) outputs, the odd zero after.
    """
    pads = []
    for n in (x.shape[-1], x.shape[-2]):  # torch lists the last axis first
        total = max((-(-n // stride) - 1) * stride + kernel - n, 0)
        pads += [total // 2, total - total // 2]
    return functional.pad(x, pads)

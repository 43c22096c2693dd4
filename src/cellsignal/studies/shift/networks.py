"""Train the small networks of the shift bench: one class, several ways to draw and to punish."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional

from cellsignal.data.views import DIHEDRAL, apply_view
from cellsignal.models.torchvision_cpu import import_timm
from cellsignal.studies.shift.penalties import PENALTIES, Domains

BATCH = 48
EPOCHS = 12
RATE = 4e-3
CONTEXT = 24  # control wells that join a training batch


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        unit: batches are of one "plate" or "experiment", or "mixed".
        norm: "batch"; "instance"; "controls": BatchNorm whose statistics are those of the control
            wells in the batch.
        context: control wells of the batch's plate join the batch, without a label.
        penalty: of `PENALTIES`, on the experiments as domains.
        epochs: 0 trains nothing.
    """

    unit: str = "mixed"
    norm: str = "batch"
    context: bool = False
    penalty: str = "none"
    epochs: int = EPOCHS


RECIPES = {
    "mixed": Recipe(),
    "plate": Recipe("plate"),
    "controls": Recipe("plate", norm="controls", context=True),
    "joined": Recipe("plate", context=True),
    "experiment": Recipe("experiment"),
    "instance": Recipe(norm="instance"),
    "group_dro": Recipe(penalty="group_dro"),
    "dann": Recipe(penalty="dann"),
    "coral": Recipe(penalty="coral"),
    "untrained": Recipe(epochs=0),
}


class ContextBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm that in training standardises by the first `context` images of the batch.

    With `context` 0 it is plain BatchNorm; so it is in evaluation mode.
    """

    context = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or not self.context:
            return super().forward(x)
        variance, mean = torch.var_mean(x[: self.context], dim=(0, 2, 3), unbiased=False)
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance, self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return x * scale[:, None, None] + (self.bias - mean * scale)[:, None, None]


class Network(nn.Module):
    """A ResNet-10-t of a quarter of the usual width, for six channels."""

    def __init__(self, classes: int, norm: str = "batch"):
        super().__init__()
        layer: Callable[[int], nn.Module] = ContextBatchNorm2d
        if norm == "instance":
            layer = _instance_norm
        options = {"channels": (16, 32, 64, 128), "stem_width": 16, "norm_layer": layer}
        self.backbone = import_timm().create_model(
            "resnet10t", in_chans=6, num_classes=0, **options
        )
        self.head = nn.Linear(self.backbone.num_features, classes)

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Return (B, 128) embeddings."""
        return self.backbone(images)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.embed(images))


def _instance_norm(channels: int, **options: Any) -> nn.Module:
    return nn.InstanceNorm2d(channels, affine=True, **options)


def standardise_pixels(images: np.ndarray, is_test: np.ndarray) -> torch.Tensor:
    """Return images over the training wells' mean and SD by channel, (N, 6, H, W) float32.

    No statistics of a plate: what batch effects do is left to the methods.
    """
    trained = images[~is_test]
    mean, sd = (
        values.astype(np.float32)[:, None, None]
        for values in (trained.mean((0, 2, 3)), trained.std((0, 2, 3)))
    )
    standardised = torch.from_numpy((images.astype(np.float32) - mean) / sd)
    return standardised.contiguous(memory_format=torch.channels_last)


def train_network(images: torch.Tensor, table: pd.DataFrame, recipe: Recipe, seed: int) -> Network:
    """Train on the training plates' treatments; returned in evaluation mode."""
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 1])
    training = _Training(images, table, recipe, rng)
    model, treated = training.model, training.treated
    batches = [
        batch for _ in range(recipe.epochs) for batch in draw_batches(table, treated, recipe, rng)
    ]
    if not batches:
        return model.eval()
    parameters = [*model.parameters(), *training.penalty.parameters()]
    optimizer = torch.optim.AdamW(parameters, RATE, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RATE, total_steps=len(batches) + 1, pct_start=0.2
    )
    model.train()
    for step, (context, members) in enumerate(batches):
        loss = training.loss(context, members, step / len(batches))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


class _Training:
    """A network to train, its targets and its penalty."""

    def __init__(
        self, images: torch.Tensor, table: pd.DataFrame, recipe: Recipe, rng: np.random.Generator
    ):
        self.images, self.rng, self.norm = images, rng, recipe.norm
        self.treated = np.flatnonzero(~table.is_test & (table.role == "treatment"))
        self.labels = torch.tensor(np.array(table.label))
        self.domains = torch.tensor(pd.factorize(table.experiment)[0])
        model = Network(int(self.labels.max()) + 1, recipe.norm)
        self.model = model.to(memory_format=torch.channels_last)
        number = int(self.domains[self.treated].max()) + 1
        self.penalty = PENALTIES[recipe.penalty](model.backbone.num_features, number)

    def loss(self, context: np.ndarray, members: np.ndarray, progress: float) -> torch.Tensor:
        """Return the loss of a batch; controls that joined it have none.

        Args:
            context, members: rows of the joined controls, and of the treatments.
            progress: share of the training that is done.
        """
        for layer in self.model.modules():
            if isinstance(layer, ContextBatchNorm2d):
                layer.context = len(context) if self.norm == "controls" else 0
        x = augment(self.images[np.concatenate([context, members])], self.rng)
        embedded = self.model.embed(x)[len(context) :]
        logits, labels = self.model.head(embedded), self.labels[members]
        losses = functional.cross_entropy(logits, labels, label_smoothing=0.05, reduction="none")
        return self.penalty(Domains(losses, embedded, self.domains[members], progress))


def draw_batches(
    table: pd.DataFrame, treated: np.ndarray, recipe: Recipe, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Draw an epoch's batches: rows of the joined controls (or none), and of the treatments.

    Batches for CORAL are of two experiments, half of each.
    """
    columns = {"plate": ["experiment", "plate"], "experiment": ["experiment"]}.get(recipe.unit)
    if recipe.penalty == "coral":
        units = [rng.permutation(rows) for rows in _units(table, treated, ["experiment"])]
        turns = rng.permutation(len(units))
        units = [
            np.stack([units[a], units[b]], 1).ravel()
            for a, b in zip(turns[::2], turns[1::2], strict=True)
        ]
    elif columns is None:
        units = [rng.permutation(treated)]
    else:
        units = [rng.permutation(rows) for rows in _units(table, treated, columns)]
    batches = []
    for rows in units:
        batches += np.array_split(rows, max(1, round(len(rows) / BATCH)))
    is_control = (table.role != "treatment").to_numpy()
    for number in rng.permutation(len(batches)):
        members = batches[number]
        context = members[:0]
        if recipe.context:
            first = table.iloc[members[0]]
            mine = (table.experiment == first.experiment) & (table.plate == first.plate)
            context = rng.permutation(np.flatnonzero(mine & is_control))[:CONTEXT]
        yield context, members


def _units(table: pd.DataFrame, rows: np.ndarray, columns: list[str]) -> list[np.ndarray]:
    groups = table.iloc[rows].groupby(columns, sort=True).indices.values()
    return [rows[places] for places in groups]


def augment(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Show each image in one of its eight dihedral views."""
    views = rng.integers(len(DIHEDRAL), size=len(images))
    result = torch.empty_like(images)
    for number in np.unique(views):
        places = torch.from_numpy(np.flatnonzero(views == number))
        result[places] = apply_view(images[places], DIHEDRAL[number])
    return result.contiguous(memory_format=torch.channels_last)

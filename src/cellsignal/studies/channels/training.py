"""Train one network of stains on two data sets at once, and networks of each alone."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional

from cellsignal.config.schema import Model
from cellsignal.models.backbones import build_model
from cellsignal.studies.channels.images import Images

BATCH = 32


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
        title: as the page calls it.
        model: keys of the `model` section.
        sets: what trains: "joint" both in turn; "alone" each its own network; "first" a network of
            the first set whose weights start one of the second.
        zeroed: probability that a training batch has some of its channels set to zero, for
            networks that take all channels at once.
    """

    title: str
    model: Mapping[str, object]
    sets: str = "alone"
    zeroed: float = 0.0
    lr: float = 2e-3


CNN = {"backbone": "test_resnet"}
MEAN = {"backbone": "test_resnet", "channel_wise": "mean"}
VIT = {"backbone": "channel_vit_micro_patch8"}
METHODS = {
    "cnn": Method("small ResNet, a stem for each set", CNN),
    "cnn_zeroed": Method("the same, channels set to zero in training", CNN, zeroed=0.5),
    "vit_alone": Method("ViT of stains, each set alone", VIT, lr=1e-3),
    "vit_joint": Method(
        "ViT of stains, both sets, channel dropout .5",
        {**VIT, "channel_dropout": 0.5},
        "joint",
        0,
        1e-3,
    ),
    "vit_first": Method(
        "ViT of stains, RxRx1, then BBBC021 from its weights", VIT, "first", 0, 1e-3
    ),
    "mean_joint": Method(
        "small ResNet by channel (mean), both sets, channel dropout .5",
        {**MEAN, "channel_dropout": 0.5},
        "joint",
    ),
}


class Heads(nn.Module):
    """A network of stains with a head for each data set.

    Attributes:
        trunk: the network below the heads.
        stains: of each data set.
    """

    def __init__(self, config: Model, sets: Mapping[str, Images]):
        super().__init__()
        every = sorted({stain for images in sets.values() for stain in images.stains})
        size = next(iter(sets.values())).pixels.shape[-1]
        model = build_model(config, len(every), 1, size, names=tuple(every))
        self.trunk, self.stains = model.backbone, {k: v.stains for k, v in sets.items()}
        self.heads = nn.ModuleDict(
            {name: nn.Linear(model.width, images.classes) for name, images in sets.items()}
        )

    def forward(self, x: torch.Tensor, name: str, seen: Sequence[int] | None = None):
        """(B, C, H, W) of a data set -> its logits, from all channels or those seen."""
        self.trunk.use_stains(self.stains[name])
        self.trunk.see(seen)
        features = self.trunk.forward_head(self.trunk.forward_features(x), pre_logits=True)
        return self.heads[name](features)


class OneStem(nn.Module):
    """A network that takes all channels at once; those that are not seen are set to zero."""

    def __init__(self, config: Model, name: str, images: Images):
        super().__init__()
        shape = (len(images.stains), images.classes, images.pixels.shape[-1])
        self.name, self.network = name, build_model(config, *shape, names=images.stains)

    def forward(self, x: torch.Tensor, name: str, seen: Sequence[int] | None = None):
        """(B, C, H, W) -> logits; what is not seen is zero, the mean of every image."""
        if seen is not None:
            kept = torch.zeros(x.shape[1])
            kept[list(seen)] = 1
            x = x * kept[:, None, None]
        return self.network(x)


@dataclass
class Trained:
    """The networks of a method: data set -> network, one object where they are one."""

    networks: dict[str, nn.Module] = field(default_factory=dict)

    @torch.inference_mode()
    def right(self, name: str, images: Images, seen: Sequence[int] | None) -> torch.Tensor:
        """Return whether each held-out image is named rightly, (n,) bool; four views of each."""
        network = self.networks[name].eval()
        held = torch.from_numpy(images.held_out)
        logits = [
            torch.cat(
                [network(_view(part, view), name, seen) for part in images.pixels[held].split(64)]
            )
            for view in (0, 2, 4, 6)
        ]
        return torch.stack(logits).mean(0).argmax(1) == images.label[held]


def train_method(method: Method, sets: Mapping[str, Images], seed: int, epochs: int) -> Trained:
    """Train a method's networks from scratch.

    Each network sees the images of its sets `epochs` times; a joint one sees a batch of each set in
    turn, so that each set is seen as often as by the networks of each alone.
    """
    torch.manual_seed(seed)
    config, trained = Model(**method.model), Trained()
    is_set = "channel_vit" in config.backbone or config.channel_wise == "mean"
    if method.sets == "joint":
        network = Heads(config, sets)
        _fit(network, sets, method, epochs)
        trained.networks = dict.fromkeys(sets, network)
        return trained
    before = None
    for name, images in sets.items():
        alone = {name: images}
        network = Heads(config, alone) if is_set else OneStem(config, name, images)
        if method.sets == "first" and before is not None:
            state = network.trunk.adapt_weights(before.trunk.state_dict())
            network.trunk.load_state_dict(state)
        _fit(network, alone, method, epochs)
        trained.networks[name], before = network, network
    return trained


def _fit(network: nn.Module, sets: Mapping[str, Images], method: Method, epochs: int) -> None:
    """AdamW with a cosine after a warm-up, label smoothing .1, the eight turns of each image."""
    rows = {
        name: torch.from_numpy(~images.held_out).nonzero()[:, 0] for name, images in sets.items()
    }
    steps = {name: epochs * math.ceil(len(chosen) / BATCH) for name, chosen in rows.items()}
    order = _take_turns(steps)
    optimizer = torch.optim.AdamW(network.parameters(), method.lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, method.lr, len(order), pct_start=0.2)
    decks: dict[str, list[torch.Tensor]] = {name: [] for name in sets}
    network.train()
    for name in order:
        if not decks[name]:
            decks[name] = list(rows[name][torch.randperm(len(rows[name]))].split(BATCH))
        batch, images = decks[name].pop(), sets[name]
        x = _view(images.pixels[batch], int(torch.randint(8, ())))
        if method.zeroed and torch.rand(()) < method.zeroed:
            count = int(torch.randint(1, x.shape[1], ()))
            seen = torch.randperm(x.shape[1])[:count].tolist()
            logits = network(x, name, seen)
        else:
            logits = network(x, name)
        loss = functional.cross_entropy(logits, images.label[batch], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def _take_turns(steps: Mapping[str, int]) -> list[str]:
    """Spread each name's steps evenly over the whole: the order of the batches."""
    places = [
        ((number + 0.5) / count, name) for name, count in steps.items() for number in range(count)
    ]
    return [name for _, name in sorted(places)]


def _view(x: torch.Tensor, view: int) -> torch.Tensor:
    """Return one of the eight turns and flips of square images."""
    x = x.flip(3) if view % 2 else x
    return torch.rot90(x, view // 2, (2, 3))

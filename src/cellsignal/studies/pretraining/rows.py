"""The rows of docs/results/pretraining.md, as changes of a config of two stages.

The reference has a stage without labels and one with them. Rows with labels share the second stage
to the letter, but for `longer`, which has more epochs of it, so that it sees as many pixels as the
reference's two stages together, and `gentle`, which fine-tunes at a quarter of the rate.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cellsignal.common.errors import InputError
from cellsignal.config import Config
from cellsignal.training.inference import output_shapes
from cellsignal.training.plan import jobs_of
from cellsignal.training.self_supervised import images_without_labels

VICREG = {"loss": "vicreg", "projection": (512, 256)}  # no bottleneck: its variance term needs none
SCRATCH, LONGER, SIMCLR, GENTLE = "scratch", "longer", "simclr", "gentle"
VICREG_ROW, UNTRAINED = "vicreg", "untrained"
GENTLE_RATE = 0.25  # of the rate that the rows from scratch have


@dataclass(frozen=True)
class Network:
    """One way to train the reference's network.

    Attributes:
        title: of the row in the table.
        frozen_title: of the row whose features are its first stage's, classified by a logistic
            regression; "" without one.
    """

    name: str
    title: str
    frozen_title: str = ""


NETWORKS = (
    Network(SCRATCH, "from scratch"),
    Network(LONGER, "longer: from scratch, as many pixels as with pretraining"),
    Network(SIMCLR, "SimCLR, then fine-tuned", "SimCLR, frozen"),
    Network(GENTLE, "SimCLR, then fine-tuned at a quarter of the rate"),
    Network(VICREG_ROW, "VICReg, then fine-tuned", "VICReg, frozen"),
    Network(UNTRAINED, "", "the network as initialised, frozen"),
)


def check_reference(config: Config) -> None:
    """Refuse a config that is not a stage without labels and one with them.

    Raises:
        InputError: names what is missing.
    """
    stages = config.stages
    if len(stages) != 2 or stages[0].self_supervised is None or stages[1].init != "previous":
        raise InputError(
            f"{config.name}: the study needs two stages, the first self_supervised and the second "
            "with init: previous"
        )
    if any(stage.per != "all" or stage.target != "label" for stage in stages):
        raise InputError(f"{config.name}: the study's stages are `per: all` and `target: label`")
    if config.folds.full:
        raise InputError(f"{config.name}: folds.full trains a model that nothing measures")


def config_of_row(reference: Config, name: str, seed: int) -> Config:
    """Return the config of a network and a seed."""
    tree = reference.model_dump(mode="json")
    tree |= {"name": f"{reference.name}_{name}", "seed": seed}
    views, labels = tree["stages"]
    if name == VICREG_ROW:
        views["self_supervised"] |= VICREG
    elif name == GENTLE:
        labels["optimizer"]["lr"] *= GENTLE_RATE
    elif name != SIMCLR:
        tree["stages"] = [labels | {"init": "scratch"}]
    if name == LONGER:
        labels = tree["stages"][0]
        labels["epochs"] = labels["validate_every"] = longer_epochs(reference)
    if name == UNTRAINED:
        tree["model"]["frozen"] = True
        tree["stages"][0] |= {"epochs": 1, "validate_every": 1}
    return Config.model_validate(tree)


def longer_epochs(reference: Config) -> int:
    """Return the epochs with labels that see as many pixels as the reference's two stages."""
    pixels, epoch = 0, 0
    for job in jobs_of(reference):
        height, width = output_shapes(job)[0]
        views = job.stage.self_supervised is not None
        images = 2 * len(images_without_labels(job)) if views else len(job.train)
        pixels += images * job.stage.epochs * height * width
        epoch += 0 if views else images * height * width
    return round(pixels / epoch)


def trained_rows(seeds: Sequence[int]) -> list[tuple[str, int]]:
    """Return (network, seed) in the order they train: one seed is whole before the next begins."""
    return [(network.name, seed) for seed in seeds for network in NETWORKS]

"""Every recipe loads, and those that reproduce something published are held to it: the numbers here
are the publications', not the files'.
"""

import math
import re
from pathlib import Path

import pytest
import torch
import yaml

from cellsignal.competitions import competition_ids, get_competition, quick_config
from cellsignal.config.load import dump_config, load_config
from cellsignal.config.schema import Config
from cellsignal.data.folds import read_folds
from cellsignal.models.backbones import build_model
from cellsignal.training.optim import LearningRate

REPOSITORY = Path(__file__).resolve().parent.parent
QUICK = [quick_config(get_competition(name)) for name in competition_ids()]
RECIPES = [*sorted((REPOSITORY / "configs").rglob("*.yaml")), *QUICK]
FOLDER = REPOSITORY / "configs" / "rxrx1"
PUBLISHED = ("capstone_resnet50", "first_place_densenet161", "second_place_plate_wise", "wilds_erm")
OWN = ("one_hour", "two_stage_resnet50")
STEPS = 20  # optimiser steps an epoch of the dummy runs


def recipe(name: str) -> Config:
    return load_config(FOLDER / f"{name}.yaml")


def learning_rates(config: Config, stage: int) -> list[float]:
    """The learning rate of every optimiser step of a stage, through the trainer's own schedule."""
    part = config.stages[stage]
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=part.optimizer.lr)
    schedule = LearningRate(optimizer, part, STEPS, higher_is_better=True)
    found = []
    for step in range(part.epochs * STEPS):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step(step + 1)
    return found


@pytest.fixture(scope="module")
def real_samples(real_data):
    return get_competition("rxrx1").samples(real_data / "rxrx1")


def augmentations(config: Config, stage: int) -> list[tuple[str, float]]:
    return [(step.name, step.p) for step in config.stages[stage].augment]


# all of them
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_loads_and_says_what_it_is(path):
    config = load_config(path)
    assert config.competition == path.parent.name or path in QUICK
    assert config.name.startswith(config.competition)
    assert Config.model_validate(yaml.safe_load(dump_config(config))) == config
    if config.protocol is not None:
        assert get_competition(config.competition).protocol(config.protocol).parts
    header = [
        line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")
    ]
    assert header and (config.competition != "rxrx1" or "Reproduces:" in "\n".join(header))


def test_no_two_recipes_share_a_run_folder():
    names = [load_config(path).name for path in RECIPES]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", [*PUBLISHED, *OWN])
def test_a_recipe_for_the_real_images_states_score_cost_and_that_it_was_not_run(name):
    header = " ".join(
        line.removeprefix("#").strip()
        for line in (FOLDER / f"{name}.yaml").read_text().splitlines()
        if line.startswith("#")
    )
    assert (
        "Expected cost, computed, not measured: " in header
        and re.search(r"FLOP", header)
        and "ot yet run" in header
    )
    assert ("Published: " in header) == (name in PUBLISHED)
    readme = (FOLDER / "README.md").read_text()
    assert re.search(rf"\| `{name}\.yaml` \|.*\| not yet \|", readme)


@pytest.mark.parametrize("name", [*PUBLISHED, *OWN])
@pytest.mark.slow
def test_the_folds_of_a_recipe_hold_whole_experiments_out(name, real_samples):
    config = recipe(name)
    table = read_folds(REPOSITORY / config.folds.file, real_samples)
    assert table.group == "experiment" and set(config.folds.use or ()) <= set(table.folds)
    assert config.folds.use != () or config.folds.full, "something is trained"


@pytest.mark.parametrize("name", [*PUBLISHED, *OWN])
def test_stores_of_one_file_are_packed_alike(name):
    config = recipe(name)
    assert config.data.store.stem == (
        "rxrx1" if config.data.size is None else f"rxrx1_{config.data.size}"
    )
    assert config.data.sites is None and config.data.bad_site == "skip"


def test_the_folds_of_the_winner_are_its_counts(real_samples):
    table = read_folds(REPOSITORY / recipe("first_place_densenet161").folds.file, real_samples)
    counts = [
        tuple(
            sum(name.startswith(f"{cell}-") for name in table.held_out(fold))
            for cell in ("HEPG2", "HUVEC", "RPE", "U2OS")
        )
        for fold in table.folds
    ]
    assert counts == [(2, 2, 1, 1), (1, 3, 2, 1), *[(1, 3, 1, 1)] * 4]


# 1st place
# --------------------------------------------------------------------------------------------------


def test_first_place_learning_rate():
    """1.5e-4 cosine over 90 epochs, then 6e-5 over a cosine of 60 that ends 20 epochs early."""
    config = recipe("first_place_densenet161")
    assert [stage.epochs for stage in config.stages] == [90, 40] and config.stages[
        1
    ].init == "previous"
    first, second = learning_rates(config, 0), learning_rates(config, 1)
    for epoch, lr in {0: 1.5e-4, 30: 1.125e-4, 45: 7.5e-5, 60: 3.75e-5}.items():
        assert first[epoch * STEPS] == pytest.approx(lr)
    for epoch, lr in {0: 6e-5, 20: 4.5e-5, 30: 3e-5}.items():
        assert second[epoch * STEPS] == pytest.approx(lr)
    for step in range(40 * STEPS):
        assert second[step] == pytest.approx(6e-5 * (1 + math.cos(math.pi * step / STEPS / 60)) / 2)
    assert first[-1] < 1e-7 and second[-1] > 1.5e-5


def test_first_place_augmentation_loss_and_batches():
    config = recipe("first_place_densenet161")
    assert config.normalization.by == "image"
    for number, stage in enumerate(config.stages):
        assert augmentations(config, number) == [
            ("horizontal_flip", 0.5),
            ("vertical_flip", 0.5),
            ("transpose", 0.5),
            ("square_crop_resize", 1.0),
            ("gain_bias", 1.0),
        ]
        crop, lighting = stage.augment[3], stage.augment[4]
        assert (crop.min_fraction * 512, lighting.gain, lighting.bias) == (256, 0.1, 0.1)
        assert (stage.mix.cutmix, stage.mix.mixup, stage.mix.p) == (1, 0, 1)
        assert (stage.batch_size, stage.accumulation, stage.amp, stage.batches.unit) == (
            24,
            2,
            "fp16",
            "mixed",
        )
        assert (stage.optimizer.name, stage.optimizer.weight_decay, stage.optimizer.decay_all) == (
            "adam",
            1e-5,
            True,
        )
        assert stage.cross_entropy == 1 - 0.2 and stage.label_smoothing == 0
        margin = stage.margin  # .2 x 1/2 x CE
        assert (margin.name, margin.margin, margin.scale, margin.weight) == (
            "arcface",
            0.5,
            30,
            0.2 / 2,
        )
        assert not (
            stage.triplet
            or stage.center
            or stage.ema
            or stage.swa
            or stage.mean_teacher
            or stage.clip_norm
        )


def test_first_place_pseudo_labels_prediction_and_submission():
    config = recipe("first_place_densenet161")
    assert config.stages[0].pseudo_labels is None and config.data.controls == "all"
    labels = config.stages[1].pseudo_labels
    assert (labels.start, labels.first) == (0, 0.4)
    assert (config.predict.tta, config.predict.checkpoint, config.predict.adapt) == (
        8,
        "last",
        "none",
    )
    assert (config.submit.merge, config.submit.assignment) == ("logits", "hungarian")
    assert (
        config.folds.file == Path("folds/rxrx1_first_place.csv")
        and config.folds.full
        and config.folds.use == ()
    )


# parameters, from the architectures' own tables; six channels add three stem kernels a filter
# ------------------------------------------


def densenet161(channels: int) -> int:
    """Features of DenseNet161 (arXiv:1608.06993): growth 48, blocks of 6, 12, 36, 24 layers,
    bottleneck 4, stem 96.
    """
    width, growth = 96, 48
    total = channels * width * 49 + 2 * width
    for number, layers in enumerate((6, 12, 36, 24)):
        for _ in range(layers):
            inner = 4 * growth
            total += 2 * width + width * inner + 2 * inner + inner * growth * 9
            width += growth
        if number < 3:
            total += 2 * width + width * (width // 2)
            width //= 2
    return total + 2 * width


def resnet50(channels: int) -> int:
    """Features of ResNet-50 (arXiv:1512.03385)."""
    total, width = channels * 64 * 49 + 2 * 64, 64
    for inner, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            total += (
                width * inner
                + inner * inner * 9
                + inner * 4 * inner
                + 2 * (inner + inner + 4 * inner)
            )
            if block == 0:
                total += width * 4 * inner + 2 * 4 * inner
            width = 4 * inner
    return total


def counted(name: str, channels: int, classes: int) -> int:
    config = recipe(name)
    model = build_model(
        config.model,
        channels,
        classes,
        config.data.size or 512,
        cell_types=4,
        initial_weights=False,
    )
    return sum(parameter.numel() for parameter in model.parameters())


def test_parameters_of_the_first_place_network():
    pooled, width, classes = 2208 + 4, 1024, 1139
    neck = 2 * pooled + pooled * width + 2 * width + width * width + 2 * width
    heads = (width * classes + classes) + width * classes
    assert densenet161(6) == 26_486_112  # torchvision's 26,472,000 of three channels and 14,112
    expected = densenet161(6) + neck + heads
    assert counted("first_place_densenet161", 6, classes) == expected == 32_142_107


def test_bn_momentum_of_the_first_place_network():
    config = recipe("first_place_densenet161")
    model = build_model(config.model, 6, 1139, 512, cell_types=4, initial_weights=False)
    norms = [
        module
        for module in model.modules()
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
    ]
    assert len(norms) > 150 and {norm.momentum for norm in norms} == {0.05}


@pytest.mark.parametrize(
    "name, channels, classes, cosine",
    [
        ("capstone_resnet50", 6, 1108, False),
        ("second_place_plate_wise", 6, 1108, True),
        ("wilds_erm", 3, 1139, False),
    ],
)
def test_parameters_of_the_resnets(name, channels, classes, cosine):
    assert resnet50(3) == 23_508_032  # torchvision's resnet50 without its head
    heads = (2048 * classes + classes) + cosine * 2048 * classes
    assert counted(name, channels, classes) == resnet50(channels) + heads


# the others
# --------------------------------------------------------------------------------------------------


def test_capstone_as_published():
    """ResNet-50, six channels, 512 px, 15 epochs, Adam 3e-4 x .95 an epoch, no augmentation; folds
    by experiment are ours.
    """
    config = recipe("capstone_resnet50")
    (stage,) = config.stages
    assert (config.model.backbone, config.data.size, config.data.channels, stage.epochs) == (
        "resnet50",
        None,
        None,
        15,
    )
    assert stage.optimizer.name == "adam" and stage.augment == () and stage.mix is None
    found = learning_rates(config, 0)
    for epoch in range(15):
        assert (
            found[epoch * STEPS]
            == found[epoch * STEPS + STEPS - 1]
            == pytest.approx(3e-4 * 0.95**epoch)
        )
    assert config.submit.assignment == "none"


def test_second_place_as_published():
    """Plate batches and plate statistics, ArcFace s=30 m=.1, mean teacher; 160 epochs on all cells,
    then each cell type with SGD .1 cosine.
    """
    config = recipe("second_place_plate_wise")
    first, second = config.stages
    assert (first.epochs, first.per, second.per, second.init) == (
        160,
        "all",
        "cell_type",
        "previous",
    )
    for stage in config.stages:
        assert (stage.batches.unit, stage.batches.labels) == ("plate", "unique")
        assert (stage.margin.name, stage.margin.scale, stage.margin.margin) == ("arcface", 30, 0.1)
        assert stage.mean_teacher is not None and stage.ema
    assert config.normalization.by == "plate" and config.predict.adapt == "plate"
    assert (second.optimizer.name, second.optimizer.lr) == ("nesterov", 0.1)
    found = learning_rates(config, 1)
    assert (
        found[0] == pytest.approx(0.1)
        and found[len(found) // 2] == pytest.approx(0.05)
        and found[-1] < 1e-4
    )


def test_wilds_as_published():
    """ResNet-50, three channels, 256 px, 90 epochs, Adam 1e-4, batch 75, 10 epochs of warm-up,
    trained on site 1 with the controls.
    """
    config = recipe("wilds_erm")
    (stage,) = config.stages
    assert (config.protocol, config.data.channels, config.data.size) == ("wilds", (1, 2, 3), 256)
    assert (config.data.controls, config.normalization.by) == ("train", "image")
    assert config.model.pretrained and config.model.backbone == "resnet50"
    assert (stage.epochs, stage.batch_size, stage.accumulation) == (90, 75, 1)
    assert (stage.optimizer.name, stage.optimizer.weight_decay, stage.optimizer.decay_all) == (
        "adam",
        1e-5,
        True,
    )
    assert (
        augmentations(config, 0) == [("rotate90", 1.0), ("horizontal_flip", 0.5)]
        and stage.mix is None
    )
    assert (config.folds.use, config.folds.full, config.predict.tta, config.submit.assignment) == (
        (),
        True,
        1,
        "none",
    )
    assert stage.schedule.warmup_epochs * math.ceil(40_612 / 75) == pytest.approx(5_415, abs=10)
    found = learning_rates(config, 0)
    assert found[5 * STEPS] == pytest.approx(0.5e-4, rel=0.02) and max(found) == pytest.approx(1e-4)
    assert (
        found.index(max(found)) == 10 * STEPS
        and found[50 * STEPS] == pytest.approx(0.5e-4)
        and found[-1] < 1e-7
    )

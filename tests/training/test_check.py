"""What is found out before a training begins: one line that names the key, nothing written, and a
corrected config goes on.
"""

import logging
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from tiny import make_config, stage

from cellsignal.common.errors import InputError
from cellsignal.common.files import write_text
from cellsignal.config import dump_config
from cellsignal.data.store import Store
from cellsignal.training.check import _check_stages_have_samples, _refusing_single_values
from cellsignal.training.plan import jobs_of
from cellsignal.training.run import train

QUICK = {"epochs": 1, "batch_size": 32, "augment": []}


def refused(config) -> str:
    """The one line with which a config is refused; nothing is written."""
    with pytest.raises(InputError) as error:
        train(config)
    assert "\n" not in str(error.value)
    assert not config.run_folder.exists()
    return str(error.value)


@pytest.fixture
def altered(monkeypatch):
    """Makes every store that is opened one whose samples are changed by a function."""

    def _altered(change) -> None:
        whole = Store.open.__func__

        def opened(cls, path):
            store = whole(cls, path)
            samples = store.samples.copy()
            change(samples)
            return replace(store, samples=samples)

        monkeypatch.setattr(Store, "open", classmethod(opened))

    return _altered


@pytest.mark.parametrize(
    ("model", "size", "line"),
    [
        (
            {"backbone": "resnet10t"},
            1,
            r"stages.all.batch_size: batches of 1 image of 24x24 pixels leave BatchNorm one value "
            r"a channel (backbone.layer4.0.bn1",
        ),
        (
            {"backbone": "test_resnet", "frozen": True, "neck": 8},
            1,
            "one value a channel (neck.0 of test_resnet); write batch_size: 2 or more",
        ),
        ({"backbone": "resnet19"}, 8, "model.backbone: no backbone 'resnet19'; near it: resnet1"),
        ({"backbone": "lenet"}, 8, "lenet: needs images of 63 pixels or more a side, got 24"),
        (
            {"backbone": "densenet121"},
            8,
            "model.backbone: densenet121 cannot train on 6 channels of 24x24 pixels",
        ),
        ({"backbone": "test_resnet", "weights": "no.pth"}, 8, "no.pth"),
        ({"backbone": "test_resnet", "layers": [9]}, 8, "model.layers: [9]"),
    ],
)
def test_what_a_network_cannot_do_is_refused(plates, tmp_path, model, size, line):
    config = make_config(plates, tmp_path, [stage(**QUICK | {"batch_size": size})], model=model)
    assert line in refused(config)


def test_a_batch_of_one_trains_where_it_can(plates, tmp_path):
    """Without BatchNorm, or with more than a value a channel left of one image; the frozen backbone
    keeps its own.
    """
    for model in ({"backbone": "scratch_cnn"}, {"backbone": "test_resnet", "frozen": True}):
        name = model["backbone"] + str(len(model))
        config = make_config(
            plates,
            tmp_path,
            [stage(**QUICK | {"batch_size": 1})],
            model=model,
            name=name,
            data={"sites": [1]},
        )
        (job,) = train(config)
        weights = torch.load(job.folder / "last.pt", weights_only=True)["model"]
        assert all(
            torch.isfinite(tensor).all()
            for tensor in weights.values()
            if tensor.is_floating_point()
        )


@pytest.mark.parametrize("size", [1, 2])
def test_the_watch_agrees_with_torch(size):
    """What BatchNorm refuses in training is what the check refuses, and nothing else."""
    for side in (1, 2):
        layer = torch.nn.Sequential(torch.nn.BatchNorm2d(3))
        layer[0].weight.requires_grad_(False)
        fails = refuses = False
        try:
            layer(torch.zeros(size, 3, side, side))
        except ValueError:
            fails = True
        try:
            with _refusing_single_values(layer, "in {layer}", evaluating=False):
                layer(torch.zeros(size, 3, side, side))
        except InputError as error:
            refuses = str(error) == "in 0"
        assert fails == refuses == (size * side == 1)


@pytest.mark.parametrize(
    ("adapt", "size", "side", "line"),
    [
        ("plate", 1, 24, "predict.adapt: plate: one has 1 image of 24x24 pixels a batch"),
        ("none", 1, 24, None),
        ("experiment", 64, 24, None),
    ],
)
def test_adapting_to_units_of_one_image(plates, tmp_path, adapt, size, side, line):
    config = make_config(
        plates,
        tmp_path,
        [stage(**QUICK)],
        model={"backbone": "resnet10t"},
        predict={"adapt": adapt, "batch_size": size},
    )
    if line is None:
        assert train(config)
    else:
        assert line in refused(config)


def test_missing_pieces_name_the_command_that_makes_them(plates, tmp_path):
    folds = make_config(plates, tmp_path, folds={"file": "none.csv"})
    assert refused(folds).endswith(
        f"`cellsignal folds rxrx1 --root {plates / 'raw'} --out none.csv`"
    )
    store = make_config(plates, tmp_path, data={"store": "none.zarr"})
    assert (
        refused(store)
        == "none.zarr: there is no store; run `cellsignal prepare CONFIG` with this config first"
    )


def test_the_competition_is_looked_at_first(plates, tmp_path):
    """Also where the run folder holds a run of another config, and store and folds are missing."""
    right = make_config(plates, tmp_path, [stage(**QUICK)])
    train(right)
    wrong = right.model_copy(
        update={
            "competition": "bbbc21",
            "data": right.data.model_copy(update={"store": Path("none")}),
        }
    )
    with pytest.raises(InputError, match=r"unknown competition 'bbbc21'.*did you mean 'bbbc021'"):
        train(wrong)


def test_a_folder_without_a_checkpoint_is_taken_over(plates, tmp_path):
    config = make_config(plates, tmp_path, [stage(**QUICK)])
    other = make_config(
        plates, tmp_path, [stage(**QUICK | {"epochs": 2})], model={"backbone": "resnet19"}
    )
    write_text(config.run_folder / "config.yaml", dump_config(other))
    (job,) = train(config)
    with pytest.raises(
        InputError, match=r"holds a run of another config; .*stages\.0\.epochs: 1 -> 2"
    ):
        train(make_config(plates, tmp_path, [stage(**QUICK | {"epochs": 2})]))
    (job.folder / "last.pt").unlink()
    (job.folder / "best.pt").unlink()
    assert jobs_of(make_config(plates, tmp_path, [stage(**QUICK | {"epochs": 2})]))


# units without what a key needs
# --------------------------------------------------------------------------------------------------


def test_controls_that_are_not_there(plates, tmp_path, altered):
    altered(_without_roles)
    line = refused(
        make_config(plates, tmp_path, normalization={"by": "plate", "wells": "negative_controls"})
    )
    assert line.startswith("normalization.wells: negative_controls: none of the")
    altered(lambda samples: _without_controls(samples, samples.experiment))
    for mode in ("train", "all"):
        assert f"data.controls: {mode}: " in refused(
            make_config(plates, tmp_path, data={"controls": mode})
        )


def _without_roles(samples) -> None:
    samples.loc[samples.role != "treatment", "role"] = "other"


def test_controls_that_some_experiments_have(plates, tmp_path, altered, caplog):
    folds = pd.read_csv(plates / "folds.csv")
    trained = sorted(folds.experiment[folds.fold != 0])
    altered(lambda samples: _without_controls(samples, trained[0]))
    with caplog.at_level(logging.WARNING):
        jobs_of(make_config(plates, tmp_path, data={"controls": "train"}))
    lines = [line for line in caplog.messages if "data.controls" in line]
    assert lines == [
        f"data.controls: 1 of {len(trained)} training experiments have none, first {trained[0]}"
    ]


def _without_controls(samples, experiment: str) -> None:
    samples.loc[(samples.experiment == experiment) & (samples.role != "treatment"), "label"] = pd.NA


@pytest.mark.parametrize(
    "more", [{"pseudo_labels": {}}, {"ema": 0.9, "mean_teacher": {"unlabelled": "test"}}], ids=str
)
def test_test_samples_that_are_not_there(plates, tmp_path, altered, caplog, more):
    altered(lambda samples: _take_out_of_the_test(samples, samples.cell_type == "U2OS"))
    with caplog.at_level(logging.WARNING):
        each = stage(**QUICK | more, per="cell_type")
        _check_stages_have_samples(jobs_of(make_config(plates, tmp_path, [each])))
    key = next(iter(set(more) - {"ema"}))
    assert any(
        f".{key}" in line and "1 of 4 trainings have no test sample" in line
        for line in caplog.messages
    )
    altered(lambda samples: _take_out_of_the_test(samples, samples.split == "test"))
    assert f"stages.all.{key}" in refused(make_config(plates, tmp_path, [stage(**QUICK | more)]))


def _take_out_of_the_test(samples, rows) -> None:
    samples.loc[rows & (samples.split == "test"), "role"] = "other"


def test_one_class_is_nothing_to_tell_apart(plates, tmp_path, altered):
    altered(lambda samples: samples.__setitem__("label", samples.label * 0))
    assert "all 64 training samples are of one class" in refused(
        make_config(plates, tmp_path, [stage(**QUICK)])
    )


def test_a_second_stage_is_asked_before_the_first_trains(plates, tmp_path):
    broken = stage(
        "second", init="previous", **QUICK | {"augment": [{"name": "random_crop", "size": 25}]}
    )
    assert (
        refused(make_config(plates, tmp_path, [stage(**QUICK), broken]))
        == "random_crop: size 25 exceeds the image, 24x24 pixels"
    )


def test_what_has_begun_is_not_asked_again(plates, tmp_path, monkeypatch):
    config = make_config(plates, tmp_path, [stage(**QUICK)])
    train(config)
    monkeypatch.setattr("cellsignal.training.check.build_model", None)
    train(config)


def test_the_check_leaves_the_training_as_it_was(plates, tmp_path, monkeypatch):
    """The same bits with and without it: it draws nothing that the training draws."""
    weights = []
    for name in ("with", "without"):
        config = make_config(
            plates,
            tmp_path / name,
            [stage(**QUICK)],
            model={"backbone": "test_resnet", "dropout": 0.1},
        )
        if name == "without":
            monkeypatch.setattr("cellsignal.training.run.check_jobs", lambda jobs, ranks: None)
        (job,) = train(config)
        weights.append(torch.load(job.folder / "last.pt", weights_only=True)["model"])
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


@pytest.mark.parametrize(
    "more",
    [
        {"data": {"channels": [1]}},
        {"data": {"sites": [2]}},
        {"predict": {"batch_size": 1, "tta": 1}},
    ],
    ids=str,
)
def test_one_of_a_kind_trains(plates, tmp_path, more):
    """One channel, one site a well, predictions image by image."""
    (job,) = train(make_config(plates, tmp_path, [stage(**QUICK)], **more))
    assert (job.folder / "last.pt").is_file() and len(job.channels) == len(
        more.get("data", {}).get("channels", range(6))
    )

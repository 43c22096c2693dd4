"""BBBC021's real subset: its table, its folds, its images, and the recipes that are trained on it."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from cellsignal.competitions import get_competition
from cellsignal.competitions.folds import make_folds
from cellsignal.config import load_config
from cellsignal.data.folds import read_folds
from cellsignal.models.backbones import build_model

REPOSITORY = Path(__file__).resolve().parents[3]
COMPETITION = get_competition("bbbc021")


@pytest.fixture(scope="module")
def subset(real_data) -> Path:
    return real_data / "bbbc021" / "subset"


def test_the_table_is_the_files(subset):
    samples = COMPETITION.samples(subset)
    train, raw = samples[samples.split == "train"], pd.read_csv(subset / "train.csv")
    assert (len(train), (samples.split == "test").sum(), len(COMPETITION.classes(subset))) == (
        420,
        240,
        6,
    )
    assert [
        COMPETITION.classes(subset)[i] for i in train.label
    ] == raw.moa.tolist() and train.compound.tolist() == raw.compound.tolist()
    assert samples.groupby("well_id").size().eq(4).all() and not set(train.well_id) & set(
        samples.well_id[samples.split == "test"]
    )


def test_an_image_is_opencvs(subset):
    files = COMPETITION.samples(subset).files.iloc[5]
    found = COMPETITION.read(subset, files, COMPETITION.root_shape(subset))
    assert np.array_equal(found, cv2.imread(str(subset / files[0]))[..., ::-1].transpose(2, 0, 1))


def test_no_compound_is_in_training_and_validation_and_every_class_stays_in_training(subset):
    samples = COMPETITION.samples(subset)
    table = read_folds(REPOSITORY / "folds" / "bbbc021.csv", samples)
    assert table.group == "compound" and table.folds == (0, 1, 2)
    pd.testing.assert_frame_equal(
        table.rows[["fold", "compound"]].astype(str),
        make_folds(samples, "compound", 3, 0)[["fold", "compound"]].astype(str),
    )
    validated = np.zeros(len(samples), int)
    for fold in table.folds:
        train, valid = table.training(samples, fold), table.validation(samples, fold)
        assert not set(samples.compound[train]) & set(samples.compound[valid])
        assert samples.label[train].nunique() == 6
        validated += valid
    single = samples[samples.split == "train"].groupby("label").compound.nunique()
    assert validated.max() == 1 and set(
        samples.label[(samples.split == "train") & (validated == 0)]
    ) == set(single.index[single == 1])
    assert validated.sum() == 300


def test_no_well_is_in_training_and_validation(subset):
    samples = COMPETITION.samples(subset)
    table = read_folds(REPOSITORY / "folds" / "bbbc021_well.csv", samples)
    for fold in table.folds:
        assert not set(samples.well_id[table.training(samples, fold)]) & set(
            samples.well_id[table.validation(samples, fold)]
        )


def test_the_lenet_recipe_has_the_published_number_of_parameters():
    config = load_config(REPOSITORY / "configs" / "bbbc021" / "lenet.yaml")
    model = build_model(config.model, 3, 6, 256)
    assert sum(p.numel() for p in model.parameters()) == 1_121_062
    assert (
        config.stages[0].epochs,
        config.stages[0].batch_size,
        config.stages[0].optimizer.name,
        config.normalization.by,
    ) == (30, 32, "adam", "none")


def test_committed_submissions_are_valid(subset):
    committed = [
        REPOSITORY / "submissions" / f"bbbc021_{name}.csv"
        for name in ("frozen_layers", "lenet", "resnet10")
    ]
    for path in committed:
        COMPETITION.task.check_submission(
            pd.read_csv(path), COMPETITION.sample_submission(subset), COMPETITION.classes(subset)
        )
        assert path.with_suffix(".json").is_file()

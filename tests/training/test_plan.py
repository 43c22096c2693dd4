"""The jobs of a config: which samples train, validate and are predicted, in which order."""

import logging
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from cellsignal.common.errors import InputError
from cellsignal.training.plan import plan_jobs

# experiments a and b are HUVEC, c is RPE, d and e are test experiments of them, r has references
ROWS = [
    ("a", "HUVEC", "treatment", "train", 0.0, "x"),
    ("a", "HUVEC", "treatment", "train", 1.0, "y"),
    ("a", "HUVEC", "positive_control", "train", 3.0, "p"),
    ("b", "HUVEC", "treatment", "train", 1.0, "y"),
    ("b", "HUVEC", "positive_control", "train", 2.0, "q"),
    ("b", "HUVEC", "negative_control", "train", np.nan, None),
    ("c", "RPE", "treatment", "train", 0.0, "x"),
    ("c", "RPE", "treatment", "train", 1.0, "y"),
    ("d", "HUVEC", "treatment", "test", np.nan, None),
    ("d", "HUVEC", "positive_control", "test", 2.0, "q"),
    ("e", "RPE", "treatment", "test", np.nan, None),
    ("r", "RPE", "reference", "train", np.nan, "z"),
]
COLUMNS = ["experiment", "cell_type", "role", "split", "label", "compound"]
SAMPLES = pd.DataFrame(ROWS, columns=COLUMNS).assign(
    sample_id=[f"s{row}" for row in range(len(ROWS))], plate="1", site=1
)
FOLD_OF = {"a": 0, "b": 1, "c": 1}


def plan(tmp_path, stages=(("all", "label"),), samples=SAMPLES, classes=("k", "l"), **more):
    """Plan the jobs of a config; `more` are keys of its sections data and folds."""
    config = SimpleNamespace(
        seed=0,
        run_folder=tmp_path,
        protocol=more.get("protocol"),
        stages=[
            SimpleNamespace(
                name=f"stage{number}", per=per, target=target, init="scratch", self_supervised=None
            )
            for number, (per, target) in enumerate(stages)
        ],
        data=SimpleNamespace(
            store="store.zarr",
            channels=more.get("channels"),
            sites=None,
            exclude=None,
            controls=more.get("controls", "ignore"),
        ),
        folds=SimpleNamespace(file="folds.csv", use=more.get("use"), full=more.get("full", False)),
    )
    treated = (samples.role == "treatment") & (samples.split == "train")
    fold = samples.experiment.map(FOLD_OF)
    folds = SimpleNamespace(
        folds=[0, 1],
        group="experiment",
        test=("d", "e"),
        training=lambda table, number: (treated & (fold != number)).to_numpy(),
        validation=lambda table, number: (treated & (fold == more.get("valid", number))).to_numpy(),
    )
    competition = SimpleNamespace(
        task=SimpleNamespace(check_config=lambda config: None),
        pretraining=lambda table: np.ones(len(table), bool),
        protocol=lambda name: SimpleNamespace(
            id="p", parts=("train", "test"), controls_are_classes=False
        ),
        protocol_parts=lambda name, table: more.get("parts"),
    )
    store = SimpleNamespace(samples=samples, channels=("w1", "w2", "w3"))
    return plan_jobs(config, competition, store, classes, folds)


def rows(jobs) -> list[tuple]:
    """(fold, key, rows that train, that validate, that are predicted) of each job."""
    return [
        (job.fold, job.key, job.train.tolist(), job.valid.tolist(), job.test.tolist())
        for job in jobs
    ]


def test_each_fold_trains_on_the_others_and_predicts_all_of_the_test(tmp_path):
    assert rows(plan(tmp_path)) == [
        (0, "all", [3, 6, 7], [0, 1], [8, 10]),
        (1, "all", [0, 1], [3, 6, 7], [8, 10]),
    ]
    assert rows(plan(tmp_path, use=[1], full=True)) == [
        (1, "all", [0, 1], [3, 6, 7], [8, 10]),
        (None, "all", [0, 1, 3, 6, 7], [], [8, 10]),
    ]


def test_a_stage_for_each_cell_type_has_a_job_for_each_that_trains(tmp_path):
    jobs = plan(tmp_path, stages=[("all", "label"), ("cell_type", "label")])
    assert [(job.fold, job.stage.name, job.key) for job in jobs] == [
        (0, "stage0", "all"),
        (0, "stage1", "HUVEC"),
        (0, "stage1", "RPE"),
        (1, "stage0", "all"),
        (1, "stage1", "HUVEC"),  # no RPE: its one experiment is validated
    ]
    assert rows(jobs)[1:3] == [
        (0, "HUVEC", [3], [0, 1], [8]),
        (0, "RPE", [6, 7], [], [10]),
    ]
    assert rows(jobs)[4] == (1, "HUVEC", [0, 1], [3], [8])


@pytest.mark.parametrize(
    ("controls", "first", "second", "outputs"),
    [
        ("ignore", [3, 6, 7], [0, 1], 2),
        ("train", [3, 4, 6, 7], [0, 1, 2], 4),  # those of the experiments that train
        ("all", [2, 3, 4, 6, 7, 9], [0, 1, 2, 4, 9], 4),
    ],
)
def test_controls_train_as_configured_and_have_outputs(tmp_path, controls, first, second, outputs):
    jobs = plan(tmp_path, controls=controls)
    assert [job.train.tolist() for job in jobs] == [first, second]
    assert [job.valid.tolist() for job in jobs] == [[0, 1], [3, 6, 7]]
    assert [job.outputs for job in jobs] == [outputs] * 2
    more = plan(tmp_path, controls=controls, classes=tuple("klmnop"))
    assert [job.outputs for job in more] == [6, 6]  # controls' labels are among the classes


def test_experiments_without_controls_are_counted_in_a_warning(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="cellsignal"):
        plan(tmp_path, controls="train", use=[0])
    (record,) = caplog.records
    assert "1 of 2 training experiments have none, first c" in record.getMessage()
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="cellsignal"):
        plan(tmp_path, controls="train", use=[1])
    assert not caplog.records


def test_a_protocol_takes_what_it_tests_out_of_training_and_validation(tmp_path):
    parts = pd.Series(["train", "test", "train", "test"] + ["train"] * 8)
    jobs = plan(tmp_path, protocol="p", parts=parts)
    assert rows(jobs) == [
        (0, "all", [6, 7], [0], [8, 10]),
        (1, "all", [0], [6, 7], [8, 10]),
    ]


def test_compounds_of_unlabelled_images_are_outputs_too(tmp_path):
    (plain, _) = plan(tmp_path, stages=[("all", "compound")])
    assert (plain.compounds, plain.outputs) == (("x", "y"), 2)
    (job, _) = plan(tmp_path, stages=[("all", "any_compound")])
    assert (job.compounds, job.outputs) == (("x", "y", "z"), 3)
    assert job.train.tolist() == [3, 6, 7, 11]
    each = plan(tmp_path, stages=[("cell_type", "any_compound")], use=[0], samples=_with_both())
    assert [(job.key, job.train.tolist()) for job in each] == [
        ("HUVEC", [1, 3]),
        ("RPE", [6, 7, 11]),
    ]


def _with_both() -> pd.DataFrame:
    """The samples with row 1 in the training of fold 0, so that HUVEC has two compounds."""
    samples = SAMPLES.copy()
    samples.loc[1, "experiment"] = "b"
    samples.loc[3, "compound"] = "x"
    return samples


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"use": [0, 7]}, r"folds\.use: folds\.csv has the folds \[0, 1\], not 7"),
        ({"channels": [3, 4]}, r"data\.channels: store\.zarr has 3 channels, no number 4"),
        (
            {"stages": [("all", "any_compound")], "samples": SAMPLES.iloc[:11]},
            "any_compound: store.zarr has no image with a compound and without a label",
        ),
        (
            {"stages": [("all", "compound")], "samples": SAMPLES.assign(compound=None)},
            "3 training samples of store.zarr have no compound, first 's3'",
        ),
        (
            {"stages": [("all", "compound")], "samples": SAMPLES.assign(compound="x")},
            "all training samples of .* have the one compound 'x'",
        ),
        (
            {"controls": "all", "samples": SAMPLES[SAMPLES.role == "treatment"]},
            "data.controls: all: store.zarr has no labelled control well to train on",
        ),
        (
            {"samples": SAMPLES[SAMPLES.experiment.isin(["a", "d"])]},
            "folds.csv: seed 0 fold 0 stage stage0 has no training sample in store.zarr",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused(tmp_path, options, words):
    with pytest.raises(InputError, match=words):
        plan(tmp_path, **options)


def test_the_last_channel_may_be_chosen(tmp_path):
    assert len(plan(tmp_path, channels=[1, 3])) == 2


@pytest.mark.parametrize("valid", [0, 1])
def test_a_sample_that_trains_is_never_validated(tmp_path, valid):
    """A fold table that says so is a fault of ours, not the user's."""
    with pytest.raises(AssertionError, match="training and validation or test"):
        plan(tmp_path, use=[1 - valid, valid], valid=valid)

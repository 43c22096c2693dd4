"""One job: its names, seed, targets and samples, of a table that is written here."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from cellsignal.common.errors import InputError
from cellsignal.training.job import (
    Job,
    cell_type_vectors,
    fold_name,
    kept_samples,
    left_out_samples,
    predictable_samples,
    protocol_parts,
    unit_codes,
    without_labels,
)

SAMPLES = pd.DataFrame(
    {
        "experiment": ["b", "b", "a", "a", "c", "c"],
        "plate": ["1", "2", "1", "1", "1", "2"],
        "site": [1, 2, 1, 2, 1, 2],
        "cell_type": ["U2OS", "U2OS", "HUVEC", "HUVEC", "RPE", "RPE"],
        "compound": ["y", "x", "x", "z", "x", None],
        "label": [0.0, 1.0, 1.0, 2.0, 1.0, np.nan],
    }
)


def make(tmp_path, stage=0, fold=1, key="all", samples=SAMPLES, **more) -> Job:
    """A job of one of two stages; options are the stages' or the config's."""
    options = {"validate_every": 2, "epochs": 5, "target": "label", "self_supervised": None}
    options |= {"init": "previous"} | {k: v for k, v in more.items() if k in options}
    stages = [
        SimpleNamespace(**options | {"name": name, "per": per, "init": init})
        for name, per, init in (
            ("first", more.get("per", "all"), "scratch"),
            ("second", "cell_type", options["init"]),
        )
    ]
    config = SimpleNamespace(
        seed=3,
        run_folder=tmp_path,
        stages=stages,
        protocol=more.get("protocol"),
        data=SimpleNamespace(
            channels=more.get("channels"),
            sites=more.get("sites"),
            exclude=more.get("exclude"),
            controls="ignore",
        ),
        model=SimpleNamespace(cell_type_vector=more.get("vector", True)),
    )
    folds = SimpleNamespace(
        group="experiment", test=("c",), validation=lambda table, fold: table.experiment == "a"
    )
    store = SimpleNamespace(samples=samples, channels=("w1", "w2", "w3"))
    return Job(
        config=config,
        competition=more.get("competition"),
        store=store,
        classes=("0", "1", "2"),
        folds=folds,
        stage_index=stage,
        key=key,
        fold=fold,
        train=np.array([0, 1, 2]),
        valid=np.array([3]),
        test=np.array([4]),
        outputs=3,
    )


def test_names_and_folders(tmp_path):
    assert (fold_name(0), fold_name(None)) == ("fold0", "full")
    job = make(tmp_path, fold=None)
    assert job.title == "seed 3 fold full stage first" and job.init is None
    assert job.folder == tmp_path / "full" / "first" / "all"
    fine = make(tmp_path, stage=1, key="HUVEC")
    assert fine.title == "seed 3 fold 1 stage second HUVEC"
    assert fine.init == tmp_path / "fold1" / "first" / "all" / "last.pt"
    each = make(tmp_path, stage=1, key="HUVEC", per="cell_type")
    assert each.init == tmp_path / "fold1" / "first" / "HUVEC" / "last.pt"


def test_every_job_has_a_seed_of_its_own_that_stays(tmp_path):
    """Literals: trainings come out as before."""
    jobs = [(0, 0, "all"), (0, None, "all"), (1, 0, "all"), (1, 0, "HUVEC")]
    seeds = [make(tmp_path, stage, fold, key).seed for stage, fold, key in jobs]
    words = [[3, 0, 0, 97, 108, 108], [3, 0, 10_000, 97, 108, 108], [3, 1, 0, 97, 108, 108]]
    words.append([3, 1, 0, 72, 85, 86, 69, 67])
    assert seeds == [int(np.random.SeedSequence(word).generate_state(1)[0]) for word in words]
    assert len(set(seeds)) == 4


def test_what_a_stage_of_compounds_learns(tmp_path):
    job = make(tmp_path, target="compound")
    assert job.compounds == ("x", "y")
    assert job.encode_targets(np.array([0, 1, 3, 5])).tolist() == [1, 0, -1, -1]
    assert job.class_space.startswith("compound ") and len(job.scored) == 0
    labels = make(tmp_path)
    assert labels.class_space == "label" and labels.scored.tolist() == [3]
    assert len(make(tmp_path, self_supervised=object()).scored) == 0
    same = make(tmp_path, target="compound", samples=SAMPLES.assign(compound=list("yxxxxx")))
    assert same.class_space == job.class_space  # the training samples' alone
    other = make(tmp_path, target="compound", samples=SAMPLES.assign(compound=list("yxwxxx")))
    assert other.class_space != job.class_space


@pytest.mark.parametrize(
    ("every", "epochs", "validates"),
    [(2, 5, [False, True, False, True, True]), (1, 2, [True, True]), (7, 3, [False, False, True])],
)
def test_validation_comes_every_few_epochs_and_at_the_end(tmp_path, every, epochs, validates):
    job = make(tmp_path, validate_every=every, epochs=epochs)
    assert [job.validates_after(epoch) for epoch in range(epochs)] == validates


def test_groups_of_validation_and_test_are_held_out(tmp_path):
    assert make(tmp_path).held_out == ["a", "c"]
    assert make(tmp_path, fold=None).held_out == ["c"]
    allowed = np.array([True, True, True, True, True, False])
    competition = SimpleNamespace(pretraining=lambda samples: allowed)
    for fold, taken in ((1, [0, 1]), (None, [0, 1, 2, 3])):
        job = make(tmp_path, fold=fold, competition=competition)
        assert np.flatnonzero(without_labels(job)).tolist() == taken


def test_a_protocol_says_what_trains(tmp_path):
    parts = pd.Series(["train", "test", "train", "train", "train", "train"])
    protocol = SimpleNamespace(id="p", parts=("train", "test"), controls_are_classes=False)
    competition = SimpleNamespace(
        pretraining=lambda samples: np.ones(6, bool),
        protocol=lambda name: protocol,
        protocol_parts=lambda name, samples: parts,
    )
    job = make(tmp_path, protocol="p", competition=competition)
    assert np.flatnonzero(without_labels(job)).tolist() == [0]
    protocol.controls_are_classes = True
    with pytest.raises(InputError, match=r"data\.controls: the protocol 'p' scores control wells"):
        protocol_parts(job.config, competition, SAMPLES)
    job.config.data.controls = "train"
    assert protocol_parts(job.config, competition, SAMPLES).tolist() == parts.tolist()
    protocol.parts = ()
    assert protocol_parts(job.config, competition, SAMPLES) is None


def test_chosen_channels_and_sites(tmp_path):
    job = make(tmp_path, channels=(3, 1), sites=(2,))
    assert job.channels.tolist() == [2, 0] and make(tmp_path).channels.tolist() == [0, 1, 2]
    assert kept_samples(job.config, job.store).tolist() == [False, True] * 3
    assert kept_samples(make(tmp_path).config, job.store).all()


def test_what_is_left_out_is_not_kept_but_can_be_predicted(tmp_path):
    path = tmp_path / "exclude.csv"
    path.write_text("sample_id\ns1\ns4\n")
    samples = SAMPLES.assign(sample_id=[f"s{row}" for row in range(len(SAMPLES))])
    job = make(tmp_path, exclude=path, sites=(2,), samples=samples)
    assert left_out_samples(job.config, job.store).tolist() == [
        False,
        True,
        False,
        False,
        True,
        False,
    ]
    assert kept_samples(job.config, job.store).tolist() == [False] * 3 + [True, False, True]
    assert predictable_samples(job.config, job.store).tolist() == [False, True] * 3


@pytest.mark.parametrize(
    ("unit", "codes"),
    [
        ("none", None),
        ("mixed", None),
        ("cell_type", [2, 2, 0, 0, 1, 1]),
        ("experiment", [1, 1, 0, 0, 2, 2]),
        ("plate", [1, 2, 0, 0, 3, 4]),
    ],
)
def test_units_are_numbered_in_order_and_plates_within_their_experiment(unit, codes):
    made = unit_codes(SAMPLES, unit)
    assert (None if made is None else made.tolist()) == codes


def test_cell_types_are_one_hot_in_the_order_of_the_names(tmp_path):
    job = make(tmp_path)
    assert job.cell_types == ("HUVEC", "RPE", "U2OS")
    expected = torch.eye(3)[torch.tensor([2, 2, 0, 0, 1, 1])]
    assert torch.equal(cell_type_vectors(job), expected)
    assert cell_type_vectors(make(tmp_path, vector=False)) is None

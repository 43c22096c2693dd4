"""From predictions files to a submission: every step scored, ids in order, provenance beside it."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score

from cellsignal.competitions import get_competition
from cellsignal.competitions.base import answers_path
from cellsignal.config.schema import Submit
from cellsignal.errors import InputError
from cellsignal.prediction.container import save_predictions
from cellsignal.prediction.oof import out_of_fold, out_of_fold_text
from cellsignal.prediction.submit import ladder, make_submission, open_entry, truth_labels


@pytest.fixture(scope="module")
def plates(tmp_path_factory):
    """A simulated RxRx1 (its metadata is what counts here) and its true labels, test wells included."""
    root = tmp_path_factory.mktemp("submit") / "raw"
    competition = get_competition("rxrx1")
    competition.simulate(root, 5, classes=24, controls=1, size=16, train_experiments=2, test_experiments=2)
    answers = competition.answers(answers_path(root))
    return root, competition, answers, truth_labels(competition, answers, competition.classes(root))


def write(
    plates,
    path,
    seed,
    signal,
    run="r/seed0",
    stage=("all", 0),
    fold=0,
    views=("identity", "hflip"),
    oof=True,
    site_signal=None,
):
    """Predictions whose logits are `signal` for the true class plus normal noise, fresh for every site and view."""
    root, competition, _, truth = plates
    samples = competition.samples(root)
    samples = samples[samples.role == "treatment"]
    train = (samples.split == "train").to_numpy()
    experiments = sorted(samples.experiment[train].unique())
    mine = samples.experiment.isin(experiments[fold::2]).to_numpy() & train
    samples = samples[(mine if oof else np.zeros(len(mine), bool)) | ~train]
    label = samples.label.fillna(samples.target_id.map(truth)).to_numpy(dtype=int)
    rng = np.random.default_rng(seed)
    classes = competition.classes(root)
    logits = {v: rng.normal(size=(len(samples), len(classes))) + signal * np.eye(len(classes))[label] for v in views}
    about = {"competition": "rxrx1", "classes": list(classes), "run": run, "stage": stage[0], "stage_index": stage[1], "fold": fold, "seed": 0,
             "data_root": str(root), "fold_group": "experiment"}  # fmt: skip
    save_predictions(path, samples, np.where(samples.split == "train", "oof", "test"), logits, about)
    return path


@pytest.fixture(scope="module")
def entry(plates, tmp_path_factory):
    folder = tmp_path_factory.mktemp("predictions")
    files = [
        write(
            plates, folder / f"{s}{f}.npz", 10 * s + f, 1.2 + 0.2 * s, stage=(("all", 0), ("cell_type", 1))[s], fold=f
        )
        for s in (0, 1)
        for f in (0, 1)
    ]
    return open_entry(files, Submit())


def test_the_ladder_climbs_in_the_stated_order(plates, entry):
    root, competition, _, truth = plates
    groups = competition.plate_groups(competition.samples(root))
    oof, test = ladder(entry, "oof", groups), ladder(entry, "test", groups, truth)
    before, after = ["stage all, one site", "stage all", "stage cell_type", "+ TTA, 2 views"], ["+ plate groups", "+ plate assignment"]
    assert [s.name for s in oof] == before + after
    assert [s.name for s in test] == [*before, "+ ensemble of 2 models", *after]
    samples = competition.samples(root)
    wells = samples[(samples.role == "treatment") & (samples.split == "train")].target_id.nunique()
    assert {s.accuracy.total for s in oof} == {wells} and {s.accuracy.total for s in test} == {len(truth)}
    assert oof[-1].chance == pytest.approx(4 / 24) and oof[0].chance == pytest.approx(1 / 24)
    assert "plates right" in oof[-2].note
    assert oof[-1].accuracy.value > oof[-2].accuracy.value > oof[-3].accuracy.value > oof[0].accuracy.value


def test_a_rung_is_what_sklearn_makes_of_the_same_logits(plates, entry):
    truth = plates[3]
    step = ladder(entry, "test", None, truth)[1]
    member = entry.members[0]
    kept = member.ids["part"] == "test"
    frame = pd.DataFrame(member.logits("identity")[kept])
    frame = frame.sub(np.log(np.exp(frame).sum(axis=1)), axis=0).groupby(member.ids["target_id"][kept]).mean()
    assert step.accuracy.value == accuracy_score([truth[t] for t in frame.index], frame.to_numpy().argmax(1))


def test_the_submission_is_valid_scored_and_says_what_it_is_made_of(plates, entry, tmp_path):
    root, competition, answers, truth = plates
    steps = make_submission(entry, tmp_path / "s.csv")
    submission = pd.read_csv(tmp_path / "s.csv", dtype=str)
    competition.validate_submission(submission, competition.sample_submission(root), competition.classes(root))
    groups = competition.plate_groups(competition.samples(root))
    assert competition.score(submission, answers) == pytest.approx(
        ladder(entry, "test", groups, truth)[-1].accuracy.value
    )
    about = json.loads((tmp_path / "s.json").read_text())
    assert about["out_of_fold"][-1]["accuracy"] == steps[-1].accuracy.value and about["rows"] == len(submission)
    assert set(about["inputs"]) == {str(m.path) for m in entry.members} and all(
        len(i["sha256"]) == 64 for i in about["inputs"].values()
    )
    per_plate = submission.assign(plate=submission.id_code.str.rsplit("_", n=1).str[0]).groupby("plate").sirna
    assert (per_plate.nunique() == per_plate.size()).all()  # each class once on its plate


def test_without_assignment_it_is_the_argmax(plates, entry, tmp_path):
    plain = open_entry([m.path for m in entry.members], Submit(assignment="none"))
    make_submission(plain, tmp_path / "s.csv")
    targets = plain.merge(plain.final(), "test")
    found = pd.read_csv(tmp_path / "s.csv").set_index("id_code").sirna.loc[targets.target_id]
    assert (found.to_numpy() == targets.scores.argmax(1)).all()
    assert json.loads((tmp_path / "s.json").read_text())["plate_groups"] is None


def test_seeds_are_runs_that_are_merged_out_of_fold(plates, tmp_path):
    files = [
        write(plates, tmp_path / f"{s}{f}.npz", 7 * s + f, 1.0, run=f"r/seed{s}", fold=f, views=("identity",))
        for s in range(3)
        for f in (0, 1)
    ]
    entry = open_entry(files, Submit())
    root, competition, _, _ = plates
    groups = competition.samples(root).drop_duplicates("target_id").set_index("target_id").experiment
    rows = out_of_fold(entry, groups)
    assert [row.run for row in rows[::2]] == ["r/seed0", "r/seed1", "r/seed2", "all 3 merged"]
    merged, single = rows[6], rows[0:6:2]
    assert merged.accuracy.value > max(row.accuracy.value for row in single)
    assert all(row.cluster_low <= row.accuracy.value <= row.cluster_high for row in rows)
    text = out_of_fold_text(rows)
    assert f"{np.mean([row.accuracy.value for row in single]):.4f}" in text and "mean of 3 runs" in text


def test_a_model_without_validation_wells_takes_part_in_test_only(plates, tmp_path):
    files = [write(plates, tmp_path / f"{f}.npz", f, 1.0, fold=f) for f in (0, 1)] + [
        write(plates, tmp_path / "full.npz", 9, 1.0, fold=2, oof=False)
    ]
    entry = open_entry(files, Submit())
    assert "+ ensemble of 3 models" in [s.name for s in ladder(entry, "test", None, plates[3])]
    assert not any("ensemble" in s.name for s in ladder(entry, "oof", None))


def test_weights_by_run(plates, tmp_path):
    good, bad = (
        write(plates, tmp_path / f"{name}.npz", 1, signal, run=f"{name}/seed0")
        for name, signal in (("good", 9.0), ("bad", 0.0))
    )
    heavy = open_entry([good, bad], Submit(assignment="none"), {"bad/seed0": 50.0})
    light = open_entry([good, bad], Submit(assignment="none"), {"good/seed0": 50.0})
    scores = [ladder(e, "test", None, plates[3])[-1].accuracy.value for e in (heavy, light)]
    assert scores[0] < 0.9 < scores[1] == 1.0
    with pytest.raises(InputError, match="no predictions of a run called 'none'"):
        open_entry([good], Submit(), {"none": 1.0})


def test_what_is_refused(plates, tmp_path):
    with pytest.raises(InputError, match="no predictions files"):
        open_entry([], Submit())
    with pytest.raises(InputError, match=r"x\.npz: no such predictions file"):
        open_entry([tmp_path / "x.npz"], Submit())

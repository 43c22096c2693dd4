"""Predictions that do not belong together, or to the data, are refused; what is merged by hand."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from cellsignal.common.errors import InputError, InvalidSubmission
from cellsignal.config.schema import Submit
from cellsignal.prediction import entry as entry_module
from cellsignal.prediction.container import Predictions
from cellsignal.prediction.entry import (
    Entry,
    has_test,
    open_entry,
    refuse_doubles,
    refuse_missing_ids,
    refuse_other_classes,
    refuse_other_data,
    refuse_without_test,
    with_part,
)

SAMPLES = pd.DataFrame(
    {
        "sample_id": ["s0", "s1", "s2"],
        "target_id": ["t0", "t1", "t2"],
        "well_id": ["w0", "w1", "w2"],
        "experiment": "E",
        "plate": "1",
        "cell_type": "C",
        "label": pd.array([0, 1, pd.NA], dtype="Int64"),
    }
)


def member(name="p.npz", part="test", label=(0, 1, -1), samples=SAMPLES, **about) -> Predictions:
    columns = ("sample_id", "target_id", "well_id", "experiment", "plate", "cell_type")
    ids = {column: samples[column].to_numpy(object).astype(str) for column in columns}
    facts = {"classes": ["a", "b"], "run": "r/seed0", "stage": "all", "stage_index": 0, "fold": 0}
    return Predictions(
        path=Path(name),
        ids=ids | {"part": np.full(len(samples), part)},
        site=np.ones(len(samples), int),
        label=np.array(label),
        views=("identity",),
        about=facts | about,
    )


def test_the_last_stage_of_each_run_counts():
    members = (
        member("a0.npz", run="a/seed0", stage_index=0),
        member("a1.npz", run="a/seed0", stage_index=1),
        member("a2.npz", run="a/seed0", stage_index=1, part="oof"),
        member("b0.npz", run="b/seed0", stage_index=0),
    )
    entry = Entry(None, Path("root"), members, {}, Submit())
    assert entry.runs == ["a/seed0", "b/seed0"] and entry.classes == ("a", "b")
    assert [str(last.path) for last in entry.final()] == ["a1.npz", "a2.npz", "b0.npz"]
    assert [str(last.path) for last in entry.final("a/seed0")] == ["a1.npz", "a2.npz"]
    assert [str(last.path) for last in with_part(members, "oof")] == ["a2.npz"]
    assert has_test(members) and not has_test(members[2:3])


@pytest.mark.parametrize(
    ("classes", "refused"),
    [
        (["a", "b"], False),
        (["a", "b", "control_2"], False),
        (["a", "b", "c"], True),
        (["b", "a"], True),
        (["a"], True),
    ],
)
def test_only_classes_of_controls_may_follow_those_of_the_data(classes, refused):
    predictions = member(classes=classes)
    if not refused:
        refuse_other_classes(predictions, ("a", "b"), Path("root"))
        return
    with pytest.raises(InputError, match=r"p\.npz: predicts other classes than root has"):
        refuse_other_classes(predictions, ("a", "b"), Path("root"))


def test_files_of_two_competitions_or_none_are_refused(monkeypatch):
    def load(path):
        return member(str(path), competition=path.stem, run=path.stem)

    monkeypatch.setattr(entry_module, "load_predictions", load)
    with pytest.raises(InputError, match="of different competitions cannot be merged: a, b"):
        open_entry([Path("b.npz"), Path("a.npz")], Submit())
    with pytest.raises(InputError, match="no predictions files given"):
        open_entry([], Submit())


def test_one_model_is_not_counted_twice():
    refuse_doubles([member("a.npz", fold=0), member("b.npz", fold=1)])
    refuse_doubles([member("a.npz", stage_index=0), member("b.npz", stage_index=1)])
    with pytest.raises(InputError, match=r"a\.npz: is given twice"):
        refuse_doubles([member("a.npz"), member("a.npz")])
    with pytest.raises(InputError, match=r"b\.npz: .* as a\.npz \(r/seed0, stage 'all', fold 0\)"):
        refuse_doubles([member("a.npz"), member("b.npz")])
    full = [member(name, fold=None) for name in ("a.npz", "b.npz")]
    with pytest.raises(InputError, match="stage 'all', all folds"):
        refuse_doubles(full)
    for predictions in full:  # an earlier version noted no fold: nothing to tell copies by
        del predictions.about["fold"]
    refuse_doubles(full)


@pytest.mark.parametrize("label", [(0, 1, -1), (-1, -1, -1), (0, 1, 5)])
def test_a_label_that_either_side_does_not_know_is_no_difference(label):
    refuse_other_data(member(label=label), SAMPLES, Path("root"))


@pytest.mark.parametrize(
    ("label", "first", "number"),
    [((1, 1, -1), "s0", 1), ((0, 0, -1), "s1", 1), ((1, 0, 0), "s0", 2)],
)
def test_another_label_is_refused_class_0_among_them(label, first, number):
    message = rf"p\.npz: sample '{first}' has another label in root \({number} such samples\)"
    with pytest.raises(InputError, match=message):
        refuse_other_data(member(label=label), SAMPLES, Path("root"))


@pytest.mark.parametrize("column", ["target_id", "well_id", "experiment", "plate", "cell_type"])
def test_another_place_is_refused(column):
    changed = SAMPLES.assign(**{column: ["x", *SAMPLES[column][1:]]})
    with pytest.raises(InputError, match=f"'s0' has another {column} in root .1 such samples"):
        refuse_other_data(member(samples=changed), SAMPLES, Path("root"))


def test_a_sample_that_the_data_do_not_have_is_named():
    message = (
        r"predicts 1 samples that root has not, first 's0' of well 'w0': they were made on old"
    )
    with pytest.raises(InputError, match=message):
        refuse_other_data(member(data_root="old"), SAMPLES[1:], Path("root"))


def test_without_test_samples_the_verb_that_scores_is_named():
    parts = {"wilds": SimpleNamespace(parts=(("id_test", 1),)), "plain": SimpleNamespace(parts=())}
    competition = SimpleNamespace(protocol=parts.__getitem__)
    refuse_without_test([member(part="oof"), member()], competition)
    for facts, verb in (
        ({}, "`cellsignal score` prints"),
        ({"protocol": "plain"}, "`cellsignal score` prints"),
        ({"protocol": "wilds"}, "`cellsignal score --answers` scores them by 'wilds'"),
    ):
        members = [member(part="oof", **facts), member(part="oof")]
        with pytest.raises(InputError, match=verb):
            refuse_without_test(members, competition)


def test_missing_ids_are_counted():
    sample = pd.DataFrame({"id": ["t0", "t1", "t2"]})
    competition = SimpleNamespace(id_column="id", sample_submission=lambda root: sample)
    refuse_missing_ids(["t2", "t0", "t1"], competition, Path("root"))
    with pytest.raises(InvalidSubmission, match="2 ids missing, first 't0': 1 of 3 are predicted"):
        refuse_missing_ids(["t1"], competition, Path("root"))

"""Which labels the plate-layout steps give, and which settings would do nothing."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from cellsignal.common.errors import InputError
from cellsignal.competitions.base import PlateGroups
from cellsignal.competitions.targets import Targets
from cellsignal.config.schema import Submit
from cellsignal.prediction.plate_layout.apply import (
    assign_labels,
    predict_labels,
    refuse_idle_options,
    use_repeats,
)

SIZE = 40  # classes a plate; two plates, of classes 0 to 39 and 40 to 79
GROUPS = PlateGroups(np.repeat([0, 1], SIZE), {})
CLASSES = np.arange(2 * SIZE)


def rows(experiment: str, split: str, role: str = "treatment", label=CLASSES) -> pd.DataFrame:
    """The wells of an experiment that all have the same layout."""
    return pd.DataFrame(
        {
            "target_id": [f"{experiment}_{number:02d}" for number in CLASSES],
            "experiment": experiment,
            "plate": np.where(CLASSES < SIZE, "1", "2"),
            "well": [f"W{number % SIZE:02d}" for number in CLASSES],
            "split": split,
            "role": role,
            "label": pd.array(label, dtype="Int64"),
        }
    )


def entry_of(*samples: pd.DataFrame, **how) -> SimpleNamespace:
    return SimpleNamespace(samples=pd.concat(samples, ignore_index=True), how=Submit(**how))


def targets_of(signal: float = 2.5, seed: int = 0) -> Targets:
    """Predictions of experiment N, whose wells have the layout of `rows`."""
    table = rows("N", "test")
    scores = np.random.default_rng(seed).standard_normal((2 * SIZE, 2 * SIZE)).astype(np.float32)
    scores[CLASSES, CLASSES] += signal
    texts = [table[name].to_numpy() for name in ("target_id", "target_id", "experiment", "plate")]
    return Targets(*texts, np.full(2 * SIZE, "HUVEC"), np.full(2 * SIZE, -1), signal * scores)


def right(labels: np.ndarray) -> float:
    return float((labels == CLASSES).mean())


TEST = rows("N", "test", label=[None] * len(CLASSES))


def test_a_labelled_training_experiment_of_the_same_layout_is_used_as_configured():
    targets, train = targets_of(), rows("A", "train")
    for how in ("report", "use"):
        used, repeats = use_repeats(entry_of(TEST, train, repeats=how), targets, GROUPS)
        assert [(each.test, each.train, each.offset) for each in repeats] == [("N", "A", 0)]
        if how == "report":
            assert used is targets
        else:
            assert right(used.scores.argmax(1)) > right(targets.scores.argmax(1)) + 0.1


@pytest.mark.parametrize(
    "other",
    [
        rows("A", "test"),  # labels of the test are not looked at
        rows("A", "train", role="positive_control"),
        rows("A", "train", label=[None] * len(CLASSES)),
        rows("A", "train", label=CLASSES[::-1]),
    ],
)
def test_no_other_experiment_repeats(other):
    targets = targets_of()
    used, repeats = use_repeats(entry_of(TEST, other, repeats="use"), targets, GROUPS)
    assert used is targets and repeats == []


def test_repeats_can_be_off_and_need_groups():
    targets, train = targets_of(), rows("A", "train")
    off = use_repeats(entry_of(TEST, train, repeats="off"), targets, GROUPS)
    none = use_repeats(entry_of(TEST, train, repeats="use"), targets, None)
    assert off == (targets, []) and none == (targets, [])


def test_each_assignment_gives_its_labels():
    targets = targets_of(2.2)
    labels = {
        kind: predict_labels(entry_of(TEST, assignment=kind, least_confidence=0.0), targets, GROUPS)
        for kind in ("none", "groups", "hungarian", "sinkhorn")
    }
    assert labels["none"][1] is None
    assert np.array_equal(labels["none"][0], targets.scores.argmax(1))
    for kind in ("groups", "hungarian", "sinkhorn"):
        inferred = labels[kind][1]
        assert inferred.plate_group == {("N", "1"): 0, ("N", "2"): 1}
    own = np.where(GROUPS.class_group == GROUPS.class_group[:, None], targets.scores, -np.inf)
    assert np.array_equal(labels["groups"][0], own.argmax(1))
    assert sorted(labels["hungarian"][0]) == CLASSES.tolist()  # each class once
    scores = {kind: right(given) for kind, (given, _) in labels.items()}
    assert scores["none"] < scores["groups"] < min(scores["hungarian"], scores["sinkhorn"])
    plain, inferred = assign_labels(entry_of(TEST), targets, None)
    assert inferred is None and np.array_equal(plain, targets.scores.argmax(1))


def test_given_groups_are_used_as_given(tmp_path):
    file = tmp_path / "groups.csv"
    file.write_text("experiment,plate,group\nN,1,1\nN,2,0\n")  # the wrong way round
    labels, inferred = predict_labels(entry_of(TEST, groups=file), targets_of(9.0), GROUPS)
    assert inferred.plate_group == {("N", "1"): 1, ("N", "2"): 0}
    assert (GROUPS.class_group[labels] == np.repeat([1, 0], SIZE)).all()


@pytest.mark.parametrize(
    ("how", "groups", "words"),
    [
        ({"groups": "g.csv"}, None, "submit.groups: the plates of rxrx1 hold no class groups"),
        ({"repeats": "use"}, None, "submit.repeats: use: the plates of rxrx1 hold no class"),
        ({"groups": "g.csv", "assignment": "none"}, GROUPS, "submit.groups: would do nothing"),
        ({"temperature": 2.0}, GROUPS, "submit.temperature: would do nothing"),
        ({"temperature": 2.0, "assignment": "sinkhorn"}, None, "submit.temperature: would do"),
        ({}, None, None),
        ({"repeats": "use"}, GROUPS, None),
        ({"groups": "g.csv"}, GROUPS, None),
        ({"temperature": 2.0, "assignment": "sinkhorn"}, GROUPS, None),
    ],
)
def test_settings_that_would_do_nothing_are_refused(how, groups, words):
    competition = SimpleNamespace(id="rxrx1")
    if words is None:
        refuse_idle_options(Submit(**how), groups, competition)
    else:
        with pytest.raises(InputError) as caught:
            refuse_idle_options(Submit(**how), groups, competition)
        assert str(caught.value).startswith(words)

"""What a step of the ladder says beside its score; the scores themselves are in test_submit."""

from types import SimpleNamespace

import numpy as np
import pytest

from cellsignal.competitions.base import PlateGroups
from cellsignal.prediction.plate_layout.groups import PlateGroupInference
from cellsignal.prediction.steps import _chance, _group_note

# classes 0 to 3 are of group 0, 4 and 5 of group 1
GROUPS = PlateGroups(np.array([0, 0, 0, 0, 1, 1]), {("a", "1"): 0, ("a", "2"): 1})


def test_chance_is_one_class_of_the_plates_group_or_of_all():
    targets = SimpleNamespace(experiment=["a", "a", "a", "b"], plate=["1", "1", "2", "1"])
    inferred = PlateGroupInference({("a", "1"): 0, ("a", "2"): 1}, {})
    assert _chance(targets, inferred, GROUPS) == pytest.approx((1 / 4 + 1 / 4 + 1 / 2 + 1 / 6) / 4)


def test_the_note_says_how_groups_came_about_and_how_many_are_right():
    assert _group_note(PlateGroupInference({("b", "1"): 0}, {}), GROUPS) == "plate groups given"
    inferred = PlateGroupInference(
        {("a", "1"): 0, ("a", "2"): 0, ("b", "1"): 1},
        {"a": 3.14159, "b": 12.0, "c": 5.0},
        refused={"c": 5.0},
        layouts={"a": "4 rotations", "b": "24 orders", "c": "4 rotations"},
    )
    assert _group_note(inferred, GROUPS) == (
        "plate groups inferred among 24 orders, 4 rotations, lowest z 3.1, "
        "1 of 3 experiments not sure, 1/2 plates right"
    )

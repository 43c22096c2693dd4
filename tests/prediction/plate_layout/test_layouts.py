"""Candidate layouts are read from the known ones, and against all permutations counted by hand."""

import itertools

import numpy as np
import pytest

from cellsignal.competitions import get_competition
from cellsignal.prediction.plate_layout.layouts import (
    candidate_layouts,
    find_rotations,
    near_layouts,
    plate_order,
)


def known(layouts, names="1234"):
    """(experiment, plate) -> group of experiments with these layouts."""
    return {
        (f"E{number:02d}", name): group
        for number, layout in enumerate(layouts)
        for name, group in zip(names, layout, strict=False)
    }


def test_rotations_of_any_order_are_read():
    names, layouts = find_rotations(
        known([(2, 0, 3, 1), (1, 2, 0, 3), (0, 3, 1, 2), (2, 0, 3, 1)]), 4
    )
    assert names == ["1", "2", "3", "4"]
    assert layouts.tolist() == [[2, 0, 3, 1], [0, 3, 1, 2], [3, 1, 2, 0], [1, 2, 0, 3]]
    compared, words = candidate_layouts(list("1234"), 4, (names, layouts), {})
    assert compared.tolist() == layouts.tolist() and words == "4 rotations of one order"
    assert candidate_layouts(["2", "4"], 4, (names, layouts), {})[0].tolist() == [
        [0, 1],
        [3, 2],
        [1, 0],
        [2, 3],
    ]
    fixed = candidate_layouts(list("1234"), 4, (names, layouts), {"3": 0})[0]
    assert fixed.tolist() == [[1, 2, 0, 3]]


def test_other_names_of_as_many_plates_go_by_their_order():
    rotations = find_rotations(known([(0, 1, 2, 3)] * 4), 4)
    assert len(candidate_layouts(["A", "B", "C", "D"], 4, rotations, {})[0]) == 4
    assert len(candidate_layouts(["A", "B", "C"], 4, rotations, {})[0]) == 24


@pytest.mark.parametrize(
    "layouts",
    [
        [],
        [(0, 1, 2, 3)] * 3,  # three of one order: by chance in one of 36
        # one is not a rotation
        [(0, 1, 2, 3), (1, 0, 2, 3), (0, 1, 2, 3), (1, 2, 3, 0), (2, 3, 0, 1)],
        [(0, 1, 2)] * 6,  # incomplete
    ],
)
def test_without_a_rule_all_permutations_are_compared(layouts):
    assert find_rotations(known(layouts), 4) is None
    compared, words = candidate_layouts(list("1234"), 4, None, {})
    assert (
        sorted(map(tuple, compared.tolist())) == list(itertools.permutations(range(4)))
        and words == "24 permutations"
    )


def test_given_groups_that_no_rotation_has_leave_all_permutations():
    rotations = find_rotations(known([(0, 1, 2, 3)] * 4), 4)
    compared, words = candidate_layouts(list("1234"), 4, rotations, {"1": 1, "2": 0})
    assert sorted(compared.tolist()) == [[1, 0, 2, 3], [1, 0, 3, 2]] and words == "2 permutations"


def test_more_plates_than_groups_and_too_many_layouts():
    compared, _ = candidate_layouts(list("12345"), 2, None, {})
    expected = [deal for deal in itertools.product(range(2), repeat=5) if 2 <= sum(deal) <= 3]
    assert sorted(map(tuple, compared.tolist())) == expected
    assert candidate_layouts([str(n) for n in range(10)], 10, None, {})[0] is None
    evidence = 5.0 * np.eye(10)[::-1]
    near = near_layouts(evidence, {0: 3})
    assert (near[:, 0] == 3).all() and len(near) == 1 + 9 * 8 // 2
    total = evidence[np.arange(10), near].sum(axis=1)
    best = near[total.argmax()]
    assert best[0] == 3 and total.max() == 40 and (best[1:] == np.arange(10)[::-1][1:]).sum() == 8


def test_plates_are_in_order_of_their_numbers():
    assert plate_order(["10", "2", "b", "1", "a", "2"]) == ["1", "2", "10", "a", "b"]
    assert plate_order([10, 2, 1]) == [1, 2, 10]


@pytest.mark.slow
def test_the_real_layouts_are_rotations_of_one_order(real_data):
    competition = get_competition("rxrx1")
    held = competition.plate_groups(competition.samples(real_data / "rxrx1")).plate_group
    names, layouts = find_rotations(held, 4)
    assert names == ["1", "2", "3", "4"] and len(layouts) == 4
    experiments = sorted({experiment for experiment, _ in held})
    assert len(experiments) == 33
    for experiment in experiments:
        others = {key: group for key, group in held.items() if key[0] != experiment}
        compared, words = candidate_layouts(names, 4, find_rotations(others, 4), {})
        assert [held[experiment, name] for name in names] in compared.tolist()
        assert words == "4 rotations of one order"

"""Pseudo-labels against a slow reference of plain loops, the plates' design, and files that were
tampered with.
"""

import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellsignal.common.errors import InputError
from cellsignal.competitions.base import PlateGroups
from cellsignal.config.stage import PseudoLabels
from cellsignal.prediction.plate_layout.groups import infer_plate_groups
from cellsignal.training.pseudo_labels import (
    COLUMNS,
    check_clean,
    csv_path,
    read,
    select,
    share_at,
    write,
)

# share
# --------------------------------------------------------------------------------------------------


def test_the_share_is_the_first_places_line():
    """'x*0.6+0.4' from epoch 90 to epoch 129 (0-based) of 130."""
    config = PseudoLabels(start=90, first=0.4)
    assert [share_at(config, epoch, 130) for epoch in (90, 103, 116, 129)] == pytest.approx(
        [0.4, 0.6, 0.8, 1.0]
    )


@pytest.mark.parametrize(("first", "expected"), [(0.0, [0, 0.5, 1]), (1.0, [1, 1, 1])])
def test_the_share_starts_at_first_and_ends_at_one(first, expected):
    assert [
        share_at(PseudoLabels(start=2, first=first), epoch, 5) for epoch in (2, 3, 4)
    ] == expected


def test_a_single_epoch_of_pseudo_labels_takes_all():
    assert share_at(PseudoLabels(start=4, first=0.4), 4, 5) == 1.0


# selection
# --------------------------------------------------------------------------------------------------


def slow(scores, names, groups, share, least):
    """The recipe in plain Python: a list of (target_id, experiment, plate, label, confidence)."""
    inferred = None
    if groups is not None:
        inferred = infer_plate_groups(scores, [n[1] for n in names], [n[2] for n in names], groups)
    wells = []
    for row, (target, experiment, plate) in zip(scores.tolist(), names, strict=True):
        if inferred is not None and inferred.confidence[experiment] < least:
            continue
        left = []
        for number, score in enumerate(row):
            if (
                inferred is None
                or groups.class_group[number] == inferred.plate_group[experiment, plate]
            ):
                left.append((-score, number))
        if left:
            left.sort()
            lead = left[1][0] - left[0][0] if len(left) > 1 else math.inf
            wells.append((-lead, target, experiment, plate, left[0][1]))
    wells.sort()
    kept, claimed = [], set()
    for lead, target, experiment, plate, label in wells[: round(share * len(wells))]:
        if (experiment, plate, label) not in claimed:
            claimed.add((experiment, plate, label))
            kept.append((target, experiment, plate, label, -lead))
    return sorted(kept)


@st.composite
def problems(draw):
    """Plates with any number of wells; scores from a few values (many ties) or any."""
    n_groups = draw(st.integers(1, 3))
    n_classes = draw(st.integers(n_groups, 7))
    rest = n_classes - n_groups
    class_group = np.array(
        [
            *range(n_groups),
            *draw(st.lists(st.integers(0, n_groups - 1), min_size=rest, max_size=rest)),
        ]
    )
    names = []
    for experiment in range(draw(st.integers(1, 3))):
        for plate in range(draw(st.integers(1, 3))):
            names += [(f"E{experiment}", f"{plate + 1}")] * draw(st.integers(1, 5))
    order = draw(st.permutations(range(len(names))))
    names = [(f"w{at:02d}", *name) for at, name in zip(order, names, strict=True)]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = len(names), n_classes
    scores = (
        rng.integers(0, 4, shape).astype(float) if draw(st.booleans()) else rng.normal(0, 3, shape)
    )
    groups = PlateGroups(class_group, {}) if draw(st.booleans()) else None
    return (
        scores,
        names,
        groups,
        draw(st.floats(0, 1)),
        draw(st.sampled_from([0.0, 0.02, 0.3, 1.0])),
    )


@settings(max_examples=150, deadline=None)
@given(problems())
def test_selection_is_the_recipe_in_plain_loops(problem):
    scores, names, groups, share, least = problem
    found = select(scores, *zip(*names, strict=True), groups, share, least)
    expected = slow(*problem)
    assert found.drop(columns="confidence").values.tolist() == [list(row[:4]) for row in expected]
    assert found.confidence.tolist() == [row[4] for row in expected]
    about = found.attrs
    assert about["taken"] == round(share * about["eligible"]) == len(found) + about["clashes"]
    assert json.loads(json.dumps(about, allow_nan=False)) == about


@settings(max_examples=25, deadline=None)
@given(problems(), st.randoms(use_true_random=False))
def test_the_order_of_the_wells_does_not_matter(problem, random):
    scores, names, groups, share, least = problem
    order = random.sample(range(len(names)), len(names))
    found = select(scores, *zip(*names, strict=True), groups, share, least)
    mixed = select(
        scores[order], *zip(*[names[i] for i in order], strict=True), groups, share, least
    )
    pd.testing.assert_frame_equal(found, mixed)


def test_wells_of_equal_norm_in_any_order_show_the_same_layout_to_the_bit():
    """Whole scores: many wells of a plate are as far from their mean as others, and groups may fit
    equally well.
    """
    groups = PlateGroups(np.array([0, 0, 1, 1]), {})
    for seed in range(200):
        rng = np.random.default_rng(seed)
        scores = rng.integers(0, 3, (10, 4)).astype(float)
        plate, order = np.repeat(["1", "2"], 5), rng.permutation(10)
        inferred = infer_plate_groups(scores, ["A"] * 10, plate, groups)
        mixed = infer_plate_groups(scores[order], ["A"] * 10, plate[order], groups)
        assert (inferred.plate_group, inferred.confidence) == (
            mixed.plate_group,
            mixed.confidence,
        ), seed


def plates(seed, signal, n_groups=4, per_group=6, experiments=("A", "B")):
    """The design of RxRx1 in small: (scores, target_id, experiment, plate, truth, groups); group g
    stands on plate g + 1, shifted in B.
    """
    rng, rows = np.random.default_rng(seed), []
    class_group = np.repeat(np.arange(n_groups), per_group)
    for shift, experiment in enumerate(experiments):
        for plate in range(n_groups):
            for label in np.flatnonzero(class_group == (plate + shift) % n_groups):
                rows.append(
                    (f"{experiment}_{plate + 1}_{label:02d}", experiment, str(plate + 1), label)
                )
    target, experiment, plate, truth = (np.array(column) for column in zip(*rows, strict=True))
    scores = rng.normal(size=(len(rows), len(class_group)))
    scores[np.arange(len(rows)), truth] += signal
    return scores, target, experiment, plate, truth, PlateGroups(class_group, {})


def test_the_design_makes_weak_predictions_right():
    """What each step is for: masked labels are righter than plain ones, and the confident share is
    righter still.
    """
    found = {}
    for seed in range(5):
        scores, target, experiment, plate, truth, groups = plates(seed, signal=2.5)
        right = dict(zip(target, truth, strict=True))
        for name, (masks, share) in {
            "plain": (None, 1),
            "all": (groups, 1),
            "half": (groups, 0.5),
        }.items():
            chosen = select(scores, target, experiment, plate, masks, share, 0.0)
            found.setdefault(name, []).append(np.mean(chosen.label == chosen.target_id.map(right)))
    assert np.mean(found["plain"]) + 0.1 < np.mean(found["all"]) < np.mean(found["half"])


def test_an_experiment_without_clear_groups_gives_nothing():
    scores, target, experiment, plate, _, groups = plates(0, signal=6.0)
    scores[experiment == "B"] = 0.0
    found = select(scores, target, experiment, plate, groups, 1.0, 0.02)
    assert set(found.experiment) == {"A"} and found.attrs["refused"] == ["B"]
    assert found.attrs["eligible"] == (experiment == "A").sum() and found.attrs["wells"] == len(
        target
    )


def test_the_share_is_taken_before_clashes_are_settled():
    """Four wells claim class 0 or 1; half of four are w1 and w2, which both claim class 0: one well
    is left, and w3 does not move up.
    """
    scores = np.array([[5.0, 0.0], [4.0, 0.0], [0.0, 3.0], [0.0, 2.0]])
    found = select(scores, ["w1", "w2", "w3", "w4"], ["A"] * 4, ["1"] * 4, None, 0.5, 0.0)
    assert (
        found[list(COLUMNS)].values.tolist() == [["w1", "A", "1", 0, 5.0]]
        and found.attrs["clashes"] == 1
    )


def test_ties_go_to_the_first_target_id_and_the_first_class():
    scores = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
    found = select(scores, ["b", "a"], ["A", "A"], ["1", "1"], None, 1.0, 0.0)
    assert found[["target_id", "label"]].values.tolist() == [["a", 0]]


def test_no_share_no_wells():
    scores, target, experiment, plate, _, groups = plates(0, signal=6.0)
    found = select(scores, target, experiment, plate, groups, 0.0, 0.0)
    assert found.empty and list(found.columns) == list(COLUMNS)


def test_no_test_wells_no_pseudo_labels():
    groups = PlateGroups(np.array([0, 0, 1]), {})
    found = select(np.zeros((0, 3)), [], [], [], groups, 1.0, 0.02)
    assert found.empty and list(found.columns) == list(COLUMNS) and found.attrs["wells"] == 0


@pytest.mark.parametrize(
    ("scores", "target", "message"),
    [
        (np.zeros((2, 3)), ["w1", "w1"], "target_id 'w1' has more than one row"),
        (np.zeros((3, 3)), ["w1", "w2"], r"scores are \(3, 3\), with 2, 2, 2"),
        (np.zeros(2), ["w1", "w2"], r"scores are \(2,\)"),
        (np.array([[0.0, 1.0], [np.nan, 1.0]]), ["w1", "w2"], "scores of 'w2' are not all finite"),
    ],
)
def test_what_does_not_fit_is_refused(scores, target, message):
    with pytest.raises(InputError, match=message):
        select(scores, target, ["A", "A"], ["1", "1"], None, 1.0, 0.0)


# the file
# --------------------------------------------------------------------------------------------------


@pytest.fixture
def written(tmp_path):
    scores, target, experiment, plate, _, groups = plates(3, signal=4.0)
    frame = select(scores, target, experiment, plate, groups, 0.7, 0.0)
    frame.loc[0, "confidence"] = math.inf  # as where a plate leaves one class
    path = write(tmp_path, 7, frame, {"competition": "rxrx1", "fold": 0, "weights": "abc"})
    assert path == csv_path(tmp_path, 7) and path.name == "epoch_007.csv"
    return tmp_path, frame, path


def test_a_file_is_read_to_the_bit(written):
    folder, frame, path = written
    found = read(folder, 7)
    assert math.inf in frame.confidence.tolist()
    pd.testing.assert_frame_equal(found, frame, check_exact=True)
    expected = {
        "competition": "rxrx1",
        "fold": 0,
        "weights": "abc",
        "epoch": 7,
        "number": len(frame),
        **frame.attrs,
    }
    assert expected.items() <= found.attrs.items()
    assert sorted(file.name for file in path.parent.iterdir()) == [
        "epoch_007.csv",
        "epoch_007.json",
    ]


def test_an_empty_choice_is_a_file_too(tmp_path):
    scores, target, experiment, plate, _, groups = plates(0, signal=0.0)
    frame = select(scores, target, experiment, plate, groups, 1.0, 1e9)
    write(tmp_path, 0, frame, {})
    found = read(tmp_path, 0)
    assert found.empty and found.attrs["refused"] == ["A", "B"]
    pd.testing.assert_frame_equal(found, frame)


def test_names_that_look_like_numbers_or_nothing_stay_text(tmp_path):
    frame = select(np.eye(3), ["007", "NA", "1e3"], ["NA"] * 3, ["01", "01", "01"], None, 1.0, 0.0)
    write(tmp_path, 0, frame, {})
    assert read(tmp_path, 0)[["target_id", "experiment", "plate"]].values.tolist() == [
        ["007", "NA", "01"],
        ["1e3", "NA", "01"],
        ["NA", "NA", "01"],
    ]


def test_a_half_written_pair_is_noticed(written):
    """A stop between the two writes: a new CSV beside the old .json."""
    folder, frame, path = written
    frame.head(3).to_csv(path, index=False)
    with pytest.raises(
        InputError, match=r"epoch_007.csv: is not the file that epoch_007.json tells of"
    ):
        read(folder, 7)


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_a_missing_half_is_named(written, suffix):
    folder, _, path = written
    path.with_suffix(suffix).unlink()
    with pytest.raises(InputError, match=rf"epoch_007\{suffix}: no such file"):
        read(folder, 7)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"csv_sha256": null}'])
def test_a_damaged_json_is_named(written, content):
    folder, _, path = written
    path.with_suffix(".json").write_text(content)
    with pytest.raises(InputError, match="epoch_007"):
        read(folder, 7)


HEADER = ",".join(COLUMNS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("target_id,label\na,1\n", "its columns are target_id, label"),
        (f"{HEADER}\na,A,1,-1,0.5\n", "row 2: label '-1' is not a number"),
        (f"{HEADER}\na,A,1,2,0.5\nb,A,1,1.5,0.5\n", "row 3: label '1.5'"),
        (f"{HEADER}\na,A,1,2,nan\n", "row 2: confidence 'nan'"),
        (f"{HEADER}\na,A,1,2,0.5\na,A,1,3,0.5\n", "row 3: target_id 'a' occurs twice"),
        (
            f"{HEADER}\na,A,1,2,0.5\nb,A,1,2,0.5\n",
            "row 3: experiment, plate, label 'A 1 2' occurs twice",
        ),
    ],
)
def test_bad_rows_are_named(written, text, message):
    """Even where someone made the .json agree."""
    from cellsignal.common.files import sha256, write_json

    folder, _, path = written
    path.write_text(text)
    write_json(path.with_suffix(".json"), {"csv_sha256": sha256(path)})
    with pytest.raises(InputError, match=f"epoch_007.csv: .*{message}"):
        read(folder, 7)


def test_only_test_treatments_are_clean(written):
    frame = written[1]
    check_clean(frame, set(frame.target_id) | {"other"})
    check_clean(frame.iloc[:0], set())
    with pytest.raises(
        InputError, match=f"2 wells are not test treatments, first '{frame.target_id[1]}'"
    ):
        check_clean(frame, set(frame.target_id) - {frame.target_id[1], frame.target_id[4]})

import itertools
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from cellsignal.common.errors import InputError
from cellsignal.prediction.plate_layout.assignment import assign, restrict, soften
from cellsignal.prediction.plate_layout.groups import (
    GroupBelief,
    infer_plate_groups,
    plates_of,
    read_plate_groups,
)


def plates(seed, n_experiments=2, n_groups=4, size=6, signal=4.0, shape=None):
    """Simulated logits of whole plates: scores, experiment, plate, groups, true labels, true plate
    groups.
    """
    rng = np.random.default_rng(seed)
    class_group = rng.permutation(np.repeat(np.arange(n_groups), size))
    experiment, plate, label, truth = [], [], [], {}
    for e in range(n_experiments):
        for p, group in enumerate(rng.permutation(n_groups)[: shape or n_groups]):
            classes = rng.permutation(np.flatnonzero(class_group == group))
            experiment += [f"E{e}"] * size
            plate += [str(p + 1)] * size
            label += classes.tolist()
            truth[f"E{e}", str(p + 1)] = int(group)
    scores = rng.normal(size=(len(label), len(class_group))).astype(np.float32)
    scores[np.arange(len(label)), label] += signal
    groups = SimpleNamespace(class_group=class_group, n_groups=n_groups, plate_group={})
    return scores, np.array(experiment), np.array(plate), groups, np.array(label), truth


def test_groups_are_found_and_assignment_beats_argmax():
    scores, experiment, plate, groups, label, truth = plates(
        0, n_experiments=3, size=30, signal=3.0
    )
    inferred = infer_plate_groups(scores, experiment, plate, groups)
    assert inferred.plate_group == truth
    assert set(inferred.confidence) == {"E0", "E1", "E2"} and min(inferred.confidence.values()) > 3
    steps = [
        scores.argmax(1),
        restrict(scores, experiment, plate, groups.class_group, truth),
        assign(scores, experiment, plate, groups.class_group, truth),
    ]
    right = [(step == label).mean() for step in steps]
    assert right[0] < right[1] < right[2]


def test_the_layout_of_the_matrix_does_not_matter(tmp_path):
    scores, experiment, plate, groups, _, truth = plates(11, 2, signal=2.0)
    wide = np.repeat(scores, 2, axis=1)
    np.save(tmp_path / "a.npy", scores)
    fixed = scores.copy()
    fixed.flags.writeable = False
    before = scores.copy()
    expected = infer_plate_groups(scores, experiment, plate, groups)
    labels = assign(scores, experiment, plate, groups.class_group, truth)
    assert np.array_equal(scores, before)
    swapped = scores.astype(scores.dtype.newbyteorder())
    for same in (
        np.asfortranarray(scores),
        wide[:, ::2],
        scores[::-1][::-1],
        fixed,
        swapped,
        np.load(tmp_path / "a.npy", mmap_mode="r"),
    ):
        found = infer_plate_groups(same, experiment, plate, groups)
        assert found.plate_group == expected.plate_group
        assert found.confidence == pytest.approx(expected.confidence, rel=1e-3)
        assert (assign(same, experiment, plate, groups.class_group, truth) == labels).all()


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["1", "2", "10"])), max_size=12))
def test_rows_of_plates_in_any_order(names):
    experiment, plate = (np.array([name[i] for name in names], dtype=str) for i in (0, 1))
    found = {name: rows.tolist() for name, rows in plates_of(experiment, plate)}
    assert list(found.items()) == [
        (name, [i for i, other in enumerate(names) if other == name]) for name in sorted(set(names))
    ]


@settings(deadline=None, max_examples=30)
@given(
    st.integers(0, 10_000), st.integers(1, 40), st.integers(0, 3), st.sampled_from([0.0, 1.0, 1e4])
)
def test_assignment_has_the_best_sum(seed, wells, spare, bias):
    """Full plates and plates with wells to spare; classes and wells with constants of their own."""
    rng = np.random.default_rng(seed)
    scores = (
        rng.normal(size=(wells, wells + spare))
        + bias * rng.normal(size=wells + spare)
        + bias * rng.normal(size=(wells, 1))
    )
    labels = assign(
        scores, ["E"] * wells, ["1"] * wells, np.zeros(wells + spare, int), {("E", "1"): 0}
    )
    at = linear_sum_assignment(scores, maximize=True)
    assert len(set(labels)) == wells
    assert scores[range(wells), labels].sum() == pytest.approx(scores[at].sum(), rel=1e-9, abs=1e-9)


def test_permutation_corrects_a_plate_that_looks_like_another():
    """Three clear plates leave the fourth its group, though its own wells say otherwise."""
    scores, experiment, plate, groups, _, truth = plates(1, 1, size=10, signal=6.0)
    spoiled, taken = plate == "4", truth["E0", "1"]
    scores[spoiled] = np.random.default_rng(0).normal(size=scores[spoiled].shape)
    scores[np.flatnonzero(spoiled), np.flatnonzero(groups.class_group == taken)] += 3.0
    alone = infer_plate_groups(scores[spoiled], experiment[spoiled], plate[spoiled], groups)
    assert alone.plate_group["E0", "4"] == taken
    assert infer_plate_groups(scores, experiment, plate, groups).plate_group == truth


def test_a_few_overconfident_wells_cannot_outvote_a_plate():
    scores, experiment, plate, groups, label, truth = plates(2, 1, size=20, signal=8.0)
    foreign = {g: np.flatnonzero(groups.class_group == g)[0] for g in range(4)}
    for at in range(0, len(scores), 7):
        scores[at, foreign[(groups.class_group[label[at]] + 1) % 4]] += 10_000
    assert infer_plate_groups(scores, experiment, plate, groups).plate_group == truth


def test_a_bias_for_one_group_cancels():
    scores, experiment, plate, groups, _, truth = plates(3, 2, size=25, signal=5.0)
    scores[:, groups.class_group == 2] += 1.0
    assert infer_plate_groups(scores, experiment, plate, groups).plate_group == truth


def test_what_a_plate_does_to_a_group_cancels():
    """Each plate favours another group and other classes, by more than the signal; the plain argmax
    follows, the inference does not.
    """
    scores, experiment, plate, groups, label, truth = plates(8, 3, size=40, signal=4.0)
    rng = np.random.default_rng(0)
    for (e, p), group in truth.items():
        at = (experiment == e) & (plate == p)
        scores[np.ix_(at, groups.class_group == (group + 1) % 4)] += 4.0
        scores[at] += rng.normal(size=len(groups.class_group))
    assert (scores.argmax(1) == label).mean() < 0.2
    assert infer_plate_groups(scores, experiment, plate, groups).plate_group == truth


def test_below_the_least_confidence_no_group_is_reported_but_beliefs_remain():
    scores, experiment, plate, groups, _, truth = plates(9, 2, size=10, signal=6.0)
    scores[experiment == "E1"] = np.random.default_rng(0).normal(size=(40, 40))
    free = infer_plate_groups(scores, experiment, plate, groups)
    assert free.refused == {} and free.confidence["E1"] < 2 < 5 < free.confidence["E0"]
    kept = infer_plate_groups(scores, experiment, plate, groups, least_confidence=3.0)
    assert kept.confidence == free.confidence and kept.refused == {"E1": free.confidence["E1"]}
    assert kept.plate_group == {key: group for key, group in truth.items() if key[0] == "E0"}
    assert set(kept.beliefs) == set(truth)
    labels = [
        assign(scores, experiment, plate, groups.class_group, result.beliefs)
        for result in (free, kept)
    ]
    assert (labels[0] == labels[1]).all()


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.integers(0, 4), st.floats(0, 2))
def test_given_groups_are_kept_and_the_others_share_the_rest(seed, number, signal):
    scores, experiment, plate, groups, _, _ = plates(seed, 1, size=6, signal=signal)
    dealt = np.random.default_rng(seed).permutation(4).tolist()
    given = {("E0", str(place + 1)): group for place, group in enumerate(dealt[:number])}
    result = infer_plate_groups(scores, experiment, plate, groups, given=given)
    assert given.items() <= result.plate_group.items() and sorted(result.plate_group.values()) == [
        0,
        1,
        2,
        3,
    ]
    assert given.items() <= result.beliefs.items() and set(result.beliefs) == set(
        result.plate_group
    )
    assert (result.confidence == {}) == (number == 4)
    for belief in result.beliefs.values():
        if isinstance(belief, GroupBelief):
            assert (belief.probability[list(given.values())] == 0).all()
            assert belief.probability.sum() == pytest.approx(1)


def test_given_plates_outlive_a_refusal():
    scores, experiment, plate, groups, _, _ = plates(0, 1, signal=0.0)
    result = infer_plate_groups(
        scores, experiment, plate, groups, given={("E0", "2"): 3}, least_confidence=50.0
    )
    assert result.plate_group == {("E0", "2"): 3} and set(result.refused) == {"E0"}


KNOWN = SimpleNamespace(n_groups=4, plate_group={("A", "1"): 2})
PLATES = {(e, p) for e in "AB" for p in "1234"}


def test_groups_given_in_a_file(tmp_path):
    (tmp_path / "g.csv").write_text("note,experiment,plate,group\nx,B,2,0\n,B,1,3\n,A,1,2\n")
    assert read_plate_groups(tmp_path / "g.csv", PLATES, KNOWN) == {
        ("B", "2"): 0,
        ("B", "1"): 3,
        ("A", "1"): 2,
    }


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("C,1,0", "row 2: C plate 1 is not in the data"),
        ("B,1,0\nB,5,1", "row 3: B plate 5 is not in the data"),
        ("B,1,4", "row 2: B plate 1: group '4' is not one of 0..3"),
        ("B,1,-1", "row 2: B plate 1: group '-1' is not one of 0..3"),
        ("B,1,", "row 2: B plate 1: group '' is not one of 0..3"),
        ("B,1,0\nB,1,0", "row 3: B plate 1 stands there twice"),
        ("B,1,0\nA,2,0\nB,3,0", "row 4: B plate 3 and plate 1 are both given group 0"),
        ("A,1,0", "row 2: A plate 1 holds group 2 by its training labels, not 0"),
    ],
)
def test_a_file_of_groups_that_cannot_be_is_refused(tmp_path, rows, message):
    path = tmp_path / "g.csv"
    path.write_text(f"experiment,plate,group\n{rows}\n")
    with pytest.raises(InputError) as error:
        read_plate_groups(path, PLATES, KNOWN)
    assert str(error.value) == f"{path}: {message}"


def test_what_is_no_file_of_groups(tmp_path):
    with pytest.raises(InputError, match=r"none\.csv: no such file"):
        read_plate_groups(tmp_path / "none.csv", PLATES, KNOWN)
    (tmp_path / "g.csv").write_text("experiment,group\nA,1\n")
    with pytest.raises(InputError, match=r"g\.csv: no column 'plate'; it has"):
        read_plate_groups(tmp_path / "g.csv", PLATES, KNOWN)
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(InputError, match=r"empty\.csv: "):
        read_plate_groups(tmp_path / "empty.csv", PLATES, KNOWN)


def test_labels_known_beforehand_do_not_leak_in():
    scores, experiment, plate, groups, _, truth = plates(4)
    groups.plate_group.update({key: (group + 1) % 4 for key, group in truth.items()})
    assert infer_plate_groups(scores, experiment, plate, groups).plate_group == truth


def test_more_plates_than_groups_share_evenly():
    scores, experiment, plate, groups, _, truth = plates(5, 2, size=8, signal=9.0)
    # one experiment of eight plates
    joined = np.array([f"{e}-{p}" for e, p in zip(experiment, plate, strict=True)])
    inferred = infer_plate_groups(scores, np.full(len(plate), "E"), joined, groups)
    assert inferred.plate_group == {("E", f"{e}-{p}"): group for (e, p), group in truth.items()}
    assert 0 < inferred.confidence["E"] < np.inf


def test_one_group_leaves_no_alternative():
    groups = SimpleNamespace(class_group=np.zeros(3, int), n_groups=1, plate_group={})
    inferred = infer_plate_groups(np.eye(3), ["E"] * 3, ["1"] * 3, groups)
    assert inferred.plate_group == {("E", "1"): 0} and inferred.confidence == {"E": np.inf}


def test_a_tie_has_no_confidence():
    groups = SimpleNamespace(class_group=np.array([0, 0, 1, 1]), n_groups=2, plate_group={})
    inferred = infer_plate_groups(np.zeros((4, 4)), ["E"] * 4, ["1", "1", "2", "2"], groups)
    assert inferred.confidence["E"] == 0 and set(inferred.plate_group.values()) == {0, 1}


def test_assignment_by_hand():
    # the greedy choice gives class 0 to both wells; well 1 loses less by its second choice
    scores = np.array([[5.0, 1.0, 9.0], [4.0, 3.5, 9.0]])
    class_group, plate_group = np.array([0, 0, 1]), {("E", "1"): 0}
    assert restrict(scores, ["E", "E"], [1, 1], class_group, plate_group).tolist() == [0, 0]
    assert assign(scores, ["E", "E"], [1, 1], class_group, plate_group).tolist() == [0, 1]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 5))
def test_assignment_is_the_best_of_all_matchings(seed, wells):
    rng = np.random.default_rng(seed)
    class_group = rng.permutation(np.repeat([0, 1], 5))
    scores = rng.normal(size=(wells, 10)).astype(np.float32)
    labels = assign(scores, ["E"] * wells, ["1"] * wells, class_group, {("E", "1"): 1})
    classes = np.flatnonzero(class_group == 1)
    best = max(
        scores[range(wells), list(order)].sum() for order in itertools.permutations(classes, wells)
    )
    assert scores[range(wells), labels].sum() == pytest.approx(best, abs=1e-5)
    assert len(set(labels)) == wells and set(labels) <= set(classes)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000))
def test_rows_may_come_in_any_order_and_carry_any_offset(seed):
    scores, experiment, plate, groups, _, truth = plates(seed, signal=1.0)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(scores))
    moved = scores[order].astype(np.float64) + rng.normal(size=(len(order), 1)) * 5
    labels = assign(scores, experiment, plate, groups.class_group, truth)
    assert (
        assign(moved, experiment[order], plate[order], groups.class_group, truth) == labels[order]
    ).all()
    inferred = infer_plate_groups(moved, experiment[order], plate[order], groups)
    assert inferred.plate_group == infer_plate_groups(scores, experiment, plate, groups).plate_group


def test_a_plate_without_group_keeps_the_argmax():
    scores, experiment, plate, groups, _, truth = plates(6, 1, signal=1.0)
    del truth["E0", "2"]
    free = plate == "2"
    for step in (assign, restrict):
        labels = step(scores, experiment, plate, groups.class_group, truth)
        assert (labels[free] == scores[free].argmax(1)).all()


def test_a_mixture_by_hand():
    """Group 0 = classes 0, 1; group 1 = classes 2, 3; two wells; log-odds of classes are the logs
    of small numbers.
    """
    class_group = np.array([0, 0, 1, 1])
    scores = 2 * np.log([[3.0, 1.0, 1.0, 1.0], [9.0, 1.0, 1.0, 4.0]])
    belief = {("E", "1"): GroupBelief(np.array([0.4, 0.6]), 2.0)}
    # by well: .4 x (.75, .25), .6 x (.5, .5); .4 x (.9, .1), .6 x (.2, .8)
    assert restrict(scores, ["E", "E"], [1, 1], class_group, belief).tolist() == [0, 3]
    assert assign(scores, ["E", "E"], [1, 1], class_group, belief).tolist() == [0, 3]
    favoured = {("E", "1"): GroupBelief(np.array([0.9, 0.1]), 2.0)}
    assert restrict(scores, ["E", "E"], [1, 1], class_group, favoured).tolist() == [0, 0]
    # class 0 once: .9 x .75 x .9 x .1 = .061, .9 x .25 x .9 x .9 = .182, .1 x .5 x .9 x .9 = .0405
    assert assign(scores, ["E", "E"], [1, 1], class_group, favoured).tolist() == [1, 0]
    flat = soften(np.zeros((2, 4)), ["E", "E"], [1, 1], class_group, belief)
    assert np.exp(flat) == pytest.approx(np.tile([0.2, 0.2, 0.3, 0.3], (2, 1)))


def test_a_belief_in_one_group_is_that_group():
    scores, experiment, plate, groups, _, truth = plates(12, 1, signal=1.0)
    certain = {key: GroupBelief(np.eye(4)[group], 3.0) for key, group in truth.items()}
    for step in (assign, restrict, soften):
        results = [
            step(scores, experiment, plate, groups.class_group, layout)
            for layout in (truth, certain)
        ]
        np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("step", [assign, restrict, soften])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["group", "belief", "none"])
def test_scores_that_are_not_finite_are_refused_everywhere(step, value, kind):
    scores, experiment, plate, groups, _, truth = plates(13, 1)
    layout = {
        "group": truth,
        "belief": {key: GroupBelief(np.full(4, 0.25), 1.0) for key in truth},
        "none": {},
    }[kind]
    row = int(np.flatnonzero(plate == "2")[1])
    scores[row, 3] = value
    message = f"E0 plate 2: the scores of row {row} are not all finite"
    with pytest.raises(InputError, match=message):
        step(scores, experiment, plate, groups.class_group, layout)
    for known in ({}, truth):
        with pytest.raises(InputError, match=message):
            infer_plate_groups(scores, experiment, plate, groups, given=known)


def test_errors_name_the_plate():
    scores, experiment, plate, groups, _, truth = plates(7, 1)
    with pytest.raises(InputError, match=r"E0 plate 1: 24 wells but only 6 classes in its group"):
        assign(scores, experiment, np.full(len(plate), "1"), groups.class_group, truth)
    with pytest.raises(InputError, match=r"E0 plate 1: no class is in its group 9"):
        restrict(scores, experiment, plate, groups.class_group, {("E0", "1"): 9})
    with pytest.raises(InputError, match=r"scores are \(24, 23\), not \(wells, 24 classes\)"):
        assign(scores[:, 1:], experiment, plate, groups.class_group, truth)
    with pytest.raises(InputError, match="24 rows of scores, 3 experiments"):
        infer_plate_groups(scores, experiment[:3], plate, groups)
    row = int(np.flatnonzero(plate == "3")[2])
    scores[row, 5] = np.nan
    for call in (
        lambda: infer_plate_groups(scores, experiment, plate, groups),
        lambda: assign(scores, experiment, plate, groups.class_group, truth),
    ):
        with pytest.raises(
            InputError, match=f"E0 plate 3: the scores of row {row} are not all finite"
        ):
            call()


def test_full_size_stays_within_a_plate_of_memory():
    """19,897 wells x 1,108 classes: the extra memory is that of some plates, not of the matrix (88
    MB).
    """
    rng = np.random.default_rng(0)
    class_group = np.repeat(np.arange(4), 277)
    wells = 19_897
    scores = rng.standard_normal((wells, 1108), dtype=np.float32)
    at = np.arange(wells)
    experiment, plate = (at // 1108).astype(str), (at % 1108 // 277).astype(str)
    label = at % 1108
    scores[at, label] += 3
    groups = SimpleNamespace(class_group=class_group, n_groups=4, plate_group={})
    tracemalloc.start()
    inferred = infer_plate_groups(scores, experiment, plate, groups)
    labels = assign(scores, experiment, plate, class_group, inferred.plate_group)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * 2**20
    assert all(group == int(p) for (_, p), group in inferred.plate_group.items())
    assert (labels == label).mean() > (scores.argmax(1) == label).mean() + 0.1


@pytest.mark.real_data
def test_real_plates_with_simulated_logits(real_data):
    """Real layout, simulated logits: weak ones tell the groups of every held-out plate, and
    assignment lifts them.
    """
    train = pd.read_csv(real_data / "rxrx1" / "train.csv")
    complete = train.groupby("experiment").sirna.nunique().eq(1108).idxmax()
    first = train[train.experiment == complete]
    group_of = first.set_index("sirna").plate - 1  # one experiment's plates name the groups
    class_group = group_of.reindex(range(1108)).to_numpy()
    assert not np.isnan(class_group).any()
    class_group = class_group.astype(int)
    assert (
        train.groupby(["experiment", "plate"])
        .sirna.apply(lambda s: class_group[s].max() == class_group[s].min())
        .all()
    )
    held_out = train[train.experiment.isin(sorted(train.experiment.unique())[::5])].reset_index(
        drop=True
    )
    label = held_out.sirna.to_numpy()
    scores = np.random.default_rng(0).standard_normal((len(label), 1108), dtype=np.float32)
    scores[np.arange(len(label)), label] += 2.5
    groups = SimpleNamespace(class_group=class_group, n_groups=4, plate_group={})
    inferred = infer_plate_groups(scores, held_out.experiment, held_out.plate, groups)
    truth = {
        (e, str(p)): class_group[s.iloc[0]]
        for (e, p), s in held_out.groupby(["experiment", "plate"]).sirna
    }
    assert inferred.plate_group == truth and min(inferred.confidence.values()) > 0
    labels = assign(scores, held_out.experiment, held_out.plate, class_group, inferred.plate_group)
    assert (labels == label).mean() > (scores.argmax(1) == label).mean() + 0.1
    doubles = held_out.assign(predicted=labels).duplicated(["experiment", "plate", "predicted"])
    assert not doubles.any()

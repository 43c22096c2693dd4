import itertools
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellsignal.errors import InputError
from cellsignal.evaluation.assignment import assign, infer_plate_groups, restrict


def plates(seed, n_experiments=2, n_groups=4, size=6, signal=4.0, shape=None):
    """Simulated logits of whole plates: scores, experiment, plate, groups, true labels, true plate groups."""
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


@pytest.mark.parametrize("statistic", ["mass", "hits"])
def test_groups_are_found_and_assignment_beats_argmax(statistic):
    scores, experiment, plate, groups, label, truth = plates(0, n_experiments=3, size=30, signal=3.0)
    inferred = infer_plate_groups(scores, experiment, plate, groups, statistic)
    assert inferred.plate_group == truth
    assert set(inferred.confidence) == {"E0", "E1", "E2"} and min(inferred.confidence.values()) > 0.1
    steps = [
        scores.argmax(1),
        restrict(scores, experiment, plate, groups.class_group, truth),
        assign(scores, experiment, plate, groups.class_group, truth),
    ]
    right = [(step == label).mean() for step in steps]
    assert right[0] < right[1] < right[2]


def brute_force(evidence):
    """Totals of all ways to give different groups to the plates, best first."""
    n_plates, n_groups = evidence.shape
    options = itertools.permutations(range(n_groups), n_plates)
    return sorted(((evidence[range(n_plates), list(o)].sum(), o) for o in options), reverse=True)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, 4), st.floats(0, 3), st.sampled_from(["mass", "hits"]))
def test_inference_is_the_best_of_all_permutations(seed, shape, signal, statistic):
    scores, experiment, plate, groups, _, _ = plates(seed, 1, size=5, signal=signal, shape=shape)
    inferred = infer_plate_groups(scores, experiment, plate, groups, statistic)
    evidence = np.zeros((shape, 4))
    for p in range(shape):
        block = scores[plate == str(p + 1)].astype(float)
        for row in block:
            if statistic == "hits":
                evidence[p, groups.class_group[row.argmax()]] += 1
            else:
                share = np.exp(row) / np.exp(row).sum()
                mass = np.array([share[groups.class_group == g].sum() for g in range(4)])
                evidence[p] += np.log(0.95 * mass + 0.05 / 4)
    ranked = brute_force(evidence)
    chosen = [inferred.plate_group["E0", str(p + 1)] for p in range(shape)]
    assert evidence[range(shape), chosen].sum() == pytest.approx(ranked[0][0], abs=1e-4)
    assert inferred.confidence["E0"] == pytest.approx((ranked[0][0] - ranked[1][0]) / len(scores), abs=1e-5)


def test_permutation_corrects_a_plate_that_looks_like_another():
    """Three clear plates leave the fourth its group, though its own wells say otherwise."""
    scores, experiment, plate, groups, _, truth = plates(1, 1, size=10, signal=6.0)
    spoiled, taken = plate == "4", truth["E0", "1"]
    scores[spoiled] = 0
    scores[np.ix_(spoiled, groups.class_group == taken)] = 0.5
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


def test_labels_known_beforehand_do_not_leak_in():
    scores, experiment, plate, groups, _, truth = plates(4)
    groups.plate_group.update({key: (group + 1) % 4 for key, group in truth.items()})
    assert infer_plate_groups(scores, experiment, plate, groups).plate_group == truth


def test_more_plates_than_groups_share_evenly():
    scores, experiment, plate, groups, _, truth = plates(5, 2, size=8, signal=9.0)
    joined = np.array([f"{e}-{p}" for e, p in zip(experiment, plate, strict=True)])  # one experiment of eight plates
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
    best = max(scores[range(wells), list(order)].sum() for order in itertools.permutations(classes, wells))
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
    assert (assign(moved, experiment[order], plate[order], groups.class_group, truth) == labels[order]).all()
    inferred = infer_plate_groups(moved, experiment[order], plate[order], groups)
    assert inferred.plate_group == infer_plate_groups(scores, experiment, plate, groups).plate_group


def test_a_plate_without_group_keeps_the_argmax():
    scores, experiment, plate, groups, _, truth = plates(6, 1, signal=1.0)
    del truth["E0", "2"]
    free = plate == "2"
    for step in (assign, restrict):
        labels = step(scores, experiment, plate, groups.class_group, truth)
        assert (labels[free] == scores[free].argmax(1)).all()


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
        with pytest.raises(InputError, match=f"E0 plate 3: the scores of row {row} are not all finite"):
            call()


def test_full_size_stays_within_a_plate_of_memory():
    """19,897 wells x 1,108 classes: the extra memory is that of some plates, not of the matrix (88 MB)."""
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
    """Real layout, simulated logits: weak ones tell the groups of every held-out plate, and assignment lifts them."""
    train = pd.read_csv(real_data / "rxrx1" / "train.csv")
    complete = train.groupby("experiment").sirna.nunique().eq(1108).idxmax()
    first = train[train.experiment == complete]
    group_of = first.set_index("sirna").plate - 1  # one experiment's plates name the groups
    class_group = group_of.reindex(range(1108)).to_numpy()
    assert not np.isnan(class_group).any()
    class_group = class_group.astype(int)
    assert (
        train.groupby(["experiment", "plate"]).sirna.apply(lambda s: class_group[s].max() == class_group[s].min()).all()
    )
    held_out = train[train.experiment.isin(sorted(train.experiment.unique())[::5])].reset_index(drop=True)
    label = held_out.sirna.to_numpy()
    scores = np.random.default_rng(0).standard_normal((len(label), 1108), dtype=np.float32)
    scores[np.arange(len(label)), label] += 2.5
    groups = SimpleNamespace(class_group=class_group, n_groups=4, plate_group={})
    inferred = infer_plate_groups(scores, held_out.experiment, held_out.plate, groups)
    truth = {(e, str(p)): class_group[s.iloc[0]] for (e, p), s in held_out.groupby(["experiment", "plate"]).sirna}
    assert inferred.plate_group == truth and min(inferred.confidence.values()) > 0
    labels = assign(scores, held_out.experiment, held_out.plate, class_group, inferred.plate_group)
    assert (labels == label).mean() > (scores.argmax(1) == label).mean() + 0.1
    doubles = held_out.assign(predicted=labels).duplicated(["experiment", "plate", "predicted"])
    assert not doubles.any()

import itertools

import numpy as np
import pytest
from scipy.special import softmax

from cellsignal.common.errors import InputError
from cellsignal.metrics.reliability import sharpened
from cellsignal.prediction.plate_layout.groups import GroupBelief
from cellsignal.prediction.plate_layout.marginals import (
    AssignedTruth,
    assignment_marginals,
    group_probabilities,
    marginals,
    whole_runs,
)


def exact(values):
    """By counting every assignment of classes to wells."""
    wells, classes = values.shape
    total = np.zeros(values.shape)
    for chosen in itertools.permutations(range(classes), wells):
        total[range(wells), chosen] += np.exp(values[range(wells), chosen].sum())
    return total / total.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("wells", "classes"), [(6, 6), (4, 6), (1, 5), (5, 5), (7, 7)])
def test_marginals_are_near_the_exact_ones(wells, classes):
    rng = np.random.default_rng(wells)
    errors, softmax_errors = [], []
    for _ in range(20):
        values = rng.normal(0, 2, (wells, classes))
        probability, truth = marginals(values), exact(values)
        assert probability.sum(axis=1) == pytest.approx(np.ones(wells))
        errors.append(np.abs(probability - truth).mean())
        softmax_errors.append(np.abs(softmax(values, axis=1) - truth).mean())
    assert np.mean(errors) < 0.05
    if wells > 1:
        assert np.mean(errors) < 0.6 * np.mean(softmax_errors)


def test_sure_and_unsure_scores_are_no_trouble():
    sure = marginals(1000.0 * np.eye(5))
    np.testing.assert_allclose(sure, np.eye(5), atol=1e-6)
    np.testing.assert_allclose(marginals(np.zeros((4, 4))), 0.25)
    np.testing.assert_allclose(marginals(np.zeros((2, 4))), 0.25)
    assert marginals(np.zeros((1, 1))).tolist() == [[1.0]]


def test_marginals_come_true_where_sinkhorns_shares_do_not():
    """Logits of normal noise, whose posterior is known; 30 plates of 24 wells."""
    rng, stated, right = np.random.default_rng(0), [], []
    for _ in range(30):
        order = rng.permutation(24)
        values = 2 * (rng.normal(size=(24, 24)) + 2 * np.eye(24)[order])
        probability = marginals(values)
        stated += probability.max(axis=1).tolist()
        right += (probability.argmax(axis=1) == order).tolist()
    assert np.mean(stated) == pytest.approx(np.mean(right), abs=0.05)


def test_plates_mix_their_groups():
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(6, 8)).astype(np.float32)
    where = (["E"] * 6, ["1"] * 3 + ["2"] * 2 + ["3"])
    groups = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    belief = GroupBelief(np.array([0.25, 0.75]), 1.0)
    known = {("E", "1"): 0, ("E", "2"): belief}
    plain = group_probabilities(scores, *where, groups, known, 2.0)
    np.testing.assert_allclose(plain[:3, :4], softmax(scores[:3, :4] / 2.0, axis=1), rtol=1e-5)
    np.testing.assert_allclose(plain[3:5].sum(axis=1), 1)
    np.testing.assert_allclose(plain[3:5, 4:].sum(axis=1), 0.75)
    np.testing.assert_allclose(plain[5], softmax(scores[5] / 2.0), rtol=1e-5)
    once = assignment_marginals(scores, *where, groups, known, 2.0)
    assert (once[:3, 4:] == 0).all()
    np.testing.assert_allclose(once[:3, :4], exact(scores[:3, :4] / 2.0), atol=0.02)
    np.testing.assert_allclose(once[5], plain[5])


@pytest.mark.parametrize("temperature", [0.02, 0.7, 1.0, 50.0])
def test_what_is_true_is_as_probable_as_among_all_classes(temperature):
    """A plate of one group, one that may hold two of three, one that may hold all."""
    rng = np.random.default_rng(2)
    scores = rng.normal(size=(9, 12)).astype(np.float32)
    where = (["E"] * 9, ["1", "2", "3"] * 3)
    groups = np.arange(12) % 3  # the classes of a group do not follow each other
    belief = GroupBelief(np.array([0.3, 0.0, 0.7]), 1.0)
    plates = (*where, groups, {("E", "1"): 1, ("E", "2"): belief}, 1.5)
    truth = rng.integers(0, 12, 9)  # of plate 1 some are of groups that it does not hold
    assert (groups[truth[::3]] == 1).any() and (groups[truth[::3]] != 1).any()
    dense = sharpened(assignment_marginals(scores, *plates), temperature)
    found = AssignedTruth(truth, scores, *plates).sharpened(temperature)
    np.testing.assert_allclose(found, dense[np.arange(9), truth], rtol=1e-12)


def test_too_many_wells_and_a_wrong_temperature_are_refused():
    scores, where = np.zeros((3, 4)), (["E"] * 3, ["1"] * 3)
    with pytest.raises(InputError, match="3 wells but only 2 classes in its group 0"):
        assignment_marginals(scores, *where, np.array([0, 0, 1, 1]), {("E", "1"): 0})
    with pytest.raises(InputError, match="must be above 0, not 0"):
        group_probabilities(scores, *where, np.array([0, 0, 1, 1]), {}, 0)


def test_rows_are_cut_between_plates_alone():
    rng = np.random.default_rng(3)
    for _ in range(200):
        codes = rng.integers(0, 6, rng.integers(0, 12))
        codes = np.sort(codes) if rng.random() < 0.5 else codes
        possible = [
            cut
            for cut in range(1, len(codes))
            if not set(codes[:cut].tolist()) & set(codes[cut:].tolist())
        ]
        assert whole_runs(codes, 1).tolist() == possible
        some = whole_runs(codes, 3).tolist()
        assert set(some) <= set(possible)
        assert all(b - a >= 3 for a, b in itertools.pairwise([0, *some]))

import itertools

import numpy as np
import pytest
from scipy.special import softmax

from cellsignal.common.errors import InputError
from cellsignal.prediction.plate_layout.groups import GroupBelief
from cellsignal.prediction.plate_layout.marginals import (
    assignment_marginals,
    group_probabilities,
    marginals,
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


def test_too_many_wells_and_a_wrong_temperature_are_refused():
    scores, where = np.zeros((3, 4)), (["E"] * 3, ["1"] * 3)
    with pytest.raises(InputError, match="3 wells but only 2 classes in its group 0"):
        assignment_marginals(scores, *where, np.array([0, 0, 1, 1]), {("E", "1"): 0})
    with pytest.raises(InputError, match="must be above 0, not 0"):
        group_probabilities(scores, *where, np.array([0, 0, 1, 1]), {}, 0)

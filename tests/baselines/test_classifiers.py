import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import CategoricalNB

from cellsignal.baselines.classifiers import (
    linear_classifier_scores,
    majority_scores,
    naive_bayes_scores,
)


def test_majority_of_one_and_of_several_labels():
    scores = majority_scores(np.array([0, 1, 1, 2]), 2, 3)
    assert scores == pytest.approx(np.log([[0.25, 0.5, 0.25]] * 2))
    several = majority_scores(np.array([[1, 0], [1, 1], [0, 0], [1, 0]]), 1, 2)
    assert several == pytest.approx(np.array([[np.log(3), -np.log(3)]]))


def test_naive_bayes_by_hand():
    """Class 0 has rows A A B, class 1 has B; overall A is one half."""
    scores = naive_bayes_scores(
        [np.array(["A", "A", "B", "B"])], np.array([0, 0, 0, 1]), [np.array(["A", "B", "Z"])], 2
    )
    evidence = np.array([[(2 + 0.5) / 4, 0.5 / 2], [(1 + 0.5) / 4, (1 + 0.5) / 2]]) / 0.5
    prior = np.array([0.75, 0.25])
    assert scores[:2] == pytest.approx(np.log(prior * evidence))
    assert scores[2] == pytest.approx(np.log(prior))  # Z did not train


def test_naive_bayes_agrees_with_sklearn_where_there_is_much_data():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 6000)
    first = np.where(rng.random(6000) < 0.6, label, rng.integers(0, 4, 6000))
    columns = [first, rng.integers(0, 5, 6000)]
    ours = naive_bayes_scores(columns, label, columns, 3)
    theirs = CategoricalNB(alpha=0.25).fit(np.stack(columns, 1), label)
    assert log_softmax(ours, 1) == pytest.approx(
        theirs.predict_log_proba(np.stack(columns, 1)), abs=0.02
    )


def test_naive_bayes_of_several_labels_ranks_by_odds():
    label = np.array([[1, 0], [1, 0], [0, 1], [0, 0]])
    scores = naive_bayes_scores([np.array(list("aabb"))], label, [np.array(["a", "b"])], 2)
    assert scores[0, 0] > scores[1, 0] and scores[0, 1] < scores[1, 1]


def test_linear_scores_of_several_labels_are_logistic_regressions():
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, (80, 3))
    label = np.stack([x[:, 0] > 3, x[:, 1] + rng.normal(0, 2, 80) > 3, np.ones(80)], 1).astype(
        float
    )
    scores = linear_classifier_scores(x, label, x, 3)
    z = (x - x.mean(0)) / x.std(0)
    for number in range(2):
        model = LogisticRegression(class_weight="balanced", max_iter=2000)
        odds = model.fit(z, label[:, number]).decision_function(z)
        assert scores[:, number] == pytest.approx(odds, abs=1e-3)
    assert np.ptp(scores[:, 2]) == 0  # a class that all have cannot be learnt


def test_linear_scores_of_one_label():
    rng = np.random.default_rng(1)
    label = np.repeat([0, 2], 30)
    x = rng.normal(size=(60, 4)) + 3 * label[:, None]
    scores = linear_classifier_scores(x, label, x, 3)
    assert (scores.argmax(1) == label).mean() > 0.95
    assert np.exp(scores).sum(1) == pytest.approx(1)


def test_features_that_do_not_vary_say_nothing():
    scores = linear_classifier_scores(np.ones((4, 2)), np.array([0, 1, 1, 1]), np.ones((2, 2)), 2)
    assert scores == pytest.approx(np.log([[0.25, 0.75]] * 2))

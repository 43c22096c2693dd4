import numpy as np
import pytest

from cellsignal.competitions.confidence import class_confidences, label_confidences


def test_margins_are_over_the_likeliest_other_class():
    probability = np.array([[0.7, 0.2, 0.1], [0.5, 0.4, 0.1]])
    table = label_confidences(probability, np.array([0, 1]), ["a", "b", "c"])
    assert table.predicted.tolist() == ["a", "b"] and table.runner_up.tolist() == ["b", "a"]
    assert table.probability.tolist() == [0.7, 0.4]
    assert table.margin.tolist() == pytest.approx([0.5, -0.1])  # assigned against its likeliest
    assert probability.tolist() == [[0.7, 0.2, 0.1], [0.5, 0.4, 0.1]]


def test_of_several_labels_the_least_sure_counts():
    table = class_confidences(np.array([[0.9, 0.55], [0.1, 0.2]]), ["x", "y"])
    assert table.predicted.tolist() == ["x|y", ""]
    assert table.confidence.tolist() == pytest.approx([0.55, 0.8])
    assert table[["x", "y"]].to_numpy().tolist() == [[0.9, 0.55], [0.1, 0.2]]

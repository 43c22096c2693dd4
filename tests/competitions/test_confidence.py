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


def test_margins_of_many_rows_are_those_of_each(monkeypatch):
    monkeypatch.setattr("cellsignal.competitions.confidence._ROWS", 4)
    rng = np.random.default_rng(0)
    probability, labels = rng.dirichlet(np.ones(5), 11), rng.integers(0, 5, 11)
    table = label_confidences(probability, labels, list("abcde"))
    for row, label, of_row in zip(probability, labels, table.itertuples(), strict=True):
        others = {
            name: value for name, value in zip("abcde", row, strict=True) if name != "abcde"[label]
        }
        best = max(others, key=others.get)
        assert (of_row.runner_up, of_row.margin) == (best, row[label] - others[best])


def test_of_several_labels_the_least_sure_counts():
    table = class_confidences(np.array([[0.9, 0.55], [0.1, 0.2]]), ["x", "y"])
    assert table.predicted.tolist() == ["x|y", ""]
    assert table.confidence.tolist() == pytest.approx([0.55, 0.8])
    assert table[["x", "y"]].to_numpy().tolist() == [[0.9, 0.55], [0.1, 0.2]]

"""Accuracy by part against a slow recount; what is not known is refused, never left out."""

import numpy as np
import pandas as pd
import pytest
from columns import flush_right
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score

from cellsignal.common.errors import InputError
from cellsignal.competitions.base import answers_path
from cellsignal.competitions.rxrx1 import RxRx1
from cellsignal.evaluation.protocol import COLUMNS, protocol_scores, protocol_text, true_labels
from cellsignal.metrics.accuracy import wilson_interval
from cellsignal.metrics.intervals import LEAST_UNITS

PARTS = ("train", "id_test", "ood_validation", "ood_test")


def drawn(seed, n=60, classes=5):
    rng = np.random.default_rng(seed)
    part = rng.choice([*PARTS, ""], n)
    experiment = np.char.add("E-", rng.integers(0, 4, n).astype(str))
    target = np.char.add("w", rng.integers(0, n // 2, n).astype(str))
    return part, experiment, target, rng.integers(0, classes, n), rng.integers(0, classes, n)


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_each_part_is_scored_by_itself(seed):
    part, experiment, target, true, predicted = drawn(seed)
    true[part == ""] = -1  # what is used for nothing needs no truth
    scores = protocol_scores(part, experiment, target, true, predicted)
    assert scores.columns.tolist() == list(COLUMNS) and scores.part.tolist() == sorted(
        set(part) - {""}
    )
    for row in scores.itertuples():
        rows = [i for i in range(len(part)) if part[i] == row.part]
        right = sum(1 for i in rows if true[i] == predicted[i])
        assert (row.correct, row.n, row.experiments) == (
            right,
            len(rows),
            len({experiment[i] for i in rows}),
        )
        assert row.accuracy == pytest.approx(accuracy_score(true[rows], predicted[rows]))
        assert (row.low, row.high) == wilson_interval(right, len(rows))
        if row.experiments >= LEAST_UNITS:
            assert (
                0 <= row.cluster_low <= row.accuracy + 1e-9
                and row.accuracy - 1e-9 <= row.cluster_high <= 1
            )
        else:
            assert np.isnan(row.cluster_low) and np.isnan(row.cluster_high)


@given(st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_neither_order_nor_names_of_classes_matter(seed):
    part, experiment, target, true, predicted = drawn(seed)
    counts = ["part", "correct", "n", "experiments", "accuracy", "low", "high"]
    scores = protocol_scores(part, experiment, target, true, predicted)[counts]
    rng = np.random.default_rng(seed + 1)
    order, names = rng.permutation(len(part)), rng.permutation(5)
    again = protocol_scores(
        part[order], experiment[order], target[order], names[true[order]], names[predicted[order]]
    )
    pd.testing.assert_frame_equal(again[counts], scores)


def test_the_clustered_interval_is_of_experiments():
    """Eight experiments all right, eight all wrong: by sites .5 is narrow, by experiments it is
    wide.
    """
    experiment = np.repeat([f"E-{i}" for i in range(16)], 100)
    true = np.zeros(1600, int)
    predicted = np.repeat(np.arange(16) % 2, 100)
    row = protocol_scores(["ood_test"] * 1600, experiment, experiment, true, predicted).iloc[0]
    binomial = 1.96 * (0.25 / 16) ** 0.5
    assert row.accuracy == 0.5 and row.high - row.low < 0.06
    assert row.cluster_low == pytest.approx(0.5 - binomial, abs=0.07)
    assert row.cluster_high == pytest.approx(0.5 + binomial, abs=0.07)


def test_the_order_asked_for_is_kept_and_a_part_without_predictions_is_refused():
    part, experiment, target, true, predicted = drawn(3)
    scores = protocol_scores(
        part, experiment, target, true, predicted, parts=["ood_test", "id_test"]
    )
    assert scores.part.tolist() == ["ood_test", "id_test"]
    with pytest.raises(InputError, match="no predictions of part 'val'"):
        protocol_scores(part, experiment, target, true, predicted, parts=["val"])


def test_a_sample_without_truth_is_refused_by_name():
    part, experiment, target, true, predicted = drawn(4)
    at = int(np.argmax(part == "ood_test"))
    true[at] = -1
    with pytest.raises(
        InputError, match=f"1 samples of part 'ood_test' have no true label, first '{target[at]}'"
    ):
        protocol_scores(part, experiment, target, true, predicted)
    with pytest.raises(InputError, match="differ in length"):
        protocol_scores(part, experiment[1:], target, true, predicted)


def test_the_text_has_a_line_a_part_and_says_where_the_number_is_not_the_published_one():
    part, experiment = ["id_test"] * 4 + ["ood_test"] * 2, ["A", "A", "B", "B", "C", "C"]
    scores = protocol_scores(part, experiment, part, [1, 1, 2, 2, 3, 3], [1, 1, 2, 0, 3, 0])
    lines = protocol_text(scores, {"id_test": 4, "ood_test": 1_003}).splitlines()
    assert lines[0].split() == [
        "part",
        "accuracy",
        "Wilson",
        *("95", "%", "95", "%"),
        "over",
        "experiments",
        "n",
        "note",
    ]
    assert (
        lines[2].startswith("id_test")
        and "0.7500" in lines[2]
        and lines[2].endswith("4")
        and len(lines) == 4
    )
    assert (
        lines[3].startswith("ood_test")
        and lines[3].endswith("published: 1,003 (-1,001)")
        and "nan" not in lines[3]
    )
    assert "published" not in protocol_text(scores)
    text = protocol_text(scores.assign(n=[1_000, 2]))
    assert flush_right(text) == ["accuracy", "experiments", "n"] and "1,000" in text


def test_truth_is_the_samples_own_label_or_the_answers(simulated):
    root, rxrx1 = simulated("rxrx1"), RxRx1()
    samples = rxrx1.samples(root)
    answers = rxrx1.answers(answers_path(root))
    classes = rxrx1.classes(root)
    own = samples.label.fillna(-1).to_numpy(dtype=int)
    target = samples.target_id.to_numpy()
    true = true_labels(target, own, rxrx1, answers, classes)
    known = dict(zip(answers.id_code, answers.sirna.astype(int), strict=True))
    expected = [known[target[i]] if own[i] < 0 else own[i] for i in range(len(own))]
    assert true.tolist() == expected and (true >= 0).all() and (own < 0).any()
    lost = true_labels(target, own, rxrx1, answers.iloc[1:], classes)
    assert set(target[lost < 0]) == {answers.id_code[0]}
    text = answers.assign(sirna="sirna_" + answers.sirna)  # the other release's spelling
    assert (
        true_labels(target, own, rxrx1, text, [f"sirna_{name}" for name in classes]).tolist()
        == expected
    )
    wrong = answers.assign(sirna=answers.sirna.where(answers.index != 2, "4000"))
    with pytest.raises(
        InputError, match=f"answers: '4000' of '{answers.id_code[2]}' is not a class"
    ):
        true_labels(target, own, rxrx1, wrong, classes)


def test_a_perfect_model_scores_one_on_every_wilds_part(simulated):
    root, rxrx1 = simulated("rxrx1"), RxRx1()
    samples = rxrx1.samples(root)
    parts = rxrx1.protocol_parts("wilds", samples)
    own = samples.label.fillna(-1).to_numpy(dtype=int)
    true = true_labels(
        samples.target_id.to_numpy(),
        own,
        rxrx1,
        rxrx1.answers(answers_path(root)),
        rxrx1.classes(root),
    )
    scores = protocol_scores(parts, samples.experiment, samples.target_id, true, true)
    assert (scores.accuracy == 1).all() and scores.n.sum() == len(samples)
    assert scores.part.tolist() == sorted(set(parts))

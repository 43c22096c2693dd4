"""Repeated layouts are found in the real training data, and nothing else is."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax

from cellsignal.common.errors import InputError
from cellsignal.prediction.plate_layout.repeats import (
    MOST,
    Repeat,
    add_evidence,
    find_repeats,
    plate_order,
)


@pytest.fixture(scope="module")
def real(real_data):
    """The real training wells and the group of each class."""
    train = pd.read_csv(real_data / "rxrx1" / "train.csv").rename(columns={"sirna": "label"})
    complete = train.groupby("experiment").label.nunique().eq(1108).idxmax()
    first = train[train.experiment == complete].set_index("label").plate - 1
    return train, first.sort_index().to_numpy(int)


def predict(label, signal, seed, classes=1108):
    scores = np.random.default_rng(seed).standard_normal((len(label), classes), dtype=np.float32)
    scores[np.arange(len(label)), label] += signal
    return signal * scores


def moved(train, source, offset, name="NEW-01"):
    """An experiment whose i-th plate is the (i + offset)-th of `source`."""
    rows = train[train.experiment == source]
    return rows.assign(experiment=name, plate=(rows.plate - 1 - offset) % 4 + 1).sample(
        frac=1, random_state=0
    )


@pytest.mark.real_data
@pytest.mark.parametrize("offset", [0, 3])
def test_a_weak_model_is_enough_to_find_a_repeat(real, offset):
    train, class_group = real
    test = moved(train, "U2OS-02", offset)
    scores = predict(test.label, 1.25, offset)
    assert (scores.argmax(1) == test.label).mean() < 0.04
    (found,) = find_repeats(scores, test, train, class_group)
    assert (found.test, found.train, found.offset, found.wells) == (
        "NEW-01",
        "U2OS-02",
        offset,
        len(test),
    )
    labels = test.label.to_numpy()
    block = np.where(class_group == class_group[labels][:, None], scores, -np.inf)
    assert found.agree == (block.argmax(1) == labels).sum() and found.p < 1e-6


@pytest.mark.real_data
def test_among_the_real_training_layouts_there_is_one_repeat(real):
    """HUVEC-07 is RPE-03 one plate on, in all 1,107 wells; no other pair agrees in more than 11.
    Signals from none to strong.
    """
    train, class_group = real
    names = ["HUVEC-07", "RPE-03", "HEPG2-03", "HUVEC-12", "U2OS-01", "HUVEC-02"]
    test = train[train.experiment.isin(names)]
    for signal in (0.3, 3.0):
        found = find_repeats(predict(test.label, signal, 1), test, train, class_group)
        pairs = {(r.test, r.train, r.offset) for r in found}
        assert pairs == (
            {("HUVEC-07", "RPE-03", 1), ("RPE-03", "HUVEC-07", 3)} if signal == 3.0 else set()
        )
    assert all(r.wells == 1107 and 0.5 < r.share < 1 for r in found)


@pytest.mark.real_data
def test_evidence_lifts_what_is_repeated_and_leaves_a_plate_that_is_not(real):
    train, class_group = real
    test = moved(train, "HUVEC-05", 2).reset_index(drop=True)
    fresh = (test.plate == 4).to_numpy()
    test.loc[fresh, "label"] = np.random.default_rng(0).permutation(test.label[fresh])
    scores = predict(test.label, 2.5, 3)
    found = find_repeats(scores, test, train, class_group)
    assert [(r.train, r.offset) for r in found] == [("HUVEC-05", 2)]
    lifted = add_evidence(scores, test, train, found)
    label = test.label.to_numpy()
    before, after = ((s.argmax(1) == label) for s in (scores, lifted))
    assert before.mean() < 0.3 and after[~fresh].mean() > 0.95
    assert after[fresh].mean() > before[fresh].mean() - 0.02
    assert lifted.dtype == scores.dtype and ((lifted != scores).sum(axis=1) <= 1).all()


def test_a_confident_prediction_overrules_the_layout():
    n = 200
    layout = pd.DataFrame(
        {"experiment": "A", "plate": "1", "well": [f"w{i}" for i in range(n)], "label": range(n)}
    )
    scores = predict(np.arange(n), 3.0, 0, n)
    scores[7, 7], scores[7, 9] = -20.0, 20.0  # a well that was filled otherwise
    wells = layout.assign(experiment="B")
    lifted = add_evidence(
        scores, wells, layout, find_repeats(scores, wells, layout, np.zeros(n, int))
    )
    assert (lifted.argmax(1) == np.where(np.arange(n) == 7, 9, np.arange(n))).all()


@pytest.mark.parametrize(
    "predicted", [[0, 1, 2, 3, 3, 2, 1, 0], [0, 0, 1, 2, 3, 3, 3, 3], [0, 1, 2, 3, 1, 1, 1, 1]]
)
def test_the_false_alarm_rate_holds_for_all_layouts_of_two_plates(predicted):
    scores = np.full((8, 4), -5.0)
    scores[range(8), predicted] = 0.0
    wells = pd.DataFrame(
        {"experiment": "T", "plate": ["1"] * 4 + ["2"] * 4, "well": ["a", "b", "c", "d"] * 2}
    )
    orders = list(itertools.permutations(range(4)))
    layouts = [[*one, *two] for one, two in itertools.product(orders, orders)]
    train = pd.concat(
        [wells.assign(experiment=f"A{i:03d}", label=labels) for i, labels in enumerate(layouts)]
    )
    found = find_repeats(scores, wells, train, np.zeros(4, int), alarm=1.0)
    agree = np.array([r.agree for r in found if r.offset == 0])
    expected = [sum(a == b for a, b in zip(predicted, labels, strict=True)) for labels in layouts]
    assert sorted(agree) == sorted(expected)
    for hits in range(9):
        bound = 2**hits / math.factorial(hits)
        assert (agree >= hits).mean() <= bound
        assert all(
            r.p == pytest.approx(min(1, bound * 2 * len(layouts))) for r in found if r.agree == hits
        )


def test_missing_wells_other_plate_numbers_and_the_same_experiment():
    n = 30
    layout = pd.DataFrame(
        {"experiment": "A", "plate": 1, "well": [f"w{i}" for i in range(n)], "label": range(n)}
    )
    scores = predict(np.arange(n), 9.0, 0, n)
    group = np.zeros(n, int)
    assert find_repeats(scores, layout, layout, group) == []  # it does not repeat itself
    two = pd.concat([layout, layout.assign(plate=2)]).assign(experiment="B")
    assert find_repeats(scores, layout, two, group) == []
    kept = layout.assign(experiment="C").iloc[5:]
    doubled = pd.concat([kept, kept])  # two targets of a well count once
    (found,) = find_repeats(np.vstack([scores[5:], scores[5:]]), doubled, layout, group)
    assert (found.agree, found.wells, found.offset) == (25, 25, 0)
    assert str(found).startswith("C repeats A, plates +0: 25 of 25 wells agree, p < ")
    with pytest.raises(InputError, match="29 wells and 30 classes, but scores are"):
        find_repeats(scores, layout.iloc[1:], layout, group)


def test_plates_are_ordered_by_number():
    assert plate_order(pd.Series(["10", "2", "b", "1", "2", "a"])) == ["1", "2", "10", "a", "b"]


def small_repeat():
    """Return scores, wells, train and class_group of two experiments of one layout."""
    label = np.tile(np.arange(80), 2)
    train = pd.DataFrame(
        {
            "plate": np.where(label < 40, "1", "2"),
            "well": [f"W{n % 40:02d}" for n in label],
            "label": label,
        }
    )
    train["experiment"] = np.repeat(["A", "B"], 80)
    wells = train[train.experiment == "A"].assign(experiment="N").reset_index(drop=True)
    return predict(wells.label, 2.0, 0, 80), wells, train, np.repeat([0, 1], 40)


@pytest.mark.parametrize("factor", [0.01, 1 / 3, 100.0])
def test_the_gain_has_the_scale_of_the_scores(factor):
    scores, wells, train, class_group = small_repeat()
    repeats = [
        repeat for repeat in find_repeats(scores, wells, train, class_group) if repeat.train == "A"
    ]
    plain = add_evidence(scores.astype(float), wells, train, repeats)
    scaled = add_evidence(factor * scores.astype(float), wells, train, repeats, {"N": factor})
    assert scaled == pytest.approx(factor * plain, rel=1e-9) and not np.array_equal(plain, scores)


@pytest.mark.parametrize(("right", "signal"), [(40, 1.0), (22, 1.0), (10, 2.0), (40, 9.0)])
def test_the_gain_is_that_of_the_likeliest_share(right, signal):
    """One plate of 40 wells, of which the first `right` hold what the layout says."""
    label = np.arange(40)
    layout = pd.DataFrame(
        {"experiment": "A", "plate": "1", "well": [f"W{n:02d}" for n in label], "label": label}
    )
    truth = np.concatenate([label[:right], np.roll(label[right:], 1)])
    scores = predict(truth, signal, 0, 40).astype(float)
    wells = layout.assign(experiment="N")
    lifted = add_evidence(scores, wells, layout, [Repeat("N", "A", 0, right, 40, 0.0)])
    gain = lifted - scores
    np.testing.assert_array_equal(gain[~np.eye(40, dtype=bool)], 0)
    lift = 40 * softmax(scores, axis=1)[label, label]
    shares = np.linspace(0, MOST, 20_001)
    likelihood = np.log(shares[:, None] * lift + 1 - shares[:, None]).sum(axis=1)
    best = shares[likelihood.argmax()]
    assert np.diag(gain) == pytest.approx(np.log(1 + 40 * best / (1 - best)), abs=5e-3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused(value):
    scores, wells, train, class_group = small_repeat()
    scores[43, 7] = value
    for call in (
        lambda: find_repeats(scores, wells, train, class_group),
        lambda: add_evidence(scores, wells, train, []),
    ):
        with pytest.raises(
            InputError, match="N plate 2 well W03: the scores of row 43 are not all finite"
        ):
            call()

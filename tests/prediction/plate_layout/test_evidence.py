"""What plates say about their group: against the plain formula, at any scale, and never worse than
the 1st place's rule.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellsignal.competitions.base import PlateGroups
from cellsignal.prediction.plate_layout.assignment import assign, restrict
from cellsignal.prediction.plate_layout.evidence import (
    SHARPNESS,
    Evidence,
    experiment_evidence,
    layout_posteriors,
    score_spread,
)
from cellsignal.prediction.plate_layout.groups import (
    _Experiment,
    _least_z,
    _likelihoods,
    infer_plate_groups,
)
from cellsignal.studies.plate_groups import first_place_groups


def plain_evidence(blocks, class_group, spread):
    """[(B, n, G)] log-probabilities of groups by well, by the formulas of the docstrings, step by
    step.
    """
    groups = range(class_group.max() + 1)
    blocks = [block - block.mean(axis=1, keepdims=True) for block in blocks]
    halves = []
    for block in blocks:
        block = block[np.argsort((block**2).sum(axis=1))]
        pair = (
            [np.median(block[start::2], axis=0) for start in (0, 1)]
            if len(block) > 1
            else [0 * block[0]] * 2
        )
        halves.append(pair)
    means = [[[half[class_group == g].mean() for g in groups] for half in pair] for pair in halves]
    within = [
        [half - np.array(mean)[class_group] for half, mean in zip(*both, strict=True)]
        for both in zip(halves, means, strict=True)
    ]
    means = [[np.array(mean) - np.mean(mean) for mean in pair] for pair in means]

    def share(pairs):
        products = np.mean([first * second for first, second in pairs])
        squares = np.mean([((first + second) / 2) ** 2 for first, second in pairs])
        return min(max(products / squares, 0), 1) if squares > 0 else 0

    result = []
    for number, block in enumerate(blocks):
        effect = (
            share(within) * np.mean(within[number], axis=0)
            + share(means) * np.mean(means[number], axis=0)[class_group]
        )
        scaled = (block - effect) / spread
        logs = []
        for sharpness in SHARPNESS:
            odds = np.exp(sharpness * (scaled - scaled.max(axis=1, keepdims=True)))
            mass = np.stack([odds[:, class_group == g].sum(axis=1) for g in groups], axis=1)
            logs.append(np.log(0.95 * mass / mass.sum(axis=1, keepdims=True) + 0.05 / len(groups)))
        result.append(np.array(logs))
    return result


def wells_keep_their_order(block):
    """Whether no rounding of float32 swaps two wells in the order of their sums of squares.

    The order decides which half of the wells one belongs to; a swap is a different, right answer.
    """
    exact = block.astype(np.float64)
    squares = np.sort(((exact - exact.mean(axis=1, keepdims=True)) ** 2).sum(axis=1))
    return bool((np.diff(squares) > 2e-3 * squares[1:]).all())


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 10_000),
    st.lists(st.integers(1, 24), min_size=1, max_size=4),
    st.floats(0.1, 30),
    st.floats(-500, 500),
    st.floats(0, 3),
)
def test_evidence_is_that_of_the_plain_formula(seed, wells, spread, offset, effect):
    """Odd and even numbers of wells, spreads and offsets, plates that do nothing to classes or
    much.
    """
    rng = np.random.default_rng(seed)
    class_group = rng.permutation(np.repeat(np.arange(3), 5))
    blocks = [
        spread * (rng.normal(size=(n, 15)) + effect * rng.normal(size=15)) + offset for n in wells
    ]
    unit = np.median([score_spread(block) for block in blocks])
    for dtype, tolerance in ((np.float64, 1e-7), (np.float32, 2e-2)):
        rounded = [block.astype(dtype) for block in blocks]
        if dtype is np.float32 and not all(wells_keep_their_order(block) for block in rounded):
            continue
        plain = plain_evidence([block.astype(np.float64) for block in rounded], class_group, unit)
        results = experiment_evidence(rounded, class_group, unit)
        for evidence, logs in zip(results, plain, strict=True):
            assert evidence.wells == logs.shape[1]
            assert evidence.total == pytest.approx(logs.sum(axis=1), abs=tolerance * logs.shape[1])
            squares = ((logs[:, :, :, None] - logs[:, :, None, :]) ** 2).sum(axis=1)
            assert evidence.squares == pytest.approx(squares, abs=10 * tolerance * logs.shape[1])


def test_the_spread_by_hand():
    """Half the range of the middle half of eight scores: the third to the sixth smallest."""
    well = np.array([9.0, 1.0, 4.0, 0.0, 6.0, 2.0, 100.0, 3.0])  # 0 1 (2 3 4 6) 9 100
    assert score_spread(np.stack([well, well + 7, 3 * well])) == 2.0
    assert score_spread(np.stack([3 * well, 3 * well, well])) == 6.0
    # most scores are equal: of each well seven lie 1 below its mean and one lies 7 above
    flat = np.array([[0.0] * 7 + [8.0], [2.0] * 7 + [10.0]])
    assert score_spread(flat) == pytest.approx(np.sqrt((7 * 1 + 49) / 8))
    assert score_spread(np.ones((3, 8))) == 0.0


def test_the_order_of_wells_of_one_norm_decides_nothing():
    """Wells whose scores are permutations of each other have equal sums of squares."""
    rng = np.random.default_rng(0)
    block = np.array([rng.permutation([0.0, 1.0, 2.0, 5.0]) for _ in range(12)])
    other = rng.normal(size=(7, 4))
    class_group = np.array([0, 0, 1, 1])
    for order in (slice(None, None, -1), rng.permutation(12)):
        pairs = zip(
            experiment_evidence([block, other], class_group, 1.0),
            experiment_evidence([block[order], other], class_group, 1.0),
            strict=True,
        )
        for before, after in pairs:
            np.testing.assert_array_equal(after.total, before.total)
            np.testing.assert_array_equal(after.squares, before.squares)


@pytest.mark.parametrize("factor", [1 / 8, 1.0, 8.0])
def test_the_temperature_is_that_of_the_scores(factor):
    """`simulate` gives logits that are as sure as they may be: their temperature is 1."""
    scores, experiment, plate, groups, *_ = simulate(3, 2.0, n_experiments=3, size=40)
    result = infer_plate_groups(factor * scores, experiment, plate, groups)
    assert set(result.temperature) == {"E0", "E1", "E2"}
    for temperature in result.temperature.values():  # sharpnesses are doubles of each other
        assert 1 / 2.1 < temperature / factor < 2.1


def test_posteriors_by_hand():
    """Two sharpnesses; the first experiment shows the second one by far, which then speaks for
    layout 1 of the second.
    """
    clear = np.log([[0.5, 0.5], [1e9, 1.0]])
    weak = np.log([[1.0, 1.0], [0.5, 1.5]])
    (first, second), sharpness = layout_posteriors([clear, weak])
    assert sharpness == [1, 1] and first == pytest.approx([1, 0], abs=1e-6)
    # EM: the common share of the second sharpness is (1 + share + 1/2) / 3, share being that of the
    # weak experiment, and
    # as both sharpnesses fit it as well, share is the common share: 3 c = 1.5 + c
    assert second[1] == pytest.approx(0.25 * 0.5 + 0.75 * 0.75, abs=1e-6)
    assert layout_posteriors([]) == ([], [])


def simulate(seed, signal, n_experiments=8, size=60, effect=0.0):
    """Logits of full plates in random rotations, as sure as they may be, with four known layouts of
    other experiments.
    """
    rng = np.random.default_rng(seed)
    class_group = rng.permutation(np.repeat(np.arange(4), size))
    order = rng.permutation(4)
    held = {
        (f"{kind}{number}", str(place + 1)): int(group)
        for kind, count in (("T", 4), ("E", n_experiments))
        for number in range(count)
        for place, group in enumerate(np.roll(order, rng.integers(4)))
    }
    truth = {key: group for key, group in held.items() if key[0][0] == "E"}
    label = np.concatenate(
        [rng.permutation(np.flatnonzero(class_group == group)) for group in truth.values()]
    )
    names = np.repeat(np.array(list(truth)), size, axis=0)
    logits = rng.standard_normal((len(label), 4 * size), dtype=np.float32)
    logits[np.arange(len(label)), label] += signal
    groups = PlateGroups(
        class_group, {key: group for key, group in held.items() if key[0][0] == "T"}
    )
    return signal * logits, names[:, 0], names[:, 1], groups, label, truth


@pytest.mark.parametrize("signal", [0.7, 1.5, 3.0])
@pytest.mark.parametrize("factor", [1e-2, 1 / 3, 3.0, 100.0, 2.0**-10, "by well", "by experiment"])
def test_neither_scale_nor_offset_of_scores_matters(signal, factor):
    scores, experiment, plate, groups, *_ = simulate(1, signal)
    scores = scores.astype(np.float64)
    rng = np.random.default_rng(0)
    if factor == "by well":
        changed = scores + rng.normal(size=(len(scores), 1))
    elif factor == "by experiment":
        unit = dict(zip(sorted(set(experiment)), 10.0 ** rng.uniform(-2, 2, 8), strict=True))
        changed = scores * np.array([[unit[name]] for name in experiment])
    else:
        changed = scores * factor
    before, after = (
        infer_plate_groups(values, experiment, plate, groups) for values in (scores, changed)
    )
    assert after.plate_group == before.plate_group
    assert set(after.layouts.values()) == {"4 rotations of one order"}
    assert after.confidence == pytest.approx(before.confidence, rel=1e-4)
    for step in (assign, restrict):
        labels = step(scores, experiment, plate, groups.class_group, before.beliefs)
        relabelled = step(changed, experiment, plate, groups.class_group, after.beliefs)
        assert (relabelled == labels).mean() > 0.999


@pytest.mark.parametrize(
    ("signal", "gain"), [(0.8, 0.015), (1.2, 0.025), (1.6, 0.005), (2.5, 0.0), (4.0, 0.0)]
)
def test_never_below_the_first_places_rule(signal, gain):
    """11,520 wells; `gain` is half or less of what 20 such draws gained on average (.031, .051,
    .019), where it is above 0.
    """
    right = {"ours": [], "first": []}
    for seed in range(6):
        scores, experiment, plate, groups, label, _ = simulate(seed, signal)
        ours = infer_plate_groups(scores, experiment, plate, groups).beliefs
        first = first_place_groups(scores, experiment, plate, groups.class_group)
        for name, layout in (("ours", ours), ("first", first)):
            right[name].append(
                (assign(scores, experiment, plate, groups.class_group, layout) == label).mean()
            )
    assert np.mean(right["ours"]) >= np.mean(right["first"]) + gain


@pytest.mark.parametrize(
    ("differences", "z"),
    [
        ([1.0] * 8, 8.0),  # 8 wells that agree: variance 8 (1 + 1/8) - 64/8 = 1
        ([1.0, 3.0], 4 / 7**0.5),  # sum 4, squares 10: variance 10 (1 + 1/2) - 16/2 = 7
        ([1.0, -1.0], 0.0),
    ],
)
def test_z_by_hand(differences, z):
    """One plate, two groups: the wells' differences of log-probability, their sum over the root of
    its variance.
    """
    logs = np.stack([np.array(differences), np.zeros(len(differences))])  # (G, n)
    squares = ((logs[:, None] - logs[None]) ** 2).sum(axis=2)
    evidence = Evidence(logs.sum(axis=1)[None], squares[None], len(differences))
    experiment = _Experiment("E", ["1"], 1.0, [evidence], np.array([[0], [1]]), "2 permutations")
    assert _least_z(experiment, _likelihoods(experiment), 0, 0) == pytest.approx(z)


def test_what_all_wells_say_alike_is_the_plate_itself():
    """All wells of a plate the same: its staining, not its classes. No group is told by that."""
    groups = PlateGroups(np.array([0, 0, 1, 1]), {})
    scores = np.repeat([[1.0, 0, 0, 0], [0, 0, 1.0, 0]], 4, axis=0)
    result = infer_plate_groups(scores, ["E"] * 8, ["1"] * 4 + ["2"] * 4, groups)
    assert result.confidence["E"] == 0.0


def test_reported_groups_are_right():
    """Experiments from no signal to a clear one: none of those reported at z >= 3 is wrong, and the
    clear ones are.
    """
    wrong, reported = 0, {}
    for signal in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0):
        for seed in range(4):
            scores, experiment, plate, groups, _, truth = simulate(100 + seed, signal)
            result = infer_plate_groups(scores, experiment, plate, groups, least_confidence=3.0)
            wrong += sum(truth[key] != group for key, group in result.plate_group.items())
            reported[signal] = reported.get(signal, 0) + len(result.plate_group) / len(truth) / 4
    assert wrong == 0 and reported[0.0] < 0.05 and reported[3.0] == 1.0


def test_the_first_places_rule_by_hand():
    """Plate 1 has 2 hits of group 0 and 1 of group 1, plate 2 has 2 and 0: columns by their sums
    (.5, 1), (.5, 0).
    """
    class_group = np.array([0, 0, 1, 1])
    hits = [0, 1, 2, 0, 1]
    scores = np.eye(4)[hits]
    layout = first_place_groups(
        scores, np.array(["E"] * 5), np.array(["1"] * 3 + ["2"] * 2), class_group
    )
    assert layout == {("E", "1"): 1, ("E", "2"): 0}

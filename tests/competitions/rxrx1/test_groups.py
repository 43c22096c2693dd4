"""The hidden plate design is recovered from training labels, and anything that contradicts it is
named.
"""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellsignal.common.errors import InputError
from cellsignal.competitions.rxrx1 import RxRx1
from cellsignal.competitions.rxrx1.competition import GROUP_SIZE, N_GROUPS
from cellsignal.competitions.rxrx1.groups import assignments, plate_groups, rotations

pytestmark = pytest.mark.slow


def design(n_groups, size, shifts, seed=0, lost=0.0):
    """One well for each class and experiment, plates dealt by rotation; and the true group of each
    class.
    """
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.repeat(np.arange(n_groups), size))
    rows = []
    for number, shift in enumerate(shifts):
        for label, group in enumerate(truth):
            plate = (group - shift) % n_groups + 1
            rows.append((f"E-{number + 1:02d}", str(plate), label, f"{number}_{label}"))
    frame = pd.DataFrame(rows, columns=["experiment", "plate", "label", "target_id"])
    keep = rng.random(len(frame)) >= lost
    frame = frame[keep].sample(frac=1, random_state=seed)
    return frame.assign(
        split="train", role="treatment", well="C03", label=frame.label.astype("Int64")
    ), truth


def same_partition(a, b):
    return len(set(zip(a, b, strict=True))) == len(set(a)) == len(set(b))


@settings(max_examples=40, deadline=None)
@given(
    n_groups=st.integers(1, 6),
    size=st.integers(3, 9),
    shifts=st.lists(st.integers(0, 5), min_size=2, max_size=7),
    seed=st.integers(0, 999),
)
def test_any_rotating_design_is_recovered(n_groups, size, shifts, seed):
    samples, truth = design(n_groups, size, [s % n_groups for s in shifts], seed)
    groups = plate_groups(samples)
    assert same_partition(groups.class_group, truth) and groups.n_groups == n_groups
    found = rotations(groups)
    assert [found[f"E-{i + 1:02d}"] for i in range(len(shifts))] == [
        (s - shifts[0]) % n_groups for s in shifts
    ]
    for row in samples.itertuples():
        assert groups.plate_group[row.experiment, row.plate] == groups.class_group[row.label]


def test_missing_wells_do_not_matter():
    samples, truth = design(4, 20, [0, 1, 2, 3, 1, 0], lost=0.2)
    assert same_partition(plate_groups(samples).class_group, truth)


def test_test_labels_and_controls_are_not_used():
    samples, _ = design(4, 5, [0, 1, 2])
    hidden = samples[samples.experiment == "E-03"].assign(
        split="test", label=lambda f: f.label.to_numpy()[::-1]
    )
    control = samples.iloc[[0]].assign(role="positive_control", label=99, target_id="c")
    groups = plate_groups(pd.concat([samples[samples.experiment != "E-03"], hidden, control]))
    assert {experiment for experiment, _ in groups.plate_group} == {"E-01", "E-02"}
    assert len(groups.class_group) == 20


def test_one_wrong_label_names_experiment_plate_and_class():
    samples, _ = design(4, 20, [0, 1, 2, 3])
    at = samples.index[(samples.experiment == "E-03") & (samples.plate == "2")][0]
    own = set(samples.label[(samples.experiment == "E-03") & (samples.plate == "2")])
    wrong = min(set(range(80)) - own)
    samples.loc[at, "label"] = wrong
    with pytest.raises(InputError, match=rf"class {wrong} on E-03 plate 2 .*; 1 of 320 wells"):
        plate_groups(samples)


def test_two_plates_with_the_same_classes_are_refused():
    samples, _ = design(2, 6, [0, 1])
    twice = samples[(samples.experiment == "E-01") & (samples.plate == "1")]
    copy = twice.assign(plate="3", target_id=twice.target_id + "x")
    with pytest.raises(InputError, match=r"E-01.*the same group"):
        plate_groups(pd.concat([samples, copy]))


def test_a_permutation_that_is_no_rotation_is_told_by_rotations_only():
    samples, _ = design(4, 5, [0, 0])
    swap = {"1": "2", "2": "1", "3": "3", "4": "4"}
    samples["plate"] = samples.plate.where(samples.experiment == "E-01", samples.plate.map(swap))
    groups = plate_groups(samples)
    assert assignments(groups)["E-02"] == (1, 0, 2, 3)
    with pytest.raises(InputError, match="E-02: its plates hold groups"):
        rotations(groups)


def test_no_training_label_is_an_input_error():
    samples, _ = design(2, 3, [0])
    with pytest.raises(InputError, match="no labelled training treatment"):
        plate_groups(samples.assign(split="test"))


def test_every_real_row_obeys_the_design(real_data):
    rxrx1 = RxRx1()
    samples = rxrx1.samples(real_data / "rxrx1")
    groups = rxrx1.plate_groups(samples)
    assert np.bincount(groups.class_group).tolist() == [GROUP_SIZE] * N_GROUPS
    raw = pd.read_csv(real_data / "rxrx1" / "train.csv")
    held = [groups.plate_group[e, str(p)] for e, p in zip(raw.experiment, raw.plate, strict=True)]
    assert int((groups.class_group[raw.sirna] == held).sum()) == 36_515
    found = rotations(groups)
    assert set(found) == set(raw.experiment) and len(found) == 33
    assert set(found.values()) <= set(range(4)) and found["HEPG2-01"] == 0
    assert found["RPE-03"] == 1


def shared_wells(wells, others, offset):
    """Wells of one experiment that another has `offset` plates on, and those of them with its
    class.
    """
    places = {
        (int(plate), well): sirna
        for plate, well, sirna in zip(others.plate, others.well, others.sirna, strict=True)
    }
    rows = zip(wells.plate, wells.well, wells.sirna, strict=True)
    met = [
        (sirna, places.get(((int(plate) - 1 + offset) % 4 + 1, well)))
        for plate, well, sirna in rows
    ]
    return sum(other is not None for _, other in met), sum(sirna == other for sirna, other in met)


def test_the_real_repeats_of_rpe03(real_data):
    """HUVEC-07 and RPE-03 repeat each other, one plate on; of HUVEC-18 the tables show positions
    alone.

    Its labels are published to be those of RPE-03 three plates on. Every plate has the same treated
    positions, so the competition's own tables agree with that, and with the other three rotations
    as well.
    """
    train = pd.read_csv(real_data / "rxrx1" / "train.csv")
    source, twin = (train[train.experiment == name] for name in ("RPE-03", "HUVEC-07"))
    assert [shared_wells(twin, source, offset) for offset in range(4)] == [
        (1107, 1107 * (offset == 1)) for offset in range(4)
    ]
    assert [shared_wells(source, twin, offset)[1] for offset in range(4)] == [0, 0, 0, 1107]
    test = pd.read_csv(real_data / "rxrx1" / "test.csv").assign(sirna=-1)
    repeat = test[test.experiment == "HUVEC-18"]
    assert len(repeat) == 1107
    assert [shared_wells(repeat, source, offset) for offset in range(4)] == [(1107, 0)] * 4

"""The orders part what they say they part; the course's figure comes out on noise, and only where
copies cross the split.
"""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from cellsignal.common.errors import InputError
from cellsignal.studies.oversampling.audit import (
    estimates,
    nearest_position,
    oversampling_audit,
    oversampling_text,
)
from cellsignal.studies.oversampling.classifiers import well_positions
from cellsignal.studies.oversampling.deals import Deal, deal_all, oversample, top_classes

WELLS = [f"{row}{column:02d}" for row in "ABCDEFGHIJKLMNOP" for column in range(1, 25)]


def plate(wells_of, sites=9, plates=1, seed=0):
    """Samples of plates of one layout: class k has `wells_of[k]` wells, at random places."""
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(wells_of)), wells_of))
    rows = [
        (str(p), well, site, label)
        for p in range(plates)
        for well, label in zip(WELLS, labels, strict=False)
        for site in range(sites)
    ]
    frame = pd.DataFrame(rows, columns=["plate", "well", "site", "label"])
    frame = frame.assign(
        sample_id=[f"s{n}" for n in range(len(frame))],
        well_id=frame.plate + "_" + frame.well,
        label=frame.label.astype("Int64"),
    )
    return frame.assign(experiment="E", split="train", role="treatment", row=range(len(frame)))


COURSE = [64, *[2] * 18, *[1] * 284]  # plate BR00116991: DMSO, names with two wells, names with one


@pytest.fixture(scope="module")
def course():
    """The plate's labels, its images noise as well: what is said of images may then only be the
    protocol's.
    """
    frame = plate(COURSE)
    images = np.random.default_rng(7).integers(0, 256, (len(frame), 1, 16, 16), dtype=np.uint8)
    return oversampling_audit(frame, images.__getitem__, rounds=1)


def row(audits, order, data, classifier="nearest neighbour"):
    (found,) = [a for a in audits if (a.order, a.data, a.classifier) == (order, data, classifier)]
    return found


def test_the_platemap_has_the_structure_that_is_tested(real_data):
    target = real_data / "jump_target"
    wells = pd.read_csv(target / "JUMP-Target-1_compound_platemap.tsv", sep="\t")
    name_of = (
        pd.read_csv(target / "JUMP-Target-1_compound_metadata.tsv", sep="\t")
        .drop_duplicates("broad_sample")
        .set_index("broad_sample")
        .pert_iname
    )
    counts = wells.broad_sample.map(name_of).fillna("DMSO").value_counts()
    assert (
        sorted(counts, reverse=True) == sorted(COURSE, reverse=True)
        and counts["DMSO"] == 64
        and len(counts) == 303
    )


@pytest.mark.parametrize("data", ["images", "noise"])
def test_copies_across_the_split_make_noise_score_98_percent(course, data):
    before, after, by_well = (row(course, order, data) for order in ("before", "after", "by well"))
    assert before.accuracy.value > 0.98 and before.balanced.low > 0.8 and before.copies > 0.97
    assert (after.copies, after.same_well, by_well.copies, by_well.same_well) == (0, 1, 0, 0)
    # about half of the images, and of the answers, are DMSO
    assert 0.15 < after.accuracy.value < 0.3 and after.balanced.value < 0.05
    assert (
        by_well.balanced.value < 0.08
        and by_well.classes == 19
        and before.classes == after.classes == 50
    )
    assert after.chance == by_well.chance == 1 / 50


def test_position_alone_is_right_where_wells_are_shared_and_nowhere_else(course):
    found = {
        order: row(course, order, "position", "nearest well")
        for order in ("before", "after", "by well")
    }
    assert (
        found["before"].accuracy.value == found["after"].accuracy.value == 1
        and found["by well"].balanced.value < 0.1
    )
    assert found["after"].balanced.low < 1  # an interval all the same


def test_a_repeated_layout_gives_a_new_plate_away():
    frame = plate([6, 3, 1, 1], sites=2, plates=4)
    images = np.random.default_rng(0).integers(0, 256, (len(frame), 1, 8, 8), dtype=np.uint8)
    audits = oversampling_audit(frame, images.__getitem__, rounds=1)
    by_plate = row(audits, "by plate", "position", "nearest well")
    assert by_plate.accuracy.value == 1 and by_plate.same_well == 0 and by_plate.classes == 4
    assert "position alone scores 1.00 balanced" in oversampling_text(audits)


def test_what_cells_show_is_found_in_held_out_wells():
    """A class that shows as brightness: the honest order keeps it, and the discriminant analysis
    finds it among features.
    """
    frame = plate([6, 6, 6], sites=3)
    rng = np.random.default_rng(0)
    images = [
        (np.full((2, 12, 12), 60 + 60 * int(label)) + rng.normal(0, 3, (2, 12, 12))).astype(
            np.uint8
        )
        for label in frame.label
    ]
    audits = oversampling_audit(frame, images.__getitem__, rounds=2, metric="euclidean")
    for classifier in ("nearest neighbour", "discriminant analysis"):
        assert row(audits, "by well", "images", classifier).balanced.value == 1
        assert row(audits, "by well", "noise", classifier).balanced.low < 1 / 3 + 0.2


def test_byte_identical_images_count_as_copies_without_any_oversampling():
    frame = plate([4, 4], sites=4)
    images = np.random.default_rng(0).integers(0, 256, (len(frame), 1, 8, 8), dtype=np.uint8)
    images[:] = images[frame.label.to_numpy(dtype=int)]  # one image a class, stored again and again
    assert (
        row(oversampling_audit(frame, images.__getitem__, rounds=1), "by well", "images").copies
        == 1
    )


def test_the_text_names_the_orders_and_says_which_is_honest(course):
    text = oversampling_text(course)
    lines = {line.split("  ")[0]: line for line in text.splitlines()[-3:]}
    assert "not honest, 98% of the validation images are in train" in lines["before"]
    assert "not honest, 100% of the validation images are of wells in train" in lines["after"]
    assert "honest, no image" in lines["by well"] and "not honest" not in lines["by well"]


@settings(max_examples=40, deadline=None)
@given(
    wells=st.lists(st.integers(1, 5), min_size=2, max_size=6),
    sites=st.integers(2, 4),
    plates=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_the_orders_part_images_wells_and_plates(wells, sites, plates, seed):
    frame = plate(wells, sites, plates)
    label = frame.label.to_numpy(dtype=int)
    if math.ceil(0.34 * len(frame)) < len(wells):  # fewer validation images than classes
        with pytest.raises(InputError, match="too few for a stratified split"):
            deal_all(frame, seed, share=0.34)
        return
    deals = {deal.order: deal for deal in deal_all(frame, seed, share=0.34)}
    assert ("by well" in deals) == (max(wells) * plates > 1) and ("by plate" in deals) == (
        plates > 1
    )
    for order, deal in deals.items():
        counts = np.bincount(label[deal.train])
        assert set(label[deal.valid]) <= set(label[deal.train])
        if order == "before":
            assert len(deal.train) + len(deal.valid) == len(wells) * max(wells) * sites * plates
            assert set(deal.train) | set(deal.valid) == set(range(len(frame)))
            continue
        assert len(set(counts[counts > 0])) == 1 and not set(deal.train) & set(deal.valid)
        for part, column in (("by well", "well_id"), ("by plate", "plate")):
            if order == part:
                assert not set(frame[column].iloc[deal.train]) & set(frame[column].iloc[deal.valid])
    if "by well" in deals:  # every class that has a second well is validated on, and stays in train
        several = {k for k, n in enumerate(wells) if n * plates > 1}
        assert set(label[deals["by well"].valid]) == several


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(0, 99))
def test_oversampling_keeps_every_row_and_levels_the_classes(labels, seed):
    labels = np.array(labels)
    drawn = oversample(labels, np.random.default_rng(seed))
    np.testing.assert_array_equal(drawn[: len(labels)], np.arange(len(labels)))
    assert set(np.unique(labels[drawn], return_counts=True)[1]) == {np.bincount(labels).max()}


def test_top_classes_are_the_most_frequent_ones_that_can_be_split():
    frame = plate([1, 3, 2, 3], sites=1)
    assert sorted(set(top_classes(frame, 2).label)) == [1, 3] and sorted(
        set(top_classes(frame, None).label)
    ) == [1, 2, 3]
    hidden = frame.assign(split=np.where(frame.label == 1, "test", "train"))
    assert sorted(set(top_classes(hidden, 2).label)) == [2, 3]
    with pytest.raises(InputError, match="two classes"):
        top_classes(frame.assign(label=pd.array([None] * len(frame), "Int64")), 50)
    with pytest.raises(InputError, match="6 images of 3 classes are too few"):
        deal_all(plate([2, 2, 2], sites=1), 0)


def test_figures_are_those_of_sklearn_and_lie_in_their_intervals():
    rng = np.random.default_rng(0)
    true = rng.choice(5, 300, p=[0.6, 0.1, 0.1, 0.1, 0.1])
    found = np.where(rng.random(300) < 0.5, true, 0)
    accuracy, balanced = estimates(true, found == true, rng.integers(0, 40, 300))
    assert (
        accuracy.value == pytest.approx(accuracy_score(true, found))
        and accuracy.low < accuracy.value < accuracy.high
    )
    assert (
        balanced.value == pytest.approx(balanced_accuracy_score(true, found))
        and balanced.low < balanced.value < balanced.high
    )


def test_one_right_well_is_no_certainty():
    accuracy, _ = estimates(np.zeros(90, int), np.ones(90, bool), np.zeros(90, int))
    # Wilson's, of one well and not of 90 rows
    assert accuracy.value == 1 and accuracy.low == pytest.approx(0.2065, abs=1e-4)


def test_positions_are_read_from_addresses():
    frame = pd.DataFrame({"well": ["A01", "P24", "AF48", "B7"]})
    assert well_positions(frame).tolist() == [[1, 1], [16, 24], [32, 48], [2, 7]]
    assert well_positions(pd.DataFrame({"well": ["A01", "r01c01"]})) is None


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999))
def test_nearest_position_by_brute_force(seed):
    rng = np.random.default_rng(seed)
    address, label = rng.integers(1, 6, (30, 2)), rng.permutation(np.arange(30) % 3)
    frame = pd.DataFrame(
        {
            "label": pd.array(label, "Int64"),
            "well_id": [f"{a}{b}" for a, b in address],
            "experiment": "E",
            "plate": "1",
        }
    )
    deal = deal_all(frame, seed)[1]
    predicted = nearest_position(address, label, deal)
    for place, name in zip(address[deal.valid], predicted, strict=True):
        distance = ((address[deal.train] - place) ** 2).sum(axis=1)
        votes = np.bincount(label[deal.train][distance == distance.min()], minlength=3)
        assert votes[name] == votes.max()
    assert predicted.tolist() == nearest_position(address, label, deal).tolist()


def test_labels_that_a_position_cannot_tell_apart_are_drawn():
    """400 asked positions, each with one nearest well of class 0 and one of class 1: each class is
    named about half the time.
    """
    column = np.arange(400) * 10
    address = np.stack(
        [np.ones(1200, int), np.concatenate([column, column - 1, column + 1])], axis=1
    )
    label = np.repeat([0, 0, 1], 400)
    deal = Deal("", np.arange(400, 1200), np.arange(400))
    named = nearest_position(address, label, deal)
    assert 150 < named.sum() < 250, "the lowest label would be named always"

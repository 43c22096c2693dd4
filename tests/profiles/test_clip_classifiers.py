"""Hand-made features on drawn cells whose measures are known, and the classifiers of them against
scikit-learn.
"""

import math
import re

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.preprocessing import StandardScaler

from cellsignal.common.errors import InputError
from cellsignal.profiles.clip_classifiers import (
    CLASSIFIERS,
    COLUMNS,
    LARGEST,
    classifier_scores,
    ipp_table,
    ipp_text,
    score_row,
    standardised,
)
from cellsignal.profiles.image_features import (
    _sizes_and_eccentricities,
    cell_mask,
    clip_features,
    feature_names,
    read_features,
)

NAMES = {name: at for at, name in enumerate(feature_names())}
SIZE = 64
Y, X = np.mgrid[:SIZE, :SIZE]


def disc(y: float, x: float, radius: float) -> np.ndarray:
    return (Y - y) ** 2 + (X - x) ** 2 <= radius**2


def ellipse(y: float, x: float, a: float, b: float) -> np.ndarray:
    return ((Y - y) / a) ** 2 + ((X - x) / b) ** 2 <= 1


def clip_of(frames: list[list[np.ndarray]]) -> np.ndarray:
    """T frames of C channels each -> (C * T, H, W) uint8, channel by channel."""
    video = np.array(frames).astype(np.uint8)
    return video.swapaxes(0, 1).reshape(-1, *video.shape[2:])


def measured(frames: list[list[np.ndarray]]):
    """The features of drawn frames, by frame and name."""
    found = clip_features(clip_of(frames), len(frames))
    return lambda at, name: float(found[at, NAMES[name]])


def test_cell_has_the_measures_of_the_drawn_ellipse():
    first, second = ellipse(28, 28, 20, 12), ellipse(31, 32, 20, 12)
    value = measured(
        [[first * 30, first * 60, first * 20], [second * 30, second * 60, second * 20]]
    )
    assert value(0, "cell area") == first.sum() == value(1, "cell area")
    assert value(0, "cell eccentricity") == pytest.approx(math.sqrt(1 - (12 / 20) ** 2), abs=0.01)
    ramanujan = math.pi * (3 * (20 + 12) - math.sqrt((3 * 20 + 12) * (20 + 3 * 12)))
    assert value(0, "cell perimeter") == pytest.approx(ramanujan, rel=0.05)
    assert value(0, "cell solidity") > 0.95
    assert value(0, "cell displacement") == 0 and value(1, "cell displacement") == pytest.approx(
        5, abs=1e-4
    )
    assert (value(0, "w1 mean"), value(0, "w2 mean"), value(0, "w3 mean"), value(0, "w2 sd")) == (
        30,
        60,
        20,
        0,
    )


def test_dim_cytoplasm_beside_a_bright_nucleus_and_specks_outside():
    cell = disc(32, 32, 20)
    frame = np.stack([disc(32, 32, 6) * 250, cell * 12, disc(4, 4, 2) * 90]).astype(np.uint8)
    np.testing.assert_array_equal(cell_mask(frame), cell)


def test_objects_are_counted_and_measured():
    cell, parts = disc(32, 32, 28), [disc(20, 20, 4), disc(40, 30, 5), ellipse(30, 46, 10, 3)]
    objects = np.any(parts, axis=0)
    speck = np.zeros_like(cell)
    speck[50, 32] = True  # one pixel is not an object
    value = measured([[cell * 20 + (objects | speck) * 180, cell * 20, cell * 20]] * 2)
    assert value(0, "w1 objects") == 3 and value(0, "w1 area") == objects.sum()
    assert value(0, "w1 object_area") == pytest.approx(objects.sum() / 3)
    areas = np.array([part.sum() for part in parts])
    assert value(0, "w1 object_eccentricity") == pytest.approx(
        areas[2] / areas.sum() * math.sqrt(1 - 0.3**2), abs=0.02
    )
    assert value(0, "w1 object_mean") == 200
    # flat: nothing stands out
    assert value(0, "w2 objects") == value(0, "w2 skeleton") == value(0, "w2 eccentricity") == 0


def test_skeleton_is_as_long_as_the_fibre():
    cell, fibre = disc(32, 32, 28), (abs(Y - 32) <= 1) & (abs(X - 32) <= 15)
    value = measured([[cell * 20, cell * 20 + fibre * 100, cell * 20]] * 2)
    assert value(0, "w2 skeleton") == pytest.approx(31, abs=3)


def test_rings_share_out_the_intensity_from_border_to_centre():
    cell = disc(32, 32, 24)
    value = measured(
        [[cell * 50, cell * 1 + disc(32, 32, 4) * 200, cell * 1 + (cell & ~disc(32, 32, 20)) * 200]]
        * 2
    )
    even, inner, outer = (
        [value(0, f"{w} ring{k}") for k in (1, 2, 3, 4)] for w in ("w1", "w2", "w3")
    )
    for shares in (even, inner, outer):
        assert sum(shares) == pytest.approx(1)
    # areas of rings of equal width
    np.testing.assert_allclose(even, [7 / 16, 5 / 16, 3 / 16, 1 / 16], atol=0.05)
    assert inner[3] > 0.8 and outer[0] > 0.9


def test_movement_is_that_of_the_texture():
    rng = np.random.default_rng(0)
    texture = cv2.GaussianBlur(rng.random((SIZE, SIZE + 4)).astype(np.float32), (0, 0), 3)
    texture = (texture - texture.min()) / np.ptp(texture) * 180 + 20
    cell = disc(32, 32, 28)
    still = texture[:, 4:] * cell
    value = measured(
        [[still, texture[:, 4 - t : SIZE + 4 - t] * cell, cell * 30] for t in range(4)]
    )
    assert value(0, "w2 flow") == value(0, "w2 change") == 0  # nothing moves into the first frame
    assert value(1, "w1 flow") == pytest.approx(0, abs=1e-3) and value(1, "w1 change") == 0
    assert [value(t, "w2 flow") for t in (1, 2, 3)] == pytest.approx([1, 1, 1], abs=0.25)
    assert value(1, "w2 change") > 0.01


def test_texture_and_correlation_are_those_of_plain_loops():
    rng = np.random.default_rng(1)
    cell = disc(32, 32, 9)
    planes = rng.integers(40, 256, (3, SIZE, SIZE)) * cell
    planes[:, 32, 32] = 255
    value = measured([list(planes)] * 2)
    levels, contrasts, alike = planes[0] * 16 // 256, [], []
    for down, right in ((0, 1), (-1, 1), (-1, 0), (-1, -1)):
        pairs = [
            int(levels[y, x]) - int(levels[y + down, x + right])
            for y in range(20, 45)
            for x in range(20, 45)
            if cell[y, x] and cell[y + down, x + right]
        ]
        contrasts.append(np.mean(np.square(pairs)))
        alike.append(np.mean(1 / (1 + np.square(pairs))))
    assert value(0, "cell area") == cell.sum()
    assert value(0, "w1 contrast") == pytest.approx(np.mean(contrasts), rel=1e-5)
    assert value(0, "w1 homogeneity") == pytest.approx(np.mean(alike), rel=1e-5)
    assert value(0, "w1 w3 correlation") == pytest.approx(
        np.corrcoef(planes[0][cell], planes[2][cell])[0, 1], abs=1e-5
    )


@pytest.mark.parametrize("shade", [0, 1, 255])
def test_nothing_to_measure_is_finite(shade):
    clip = np.full((6, 8, 8), shade, np.uint8)
    assert (clip_features(clip, 2) == 0).all()
    clip[:, 3, 3:5] = 128  # two pixels
    assert np.isfinite(clip_features(clip, 2)).all()
    assert len(set(feature_names())) == clip_features(clip, 2).shape[1]


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(2, 3), st.integers(1, 20))
def test_any_clip_gives_finite_features_of_the_named_number(seed, channels, frames, size):
    rng = np.random.default_rng(seed)
    clip = rng.integers(0, rng.integers(1, 257), (channels * frames, size, size + 3)).astype(
        np.uint8
    )
    found = clip_features(clip, frames)
    assert (
        found.shape == (frames, len(feature_names(channels)))
        and found.dtype == np.float32
        and np.isfinite(found).all()
    )


def test_planes_are_channels_then_frames():
    rng = np.random.default_rng(2)
    cell = disc(32, 32, 20)
    frames = [
        [cell * (30 + 40 * c + 10 * t) + disc(32, 32, 5) * rng.integers(20, 60) for c in range(3)]
        for t in range(3)
    ]
    value = measured(frames)
    swapped = measured([frame[::-1] for frame in frames])
    back = measured(frames[::-1])
    assert [value(t, "w2 mean") for t in range(3)] == sorted(value(t, "w2 mean") for t in range(3))
    for name in ("mean", "object_mean", "contrast", "ring4", "change"):
        assert [value(t, f"w1 {name}") for t in range(3)] == [
            swapped(t, f"w3 {name}") for t in range(3)
        ]
    assert [back(t, "w1 sd") for t in range(3)] == [value(t, "w1 sd") for t in (2, 1, 0)]


@pytest.mark.parametrize(("planes", "frames"), [(48, 15), (6, 1), (0, 16)])
def test_what_is_no_clip_is_refused(planes, frames):
    with pytest.raises(InputError, match=rf"clips of {frames} frames"):
        clip_features(np.zeros((planes, 8, 8), np.uint8), frames)


def test_features_are_read_in_the_order_of_the_rows():
    cell = disc(32, 32, 20)
    clips = {row: clip_of([[cell * shade] * 3] * 2) for row, shade in ((7, 40), (2, 90), (5, 60))}
    found = read_features([7, 2, 5], clips.__getitem__, frames=2)
    assert found.shape == (3, 2, len(NAMES)) and found[:, 1, NAMES["w3 mean"]].tolist() == [
        40,
        90,
        60,
    ]


def tracks(drugs: int = 24, each: int = 5, frames: int = 3, classes: int = 3, seed: int = 0):
    """Features (N, T, 6) of tracks of drugs, of which each class has its mean and each drug its
    own; label, drug.
    """
    rng = np.random.default_rng(seed)
    drug = np.repeat(np.arange(drugs), each)
    label = drug % classes
    x = rng.normal(size=(len(drug), frames, 6)) + 2 * rng.normal(size=(classes, frames, 6))[label]
    return x.astype(np.float32), label, np.array([f"drug{d}" for d in drug], dtype=object), rng


def test_z_scores_are_of_the_training_tracks_alone():
    x, *_, rng = tracks()
    x[:, 1, 4] = 7  # a feature that does not vary
    train = rng.random(len(x)) < 0.6
    x[~train, 1, 4] = 9
    found = standardised(x, train)
    flat = x.reshape(len(x), -1).astype(float)
    np.testing.assert_allclose(
        np.delete(found, 10, 1),
        np.delete(StandardScaler().fit(flat[train]).transform(flat), 10, 1),
        atol=1e-6,
    )
    assert (found[:, 10] == 0).all()
    # time point 2, feature 3
    np.testing.assert_allclose(
        found[:, 6 + 2], (flat[:, 8] - flat[train, 8].mean()) / flat[train, 8].std()
    )
    other = np.where(train[:, None, None], x, 1000 * x + 5)
    np.testing.assert_array_equal(standardised(other, train)[train], found[train])
    assert abs(standardised(other, train)).max() == 10
    mean = x.astype(float).mean(1)
    np.testing.assert_allclose(
        standardised(x, train, "mean")[:, 0],
        ((mean - mean[train].mean(0)) / mean[train].std(0))[:, 0],
        atol=1e-6,
    )


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers_learn_are_repeatable_and_never_see_other_queries(name):
    x, label, *_ = tracks()
    x, label = x.reshape(len(x), -1), np.array([0, 2, 4])[label]
    train = np.arange(len(x)) % 2 == 0
    found = classifier_scores(name, x[train], label[train], x[~train], 6)
    assert found.shape == ((~train).sum(), 6) and np.isfinite(found).all()
    assert (found.argmax(1) == label[~train]).mean() > 0.9
    assert (found[:, [1, 3, 5]] == found.min()).all()  # no track of these in training
    again = classifier_scores(name, x[train], label[train], x[~train][:3], 6)
    np.testing.assert_allclose(again[:, [0, 2, 4]], found[:3, [0, 2, 4]], rtol=1e-5)


def test_the_linear_svm_scores_two_classes_too():
    x, label, *_ = tracks(classes=2)
    x, train = x.reshape(len(x), -1), np.arange(len(x)) % 2 == 0
    found = classifier_scores("linear SVM", x[train], label[train], x[~train], 2)
    assert found.shape == (60, 2) and (found.argmax(1) == label[~train]).mean() > 0.9


def test_an_event_in_time_is_found_at_time_points_and_lost_in_the_mean():
    """A disc appears for one frame, the second or the third of four: every frame of both classes is
    the same, only the order tells.
    """
    rng = np.random.default_rng(3)

    def clip(late: bool) -> np.ndarray:
        small = [slice(16, 48)] * 2
        cell, spot = disc(32, 32, 14)[*small], disc(*rng.uniform(29, 35, 2), 4)[*small]
        return clip_of(
            [
                [
                    cell * (30 + rng.normal(0, 1, cell.shape).clip(-3, 3))
                    + spot * (90 if t == 1 + late else 0)
                ]
                for t in range(4)
            ]
        )

    label = np.arange(48) % 2
    features = np.stack([clip_features(clip(bool(late)), 4) for late in label])
    train = np.arange(48) < 28
    table = ipp_table(
        features,
        label,
        np.arange(48).astype(str),
        train,
        ~train,
        ("early", "late"),
        ("linear SVM",),
        ("each", "mean"),
    )
    assert table.time.tolist() == ["", "each", "mean"]
    assert table.accuracy[1] == 1 and table.accuracy[2] <= 0.75


@pytest.mark.parametrize("classes", [2, 4])
def test_accuracy_and_auc_are_sklearns(classes):
    rng = np.random.default_rng(classes)
    truth = np.r_[np.arange(classes), rng.integers(0, classes, 60)]
    scores = rng.dirichlet(np.ones(classes), len(truth)).round(2) + 0.3 * np.eye(classes)[truth]
    scores /= scores.sum(1, keepdims=True)
    drugs = np.arange(len(truth)) // 4
    share, right, n, low, high, drug_low, drug_high, auc, auc_low, auc_high, tested, count = (
        score_row(scores, truth, drugs, "abcd"[:classes])
    )
    assert share == right / n == accuracy_score(truth, scores.argmax(1))
    expected = roc_auc_score(np.eye(classes)[truth], scores, average="macro")
    assert auc == pytest.approx(expected)
    assert low < share < high and drug_low < share < drug_high and auc_low < auc < auc_high
    assert (tested, count, n) == (classes, len(set(drugs)), len(truth))


def test_a_class_without_test_tracks_is_left_out_of_the_auc():
    truth = np.array([0, 0, 1, 1])
    scores = np.array([[3, 1, 9], [2, 0, 9], [1, 2, 9], [2.5, 5, 9.0]])
    row = score_row(scores, truth, np.arange(4), "abc")
    assert row[:3] == (0, 0, 4) and row[7] == pytest.approx((3 / 4 + 1) / 2) and row[10] == 2


def test_known_drugs_promise_what_new_drugs_do_not_keep():
    """Each drug has its own look and a class by lot: a split by track looks learnt, a split by drug
    is chance.
    """
    rng = np.random.default_rng(5)
    drug = np.repeat(np.arange(24), 6)
    features = (3 * rng.normal(size=(24, 2, 8))[drug] + rng.normal(size=(len(drug), 2, 8))).astype(
        np.float32
    )
    label = rng.permutation(np.arange(24) % 4)[drug]
    names = np.array([f"d{d}" for d in drug], dtype=object)
    by_track, by_drug = np.arange(len(drug)) % 3 == 0, drug % 3 == 0
    classes = ("a", "b", "c", "d")
    leaky = ipp_table(features, label, names, ~by_track, by_track, classes, ("MLP",))
    strict = ipp_table(features, label, names, ~by_drug, by_drug, classes, ("MLP",))
    assert list(strict.columns) == list(COLUMNS) and strict.classifier.tolist() == [LARGEST, "MLP"]
    assert leaky.accuracy[1] > 0.9 and strict.accuracy[1] < 0.5
    assert (
        leaky.shared_drugs.tolist() == [24, 24]
        and strict.shared_drugs.tolist() == [0, 0]
        and strict.drugs.tolist() == [8, 8]
    )
    largest = np.bincount(label[~by_drug]).argmax()
    assert strict.accuracy[0] == (label[by_drug] == largest).mean() and strict.auc[0] == 0.5
    assert "24 of them" not in ipp_text(strict) and "drugs, none of them trained on" in ipp_text(
        strict
    )
    assert "24 drugs, 24 of them trained on too" in ipp_text(leaky)
    assert re.search(
        rf"MLP\s+each time point\s+{leaky.accuracy[1]:.4f}\s+{leaky.correct[1]}/48 ",
        ipp_text(leaky),
    )


def test_the_table_is_repeatable_and_ignores_tracks_in_neither_part():
    x, label, drug, _ = tracks()
    train, test = np.arange(len(x)) % 3 == 0, np.arange(len(x)) % 3 == 1
    arguments = (drug, train, test, ("a", "b", "c"), ("linear SVM", "MLP"))
    first = ipp_table(x, label, *arguments)
    again = ipp_table(
        np.where((train | test)[:, None, None], x, -99),
        np.where(train | test, label, np.nan),
        *arguments,
    )
    assert first.equals(again) and (first.accuracy[1:] > 0.9).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test": np.zeros(120, bool)}, "60 training and 0 test tracks"),
        ({"test": np.ones(120, bool)}, "60 tracks are in training and test alike"),
        (
            {"label": np.where(np.arange(120) == 3, np.nan, 1)},
            "1 training or test tracks have no label",
        ),
        (
            {"drug": np.where(np.arange(120) == 3, None, "x")},
            "1 training or test tracks have no drug",
        ),
        ({"label": np.ones(120)}, "the 60 training tracks are all of one class"),
        ({"classifiers": ("tree",)}, "no classifier is called 'tree'"),
    ],
)
def test_bad_input_is_named(change, message):
    x, label, drug, _ = tracks()
    train = np.arange(len(x)) % 2 == 0
    with pytest.raises(InputError, match=message):
        ipp_table(
            **{
                "features": x,
                "label": label,
                "drug": drug,
                "train": train,
                "test": ~train,
                "classes": "abc",
                **change,
            }
        )


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_sizes_and_eccentricities_are_those_of_regionprops(seed, objects):
    from skimage.measure import label, regionprops_table

    rng = np.random.default_rng(seed)
    parts = label(cv2.blur(rng.random((24, 24)), (3, 3)) > 0.5 + 0.04 * objects)
    parts[parts == 1] = 0  # a number without a pixel
    want = regionprops_table(parts, properties=("area", "eccentricity"))
    area, eccentricity = _sizes_and_eccentricities(parts)
    np.testing.assert_array_equal(area, want["area"])
    np.testing.assert_allclose(eccentricity, want["eccentricity"], atol=1e-6)

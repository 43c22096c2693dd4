"""Taking the batch out of embeddings, and naming treatments by class centres and neighbours."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycytominer.operations import Spherize
from scipy.linalg import fractional_matrix_power
from scipy.special import log_softmax
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.preprocessing import StandardScaler

from cellsignal.common.errors import InputError
from cellsignal.evaluation.matching import average
from cellsignal.prediction.well_classifiers import centre_scores, neighbour_scores
from cellsignal.profiles.batch_effects import centre, normalise, sphere, tvn


def plates(experiments=3, plates=2, negatives=8, positives=12, treatments=10) -> pd.DataFrame:
    roles = (
        ["negative_control"] * negatives
        + ["positive_control"] * positives
        + ["treatment"] * treatments
    )
    rows = [(f"E{e}", str(p), r) for e in range(experiments) for p in range(plates) for r in roles]
    return pd.DataFrame(rows, columns=["experiment", "plate", "role"]).sample(
        frac=1, random_state=0, ignore_index=True
    )


def embeddings(frame, d=5, seed=0) -> np.ndarray:
    """Correlated features; every plate has a shift and a mixing of its own."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(len(frame), d)) @ rng.normal(size=(d, d))
    for rows in frame.groupby(["experiment", "plate"]).indices.values():
        x[rows] = x[rows] @ (np.eye(d) + 0.3 * rng.normal(size=(d, d))) + 5 * rng.normal(size=d)
    return x


def wells_of(frame, reference):
    return {
        "all": frame.role != "x",
        "controls": frame.role != "treatment",
        "negative_controls": frame.role == "negative_control",
    }[reference].to_numpy()


def units_of(frame, by):
    return frame.groupby(
        ["experiment", "plate"] if by == "plate" else ["experiment"]
    ).indices.values()


FRAME = plates()
REFERENCES = ("negative_controls", "controls", "all")


@pytest.mark.parametrize("by", ["plate", "experiment"])
@pytest.mark.parametrize("reference", REFERENCES)
def test_centring_is_sklearns_scaler_fitted_on_each_units_reference(by, reference):
    x, mask = embeddings(FRAME), wells_of(FRAME, reference)
    for scale in (False, True):
        found = centre(x, FRAME, by, reference, scale)
        for rows in units_of(FRAME, by):
            chosen = rows[mask[rows]]
            scaler = StandardScaler(with_std=scale).fit(x[chosen])
            # SD with n - 1
            expected = scaler.transform(x[rows]) * (np.sqrt(1 - 1 / len(chosen)) if scale else 1)
            np.testing.assert_allclose(found[rows], expected, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**31),
    st.sampled_from(["centre", "standardise", "sphere"]),
    st.sampled_from(["plate", "experiment"]),
)
def test_a_constant_added_to_a_unit_changes_nothing(seed, how, by):
    x, shifted = embeddings(FRAME, seed=seed), embeddings(FRAME, seed=seed)
    rng = np.random.default_rng(seed)
    for rows in units_of(FRAME, by):
        shifted[rows] += 10 * rng.normal(size=x.shape[1])
    np.testing.assert_allclose(
        normalise(shifted, FRAME, how, by), normalise(x, FRAME, how, by), atol=2e-4
    )


def test_a_feature_that_does_not_vary_is_only_centred():
    x = embeddings(FRAME)
    x[:, 2] = 7
    assert (centre(x, FRAME, "plate", "controls", scale=True)[:, 2] == 0).all()


@pytest.mark.parametrize("reference", REFERENCES)
def test_tvn_whitens_the_reference_and_gives_every_unit_its_covariance(reference):
    """Without regularisation: the identity in each unit, and hence, units being centred, over all
    of them.
    """
    x, mask = embeddings(FRAME), wells_of(FRAME, reference)
    found = tvn(x, FRAME, "plate", reference, regularisation=0).astype(float)
    for rows in units_of(FRAME, "plate"):
        chosen = rows[mask[rows]]
        np.testing.assert_allclose(np.cov(found[chosen], rowvar=False), np.eye(5), atol=1e-3)
        np.testing.assert_allclose(found[chosen].mean(0), 0, atol=1e-4)
        outside = rows[~mask[rows]]
        if len(outside):
            # fitted on the reference alone
            assert np.abs(np.cov(found[outside], rowvar=False) - np.eye(5)).max() > 0.1


@pytest.mark.parametrize("d", [5, 40])  # fewer and more features than reference wells of a plate
@pytest.mark.parametrize("regularisation", [0.1, 0.5])
def test_tvn_is_the_published_matrices(d, regularisation):
    """PCA whitening, then z (C + r)^-1/2 (T + r)^1/2 by scipy's matrix powers, features told up to
    the sign of the axes.
    """
    x, mask = embeddings(FRAME, d), wells_of(FRAME, "controls")
    found = tvn(x, FRAME, "plate", "controls", regularisation)
    variance, axes = np.linalg.eigh(np.cov(x[mask], rowvar=False))
    variance, axes = variance[::-1], axes[:, ::-1]
    z = (x - x[mask].mean(0)) @ axes / np.sqrt(variance + regularisation * variance.mean())
    target = np.cov(z[mask], rowvar=False)
    ridge = regularisation * np.trace(target) / d * np.eye(d)
    for rows in units_of(FRAME, "plate"):
        chosen = rows[mask[rows]]
        source = fractional_matrix_power(np.cov(z[chosen], rowvar=False) + ridge, -0.5)
        expected = (
            (z[rows] - z[chosen].mean(0)) @ source @ fractional_matrix_power(target + ridge, 0.5)
        )
        sign = np.sign((found[rows] * expected).sum(0))
        np.testing.assert_allclose(found[rows] * sign, expected, atol=1e-3)


@pytest.mark.parametrize("method", ["ZCA", "PCA", "ZCA-cor"])
def test_sphered_controls_have_the_identity_as_covariance(method):
    x, mask = embeddings(FRAME), wells_of(FRAME, "negative_controls")
    found = sphere(x, FRAME, "negative_controls", method, regularisation=0).astype(float)
    np.testing.assert_allclose(np.cov(found[mask], rowvar=False), np.eye(5), atol=1e-4)


def test_sphering_is_zca_made_by_hand():
    """W = E diag(1 / (sd + sqrt(r mean variance))) E^T (Kessy et al. 2018; the addend as
    pycytominer's epsilon).
    """
    x, mask = embeddings(FRAME), wells_of(FRAME, "controls")
    covariance = np.cov(x[mask], rowvar=False)
    variance, axes = np.linalg.eigh(covariance)
    whitening = axes @ np.diag(1 / (np.sqrt(variance) + np.sqrt(0.01 * variance.mean()))) @ axes.T
    np.testing.assert_allclose(sphere(x, FRAME), (x - x[mask].mean(0)) @ whitening, atol=1e-4)
    plain = (
        Spherize(epsilon=0, method="ZCA", return_numpy=True)
        .fit(pd.DataFrame(x[mask]))
        .transform(pd.DataFrame(x))
    )
    np.testing.assert_allclose(sphere(x, FRAME, regularisation=0), plain, atol=1e-4)


def test_features_dead_among_the_controls_are_left_out_of_sphering():
    x = embeddings(FRAME)
    with_dead = np.insert(x, 3, np.where(wells_of(FRAME, "controls"), 0, 9), axis=1)
    found = sphere(with_dead, FRAME)
    assert (found[:, 3] == 0).all()
    np.testing.assert_allclose(np.delete(found, 3, axis=1), sphere(x, FRAME), atol=1e-5)


@pytest.mark.parametrize("how", ["none", "centre", "standardise", "tvn", "sphere"])
def test_nothing_depends_on_the_order_of_the_rows_or_on_labels(how):
    x = embeddings(FRAME, 40 if how == "tvn" else 5)
    turn = np.random.default_rng(1).permutation(len(x))
    labelled = FRAME.assign(label=np.arange(len(x))).iloc[turn].reset_index(drop=True)
    found, turned = normalise(x, FRAME, how), normalise(x[turn], labelled, how)
    sign = np.sign((found[turn] * turned).sum(0)) if how == "tvn" else 1
    np.testing.assert_allclose(turned * sign, found[turn], atol=2e-3)


def test_too_few_reference_wells_are_named():
    frame = plates(negatives=1)
    frame = frame.drop(
        frame.index[
            (frame.experiment == "E1") & (frame.plate == "1") & (frame.role == "negative_control")
        ]
    ).reset_index(drop=True)
    x = embeddings(frame)
    with pytest.raises(
        InputError,
        match="experiment E1 plate 1: 0 wells of the reference 'negative_controls', at least 1",
    ):
        centre(x, frame, "plate", "negative_controls")
    with pytest.raises(
        InputError,
        match="experiment E0 plate 0: 1 wells of the reference 'negative_controls', at least 2",
    ):
        tvn(x, frame, "plate", "negative_controls")
    assert np.isfinite(centre(x, frame, "experiment", "negative_controls")).all()
    with pytest.raises(
        InputError,
        match="experiment E0 plate 0: its 20 reference wells do not vary in all 40 features",
    ):
        tvn(embeddings(FRAME, 40), FRAME, "plate", "controls", regularisation=0)
    with pytest.raises(InputError, match="reference must be controls"):
        normalise(x, frame, "sphere", "experiment", "all")
    with pytest.raises(InputError, match="do not vary in all 4 features"):
        sphere(x[:, [0, 1, 2, 0]], frame, regularisation=0)
    with pytest.raises(
        InputError,
        match="controls wells span 9 dimensions, too few for 200 features; fewest: experiment E0 plate 0 with 20 reference wells",
    ):
        sphere(embeddings(FRAME, 200)[np.arange(len(FRAME)) % 10], FRAME)
    with pytest.raises(InputError, match="do not differ"):
        tvn(np.ones_like(x), frame, "experiment", "controls")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from("ab")), min_size=1, max_size=30))
def test_averages_are_those_of_pandas(keys):
    frame = pd.DataFrame(keys, columns=["well_id", "part"]).assign(row=range(len(keys)))
    x = np.random.default_rng(len(keys)).normal(size=(len(keys), 3)).astype(np.float16)
    mean, wells = average(x, frame, ("well_id", "part"))
    grouped = pd.DataFrame(x.astype(float)).groupby([frame.well_id, frame.part], sort=False)
    np.testing.assert_allclose(mean, grouped.mean(), atol=1e-6)
    assert wells.row.tolist() == frame.groupby(["well_id", "part"], sort=False).row.first().tolist()


def classes(seed, n=60, k=6, d=8, spread=1.0):
    rng = np.random.default_rng(seed)
    label = np.concatenate([np.arange(k), rng.integers(0, k, n - k)])
    means = rng.normal(size=(k, d))
    query = rng.integers(0, k, n)
    return (
        means[label] + spread * rng.normal(size=(n, d)),
        label,
        means[query] + spread * rng.normal(size=(n, d)),
        query,
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31))
def test_the_nearest_centre_is_sklearns(seed):
    x, label, query, _ = classes(seed)
    found = centre_scores(x, label, query, 6, "euclidean")
    assert (found.argmax(1) == NearestCentroid().fit(x, label).predict(query)).all()
    np.testing.assert_allclose(np.exp(found).sum(1), 1, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.floats(1e-2, 1e2))
def test_cosine_centres_by_brute_force_whatever_the_lengths(seed, factor):
    x, label, query, _ = classes(seed)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosines = np.array(
        [
            [
                np.dot(q, c) / np.linalg.norm(q) / np.linalg.norm(c)
                for c in (unit[label == k].mean(0) for k in range(6))
            ]
            for q in query
        ]
    )
    scores = centre_scores(x, label, query * factor, 6)
    assert (scores.argmax(1) == cosines.argmax(1)).all()
    gap, of_cosines = scores[:, 0] - scores[:, 1], cosines[:, 0] - cosines[:, 1]
    t = np.dot(gap, of_cosines) / np.dot(of_cosines, of_cosines)  # one slope for all
    assert t > 0
    np.testing.assert_allclose(gap, t * of_cosines, atol=1e-4 * t)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_the_sharpness_is_the_likeliest_of_wells_left_out_one_by_one(metric):
    x, label, query, _ = classes(3, n=40)

    def unit(v):
        return v / np.linalg.norm(v) if metric == "cosine" else v

    x = np.array([unit(v) for v in x])
    squared = np.array(
        [
            [
                np.sum(
                    (v - unit(x[(label == k) & ((np.arange(40) != i) | (label[i] != k))].mean(0)))
                    ** 2
                )
                for k in range(6)
            ]
            for i, v in enumerate(x)
        ]
    )
    grid = np.exp(np.linspace(-4, 6, 2001))
    losses = []
    for t in grid:
        losses.append(-log_softmax(-t * squared, axis=1)[np.arange(40), label].mean())
    best = grid[np.argmin(losses)]
    centres = [unit(x[label == k].mean(0)) for k in range(6)]
    scores = centre_scores(x, label, query, 6, metric)
    query = np.array([unit(q) for q in query])
    gap = np.sum((query - centres[1]) ** 2, axis=1) - np.sum((query - centres[0]) ** 2, axis=1)
    np.testing.assert_allclose((scores[:, 0] - scores[:, 1]) / gap, best, rtol=0.02)


def test_one_well_a_class_and_classes_without_wells():
    x, label, query, truth = classes(0, n=6, spread=0.05)
    label = np.array([0, 1, 2, 3, 5, 6])[label]  # of 8: classes 4 and 7 are not trained
    for found in (centre_scores(x, label, query, 8), neighbour_scores(x, label, query, 8, k=1)):
        assert (found.argmax(1) == np.array([0, 1, 2, 3, 5, 6])[truth]).all() and np.isfinite(
            found
        ).all()
        assert (
            found[:, [4, 7]] <= np.delete(found, [4, 7], axis=1).min(1, keepdims=True) + 1e-6
        ).all()
        np.testing.assert_allclose(np.exp(found).sum(1), 1, atol=1e-5)
    same = centre_scores(np.ones((6, 3)), label, np.ones((2, 3)), 8)
    np.testing.assert_allclose(np.exp(same), 1 / 8, atol=1e-6)  # a collapsed network knows nothing


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 7), st.sampled_from(["cosine", "euclidean"]))
def test_votes_are_sklearns(seed, k, metric):
    x, label, query, _ = classes(seed)
    query[0] = x[0]  # at no distance: its vote is the only one
    found = neighbour_scores(x, label, query, 6, metric, k)
    unit = [
        v / np.linalg.norm(v, axis=1, keepdims=True) if metric == "cosine" else v
        for v in (x, query)
    ]
    unit = [v.astype(np.float32) for v in unit]
    share = KNeighborsClassifier(k, weights="distance").fit(unit[0], label).predict_proba(unit[1])
    np.testing.assert_allclose(np.exp(found), (k * share + 1 / 6) / (k + 1), atol=1e-4)
    assert found[0].argmax() == label[0]


def test_more_neighbours_than_wells():
    x, label, query, _ = classes(0, n=6)
    with pytest.raises(InputError, match="7 neighbours asked for, 6 training wells"):
        neighbour_scores(x, label, query, 6, k=7)
    votes = np.exp(neighbour_scores(x, label, query, 6, k=6))  # as many as there are
    np.testing.assert_allclose(votes.sum(1), 1, atol=1e-5)


def test_wells_tied_at_the_last_place_share_it():
    """Two of four training wells are equally far at the second place: half a vote each; the order
    of the table decides nothing.
    """
    x, label = np.array([[0.0, 0], [1, 0], [-1, 0], [3, 0]]), np.array([0, 1, 2, 3])
    query = np.array([[0.0, 0.5]])
    near, far = 1 / 0.5, 1 / np.hypot(1, 0.5)
    share = np.array([near, far / 2, far / 2, 0]) / (near + far)
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        found = neighbour_scores(x[order], label[order], query, 4, "euclidean", k=2)
        np.testing.assert_allclose(np.exp(found[0]), (2 * share + 1 / 4) / 3, atol=1e-6)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_a_collapsed_space_votes_as_the_classes_are_frequent(metric):
    label = np.repeat([0, 1, 2], [10, 20, 30])
    found = neighbour_scores(
        np.full((60, 4), 0.3, np.float32), label, np.full((5, 4), 0.3, np.float32), 3, metric, k=5
    )
    np.testing.assert_allclose(
        np.exp(found), np.tile((5 * np.array([1, 2, 3]) / 6 + 1 / 3) / 6, (5, 1)), atol=1e-6
    )


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3])
def test_tvn_drops_the_axes_that_hold_the_last_of_the_variance(share):
    frame = plates()
    x = embeddings(frame, d=6)
    control = (frame.role != "treatment").to_numpy()
    ratio = PCA().fit(x[control]).explained_variance_ratio_
    width = 6 - max(n for n in range(6) if ratio[6 - n :].sum() <= share)
    assert tvn(x, frame, drop_variance=share).shape == (len(frame), width)
    np.testing.assert_array_equal(tvn(x, frame, drop_variance=0.0), tvn(x, frame))

"""The linear classifier of embeddings, against scikit-learn's own pipeline."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cellsignal.common.errors import InputError
from cellsignal.prediction.well_classifiers import linear_scores


def wells(features: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centres = 2 * rng.normal(size=(4, features))
    label = np.repeat(np.arange(4), (20, 5, 9, 6))
    return (
        centres[label] + rng.normal(size=(40, features)),
        label,
        centres[[3, 1, 0, 2]] + rng.normal(size=(4, features)),
    )


@pytest.mark.parametrize("features", [3, 40, 300])
def test_it_is_sklearns_on_standardised_features(features):
    x, label, query = wells(features)
    own = make_pipeline(
        StandardScaler(),
        LogisticRegression(C=0.5, class_weight="balanced", max_iter=5000, tol=1e-6),
    ).fit(x, label)
    found = linear_scores(x, label, query, 4, strength=0.5)
    assert found.dtype == np.float32 and found.argmax(1).tolist() == own.predict(query).tolist()
    np.testing.assert_allclose(np.exp(found), own.predict_proba(query), atol=3e-3)


def test_scale_and_features_that_do_not_vary_change_nothing():
    x, label, query = wells(30)
    scale = np.logspace(-3, 3, 30)
    found = linear_scores(x, label, query, 4)
    other = [
        np.hstack([values * scale + 5, np.full((len(values), 2), 7.0)]) for values in (x, query)
    ]
    np.testing.assert_allclose(linear_scores(other[0], label, other[1], 4), found, atol=2e-2)


def test_a_class_without_a_well_is_no_likelier_than_any_other():
    x, label, query = wells(10)
    found = linear_scores(x, np.array([0, 2, 3, 5])[label], query, 7)
    assert np.isfinite(found).all() and found.argmax(1).tolist() == [5, 2, 0, 3]
    assert (found[:, [1, 4, 6]] <= found[:, [0, 2, 3, 5]].min(1, keepdims=True) + 1e-6).all()
    np.testing.assert_allclose(np.exp(found).sum(1), 1, atol=1e-5)


def test_one_class_is_refused():
    with pytest.raises(InputError, match="one class"):
        linear_scores(np.eye(3), np.zeros(3, int), np.eye(3), 2)

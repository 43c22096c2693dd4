"""Held-out classification, against scikit-learn's neighbours."""

import functools

import numpy as np
import pandas as pd
import pytest
from sklearn.neighbors import KNeighborsClassifier

from cellsignal.common.errors import InputError
from cellsignal.prediction.well_classifiers import scores_of
from cellsignal.profiles.table_classifiers import classify_held_out


def wells(compounds=12, copies=4) -> tuple[np.ndarray, pd.DataFrame]:
    rng = np.random.default_rng(0)
    number = np.repeat(np.arange(compounds), copies)
    frame = pd.DataFrame({"compound": [f"c{n}" for n in number], "role": "treatment"})
    frame["moa"] = [f"m{n % 3}" for n in number]
    frame["well_id"] = [f"w{n}" for n in range(len(frame))]
    effect = rng.normal(size=(3, 6))[number % 3]
    own = rng.normal(size=(compounds, 6))[number]
    return effect + own + 0.3 * rng.normal(size=(len(frame), 6)), frame


def test_no_well_is_classified_by_wells_of_its_group():
    x, frame = wells()
    scores = scores_of("knn", "euclidean", 1)
    found = classify_held_out(x, frame, "moa", "compound", scores).table
    expected = []
    for row in range(len(x)):
        train = (frame["compound"] != frame["compound"][row]).to_numpy()
        model = KNeighborsClassifier(1).fit(x[train], frame.moa[train])
        expected.append(model.predict(x[row : row + 1])[0])
    assert list(found.predicted) == expected
    alone = classify_held_out(x, frame, "moa", "well_id", scores)
    assert alone.accuracy.value > (found.predicted == found.label).mean()


def test_a_class_in_one_group_alone_is_not_scored():
    x, frame = wells()
    frame.loc[:3, "moa"] = "rare"
    scores = functools.partial(scores_of("centre", "cosine", 5))
    found = classify_held_out(x, frame, "moa", "compound", scores)
    assert found.table.predicted[:4].isna().all() and found.accuracy.total == len(frame) - 4
    with pytest.raises(InputError, match="no class of compound has wells in two groups"):
        classify_held_out(x, frame, "compound", "compound", scores)
    with pytest.raises(InputError, match="1 classes of moa"):
        classify_held_out(x[:4], frame[:4], "moa", "well_id", scores)

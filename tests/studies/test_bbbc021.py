"""The table of changes: rows against scikit-learn and loops, on simulated images, no weights."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from tiny import make_config, make_plates

from cellsignal.common.errors import InputError
from cellsignal.metrics.paired import compare_means
from cellsignal.studies.bbbc021.changes import MERGED, NETWORKS, Change, Changes
from cellsignal.studies.bbbc021.page import tables, verdict

UNIT = np.array(list("aabbccddeeff"))


def change(title, right, section="frozen layers"):
    """Two classes, the truth is class 0: sure where right, unsure where wrong."""
    scores = np.where(np.array(right, bool)[:, None], [[2.0, 0.0]], [[0.0, 0.5]])
    return Change(section, title, scores, np.zeros(len(right), int), UNIT[: len(right)])


def test_a_row_is_right_where_its_likeliest_class_is_the_wells():
    row = change("one", [1] * 11 + [0])
    assert row.right.tolist() == [1] * 11 + [0]
    expected = -log_softmax(row.scores, axis=1)[:, 0]
    np.testing.assert_allclose(row.loss, expected)
    other = change("other", [0, 1, 0, 1, 0, 1] * 2)
    assert row.against(other) == compare_means(row.right, other.right, UNIT)
    difference, low, high = row.surprise(other)
    assert difference == pytest.approx((row.loss - other.loss).mean()) and low < difference < high


def test_the_table_compares_every_row_with_the_first():
    rows = [
        change("reference", [1] * 10 + [0, 0]),
        change("worse", [0, 1, 0, 1, 0, 1, 0, 0, 0, 1, 0, 0]),
        change("same", [1] * 10 + [0, 0], "trained"),
        change("no image", [0] * 12, "baselines"),
    ]
    lines = tables(rows).splitlines()
    assert len(lines) == 2 + 3 + 4 and {line.count("|") for line in lines} == {7}
    assert "| reference | 10/12 | 0.833" in lines[3] and "| worse | 4/12 |" in lines[4]
    assert "-0.500 [" in lines[4] and "| +0.000 |" in lines[6]
    text = verdict(rows, "compound")
    assert "Of 2 rows" in text and "better than the reference: none" in text
    assert "Worse: worse." in text and "no image" not in text


# on simulated images
# --------------------------------------------------------------------------------------------------


class Known(Changes):
    """Frozen layers whose features are drawn, so that no weights are needed."""

    def features(self, name, view="identity"):
        generator = np.random.default_rng(NETWORKS.index(name))
        x = generator.normal(size=(len(self.problem.samples), 12))
        x[:, :8] += 2 * np.eye(8)[self.problem.samples.label.to_numpy(int)]
        return x + (0.1 if view == "hflip" else 0)

    def layer_columns(self, layers):
        return np.arange(12)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return make_plates(tmp_path_factory.mktemp("changes"), size=64)


@pytest.fixture(scope="module")
def changes(place):
    config = make_config(place, place / "runs", folds={"file": place / "folds.csv"})
    return Known(config, None)


@pytest.mark.slow
def test_frozen_layers_are_the_mean_of_regressions_of_the_training_wells(changes):
    samples, expected = changes.problem.samples, []
    for name in NETWORKS:
        wells = pd.DataFrame(changes.features(name), samples.well_id).groupby(level=0).mean()
        label = samples.groupby("well_id").label.first().astype(int)
        scores = pd.DataFrame(0.0, index=changes.wells, columns=range(8))
        for split in changes.problem.splits:
            train = samples.well_id.iloc[split.train].unique()
            query = samples.well_id.iloc[split.valid].unique()
            scaler = StandardScaler().fit(wells.loc[train])
            model = LogisticRegression(class_weight="balanced", max_iter=5000)
            model.fit(scaler.transform(wells.loc[train]), label[train])
            scores.loc[query] = model.predict_log_proba(scaler.transform(wells.loc[query]))
        expected.append(scores.to_numpy())
    rows = {row.title: row for row in changes.all_rows()}
    np.testing.assert_allclose(rows[MERGED].scores, np.mean(expected, axis=0), atol=0.02)
    np.testing.assert_allclose(rows[f"{NETWORKS[1]} alone"].scores, expected[1], atol=0.02)
    wells = samples.drop_duplicates("well_id").set_index("well_id").loc[changes.wells]
    assert (rows[MERGED].unit == wells.experiment).all()
    assert (rows[MERGED].label == wells.label).all() and len(changes.wells) == 64


@pytest.mark.slow
def test_every_row_scores_every_held_out_well(changes):
    rows = changes.all_rows()
    assert len({row.title for row in rows}) == len(rows)
    assert {row.scores.shape for row in rows} == {(64, 8)}
    assert all(np.isfinite(row.scores).all() for row in rows)
    assert {row.section for row in rows} >= {"frozen layers", "frozen layers, changed", "baselines"}
    position = next(row for row in rows if row.title.startswith("position"))
    assert position.right.mean() < 0.5 < rows[0].right.mean()


def test_weights_that_are_missing_are_named(tmp_path):
    known = Known.__new__(Known)
    known.weights = tmp_path
    with pytest.raises(InputError, match=r"tf_efficientnet_lite1\.safetensors: no such file"):
        Changes.features(known, NETWORKS[1])

"""Distances to a gallery are means over folds; which compounds the training saw, by hand."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import cdist

from cellsignal.common.errors import InputError
from cellsignal.competitions.targets import Targets
from cellsignal.prediction import gallery
from cellsignal.prediction.gallery import (
    class_scores,
    distances,
    scoring_tables,
    seen_compounds,
)


def embeddings(seed, names="abcdef", path="e.npz"):
    values = np.random.default_rng(seed).normal(size=(len(names), 5)).astype(np.float16)
    samples = pd.DataFrame({"sample_id": list(names)})
    return SimpleNamespace(path=path, samples=samples, values=values)


def test_distances_are_the_mean_over_the_files():
    first, second = embeddings(0), embeddings(1, "fedcba")
    space = distances([first, second], ["b", "e"], ["a", "f", "c"])
    expected = [
        cdist(file.values[query], file.values[of_gallery], "cosine")
        for file, query, of_gallery in (
            (first, [1, 4], [0, 5, 2]),
            (second, [4, 1], [5, 0, 3]),
        )
    ]
    np.testing.assert_allclose(space.distance, np.mean(expected, axis=0), atol=1e-5)
    np.testing.assert_array_equal(space.query, first.values[[1, 4]])
    np.testing.assert_array_equal(space.gallery, first.values[[0, 5, 2]])
    message = r"e\.npz: lacks the embeddings of 2 samples, first 'x'"
    with pytest.raises(InputError, match=message):
        distances([first], ["x", "a", "y"], ["b"])


def test_tables_have_the_names_that_scoring_uses():
    answers = pd.DataFrame(
        {"id": ["q0", "q1"], "moa": ["m", "n"], "experiment": ["l", "k"], "compound": ["c", "d"]}
    )
    tracks = pd.DataFrame({"label": [0], "moa": ["m"], "drug": ["c"], "library": ["l"]})
    competition = SimpleNamespace(id_column="id")
    queries, found = scoring_tables(competition, answers, ["q1", "q0"], tracks)
    assert queries.target_id.tolist() == ["q1", "q0"] and queries.label.tolist() == ["n", "m"]
    assert queries.library.tolist() == ["k", "l"] and queries["compound"].tolist() == ["d", "c"]
    assert found.label.tolist() == ["m"] and found["compound"].tolist() == ["c"]


def job(name="one", teacher=None, pseudo_labels=None, self_supervised=None):
    """Trains on t0, validates t1 and predicts t2, a query; t3 is a control, t4 takes no part."""
    samples = pd.DataFrame(
        {
            "target_id": ["t0", "t1", "t2", "t3", "t4"],
            "role": ["treatment"] * 3 + ["negative_control", "treatment"],
            "compound": ["a", "b", None, "dmso", "e"],
        }
    )
    stage = SimpleNamespace(
        name=name,
        mean_teacher=None if teacher is None else SimpleNamespace(unlabelled=teacher),
        pseudo_labels=pseudo_labels,
        self_supervised=self_supervised,
    )
    return SimpleNamespace(
        train=np.array([0, 3]),
        valid=np.array([1]),
        test=np.array([2]),
        stage=stage,
        store=SimpleNamespace(samples=samples),
    )


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        ({}, {"a", "b"}),
        ({"teacher": "train"}, {"a", "b"}),
        ({"teacher": "test"}, {"a", "b", "q"}),
        ({"pseudo_labels": object()}, {"a", "b", "q"}),
        ({"teacher": "train", "pseudo_labels": object()}, {"a", "b", "q"}),
        ({"self_supervised": object()}, {"a", "b", "e"}),
    ],
)
def test_what_a_stage_saw_with_and_without_labels(options, seen, monkeypatch):
    monkeypatch.setattr(gallery, "images_without_labels", lambda job: np.array([4]))
    assert seen_compounds([job(**options)], {"t2": "q"}) == {"one": seen}
    both = seen_compounds([job("first"), job(**options), job("first")], {"t2": "q"})
    assert both == {"first": {"a", "b"}, "one": seen}


def test_scores_of_queries_stand_in_their_order(monkeypatch):
    n = np.array(["q0", "q1", "q2"], dtype=object)
    scores = np.arange(9.0).reshape(3, 3)
    targets = Targets(n, n, n, n, n, np.full(3, -1), scores=scores)
    calls = []
    entry = SimpleNamespace(
        final=lambda: ["last"],
        merge=lambda members, part, pool: calls.append((members, part, pool)) or targets,
    )
    monkeypatch.setattr(gallery, "predict", lambda config: ["file"])
    monkeypatch.setattr(gallery, "open_entry", lambda files, how, root: entry)
    config = SimpleNamespace(
        data=SimpleNamespace(root="root"), submit=SimpleNamespace(pool="target")
    )
    competition = SimpleNamespace(classes=lambda root: ("m0", "m1", "m2"))
    query = pd.DataFrame({"target_id": ["q2", "q0"], "label": ["m0", "m2"]})
    found, label = class_scores(config, competition, query)
    np.testing.assert_array_equal(found, scores[[2, 0]])
    assert label.tolist() == [0, 2] and calls == [(["last"], "test", "target")]
    wrong = query.assign(label=["m0", "x"])
    with pytest.raises(InputError, match="answers: 'x' of 'q0' is not one of the 3 mechanisms"):
        class_scores(config, competition, wrong)

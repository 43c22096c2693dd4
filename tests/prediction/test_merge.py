"""Views, the predictions file, and merging against brute force."""

import itertools
import tracemalloc
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import log_softmax, logsumexp, softmax

from cellsignal.common.errors import InputError
from cellsignal.competitions.multi_label import MultiLabel
from cellsignal.competitions.single_label import SingleLabel
from cellsignal.data.views import DIHEDRAL, apply_view, tta_views
from cellsignal.prediction.container import load_predictions, save_predictions
from cellsignal.prediction.merge import merge

SINGLE, SEVERAL = SingleLabel(None), MultiLabel(None)


def test_the_eight_views_are_the_dihedral_group():
    x = torch.arange(9).reshape(1, 1, 3, 3)
    found = {view: tuple(apply_view(x, view).flatten().tolist()) for view in DIHEDRAL}
    square = np.arange(9).reshape(3, 3)
    expected = {
        tuple(np.rot90(s, k).flatten().tolist()) for s in (square, square.T) for k in range(4)
    }
    assert set(found.values()) == expected and len(expected) == 8
    assert found["rot90"] == tuple(np.rot90(square).flatten()) and found["hflip"] == tuple(
        np.fliplr(square).flatten()
    )
    for count in (1, 2, 4, 8):  # each smaller set is a group of its own
        views = tta_views(count)
        for a, b in itertools.product(views, views):
            assert tuple(apply_view(apply_view(x, a), b).flatten().tolist()) in {
                found[v] for v in views
            }


def make(
    path, seed=0, targets=6, sites=2, classes=4, part=None, views=("identity", "hflip"), **about
):
    rng = np.random.default_rng(seed)
    n = targets * sites
    target = np.repeat([f"E-1_{i}" for i in range(targets)], sites)
    order = rng.permutation(n)
    samples = pd.DataFrame(
        {
            "sample_id": [f"{t}_s{i % sites + 1}" for i, t in enumerate(target)],
            "target_id": target,
            "well_id": [f"w{int(t[-1]) // 2}" for t in target],
            "experiment": "E-1",
            "plate": "1",
            "cell_type": "E",
            "site": np.tile(np.arange(1, sites + 1), targets),
            "label": pd.array(np.repeat(rng.integers(0, classes, targets), sites), dtype="Int64"),
        }
    ).iloc[order]
    logits = {
        view: (3 * rng.normal(size=(n, classes))).astype(np.float16).astype(np.float64)
        for view in views
    }
    facts = {
        "classes": [str(i) for i in range(classes)],
        "run": "r",
        "stage": "all",
        "stage_index": 0,
        "fold": 0,
        "seed": 0,
    } | about
    save_predictions(path, samples, np.full(n, "test") if part is None else part, logits, facts)
    return samples, logits


def test_the_file_gives_back_what_was_put_in(tmp_path):
    samples, logits = make(tmp_path / "a.npz")
    found = load_predictions(tmp_path / "a.npz")
    assert found.views == ("identity", "hflip") and found.classes == ("0", "1", "2", "3")
    assert list(found.ids["sample_id"]) == list(samples.sample_id) and list(found.label) == list(
        samples.label
    )
    for view in found.views:
        assert np.array_equal(found.logits(view), logits[view])


def test_a_damaged_or_foreign_file_is_refused(tmp_path):
    make(tmp_path / "a.npz")
    data = bytearray((tmp_path / "a.npz").read_bytes())
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        data[archive.getinfo("view.identity.npy").header_offset + 250] ^= 1
    (tmp_path / "a.npz").write_bytes(data)
    np.savez(tmp_path / "b.npz", x=np.zeros(3))
    (tmp_path / "c.npz").write_bytes(b"no")
    np.savez(tmp_path / "d.npz", **{"view.identity": np.array([object()])})
    for name, expected in (
        ("a", "corrupt"),
        ("b", "not a predictions"),
        ("c", "not a predictions"),
        ("d", "not a predictions"),
        ("e", "no such"),
    ):
        with pytest.raises(InputError, match=rf"{name}\.npz: {expected}"):
            load_predictions(tmp_path / f"{name}.npz")


@pytest.mark.parametrize("how", ["logits", "probabilities", "geometric"])
@pytest.mark.parametrize("pool", ["target", "well"])
def test_merging_is_the_mean_of_means(tmp_path, how, pool):
    kept = [make(tmp_path / f"{i}.npz", seed=i) for i in range(3)]
    members = [load_predictions(tmp_path / f"{i}.npz") for i in range(3)]
    weights = [1.0, 2.0, 0.5]
    found = merge(members, "test", SINGLE, how, weights, pool)
    f = {
        "logits": lambda z: z,
        "probabilities": lambda z: softmax(z, axis=1),
        "geometric": lambda z: log_softmax(z, axis=1),
    }[how]
    key = {"target": "target_id", "well": "well_id"}[pool]
    for i, target in enumerate(found.target_id):
        unit = target if pool == "target" else f"w{int(target[-1]) // 2}"
        means = [
            np.mean(
                [f(logits[v])[(samples[key] == unit).to_numpy()].mean(0) for v in logits], axis=0
            )
            for samples, logits in kept
        ]
        mean = np.average(means, axis=0, weights=weights)
        expected = np.log(mean) if how == "probabilities" else mean - logsumexp(mean)
        assert found.scores[i] == pytest.approx(expected, abs=1e-5)


def test_a_missing_site_does_not_weigh_less(tmp_path):
    samples, logits = make(tmp_path / "a.npz", views=("identity",))
    part = np.where((samples.target_id == "E-1_3") & (samples.site == 2), "none", "test")
    make(tmp_path / "b.npz", views=("identity",), part=part)
    make(tmp_path / "c.npz", seed=5, views=("identity",))
    found = merge(
        [load_predictions(tmp_path / "b.npz"), load_predictions(tmp_path / "c.npz")],
        "test",
        SINGLE,
        "logits",
    )
    other = load_predictions(tmp_path / "c.npz")
    own = logits["identity"][((samples.target_id == "E-1_3") & (samples.site == 1)).to_numpy()][0]
    mean = (
        own + other.logits("identity")[other.ids["target_id"] == "E-1_3"].astype(float).mean(0)
    ) / 2
    assert found.scores[3] == pytest.approx(mean - logsumexp(mean), abs=1e-5)


def test_members_that_cover_different_wells_are_joined(tmp_path):
    """Out-of-fold: each fold's model predicts wells of its own."""
    samples, _ = make(tmp_path / "all.npz", views=("identity",))
    first = samples.target_id.isin(["E-1_0", "E-1_1"])
    make(tmp_path / "a.npz", views=("identity",), part=np.where(first, "oof", "test"))
    make(tmp_path / "b.npz", views=("identity",), part=np.where(first, "test", "oof"))
    both = merge(
        [load_predictions(tmp_path / "a.npz"), load_predictions(tmp_path / "b.npz")], "oof", SINGLE
    )
    whole = merge([load_predictions(tmp_path / "all.npz")], "test", SINGLE)
    assert np.array_equal(both.target_id, whole.target_id) and both.scores == pytest.approx(
        whole.scores, abs=1e-6
    )


def test_sites_and_views_can_be_chosen(tmp_path):
    samples, logits = make(tmp_path / "a.npz")
    found = merge(
        [load_predictions(tmp_path / "a.npz")], "test", SINGLE, views=("hflip",), sites=(2,)
    )
    expected = log_softmax(logits["hflip"][(samples.site == 2).to_numpy()], axis=1)
    order = np.argsort(samples.target_id[samples.site == 2].to_numpy())
    assert found.scores == pytest.approx(expected[order], abs=1e-5)


def test_what_cannot_be_merged(tmp_path):
    make(tmp_path / "a.npz")
    make(tmp_path / "b.npz", classes=5)
    a, b = (load_predictions(tmp_path / f"{name}.npz") for name in "ab")
    with pytest.raises(InputError, match="other classes"):
        merge([a, b], "test", SINGLE)
    with pytest.raises(InputError, match="no oof predictions"):
        merge([a], "oof", SINGLE)
    for weights in ([1.0, 2.0], [0.0]):
        with pytest.raises(InputError, match="weights"):
            merge([a], "test", SINGLE, weights=weights)


@pytest.mark.parametrize("order", ["sorted", "shuffled", "by site"])
def test_the_sums_are_those_of_whole_chunks_to_the_last_bit(tmp_path, monkeypatch, order):
    """Pieces that fit the cache must not change a submission: the sums keep their order."""
    monkeypatch.setattr("cellsignal.prediction.merge._CHUNK", 16)
    monkeypatch.setattr("cellsignal.prediction.merge._PIECE", 5)
    sites, rng = 3, np.random.default_rng(1)  # units of three rows are cut by chunks of 16
    samples, _ = make(tmp_path / "a.npz", targets=10, sites=sites)
    by = {"sorted": ["target_id", "site"], "by site": ["site", "target_id"], "shuffled": None}[
        order
    ]
    samples = samples.sort_values(by, ignore_index=True) if by else samples
    samples = samples.drop(index=samples.index[4])  # one of the targets has two sites
    logits = {"identity": (rng.normal(size=(29, 7)) * 3).astype(np.float16)}
    about = {"classes": [str(i) for i in range(7)], "run": "r", "stage_index": 0}
    save_predictions(tmp_path / "b.npz", samples, np.full(29, "test"), logits, about)
    units, unit = np.unique(samples.target_id, return_inverse=True)
    share = (1 / np.bincount(unit)[unit]).astype(np.float32)
    total = np.zeros((10, 7), np.float32)
    for first in (0, 16):
        rows = np.arange(first, min(first + 16, 29))
        for target in np.unique(unit[rows]):
            of_chunk = np.zeros(7, np.float32)
            for row in rows[unit[rows] == target]:
                of_chunk += share[row] * logits["identity"][row].astype(np.float32)
            total[target] += of_chunk
    found = merge([load_predictions(tmp_path / "b.npz")], "test", SINGLE)
    assert found.target_id.tolist() == units.tolist()
    np.testing.assert_array_equal(found.scores, SINGLE.scores_of_logits(total))


def test_merging_a_full_size_view_stays_far_below_a_gibibyte(tmp_path):
    """19,897 wells x 2 sites x 1,108 classes, one view."""
    make(tmp_path / "a.npz", targets=10, views=("identity",))
    n, classes = 39_794, 1_108
    rng = np.random.default_rng(0)
    block = rng.normal(size=(1_000, classes)).astype(np.float16)
    target = np.repeat(np.arange(n // 2), 2)
    samples = pd.DataFrame(
        {
            "sample_id": np.arange(n).astype(str),
            "target_id": [f"{t:05}" for t in target],
            "well_id": [f"{t:05}" for t in target],
            "experiment": "E-1",
            "plate": "1",
            "cell_type": "E",
            "site": np.tile([1, 2], n // 2),
            "label": pd.array([pd.NA] * n, dtype="Int64"),
        }
    )
    logits = {"identity": np.resize(block, (n, classes))}
    facts = {
        "classes": [str(i) for i in range(classes)],
        "run": "r",
        "stage": "all",
        "stage_index": 0,
        "fold": 0,
        "seed": 0,
    }
    save_predictions(tmp_path / "big.npz", samples, np.full(n, "test"), logits, facts)
    del logits
    tracemalloc.start()
    found = merge([load_predictions(tmp_path / "big.npz")], "test", SINGLE)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.scores.shape == (n // 2, classes) and peak < 700 * 2**20


@pytest.mark.parametrize("task", [SINGLE, SEVERAL])
def test_means_beyond_float32_are_refused_and_not_taken_for_scores(tmp_path, task):
    samples, logits = make(tmp_path / "a.npz", views=("identity",))
    values = logits["identity"].copy()
    values[0, :2] = 3e38, -3e38  # finite, but further apart than float32 reaches
    last = samples.target_id.iloc[0]
    with np.load(tmp_path / "a.npz") as archive:
        arrays = dict(archive)
    values[samples.target_id == last] = values[0]
    np.savez(
        tmp_path / "b.npz",
        **arrays | {"view.identity": values.astype(np.float32)},
    )
    weight = 1e3 if task is SEVERAL else 1.0
    with (
        np.errstate(over="ignore", invalid="ignore"),
        pytest.raises(InputError, match=f"{last}: its merged scores are not all finite"),
    ):
        merge([load_predictions(tmp_path / "b.npz")], "test", task, "geometric", [weight])

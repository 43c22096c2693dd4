"""Logits keep their order and stay finite whatever their scale, and a file with others is refused
by name.
"""

import json
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax

from cellsignal.common.errors import InputError
from cellsignal.competitions.multi_label import MultiLabel
from cellsignal.competitions.single_label import SingleLabel
from cellsignal.prediction.container import (
    load_predictions,
    read_about,
    save_predictions,
    write_about,
)
from cellsignal.prediction.halves import HALF_LIMIT
from cellsignal.prediction.merge import merge
from cellsignal.prediction.pieces import in_pieces

SINGLE, SEVERAL = SingleLabel(None), MultiLabel(None)


def samples_of(n):
    return pd.DataFrame(
        {
            "sample_id": [f"s{i}" for i in range(n)],
            "target_id": [f"t{i}" for i in range(n)],
            "well_id": [f"w{i}" for i in range(n)],
            "experiment": "E",
            "plate": "1",
            "cell_type": "C",
            "site": 1,
            "label": pd.array([0] * n, dtype="Int64"),
            "labels": [(0,)] * n,
        }
    )


def write(path, logits, **about):
    n, classes = logits.shape
    facts = {
        "classes": [str(k) for k in range(classes)],
        "run": "r",
        "stage": "all",
        "stage_index": 0,
        "fold": 0,
        "seed": 0,
    }
    save_predictions(
        path,
        samples_of(n),
        np.full(n, "test"),
        {"identity": logits, "hflip": logits},
        facts | about,
    )
    return load_predictions(path)


@pytest.mark.parametrize("task", [SINGLE, SEVERAL])
@pytest.mark.parametrize("how", ["geometric", "logits", "probabilities"])
@pytest.mark.parametrize("scale", [1.0, 200.0, 3e3, 7e4, 1e6])
def test_merged_scores_are_those_of_the_logits_whatever_their_scale(tmp_path, scale, how, task):
    rng = np.random.default_rng(0)
    logits = np.sort(rng.normal(size=(40, 5)), axis=1)[:, ::-1].copy()
    logits += scale * np.sign(rng.normal(size=(40, 1)))  # steps between classes stay of about 1
    member = write(tmp_path / "p.npz", logits)
    found = merge([member], "test", task, how).scores
    row = np.argsort([f"t{i}" for i in range(40)])
    assert np.isfinite(found).all()
    if how == "geometric" and task is SINGLE:  # float32 keeps 1e6 to 1/16
        np.testing.assert_allclose(
            found, log_softmax(logits, axis=1)[row], atol=0.3 if scale > 7e4 else 0.13
        )
    if how != "probabilities":
        assert (found.argmax(1) == 0).all()


def test_float16_is_kept_where_it_is_fine_enough(tmp_path):
    values = np.linspace(-1, 1, 10).reshape(2, 5)
    assert write(tmp_path / "a.npz", values).logits("identity").dtype == np.float16
    assert (
        write(tmp_path / "b.npz", values * (HALF_LIMIT - 1)).logits("identity").dtype == np.float16
    )
    large = write(tmp_path / "c.npz", values * 70_000).logits("identity")
    assert large.dtype == np.float32
    np.testing.assert_allclose(large, values * 70_000, rtol=1e-6)


def test_pieces_keep_large_logits_beside_small_ones(tmp_path):
    values = np.array([[1.5, 2.5], [70_000.5, -1.0], [0.25, 3.0]])
    whole = in_pieces(
        tmp_path / "x.npz", {}, [np.array([2, 0]), np.array([1])], lambda mine: {"a": values[mine]}
    )
    assert np.array_equal(whole["a"], values.astype(np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_neither_written_nor_read(tmp_path, value):
    logits = np.zeros((6, 3))
    member = write(tmp_path / "old.npz", logits)
    with np.load(tmp_path / "old.npz") as archive:
        arrays = {name: archive[name] for name in archive.files}
    arrays["view.hflip"][4, 1] = value
    np.savez(tmp_path / "old.npz", **arrays)
    logits[4, 1] = value
    with pytest.raises(
        InputError,
        match=r"new\.npz: view 'identity': sample 's4' has a value .* number \(1 such samples\)",
    ):
        write(tmp_path / "new.npz", logits)
    assert not (tmp_path / "new.npz").exists()
    member = load_predictions(tmp_path / "old.npz")
    assert np.array_equal(member.logits("identity"), np.zeros((6, 3)))
    for read in (lambda: member.logits("hflip"), lambda: merge([member], "test", SINGLE)):
        with pytest.raises(
            InputError,
            match=r"old\.npz: view 'hflip': sample 's4' has a value that is not a finite number",
        ):
            read()


def test_logits_of_another_shape_are_refused(tmp_path):
    member = write(tmp_path / "p.npz", np.zeros((6, 3)))
    write_about(tmp_path / "p.npz", member.about | {"classes": ["a", "b"]})
    with pytest.raises(InputError, match=r"holds \(6, 3\) logits, not one for each of \(6, 2\)"):
        load_predictions(tmp_path / "p.npz").logits("identity")


def test_facts_are_read_and_written_alone(tmp_path):
    member = write(tmp_path / "p.npz", np.arange(18).reshape(6, 3) / 7)
    write_about(tmp_path / "p.npz", member.about | {"note": "é"})
    assert (
        read_about(tmp_path / "p.npz")
        == member.about | {"note": "é"}
        == json.loads(json.dumps(member.about | {"note": "é"}))
    )
    assert np.array_equal(
        load_predictions(tmp_path / "p.npz").logits("hflip"), member.logits("hflip")
    )
    np.save(tmp_path / "single.npy", np.arange(3))
    for content in (
        b"",
        b"no",
        (tmp_path / "p.npz").read_bytes()[:200],
        (tmp_path / "single.npy").read_bytes(),
    ):
        (tmp_path / "q.npz").write_bytes(content)
        for read in (read_about, load_predictions):
            with pytest.raises(InputError, match=r"q\.npz: not a predictions file"):
                read(tmp_path / "q.npz")


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_rows_that_are_read_in_chunks_are_those_of_the_whole(tmp_path, data):
    n = data.draw(st.integers(1, 40))
    scale = data.draw(st.sampled_from([1.0, 70_000.0]))  # float16 and float32
    values = np.random.default_rng(n).normal(size=(n, 3)) * scale
    member = write(tmp_path / "p.npz", values)
    rows = np.flatnonzero(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    ends = (
        sorted(data.draw(st.sets(st.integers(1, max(1, len(rows) - 1))))) if len(rows) > 1 else []
    )
    ends += [len(rows)] if len(rows) else []
    chunks = list(member.logits_of("identity", rows, ends))
    assert np.cumsum([len(part) for part in chunks]).tolist() == ends
    expected = member.logits("identity")[rows]
    found = np.concatenate([*chunks, expected[:0]])
    assert found.dtype == expected.dtype and np.array_equal(found, expected)


def test_an_array_by_columns_is_read_in_chunks_too(tmp_path):
    member = write(tmp_path / "p.npz", np.arange(18).reshape(6, 3) / 7)
    with np.load(tmp_path / "p.npz") as archive:
        arrays = {name: archive[name] for name in archive.files}
    arrays["view.identity"] = np.asfortranarray(arrays["view.identity"])
    np.savez(tmp_path / "p.npz", **arrays)
    rows = np.array([0, 2, 3, 5])
    found = np.concatenate(list(member.logits_of("identity", rows, [3, 4])))
    assert np.array_equal(found, member.logits("hflip")[rows])


@pytest.mark.parametrize("rows", [[0], [5], [0, 5]])
def test_damage_anywhere_is_found_whatever_rows_are_read(tmp_path, rows):
    """The checksum is of the whole view: it is read to its end."""
    member = write(tmp_path / "p.npz", np.arange(18).reshape(6, 3) / 7)
    stored = bytearray((tmp_path / "p.npz").read_bytes())
    place = stored.index(member.logits("identity").tobytes())
    stored[place + 20] ^= 1  # a bit of row 3
    (tmp_path / "p.npz").write_bytes(stored)
    with pytest.raises(InputError, match=r"p\.npz: not a predictions file.*CRC"):
        list(member.logits_of("identity", np.array(rows), [len(rows)]))


@pytest.mark.parametrize("labels", [None, np.eye(4, 2)])
def test_the_file_is_numpys_to_the_byte(tmp_path, labels):
    """Arrays are written one after the other; readers of other programs must not notice."""
    samples = samples_of(4)
    logits = {"identity": np.arange(8).reshape(4, 2) / 3, "hflip": np.full((4, 2), 300.0)}
    part = np.array(["oof", "test", "test", "oof"])
    save_predictions(tmp_path / "a.npz", samples, part, logits, {"é": 1}, labels)
    with np.load(tmp_path / "a.npz") as archive:
        arrays = {name: archive[name] for name in archive.files}
    assert [arrays[f"view.{view}"].dtype for view in logits] == ["f2", "f4"]
    np.savez(tmp_path / "b.npz", **arrays)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_a_view_is_looked_up_when_the_one_before_is_written(tmp_path):
    class Views(Mapping):
        """Notes how large the file was when each view was asked for."""

        sizes: ClassVar = []

        def __iter__(self):
            return iter(("a", "b"))

        def __len__(self):
            return 2

        def __getitem__(self, view):
            (file,) = tmp_path.iterdir()
            self.sizes.append(file.stat().st_size)
            return np.zeros((4, 50_000))

    about = {"classes": ["0"] * 50_000}
    save_predictions(tmp_path / "a.npz", samples_of(4), np.full(4, "test"), Views(), about)
    assert Views.sizes[0] < 1000 and Views.sizes[1] > 4 * 50_000 * 2
    assert load_predictions(tmp_path / "a.npz").views == ("a", "b")

"""The files of a store: what is written is read back, and what is damaged is refused."""

import json

import numpy as np
import pandas as pd
import pytest
import zarr

from cellsignal.common.errors import InputError
from cellsignal.common.files import digest
from cellsignal.competitions.samples import COLUMNS
from cellsignal.data.codec import layout_of
from cellsignal.data.store_files import (
    ARRAYS,
    INFO,
    create_arrays,
    hash_arrays,
    parse_samples,
    read_arrays,
    read_info,
    read_samples,
    samples_text,
    write_arrays,
    write_chunk,
)


def samples(**more) -> pd.DataFrame:
    """Two wells of one plate; `more` are columns."""
    rows = pd.DataFrame(
        {
            "sample_id": ["s1", "s2"],
            "target_id": ["t1", "t2"],
            "well_id": ["e_1_A01", "e_1_A02"],
            "experiment": "e",
            "plate": "01",
            "well": ["A01", "A02"],
            "site": [1, 1],
            "cell_type": "HUVEC",
            "label": pd.array([3, None], dtype="Int64"),
            "role": "treatment",
            "compound": ["x", None],
            "split": ["train", "test"],
            "files": [("a.png", "b, ü.png"), ("c.png#2", "d.png")],
        }
    )
    return rows.assign(**more)


@pytest.mark.parametrize(
    ("more", "absent"),
    [
        ({}, {"labels", "treatment"}),
        ({"treatment": [None, None]}, {"labels", "treatment"}),
        ({"treatment": ["x 1 uM", None]}, {"labels"}),
        ({"label": pd.NA, "labels": [(0, 2), None]}, {"treatment"}),
        ({"label": pd.NA, "labels": [(), (1,)]}, {"treatment"}),
    ],
)
def test_a_samples_table_comes_back_as_it_was(more, absent):
    table = samples(**more)
    text = samples_text(table)
    assert text.splitlines()[0].split(",") == [name for name in COLUMNS if name not in absent]
    parsed = parse_samples(text, "store")
    for name in set(COLUMNS) - absent:
        ours, theirs = (column.astype(object) for column in (table[name], parsed[name]))
        assert (
            ours.where(ours.notna(), None).tolist() == theirs.where(theirs.notna(), None).tolist()
        )
    assert parsed.plate.tolist() == ["01", "01"]  # text, not a number


def test_a_samples_table_that_was_changed_is_refused(tmp_path):
    text = samples_text(samples())
    (tmp_path / "samples.csv").write_text(text, encoding="utf-8")
    info = {"samples_sha256": digest(text)}
    assert len(read_samples(tmp_path, info)) == 2
    (tmp_path / "samples.csv").write_text(text.replace("A02", "A03"), encoding="utf-8")
    with pytest.raises(InputError, match=r"samples\.csv: is not the table this store was packed"):
        read_samples(tmp_path, info)
    with pytest.raises(InputError, match=r"samples\.csv\.gz: cannot be read"):
        read_samples(tmp_path / "none", info)
    for wrong in ("no,table\n1,2\n", text.replace('[""a.png""', '[""a.png')):
        with pytest.raises(InputError, match="here: is not a samples table"):
            parse_samples(wrong, "here")


@pytest.mark.parametrize("codec", ["raw", "zstd", "lz4"])
def test_arrays_that_are_not_those_of_the_description_are_refused(tmp_path, codec):
    shape, n = (2, 8, 8), 3
    layout = layout_of(codec, shape)
    create_arrays(tmp_path, n, layout)
    image = np.arange(128, dtype=np.uint8).reshape(shape)
    size = write_chunk(tmp_path, 1, image, layout)
    assert (tmp_path / "images" / "c.1.0.0.0").stat().st_size == size
    assert np.array_equal(zarr.open_group(tmp_path, mode="r")["images"][1], image)
    arrays = {name: np.zeros((n, 2), np.float32) for name in ARRAYS}
    info = {
        "channels": ["a", "b"],
        "shape": [8, 8],
        "codec": codec,
        "joined": codec != "raw",
        "n": n,
        "arrays_digest": write_arrays(tmp_path, arrays),
    }
    assert hash_arrays(arrays) == info["arrays_digest"]
    assert set(read_arrays(tmp_path, info)) == set(ARRAYS)
    for change in ({"n": 4}, {"channels": ["a"]}, {"shape": [8, 9]}, {"arrays_digest": "0"}):
        with pytest.raises(InputError, match=r"are not those that store\.json describes"):
            read_arrays(tmp_path, info | change)
    for other in {"raw", "zstd", "lz4"} - {codec}:
        with pytest.raises(InputError, match=r"are not those that store\.json describes"):
            read_arrays(tmp_path, info | {"codec": other})
    with_stamp = arrays | {"stamp": np.zeros(n, np.uint64)}
    info["arrays_digest"] = write_arrays(tmp_path, with_stamp)
    assert set(read_arrays(tmp_path, info)) == {*ARRAYS, "stamp"}


def test_what_is_no_store_is_refused_in_words(tmp_path):
    with pytest.raises(InputError, match="there is no store; make it with `cellsignal prepare`"):
        read_info(tmp_path)  # empty
    with pytest.raises(InputError, match="there is no store"):
        read_info(tmp_path / "absent")
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(InputError, match=r"is not a store \(it has no store\.json\)"):
            read_info(path)
    for content, words in (
        ("{", "cannot be read as a store's description"),
        ("[]", "is not the description of a cellsignal store"),
        (
            json.dumps({"format": 1}),
            "store format 1, this version reads 2, 3, 4 and 5; pack it anew",
        ),
        (json.dumps({"format": 2, "n": 3}), "is not the description of a cellsignal store"),
    ):
        (tmp_path / INFO).write_text(content)
        with pytest.raises(InputError, match=words):
            read_info(tmp_path)

"""A description that no version wrote is refused when it is read, in one line."""

import json

import pytest

from cellsignal.common.errors import InputError
from cellsignal.data.store_files import read_info

SHARDS = {"most_mb": 512, "made_from": "/a", "table_sha256": "0", "number": 1}
INFO = {
    "format": 5,
    "cellsignal": "0.1.0",
    "source": {"competition": "tiny", "root": "/r"},
    "channels": ["nuclei"],
    "shape": [16, 20],
    "codec": "raw",
    "size": None,
    "n": 3,
    "samples_sha256": "0",
    "arrays_digest": "0",
    "complete": True,
    "shards": SHARDS,
}


def read(folder, info):
    (folder / "store.json").write_text(json.dumps(info))
    return read_info(folder)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"size": 256},
        {"format": 4, "shards": None},
        {"shards": SHARDS | {"most_mb": 0.5}},
        {"complete": False, "arrays_digest": None, "shards": {"most_mb": 1, "made_from": "/a"}},
    ],
)
def test_what_is_written_is_read(tmp_path, change):
    info = INFO | change
    assert read(tmp_path, info) == info


@pytest.mark.parametrize(
    "change",
    [
        {"n": "3"},
        {"n": 0},
        {"shape": None},
        {"shape": [16]},
        {"shape": [16, "20"]},
        {"shape": [16, -1]},
        {"channels": 3},
        {"channels": []},
        {"channels": [1]},
        {"source": None},
        {"complete": "no"},
        {"arrays_digest": None},
        {"codec": ["raw"]},
        {"size": "256"},
        {"shards": None},
        {"shards": {}},
        *({"shards": {k: v for k, v in SHARDS.items() if k != name}} for name in SHARDS),
        {"shards": SHARDS | {"most_mb": "512"}},
    ],
)
def test_what_is_never_written_is_refused(tmp_path, change):
    with pytest.raises(InputError, match=r"store.json: is not the description of a cellsignal"):
        read(tmp_path, INFO | change)


def test_a_newer_versions_codec_is_refused_by_name(tmp_path):
    message = r"store.json: codec brotli, this version reads .*raw.*; use the version of cellsignal"
    with pytest.raises(InputError, match=message):
        read(tmp_path, INFO | {"codec": "brotli"})


def test_a_newer_versions_format_is_refused_by_number(tmp_path):
    message = r"store format 6, this version reads 2, 3, 4 and 5; .* the version of cellsignal that"
    with pytest.raises(InputError, match=message):
        read(tmp_path, INFO | {"format": 6})

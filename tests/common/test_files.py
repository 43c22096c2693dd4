"""Files are whole or not there, and say what they were made from."""

import errno
import json
import os
import platform
import subprocess

import pytest

from cellsignal.common.errors import InputError
from cellsignal.common.files import (
    atomic_path,
    digest,
    provenance,
    sha256,
    write_csv,
    write_json,
    write_text,
)


def test_a_failing_block_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("stop")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_a_folder_in_the_way_is_one_line(tmp_path):
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(InputError, match=r"a\.txt: "):
        write_text(tmp_path / "a.txt", "x")
    assert os.listdir(tmp_path) == ["a.txt"]


def test_files_have_the_usual_mode(tmp_path):
    write_text(tmp_path / "a.txt", "x")
    (tmp_path / "plain").write_text("x")
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_provenance_hashes_its_inputs_and_hides_the_machine(tmp_path, monkeypatch):
    write_text(tmp_path / "in.csv", "a,b\n1,2\n")
    monkeypatch.setattr("sys.argv", ["/some/where/bin/cellsignal", "submit", "x.yaml"])
    found = provenance({"table": tmp_path / "in.csv", "none": tmp_path / "none"}, seed=3)
    assert found["command"] == "cellsignal submit x.yaml" and found["seed"] == 3
    assert found["inputs"] == {
        "table": {"path": str(tmp_path / "in.csv"), "sha256": sha256(tmp_path / "in.csv")}
    }
    write_json(tmp_path / "p.json", found)
    assert json.loads((tmp_path / "p.json").read_text()) == found


def test_hashes_are_the_standard_ones(tmp_path):
    write_text(tmp_path / "abc", "abc")
    assert (
        sha256(tmp_path / "abc")
        == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
    assert digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1}) != digest({"a": 2, "b": 2})


def test_a_frame_is_written_without_its_index(tmp_path):
    pd = pytest.importorskip("pandas")
    write_csv(tmp_path / "a.csv", pd.DataFrame({"x": [1], "y": ["z"]}))
    assert (tmp_path / "a.csv").read_text() == "x,y\n1,z\n"


def test_what_a_killed_process_left_goes_and_what_others_write_stays(tmp_path):
    path = tmp_path / "[a].json"  # brackets mean something to glob
    dead = subprocess.Popen(["true"])
    dead.wait()
    left = tmp_path / f".[a].json.{platform.node()}-{dead.pid}.x.tmp"
    kept = [
        tmp_path / f".[a].json.{platform.node()}-{os.getpid()}.x.tmp",
        tmp_path / f".[a].json.elsewhere-{dead.pid}.x.tmp",
        tmp_path / ".b.json.tmp",
    ]
    for file in (left, *kept):
        file.write_text("half")
    write_text(path, "whole")
    assert not left.exists() and all(file.exists() for file in kept) and path.read_text() == "whole"


def test_a_disk_that_fills_at_the_flush_leaves_the_old_file(tmp_path, monkeypatch):
    write_text(tmp_path / "a.txt", "old")

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        InputError, match=r"a\.txt: could not be written \(No space left on device\)"
    ):
        write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]

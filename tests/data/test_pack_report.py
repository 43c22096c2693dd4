"""What is not in a store is counted and listed in little space; stores of format 2 go on."""

import gzip
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from tiny_store import TinyCompetition, tiny_samples, write_root

from cellsignal.common.errors import InputError
from cellsignal.data import pack_report
from cellsignal.data.filling import read_entries
from cellsignal.data.journal import journal_line
from cellsignal.data.pack import prepare
from cellsignal.data.pack_report import PackReport, list_left_out, read_left_out
from cellsignal.data.store import Store
from cellsignal.data.store_files import samples_text

FILES = tiny_samples().files


class LeavesOut(TinyCompetition):
    """Names what is in no sample; fails at the site `fail_at` that it is asked for."""

    others = (("no platemap", "well 'A01', \"x\""), ("no platemap", "b"), ("not understood", "c"))

    def __init__(self, others=others, fail_at=None):
        self.others, self.fail_at, self.sites = others, fail_at, []

    def left_out(self, root):
        return self.others

    def read(self, root, files, shape=None):
        if len(self.sites) == self.fail_at:
            raise KeyboardInterrupt
        self.sites.append(files)
        return super().read(root, files, shape)


@pytest.fixture
def root(tmp_path):
    """Twelve sites: 2 and 9 lack a file, 4 has a damaged one."""
    write_root(tmp_path / "root")
    for row in (2, 9):
        (tmp_path / "root" / FILES[row][1]).unlink()
    damaged = tmp_path / "root" / FILES[4][0]
    damaged.write_bytes(damaged.read_bytes()[:50])
    return tmp_path / "root"


def content(path: Path) -> dict[str, bytes]:
    """Every file of a store; of store.json what does not tell time and place."""
    files = {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}
    info = json.loads(files.pop("store.json"))
    info.pop("made_by", None)
    return files | {"store.json": json.dumps(info, sort_keys=True).encode()}


def to_format_2(out: Path, **changes) -> None:
    """Make a store what the version before wrote: plain tables, and the list in store.json."""
    info = json.loads((out / "store.json").read_text())
    if info["complete"]:
        skipped = [{"sample_id": name, "message": why} for name, why in Store.open(out).skipped]
        del info["left_out"], info["left_out_sha256"]
        info["skipped"] = skipped
        (out / "left_out.csv").write_text("reason,name\n")
    info |= {"format": 2, **changes}
    (out / "store.json").write_text(json.dumps(info))
    table = gzip.decompress((out / "samples.csv.gz").read_bytes())
    (out / "samples.csv").write_bytes(table)
    for name in ("samples.csv.gz", "left_out.csv.gz"):
        (out / name).unlink(missing_ok=True)


def test_what_is_left_out_is_counted_in_store_json_and_listed_compressed(root, tmp_path):
    report = prepare(LeavesOut(), root, tmp_path / "out")
    ids, info = tiny_samples().sample_id, json.loads((tmp_path / "out/store.json").read_text())
    assert report.n_packed == 9 and report.reasons == ("missing", "truncated", "missing")
    assert report.counts_text() == "2 missing, 1 truncated"
    assert info["left_out"] == {
        "an image that cannot be used: missing": 2,
        "an image that cannot be used: truncated": 1,
        "no platemap": 2,
        "not understood": 1,
    }
    assert "skipped" not in info and not any(name in json.dumps(info) for name in ids)
    table = pd.read_csv(tmp_path / "out/left_out.csv.gz", keep_default_na=False)
    assert table.columns.to_list() == ["reason", "name", "message"]
    assert table.name.to_list() == [*ids[[2, 4, 9]], "well 'A01', \"x\"", "b", "c"]
    assert FILES[2][1] in table.message[0] and "truncated" in table.message[1]
    assert table.message[3:].to_list() == [""] * 3
    assert Store.open(tmp_path / "out").skipped == report.skipped
    assert PackReport(1, (), ()).counts_text() == ""
    samples = pd.read_csv(tmp_path / "out/samples.csv.gz", dtype=str)
    assert samples.sample_id.to_list() == ids.to_list()


def test_a_sparse_store_has_small_tables(tmp_path):
    """One image of 3,000 sites: 37 bytes a site here; format 2 took 560."""
    write_root(tmp_path / "root", wells=6)
    root, n = tmp_path / "root", 3000
    many = tiny_samples(n // 2)
    many["well_id"] = many["target_id"] = [f"e_{number // 2:05}" for number in range(n)]
    (root / "samples.csv").write_text(samples_text(many))
    for name in (name for files in FILES[1:] for name in files):
        (root / name).unlink()
    report = prepare(LeavesOut(()), root, tmp_path / "out")
    assert report.n_packed == 1 and report.reasons == ("missing",) * (n - 1)
    tables = [path for path in (tmp_path / "out").iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in tables) < 60 * n
    store = Store.open(tmp_path / "out")
    assert len(store.skipped) == n - 1 and store.samples.sample_id.to_list() == [many.sample_id[0]]


def test_a_list_alone_that_changes_is_brought_up_to_date(root, tmp_path):
    out = tmp_path / "out"
    prepare(LeavesOut(), root, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    again = LeavesOut()
    prepare(again, root, out)
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert again.sites == [FILES[row] for row in (2, 4, 9)]  # what cannot be read is tried again
    prepare(LeavesOut((("new", "d"),)), root, out)
    prepare(LeavesOut((("new", "d"),)), root, tmp_path / "fresh")
    assert content(out) == content(tmp_path / "fresh")


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"no gzip")])
def test_a_lost_or_damaged_list_is_named_and_written_anew(root, tmp_path, damage):
    out = tmp_path / "out"
    prepare(LeavesOut(), root, out)
    before = content(out)
    damage(out / "left_out.csv.gz")
    with pytest.raises(InputError, match=r"left_out\.csv\.gz: cannot be read"):
        _ = Store.open(out).skipped
    prepare(LeavesOut(), root, out)
    assert content(out) == before
    text = gzip.decompress((out / "left_out.csv.gz").read_bytes())
    (out / "left_out.csv.gz").write_bytes(gzip.compress(text.replace(b"platemap", b"platemop")))
    with pytest.raises(InputError, match=r"is not the list that store\.json describes"):
        _ = Store.open(out).skipped
    prepare(LeavesOut(), root, out)
    assert content(out) == before


def test_a_list_that_cannot_be_written_is_a_warning(root, tmp_path, monkeypatch, caplog):
    prepare(LeavesOut(), root, tmp_path / "out")
    before = content(tmp_path / "out")

    def refuse(path, text):
        raise InputError(f"{path}: read-only file system")

    monkeypatch.setattr(pack_report, "write_gzip", refuse)
    prepare(LeavesOut(()), root, tmp_path / "out")
    assert "left_out.csv.gz: not brought up to date" in caplog.text
    assert content(tmp_path / "out") == before


# stores of format 2
# --------------------------------------------------------------------------------------------------


def test_a_store_of_format_2_is_read_and_becomes_todays(root, tmp_path):
    out = tmp_path / "out"
    prepare(LeavesOut(), root, out)
    today, store = content(out), Store.open(out)
    skipped = store.skipped
    to_format_2(out)
    old = Store.open(out)
    assert old.content_hash == store.content_hash and old.samples.equals(store.samples)
    assert old.skipped == skipped and old.check() == []
    assert [name for _, name, why in read_left_out(out, old.info) if why] == [
        name for name, _ in skipped
    ]
    again = LeavesOut()
    prepare(again, root, out)
    assert again.sites == [FILES[row] for row in (2, 4, 9)]
    assert content(out) == today


def test_an_unfinished_packing_of_format_2_goes_on(root, tmp_path):
    prepare(LeavesOut(), root, tmp_path / "fresh")
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        prepare(LeavesOut(fail_at=7), root, out)
    to_format_2(out)
    again = LeavesOut()
    prepare(again, root, out)
    assert len(again.sites) == 12 - 7 + 2  # what was skipped (2 and 4) is tried again
    assert content(out) == content(tmp_path / "fresh")


def test_a_store_of_format_2_is_renewed_into_todays(root, tmp_path):
    out = tmp_path / "out"
    prepare(LeavesOut(), root, out)
    to_format_2(out)
    path = root / FILES[5][1]
    cv2.imwrite(str(path), np.full((16, 20), 7, np.uint8))
    os.utime(path, ns=(1, 1))
    again = LeavesOut()
    prepare(again, root, out)
    assert sorted(again.sites) == sorted(FILES[row] for row in (2, 4, 5, 9))
    prepare(LeavesOut(), root, tmp_path / "fresh")
    assert content(out) == content(tmp_path / "fresh")


def test_a_renewal_that_format_2_had_finished_takes_the_stores_place(root, tmp_path):
    """Killed before the first piece was moved, by the version before."""
    out = tmp_path / "out"
    prepare(LeavesOut(), root, out)
    today = content(out)
    prepare(LeavesOut(), root, tmp_path / "next")
    for folder in (out, tmp_path / "next"):
        to_format_2(folder)
        (folder / "left_out.csv").unlink()
    (tmp_path / "next").rename(out / ".next")
    prepare(LeavesOut(), root, out)
    assert content(out) == today


def test_entries_of_a_journal_without_reasons_are_tried_again(root, tmp_path):
    out = tmp_path / "out"
    prepare(LeavesOut(), root, tmp_path / "fresh")
    with pytest.raises(KeyboardInterrupt):
        prepare(LeavesOut(fail_at=7), root, out)
    to_format_2(out)
    entries = read_entries(out, {"complete": False}).values()
    lines = [
        journal_line({key: value for key, value in entry.items() if key != "reason"})
        for entry in entries
    ]
    (out / "journal").write_bytes(b"".join(lines))
    prepare(LeavesOut(), root, out)
    assert content(out) == content(tmp_path / "fresh")


def test_rows_of_the_list_are_sites_first():
    report = PackReport(1, (("s", "a.png: no such image file"),), (), ("missing",))
    assert list_left_out(report, [("why", "x")]) == [
        ("an image that cannot be used: missing", "s", "a.png: no such image file"),
        ("why", "x", ""),
    ]

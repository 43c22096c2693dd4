"""Packing: kills, full disks, bad sites and strangers' stores all end in the same content or in one
line.
"""

import errno
import functools
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tiny_store import CHANNELS, TinyCompetition, tiny_samples, write_root

from cellsignal.common.errors import ImageError, InputError
from cellsignal.data import filling
from cellsignal.data import pack as packing
from cellsignal.data.journal import journal_line, read_journal
from cellsignal.data.pack import PackReport, pack, prepare
from cellsignal.data.sites import channel_statistics, resized
from cellsignal.data.store import Store

COMPETITION = TinyCompetition()


def content(path: Path) -> dict[str, bytes]:
    """Every file of a store by its name; of store.json only what does not tell time and place."""
    files = {
        str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()
    }
    info = json.loads(files.pop("store.json"))
    info.pop("made_by")
    return files | {"store.json": json.dumps(info, sort_keys=True)}


class Counting:
    """A read that notes every call in a file, waits, and fails from call number `fail_at` on."""

    def __init__(self, root, log, fail_at=None, wait=0.0):
        self.root, self.log, self.fail_at, self.wait = root, log, fail_at, wait

    def __call__(self, files):
        with open(self.log, "a") as log:
            log.write(f"{files[0]}\n")
        time.sleep(self.wait)
        if self.fail_at is not None and len(self.log.read_text().splitlines()) > self.fail_at:
            raise KeyboardInterrupt
        return COMPETITION.read(self.root, files, (16, 20))


# of `pack_tiny`; the other codec where a test is marked with `both_codecs`
DEFAULTS = {"codec": "zstd"}
both_codecs = pytest.mark.parametrize("codec", ["zstd", "raw"], indirect=True)


@pytest.fixture(autouse=True)
def codec(request, monkeypatch):
    monkeypatch.setitem(DEFAULTS, "codec", getattr(request, "param", "zstd"))
    return DEFAULTS["codec"]


def pack_tiny(root, out, read=None, **more):
    read = read or functools.partial(COMPETITION.read, root, shape=(16, 20))
    more = (
        {
            "channels": CHANNELS,
            "source": {"competition": "tiny", "root": str(root)},
            "shape": (16, 20),
        }
        | DEFAULTS
        | more
    )
    return pack(tiny_samples(), read, out, **more)


@pytest.fixture
def root(tmp_path):
    write_root(tmp_path / "root")
    return tmp_path / "root"


@pytest.fixture
def undisturbed(root, tmp_path):
    pack_tiny(root, tmp_path / "undisturbed")
    return content(tmp_path / "undisturbed")


@pytest.mark.slow
def test_workers_do_not_change_the_store(root, tmp_path, undisturbed):
    report = pack_tiny(root, tmp_path / "out", workers=2)
    assert report == PackReport(12, (), ())
    assert content(tmp_path / "out") == undisturbed


def test_each_site_is_read_once_and_a_second_call_reads_nothing(root, tmp_path):
    read = Counting(root, tmp_path / "log")
    assert pack_tiny(root, tmp_path / "out", read) == pack_tiny(root, tmp_path / "out", read)
    assert sorted((tmp_path / "log").read_text().split()) == sorted(
        files[0] for files in tiny_samples().files
    )


@both_codecs
@pytest.mark.parametrize("after", [0, 1, 7, 11])
def test_an_interrupted_packing_goes_on(root, tmp_path, undisturbed, after):
    out, log = tmp_path / "out", tmp_path / "log"
    with pytest.raises(KeyboardInterrupt):
        pack_tiny(root, out, Counting(root, log, fail_at=after))
    with pytest.raises(
        InputError,
        match=f"unfinished, {12 - after} of 12 sites are missing; run `cellsignal prepare`",
    ):
        Store.open(out)
    log.unlink()
    pack_tiny(root, out, Counting(root, log))
    assert len(log.read_text().split()) == 12 - after
    assert content(out) == undisturbed


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_pack import Counting, pack_tiny
if __name__ == "__main__":
    root = Path({root!r})
    pack_tiny(root, {out!r}, Counting(root, Path({log!r}), wait=0.05), workers={workers})
"""


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.slow
def test_a_killed_packing_goes_on(root, tmp_path, undisturbed, workers):
    out, log, script = tmp_path / "out", tmp_path / "log", tmp_path / "killed.py"
    tests = str(Path(__file__).parent)
    script.write_text(
        KILLED.format(tests=tests, root=str(root), out=str(out), log=str(log), workers=workers)
    )
    victim = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE)
    journal, deadline = out / "journal", time.monotonic() + 60
    while not (journal.exists() and len(journal.read_bytes().splitlines()) >= 3):
        assert victim.poll() is None and time.monotonic() < deadline, (
            "the packing ended before it could be killed"
        )
        time.sleep(0.005)
    victim.send_signal(signal.SIGKILL)
    victim.communicate(timeout=20)  # its output ends when its workers have ended too
    kept = len(read_journal(out)[0])
    assert 3 <= kept < 12
    log.unlink()
    pack_tiny(root, out, Counting(root, log))
    assert len(log.read_text().split()) == 12 - kept
    assert content(out) == undisturbed


@both_codecs
@pytest.mark.parametrize(
    "torn", ["half line", "changed byte", "short chunk", "lost chunk", "temporary", "no journal"]
)
def test_what_a_power_cut_tears_is_packed_again(root, tmp_path, undisturbed, torn):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        pack_tiny(root, out, Counting(root, tmp_path / "log", fail_at=6))
    journal, chunk = out / "journal", out / "images" / "c.2.0.0.0"
    data = journal.read_bytes()
    if torn == "half line":
        journal.write_bytes(data[:-20])
    elif torn == "changed byte":
        journal.write_bytes(data.replace(b'"row": 4', b'"row": 9'))
    elif torn == "short chunk":
        chunk.write_bytes(chunk.read_bytes()[:-7])
    elif torn == "lost chunk":
        chunk.unlink()
    elif torn == "temporary":
        (out / "images" / ".c.7.tmp").write_bytes(b"half")
    else:
        journal.unlink()
    pack_tiny(root, out)
    assert content(out) == undisturbed


def test_a_journal_torn_twice_loses_only_the_torn_lines(root, tmp_path, undisturbed):
    out, log = tmp_path / "out", tmp_path / "log"
    for calls in (4, 4):  # the first leaves 4 rows, of which 3 survive; the second adds 4
        with pytest.raises(KeyboardInterrupt):
            pack_tiny(root, out, Counting(root, log, fail_at=calls))
        log.unlink()
        (out / "journal").write_bytes((out / "journal").read_bytes()[:-5])
    assert sorted(read_journal(out)[0]) == [0, 1, 2, 3, 4, 5]
    pack_tiny(root, out)
    assert content(out) == undisturbed


def test_a_kill_while_the_very_first_file_is_written(root, tmp_path, undisturbed, monkeypatch):
    """Found by `make torture`: only a temporary file was in the folder."""
    child = os.fork()
    if not child:
        monkeypatch.setattr(os, "replace", lambda *paths: os._exit(9))
        pack_tiny(root, tmp_path / "out")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    (left,) = (tmp_path / "out").iterdir()
    assert left.name.startswith(".store.json.")
    pack_tiny(root, tmp_path / "out")
    assert content(tmp_path / "out") == undisturbed
    assert not left.exists()


@pytest.mark.parametrize("step", ["create_arrays", "write_arrays"])
def test_a_kill_while_making_or_completing_the_store(
    root, tmp_path, undisturbed, monkeypatch, step
):
    original = getattr(packing.stored, step)

    def killed(*arguments):
        original(*arguments)
        os._exit(9)

    child = os.fork()
    if not child:
        setattr(packing.stored, step, killed)
        pack_tiny(root, tmp_path / "out")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    with pytest.raises(InputError):
        Store.open(tmp_path / "out")
    pack_tiny(root, tmp_path / "out")
    assert content(tmp_path / "out") == undisturbed
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "root", "undisturbed"]


@pytest.mark.parametrize(("codec", "missing"), [("zstd", 7), ("raw", 12)], indirect=["codec"])
def test_a_full_disk_is_one_line_and_can_go_on(tmp_path, codec, missing):
    """Really refused by the kernel: no file may pass 40 kB here; raw sites are 45 kB, compressed
    site 5, of noise among flat ones.
    """
    write_root(tmp_path / "root", shape=(100, 150))
    for row, files in enumerate(tiny_samples().files):
        for name in files if row != 5 else ():
            cv2.imwrite(str(tmp_path / "root" / name), np.full((100, 150), row, np.uint8))

    def attempt():
        read = functools.partial(COMPETITION.read, tmp_path / "root")
        return pack_tiny(tmp_path / "root", tmp_path / "out", read, shape=None)

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, limits[1]))
    try:
        with pytest.raises(InputError, match=r"cannot be written .*run again to go on") as caught:
            attempt()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(caught.value) and not list((tmp_path / "out" / "images").glob(".*"))
    with pytest.raises(InputError, match=f"{missing} of 12 sites are missing"):
        Store.open(tmp_path / "out")
    assert attempt().n_packed == 12
    assert Store.open(tmp_path / "out").check() == []


@pytest.mark.parametrize("where", ["journal", "create", "complete"])
def test_a_disk_full_elsewhere_is_one_line_too(root, tmp_path, undisturbed, monkeypatch, where):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    target = {"journal": "journal_line", "create": "create_arrays", "complete": "write_arrays"}[
        where
    ]
    module = filling if where == "journal" else packing.stored
    with monkeypatch.context() as patched:
        patched.setattr(module, target, full)
        with pytest.raises(InputError, match="No space left on device"):
            pack_tiny(root, tmp_path / "out")
    pack_tiny(root, tmp_path / "out")
    assert content(tmp_path / "out") == undisturbed


@both_codecs
def test_bad_sites_are_skipped_listed_and_packed_once_mended(root, tmp_path, undisturbed):
    files, out = tiny_samples().files, tmp_path / "out"
    good = {name: (root / name).read_bytes() for name in (files[2][1], files[9][0])}
    (root / files[2][1]).unlink()
    (root / files[9][0]).write_bytes(good[files[9][0]][:50])
    report = pack_tiny(root, out)
    ids = tiny_samples().sample_id
    assert report.n_packed == 10 and [sample_id for sample_id, _ in report.skipped] == [
        ids[2],
        ids[9],
    ]
    assert files[2][1] in report.skipped[0][1] and "truncated" in report.skipped[1][1]
    assert sorted(set(ids) - set(Store.open(out).samples.sample_id)) == sorted([ids[2], ids[9]])
    before = (out / "store.json").read_bytes()
    assert pack_tiny(root, out) == report and (out / "store.json").read_bytes() == before

    (root / files[2][1]).write_bytes(good[files[2][1]])
    assert pack_tiny(root, out).n_packed == 11
    (root / files[9][0]).write_bytes(good[files[9][0]])
    assert pack_tiny(root, out, workers=2) == PackReport(12, (), ())
    assert content(out) == undisturbed


def test_refuse_stops_at_the_bad_site_and_keeps_the_others(root, tmp_path, undisturbed):
    name = tiny_samples().files[5][0]
    data = (root / name).read_bytes()
    (root / name).unlink()
    with pytest.raises(ImageError, match="no such image") as caught:
        pack_tiny(root, tmp_path / "out", bad_site="refuse")
    assert caught.value.kind == "missing" and caught.value.path == str(root / name)
    assert sorted(read_journal(tmp_path / "out")[0]) == [0, 1, 2, 3, 4]
    (root / name).write_bytes(data)
    pack_tiny(root, tmp_path / "out", bad_site="refuse")
    assert content(tmp_path / "out") == undisturbed


def test_a_site_of_another_size_or_without_permission_is_bad(root, tmp_path):
    files = tiny_samples().files
    for name in files[4]:
        cv2.imwrite(str(root / name), np.full((8, 8), 3, np.uint8))
    (root / files[6][0]).unlink()
    (root / files[6][0]).mkdir()  # a folder where a file should be: the system refuses to read it
    report = pack_tiny(
        root, tmp_path / "out", functools.partial(COMPETITION.read, root), shape=None
    )
    assert report.n_packed == 10
    assert (
        "8x8 pixels, 20x16 expected" in report.skipped[0][1]
        and "cannot be read" in report.skipped[1][1]
    )


def test_no_readable_site_is_an_error(root, tmp_path):
    for name in (root / "images").iterdir():
        name.unlink()
    for shape in ((16, 20), None):
        with pytest.raises(
            InputError, match=r"none of the 12 sites can be read; the first: .*no such image"
        ):
            pack_tiny(root, tmp_path / "out", shape=shape)
    with pytest.raises(InputError, match="no samples"):
        pack(
            tiny_samples().iloc[:0],
            COMPETITION.read,
            tmp_path / "none",
            channels=CHANNELS,
            source={},
        )


def test_another_making_is_refused_with_what_differs(root, tmp_path):
    out = tmp_path / "out"
    pack_tiny(root, out)
    before = content(out)
    write_root(tmp_path / "twin", seed=1)  # the same table, other pixels
    read = functools.partial(COMPETITION.read, root)
    same = {
        "channels": CHANNELS,
        "shape": (16, 20),
        "codec": "zstd",
        "source": {"competition": "tiny", "root": str(root)},
    }
    for refused, match in (
        (lambda: pack_tiny(tmp_path / "twin", out), "another root"),
        (
            lambda: pack_tiny(root, out, source={"competition": "huge"}),
            "another competition: tiny, now huge",
        ),
        (lambda: pack_tiny(root, out, size=8), "another size: None, now 8"),
        (lambda: pack_tiny(root, out, channels=("a", "b", "c")), "another channels"),
        (lambda: pack_tiny(root, out, codec="auto"), "another codec: zstd, now raw"),
        (
            lambda: pack(tiny_samples(5), read, out, **same),
            "holds 2 samples that the data no longer have, first exp-1_0_W05_s1",
        ),
        (lambda: pack_tiny(root, root), "neither empty nor a store"),
        (lambda: pack_tiny(root, root / "samples.csv"), "neither empty nor a store"),
    ):
        with pytest.raises(InputError, match=match) as caught:
            refused()
        assert "\n" not in str(caught.value)
    assert content(out) == before


def test_two_packings_at_once_are_refused(root, tmp_path):
    def second(files):
        with pytest.raises(InputError, match="another process"):
            pack_tiny(root, tmp_path / "out")
        return COMPETITION.read(root, files)

    assert pack_tiny(root, tmp_path / "out", second).n_packed == 12


@both_codecs
def test_a_damaged_chunk_is_packed_anew_as_the_message_says(root, tmp_path, undisturbed):
    out = tmp_path / "out"
    pack_tiny(root, out)
    chunk = out / "images" / "c.3.0.0.0"
    chunk.write_bytes(b"x" + chunk.read_bytes()[1:])
    ((_, message),) = Store.open(out).check()
    assert (
        f"{chunk}" in message and "delete that file and run `cellsignal prepare` again" in message
    )
    chunk.unlink()
    pack_tiny(root, out)
    assert content(out) == undisturbed


def test_flat_channels_are_packed_and_reported(root, tmp_path):
    files, ids = tiny_samples().files, tiny_samples().sample_id
    one_off = np.full((16, 20), 255, np.uint8)
    cv2.imwrite(str(root / files[0][1]), one_off)
    cv2.imwrite(str(root / files[1][2]), np.zeros((16, 20), np.uint8))
    one_off[3, 4] = 254
    cv2.imwrite(str(root / files[2][0]), one_off)
    report = prepare(COMPETITION, root, tmp_path / "out")
    assert report == PackReport(12, (), ((ids[0], "er"), (ids[1], "actin")))
    store = Store.open(tmp_path / "out")
    assert (
        store.sd[0, 1] == 0
        and store.mean[0, 1] == 255
        and store.sd[2, 0] == pytest.approx(one_off.std())
    )
    assert prepare(COMPETITION, root, tmp_path / "out") == report


def test_resizing_averages_areas(root, tmp_path):
    report = prepare(COMPETITION, root, tmp_path / "out", size=8)
    store = Store.open(tmp_path / "out")
    assert report.n_packed == 12 and store.shape == (3, 8, 8)
    image = store.read(0)
    np.testing.assert_allclose(store.mean[0], image.mean((1, 2)), rtol=1e-6)
    original = COMPETITION.read(root, tiny_samples().files[0])
    halves = resized(original, (8, 10))
    blocks = original.reshape(3, 8, 2, 10, 2).mean((2, 4))
    assert np.abs(halves - blocks).max() <= 0.5
    assert (
        resized(original, (32, 40)).shape == (3, 32, 40) and resized(original, (16, 20)) is original
    )


@settings(max_examples=50, deadline=None)
@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 7), st.integers(1, 12), st.integers(1, 12))))
def test_channel_statistics_equal_numpys(image):
    mean, sd = channel_statistics(image)
    np.testing.assert_allclose(mean, image.mean((1, 2)), rtol=1e-12)
    np.testing.assert_allclose(sd, image.std((1, 2)), rtol=1e-6, atol=1e-9)
    assert ((sd == 0) == (np.ptp(image, axis=(1, 2)) == 0)).all()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(max_size=5), min_size=1, max_size=5), st.integers(0, 400))
def test_a_journal_cut_anywhere_gives_its_whole_lines(tmp_path_factory, messages, cut):
    folder = tmp_path_factory.mktemp("journal")
    lines = [journal_line({"row": row, "message": message}) for row, message in enumerate(messages)]
    (folder / "journal").write_bytes(b"".join(lines)[:cut])
    whole = sum(sum(map(len, lines[: number + 1])) <= cut for number in range(len(lines)))
    entries, good = read_journal(folder)
    assert [entry["message"] for entry in entries.values()] == messages[:whole] and good == sum(
        map(len, lines[:whole])
    )

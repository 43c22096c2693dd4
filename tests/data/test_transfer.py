"""What is tried again, what is not, and what each failure says."""

import sys

import pytest
from remote_store import Flaky

from cellsignal.common.errors import InputError
from cellsignal.common.places import as_place
from cellsignal.data import transfer
from cellsignal.data.transfer import ShortFile, Transfer

CONTENT = bytes(range(100))


@pytest.fixture(autouse=True)
def served(tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "FIRST_WAIT", 0.0)
    (tmp_path / "store").mkdir()
    (tmp_path / "store/file").write_bytes(CONTENT)
    Flaky.serve(tmp_path)


def fetch(*args):
    return Transfer(as_place("flaky://store")).fetch(*args)


class Status(OSError):
    def __init__(self, status):
        super().__init__(f"answer {status}")
        self.status = status


def test_ranges_are_those_of_the_file():
    assert fetch("file") == CONTENT
    assert fetch("file", 10, 5) == CONTENT[10:15]
    assert fetch("file", -7) == CONTENT[-7:]
    assert fetch("file", 95) == CONTENT[95:]


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_these_pass(status):
    Flaky.plan += [Status(status), Status(status)]
    assert fetch("file", 0, 3) == CONTENT[:3] and len(Flaky.calls) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 405, 410])
def test_these_do_not(status):
    Flaky.always["file"] = Status(status)
    with pytest.raises(InputError, match=rf"flaky://store/file: row 7: .*answer {status}"):
        fetch("file", 0, None, "row 7")
    assert len(Flaky.calls) == 1


def test_a_short_answer_is_asked_for_again_then_refused():
    Flaky.plan += [4, 3]
    assert fetch("file", 0, 5) == CONTENT[:5]
    with pytest.raises(ShortFile, match="5 of 10 bytes came"):
        fetch("file", 95, 10)
    Flaky.plan += [Status(503), 4, TimeoutError(), 3]  # of three short answers it is given up
    assert fetch("file", 0, 5) == CONTENT[:5]
    Flaky.always["file"] = Status(416)
    with pytest.raises(ShortFile, match=r"answer 416"):
        fetch("file", 200, 10)


def test_the_waits_grow_and_are_bounded(monkeypatch):
    waits = []
    monkeypatch.setattr(transfer, "FIRST_WAIT", 0.25)
    monkeypatch.setattr(transfer.time, "sleep", waits.append)
    monkeypatch.setattr(transfer._random, "uniform", lambda low, high: high)
    Flaky.always["file"] = TimeoutError("no answer")
    with pytest.raises(InputError, match="failed 8 times; the last time: no answer"):
        fetch("file")
    assert waits == [0.25, 0.5, 1, 2, 4, 8, 16]


def test_a_bug_keeps_its_traceback():
    Flaky.always["file"] = KeyError("ours")
    with pytest.raises(KeyError):
        fetch("file")


@pytest.mark.parametrize(("url", "package"), [("s3://b/x", "s3fs"), ("gs://b/x", "gcsfs")])
def test_a_missing_package_is_one_line(monkeypatch, url, package):
    registry = sys.modules["fsspec.registry"]
    for protocol in ("s3", "gs"):
        monkeypatch.setitem(registry._registry, protocol, None)
        monkeypatch.delitem(registry._registry, protocol)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError) as caught:
        Transfer(as_place(url)).fetch("store.json")
    text = str(caught.value)
    assert text.startswith(f"{url}: ") and f"pip install {package}" in text and "\n" not in text


def test_without_fsspec_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(InputError, match=r"needs the package fsspec.*\[remote\]"):
        fetch("file")


def test_an_unknown_protocol_is_one_line():
    with pytest.raises(InputError, match="nosuch://b/x: cannot be read as a URL"):
        Transfer(as_place("nosuch://b/x")).fetch("store.json")

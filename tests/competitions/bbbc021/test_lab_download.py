"""The lab's archive from a server on this machine: resumed, noted, refused, left alone."""

import functools
import hashlib
import json

import pytest
from file_host import Host, zipped
from lab_folder import write_lab_folder

from cellsignal.common.errors import InputError
from cellsignal.competitions import get_competition
from cellsignal.competitions.bbbc021.lab_download import NAME, URL, download_lab_archive
from cellsignal.fetch import Fetcher, Politeness

QUICK = Politeness(per_second=10_000, attempts=2, backoff_s=0.001, timeout_s=5)
COMPETITION = get_competition("bbbc021")


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    """The repository as GitHub packs it: all of it below a folder that names it."""
    root = tmp_path_factory.mktemp("lab")
    write_lab_folder(root, wells=1)
    files = sorted(path for path in root.rglob("*") if path.is_file())
    images = {f"StatPred_2019-HEAD/{path.relative_to(root)}": path.read_bytes() for path in files}
    return {**images, "StatPred_2019-HEAD/README.md": b"lab"}


@pytest.fixture
def host(members):
    served = Host()
    served.files["HEAD.zip"] = zipped(members)
    yield served
    served.http.shutdown()
    served.http.server_close()


@pytest.fixture
def fetch(host):
    with Fetcher(QUICK) as fetcher:
        yield functools.partial(download_lab_archive, url=f"{host.url}/HEAD.zip", fetcher=fetcher)


def files_in(root):
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.name != "downloads.json"
    }


def test_it_arrives_is_noted_and_is_then_left_alone(host, fetch, members, tmp_path, caplog):
    fetch(tmp_path)
    assert files_in(tmp_path) == members, "unpacked as it is, and no zip kept"
    assert len(COMPETITION.samples(tmp_path)) == 24
    body = host.files["HEAD.zip"]
    assert json.loads((tmp_path / "downloads.json").read_text()) == {
        NAME: {
            "url": f"{host.url}/HEAD.zip",
            "bytes": len(body),
            "sha256": hashlib.sha256(body).hexdigest(),
        }
    }
    assert "has 24 images, 660 are published" in caplog.text
    host.asked.clear()
    with caplog.at_level("INFO"):
        fetch(tmp_path)
    assert host.asked == [] and "is there already; nothing is fetched" in caplog.text


def test_a_broken_line_is_taken_up_where_it_broke(host, fetch, members, tmp_path):
    host.cut["HEAD.zip"] = (2, 1_000_000)
    with pytest.raises(InputError, match="the same command again goes on from here"):
        fetch(tmp_path)
    assert not (tmp_path / "StatPred_2019-HEAD").exists()
    fetch(tmp_path)
    starts = [start for _, start in host.asked]
    assert starts[0] == 0 and starts[-1] > 0 and files_in(tmp_path) == members


def test_a_stopped_unpacking_is_finished(host, fetch, members, tmp_path):
    """As a kill leaves it: the zip whole, some images out of it."""
    archive = tmp_path / ".download" / NAME
    archive.parent.mkdir()
    archive.write_bytes(host.files["HEAD.zip"])
    name = next(iter(members))
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_bytes(members[name])
    fetch(tmp_path)
    assert host.asked == [] and files_in(tmp_path) == members


@pytest.mark.parametrize("name", ["../../evil.png", "/evil.png", "a/../../../evil.png"])
def test_a_path_outside_is_refused_and_nothing_is_unpacked(host, fetch, members, name, tmp_path):
    host.files["HEAD.zip"] = zipped({**members, name: b"evil"})
    with pytest.raises(InputError, match="would land outside the target; nothing was unpacked"):
        fetch(tmp_path / "deep" / "data")
    assert not list(tmp_path.rglob("*.png"))


def test_a_damaged_zip_is_removed_and_the_next_call_succeeds(host, fetch, members, tmp_path):
    good = host.files["HEAD.zip"]
    for bad in (good[: len(good) // 2], b"<html>busy</html>"):
        host.files["HEAD.zip"] = bad
        with pytest.raises(InputError, match="came damaged and was removed"):
            fetch(tmp_path)
    host.files["HEAD.zip"] = good
    fetch(tmp_path)
    assert files_in(tmp_path) == members


def test_a_repository_without_the_images_is_one_line(host, fetch, tmp_path):
    host.files["HEAD.zip"] = zipped({"StatPred_2019-HEAD/README.md": b"lab"})
    with pytest.raises(InputError, match="no folder bbbc021v1_subset; there is StatPred_2019-HEAD"):
        fetch(tmp_path)


def test_the_command_leaves_data_alone_that_are_there(tmp_path, caplog):
    """No network: the archive, or the course's tables, are in place."""
    write_lab_folder(tmp_path / "lab", wells=1)
    (tmp_path / "course").mkdir()
    (tmp_path / "course" / "train.csv").write_text("image_id\n")
    with caplog.at_level("INFO"):
        COMPETITION.download(tmp_path / "lab")
        COMPETITION.download(tmp_path / "course")
    assert caplog.text.count("nothing is fetched") == 2
    with pytest.raises(InputError, match="no choice 'plates'"):
        COMPETITION.download(tmp_path / "lab", plates="1")
    assert URL.startswith("https://github.com/pharmbio/StatPred_2019/archive/")

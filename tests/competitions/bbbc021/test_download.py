"""BBBC021's download against a server on this machine that holds zips shaped like the real ones:
resumed, checked, refused.
"""

import functools
import hashlib
import json
import zipfile

import pandas as pd
import pytest
from file_host import Host, zipped

from cellsignal.common.errors import InputError
from cellsignal.competitions import get_competition
from cellsignal.competitions.bbbc021.download import archive_name, download
from cellsignal.competitions.bbbc021.metadata import IMAGE_CSV, MOA_CSV
from cellsignal.fetch import Fetcher, Politeness

QUICK = Politeness(per_second=10_000, attempts=2, backoff_s=0.001, timeout_s=5)
SIZE = {
    "classes": 2,
    "compounds_per_class": 1,
    "sites": 1,
    "replicates": 1,
    "weeks": 2,
    "controls": 1,
    "size": 32,
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp("source") / "data"
    get_competition("bbbc021_full").simulate(root, 0, **SIZE)
    return root


@pytest.fixture
def plates(source):
    """plate -> {path in its zip: bytes}, the paths beginning with the plate's folder."""
    return {
        folder.name: {
            f"{folder.name}/{path.name}": path.read_bytes() for path in sorted(folder.iterdir())
        }
        for folder in sorted(source.glob("Week*/*"))
    }


@pytest.fixture
def host(source, plates):
    served = Host()
    served.files = {name: (source / name).read_bytes() for name in (IMAGE_CSV, MOA_CSV)}
    served.files |= {archive_name(plate): zipped(members) for plate, members in plates.items()}
    yield served
    served.http.shutdown()
    served.http.server_close()


@pytest.fixture
def fetched(host):
    """`download` from the host."""
    with Fetcher(QUICK) as fetcher:
        yield functools.partial(download, host=host.url, fetcher=fetcher)


def images(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.tif")}


def test_all_of_it_arrives_and_is_then_left_alone(host, fetched, source, tmp_path):
    fetched(tmp_path)
    assert (
        images(tmp_path) == images(source)
        and (tmp_path / IMAGE_CSV).read_bytes() == (source / IMAGE_CSV).read_bytes()
    )
    assert not list((tmp_path / ".download").iterdir()), "no archive is kept"
    record = json.loads((tmp_path / "downloads.json").read_text())
    for name, body in host.files.items():
        sizes = record[name].pop("files", None)
        assert sizes is None or sizes == {
            file: len(image) for file, image in images(tmp_path).items() if file in sizes
        }
        assert record[name] == {
            "url": f"{host.url}/{name}",
            "bytes": len(body),
            "sha256": hashlib.sha256(body).hexdigest(),
        }
    competition = get_competition("bbbc021_full")
    pd.testing.assert_frame_equal(competition.samples(tmp_path), competition.samples(source))
    host.asked.clear()
    fetched(tmp_path)
    assert host.asked == []


@pytest.mark.parametrize("inside", ["", "Week1/", None])
def test_whichever_folders_the_zip_holds_the_files_come_to_the_same_place(
    inside, host, fetched, plates, source, tmp_path
):
    plate = min(plates)
    prefix = f"{plate}/"
    members = {
        (name.removeprefix(prefix) if inside is None else inside + name): body
        for name, body in plates[plate].items()
    }
    host.files[archive_name(plate)] = zipped(members)
    fetched(tmp_path, [plate])
    assert images(tmp_path) == {
        name: body for name, body in images(source).items() if prefix in name
    }


def test_some_plates_alone(host, fetched, plates, tmp_path):
    first, second = sorted(plates)
    fetched(tmp_path, [second])
    assert host.zips_asked() == [archive_name(second)] and {
        name.split("/")[1] for name in images(tmp_path)
    } == {second}
    fetched(tmp_path)
    assert host.zips_asked() == [archive_name(second), archive_name(first)]
    with pytest.raises(InputError, match="plates: 'Week9_1' is not one of the 2 plates"):
        fetched(tmp_path, ["Week9_1"])


def test_a_broken_line_is_taken_up_where_it_broke(host, fetched, plates, source, tmp_path):
    name = archive_name(min(plates))
    noise = hashlib.shake_256(b"noise").digest(600_000)  # a plate of more than one chunk
    host.files[name] = zipped(
        {**plates[min(plates)], f"{min(plates)}/Thumbs.db": noise}, zipfile.ZIP_STORED
    )
    host.cut[name] = (2, 550_000)
    with pytest.raises(InputError, match="the same command again goes on from here") as caught:
        fetched(tmp_path)
    assert "\n" not in str(caught.value) and not images(tmp_path)
    fetched(tmp_path)
    starts = [start for asked, start in host.asked if asked == name]
    assert starts[0] == 0 and starts[-1] > 0 and images(tmp_path) == images(source)


def test_a_plate_with_an_image_cut_short_is_fetched_again(host, fetched, source, plates, tmp_path):
    fetched(tmp_path)
    first, *_, last = sorted(
        path for path in tmp_path.rglob("*.tif") if path.parent.name == min(plates)
    )
    first.write_bytes(first.read_bytes()[:100])
    last.write_bytes(b"")
    host.asked.clear()
    fetched(tmp_path)
    assert host.zips_asked() == [archive_name(min(plates))] and images(tmp_path) == images(source)


def test_files_that_are_there_are_not_written_again(host, fetched, source, plates, tmp_path):
    fetched(tmp_path)
    kept, lost = sorted(
        path for path in tmp_path.rglob("*.tif") if path.parent.name == min(plates)
    )[:2]
    before = kept.stat().st_mtime_ns
    lost.unlink()
    host.asked.clear()
    fetched(tmp_path)
    assert (
        host.zips_asked() == [archive_name(min(plates))]
        and kept.stat().st_mtime_ns == before
        and images(tmp_path) == images(source)
    )


def test_a_damaged_zip_is_removed_and_the_next_call_succeeds(
    host, fetched, plates, source, tmp_path
):
    name = archive_name(min(plates))
    good = host.files[name]
    stored = zipped(plates[min(plates)], zipfile.ZIP_STORED)
    for bad in (
        good[: len(good) // 2],
        stored.replace(stored[200:220], b"\0" * 20, 1),
        b"<html>busy</html>",
    ):
        host.files[name] = bad
        with pytest.raises(
            InputError, match=rf"{name}: came damaged and was removed; run the same command again"
        ):
            fetched(tmp_path)
        assert not (tmp_path / ".download" / name).exists()
    host.files[name] = good
    fetched(tmp_path)
    assert images(tmp_path) == images(source)


def test_a_zip_that_reaches_outside_writes_nothing_there(host, fetched, plates, tmp_path):
    name = archive_name(min(plates))
    host.files[name] = zipped({**plates[min(plates)], "../../../evil.tif": b"evil"})
    with pytest.raises(InputError, match="would land outside"):
        fetched(tmp_path / "deep" / "data")
    assert not list(tmp_path.rglob("evil.tif"))


def test_a_zip_without_a_file_of_the_table_is_refused(host, fetched, plates, tmp_path):
    plate = min(plates)
    members = dict(list(plates[plate].items())[1:])
    host.files[archive_name(plate)] = zipped(members)
    with pytest.raises(InputError, match=rf"lacks 1 of the {len(members) + 1} files"):
        fetched(tmp_path)
    assert archive_name(plate) not in json.loads((tmp_path / "downloads.json").read_text())


def test_another_zip_than_the_first_time_is_refused(host, fetched, plates, tmp_path):
    fetched(tmp_path)
    plate = min(plates)
    next(tmp_path.glob(f"Week*/{plate}/*.tif")).unlink()
    host.files[archive_name(plate)] = zipped(
        {name: body + b"!" for name, body in plates[plate].items()}
    )
    with pytest.raises(InputError, match="sha256"):
        fetched(tmp_path)


def test_a_missing_plate_and_a_damaged_record_are_one_line(host, fetched, plates, tmp_path):
    del host.files[archive_name(max(plates))]
    with pytest.raises(InputError, match=archive_name(max(plates)) + ".*404"):
        fetched(tmp_path)
    (tmp_path / "downloads.json").write_text("[1]")
    with pytest.raises(InputError, match=r"downloads\.json: is not a record"):
        fetched(tmp_path)

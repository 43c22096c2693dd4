"""Archives are unpacked whole, within their folder, and again where a run was stopped."""

import stat
import zipfile

import pytest

from cellsignal.common.errors import InputError
from cellsignal.fetch import archives as module
from cellsignal.fetch.archives import unzip


def write_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, content in members.items():
            bundle.writestr(name, content)
    return path


def test_unzip_writes_every_file_and_then_none(tmp_path):
    archive = write_zip(
        tmp_path / "a.zip", {"x/1.png": b"one", "x/y/2.png": b"two" * 1000, "top.csv": b"t"}
    )
    out = tmp_path / "out"
    assert unzip(archive, out) == 3
    assert (out / "x/y/2.png").read_bytes() == b"two" * 1000
    assert unzip(archive, out) == 0
    assert not [p for p in out.rglob("*") if p.name.endswith(".part")]


def test_unzip_goes_on_where_it_stopped(tmp_path):
    archive = write_zip(tmp_path / "a.zip", {"1": b"one", "2": b"two!", "3": b"three"})
    out = tmp_path / "out"
    out.mkdir()
    (out / "1").write_bytes(b"one")
    (out / "2").write_bytes(b"t")  # cut short
    (out / ".3.part").write_bytes(b"th")
    kept = (out / "1").stat().st_mtime_ns
    assert unzip(archive, out) == 2
    assert [(out / n).read_bytes() for n in "123"] == [b"one", b"two!", b"three"]
    assert (out / "1").stat().st_mtime_ns == kept and not (out / ".3.part").exists()


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "a/../../evil",
        "/evil",
        "..",
        "C:/evil",
        "..\\evil",
        "a\\..\\..\\evil",
        "\\\\host\\evil",
    ],
)
def test_unzip_refuses_names_outside_and_writes_nothing(tmp_path, name):
    archive = write_zip(tmp_path / "a.zip", {"good": b"g", name: b"evil"})
    with pytest.raises(InputError, match="outside the target; nothing was unpacked"):
        unzip(archive, tmp_path / "deep" / "out")
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p != archive]


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_unzip_refuses_links_and_special_files(tmp_path, kind):
    info = zipfile.ZipInfo("link")
    info.create_system, info.external_attr = 3, (kind | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as bundle:
        bundle.writestr(info, "/etc/passwd")
    with pytest.raises(InputError, match="'link' is a link or special file"):
        unzip(tmp_path / "a.zip", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_unzip_refuses_to_write_through_a_link_that_is_already_there(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train").symlink_to(tmp_path / "elsewhere")
    archive = write_zip(tmp_path / "a.zip", {"train/x": b"x"})
    with pytest.raises(InputError, match="through a link out of"):
        unzip(archive, tmp_path / "out")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_unzip_names_damage_and_keeps_what_was_good(tmp_path):
    with pytest.raises(InputError, match=r"a\.zip: no such file"):
        unzip(tmp_path / "a.zip", tmp_path)
    # stored, so that one byte of a file is one byte here
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as bundle:
        bundle.writestr("1", b"first" * 20)
        bundle.writestr("2", b"SECOND" * 20)
    good = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "a.zip").write_bytes(good.replace(b"SECOND", b"BROKEN", 1))
    with pytest.raises(InputError, match="member '2' is damaged"):
        unzip(tmp_path / "a.zip", tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["1"]
    (tmp_path / "a.zip").write_bytes(good[: len(good) // 2])
    with pytest.raises(InputError, match="damaged or not a zip"):
        unzip(tmp_path / "a.zip", tmp_path / "out")


def test_unzip_asks_for_room_before_it_writes(tmp_path, monkeypatch):
    archive = write_zip(tmp_path / "a.zip", {"1": b"x" * 1000})
    usage = module.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage._replace(free=999))
    with pytest.raises(InputError, match="unpacking needs"):
        unzip(archive, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())

"""`Mito.zip` as the authors pack it: unpacked, found, and read to the same samples; what is outside,
half or something else is one line.
"""

import shutil
import zipfile

import pandas as pd
import pytest
from helpers import cellsignal, contents, error_line
from openpyxl import load_workbook

from cellsignal.common.errors import InputError
from cellsignal.competitions.mitoreid import MitoReID
from cellsignal.competitions.mitoreid.metadata import part_of
from cellsignal.competitions.mitoreid.release import find_release, unpack_release

COMPETITION = MitoReID()


@pytest.fixture(scope="module")
def plain(simulated):
    return simulated("mitoreid")


def write_zip(path, folder, top="Mito/", more=()):
    with zipfile.ZipFile(path, "w") as bundle:
        for file in sorted(folder.rglob("*")):
            if file.is_file() and file.name != "simulation.json":
                bundle.write(file, top + file.relative_to(folder).as_posix())
        for name, content in more:
            bundle.writestr(name, content)
    return path


@pytest.fixture(scope="module")
def archive(plain, tmp_path_factory):
    """The release in its zip, with a film beside the tracks and what macOS adds."""
    drug = next(path for path in (plain / "l1" / "train").iterdir() if path.is_dir())
    more = [
        (f"Mito/l1/train/{drug.name}/cell.avi", b"film"),
        ("__MACOSX/Mito/._annotation.xlsx", b"fork"),
    ]
    return write_zip(tmp_path_factory.mktemp("zip") / "Mito.zip", plain, more=more)


@pytest.fixture
def unpacked(archive, tmp_path):
    return unpack_release(tmp_path / "data", archive)


def test_the_zip_is_unpacked_once_and_read_from_either_folder(plain, archive, tmp_path):
    out = tmp_path / "data"
    words = ("download", "mitoreid", "--out", out, "--set", f"zip={archive}")
    assert cellsignal(*words, cwd=tmp_path) == 0
    before = contents(out)
    assert cellsignal(*words, cwd=tmp_path) == 0 and contents(out) == before
    assert find_release(out) == find_release(out / "Mito") == out / "Mito"
    expected = COMPETITION.samples(plain)
    for root, prefix in ((out, "Mito/"), (out / "Mito", "")):
        samples = COMPETITION.samples(root)
        columns = [column for column in expected if column != "files"]
        pd.testing.assert_frame_equal(expected[columns], samples[columns])
        assert samples.files.tolist() == [(prefix + name,) for (name,) in expected.files]
        pd.testing.assert_series_equal(part_of(samples), part_of(expected))
        assert COMPETITION.classes(root) == COMPETITION.classes(plain)
        pd.testing.assert_frame_equal(
            COMPETITION.published_answers(root), COMPETITION.published_answers(plain)
        )
    files = COMPETITION.samples(out).files.iloc[0]
    image = COMPETITION.read(out, files, (32, 32))
    assert (image == COMPETITION.read(plain, expected.files.iloc[0], (32, 32))).all()


def test_parts_are_known_by_their_folders(plain):
    samples = COMPETITION.samples(plain)
    assert set(part_of(samples)) == {"train", "query", "gallery", "nc", "novel"}
    novel = part_of(samples) == "novel"
    assert (samples.experiment[novel] == "novel").all() and not novel.all()


def test_an_image_in_no_track_is_counted(unpacked, capsys):
    track = next((unpacked / "l1" / "train").glob("*/*/1.jpg")).parent
    (unpacked / "l1" / "spare").mkdir()
    shutil.copy(track / "1.jpg", unpacked / "l1" / "spare" / "1.jpg")
    shutil.rmtree(track)
    track.mkdir()
    root = unpacked.parent
    assert cellsignal("samples", "mitoreid", "--root", root, cwd=root) == 0
    shown = capsys.readouterr().out
    assert "1: image without a row; first Mito/l1/spare/1.jpg" in shown
    assert "rows without images: 1; first l1_train_" in shown


def test_the_zip_in_the_folder_itself_is_taken(archive, tmp_path):
    shutil.copy(archive, tmp_path / "Mito.zip")
    assert unpack_release(tmp_path) == tmp_path / "Mito"


@pytest.mark.parametrize("name", ["../evil.jpg", "/evil.jpg", "Mito/../../evil.jpg"])
def test_a_member_outside_is_refused_and_nothing_is_unpacked(plain, name, tmp_path, capsys):
    path = write_zip(tmp_path / "Mito.zip", plain, more=[(name, b"x")])
    out = tmp_path / "out" / "data"
    line = error_line(
        capsys, "download", "mitoreid", "--out", out, "--set", f"zip={path}", cwd=tmp_path
    )
    assert "would land outside the target; nothing was unpacked" in line
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and file != path]


def _cut(path):
    path.write_bytes(path.read_bytes()[:-500])


def _not_a_zip(path):
    path.write_text("<html>Google Drive can't scan this file for viruses</html>")


def _without_annotation(path):
    with zipfile.ZipFile(path, "w") as bundle:
        bundle.writestr("Mito/l1/train/1/1_0/1.jpg", b"x")


def _something_else(path):
    with zipfile.ZipFile(path, "w") as bundle:
        bundle.writestr("other/annotation.xlsx", b"x")


@pytest.mark.parametrize(
    "harm, message",
    [
        (lambda path: path.unlink(), r"Mito\.zip: no such file; fetch it as https://"),
        (_cut, r"Mito\.zip: is damaged or not a zip file"),
        (_not_a_zip, r"Mito\.zip: is damaged or not a zip file"),
        (_without_annotation, r"holds no annotation\.xlsx; nothing was unpacked"),
        (_something_else, r"holds no track such as l1/train/1/1_0/1\.jpg; nothing was unpacked"),
    ],
)
def test_another_file_than_the_zip_is_one_line(archive, harm, message, tmp_path):
    path = tmp_path / "Mito.zip"
    shutil.copy(archive, path)
    harm(path)
    with pytest.raises(InputError, match=message) as caught:
        unpack_release(tmp_path / "out", path)
    assert "\n" not in str(caught.value) and not list((tmp_path / "out").rglob("*.jpg"))


def _drop_column(folder):
    book = load_workbook(folder / "annotation.xlsx")
    names = [cell.value for cell in book["FDA-list"][1]]
    book["FDA-list"].delete_cols(names.index("moa_choose") + 1)
    book.save(folder / "annotation.xlsx")


def _remove_part(folder):
    for part in folder.glob("l*/query"):
        shutil.rmtree(part)


@pytest.mark.parametrize(
    "harm, message",
    [
        (lambda folder: (folder / "annotation.xlsx").unlink(), r"annotation\.xlsx: no such file"),
        (_drop_column, r"annotation\.xlsx: sheet 'FDA-list': no column 'moa_choose'"),
        (_remove_part, "no track in any library's folder 'query'"),
        (lambda folder: shutil.copytree(folder, folder.with_name("Copy")), "are two releases"),
    ],
)
def test_a_half_copy_is_one_line(unpacked, harm, message, capsys):
    harm(unpacked)
    root = unpacked.parent
    with pytest.raises(InputError, match=message):
        COMPETITION.samples(root)
    assert str(root) in error_line(capsys, "verify", "mitoreid", "--root", root, cwd=root)

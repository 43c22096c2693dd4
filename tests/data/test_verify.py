"""`verify` against a folder damaged in every way at once, and against sound and real ones."""

import shutil
import struct
import zlib

import cv2
import numpy as np
import pytest
from test_store import CHANNELS, TinyCompetition, tiny_samples, write_root

from cellsignal.common.errors import InputError
from cellsignal.data.verify import Problem, format_problems, verify

COMPETITION = TinyCompetition()


@pytest.fixture
def root(tmp_path):
    write_root(tmp_path / "root")
    return tmp_path / "root"


def _flip_byte(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_sound_data_has_no_problems(root):
    assert verify(COMPETITION, root) == []
    assert format_problems([]) == "0 errors, 0 warnings"


@pytest.mark.parametrize("workers", [0, 2])
def test_every_kind_of_damage_is_listed_in_one_run(root, workers):
    samples = tiny_samples()
    ids, files = samples.sample_id, samples.files
    noise = np.random.default_rng(1).integers(0, 256, (16, 20), dtype=np.uint8)
    (root / files[0][1]).unlink()
    for name in files[1]:
        (root / name).unlink()
    (root / files[2][0]).write_bytes((root / files[2][0]).read_bytes()[:-30])
    _flip_byte(root / files[2][2], 60)  # the same site has a second fault
    cv2.imwrite(str(root / files[3][0]), noise[:8])
    cv2.imwrite(str(root / files[4][1]), noise.astype(np.uint16) * 256)
    cv2.imwrite(str(root / files[5][2]), np.dstack([noise] * 3))
    (root / files[6][0]).write_bytes(b"GIF89a, not a PNG at all")
    cv2.imwrite(str(root / files[7][1]), np.full((16, 20), 7, np.uint8))
    # flat beside a missing one
    cv2.imwrite(str(root / files[0][2]), np.full((16, 20), 7, np.uint8))
    shutil.copy(root / files[8][0], root / files[9][1])
    (root / "extra").mkdir()
    cv2.imwrite(str(root / "extra" / "stray.TIF"), noise)
    cv2.imwrite(str(root / "images" / "stray.png"), noise)
    (root / ".cache").mkdir()
    cv2.imwrite(str(root / ".cache" / "thumbnail.png"), noise)
    (root / files[11][0]).write_bytes(b"")

    problems = verify(COMPETITION, root, workers)
    assert {(problem.kind, problem.path, problem.sample_id) for problem in problems} == {
        ("missing", files[0][1], ids[0]),
        ("row_without_images", files[1][0], ids[1]),
        ("truncated", files[2][0], ids[2]),
        ("corrupt", files[2][2], ids[2]),
        ("wrong_size", files[3][0], ids[3]),
        ("wrong_depth", files[4][1], ids[4]),
        ("wrong_channels", files[5][2], ids[5]),
        ("wrong_format", files[6][0], ids[6]),
        ("truncated", files[11][0], ids[11]),
        ("flat", files[7][1], ids[7]),
        ("flat", files[0][2], ids[0]),
        ("identical", files[9][1], ids[9]),
        ("image_without_row", "extra/stray.TIF", None),
        ("image_without_row", "images/stray.png", None),
    }
    assert len(problems) == 14
    errors = [problem.is_error for problem in problems]
    assert errors == [True] * 9 + [False] * 5
    assert (
        next(p.detail for p in problems if p.path == files[7][1])
        == f"every pixel of channel {CHANNELS[1]} is 7"
    )
    assert files[8][0] in next(p.detail for p in problems if p.kind == "identical")

    text = format_problems(problems)
    assert (
        text.startswith("9 errors, 5 warnings\n")
        and "error truncated: 2\n" in text
        and "warning flat: 2\n" in text
    )
    assert len(text.splitlines()) == 1 + 11 + 14
    assert all(f"  {p.path}: {p.detail}" in text for p in problems)


def test_channels_that_do_not_go_together_are_found_without_a_known_size(root):
    class AnySize(TinyCompetition):
        def root_shape(self, root):
            return None

    files = tiny_samples().files
    cv2.imwrite(str(root / files[3][2]), np.arange(64, dtype=np.uint8).reshape(8, 8))
    (problem,) = verify(AnySize(), root)
    assert problem.kind == "wrong_size" and problem.path == files[3][2] and "8x8" in problem.detail


def test_a_name_too_long_for_any_file_is_missing(tmp_path):
    root = tmp_path / "root"
    write_root(root)
    samples = tiny_samples()
    long = "x" * 300 + ".png"
    text = (root / "samples.csv").read_text()
    (root / "samples.csv").write_text(text.replace(samples.files[2][1], long))
    problems = [problem for problem in verify(TinyCompetition(), root) if problem.is_error]
    assert [(p.kind, p.path, p.sample_id) for p in problems] == [
        ("missing", long, samples.sample_id[2])
    ]


def test_an_unreadable_file_is_a_problem_not_a_crash(root):
    name = tiny_samples().files[3][2]

    class Failing(TinyCompetition):
        def read(self, root, files, shape=None):
            if name in files:
                raise OSError(5, "Input/output error", str(root / name))
            return super().read(root, files, shape)

    assert [(p.kind, p.path, p.detail) for p in verify(Failing(), root)] == [
        ("corrupt", name, "cannot be read (Input/output error)")
    ]


class ColourCompetition(TinyCompetition):
    """One RGB file a site."""

    def samples(self, root):
        samples = tiny_samples()
        samples["files"] = samples.sample_id.map(lambda name: (f"{name}.png",))
        return samples

    def read(self, root, files, shape=None):
        from cellsignal.images import read_png8

        return read_png8(root / files[0], shape, channels=3).transpose(2, 0, 1)


def test_a_flat_channel_of_a_colour_file_is_named(tmp_path):
    rng = np.random.default_rng(0)
    ids = tiny_samples().sample_id
    for name in ids:
        image = rng.integers(0, 256, (16, 20, 3), dtype=np.uint8)
        # OpenCV writes BGR: the last channel
        image[:, :, 0] = 5 if name == ids[2] else image[:, :, 0]
        cv2.imwrite(str(tmp_path / f"{name}.png"), image)
    (tmp_path / f"{ids[4]}.png").unlink()
    assert verify(ColourCompetition(), tmp_path) == [
        Problem("row_without_images", f"{ids[4]}.png", "its file is not there", ids[4]),
        Problem("flat", f"{ids[2]}.png", "every pixel of channel actin is 5", ids[2]),
    ]


def test_a_header_that_lies_about_the_size_is_found(root):
    path = root / tiny_samples().files[0][0]
    data = bytearray(path.read_bytes())
    data[16:20] = struct.pack(">I", 30)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    path.write_bytes(data)
    (problem,) = verify(COMPETITION, root)
    assert problem.kind == "wrong_size" and "30x16" in problem.detail


def test_unreadable_metadata_is_an_input_error(root):
    (root / "samples.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError):
        verify(COMPETITION, root)


@pytest.mark.real_data
def test_real_images_are_sound(real_data):
    class Real(TinyCompetition):
        channels = ("w1", "w2", "w3", "w4", "w5", "w6")
        image_shape = (512, 512)

        def samples(self, root):
            names = sorted(str(path.relative_to(root)) for path in root.rglob("*.png"))
            samples = tiny_samples(len(names) // 12)
            samples["files"] = [
                tuple(names[start : start + 6]) for start in range(0, len(names), 6)
            ]
            return samples

    assert [
        problem for problem in verify(Real(), real_data / "rxrx1" / "train") if problem.is_error
    ] == []

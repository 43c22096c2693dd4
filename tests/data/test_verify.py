"""`verify` against a folder damaged in every way at once, against sound, real and surprising ones."""

import functools
import shutil
import struct
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from tiny_store import CHANNELS, TinyCompetition, tiny_samples, write_root

from cellsignal.common.errors import InputError
from cellsignal.competitions import competition_ids, get_competition
from cellsignal.data.pack import pack
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


# clips, whose frames are files that the samples table does not name one by one
# --------------------------------------------------------------------------------------------------


CLIPS = get_competition("mitoreid")


@pytest.fixture(scope="module")
def sound_clips(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "mitoreid"
    CLIPS.simulate(
        root,
        0,
        moas=2,
        drugs_per_moa=1,
        libraries=1,
        train=2,
        controls=1,
        novel_drugs=1,
        natural=1,
        size=16,
    )
    return root


@pytest.fixture
def clip_root(sound_clips, tmp_path):
    shutil.copytree(sound_clips, tmp_path / "copy")
    return tmp_path / "copy"


def clip_problems(root, workers=0):
    return {
        (problem.kind, problem.path, problem.sample_id) for problem in verify(CLIPS, root, workers)
    }


def test_every_frame_of_a_sound_clip_is_named(clip_root):
    assert clip_problems(clip_root) == set()


@pytest.mark.parametrize("workers", [0, 2])
def test_each_fault_is_named_by_its_frame(clip_root, workers):
    a, b, c = (clip_root / "l1" / part for part in ("train/1/1_0", "train/1/1_1", "gallery/2/2_0"))
    (a / "1.jpg").unlink()
    (a / "9.jpg").unlink()
    (b / "7.jpg").write_bytes((b / "7.jpg").read_bytes()[:-40])
    for frame in c.iterdir():
        frame.unlink()
    # a frame of another track
    shutil.copy(clip_root / "novel/3/3_0/5.jpg", clip_root / "l1/query/1/1_0/12.jpg")
    (clip_root / "novel" / "stray.JPG").write_bytes(b"anything")
    (clip_root / "l1/train/2/2_0/notes.jpeg").write_bytes(b"anything")
    problems = clip_problems(clip_root, workers)
    identical = [(path, name) for kind, path, name in problems if kind == "identical"]
    assert identical in (
        [("l1/query/1/1_0/12.jpg", "l1_query_1_1_0")],
        [("novel/3/3_0/5.jpg", "novel_3_3_0")],
    )
    assert {problem for problem in problems if problem[0] != "identical"} == {
        ("missing", "l1/train/1/1_0/1.jpg", "l1_train_1_1_0"),
        ("missing", "l1/train/1/1_0/9.jpg", "l1_train_1_1_0"),
        ("truncated", "l1/train/1/1_1/7.jpg", "l1_train_1_1_1"),
        ("row_without_images", "l1/gallery/2/2_0/1.jpg", "l1_gallery_2_2_0"),
        ("wrong_channels", "l1/train/2/2_0/notes.jpeg", "l1_train_2_2_0"),
        ("image_without_row", "l1/train/2/2_0/notes.jpeg", None),
        ("image_without_row", "novel/stray.JPG", None),
    }


def test_a_cell_may_stand_still_but_not_for_the_whole_clip(clip_root):
    track = clip_root / "l1" / "train" / "1" / "1_0"
    for t in (4, 5):
        shutil.copy(track / "3.jpg", track / f"{t}.jpg")
    assert clip_problems(clip_root) == set()
    for t in range(2, 17):
        shutil.copy(track / "1.jpg", track / f"{t}.jpg")
    (problem,) = verify(CLIPS, clip_root)
    assert (problem.kind, problem.path, problem.detail) == (
        "identical",
        "l1/train/1/1_0/1.jpg",
        "all 16 frames have the same bytes",
    ) and not problem.is_error


def test_a_black_frame_is_named(clip_root):
    path = clip_root / "l1" / "train" / "1" / "1_0" / "6.jpg"
    cv2.imwrite(str(path), np.zeros_like(cv2.imread(str(path))))
    problems = verify(CLIPS, clip_root)
    assert {(problem.kind, problem.path) for problem in problems} == {
        ("flat", "l1/train/1/1_0/6.jpg")
    }
    assert [problem.detail for problem in problems] == [
        f"every pixel of channel {stain} t06 is 0" for stain in ("w1", "w2", "w3")
    ]


# one surprising image: verify lists it and packing leaves it out, and both go on
# --------------------------------------------------------------------------------------------------


def surprise(path) -> None:
    """Another image of the same format and size in its place: a stack's, with alpha, or gray."""
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image.dtype == np.uint16:
        tifffile.imwrite(path, np.stack([image, image]), imagej=True, truncate=True)
    elif path.suffix == ".jpg":
        cv2.imwrite(str(path), image[:, :, 0])
    else:
        alpha = np.full(image.shape[:2], 128, np.uint8)
        colours = image if image.ndim == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
        cv2.imwrite(str(path), np.dstack([colours, alpha]))


@pytest.mark.parametrize("name", competition_ids())
@pytest.mark.slow
def test_one_surprising_image_ends_nothing(simulated, tmp_path, name):
    competition, root = get_competition(name), tmp_path / "root"
    shutil.copytree(simulated(name), root)
    samples = competition.samples(root)
    bad = competition.image_files(samples.files.iloc[1])[-1].partition("#")[0]
    surprise(root / bad)
    named = samples.files.map(competition.image_files).map(
        lambda files: any(file.partition("#")[0] == bad for file in files)
    )
    problems = [problem for problem in verify(competition, root) if problem.is_error]
    assert {(p.path.partition("#")[0], p.kind) for p in problems} == {(bad, "wrong_channels")}
    assert {problem.sample_id for problem in problems} == set(samples.sample_id[named])

    subset = samples[named | (np.arange(len(samples)) < 6)].reset_index(drop=True)
    shape = competition.root_shape(root)
    competition = competition.calibrate(root, tmp_path / "calibration")
    read = functools.partial(competition.read, root, shape=shape)
    options = {"channels": competition.channels_of(root), "shape": shape, "source": {}}
    report = pack(subset, read, tmp_path / "store", **options)
    bad_ids = set(samples.sample_id[named])
    assert {sample_id for sample_id, _ in report.skipped} == bad_ids
    assert all(bad in message for _, message in report.skipped)
    assert report.n_packed == len(subset) - len(bad_ids)


@pytest.mark.parametrize("name", competition_ids())
@pytest.mark.slow
def test_an_exception_that_read_was_not_made_for_ends_nothing(
    simulated, tmp_path, name, monkeypatch, caplog
):
    competition, root = get_competition(name), simulated(name)
    samples = competition.samples(root).iloc[:6].reset_index(drop=True)
    bad = samples.files[1]
    read = type(competition).read

    def read_or_fail(self, folder, files, shape=None):
        if bad[0] in files:
            raise ZeroDivisionError("no such\nthing")
        return read(self, folder, files, shape)

    monkeypatch.setattr(type(competition), "read", read_or_fail)
    problems = [problem for problem in verify(competition, root) if problem.is_error]
    mine = [(problem.kind, problem.detail) for problem in problems if problem.path == bad[0]]
    assert mine == [("corrupt", "cannot be read (ZeroDivisionError: no such thing)")]
    assert {problem.sample_id for problem in problems} == {samples.sample_id[1]}
    assert f"{bad[0]}: reading ended in an unexpected ZeroDivisionError" in caplog.text

    competition = competition.calibrate(root, tmp_path / "calibration")
    shape = competition.root_shape(root)
    options = {"channels": competition.channels_of(root), "shape": shape, "source": {}}
    report = pack(
        samples,
        functools.partial(competition.read, root, shape=shape),
        tmp_path / "store",
        **options,
    )
    left_out = dict(report.skipped)
    assert left_out[samples.sample_id[1]].endswith(
        "cannot be read (ZeroDivisionError: no such thing)"
    )
    assert report.n_packed + len(left_out) == len(samples) and report.n_packed


@pytest.mark.parametrize("name", ["bbbc021_full", "cpjump1"])
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_plate_of_surprises_alone_ends_nothing(simulated, tmp_path, name, workers):
    """None of a plate's planes can be read, so it cannot be measured: its own files are listed, the
    others go on.
    """
    competition, root = get_competition(name), tmp_path / "root"
    shutil.copytree(simulated(name), root)
    samples = competition.samples(root)
    mine = samples.plate == samples.plate.iloc[0]
    assert 0 < mine.sum() < len(samples)
    images = samples.files[mine].map(competition.image_files)
    bad = {file.partition("#")[0] for files in images for file in files}
    for file in bad:
        surprise(root / file)
    problems = [problem for problem in verify(competition, root, workers) if problem.is_error]
    assert {problem.path.partition("#")[0] for problem in problems} == bad
    assert {problem.kind for problem in problems} == {"wrong_channels"}
    assert {problem.sample_id for problem in problems} == set(samples.sample_id[mine])

    calibrated = competition.calibrate(root, tmp_path / "calibration", workers)
    read = functools.partial(calibrated.read, root, shape=calibrated.root_shape(root))
    options = {
        "channels": competition.channels_of(root),
        "shape": calibrated.root_shape(root),
        "source": {},
    }
    report = pack(samples, read, tmp_path / "store", **options)
    skipped = {sample_id for sample_id, _ in report.skipped}
    assert skipped >= set(samples.sample_id[mine])
    sound = {sample_id for sample_id, why in report.skipped if "shows no cells" in why}
    assert skipped - sound == set(samples.sample_id[mine])

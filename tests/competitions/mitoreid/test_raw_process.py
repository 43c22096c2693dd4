"""From drawn fields with known cells to tracks on disk: what comes out, what is dropped, going on
after a break.
"""

import json
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image
from scipy.ndimage import gaussian_filter

from cellsignal.common.errors import InputError
from cellsignal.competitions.mitoreid.images import read_track
from cellsignal.competitions.mitoreid.raw import Settings
from cellsignal.competitions.mitoreid.raw import process as driver
from cellsignal.competitions.mitoreid.raw.__main__ import main
from cellsignal.competitions.mitoreid.raw.process import measure, process

pytestmark = pytest.mark.slow

FRAMES, SIZE, RADIUS = 16, 128, 14
SMALL = Settings(diameter=2 * RADIUS, reach=15, side=51, softening=3, white=4095)
ROWS, COLUMNS = np.indices((SIZE, SIZE))


def draw(cells, seed=0):
    """(T, 3, H, W) uint16: a disc with a nucleus for each cell, on a background with camera noise.

    Args:
        cells: of functions of the time that give (y, x, radius), or None where the cell is not
        there.
    """
    rng = np.random.default_rng(seed)
    field = rng.normal(200, 6, (FRAMES, 3, SIZE, SIZE))
    for cell in cells:
        for t in range(FRAMES):
            if (place := cell(t)) is not None:
                y, x, radius = place
                far = (ROWS - y) ** 2 + (COLUMNS - x) ** 2
                field[t, 0] += 1500 * (far <= (radius / 3) ** 2)
                field[t, 1:] += 1000 * (far <= radius**2)
    return np.clip(np.rint(field), 0, 4095).astype(np.uint16)


def write(root, name, field):
    (root / name).mkdir(parents=True)
    for t, frame in enumerate(field):
        for c, plane in enumerate(frame):
            tifffile.imwrite(root / name / f"{name}_{t + 1}_w{c + 1}.tif", plane)
    return root


def right(t):
    return 40, 30 + 3 * t, RADIUS


def down(t):
    return 60 + 2 * t, 100, RADIUS


def at_the_border(t):
    return 80, 5, RADIUS


def tiny(t):
    return 112, 20, 6


def gone_at_9(t):
    return None if t == 9 else (105, 60, RADIUS)


@pytest.fixture(scope="module", autouse=True)
def no_waiting_for_the_disk():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda file: None)
        yield


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """Fields: 1 with two good cells of five, 1-2 with a blurred frame, 3 blurred too often, 4
    damaged, ctrl, 6 empty.
    """
    root = tmp_path_factory.mktemp("raw")
    write(root, "1", draw([right, down, at_the_border, tiny, gone_at_9]))
    blurred = draw([right], 1)
    blurred[5] = gaussian_filter(blurred[5].astype(float), (0, 3, 3))
    write(root, "1-2", blurred)
    blurred = draw([right], 2)
    blurred[[2, 7, 11]] = gaussian_filter(blurred[[2, 7, 11]].astype(float), (0, 0, 3, 3))
    write(root, "3", blurred)
    write(root, "4", draw([right], 3))
    path = root / "4" / "4_7_w2.tif"
    path.write_bytes(path.read_bytes()[:3000])
    write(root, "ctrl", draw([down], 4))
    write(root, "6", draw([], 5))
    return root


@pytest.fixture(scope="module")
def made(library, tmp_path_factory):
    out = tmp_path_factory.mktemp("made")
    return out, process(library, out, "l1", "train", settings=SMALL).set_index("field")


def clip_of(folder):
    """(T, S, S, 3) in the order w1, w2, w3, as Pillow reads it."""
    return np.stack(
        [np.asarray(Image.open(folder / f"{t + 1}.jpg"))[..., ::-1] for t in range(FRAMES)]
    )


def test_the_report_says_what_was_made_and_dropped(made, library):
    out, report = made
    assert report.tracks.to_dict() == {"1": 2, "1-2": 1, "3": 0, "4": 0, "6": 0, "ctrl": 1}
    assert report.drug.to_dict() == {
        "1": "1",
        "1-2": "1",
        "3": "3",
        "4": "4",
        "6": "6",
        "ctrl": "dmso",
    }
    assert report.loc["1", ["cells", "border", "small", "dead", "lost"]].tolist() == [3, 1, 1, 0, 1]
    assert report.replaced_frames.to_dict() == {"1": 0, "1-2": 1, "3": 0, "4": 0, "6": 0, "ctrl": 0}
    assert report.loc["3", "dropped"].startswith("blurred: more than 2 frames")
    assert (
        "4_7_w2.tif: " in report.loc["4", "dropped"]
        and report.loc["6", "dropped"] == "no whole cell in the first frame"
    )
    assert (report.loc[["1", "1-2", "ctrl"], "dropped"] == "").all()
    written = pd.read_csv(
        out / "processing" / "l1_train.csv",
        keep_default_na=False,
        dtype={"field": str, "drug": str},
    )
    assert written.set_index("field").equals(report)


def test_tracks_lie_in_the_published_layout(made):
    out, _ = made
    tracks = sorted(str(path.relative_to(out)) for path in out.glob("l1/*/*/*"))
    assert tracks == [
        "l1/train/1/1-2_0",
        "l1/train/1/1_0",
        "l1/train/1/1_1",
        "l1/train/dmso/ctrl_0",
    ]
    for track in tracks:
        assert sorted(path.name for path in (out / track).iterdir()) == sorted(
            f"{t}.jpg" for t in range(1, 17)
        )
    assert not [path for path in out.rglob("*") if path.name.startswith(".")]  # no scraps


def test_the_competition_reads_them(made):
    out, _ = made
    image = read_track(out / "l1/train/1/1_1")  # (48, H, W), channel by channel
    clip = clip_of(out / "l1/train/1/1_1")
    # two decoders
    assert (
        np.abs(image.reshape(3, FRAMES, 50, 50).astype(int) - clip.transpose(3, 0, 1, 2)).max() <= 1
    )


def test_a_clip_shows_its_cell_in_the_middle_and_nothing_else(made):
    out, _ = made
    first, second = clip_of(out / "l1/train/1/1_0"), clip_of(out / "l1/train/1/1_1")
    # 1_0 moves 45 pixels to the right: its square covers the way, about 45 + 29; at most 51 - 1.
    # 1_1 moves 30 down: 59, so 50 as well
    assert first.shape == second.shape == (FRAMES, 50, 50, 3)
    middle = np.hypot(*(np.indices((50, 50)) - 24.5))
    for clip in (first, second):
        # 1000 counts of 4095 above the minimum, which lies about 4 SD of the noise below the mean
        assert np.allclose(
            clip[:, middle < RADIUS - 3][..., 1:].mean(axis=(0, 1)),
            (1000 + 25) * 255 / 4095,
            atol=2,
        )
        assert clip[:, middle > RADIUS + 10].max() <= 3  # black, but for what a JPEG block smears
        assert np.allclose(clip[:, middle < 2][..., 0].mean(), (1500 + 25) * 255 / 4095, atol=3)


def test_a_blurred_frame_is_its_neighbours_copy(made):
    out, _ = made
    clip = clip_of(out / "l1/train/1/1-2_0")
    assert np.array_equal(clip[5], clip[4]) and not np.array_equal(clip[6], clip[5])


def test_statistics_are_those_of_the_written_pictures(made):
    out, _ = made
    pixels = np.concatenate([clip_of(path).reshape(-1, 3) for path in out.glob("l1/*/*/*")]) / 255
    found = json.loads((out / "statistics.json").read_text())
    assert (
        found["channels"] == ["w1", "w2", "w3"]
        and found["tracks"] == 4
        and found["pixels"] == len(pixels)
    )
    assert found["mean"] == pytest.approx(pixels.mean(axis=0), abs=1e-4)
    assert found["sd"] == pytest.approx(pixels.std(axis=0), abs=1e-4)


def test_several_processes_make_the_same_bytes(made, library, tmp_path):
    out, report = made
    root = tmp_path / "raw"
    for name in ("1-2", "ctrl"):
        shutil.copytree(library / name, root / name)
    again = process(root, tmp_path / "out", "l1", "train", workers=2, settings=SMALL).set_index(
        "field"
    )
    assert again.equals(report.loc[again.index])
    for track in ("l1/train/1/1-2_0", "l1/train/dmso/ctrl_0"):
        for t in range(1, 17):
            assert (tmp_path / "out" / track / f"{t}.jpg").read_bytes() == (
                out / track / f"{t}.jpg"
            ).read_bytes()


@pytest.fixture
def two(library, tmp_path):
    """A small library of its own with two fields, and where its tracks go."""
    for name in ("1-2", "ctrl"):
        shutil.copytree(library / name, tmp_path / "raw" / name)
    return tmp_path / "raw", tmp_path / "out"


def test_a_broken_run_goes_on_where_it_was(two, monkeypatch):
    root, out = two
    real, done = driver._make_tracks, []

    def until_the_second(folder, *rest):
        if done:
            raise KeyboardInterrupt
        done.append(folder.name)
        return real(folder, *rest)

    monkeypatch.setattr(driver, "_make_tracks", until_the_second)
    with pytest.raises(KeyboardInterrupt):
        process(root, out, "l2", "train", settings=SMALL)
    assert len(list(out.glob("l2/train/*/*"))) == 1

    def noted(folder, *rest):
        done.append(folder.name)
        return real(folder, *rest)

    monkeypatch.setattr(driver, "_make_tracks", noted)
    whole = process(root, out, "l2", "train", settings=SMALL)
    assert done == ["1-2", "ctrl"] and whole.tracks.tolist() == [1, 1]
    assert process(root, out, "l2", "train", settings=SMALL).equals(whole) and len(done) == 2
    assert measure(out)["tracks"] == 2


def test_only_what_changed_is_done_again(two, monkeypatch):
    root, out = two
    process(root, out, "l2", "train", settings=SMALL)
    real, done = driver._make_tracks, []
    monkeypatch.setattr(
        driver,
        "_make_tracks",
        lambda folder, *rest: done.append(folder.name) or real(folder, *rest),
    )
    (root / "ctrl" / "ctrl_3_w1.tif").unlink()
    shutil.rmtree(out / "l2/train/1/1-2_0")
    report = process(root, out, "l2", "train", settings=SMALL).set_index("field")
    assert done == ["1-2", "ctrl"]
    assert (
        "time 3 of w1 is missing" in report.dropped["ctrl"]
        and not (out / "l2/train/dmso/ctrl_0").exists()
    )
    assert (out / "l2/train/1/1-2_0/16.jpg").is_file() and measure(out)["tracks"] == 1
    done.clear()
    shutil.rmtree(root / "1-2")
    process(root, out, "l2", "train", settings=SMALL.scaled(1.1))
    assert done == ["ctrl"]


def test_a_crash_between_tracks_and_record_is_mended(two, monkeypatch):
    root, out = two
    real = driver.write_json

    def fails_at_the_end(path, value):
        if isinstance(value, dict) and value.get("finished"):
            raise InputError("the disk is full")
        real(path, value)

    monkeypatch.setattr(driver, "write_json", fails_at_the_end)
    with pytest.raises(InputError, match="full"):
        process(root, out, "l2", "train", settings=SMALL)
    assert (out / "l2/train/1/1-2_0").is_dir()
    monkeypatch.setattr(driver, "write_json", real)
    assert process(root, out, "l2", "train", settings=SMALL).tracks.tolist() == [1, 1]


def test_tracks_of_others_are_never_overwritten(two):
    root, out = two
    theirs = out / "l2/train/1/1-2_0"
    theirs.mkdir(parents=True)
    (theirs / "1.jpg").write_bytes(b"theirs")
    with pytest.raises(InputError, match=r"1-2_0: already exists"):
        process(root, out, "l2", "train", settings=SMALL)
    assert (theirs / "1.jpg").read_bytes() == b"theirs"
    with pytest.raises(InputError, match=r"1-2_0: already exists"):  # nor by a second try
        process(root, out, "l2", "train", settings=SMALL)
    assert (theirs / "1.jpg").read_bytes() == b"theirs"


def test_pictures_that_come_out_dark_are_a_warning(two, caplog):
    shutil.rmtree(two[0] / "1-2")
    process(*two, "l2", "train", settings=replace(SMALL, white=65535))
    assert "brightest pixel is" in caplog.text and "`white` (65535)" in caplog.text


@pytest.mark.parametrize(
    "name, part, message",
    [
        ("l1", "test", "part: 'test' is not one of"),
        ("1", "train", "library: '1' is not"),
        (None, "train", "library"),
        ("l1", "novel", "novel drugs have none"),
    ],
)
def test_wrong_places_are_refused(two, name, part, message):
    with pytest.raises(InputError, match=message):
        process(two[0], two[1], name, part)
    assert not two[1].exists()


def test_the_command_line(two, capsys):
    root, out = two
    shutil.rmtree(root / "1-2")
    words = [
        str(root),
        "--out",
        str(out),
        "--part",
        "novel",
        "--white",
        "4095",
        "--scale",
        str(2 * RADIUS / 300),
    ]
    assert main(words) == 0 and "ctrl" in capsys.readouterr().out
    assert cv2.imread(str(out / "novel/dmso/ctrl_0/16.jpg")) is not None
    assert main([*words, "--scale", "0"]) == 2 and "error: diameter" in capsys.readouterr().err

"""The bytes of a site against zarr, in both directions, and against a delta computed number by
number.
"""

import dataclasses
import subprocess
import sys
import tomllib
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cellsignal.data import frames
from cellsignal.data.codec import (
    Layout,
    encode,
    layout_of,
    row_delta,
    undo_row_delta,
)
from cellsignal.data.frames import read_file
from cellsignal.data.store_files import array_options, is_laid_out

REPOSITORY = Path(__file__).resolve().parents[2]
LAYOUTS = [
    Layout("zstd", (3, 24, 20), 8, 4),
    Layout("zstd", (2, 15, 7), 5, 1),
    Layout("zstd", (1, 32, 9), 32, 32),
    Layout("zstd", (3, 24, 20), 8, 4, joined=True),
    Layout("zstd", (1, 24, 20), 8, 8, joined=True),
    Layout("zstd", (2, 16, 9), 16, 16, joined=True),
    Layout("raw", (3, 24, 20), 24, 8),
    Layout("lz4", (3, 24, 20), 8, 1, joined=True),
    Layout("lz4", (1, 15, 7), 5, 1, joined=True),
    Layout("lz4", (2, 32, 9), 32, 1, joined=True),
]
CHECKED = {
    "zstd, of older stores": (LAYOUTS[0], "rows 0 to 8 of channel 1: "),
    "zstd": (LAYOUTS[3], "rows 0 to 8: "),
    "lz4": (LAYOUTS[7], "rows 0 to 8: "),
}


def image_of(layout, seed=0):
    """Smooth rows plus noise, so that there is something to compress."""
    rng = np.random.default_rng(seed)
    walk = rng.integers(-3, 4, layout.shape).cumsum(axis=1) + 100
    return walk.astype(np.uint8)


def array_at(path, layout, n=2):
    return zarr.create_group(path).create_array(
        "images",
        shape=(n, *layout.shape),
        dtype="uint8",
        fill_value=0,
        chunk_key_encoding={"name": "default", "separator": "."},
        **array_options(layout),
    )


@given(st.data(), st.sampled_from([1, 2, 4, 32]))
@settings(max_examples=40, deadline=None)
def test_row_delta_is_what_it_says_and_comes_back(data, period):
    shape = (
        data.draw(st.integers(1, 3)),
        period * data.draw(st.integers(1, 3)),
        data.draw(st.integers(1, 5)),
    )
    image = data.draw(hnp.arrays(np.uint8, shape))
    delta = row_delta(image, period)
    for channel, row, column in np.ndindex(shape):
        above = int(image[channel, row - 1, column]) if row % period else 0
        assert delta[channel, row, column] == (int(image[channel, row, column]) - above) % 256
    # in place and into another array, whose channels lie apart
    out = np.empty((*shape[:1], 2, *shape[1:]), np.uint8)[:, 1]
    undo_row_delta(delta, period, out)
    np.testing.assert_array_equal(out, image)
    undo_row_delta(delta, period)
    np.testing.assert_array_equal(delta, image)


@pytest.mark.parametrize(
    ("codec", "shape", "expected"),
    [
        ("auto", (6, 512, 512), ("zstd", 64, 16)),
        ("auto", (6, 256, 256), ("raw", 256, 16)),
        ("auto", (1, 257, 256), ("zstd", 257, 1)),  # a prime: all in one frame
        ("raw", (6, 512, 512), ("raw", 512, 16)),
        # 51 rows are 192 KiB; of the divisors of 1024 32 is the next
        ("zstd", (3, 1024, 1280), ("zstd", 32, 16)),
        ("zstd", (3, 520, 696), ("zstd", 65, 13)),
        ("zstd", (3, 1031, 1024), ("zstd", 1031, 1)),
        ("zstd", (1, 6, 2**20), ("zstd", 1, 1)),
        ("lz4", (6, 512, 512), ("lz4", 64, 1)),
        ("zstd", (1, 512, 512), ("zstd", 256, 16)),
        ("lz4", (6, 128, 128), ("lz4", 128, 1)),
    ],
)
def test_layouts(codec, shape, expected):
    layout = layout_of(codec, shape)
    assert (
        layout.codec,
        layout.band,
        layout.period,
    ) == expected and layout.bands * layout.band == shape[1]
    assert layout.frames == (shape[0] if layout.codec == "raw" else 1)
    assert layout_of(codec, shape, joined=False).frames == shape[0]


def test_stores_of_before_keep_their_bands():
    layout = layout_of("zstd", (6, 512, 512), joined=False)
    assert (layout.band, layout.period, layout.frames) == (256, 16, 6)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_zarr_reads_what_is_written_here_and_the_other_way_round(layout, tmp_path):
    array, images = array_at(tmp_path / "a", layout), [image_of(layout, seed) for seed in (0, 1)]
    assert is_laid_out(array, layout)
    files = [tmp_path / "a" / "images" / f"c.{row}.0.0.0" for row in (0, 1)]
    files[0].write_bytes(encode(images[0], layout))
    array[1] = images[1]
    out = np.empty((2, *layout.shape), np.uint8)
    for file, into, image in zip(files, out, images, strict=True):
        read_file(file, layout, into)
        np.testing.assert_array_equal(into, image)
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "a" / "images")[:], images)
    np.testing.assert_array_equal(array[0, -1, 3:9, 1:4], images[0][-1, 3:9, 1:4])
    for other in LAYOUTS:
        assert is_laid_out(array, other) == (other == layout)


@given(st.data(), st.sampled_from(LAYOUTS))
@settings(max_examples=60, deadline=None)
def test_some_rows_are_those_of_the_image(tmp_path_factory, data, layout):
    top = data.draw(st.integers(0, layout.shape[1] - 1))
    bottom = data.draw(st.integers(top + 1, layout.shape[1]))
    file, image = tmp_path_factory.mktemp("rows") / "site", image_of(layout)
    file.write_bytes(encode(image, layout))
    out = np.full(layout.shape, 77, np.uint8)
    read_file(file, layout, out, (top, bottom))
    np.testing.assert_array_equal(out[:, top:bottom], image[:, top:bottom])
    before, after = top - top % layout.band, bottom + -bottom % layout.band
    if layout.codec != "raw":  # nothing outside the bands is touched
        assert (out[:, :before] == 77).all() and (out[:, after:] == 77).all()


@pytest.mark.parametrize("codec", CHECKED)
def test_rows_of_other_bands_are_neither_read_nor_decompressed(codec, tmp_path):
    layout, where = CHECKED[codec]
    content = bytearray(encode(image_of(layout), layout))
    # the length of the first frame: channel 0 or all, rows 0 to 7
    first = int.from_bytes(content[-4 - 16 * layout.frames * 3 + 8 :][:8], "little")
    content[first // 2] ^= 255
    (tmp_path / "site").write_bytes(content)
    out = np.empty(layout.shape, np.uint8)
    read_file(tmp_path / "site", layout, out, (8, 24))
    np.testing.assert_array_equal(out[:, 8:], image_of(layout)[:, 8:])
    with pytest.raises(ValueError, match=f"{where}its checksum"):
        read_file(tmp_path / "site", layout, out, (7, 9))


@pytest.mark.parametrize("codec", CHECKED)
@given(st.data())
@settings(max_examples=150, deadline=None)
def test_no_damage_gives_a_wrong_picture(tmp_path_factory, codec, data):
    """Any bits of a byte flipped, bytes cut off or added."""
    layout = CHECKED[codec][0]
    content, out = bytearray(encode(image_of(layout), layout)), np.zeros(layout.shape, np.uint8)
    how = data.draw(st.sampled_from(["flip", "cut", "add"]))
    at = data.draw(st.integers(0, len(content) - 1))
    if how == "flip":
        content[at] ^= data.draw(st.integers(1, 255))
    else:
        content = content[:at] if how == "cut" else content[:at] + b"\0" + content[at:]
    file = tmp_path_factory.mktemp("damage") / "site"
    file.write_bytes(content)
    with pytest.raises(ValueError):
        read_file(file, layout, out)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_frame_whose_header_lies_is_refused_before_it_is_decompressed(tmp_path_factory, data):
    """With its checksum made right: blosc itself would read and write past its buffers."""
    layout, where = CHECKED["lz4"]
    content = encode(image_of(layout), layout)
    index = np.frombuffer(content[-4 - 16 * 3 : -4], "<u8").reshape(3, 2)
    kept = [bytearray(content[start : start + length - 4]) for start, length in index.tolist()]
    field = data.draw(st.sampled_from([4, 12]))  # bytes of pixels, or of itself
    now = int.from_bytes(kept[0][field : field + 4], "little")
    other = data.draw(st.integers(0, 2**32 - 1).filter(lambda value: value != now))
    kept[0][field : field + 4] = other.to_bytes(4, "little")
    parts = [bytes(k) + google_crc32c.value(bytes(k)).to_bytes(4, "little") for k in kept]
    file = tmp_path_factory.mktemp("lies") / "site"
    file.write_bytes(b"".join(parts) + content[-4 - 16 * 3 :])
    with pytest.raises(ValueError, match=f"{where}it holds a band of another size"):
        read_file(file, layout, np.empty(layout.shape, np.uint8))


@pytest.mark.parametrize("codec", CHECKED)
def test_a_file_of_other_frames_is_refused(codec, tmp_path):
    layout, where = CHECKED[codec]
    small = dataclasses.replace(layout, shape=(3, 12, 20), band=4)
    (tmp_path / "site").write_bytes(encode(image_of(small), small))
    with pytest.raises(ValueError, match=f"{where}it holds a band of another size"):
        read_file(tmp_path / "site", layout, np.empty(layout.shape, np.uint8))


@pytest.mark.parametrize("codec", CHECKED)
def test_bands_are_decoded_in_groups_of_limited_memory(codec, tmp_path, monkeypatch):
    layout = CHECKED[codec][0]
    (tmp_path / "site").write_bytes(encode(image_of(layout), layout))
    for limit in (1, 2 * 3 * 8 * 20, 2**21):  # one band, two, all three at a time
        monkeypatch.setattr(frames, "TOGETHER", limit)
        out = np.empty(layout.shape, np.uint8)
        read_file(tmp_path / "site", layout, out)
        np.testing.assert_array_equal(out, image_of(layout))


def test_bands_that_do_not_follow_each_other_are_decoded_too():
    """A remote reader that has the one between asks for them."""
    for layout, _ in CHECKED.values():
        content = np.frombuffer(encode(image_of(layout), layout), np.uint8)
        index = frames.parse_index(content, layout, len(content))
        out = np.full(layout.shape, 77, np.uint8)
        frames.decode(content, 0, frames.frames_of(index, layout, [0, 2]), layout, out)
        np.testing.assert_array_equal(out[:, :8], image_of(layout)[:, :8])
        np.testing.assert_array_equal(out[:, 16:], image_of(layout)[:, 16:])
        assert (out[:, 8:16] == 77).all()


def test_zarr_finds_the_filter_where_the_package_is_installed(tmp_path):
    """By the entry point of `pyproject.toml`, with nothing of this package imported before."""
    layout = LAYOUTS[0]
    array_at(tmp_path / "store", layout)[0] = image_of(layout)
    points = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["entry-points"][
        "zarr.codecs"
    ]
    installed = tmp_path / "site" / "stand_in-1.0.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: stand-in\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(
        "[zarr.codecs]\n" + "".join(f"{name} = {what}\n" for name, what in points.items())
    )
    program = f"""
import sys, zarr
assert not any(name.startswith("cellsignal") for name in sys.modules)
print(zarr.open_array({str(tmp_path / "store" / "images")!r}, mode="r")[0].sum(), "torch" in sys.modules)
"""
    path = {"PYTHONPATH": f"{installed.parent}:{REPOSITORY / 'src'}"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=path)
    assert done.stdout.split() == [str(image_of(layout).sum()), "False"], done.stderr


def test_zarr_reads_an_lz4_store_without_this_package(tmp_path):
    layout = CHECKED["lz4"][0]
    array_at(tmp_path / "store", layout)
    (tmp_path / "store/images/c.1.0.0.0").write_bytes(encode(image_of(layout), layout))
    program = f"""
import sys, zarr
print(zarr.open_array({str(tmp_path / "store" / "images")!r}, mode="r")[1].sum())
print(any(name.startswith("cellsignal") for name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == [str(image_of(layout).sum()), "False"], done.stderr

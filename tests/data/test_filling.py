"""One site of a packing: what its entry says, and every way in which it can go wrong."""

import zlib

import numpy as np
import pytest

from cellsignal.common.errors import ImageError, InputError
from cellsignal.data import store_files as stored
from cellsignal.data.codec import layout_of
from cellsignal.data.filling import SitePacking, is_whole, pack_site

IMAGE = np.random.default_rng(0).integers(0, 256, (2, 8, 8), dtype=np.uint8)
IMAGE[1] = 7


def packing(out, read=lambda files: IMAGE, **more) -> SitePacking:
    """A packing of 2 channels of 8 x 8 pixels, whose folder is made."""
    layout = layout_of("raw", (2, 8, 8))
    stored.create_arrays(out, 3, layout)
    fixed = {"layout": layout, "resize": False}
    return SitePacking(str(out), read, lambda files, plate: 42, **fixed | more)


TASK = (1, ("a.png", "b.png"), "p1")


def test_an_entry_describes_the_stored_pixels(tmp_path):
    entry, error = pack_site(packing(tmp_path), TASK)
    assert error is None
    assert entry == {
        "row": 1,
        "status": stored.PACKED,
        "bytes": 128,
        "checksum": zlib.crc32(IMAGE.tobytes()),
        "mean": [IMAGE[0].mean(), 7.0],
        "sd": [pytest.approx(IMAGE[0].std()), 0.0],
        "stamp": 42,
    }
    chunk = tmp_path / "images" / "c.1.0.0.0"
    assert chunk.read_bytes() == IMAGE.tobytes() and is_whole(tmp_path, entry)
    chunk.write_bytes(IMAGE.tobytes()[:-1])
    assert not is_whole(tmp_path, entry)
    unknown = entry | {"bytes": 0}  # of a complete store
    assert is_whole(tmp_path, unknown)
    chunk.write_bytes(b"")
    assert not is_whole(tmp_path, unknown)
    chunk.unlink()
    assert not is_whole(tmp_path, unknown) and not is_whole(tmp_path, entry)


def test_a_larger_site_is_resized_where_the_store_has_a_size(tmp_path):
    large = IMAGE.repeat(2, axis=1).repeat(2, axis=2)
    entry, error = pack_site(packing(tmp_path, lambda files: large, resize=True), TASK)
    assert error is None and entry["checksum"] == zlib.crc32(IMAGE.tobytes())


@pytest.mark.parametrize(
    ("image", "kind", "words"),
    [
        (IMAGE[:1], "wrong_channels", "a.png: 1 channels, 2 expected"),
        (IMAGE[:, :6], "wrong_size", "a.png: 8x6 pixels, 8x8 expected"),
        (IMAGE[:, :, :6], "wrong_size", "a.png: 6x8 pixels, 8x8 expected"),
    ],
)
def test_a_site_of_another_shape_is_skipped_in_words(tmp_path, image, kind, words):
    entry, error = pack_site(packing(tmp_path, lambda files: image), TASK)
    assert isinstance(error, ImageError) and error.kind == kind and str(error) == words
    assert entry == {
        "row": 1,
        "status": stored.SKIPPED,
        "reason": kind.replace("_", " "),
        "message": words,
    }
    assert not (tmp_path / "images" / "c.1.0.0.0").exists()


def test_a_site_that_cannot_be_written_has_no_entry(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device", str(tmp_path / "images"))

    monkeypatch.setattr(stored, "write_chunk", full)
    entry, error = pack_site(packing(tmp_path), TASK)
    assert entry is None and isinstance(error, InputError) and not isinstance(error, ImageError)
    assert "No space left on device" in str(error) and "run again to go on" in str(error)

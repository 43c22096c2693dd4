"""What an image decodes to is held to what is expected: every surprise is read rightly or named,
and nothing else.
"""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from cellsignal.common.errors import ImageError
from cellsignal.competitions import competition_ids, get_competition
from cellsignal.competitions.mitoreid.raw.fields import read_plane
from cellsignal.images import JPEG, decode_image, image_size, read_gray16, read_png8
from cellsignal.images.tiff import decode_tiff

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (20, 30), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (20, 30), dtype=np.uint16)
COLOUR = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
GRAYS = bytes(value for level in range(256) for value in (level, level, level))


def chunk(name: bytes, body: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(name + body))
    return struct.pack(">I", len(body)) + name + body + checksum


def png(
    rows: np.ndarray,
    size: tuple[int, int],
    bits: int,
    colour: int,
    *extra: bytes,
    last: bytes = b"",
) -> bytes:
    """A PNG of packed bytes, row by row; `extra` chunks stand before the pixels, `last` after."""
    header = struct.pack(">IIBBBBB", size[1], size[0], bits, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    parts = [chunk(b"IHDR", header), *extra, chunk(b"IDAT", pixels), last, chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def saved(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def tiff(image: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, image, **options)
    return file.getvalue()


def palette_png(palette: bytes, *extra: bytes) -> bytes:
    return png(GRAY, GRAY.shape, 8, 3, chunk(b"PLTE", palette), *extra)


def packed(values: np.ndarray, bits: int) -> np.ndarray:
    """(H, W) values below 2**bits as rows of bytes, the first pixel in the highest bits."""
    binary = np.unpackbits(values[:, :, None].astype(np.uint8), axis=2)[:, :, -bits:]
    return np.packbits(binary.reshape(len(values), -1), axis=1)


# PNG ---------------------------------------------------------------------------------------------


def test_a_palette_of_grays_is_read_as_gray():
    assert np.array_equal(decode_image("a.png", palette_png(GRAYS)), GRAY)
    reversed_grays = bytes(255 - value for value in GRAYS)
    assert np.array_equal(decode_image("a.png", palette_png(reversed_grays)), 255 - GRAY)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_palette_of_few_grays_too(bits):
    levels = RNG.permutation(256)[: 2**bits].astype(np.uint8)
    indices = RNG.integers(0, 2**bits, GRAY.shape, dtype=np.uint8)
    palette = chunk(b"PLTE", np.repeat(levels, 3).tobytes())
    data = png(packed(indices, bits), GRAY.shape, bits, 3, palette)
    assert np.array_equal(decode_image("a.png", data), levels[indices])


def test_only_the_entries_of_a_palette_that_are_used_count():
    used = GRAY % 200
    palette = GRAYS[:600] + bytes([255, 0, 0]) * 56
    data = png(used, used.shape, 8, 3, chunk(b"PLTE", palette))
    assert np.array_equal(decode_image("a.png", data), used)
    coloured = bytearray(palette)
    coloured[3 * int(used[3, 4])] ^= 1
    with pytest.raises(ImageError, match=r"a\.png: has a palette of colours, gray expected"):
        decode_image("a.png", png(used, used.shape, 8, 3, chunk(b"PLTE", bytes(coloured))))


def test_a_pixel_beyond_the_last_entry_of_its_palette_is_no_gray():
    """Decoders take it for black."""
    assert GRAY.max() > 99
    data = palette_png(GRAYS[: 3 * (int(GRAY.max()) + 1)])
    assert np.array_equal(decode_image("a.png", data), GRAY)
    with pytest.raises(ImageError, match=r"a\.png: .*pixels beyond its last entry, gray expected"):
        decode_image("a.png", palette_png(GRAYS[: 3 * int(GRAY.max())]))


def interlaced(image: np.ndarray) -> bytes:
    """A gray PNG of seven passes (Adam7)."""
    starts = [
        (0, 0, 8, 8),
        (0, 4, 8, 8),
        (4, 0, 8, 4),
        (0, 2, 4, 4),
        (2, 0, 4, 2),
        (0, 1, 2, 2),
        (1, 0, 2, 1),
    ]
    passes = [image[row::rows, column::columns] for row, column, rows, columns in starts]
    lines = b"".join(b"\0" + line.tobytes() for part in passes if part.size for line in part)
    header = struct.pack(">IIBBBBB", image.shape[1], image.shape[0], 8, 0, 0, 0, 1)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(lines)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_an_interlaced_png_is_read():
    data = interlaced(GRAY)
    assert np.array_equal(decode_image("a.png", data), GRAY)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), GRAY)


def with_alpha(image: np.ndarray, alpha: int = 255) -> Image.Image:
    return Image.fromarray(np.dstack([image, np.full(image.shape[:2], alpha, np.uint8)]))


SURPRISING_PNGS = {
    "palette of colours": (
        palette_png(COLOUR.tobytes()[:768]),
        "wrong_channels",
        "palette of colours",
    ),
    "palette, transparent": (palette_png(GRAYS, chunk(b"tRNS", b"\0")), "wrong_channels", "tRNS"),
    "gray, transparent": (saved(Image.fromarray(GRAY), transparency=5), "wrong_channels", "tRNS"),
    "1-bit": (saved(Image.fromarray(GRAY > 99)), "wrong_depth", "1-bit image, 8-bit expected"),
    "2-bit": (png(packed(GRAY % 4, 2), GRAY.shape, 2, 0), "wrong_depth", "2-bit image"),
    "4-bit": (png(packed(GRAY % 16, 4), GRAY.shape, 4, 0), "wrong_depth", "4-bit image"),
    "16-bit": (png(DEEP.byteswap(), DEEP.shape, 16, 0), "wrong_depth", "16-bit image"),
    "gray with alpha": (
        saved(with_alpha(GRAY)),
        "wrong_channels",
        "2 channels a pixel (gray with alpha), 1 exp",
    ),
    "RGB": (
        saved(Image.fromarray(COLOUR)),
        "wrong_channels",
        "3 channels a pixel (RGB), 1 expected",
    ),
    "RGBA": (saved(with_alpha(COLOUR)), "wrong_channels", "4 channels"),
    "animated": (
        png(GRAY, GRAY.shape, 8, 0, chunk(b"acTL", struct.pack(">II", 2, 0))),
        "wrong_channels",
        "animated",
    ),
    "too few rows": (png(GRAY[:10], GRAY.shape, 8, 0), "corrupt", "corrupt PNG"),
    "no palette": (png(GRAY, GRAY.shape, 8, 3), "corrupt", "corrupt PNG"),
    "no pixels": (png(GRAY, (0, 30), 8, 0), "corrupt", "states 30x0 pixels"),
    "huge": (
        png(GRAY, (2**31 - 1, 2**31 - 1), 8, 0),
        "corrupt",
        "states 2147483647x2147483647 pixels",
    ),
    "header of no bytes": (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", b"") + chunk(b"IEND", b""),
        "corrupt",
        "header",
    ),
    "two headers": (
        png(GRAY, GRAY.shape, 8, 0, chunk(b"IHDR", struct.pack(">IIBBBBB", 3, 3, 8, 0, 0, 0, 0))),
        "corrupt",
        "header",
    ),
    "JPEG": (saved(Image.fromarray(GRAY), "JPEG"), "wrong_format", "is not a PNG but a JPEG"),
}


@pytest.mark.parametrize("name", SURPRISING_PNGS)
def test_every_other_png_is_named(tmp_path, name):
    data, kind, detail = SURPRISING_PNGS[name]
    path = tmp_path / "a.png"
    path.write_bytes(data)
    with pytest.raises(ImageError) as caught:
        read_png8(path)
    assert caught.value.kind == kind and detail in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (palette_png(GRAYS), "has a palette, RGB expected"),
        (saved(Image.fromarray(COLOUR), transparency=(1, 2, 3)), "tRNS"),
        (saved(with_alpha(COLOUR)), "4 channels"),
        (saved(Image.fromarray(GRAY)), "1 channel a pixel (gray), 3 expected"),
    ],
)
def test_what_is_no_plain_rgb_is_named(tmp_path, data, detail):
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(ImageError) as caught:
        read_png8(tmp_path / "a.png", channels=3)
    assert caught.value.kind == "wrong_channels" and detail in str(caught.value)


# TIFF --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize(
    "layout", [{}, {"rowsperstrip": 7}, {"tile": (16, 16)}], ids=["strip", "strips", "tiles"]
)
@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize(
    ("compression", "predictor"),
    [
        (None, False),
        ("lzw", False),
        ("lzw", True),
        ("zlib", False),
        ("zlib", True),
        ("zstd", False),
        ("zstd", True),
        ("packbits", False),
        ("lzma", False),
    ],
)
def test_every_way_to_write_a_tiff_is_read(byteorder, layout, bigtiff, compression, predictor):
    for plane in (DEEP, GRAY):
        how = {"compression": compression, "predictor": predictor, "bigtiff": bigtiff}
        data = tiff(plane, byteorder=byteorder, photometric="minisblack", **how, **layout)
        read = decode_image("a.tif", data, depths=(8, 16), shape=plane.shape)
        assert np.array_equal(read, plane) and read.dtype == plane.dtype and read.dtype.isnative


def test_what_programs_write_around_one_plane_does_no_harm():
    for options in ({"imagej": True}, {"ome": True}, {"metadata": None}, {"description": "a b c"}):
        assert np.array_equal(decode_image("a.tif", tiff(DEEP, **options), depths=(16,)), DEEP)
    file = io.BytesIO()
    with tifffile.TiffWriter(file, ome=True) as writer:  # a pyramid: smaller copies in sub-entries
        writer.write(DEEP, subifds=1, photometric="minisblack")
        writer.write(DEEP[::2, ::2], subfiletype=1, photometric="minisblack")
    assert np.array_equal(decode_image("a.tif", file.getvalue(), depths=(16,)), DEEP)
    planes_elsewhere = tiff(DEEP, ome=True).replace(b'SizeC="1"', b'SizeC="5"')
    assert np.array_equal(decode_image("a.tif", planes_elsewhere, depths=(16,)), DEEP)


def tiff_palette(levels: np.ndarray, index: np.ndarray = GRAY) -> bytes:
    return tiff(index, photometric="palette", colormap=levels.astype(np.uint16))


def test_a_tiffs_palette_of_grays_is_read_as_gray():
    ramp = np.arange(256)
    for levels, expected in (
        (ramp * 257, GRAY),
        (ramp * 256, GRAY),
        (ramp, GRAY),
        ((255 - ramp) * 257, 255 - GRAY),
    ):
        data = tiff_palette(np.stack([levels] * 3))
        assert np.array_equal(decode_image("a.tif", data), expected)
    counts = RNG.integers(0, 65536, 65536)
    data = tiff_palette(np.stack([counts] * 3), DEEP)
    assert np.array_equal(decode_image("a.tif", data, depths=(16,)), counts[DEEP])


STACK = np.stack([DEEP, DEEP[::-1], DEEP])
RAMP = np.stack([np.arange(256) * 257] * 3)
SURPRISING_TIFFS = {
    "ImageJ stack, one entry": (
        tiff(STACK, imagej=True, truncate=True),
        "wrong_channels",
        "3 planes in one file (an ImageJ",
    ),
    "stack, one entry": (
        tiff(STACK, truncate=True, photometric="minisblack"),
        "wrong_channels",
        "3 planes in one file, one",
    ),
    "ImageJ stack": (tiff(STACK, imagej=True), "wrong_channels", "3 planes"),
    "ImageJ hyperstack": (
        tiff(STACK[:, None], imagej=True, metadata={"axes": "ZCYX"}),
        "wrong_channels",
        "3 planes",
    ),
    "pages": (tiff(STACK, photometric="minisblack"), "wrong_channels", "3 planes"),
    "OME-TIFF": (tiff(STACK, ome=True, metadata={"axes": "CYX"}), "wrong_channels", "3 planes"),
    "volume": (
        tiff(STACK, volumetric=True, tile=(16, 16, 16), photometric="minisblack"),
        "wrong_channels",
        "shape (3, 20, 30)",
    ),
    "RGB": (
        tiff(COLOUR.astype(np.uint16), photometric="rgb"),
        "wrong_channels",
        "3 channels a pixel (RGB)",
    ),
    "gray with alpha": (
        tiff(
            np.dstack([DEEP, DEEP]),
            photometric="minisblack",
            planarconfig="contig",
            extrasamples=["unassalpha"],
        ),
        "wrong_channels",
        "2 channels",
    ),
    "WhiteIsZero": (tiff(DEEP, photometric="miniswhite"), "wrong_format", "WhiteIsZero"),
    "colour filters": (tiff(DEEP, photometric="cfa"), "wrong_format", "CFA"),
    "palette of colours": (
        tiff_palette(RNG.integers(0, 65536, (3, 65536)), DEEP),
        "wrong_channels",
        "has a palette of colours, gray expected",
    ),
    "8-bit": (tiff(GRAY), "wrong_depth", "pixels of type uint8, uint16 expected"),
    "palette of 8 bits": (tiff_palette(RAMP), "wrong_depth", "uint8"),
    "32-bit": (tiff(DEEP.astype(np.uint32)), "wrong_depth", "uint32"),
    "signed": (tiff((DEEP // 2).astype(np.int16)), "wrong_depth", "int16, uint16 expected"),
    "float": (tiff(DEEP.astype(np.float32)), "wrong_depth", "float32"),
    "half float": (tiff(DEEP.astype(np.float16)), "wrong_depth", "float16"),
    "1-bit": (tiff(GRAY > 99, photometric="minisblack"), "wrong_depth", "bool"),
    "JPEG": (
        saved(Image.fromarray(GRAY), "JPEG"),
        "wrong_format",
        "is not a TIFF or PNG but a JPEG",
    ),
}


@pytest.mark.parametrize("name", SURPRISING_TIFFS)
def test_every_other_tiff_is_named(tmp_path, name):
    data, kind, detail = SURPRISING_TIFFS[name]
    path = tmp_path / "a.tif"
    path.write_bytes(data)
    with pytest.raises(ImageError) as caught:
        read_gray16(path)
    assert caught.value.kind == kind and detail in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def changed_tag(data: bytes, name: str, value) -> bytes:
    file = io.BytesIO(data)
    with tifffile.TiffFile(file, mode="r+") as opened:
        opened.pages[0].tags[name].overwrite(value)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ImageLength", 40),  # more rows than there are strips
        ("StripByteCounts", (420, 420, 0)),
        ("StripByteCounts", (420, 420, 300)),
        ("StripOffsets", (8, 8, 1 << 20)),
    ],
)
@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "zstd", "packbits"])
def test_a_tiff_whose_strips_do_not_make_up_its_plane_is_refused(name, value, compression):
    data = tiff(DEEP, rowsperstrip=7, compression=compression, metadata=None)
    with pytest.raises(ImageError) as caught:
        decode_image("a.tif", changed_tag(data, name, value), depths=(16,))
    assert caught.value.kind in ("truncated", "corrupt")


def test_several_planes_are_read_where_they_are_expected():
    for options in ({"ome": True, "metadata": {"axes": "CYX"}}, {"photometric": "minisblack"}):
        assert np.array_equal(
            decode_tiff("url", tiff(STACK, **options), 3, shape=DEEP.shape), STACK
        )
    with pytest.raises(ImageError, match="url: 3 planes in one file, 2 gray planes expected"):
        decode_tiff("url", tiff(STACK, ome=True, metadata={"axes": "CYX"}), 2)
    with pytest.raises(ImageError, match=r"url: is not a TIFF \(13 bytes that start b'<html></htm"):
        decode_tiff("url", b"<html></html>", 3)


# JPEG and the readers that take several formats --------------------------------------------------


def jpeg(image: np.ndarray, mode: str) -> bytes:
    return saved(Image.fromarray(image, mode), "JPEG", quality=95)


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
def test_jpegs_of_every_kind():
    cmyk = np.dstack([COLOUR, GRAY])
    gray = decode_image("a.jpg", jpeg(GRAY, "L"), formats=(JPEG,))
    assert gray.shape == GRAY.shape and np.array_equal(
        gray, Image.open(io.BytesIO(jpeg(GRAY, "L")))
    )
    colour = decode_image("a.jpg", jpeg(COLOUR, "RGB"), channels=(3,))
    opposite = cv2.imdecode(np.frombuffer(jpeg(COLOUR, "RGB"), np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(colour, opposite[:, :, ::-1])
    for data, channels, detail in (
        (jpeg(cmyk, "CMYK"), (1, 3), "4 channels a pixel"),
        (jpeg(COLOUR, "RGB"), (1,), r"3 channels a pixel \(RGB\), 1 expected"),
        (jpeg(GRAY, "L"), (3,), r"1 channel a pixel \(gray\), 3 expected"),
    ):
        with pytest.raises(ImageError, match=detail) as caught:
            decode_image("a.jpg", data, channels=channels)
        assert caught.value.kind == "wrong_channels"
    for data in (b"\xff\xd8\xff\xd9", b"\xff\xd8" + bytes(9) + b"\xff\xd9"):
        with pytest.raises(ImageError) as caught:
            decode_image("a.jpg", data)
        assert caught.value.kind == "corrupt"


def test_a_field_of_mitoreid_is_held_to_one_gray_plane(tmp_path):
    def write(data: bytes):
        (tmp_path / "5_1_w1.tif").write_bytes(data)
        return tmp_path / "5_1_w1.tif"

    for data, plane in (
        (palette_png(GRAYS), GRAY),
        (tiff_palette(RAMP), GRAY),
        (tiff(DEEP), DEEP),
        (tiff(GRAY), GRAY),
    ):
        assert np.array_equal(read_plane(write(data)), plane)
    surprises = [
        data for name, (data, *_) in SURPRISING_PNGS.items() if name not in ("16-bit", "JPEG")
    ]
    readable = ("8-bit", "palette of 8 bits", "JPEG")
    surprises += [data for name, (data, *_) in SURPRISING_TIFFS.items() if name not in readable]
    surprises.append(tiff(np.stack([GRAY, GRAY]), imagej=True, truncate=True))
    for data in surprises:
        with pytest.raises(ImageError, match=r"5_1_w1\.tif: "):
            read_plane(write(data))


@pytest.mark.parametrize(
    "data", [palette_png(GRAYS), tiff(DEEP), tiff(GRAY), saved(Image.fromarray(GRAY), "JPEG")]
)
def test_sizes_are_those_of_the_decoded_plane(tmp_path, data):
    (tmp_path / "a").write_bytes(data)
    assert image_size(tmp_path / "a") == (20, 30)


# every competition's reader ----------------------------------------------------------------------


def surprises_for(path) -> dict[str, bytes]:
    """Surprising images in the place of a sound one, of its own format and size."""
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if path.suffix == ".jpg":
        size = image.shape[:2]
        gray = np.zeros(size, np.uint8)
        return {"gray": jpeg_of(gray), "CMYK": saved(Image.new("CMYK", size[::-1]), "JPEG")}
    if image.dtype == np.uint16:
        return {
            "ImageJ stack": tiff(np.stack([image, image]), imagej=True, truncate=True),
            "float": tiff(image.astype(np.float32)),
            "WhiteIsZero": tiff(image, photometric="miniswhite"),
            "RGB": tiff(np.dstack([image] * 3), photometric="rgb"),
        }
    colours = np.random.default_rng(3).bytes(768)
    plane = image if image.ndim == 2 else image[:, :, 0]
    return {
        "palette of colours": png(plane, plane.shape, 8, 3, chunk(b"PLTE", colours)),
        "alpha": saved(with_alpha(image)),
        "16-bit": png(plane.astype(">u2"), plane.shape, 16, 0),
    }


def jpeg_of(image: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", image)[1].tobytes()


@pytest.mark.parametrize("name", competition_ids())
def test_a_surprising_image_is_the_samples_own_fault(simulated, tmp_path, name):
    """The error names the one file, in every competition; the sound image is read again after it."""
    competition, root = get_competition(name), tmp_path / "root"
    root.mkdir()
    for entry in simulated(name).iterdir():
        (root / entry.name).symlink_to(entry)
    competition = competition.calibrate(root, tmp_path / "calibration")
    files = competition.samples(root).files.iloc[0]
    place = root / competition.image_files(files)[-1].partition("#")[0]
    copy_of_folder(root, place)
    before = competition.read(root, files)
    sound = place.read_bytes()
    for surprise, data in surprises_for(place).items():
        place.write_bytes(data)
        with pytest.raises(ImageError) as caught:
            competition.read(root, files)
        assert caught.value.path == str(place), surprise
    place.write_bytes(sound)
    assert np.array_equal(competition.read(root, files), before)


def copy_of_folder(root, place) -> None:
    """Make the folders down to a file, and the file, this root's own; all else stays a link."""
    folder = root
    for part in place.relative_to(root).parts:
        folder = folder / part
        if folder.is_symlink():
            target = folder.resolve()
            folder.unlink()
            if target.is_file():
                folder.write_bytes(target.read_bytes())
                continue
            folder.mkdir()
            for entry in target.iterdir():
                (folder / entry.name).symlink_to(entry)

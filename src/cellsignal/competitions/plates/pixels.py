"""Read the planes of a site, and make 16-bit planes 8-bit by percentiles of their plate."""

import functools
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cellsignal.common.errors import ImageError
from cellsignal.competitions import calibration
from cellsignal.competitions.plates import zarr_planes
from cellsignal.competitions.plates.description import Images
from cellsignal.competitions.plates.planes import layout_of, parse_entry
from cellsignal.images import decode_image, read_bytes
from cellsignal.images.intensity import to_uint8

log = logging.getLogger(__name__)

VERSION = 1  # raise it when the same planes give other windows
MEASURED_SITES = 384  # of a plate, drawn at random
_PIXELS = 256  # side of the grid of pixels that a site adds


def read_site(
    root: Path, files: Sequence[str], images: Images, shape: tuple[int, int] | None = None
) -> np.ndarray:
    """Read a site's planes as they are: (C, H, W) uint8 or uint16, by `images.bits`.

    Raises:
        ImageError: missing, damaged, or of another size, depth or number of planes.
    """
    if layout_of(images).whole_channels:
        return _read_whole(root / files[0], images, shape)
    planes = []
    for entry in files:
        planes.append(_read_entry(root, entry, images.bits, shape))
        shape = planes[0].shape
    return np.stack(planes)


def _read_entry(root: Path, entry: str, bits: int, shape: tuple[int, int] | None) -> np.ndarray:
    """Read one plane, or the projection of its stack: (H, W)."""
    if zarr_planes.is_plane(entry):
        plane = zarr_planes.read_plane(root, entry, bits, shape)
        return plane if plane.ndim == 2 else project(plane, zarr_planes.parse_plane(entry).how)
    how, names = parse_entry(entry)
    stack = []
    for name in names:
        path = root / name
        stack.append(decode_image(path, read_bytes(path), depths=(bits,), shape=shape))
        shape = stack[0].shape
    return stack[0] if len(stack) == 1 else project(np.stack(stack), how)


def project(stack: np.ndarray, how: str | int) -> np.ndarray:
    """Make one plane of a stack (Z, H, W): "max", "mean" (rounded), or a plane's number from 1."""
    if how == "max":
        return stack.max(0)
    if how == "mean":
        return np.rint(stack.mean(0)).astype(stack.dtype)
    return stack[int(how) - 1]


def _read_whole(path: Path, images: Images, shape: tuple[int, int] | None) -> np.ndarray:
    """Read a file that holds all channels: RGB, or a TIFF of several pages."""
    data = read_bytes(path)
    numbers = [int(number) - 1 for number in images.channels.values()]
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        planes = _read_pages(path, images, shape)
    else:
        image = decode_image(path, data, depths=(images.bits,), channels=(1, 3), shape=shape)
        planes = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
    if max(numbers) >= len(planes):
        detail = f"{len(planes)} planes, plane {max(numbers) + 1} is named in plates.yaml"
        raise ImageError(path, "wrong_channels", detail)
    return np.ascontiguousarray(planes[numbers])


def _read_pages(path: Path, images: Images, shape: tuple[int, int] | None) -> np.ndarray:
    """Read the channels of a TIFF of several pages, stacks projected: (C, H, W)."""
    stack, axes = read_tiff_series(path)
    for axis in [axis for axis in axes if axis not in "CZYX"]:
        position = axes.index(axis)
        stack, axes = stack.take(0, position), axes.replace(axis, "", 1)
    order = [axes.index(axis) for axis in "CZYX" if axis in axes]
    stack = stack.transpose(order)
    if "Z" in axes:
        where = 1 if "C" in axes else 0
        stack = project(np.moveaxis(stack, where, 0), images.z)
    planes = stack if stack.ndim == 3 else stack[None]
    if planes.dtype != np.dtype(f"uint{images.bits}"):
        detail = f"pixels of type {planes.dtype}, uint{images.bits} expected"
        raise ImageError(path, "wrong_depth", detail)
    if shape is not None and planes.shape[1:] != tuple(shape):
        size = f"{planes.shape[2]}x{planes.shape[1]} pixels, {shape[1]}x{shape[0]} expected"
        raise ImageError(path, "wrong_size", size)
    return planes


def read_tiff_series(path: Path) -> tuple[np.ndarray, str]:
    """Return a TIFF's first series and its axes ("CYX", "ZCYX", ...).

    Pages without metadata count as channels, and so do the colours of RGB.

    Raises:
        ImageError: it is damaged.
    """
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            series = file.series[0]
            stack, axes = series.asarray(), series.axes
    except Exception as error:  # from damaged bytes the decoder raises anything
        why = " ".join(str(error).split())[:100] or type(error).__name__
        raise ImageError(path, "corrupt", f"corrupt TIFF: cannot be decoded ({why})") from None
    if "C" not in axes:
        axes = next((axes.replace(a, "C") for a in ("S", "Q", "I") if a in axes), axes)
    return stack, axes


def measure_plate(
    root: Path, plate: str, sites: tuple[tuple[str, ...], ...], images: Images
) -> dict[str, np.ndarray]:
    """Measure the window of each channel in up to MEASURED_SITES sites of a plate.

    Returns:
        `low` and `high`, (C,) float32: the grey levels that become 0 and 255.
    """
    values: list[list[np.ndarray]] = [[] for _ in images.channels]
    for number in np.random.default_rng(0).permutation(len(sites))[:MEASURED_SITES]:
        try:
            planes = read_site(root, sites[number], images)
        except ImageError as error:
            # whoever reads the site for itself names it
            log.debug("window of plate %s: left out a site: %s", plate, error)
            continue
        step = max(1, planes.shape[1] // _PIXELS)
        for channel, plane in enumerate(planes):
            values[channel].append(plane[::step, ::step].ravel())
    if not values[0]:
        first = sites[0][0] if sites else "none"
        raise calibration.PlateError(
            f"{root}: plate {plate} has no readable site to measure its grey levels in, first "
            f"{first}"
        )
    windows = [np.percentile(np.concatenate(part), images.window) for part in values]
    low, high = np.array([(a, max(b, a + 1)) for a, b in windows], np.float32).T
    return {"low": low, "high": high}


def read_as_bytes(
    root: Path,
    files: tuple[str, ...],
    images: Images,
    measured: Path | None,
    shape: tuple[int, int] | None,
) -> np.ndarray:
    """Read a site, (C, H, W) uint8.

    Args:
        measured: the file of the plate's windows; None where the images are 8-bit.
    """
    planes = read_site(Path(root), files, images, shape)
    if images.bits == 8:
        return planes
    try:
        changed_at = measured.stat().st_mtime_ns
    except OSError:
        path = Path(root) / parse_entry(files[0])[1][0]
        raise ImageError(path, "not_calibrated", calibration.NOT_CALIBRATED) from None
    lows, highs = _load_window(measured, changed_at)
    return np.stack(
        [to_uint8(p, low, high) for p, low, high in zip(planes, lows, highs, strict=True)]
    )


@functools.lru_cache(maxsize=16)
def _load_window(path: Path, changed_at: int) -> list[np.ndarray]:
    return calibration.read_arrays(path, ("low", "high"))

"""Read one site's image, resize it and measure it; and run such work in processes."""

import logging
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import cv2
import numpy as np

from cellsignal.common.errors import ImageError, InputError
from cellsignal.common.processes import start_worker
from cellsignal.common.progress import with_progress

log = logging.getLogger(__name__)
Read = Callable[[tuple[str, ...]], np.ndarray]


def read_site(read: Read, files: tuple[str, ...]) -> np.ndarray:
    """Read a site's image; raise `ImageError` for any fault of its files.

    An exception that `read` was not made for is logged with its kind, and is an error of kind
    "corrupt".

    Raises:
        ImageError: the site cannot be read.
        InputError: something else than its files is wrong, such as a damaged calibration.
    """
    try:
        image = read(files)
        assert image.ndim == 3 and image.dtype == np.uint8, (
            f"{image.shape} {image.dtype}, not (C, H, W) uint8"
        )
    except (InputError, MemoryError):
        raise
    except OSError as error:
        raise ImageError(
            error.filename or files[0], "corrupt", f"cannot be read ({error.strerror or error})"
        ) from None
    except Exception as error:
        kind, why = type(error).__name__, " ".join(str(error).split())[:100]
        log.warning(
            "%s: reading ended in an unexpected %s (%s)",
            files[0],
            kind,
            why,
            exc_info=log.isEnabledFor(logging.DEBUG),
        )
        raise ImageError(files[0], "corrupt", f"cannot be read ({kind}: {why})") from None
    return image


def resized(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resize (C, H, W) uint8 to (C, *shape): area average to shrink, bilinear to enlarge."""
    if image.shape[1:] == tuple(shape):
        return image
    how = (
        cv2.INTER_AREA
        if shape[0] <= image.shape[1] and shape[1] <= image.shape[2]
        else cv2.INTER_LINEAR
    )
    return np.stack(
        [cv2.resize(channel, (shape[1], shape[0]), interpolation=how) for channel in image]
    )


def channel_statistics(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and population SD of each channel in grey levels: two (C,) float64.

    A flat channel's SD is exactly 0.
    """
    mean, sd = np.array([cv2.meanStdDev(channel) for channel in image]).reshape(len(image), 2).T
    # one pixel one level off; below it is rounding
    smallest = np.sqrt(image[0].size - 1.0) / image[0].size
    return mean, np.where(sd < smallest / 2, 0.0, sd)


def in_processes(function: Callable, items: list, workers: int, description: str) -> Iterator:
    """The results of `function` over `items`, in order, with progress. Close the iterator to stop
    early.

    Processes are spawned, not forked: the parent may hold threads (OpenCV, zarr, torch). They end
    with it, even if it is killed.
    """
    if not workers or len(items) < 2:
        yield from with_progress(map(function, items), description, len(items), "site")
        return
    pool = ProcessPoolExecutor(
        min(workers, len(items)), multiprocessing.get_context("spawn"), initializer=start_worker
    )
    try:
        chunk = max(1, min(16, len(items) // (4 * workers)))
        results = pool.map(function, items, chunksize=chunk)
        yield from with_progress(results, description, len(items), "site")
    except BrokenProcessPool:
        raise InputError(
            f"{description}: a worker process died (out of memory?); use fewer workers and run "
            "again"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)

"""Measure nuclei as CellProfiler does, by the package cp_measure (an extra).

The nuclei are the bright regions of the nuclear channel (`site_measures.bright_objects`): no
segmentation that separates nuclei which touch.
"""

import functools
import importlib.util
import warnings
from collections.abc import Sequence

import numpy as np

from cellsignal.baselines.features import open_store
from cellsignal.common.places import Place
from cellsignal.data.sites import in_processes
from cellsignal.data.store import Store
from cellsignal.quality.site_measures import bright_objects

PACKAGE = "cp_measure"
# of every channel, and of the shapes alone
_OF_CHANNEL = ("intensity", "texture", "granularity", "radial_distribution")
_OF_SHAPE = ("sizeshape", "feret")
_PLACE = (
    "location",
    "center",
    "boundingbox",
    "maximumposition",
)  # where a nucleus lies says nothing


def missing_package() -> str:
    """Return why nothing can be measured, or ""."""
    if importlib.util.find_spec(PACKAGE) is not None:
        return ""
    return f"the package is not installed: pip install {PACKAGE}"


def nuclei_features(image: np.ndarray, nuclei: int) -> np.ndarray | None:
    """Return mean and SD over the nuclei of each measure, and log(1 + their number).

    Args:
        image: (C, H, W) uint8.
        nuclei: number of the nuclear channel.

    Returns:
        (D,) float64, 0 where a measure has no finite value; None where there is no nucleus.
    """
    from cp_measure.bulk import get_core_measurements

    labels = bright_objects(image[nuclei])
    if not labels.any():
        return None
    measures, columns = get_core_measurements(), []
    jobs = [(name, nuclei) for name in _OF_SHAPE]
    jobs += [(name, channel) for channel in range(len(image)) for name in _OF_CHANNEL]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # of nuclei too small for a measure
        for name, channel in jobs:
            measured = measures[name](labels, image[channel].astype(np.float32) / 255)
            for key in sorted(measured):
                if not any(word in key.lower() for word in _PLACE):
                    columns.append(np.asarray(measured[key], np.float64).ravel())
    number = labels.max()
    table = np.stack([column[:number] for column in columns])
    table = np.where(np.isfinite(table), table, np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a measure that no nucleus has
        figures = np.concatenate([np.nanmean(table, axis=1), np.nanstd(table, axis=1)])
    return np.nan_to_num(np.append(figures, np.log1p(number)))


def read_features(
    store: Store, rows: Sequence[int], planes: Sequence[int], nuclei: int, workers: int
) -> np.ndarray:
    """Measure stored images, (N, D); an image without a nucleus has zeros.

    Args:
        planes: of a stored image that are the channels.
        nuclei: which of them shows nuclei.
    """
    measure = functools.partial(_measure_row, store.path, tuple(planes), nuclei)
    features = list(in_processes(measure, [int(row) for row in rows], workers, "cp_measure"))
    width = max((len(values) for values in features if values is not None), default=1)
    return np.stack([np.zeros(width) if values is None else values for values in features])


def _measure_row(path: Place, planes: tuple[int, ...], nuclei: int, row: int) -> np.ndarray | None:
    return nuclei_features(open_store(path).read(row)[list(planes)], nuclei)

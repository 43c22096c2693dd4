"""Offer rxrx-io's functions, with the same signatures, without TensorFlow.

The original reads a public bucket; here `base_path` is a folder on disk, by default `data/rxrx1`. A
simulated copy's images may be smaller than 512x512: the arrays then have its size.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import DTypeLike

from cellsignal.competitions.rxrx1.layouts import CHANNELS
from cellsignal.competitions.rxrx1.metadata import read_sites
from cellsignal.images import read_png8

DEFAULT_BASE_PATH = os.path.join("data", "rxrx1")
DEFAULT_CHANNELS = tuple(range(1, CHANNELS + 1))

# Each channel's colour in the RGB rendering, and the gray values that are spread over it.
RGB_MAP = {
    1: {"rgb": np.array([19, 0, 249]), "range": [0, 51]},
    2: {"rgb": np.array([42, 255, 31]), "range": [0, 107]},
    3: {"rgb": np.array([255, 0, 25]), "range": [0, 64]},
    4: {"rgb": np.array([45, 255, 252]), "range": [0, 191]},
    5: {"rgb": np.array([250, 0, 253]), "range": [0, 89]},
    6: {"rgb": np.array([254, 255, 40]), "range": [0, 191]},
}


def image_path(
    dataset: str,
    experiment: str,
    plate: int | str,
    address: str,
    site: int,
    channel: int,
    base_path: str | Path = DEFAULT_BASE_PATH,
) -> str:
    """The path of one channel's PNG: `base/dataset/experiment/Plate1/B03_s1_w1.png`."""
    return os.path.join(
        base_path, dataset, experiment, f"Plate{plate}", f"{address}_s{site}_w{channel}.png"
    )


def channel_paths(
    dataset: str,
    experiment: str,
    plate: int | str,
    well: str,
    site: int,
    channels: Sequence[int] = DEFAULT_CHANNELS,
    base_path: str | Path = DEFAULT_BASE_PATH,
) -> list[str]:
    """The paths of a site's PNGs, in the order of `channels`."""
    return [
        image_path(dataset, experiment, plate, well, site, channel, base_path)
        for channel in channels
    ]


def load_images_as_tensor(
    image_paths: Sequence[str | Path], dtype: DTypeLike = np.uint8
) -> np.ndarray:
    """Read gray PNGs of one size into an array (H, W, len(image_paths)); values are not scaled.

    Raises:
        ImageError: a file is missing or damaged, or differs in size from the first.
    """
    first = read_png8(image_paths[0])
    planes = [first, *(read_png8(path, first.shape) for path in image_paths[1:])]
    return np.stack(planes, axis=-1).astype(dtype, copy=False)


def load_site(
    dataset: str,
    experiment: str,
    plate: int | str,
    well: str,
    site: int,
    channels: Sequence[int] = DEFAULT_CHANNELS,
    base_path: str | Path = DEFAULT_BASE_PATH,
) -> np.ndarray:
    """A site's image, (512, 512, len(channels)) uint8."""
    return load_images_as_tensor(
        channel_paths(dataset, experiment, plate, well, site, channels, base_path)
    )


def convert_tensor_to_rgb(
    t: np.ndarray,
    channels: Sequence[int] = DEFAULT_CHANNELS,
    vmax: int = 255,
    rgb_map: dict = RGB_MAP,
) -> np.ndarray:
    """Render channels in their colours.

    Args:
        t: (H, W, len(channels)) values up to `vmax`.

    Returns:
        (H, W, 3) int, 0..255.
    """
    rendered = np.zeros((*t.shape[:2], 3), dtype=int)
    for index, channel in enumerate(channels):
        low, high = rgb_map[channel]["range"]
        x = np.minimum((t[:, :, index] / vmax) / ((high - low) / 255) + low / 255, 1.0)
        rendered += (x[:, :, None] * rgb_map[channel]["rgb"]).astype(int)
    return np.minimum(rendered, 255)


def load_site_as_rgb(
    dataset: str,
    experiment: str,
    plate: int | str,
    well: str,
    site: int,
    channels: Sequence[int] = DEFAULT_CHANNELS,
    base_path: str | Path = DEFAULT_BASE_PATH,
    rgb_map: dict = RGB_MAP,
) -> np.ndarray:
    """A site's image rendered in colour, (512, 512, 3) int, 0..255."""
    return convert_tensor_to_rgb(
        load_site(dataset, experiment, plate, well, site, channels, base_path),
        channels,
        rgb_map=rgb_map,
    )


def combine_metadata(
    base_path: str | Path = DEFAULT_BASE_PATH, include_controls: bool = True
) -> pd.DataFrame:
    """Read all metadata into one frame indexed by id_code, one row per site.

    Args:
        base_path: the folder of the metadata: Kaggle's CSVs, or rxrx.ai's metadata.csv.
        include_controls: whether the control wells are among the rows.

    Returns:
        Columns cell_type, dataset, experiment, plate, sirna (float; NaN for test treatments), site,
        well, and with controls well_type; test rows first, sorted by id_code and site within a
        dataset.

    Raises:
        InputError: a CSV is missing or wrong.
    """
    sites = read_sites(base_path)
    if not include_controls:
        sites = sites[sites.role == "treatment"]
    frame = pd.DataFrame(
        {
            "id_code": sites.id_code,
            "cell_type": sites.experiment.str.rsplit("-", n=1).str[0],
            "dataset": sites.split,
            "experiment": sites.experiment,
            "plate": sites.plate,
            "sirna": sites.label.astype("float64"),
            "site": sites.site,
            "well": sites.well,
            "well_type": sites.role,
        }
    )
    if not include_controls:  # rxrx-io has no such column then
        frame = frame.drop(columns="well_type")
    return frame.sort_values(["dataset", "id_code", "site"], kind="stable").set_index("id_code")

"""Look at a folder that `init` has just described: what lacks, and a few sites as a picture."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.errors import ImageError, InputError
from cellsignal.competitions.plates.description import Images, read_description
from cellsignal.competitions.plates.pixels import measure_plate, read_site
from cellsignal.competitions.plates.planes import images_base, join_sites
from cellsignal.images.intensity import to_uint8

SHOWN = 4  # sites of the picture


@dataclass(frozen=True)
class FirstLook:
    """What a folder shows without a platemap.

    Attributes:
        left_out: (reason, name) of files that are not understood and sites that lack a plane.
        images: `<plate>_<well>_s<site>` -> (C, H, W) uint8, of wells far from each other.
        problem: why there is no image, or no site; "" where there are some.
    """

    left_out: tuple[tuple[str, str], ...]
    images: dict[str, np.ndarray]
    problem: str = ""


def look_at_sites(root: Path) -> FirstLook:
    """Join the sites of a described folder and read a few of them."""
    description = read_description(root)
    try:
        sites = join_sites(root, description)
    except InputError as error:
        return FirstLook((), {}, str(error))
    wells = sites.rows.drop_duplicates(["batch", "plate", "well"], ignore_index=True)
    images, problem = {}, "no site has all channels"
    folder, _ = images_base(root, description.images)
    chosen = np.linspace(0, len(wells) - 1, min(SHOWN, len(wells))).round().astype(int)
    for _, part in wells.iloc[chosen].groupby(["batch", "plate"], sort=False):
        try:
            images |= _read(folder, part, description.images)
        except ImageError as error:
            problem = str(error)
    return FirstLook(sites.left_out, images, "" if images else problem)


def _read(folder: Path, sites: pd.DataFrame, images: Images) -> dict[str, np.ndarray]:
    """Read sites of one plate, by the percentiles of these sites where they have 16 bits."""
    planes = {
        f"{row.plate}_{row.well}_s{row.site}": read_site(folder, row.files, images)
        for row in sites.itertuples()
    }
    if images.bits == 8:
        return planes
    window = measure_plate(folder, sites.plate.iloc[0], tuple(sites.files), images)
    limits = list(zip(window["low"], window["high"], strict=True))
    return {
        name: np.stack(
            [to_uint8(plane, *limit) for plane, limit in zip(image, limits, strict=True)]
        )
        for name, image in planes.items()
    }

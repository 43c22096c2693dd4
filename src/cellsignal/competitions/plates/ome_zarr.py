"""Know the wells, fields and channels of plates kept as OME-Zarr, version 0.4 or 0.5.

`PLATE.zarr/A/1/0` is a field of well A01. What holds what is said by `.zattrs` (0.4, zarr 2) or by
`attributes.ome` of `zarr.json` (0.5, zarr 3) of the plate, the well and the field. The array of the
highest resolution is read; see `zarr_planes`.
"""

import os
import re
from pathlib import Path
from typing import Any

from cellsignal.common.errors import InputError
from cellsignal.common.tables import is_well, normalise_well
from cellsignal.competitions.plates.zarr_planes import (
    make_plane,
    parse_plane,
    read_facts,
    read_json,
)

NAME = "ome_zarr"
AXES = "tczyx"  # in this order; only y and x must be there
_METADATA = ("zarr.json", ".zattrs")
_SUFFIX = re.compile(r"(\.ome)?\.zarr$")
_NOT_THERE = "that is listed and not there"


def find_plates(folder: Path) -> list[Path]:
    """Return the plates under a folder, or the folder itself if it is one."""
    plates = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if set(files) & set(_METADATA) and "plate" in (read_attributes(Path(parent)) or {}):
            plates.append(Path(parent))
            folders[:] = []
    return plates


def read_attributes(folder: Path) -> dict[str, Any] | None:
    """Return what the OME metadata of a group say; None where it has none."""
    tree = read_json(folder / "zarr.json")
    if tree is None:
        return read_json(folder / ".zattrs")
    attributes = tree.get("attributes")
    ome = attributes.get("ome") if isinstance(attributes, dict) else None
    return ome if isinstance(ome, dict) else None


def plate_name(folder: Path) -> str:
    return _SUFFIX.sub("", folder.resolve().name)


def plate_of(folder: Path, name: str) -> str:
    """Return the plate that a file of a folder belongs to."""
    for parent in (folder / name).parents:
        if "plate" in (read_attributes(parent) or {}):
            return plate_name(parent)
    raise InputError(f"{folder / name}: lies in no plate of OME-Zarr")


def bits_of(folder: Path, entry: str) -> int:
    """Return the bits a pixel of the array of an entry."""
    return read_facts(folder / parse_plane(entry).array).bits


def read_planes(folder: Path) -> tuple[list[dict[str, str]], list[tuple[str, str]]]:
    """Return a row a z plane of each channel of each field, and what was left out.

    Returns:
        Rows with file (see `zarr_planes`), plate, well, site, channel and z; and (reason, name) of
        wells and fields that are listed and not there, of fields of another acquisition than the
        first, of other time points, and of fields without any plane. A plane that lacks a chunk has
        no row.

    Raises:
        InputError: metadata that are damaged or lack something, a well that is none, other axes
            than `AXES`, or what `read_facts` refuses; names the file.
    """
    rows, left_out = [], []
    for plate in find_plates(Path(folder)):
        wells, gone = _list(plate, "plate", "wells"), []
        acquisition = _first_acquisition(plate)
        for path in (_text(plate, "plate.wells", well) for well in wells):
            well = normalise_well(path.replace("/", ""))
            if not is_well(well):
                raise InputError(f"{_file(plate)}: plate.wells: {path!r} is not a well")
            if "well" not in (read_attributes(plate / path) or {}):
                gone.append((f"a well {_NOT_THERE}", f"{plate_name(plate)}/{path}"))
                continue
            facts = {"plate": plate_name(plate), "well": well}
            more, lost = _read_well(Path(folder), plate / path, facts, acquisition)
            rows += more
            left_out += lost
        left_out += gone
    return rows, left_out


def _first_acquisition(plate: Path) -> Any:
    acquisitions = read_attributes(plate)["plate"].get("acquisitions") or [{}]
    return acquisitions[0].get("id") if isinstance(acquisitions[0], dict) else None


def _read_well(
    folder: Path, well: Path, facts: dict[str, str], acquisition: Any
) -> tuple[list[dict[str, str]], list[tuple[str, str]]]:
    rows, left_out, site = [], [], 0
    for image in _list(well, "well", "images"):
        path = _text(well, "well.images", image)
        name = f"{facts['plate']} {facts['well']} field {path}"
        if acquisition is not None and image.get("acquisition", acquisition) != acquisition:
            left_out.append(("another acquisition than the first", name))
            continue
        site += 1
        field = well / path
        attributes = read_attributes(field) or {}
        array = _highest(field, attributes) if "multiscales" in attributes else None
        sizes = array and read_facts(array)
        if sizes is None:
            left_out.append((f"a field {_NOT_THERE}", name))
            continue
        axes = _axes(field, attributes, sizes.shape)
        count = dict(zip(axes, sizes.shape, strict=True))
        if count.get("t", 1) > 1:
            left_out.append(("another time point than the first", f"{name}, {count['t'] - 1}"))
        place = Path(os.path.relpath(array, folder)).as_posix()
        planes = []
        for number, channel in enumerate(_channels(field, attributes, count.get("c", 1))):
            for z in range(count.get("z", 1)):
                at = {"t": 0, "c": number, "z": z}
                plane = make_plane(place, sizes, [at[axis] for axis in axes[:-2]])
                what = {"site": str(site), "channel": channel, "z": str(z + 1), "time": "1"}
                planes.append((plane, {"file": plane.entry(), **facts, **what}))
        there = _files_under(array, place)
        whole = [row for plane, row in planes if there.issuperset(plane.files())]
        rows += whole
        left_out += [] if whole else [("a field without one whole plane", name)]
    return rows, left_out


def _files_under(array: Path, place: str) -> set[str]:
    """Return the files of an array; a plane whose chunks are not all there is missing."""
    return {
        f"{place}/{(Path(parent) / name).relative_to(array).as_posix()}"
        for parent, _, names in os.walk(array)
        for name in names
    }


def _highest(field: Path, attributes: dict[str, Any]) -> Path:
    """Return the folder of the array of the highest resolution, which stands first."""
    scales = attributes["multiscales"]
    if not isinstance(scales, list) or not scales or not isinstance(scales[0], dict):
        raise InputError(f"{_file(field)}: multiscales: is no list of images")
    datasets = scales[0].get("datasets")
    if not isinstance(datasets, list) or not datasets:
        raise InputError(f"{_file(field)}: multiscales: has no datasets")
    return field / _text(field, "multiscales.datasets", datasets[0])


def _axes(field: Path, attributes: dict[str, Any], shape: tuple[int, ...]) -> str:
    """Return the axes of an image, as "tczyx"."""
    listed = attributes["multiscales"][0].get("axes")
    listed = listed if isinstance(listed, list) else []
    names = [axis.get("name") if isinstance(axis, dict) else axis for axis in listed]
    is_known = names == [axis for axis in AXES if axis in names] and names[-2:] == ["y", "x"]
    if not is_known or len(names) != len(shape):
        shown = ", ".join(map(str, names)) or "none"
        raise InputError(
            f"{_file(field)}: axes {shown} of an array with {len(shape)}; expected some of t, c, z "
            "and both of y, x, in this order"
        )
    return "".join(names)


def _channels(field: Path, attributes: dict[str, Any], count: int) -> list[str]:
    """Return the labels of the channels, or their numbers from 1 where they have none."""
    omero = attributes.get("omero")
    listed = omero.get("channels") if isinstance(omero, dict) else None
    if not isinstance(listed, list) or not listed:
        return [str(number + 1) for number in range(count)]
    labels = [str(item.get("label") or "").strip() for item in listed if isinstance(item, dict)]
    if len(labels) != count:
        raise InputError(
            f"{_file(field)}: omero.channels names {len(labels)} channels, the array has {count}"
        )
    if "" in labels or len(set(labels)) < count:
        return [str(number + 1) for number in range(count)]
    return labels


def _list(folder: Path, key: str, part: str) -> list[Any]:
    tree = read_attributes(folder)[key]
    listed = tree.get(part) if isinstance(tree, dict) else None
    if not isinstance(listed, list):
        raise InputError(f"{_file(folder)}: {key}.{part}: is no list")
    return listed


def _text(folder: Path, key: str, item: Any) -> str:
    """Return the path of an item; it may not leave the folder."""
    path = item.get("path") if isinstance(item, dict) else None
    if not isinstance(path, str) or not path or path.startswith("/") or ".." in path.split("/"):
        raise InputError(f"{_file(folder)}: {key}: {path!r} is no path within the plate")
    return path.rstrip("/")


def _file(folder: Path) -> Path:
    """Return the file of a group's metadata, for errors."""
    path = folder / _METADATA[0]
    return path if path.is_file() else folder / _METADATA[1]

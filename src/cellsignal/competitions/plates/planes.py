"""Find the images of a folder and join the planes of each site.

An entry of `files` is a path relative to the root, and behind "#" what else belongs to the plane:
`a_z1.tif#max:a_z2.tif|a_z3.tif` is the maximum of three files of one folder.
"""

import functools
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.competitions.plates import load_data, ome_zarr, zarr_planes
from cellsignal.competitions.plates.description import FILE, Description, Images
from cellsignal.competitions.plates.layouts import (
    LAYOUTS,
    SUFFIXES,
    Layout,
    get_layout,
    parse_path,
    parse_pattern,
)

ENOUGH = 0.5  # share of the images that a layout must understand to be recognised
_FACTS = ("batch", "plate", "well", "site", "channel", "z", "time", "label")


@dataclass(frozen=True)
class Sites:
    """The sites of a folder.

    Attributes:
        rows: columns batch, plate, well, site (int), label (or None), files (tuple, an entry a
            channel in the order of the description, or one for all).
        left_out: (reason, name) of each file or site that is not in `rows`.
        planes: columns file, batch ("" where there is none), plate, well, site: of every image that
            belongs to a site, also to one that is left out.
    """

    rows: pd.DataFrame
    left_out: tuple[tuple[str, str], ...]
    planes: pd.DataFrame

    def imaged(self) -> set[str]:
        """Return `<plate>_<well>` of every well with an image, also one that is left out."""
        return set(self.planes.plate + "_" + self.planes.well)


def images_base(root: Path, images: Images) -> tuple[Path, str]:
    """Return the folder that `files` are relative to, and what they begin with.

    It is the root, if the images lie in it, else the folder of the images.
    """
    if images.root.is_absolute() or ".." in images.root.parts:
        return Path(root) / images.root, ""
    return Path(root), "" if images.root == Path(".") else f"{images.root.as_posix()}/"


def list_images(folder: Path) -> list[str]:
    """Return the paths of all image files under a folder, relative to it, sorted.

    Links to folders are followed; hidden files and folders, and folders of zarr, are not read.
    """
    names = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [n for n in folders if not n.startswith(".") and not n.endswith(".zarr")]
        relative = Path(parent).relative_to(folder)
        names += [
            (relative / name).as_posix()
            for name in files
            if name.lower().endswith(SUFFIXES) and not name.startswith(".")
        ]
    return sorted(names)


def recognise_folder(folder: Path, names: list[str]) -> Layout:
    """Return the layout of a folder.

    It is that of its OME-Zarr plates, or of its `load_data.csv` if some of its files are there.

    Raises:
        InputError: no image; or see `recognise_layout`.
    """
    if ome_zarr.find_plates(folder):
        return get_layout(ome_zarr.NAME)
    if not names:
        raise InputError("holds no image (.tif, .tiff, .png, .jpg) and no OME-Zarr plate")
    if load_data.find_tables(folder) and load_data.read_planes(folder, names)[0]:
        return get_layout(load_data.NAME)
    return recognise_layout(names, Path(folder).resolve().name)[0]


def recognise_layout(names: list[str], root_name: str) -> tuple[Layout, int]:
    """Return the layout that understands most of the images, and how many it does.

    Of layouts that understand equally many the first in `LAYOUTS`, the most special one, is taken.

    Raises:
        InputError: none understands half of them.
    """
    counts = {
        layout.name: sum(parse_path(layout, name, root_name) is not None for name in names)
        for layout in LAYOUTS
    }
    # one folder a class matches any path: it counts only where nothing else does
    special = {name: count for name, count in counts.items() if name != "class_folders"}
    best = max(special, key=special.get)
    if special[best] < ENOUGH * len(names):
        folders = {name.split("/")[-2] for name in names if "/" in name}
        if len(folders) < 2:
            raise InputError(
                f"no layout is recognised: {special[best]} of {len(names)} images are named as "
                f"by {best}, first {names[0]!r}; give --pattern, as "
                "'{plate}/{well}_s{site}_w{channel}.tif'"
            )
        best = "class_folders"
    return get_layout(best), counts[best]


def layout_of(images: Images) -> Layout:
    """Return the layout that a description names."""
    return get_layout(images.layout) if images.layout else parse_pattern(images.pattern)


def read_planes(folder: Path, layout: Layout) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    """Return a row a file that the layout understands, and what was left out.

    Returns:
        Columns file, batch, plate, well, site, channel, z, time, label: text.
    """
    folder = Path(folder)
    rows, left_out, names = [], [], list_images(folder)
    if layout.name == load_data.NAME:
        rows, left_out = load_data.read_planes(folder, names)
        names = []
    elif layout.name == ome_zarr.NAME:
        rows, left_out = ome_zarr.read_planes(folder)
        names = []
    for name in names:
        facts = parse_path(layout, name, folder.resolve().name)
        if facts is None:
            left_out.append(("file name not understood", name))
        else:
            if layout.name == "class_folders":
                facts["plate"] = folder.resolve().name
                facts["well"] = f"{facts['label']}/{facts['well']}"
            rows.append({"file": name, **facts})
    columns = ["file", *_FACTS]
    planes = pd.DataFrame(rows, columns=columns).astype(object)
    return planes, left_out


def join_sites(root: Path, description: Description) -> Sites:
    """Join the planes of every site, in the description's order of channels.

    Raises:
        InputError: no image, a channel that no file of a plate shows, or two files for one plane.
    """
    root, images = Path(root), description.images
    folder = root / images.root
    if not folder.is_dir():
        raise InputError(f"{root / FILE}: images.root: there is no folder {folder}")
    layout = layout_of(images)
    planes, left_out = read_planes(folder, layout)
    if planes.empty:
        some = f"; not understood, first {left_out[0][1]!r}" if left_out else ""
        raise InputError(f"{folder}: no image is named as by {layout.name} ({layout.title}){some}")
    planes["site"] = planes.site.astype(int)
    first = min(planes.time, key=int)
    other_time = planes.time.map(int) != int(first)
    left_out += [("another time point than the first", name) for name in planes.file[other_time]]
    planes = planes[~other_time]
    base, prefix = images_base(root, images)
    left_out = [(reason, prefix + name) for reason, name in left_out]
    planes = planes.assign(file=prefix + planes.file)
    if layout.whole_channels:
        planes["channel"] = "all"
    else:
        planes, unnamed = _keep_channels(root, planes, images.channels)
        left_out += unnamed
    _refuse_doubled(base, planes)
    rows, incomplete = _join(planes, description, layout)
    planes = planes[["file", "batch", "plate", "well", "site"]].fillna({"batch": ""})
    return Sites(rows, tuple(left_out + incomplete), planes)


def plate_of(root: Path, images: Images, entry: str) -> str:
    """Return the plate of an entry of `files`, after the batch that its path says, if any."""
    folder, prefix = root / images.root, images_base(root, images)[1]
    name = parse_entry(entry)[1][0].removeprefix(prefix)
    layout = layout_of(images)
    if layout.name == load_data.NAME:
        return _plates_of_files(folder)[name]
    if layout.name == ome_zarr.NAME:
        return ome_zarr.plate_of(folder, name)
    facts = parse_path(layout, name, folder.resolve().name)
    return f"{facts['batch']}_{facts['plate']}" if "batch" in facts else facts["plate"]


@functools.lru_cache(maxsize=4)
def _plates_of_files(folder: Path) -> dict[str, str]:
    rows, _ = load_data.read_planes(folder, list_images(folder))
    return {row["file"]: "_".join(filter(None, (row.get("batch"), row["plate"]))) for row in rows}


def _keep_channels(
    root: Path, planes: pd.DataFrame, channels: dict[str, str]
) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    """Keep the planes of the named channels; refuse a channel that a plate lacks."""
    written = {plate: set(part.channel) for plate, part in planes.groupby("plate")}
    for name, value in channels.items():
        for plate, values in written.items():
            if value not in values:
                shown = ", ".join(sorted(values))
                raise InputError(
                    f"{root / FILE}: images.channels.{name}: plate {plate} has no file of channel "
                    f"{value!r}; its files show {shown}"
                )
    is_named = planes.channel.isin(set(channels.values()))
    others = [("a channel that is not named", name) for name in planes.file[~is_named]]
    return planes[is_named], others


def _refuse_doubled(folder: Path, planes: pd.DataFrame) -> None:
    keys = ["plate", "well", "site", "channel", "z"]
    keys += ["batch"] if planes.batch.notna().any() else []
    doubled = planes.duplicated(keys)
    if doubled.any():
        row = planes[doubled].iloc[0]
        same = (planes[keys] == row[keys]).all(axis=1)
        first = planes.file[same].iloc[0]
        raise InputError(
            f"{folder / first} and {folder / row.file}: two files for channel {row.channel} of "
            f"site {row.site}, well {row.well}, plate {row.plate}; move one away"
        )


def _join(
    planes: pd.DataFrame, description: Description, layout: Layout
) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    """Return the sites with all their planes, and those that lack some."""
    wanted = ["all"] if layout.whole_channels else list(description.images.channels.values())
    planes = planes.assign(batch=planes.batch.fillna(""), z=planes.z.map(int))
    site_keys = ["batch", "plate", "well", "site"]
    planes = planes.sort_values([*site_keys, "channel", "z"], kind="stable")
    grouped = planes.groupby([*site_keys, "channel"], sort=False)
    stacks = {key: (tuple(part.file), tuple(part.z)) for key, part in grouped}
    labels = planes.groupby(site_keys, sort=False).label.first()
    most = Counter(zs for _, zs in stacks.values()).most_common(1)[0][0]
    rows, left_out = [], []
    for key, label in labels.items():
        name = name_site(*key[1:])
        lacking = [channel for channel in wanted if (*key, channel) not in stacks]
        if lacking:
            left_out.append((f"no file of channel {lacking[0]}", name))
            continue
        parts = [stacks[(*key, channel)] for channel in wanted]
        entries = [_entry(files, zs, description.images.z) for files, zs in parts]
        if any(zs != most for _, zs in parts) and description.images.z in ("max", "mean"):
            left_out.append((f"not the {len(most)} z planes that most sites have", name))
        elif None in entries:
            left_out.append((f"no plane z {description.images.z}", name))
        else:
            rows.append((*key, label, tuple(entries)))
    return pd.DataFrame(rows, columns=[*site_keys, "label", "files"]), left_out


def name_site(plate: str, well: str, site: int) -> str:
    """Return what a site is called where it is left out."""
    return f"plate {plate} well {well} site {site}"


def _entry(files: tuple[str, ...], zs: tuple[int, ...], z: str | int) -> str | None:
    """Return the entry of a stack of files; None if it lacks the plane that is asked for."""
    if isinstance(z, int):
        return files[zs.index(z)] if z in zs else (files[0] if len(files) == 1 else None)
    if len(files) == 1:
        return files[0]
    if zarr_planes.is_plane(files[0]):
        return zarr_planes.stack_entry(files, z)
    return f"{files[0]}#{z}:" + "|".join(Path(name).name for name in files[1:])


def parse_entry(entry: str) -> tuple[str, tuple[str, ...]]:
    """Return how the files of an entry are joined ("max", "mean" or ""), and all their paths."""
    if zarr_planes.is_plane(entry):
        plane = zarr_planes.parse_plane(entry)
        return plane.how, plane.files()
    first, hash_sign, rest = entry.partition("#")
    if not hash_sign:
        return "", (first,)
    how, _, names = rest.partition(":")
    folder = first.rpartition("/")[0]
    prefix = f"{folder}/" if folder else ""
    return how, (first, *(prefix + name for name in names.split("|")))

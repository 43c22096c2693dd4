"""Write a `plates.yaml` from what lies in a folder of images, and say what is in it."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import yaml

from cellsignal.common.errors import ImageError, InputError
from cellsignal.common.files import write_text
from cellsignal.common.tables import normalise_wells
from cellsignal.competitions.plates import load_data, ome_zarr
from cellsignal.competitions.plates.description import FILE
from cellsignal.competitions.plates.layouts import Layout, parse_pattern
from cellsignal.competitions.plates.pixels import read_tiff_series
from cellsignal.competitions.plates.planes import list_images, read_planes, recognise_folder
from cellsignal.competitions.plates.platemap import (
    PLATE_NAMES,
    WELL_NAMES,
    column_of_plates,
    platemaps_of,
    read_any_table,
)
from cellsignal.images import decode_image, read_bytes

TABLES = (".csv", ".tsv", ".xlsx")
LABEL_NAMES = ("label", "moa", "Metadata_moa", "compound", "Metadata_Compound", "treatment")
LABEL_NAMES += ("gene", "Metadata_pert_iname", "pert_iname", "Metadata_broad_sample")
LABEL_NAMES += ("broad_sample", "mechanism", "mechanism of action", "drug")
SEPARATORS = ("|", ";")  # between the labels of a cell, where there are several
_TEMPLATE = """# What these images are. Written by `cellsignal init`; every key: docs/own_plates.md.
images:
  root: {root}
  {naming}
  channels: {{{channels}}}  # name: as the files write it, in this order
  z: max  # or mean, or the number of one plane
  bits: {bits}
  window: [0.1, 99.9]  # percentiles of a plate and channel that become 0 and 255
  window_wells: all  # or controls
{wells}folds: {folds}  # what a fold must not split: plate, batch, compound or well
"""
_WELLS = """platemap: {platemap}  # a row for each well{columns}
well: {well}
{plate}  # which rows are whose; without it every plate has the same layout
label: {label}  # the column that is to be predicted
{task}# compound: COLUMN
# batch: COLUMN
# cell_type: COLUMN
# negative_controls: COLUMN = VALUE
# hidden: COLUMN = VALUE  # the wells of the test
"""


@dataclass(frozen=True)
class Found:
    """What `init` found in a folder.

    Attributes:
        planes: see `planes.read_planes`.
        left_out: (reason, name) of files that were not understood.
        channels: name of each channel, and how the files write it.
        text: the YAML.
    """

    layout: Layout
    planes: pd.DataFrame
    left_out: tuple[tuple[str, str], ...]
    channels: dict[str, str]
    text: str


def look_into(
    folder: Path, pattern: str | None, platemap: Path | None, out: Path | None = None
) -> Found:
    """Recognise the images of a folder and write down what is known of them.

    Args:
        out: the folder that `plates.yaml` is for; None is `folder`.

    Raises:
        InputError: no folder, no image, no layout that fits, or a damaged first image.
    """
    folder = Path(folder)
    out = folder if out is None else Path(out)
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder")
    names = list_images(folder)
    try:
        layout = parse_pattern(pattern) if pattern else recognise_folder(folder, names)
    except InputError as error:
        shown = "" if str(error).startswith(str(folder)) else f"{folder}: "
        raise InputError(f"{shown}{error}") from None
    planes, left_out = read_planes(folder, layout)
    if planes.empty:
        lost = [f"{name}: {reason}" for reason, name in left_out]
        where = f"first {[*lost, *map(repr, names), 'there is none'][0]}"
        raise InputError(f"{folder}: no image fits {pattern or layout.title!r}; {where}")
    bits, count = _look_at_image(folder, planes.file[0], layout)
    channels = _channel_names(folder, planes, layout, count)
    wells, has_plates = _describe_wells(folder, planes, platemap, out)
    by_plate = has_plates and planes.plate.nunique() > 1
    text = _TEMPLATE.format(
        root=_yaml(_seen_from(out, folder)),
        naming=f"pattern: {pattern!r}" if pattern else f"layout: {layout.name}  # {layout.title}",
        channels=", ".join(
            f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in channels.items()
        ),
        bits=bits,
        wells=wells,
        folds="plate" if by_plate else "well",
    )
    return Found(layout, planes, tuple(left_out), channels, text)


def write_description(folder: Path, text: str, force: bool) -> Path:
    """Write `plates.yaml`.

    Raises:
        InputError: there is one already, and `force` is not given; or it cannot be written.
    """
    path = Path(folder) / FILE
    if path.exists() and not force:
        raise InputError(f"{path}: already exists; --force overwrites it")
    try:
        write_text(path, text)
    except InputError as error:
        raise InputError(f"{error}; --out FOLDER writes it elsewhere") from None
    return path


def _look_at_image(folder: Path, name: str, layout: Layout) -> tuple[int, int]:
    """Return the bits a pixel of an image, and how many channels it holds."""
    if layout.name == ome_zarr.NAME:
        return ome_zarr.bits_of(folder, name), 1
    path = folder / name
    if layout.whole_channels and path.suffix.lower() in (".tif", ".tiff"):
        stack, axes = read_tiff_series(path)
        if stack.dtype.name not in ("uint8", "uint16"):
            detail = f"pixels of type {stack.dtype}, uint8 or uint16 expected"
            raise ImageError(path, "wrong_depth", detail)
        return 8 * stack.dtype.itemsize, stack.shape[axes.index("C")] if "C" in axes else 1
    image = decode_image(path, read_bytes(path), depths=(8, 16), channels=(1, 3))
    return 8 * image.dtype.itemsize, 1 if image.ndim == 2 else 3


def _channel_names(
    folder: Path, planes: pd.DataFrame, layout: Layout, count: int
) -> dict[str, str]:
    if layout.whole_channels:
        is_rgb = count == 3 and not planes.file[0].lower().endswith((".tif", ".tiff"))
        names = ("red", "green", "blue") if is_rgb else [f"ch{n + 1}" for n in range(count)]
        return {name: str(number) for number, name in enumerate(names, 1)}
    values = sorted(planes.channel.unique(), key=lambda text: (len(text), text))
    known = _index_names(folder) if layout.name == "phenix" else {}
    if layout.name == load_data.NAME:
        values = list(planes.channel.unique())  # in the order of the table's columns
        known = {value: load_data.channel_name(value) for value in values}
    if layout.name == ome_zarr.NAME:
        values = list(planes.channel.unique())  # in the order of the array
    names = [known.get(value) or _plain_name(value) for value in values]
    if len(set(names)) < len(names):
        names = [_plain_name(value) for value in values]
    if len(set(names)) < len(names):
        names = [f"ch{number}" for number in range(1, len(values) + 1)]
    return dict(zip(names, values, strict=True))


def _plain_name(value: str) -> str:
    text = re.sub(r"[^A-Za-z0-9_]+", "_", value.split(" - ")[0]).strip("_")
    return f"ch{text}" if not text or text.isdigit() else text


def _index_names(folder: Path) -> dict[str, str]:
    """Return {channel number: name} of the first Phenix index file, where there is one."""
    for path in sorted(folder.rglob("Index*.xml")):
        text = path.read_text(encoding="utf-8", errors="replace")
        pattern = r'<Entry ChannelID="(\d+)">.*?<ChannelName>([^<]*)</ChannelName>'
        return {
            number: re.sub(r"[^A-Za-z0-9_]+", "_", name).strip("_")
            for number, name in re.findall(pattern, text, re.DOTALL)
        }
    return {}


def _describe_wells(
    folder: Path, planes: pd.DataFrame, platemap: Path | None, out: Path
) -> tuple[str, bool]:
    """Return the lines on the platemap, and whether the images lie in plates."""
    if platemap is None and planes.label.notna().all():
        return "# the label of an image is its folder; with a platemap: platemap, label\n", False
    if platemap is None:
        platemap = _find_platemap(folder) or (_find_platemap(out) if out.is_dir() else None)
    if platemap is None:
        return _wells_lines("FILE.csv", "well", None, "COLUMN"), True
    files = platemaps_of(folder, Path(platemap).resolve())
    table = read_any_table(next(iter(files.values())) if isinstance(files, dict) else platemap)
    shown = _seen_from(out, Path(platemap))
    columns = list(table.columns)
    plates = set(planes.plate)
    plate = column_of_plates(table, plates) if not all(map(str.isdigit, plates)) else None
    plate = plate or next((name for name in PLATE_NAMES if name in columns), None)
    others = table.drop(columns=plate or [])  # a plate called P001 looks like well P01
    well = next((name for name in WELL_NAMES if name in others), None) or _well_like(others)
    if well is None:
        raise InputError(f"{platemap}: no column holds wells (A01); it has {', '.join(columns)}")
    usual = {name.lower(): name for name in reversed(columns)}
    label = next((usual[name.lower()] for name in LABEL_NAMES if name.lower() in usual), "COLUMN")
    task = _task_hint(table[label]) if label in table else ""
    return _wells_lines(shown, well, plate, label, columns, task), True


def _seen_from(out: Path, path: Path) -> str:
    """Write a path relative to a folder that it lies in, else in full."""
    path, out = path.resolve(), out.resolve()
    return (path.relative_to(out) if path.is_relative_to(out) else path).as_posix()


def _wells_lines(
    platemap: str,
    well: str,
    plate: str | None,
    label: str,
    columns: list[str] | None = None,
    task: str = "",
) -> str:
    """Write the lines on the wells; with `plate` None its key is a comment."""
    shown = [" ".join(name.split()) for name in columns or ()]
    listed = f"; its columns: {', '.join(shown)}" if shown else ""
    return _WELLS.format(
        platemap=_yaml(platemap),
        columns=listed,
        well=_yaml(well),
        plate=f"plate: {_yaml(plate)}" if plate else "# plate: COLUMN",
        label=_yaml(label),
        task=task,
    )


def _yaml(text: str) -> str:
    """Write a text as YAML reads it back, in quotes only where it must."""
    return yaml.safe_dump(text, allow_unicode=True, width=10**6).removesuffix("\n...\n").strip()


def _task_hint(cells: pd.Series) -> str:
    """Return the lines that make cells such as "A|B" several labels, commented out; "" if none."""
    for separator in SEPARATORS:
        several = cells[cells.str.contains(separator, regex=False)]
        if len(several):
            shown = several.iloc[0] if len(several.iloc[0]) <= 40 else f"A{separator}B"
            return (
                f"# task: multi_label  # {shown!r}: several labels; competition: "
                f'plates_multi_label\n# label_separator: "{separator}"\n'
            )
    return ""


def _find_platemap(folder: Path) -> Path | None:
    """Return the folder's only table of wells, or its only `barcode_platemap.csv`; else None."""
    by_barcode = sorted(folder.rglob("barcode_platemap.csv"))
    if len(by_barcode) == 1:
        return by_barcode[0]
    paths = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in TABLES]
    paths = [path for path in paths if not path.name.startswith(load_data.NAME)]
    fitting = []
    for path in paths:
        try:
            table = read_any_table(path)
        except InputError:
            continue
        if _well_like(table) is not None:
            fitting.append(path)
    return fitting[0] if len(fitting) == 1 else None


def _well_like(table: pd.DataFrame) -> str | None:
    """Return the first column whose cells all are wells."""
    for name in table.columns:
        cells = table[name]
        if len(cells) and normalise_wells(cells).str.fullmatch(r"[A-Z]{1,2}\d\d").all():
            return name
    return None

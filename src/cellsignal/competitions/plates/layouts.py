"""Know the plate, well, site and channel of an image from its path: the layouts of microscopes.

A layout is a pattern of paths. Those of `LAYOUTS` are recognised; another is written by the user
with named parts, as `{plate}/{well}_s{site}_w{channel}.tif`.
"""

import re
from dataclasses import dataclass

from cellsignal.common.errors import InputError
from cellsignal.common.tables import normalise_well

SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg")
PARTS = {
    "batch": r"[^/]+",
    "plate": r"[^/]+",
    "well": r"[A-Za-z]{1,2}\d{1,3}",
    "row": r"[A-Za-z]{1,2}|\d+",
    "column": r"\d+",
    "site": r"\d+",
    "channel": r"[^/]+?",
    "z": r"\d+",
    "time": r"\d+",
    "label": r"[^/]+",
    "image": r"[^/]+",
}
_IMAGE = r"\.(?i:tiff?|png|jpe?g)"
# folders that microscopes make inside the folder of a plate
_WITHIN_PLATE = re.compile(r"(?i)images?|timepoint_?\d+|zstep_?\d+|t\d+|z\d+")
_MEASUREMENT = re.compile(r"__\d{4}-\d\d-\d\d.*$")  # Phenix adds it to the barcode


@dataclass(frozen=True)
class Layout:
    """Paths of one kind.

    Attributes:
        pattern: matches the path of an image below the images' root; its groups are of `PARTS`.
        skipped: matches the paths of files that are no images of wells (thumbnails).
        whole_channels: whether one file holds all channels.
    """

    name: str
    title: str
    pattern: re.Pattern[str]
    skipped: re.Pattern[str] | None = None

    @property
    def whole_channels(self) -> bool:
        return "channel" not in self.pattern.groupindex


def _layout(name: str, title: str, pattern: str, skipped: str | None = None) -> Layout:
    return Layout(name, title, re.compile(r"(?:.*/)?" + pattern), skipped and re.compile(skipped))


LAYOUTS = (
    _layout(
        "phenix",
        "Opera Phenix or Operetta: r01c01f01p01-ch1sk1fk1fl1.tiff",
        r"r(?P<row>\d+)c(?P<column>\d+)f(?P<site>\d+)p(?P<z>\d+)-ch(?P<channel>\d+)"
        r"(?:sk(?P<time>\d+))?(?:fk\d+)?(?:fl\d+)?" + _IMAGE,
    ),
    _layout(
        "cellvoyager",
        "CellVoyager: name_A01_T0001F001L01A01Z01C01.tif",
        r"[^/]*_(?P<well>[A-Z]{1,2}\d\d)_T(?P<time>\d+)F(?P<site>\d+)L\d+A\d+Z(?P<z>\d+)"
        r"C(?P<channel>\d+)" + _IMAGE,
    ),
    _layout(
        "incell",
        "IN Cell: B - 2(fld 1 wv DAPI - DAPI).tif",
        r"(?P<row>[A-Z]{1,2}) - (?P<column>\d+)\(fld (?P<site>\d+) wv (?P<channel>[^)]+?)"
        r"(?: z (?P<z>\d+))?(?: time (?P<time>\d+)[^)]*)?\)" + _IMAGE,
    ),
    Layout(
        "rxrx1",
        "RxRx1: EXPERIMENT/Plate1/B02_s1_w1.png",
        re.compile(
            r"(?:.*/)?(?P<batch>[^/]+)/Plate(?P<plate>\d+)/(?P<well>[A-Z]{1,2}\d\d)_s(?P<site>\d+)"
            r"_w(?P<channel>\d+)" + _IMAGE
        ),
    ),
    _layout(
        "imagexpress",
        "ImageXpress: name_B02_s1_w1GUID.TIF",
        r"(?:[^/]*_)?(?P<well>[A-Z]{1,2}\d\d)_s(?P<site>\d+)_w(?P<channel>\d)[0-9A-Fa-f-]*"
        + _IMAGE,
        r"(?i).*_thumb.*",
    ),
    _layout(
        "well_files",
        "one file with all channels a site: PLATE/B02_s1.tif or PLATE/B02.ome.tif",
        r"(?:[^/]*_)?(?P<well>[A-Z]{1,2}\d\d)(?:_(?:s|f|site)?(?P<site>\d+))?(?:\.ome)?" + _IMAGE,
    ),
    Layout(
        "load_data",
        "Cell Painting Gallery: load_data.csv says which file is what",
        re.compile(r"(?!)(?P<channel>)"),  # no path by itself says it; see load_data.py
    ),
    Layout(
        "ome_zarr",
        "OME-Zarr plates, 0.4 or 0.5: PLATE.zarr/A/1/0",
        re.compile(r"(?!)(?P<channel>)"),  # its metadata say it; see ome_zarr.py
    ),
    Layout(
        "class_folders",
        "one folder a class: CLASS/image.png",
        re.compile(r"(?:.*/)?(?P<label>[^/]+)/(?P<image>[^/]+)" + _IMAGE),
    ),
)


def get_layout(name: str) -> Layout:
    """Return a layout by its name.

    Raises:
        InputError: there is none.
    """
    for layout in LAYOUTS:
        if layout.name == name:
            return layout
    names = ", ".join(layout.name for layout in LAYOUTS)
    raise InputError(f"images.layout: {name!r} is none of {names}")


def parse_pattern(text: str) -> Layout:
    """Make a layout of a path with named parts; `{*}` stands for any text but "/".

    Raises:
        InputError: a part that does not exist, twice the same, or none that says the well.
    """
    pieces, named = [], []
    for piece in re.split(r"(\{[^{}]*\})", text):
        name = piece[1:-1] if piece.startswith("{") else None
        if name is None:
            pieces.append(re.escape(piece))
        elif name == "*":
            pieces.append("[^/]*")
        elif name in PARTS:
            if name in named:
                raise InputError(f"images.pattern: {text!r} names {{{name}}} twice")
            named.append(name)
            pieces.append(f"(?P<{name}>{PARTS[name]})")
        else:
            raise InputError(
                f"images.pattern: {{{name}}} is none of {', '.join(PARTS)} and * in {text!r}"
            )
    if not {"well", "image"} & set(named) and not {"row", "column"} <= set(named):
        raise InputError(
            f"images.pattern: {text!r} has no {{well}}, no {{row}} and {{column}}, and no {{image}}"
        )
    return Layout("pattern", text, re.compile("(?:.*/)?" + "".join(pieces)))


def parse_path(layout: Layout, path: str, root_name: str) -> dict[str, str] | None:
    """Return what a path says: batch, plate, well, site, channel, z, time, label; None if nothing.

    Args:
        path: below the images' root, with "/".
        root_name: the plate of images that lie in no folder of their own.
    """
    match = layout.pattern.fullmatch(path)
    if match is None or (layout.skipped and layout.skipped.fullmatch(path)):
        return None
    parts = {name: value for name, value in match.groupdict().items() if value is not None}
    if "row" in parts:
        row = parts.pop("row")
        letter = row_letters(int(row)) if row.isdigit() else row
        parts["well"] = f"{letter}{parts.pop('column')}"
    if "image" in parts:
        parts.setdefault("well", parts.pop("image"))
    parts["well"] = normalise_well(parts["well"])
    if "plate" not in parts:
        folders = [part for part in path.split("/")[:-1] if not _WITHIN_PLATE.fullmatch(part)]
        parts["plate"] = _MEASUREMENT.sub("", folders[-1] if folders else root_name)
    return {"site": "1", "z": "1", "time": "1"} | parts


def row_letters(number: int) -> str:
    """Return the letters of a plate's row: 1 is A, 27 is AA."""
    return chr(64 + number) if number <= 26 else "A" + chr(64 + number - 26)

"""The Image Data Resource's JSON API, as far as a plate's images need it. What is answered is held
to its shape and kept on disk.

IDR is an OMERO server that lets anybody in; only OMERO.web's HTTP answers are used, so nothing GPL
is installed. As its published sources have it:

| function | endpoint | answers |
|---|---|---|
| `plates` | `/api/v0/m/screens/{id}/plates/?offset=&limit=` | pages of plates, `meta.totalCount` |
| `field_images` | `/webgateway/plate/{id}/{field}/` | the plate as a grid of wells, each with the
image of that field (from 0) |
| `annotations` | `/webclient/api/annotations/?type=map&well={id}` | key-value pairs, in groups with
a namespace |
| `image_info` | `/webgateway/imgData/{id}/` | size, channels, pixel type |
| `rendered_plane` | `/webgateway/render_image/{id}/0/0/?c=...&m=g` | one channel as a **JPEG**,
whatever format is asked |
| `raw_planes` | `/webgateway/render_ome_tiff/i/{id}/` | all channels, 16-bit, as OME-TIFF, made
when asked; a server may refuse |
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import numpy as np
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from cellsignal.common.errors import InputError
from cellsignal.common.files import write_json
from cellsignal.fetch import Fetcher, redact_url
from cellsignal.images import JPEG, decode_image, gray_of

BASE = "https://idr.openmicroscopy.org"
SCREEN = 2651
PAGE = 500  # plates asked for at once; the server gives as many as it likes
QUALITY = 1.0  # of the JPEG, 0 to 1
_JPEG, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"


@dataclass(frozen=True)
class Idr:
    """A server, the session it is asked by, and the folder where its answers are kept (delete it to
    ask anew).
    """

    fetcher: Fetcher
    cache: Path
    base: str = BASE


class Plate(BaseModel):
    id: int = Field(alias="@id")
    name: str = Field(alias="Name")


class _Meta(BaseModel):
    total: int = Field(alias="totalCount", ge=0)


class _Page(BaseModel):
    data: list[Plate]
    meta: _Meta


class FieldImage(BaseModel):
    """The image of one field of a well."""

    id: int
    well_id: int = Field(alias="wellId")


class _Grid(BaseModel):
    grid: list[list[FieldImage | None]]
    rows: list[str] = Field(alias="rowlabels")
    columns: list[int] = Field(alias="collabels")


class _Size(BaseModel):
    width: int = Field(gt=0)
    height: int = Field(gt=0)
    channels: int = Field(alias="c", gt=0)


class _PixelsMeta(BaseModel):
    type: str = Field(alias="pixelsType")


class ImageInfo(BaseModel):
    size: _Size
    meta: _PixelsMeta


class _Annotation(BaseModel):
    values: list[tuple[str, str]]


class _Annotations(BaseModel):
    annotations: list[_Annotation]


def plates(idr: Idr, screen: int = SCREEN) -> dict[str, int]:
    """Name -> id of every plate of a screen.

    Raises:
        InputError: an answer of another shape, two plates of one name, or fewer plates than the
        server says there are.
    """
    url = f"{idr.base}/api/v0/m/screens/{screen}/plates/"

    def ask() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while True:
            params = {"offset": len(found), "limit": PAGE}
            answer = idr.fetcher.json(url, params)
            page = _held(_Page, answer, f"{url}?{urlencode(params)}")
            found += answer["data"]
            if len(found) >= page.meta.total:
                return found
            if not page.data:
                raise InputError(
                    f"{url}: the pages end after {len(found)} of {page.meta.total} plates"
                )

    listed = _cached(idr, f"plates_{screen}", list[Plate], ask, url)
    ids = {plate.name: plate.id for plate in listed}
    if len(ids) != len(listed):
        raise InputError(f"{url}: {len(listed) - len(ids)} plates share a name with another one")
    return ids


def field_images(idr: Idr, plate_id: int, field: int) -> dict[str, FieldImage]:
    """Well address ("L8", no zero before the number) -> image, of one field of a plate.

    Args:
        field: counted from 1 (from 0 in IDR's URL).
    """
    assert field >= 1, field
    url = f"{idr.base}/webgateway/plate/{plate_id}/{field - 1}/"
    grid = _cached(idr, f"plate_{plate_id}_{field}", _Grid, lambda: idr.fetcher.json(url), url)
    if len(grid.rows) != len(grid.grid) or any(len(row) != len(grid.columns) for row in grid.grid):
        raise InputError(f"{url}: grid has not as many rows and columns as labels")
    return {
        f"{label}{column}": image
        for label, row in zip(grid.rows, grid.grid, strict=True)
        for column, image in zip(grid.columns, row, strict=True)
        if image is not None
    }


def annotations(idr: Idr, well_id: int) -> dict[str, str]:
    """The map annotations of a well, key -> value; a key that occurs more than once has its values
    joined by "; ".
    """
    url = f"{idr.base}/webclient/api/annotations/?type=map&well={well_id}"
    found = _cached(idr, f"well_{well_id}", _Annotations, lambda: idr.fetcher.json(url), url)
    merged: dict[str, list[str]] = {}
    for key, value in (pair for one in found.annotations for pair in one.values):
        if value not in merged.setdefault(key, []):
            merged[key].append(value)
    return {key: "; ".join(values) for key, values in merged.items()}


def image_info(idr: Idr, image_id: int) -> ImageInfo:
    """Size, channels and pixel type of an image."""
    url = f"{idr.base}/webgateway/imgData/{image_id}/"
    return _cached(idr, f"image_{image_id}", ImageInfo, lambda: idr.fetcher.json(url), url)


def rendered_plane(
    idr: Idr,
    image_id: int,
    channel: int,
    n_channels: int,
    window: tuple[float, float],
    shape: tuple[int, int],
) -> np.ndarray:
    """One channel in gray, counts between the ends of `window` mapped linearly to 0..255 by the
    server. Lossy: it comes as a JPEG.

    Args:
        channel: from 1.
        shape: (height, width) that it must have.

    Returns:
        (H, W) uint8.

    Raises:
        InputError: no whole picture of that size came.
    """
    others = [f"-{other}" for other in range(1, n_channels + 1) if other != channel]
    shown_channel = f"{channel}|{window[0]:g}:{window[1]:g}$FFFFFF"
    params = {"c": ",".join([shown_channel, *others]), "m": "g", "q": QUALITY}
    url = f"{idr.base}/webgateway/render_image/{image_id}/0/0/?{urlencode(params, safe='|:,$-')}"
    body = idr.fetcher.bytes(url)
    # decoders take half a picture for a whole one
    if not body.startswith(_JPEG) or not body.rstrip(b"\0").endswith(_JPEG_END):
        raise InputError(
            f"{redact_url(url)}: no whole JPEG came ({len(body)} bytes that start {body[:12]!r})"
        )
    picture = decode_image(redact_url(url), body, channels=(1, 3), shape=shape, formats=(JPEG,))
    return picture if picture.ndim == 2 else gray_of(redact_url(url), picture, "a JPEG of colours")


def raw_planes(idr: Idr, image_id: int, n_channels: int, shape: tuple[int, int]) -> np.ndarray:
    """All channels as the microscope gave them, by OMERO.web's export as OME-TIFF.

    Returns:
        (C, H, W) uint16.

    Raises:
        InputError: the server refuses the export, or sends something else.
    """
    from cellsignal.images.tiff import decode_tiff

    url = f"{idr.base}/webgateway/render_ome_tiff/i/{image_id}/"
    return decode_tiff(redact_url(url), idr.fetcher.bytes(url), n_channels, shape=shape)


def _cached(idr: Idr, name: str, shape: Any, ask: Callable[[], Any], url: str) -> Any:
    """An answer, from disk where it is kept; kept only when it has its shape."""
    path = idr.cache / urlsplit(idr.base).netloc.replace(":", "_") / f"{name}.json"
    try:
        return _held(shape, json.loads(path.read_text(encoding="utf-8")), str(path))
    except (OSError, ValueError):  # not there, or damaged: ask
        answer = ask()
    held = _held(shape, answer, url)
    write_json(path, answer)
    return held


def _held(shape: Any, answer: Any, source: str) -> Any:
    """An answer in its shape.

    Raises:
        InputError: it has another one; names the source and the key.
    """
    try:
        return TypeAdapter(shape).validate_python(answer)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the answer"
        raise InputError(f"{source}: not the expected answer, {key}: {first['msg']}") from None

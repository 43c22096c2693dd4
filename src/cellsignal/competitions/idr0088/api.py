"""The Image Data Resource's JSON API, as far as a plate's images need it.

IDR is an OMERO server that anybody may read. Only OMERO.web's HTTP answers are used, so nothing GPL
is installed. Answers are checked and kept on disk. As OMERO.web's published sources have it:

- `list_plates`: `/api/v0/m/screens/{id}/plates/?offset=&limit=`, pages of plates
- `list_images`: `/webgateway/plate/{id}/{field}/`, a plate's wells as a grid, with their images
- `read_annotations`: `/webclient/api/annotations/?type=map&well={id}`, groups of key-value pairs
- `read_image_info`: `/webgateway/imgData/{id}/`, size, channels, pixel type
- `fetch_rendered_plane`: `/webgateway/render_image/{id}/0/0/?c=...&m=g`, one channel, always JPEG
- `fetch_raw_planes`: `/webgateway/render_ome_tiff/i/{id}/`, all channels, 16-bit, as OME-TIFF

A server makes an OME-TIFF when it is asked, and may refuse it.
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
from cellsignal.images.tiff import decode_tiff

BASE = "https://idr.openmicroscopy.org"
SCREEN = 2651
PAGE = 500  # plates in a request; the server gives as many as it likes
QUALITY = 1.0  # of the JPEG, 0 to 1
_JPEG_START, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"


class _Plate(BaseModel):
    id: int = Field(alias="@id")
    name: str = Field(alias="Name")


class _Meta(BaseModel):
    total: int = Field(alias="totalCount", ge=0)


class _Page(BaseModel):
    data: list[_Plate]
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


@dataclass(frozen=True)
class Idr:
    """A server. Its answers are kept in `cache`; delete that folder to ask anew."""

    fetcher: Fetcher
    cache: Path
    base: str = BASE

    def list_plates(self, screen: int = SCREEN) -> dict[str, int]:
        """Return name -> id of every plate of a screen.

        Raises:
            InputError: an answer of another shape, two plates of one name, or fewer plates than the
                server says there are.
        """
        url = f"{self.base}/api/v0/m/screens/{screen}/plates/"
        answer = self._ask(f"plates_{screen}", list[_Plate], url, lambda: self._read_pages(url))
        ids = {plate.name: plate.id for plate in answer}
        if len(ids) != len(answer):
            doubled = len(answer) - len(ids)
            raise InputError(f"{url}: {doubled} plates share a name with another one")
        return ids

    def _read_pages(self, url: str) -> list[dict[str, Any]]:
        plates: list[dict[str, Any]] = []
        while True:
            params = {"offset": len(plates), "limit": PAGE}
            answer = self.fetcher.json(url, params)
            page = _check_shape(_Page, answer, f"{url}?{urlencode(params)}")
            plates += answer["data"]
            if len(plates) >= page.meta.total:
                return plates
            if not page.data:
                count = f"{len(plates)} of {page.meta.total} plates"
                raise InputError(f"{url}: the pages end after {count}")

    def list_images(self, plate_id: int, field: int) -> dict[str, FieldImage]:
        """Return well address ("L8", not padded) -> image, of one field of a plate.

        Args:
            field: counted from 1 (from 0 in IDR's URL).
        """
        assert field >= 1, field
        url = f"{self.base}/webgateway/plate/{plate_id}/{field - 1}/"
        answer = self._ask(f"plate_{plate_id}_{field}", _Grid, url)
        widths = {len(row) for row in answer.grid}
        if len(answer.rows) != len(answer.grid) or widths - {len(answer.columns)}:
            raise InputError(f"{url}: grid has not as many rows and columns as labels")
        return {
            f"{label}{column}": image
            for label, row in zip(answer.rows, answer.grid, strict=True)
            for column, image in zip(answer.columns, row, strict=True)
            if image is not None
        }

    def read_annotations(self, well_id: int) -> dict[str, str]:
        """Return the map annotations of a well; several values of a key are joined by "; "."""
        url = f"{self.base}/webclient/api/annotations/?type=map&well={well_id}"
        answer = self._ask(f"well_{well_id}", _Annotations, url)
        values_of: dict[str, list[str]] = {}
        for group in answer.annotations:
            for key, value in group.values:
                values_of.setdefault(key, []).append(value)
        return {key: "; ".join(dict.fromkeys(values)) for key, values in values_of.items()}

    def read_image_info(self, image_id: int) -> ImageInfo:
        """Return size, channels and pixel type of an image."""
        return self._ask(
            f"image_{image_id}", ImageInfo, f"{self.base}/webgateway/imgData/{image_id}/"
        )

    def fetch_rendered_plane(
        self,
        image_id: int,
        channel: int,
        n_channels: int,
        window: tuple[float, float],
        shape: tuple[int, int],
    ) -> np.ndarray:
        """Fetch one channel in gray, (H, W) uint8, lossy because it comes as a JPEG.

        The server maps the counts between the ends of `window` linearly to 0..255.

        Args:
            channel: from 1.
            shape: (height, width) that it must have.

        Raises:
            InputError: no whole picture of that size came.
        """
        hidden = [f"-{other}" for other in range(1, n_channels + 1) if other != channel]
        visible = f"{channel}|{window[0]:g}:{window[1]:g}$FFFFFF"
        params = urlencode(
            {"c": ",".join([visible, *hidden]), "m": "g", "q": QUALITY}, safe="|:,$-"
        )
        url = f"{self.base}/webgateway/render_image/{image_id}/0/0/?{params}"
        body, name = self.fetcher.bytes(url), redact_url(url)
        # decoders take half a picture for a whole one
        if not body.startswith(_JPEG_START) or not body.rstrip(b"\0").endswith(_JPEG_END):
            raise InputError(
                f"{name}: no whole JPEG came ({len(body)} bytes that start {body[:12]!r})"
            )
        picture = decode_image(name, body, channels=(1, 3), shape=shape, formats=(JPEG,))
        return picture if picture.ndim == 2 else gray_of(name, picture, "a JPEG of colours")

    def fetch_raw_planes(
        self, image_id: int, n_channels: int, shape: tuple[int, int]
    ) -> np.ndarray:
        """Fetch all channels as the microscope gave them, (C, H, W) uint16.

        Raises:
            InputError: the server refuses the export, or sends something else.
        """
        url = f"{self.base}/webgateway/render_ome_tiff/i/{image_id}/"
        return decode_tiff(redact_url(url), self.fetcher.bytes(url), n_channels, shape=shape)

    def _ask(self, name: str, shape: Any, url: str, ask: Callable[[], Any] | None = None) -> Any:
        """Return an answer, from disk if it is kept; it is kept only when it has its shape."""
        host = urlsplit(self.base).netloc.replace(":", "_")
        path = self.cache / host / f"{name}.json"
        try:
            return _check_shape(shape, json.loads(path.read_text(encoding="utf-8")), str(path))
        except (OSError, ValueError):  # not there, or damaged
            answer = self.fetcher.json(url) if ask is None else ask()
        checked = _check_shape(shape, answer, url)
        write_json(path, answer)
        return checked


def _check_shape(shape: Any, answer: Any, source: str) -> Any:
    """Return an answer in its shape.

    Raises:
        InputError: it has another shape; names the source and the key.
    """
    try:
        return TypeAdapter(shape).validate_python(answer)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the answer"
        raise InputError(f"{source}: not the expected answer, {key}: {first['msg']}") from None

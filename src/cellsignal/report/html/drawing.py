"""Turn figures of matplotlib and arrays into small PNGs and JPEGs for a page."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

COLOURS = 256  # of a PNG with a palette


def drawn(draw: Callable[[Path], None], *, photo: bool = False) -> bytes:
    """Return the picture that a function of `report` writes to the path it is given.

    Args:
        photo: it shows images: JPEG is several times smaller than PNG.
    """
    with TemporaryDirectory(prefix="cellsignal-") as folder:
        path = Path(folder) / "picture.png"
        draw(path)
        return smaller(path.read_bytes(), photo=photo)


@contextmanager
def plot(width: float, height: float, into: list[bytes], **style) -> Iterator:
    """Yield an empty figure in the project's style; what is drawn is appended to `into` as PNG."""
    from cellsignal.report.figure_style import save, styled_figure

    with styled_figure(width, height, **style) as figure:
        yield figure
        into.append(drawn(lambda path: save(figure, path, dpi=130)))


def smaller(png: bytes, *, photo: bool = False) -> bytes:
    """Return a PNG with a palette of 256 colours, or a JPEG."""
    from PIL import Image

    with Image.open(io.BytesIO(png)) as image:
        out = io.BytesIO()
        image = image.convert("RGB")
        if photo:
            image.save(out, "JPEG", quality=86, optimize=True)
        else:
            image.quantize(COLOURS).save(out, "PNG", optimize=True)
    return min(png, out.getvalue(), key=len)


def indexed_png(index: np.ndarray, palette: np.ndarray) -> bytes:
    """Return a PNG of an image whose pixels are indices of a palette.

    Args:
        index: (H, W) uint8.
        palette: (P, 3) uint8.
    """
    from PIL import Image

    out = io.BytesIO()
    image = Image.fromarray(index, "P")
    image.putpalette(palette.tobytes())
    image.save(out, "PNG", optimize=True)
    return out.getvalue()

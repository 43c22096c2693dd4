"""Draw plates as inline SVG, and give values the colours of a heat map."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cellsignal.report.html.page import escape

_WHITE, _BLUE = np.array([255, 255, 255]), np.array([8, 69, 148])
_UNUSED = "#c4c4c4"
STEP, EDGE = 20, 20  # pixels of a well, and of the numbers above and the letters beside
FORMATS = ((8, 12), (16, 24), (32, 48))  # rows and columns of 96, 384 and 1,536 wells
_WELL = re.compile(r"([A-Z]|A[A-F])(\d\d?)")


@dataclass(frozen=True)
class Spot:
    """How one well is drawn.

    Attributes:
        fill: its colour.
        text: its tooltip.
    """

    fill: str
    text: str


def shade(value: float, low: float, high: float) -> tuple[str, str]:
    """Return paper and ink of a value: white at `low`, blue at `high`."""
    place = 0.5 if high <= low else min(max((value - low) / (high - low), 0.0), 1.0)
    red, green, blue = (_WHITE + place * (_BLUE - _WHITE)).round().astype(int)
    return f"#{red:02x}{green:02x}{blue:02x}", "#fff" if place > 0.55 else "#222"


def places_of(wells: pd.Series) -> pd.DataFrame | None:
    """Return the row and column, from 0, of addresses such as B02; None if one is no address."""
    parts = wells.astype(str).str.extract(f"^{_WELL.pattern}$")
    if parts.isna().any(axis=None):
        return None
    row = parts[0].map(_row_number)
    return pd.DataFrame({"row": row.to_numpy(), "column": parts[1].astype(int).to_numpy() - 1})


def _row_number(letters: str) -> int:
    return 26 * (len(letters) - 1) + ord(letters[-1]) - ord("A")


def row_name(row: int) -> str:
    """Return the letters of a row: A to Z, AA to AF."""
    return chr(ord("A") + row) if row < 26 else "A" + chr(ord("A") + row - 26)


def format_of(places: pd.DataFrame) -> tuple[int, int]:
    """Return rows and columns of the smallest plate that has all these places."""
    most = int(places.row.max()) + 1, int(places.column.max()) + 1
    fitting = [shape for shape in FORMATS if most[0] <= shape[0] and most[1] <= shape[1]]
    return fitting[0] if fitting else most


def plate_svg(
    spots: Mapping[tuple[int, int], Spot],
    shape: tuple[int, int],
    alt: str,
    caption: str,
    width: float = 1.5,
) -> str:
    """Return a figure of one plate.

    Args:
        spots: (row, column) from 0 -> how the well is drawn; others are dots.
        shape: rows and columns.
        alt: what the figure shows.
        width: of the figure: how much a well of a 384-well plate is enlarged.
    """
    rows, columns = shape
    wide, high = EDGE + STEP * columns, EDGE + STEP * rows
    parts = [
        f'<text x="{EDGE + STEP * (column + 0.5):g}" y="14">{column + 1}</text>'
        for column in range(columns)
    ]
    for row in range(rows):
        y = EDGE + STEP * row
        parts.append(f'<text x="9" y="{y + 14}">{row_name(row)}</text>')
        for column in range(columns):
            x, spot = EDGE + STEP * column, spots.get((row, column))
            if spot is None:
                parts.append(f'<circle cx="{x + 10}" cy="{y + 10}" r="2.5" fill="{_UNUSED}"/>')
                continue
            parts.append(
                f'<rect x="{x + 1}" y="{y + 1}" width="18" height="18" rx="4" fill="{spot.fill}" '
                f'stroke="#b5b5b5" stroke-width=".6"><title>{escape(spot.text)}</title></rect>'
            )
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return (
        f'<figure><svg viewBox="0 0 {wide} {high}" width="{round(width * 500)}" role="img" '
        f'aria-label="{escape(alt)}" font-size="{10 if columns <= 24 else 9}" '
        f'text-anchor="middle" fill="#5f5f5f">{"".join(parts)}</svg>{below}</figure>'
    )

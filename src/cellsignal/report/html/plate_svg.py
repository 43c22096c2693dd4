"""Draw a 384-well plate as inline SVG, and give values the colours of a heat map."""

import numpy as np

from cellsignal.report.html.page import escape
from cellsignal.report.plate_plots import COLUMNS, ROWS

_WHITE, _BLUE = np.array([255, 255, 255]), np.array([8, 69, 148])
UNUSED = "#c4c4c4"
STEP, TOP, LEFT = 20, 18, 18  # pixels of a well, of the numbers above and the letters beside


def shade(value: float, low: float, high: float) -> tuple[str, str]:
    """Return paper and ink of a value: white at `low`, blue at `high`."""
    place = 0.5 if high <= low else min(max((value - low) / (high - low), 0.0), 1.0)
    red, green, blue = (_WHITE + place * (_BLUE - _WHITE)).round().astype(int)
    return f"#{red:02x}{green:02x}{blue:02x}", "#fff" if place > 0.55 else "#222"


def plate_svg(share: np.ndarray, count: np.ndarray, alt: str, caption: str) -> str:
    """Return a figure of one value a well.

    Args:
        share: (16, 24) values, NaN where a well is not used.
        count: (16, 24) what each value is the mean of; it stands in the well's tooltip.
        alt: what the figure shows.
    """
    low, high = float(np.nanmin(share)), float(np.nanmax(share))
    width, height = LEFT + STEP * COLUMNS, TOP + STEP * ROWS
    parts = [
        f'<text x="{LEFT + STEP * (column + 0.5)}" y="13">{column + 1}</text>'
        for column in range(COLUMNS)
    ]
    for row in range(ROWS):
        letter, y = chr(ord("A") + row), TOP + STEP * row
        parts.append(f'<text x="8" y="{y + 14}">{letter}</text>')
        for column in range(COLUMNS):
            value, x = share[row, column], LEFT + STEP * column
            known = np.isfinite(value)
            name = f"{letter}{column + 1:02d}"
            text = f"{name}: {value:.2f} of {count[row, column]}" if known else f"{name}: unused"
            shape = f'circle cx="{x + 10}" cy="{y + 10}" r="2.5" fill="{UNUSED}"'
            if known:
                fill = shade(value, low, high)[0]
                shape = f'rect x="{x + 1}" y="{y + 1}" width="18" height="18" rx="4" fill="{fill}"'
                shape += ' stroke="#b5b5b5" stroke-width=".6"'
            parts.append(f"<{shape}><title>{text}</title></{shape.split()[0]}>")
    scale = f"white {low:.2f}, blue {high:.2f}, a dot unused"
    drawn = "".join(parts)
    return (
        f'<figure><svg viewBox="0 0 {width} {height}" width="{round(1.5 * width)}" role="img" '
        f'aria-label="{escape(alt)}" font-size="10" text-anchor="middle" fill="#5f5f5f">{drawn}'
        f"</svg><figcaption>{escape(caption)} Colours: {scale}.</figcaption></figure>"
    )

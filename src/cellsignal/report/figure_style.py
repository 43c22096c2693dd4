"""Give every figure one look: the palette, the type, and how a figure is written.

Figures are drawn without pyplot, so nothing is kept alive between calls and no display is needed.
Colours are those of Okabe and Ito (Color Universal Design, 2008), which readers with a colour
vision deficiency can tell apart.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cellsignal.common.files import atomic_path

BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PURPLE, YELLOW, BLACK = "#56B4E9", "#CC79A7", "#F0E442", "#000000"
CYCLE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
COLOURS = (*CYCLE, YELLOW, BLACK)
INK, MUTED, FAINT, PAPER, OTHER = "#222222", "#6B6B6B", "#E4E4E4", "#FFFFFF", "#BBBBBB"

STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.facecolor": PAPER,
    "savefig.facecolor": "auto",
}


@contextmanager
def styled_figure(width: float, height: float, **style) -> Iterator:
    """Yield an empty figure of that size in inches, drawn by Agg in the style of the project.

    Args:
        style: rc parameters besides `STYLE`, with "_" for ".".
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    more = {name.replace("_", "."): value for name, value in style.items()}
    with matplotlib.rc_context(STYLE | more):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure


def save(figure, path: Path | str, dpi: int = 150) -> None:
    """Write the figure as PNG, whole or not at all.

    Raises:
        InputError: the file cannot be written.
    """
    options = {"bbox_inches": "tight", "pad_inches": 0.15, "metadata": {"Software": None}}
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=dpi, **options)


def set_heading(figure, title: str) -> None:
    """Write the title of a whole figure at its upper left."""
    figure.suptitle(title, x=0.01, ha="left", weight="bold", size=12)


def mark_level(axis, level: float, text: str) -> None:
    """Draw a dashed line across an axis, with a text at its right end."""
    axis.axhline(level, color=MUTED, dashes=(2, 2), lw=1)
    look = {"ha": "right", "color": MUTED, "size": 7.5, "textcoords": "offset points"}
    axis.annotate(text, (1, level), (0, 3), xycoords=("axes fraction", "data"), **look)

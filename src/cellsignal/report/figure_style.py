"""One look for every figure: the palette, the type, and how a figure reaches the disk.

Figures are drawn without pyplot, so nothing is kept alive between calls and no display is needed.
Colours are those of Okabe and Ito (Color Universal Design, 2008), which readers with a colour
vision deficiency can tell apart.
"""

from pathlib import Path

from cellsignal.common.files import atomic_path

BLUE, ORANGE, GREEN, VERMILION, SKY, PURPLE, YELLOW = (
    *("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#F0E442"),
)
CYCLE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
INK, MUTED, FAINT, PAPER = "#222222", "#6B6B6B", "#E4E4E4", "#FFFFFF"

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


def new_figure(width: float, height: float, **more):
    """An empty figure of that size in inches, drawn by Agg. Call it inside
    `matplotlib.rc_context(STYLE)`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), **more)
    FigureCanvasAgg(figure)
    return figure


def save(figure, path: Path | str, dpi: int = 150) -> None:
    """Write the figure as PNG, whole or not at all.

    Raises:
        InputError: the place cannot be written.
    """
    with atomic_path(path) as temporary:
        figure.savefig(
            temporary,
            format="png",
            dpi=dpi,
            bbox_inches="tight",
            pad_inches=0.15,
            metadata={"Software": None},
        )

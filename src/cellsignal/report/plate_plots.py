"""Draw plates and images: where predictions are wrong, and what the channels look like."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.report.figure_style import MUTED, VERMILION, save, set_heading, styled_figure

ROWS, COLUMNS = 16, 24  # of a 384-well plate
OUTCOMES = {"correct": "#8CC5E3", "wrong": VERMILION, "control": "#9E9E9E", "unused": "#FFFFFF"}
_COMPOSITE = {
    1: ((1, 1, 1),),
    2: ((0, 1, 0), (1, 0, 1)),
    3: ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    6: (
        *((0.25, 0.4, 1), (0.1, 1, 0.2), (1, 0.15, 0.15)),
        *((0, 0.9, 0.95), (1, 0.2, 0.9), (1, 0.85, 0.1)),
    ),
}
# percentiles of the pooled pixels of a channel that are drawn black and white
LOW, HIGH = 1.0, 99.7
_DARK = "#0E0E10", "#F2F2F2"  # paper and ink of a montage


def plate_map(
    path: Path | str, wells: pd.DataFrame, *, value: str = "value", title: str = ""
) -> None:
    """Draw 384-well plates as small multiples, one row per experiment (two if it has many).

    Args:
        wells: columns experiment, plate, well ("B02") and `value`: one of "correct", "wrong",
            "control", "unused". A well without a row is unused.

    Raises:
        InputError: a column is missing, no rows, an address that is on no 384-well plate, an
            unknown outcome, or a well that occurs twice.
    """
    _check_wells(wells, value)
    experiments = {
        name: list(rows.groupby("plate", sort=True))
        for name, rows in wells.groupby("experiment", sort=True)
    }
    most = max(len(plates) for plates in experiments.values())
    abreast = 2 if len(experiments) > 4 and most <= 4 else 1
    n_rows, n_columns = -(-len(experiments) // abreast), most * abreast
    style = {"axes_titleweight": "normal", "axes_titlesize": 8}
    with styled_figure(max(2.75 * n_columns, 5.5), 2.05 * n_rows + 0.9, **style) as figure:
        figure.get_layout_engine().set(w_pad=0.06, h_pad=0.06)
        axes = figure.subplots(n_rows, n_columns, squeeze=False)
        for axis in axes.flat:
            axis.set_axis_off()
        for number, (name, plates) in enumerate(experiments.items()):
            for offset, (plate, rows) in enumerate(plates):
                axis = axes[number // abreast, (number % abreast) * most + offset]
                _draw_plate(axis, rows.well, rows[value])
                axis.set_title(_plate_title(name, str(plate), rows[value]), pad=9)
        _add_plate_legend(figure, wells[value])
        if title:
            set_heading(figure, title)
        save(figure, path, dpi=130)


def _check_wells(wells: pd.DataFrame, value: str) -> None:
    for column in ("experiment", "plate", "well", value):
        if column not in wells.columns:
            raise InputError(f"plate map: no column {column!r}")
    if wells.empty:
        raise InputError("plate map: no wells")
    off = ~wells.well.astype(str).str.fullmatch(r"[A-P](0?[1-9]|1\d|2[0-4])")
    if off.any():
        raise InputError(
            f"plate map: {wells.well[off].iloc[0]!r} is not a well of a 384-well plate"
        )
    doubled = wells.duplicated(["experiment", "plate", "well"])
    if doubled.any():
        first = wells[doubled].iloc[0]
        raise InputError(
            f"plate map: well {first.well} of {first.experiment} plate {first.plate} occurs twice"
        )
    unknown = ~wells[value].isin(list(OUTCOMES))
    if unknown.any():
        raise InputError(
            f"plate map: {wells[value][unknown].iloc[0]!r} is not one of {list(OUTCOMES)}"
        )


def _draw_plate(axis, wells: pd.Series, outcomes: pd.Series) -> None:
    """One plate: a circle a well at its place, row A on top."""
    from matplotlib.collections import EllipseCollection
    from matplotlib.patches import FancyBboxPatch

    row = wells.str[0].map(ord).to_numpy() - ord("A")
    column = wells.str[1:].astype(int).to_numpy() - 1
    outcome = np.full(ROWS * COLUMNS, "unused", object)
    outcome[row * COLUMNS + column] = outcomes
    centres = np.stack(np.meshgrid(np.arange(COLUMNS), np.arange(ROWS)), axis=-1).reshape(-1, 2)
    axis.set(xlim=(-1.1, COLUMNS + 0.1), ylim=(ROWS + 0.1, -1.1), aspect="equal")
    axis.set_axis_on()
    look = {"boxstyle": "round,pad=.35", "fc": "#F7F7F7", "ec": "#BDBDBD", "lw": 0.7}
    axis.add_patch(FancyBboxPatch((-0.5, -0.5), COLUMNS, ROWS, **look))
    used = outcome != "unused"
    for inside, size, edge in ((~used, 0.45, "#DADADA"), (used, 0.86, "none")):
        sizes, angles = np.full(inside.sum(), size), np.zeros(inside.sum())
        place = {"units": "xy", "offsets": centres[inside], "offset_transform": axis.transData}
        colours = [OUTCOMES[name] for name in outcome[inside]]
        look = {"facecolors": colours, "edgecolors": edge, "lw": 0.4}
        axis.add_collection(EllipseCollection(sizes, sizes, angles, **place, **look))
    columns = [0, 5, 11, 17, 23]
    axis.set_xticks(columns, [str(number + 1) for number in columns])
    axis.set_yticks(range(0, ROWS, 5), [chr(ord("A") + number) for number in range(0, ROWS, 5)])
    axis.xaxis.tick_top()
    axis.tick_params(length=0, labelsize=6, pad=1, labelcolor=MUTED)
    axis.spines[:].set_visible(False)


def _plate_title(experiment: str, plate: str, outcomes: pd.Series) -> str:
    plate = plate if plate.lower().startswith("plate") else f"plate {plate}"
    right, treated = (outcomes == "correct").sum(), outcomes.isin(["correct", "wrong"]).sum()
    return f"{experiment}  {plate}   {right}/{treated}" if treated else f"{experiment}  {plate}"


def _add_plate_legend(figure, outcomes: pd.Series) -> None:
    from matplotlib.lines import Line2D

    present = [name for name in OUTCOMES if name == "unused" or (outcomes == name).any()]
    look = {"ls": "", "marker": "o", "ms": 7, "mec": "none"}
    handles = [Line2D([], [], mfc=OUTCOMES[name], label=name, **look) for name in present]
    handles[-1].set(markersize=4, markeredgecolor="#BDBDBD")  # unused
    shape = {"ncols": len(handles), "fontsize": 9, "handletextpad": 0.2}
    figure.legend(handles=handles, loc="outside lower left", **shape)


def channel_montage(
    path: Path | str, images: Mapping[str, np.ndarray], channels: Sequence[str], *, title: str = ""
) -> None:
    """Draw samples as rows, channels as columns, and a colour composite of all channels last.

    Every channel has one contrast for all rows: its 1st percentile over the pixels of all rows is
    black, its 99.7th white; the two gray levels stand under its name. So brightness may be compared
    down a column, not along a row. The composite lays the channels over each other in their colours
    by the screen rule, 1 - product(1 - x), each sample stretched on its own (20th to 99.7th
    percentile) so that a dim one shows its structure.

    Args:
        images: name -> (C, H, W) uint8; sizes may differ between samples.
        channels: C names.

    Raises:
        InputError: no images, or one that has another number of channels.
    """
    if not images:
        raise InputError("channel montage: no images")
    n_channels = len(channels)
    for name, image in images.items():
        if image.ndim != 3 or len(image) != n_channels:
            raise InputError(
                f"channel montage: {name!r} is {image.shape}, not ({n_channels}, H, W)"
            )
    tints = np.asarray(channel_colours(n_channels), dtype=float)
    limits = [_contrast([image[c] for image in images.values()]) for c in range(n_channels)]
    style = {"figure_facecolor": _DARK[0], "text_color": _DARK[1], "axes_labelcolor": _DARK[1]}
    size = 1.9 * (n_channels + 1) + 0.4, 1.86 * len(images) + 0.72
    with styled_figure(*size, **style, axes_titlelocation="center") as figure:
        figure.get_layout_engine().set(w_pad=0.015, h_pad=0.015, wspace=0, hspace=0)
        axes = figure.subplots(len(images), n_channels + 1, squeeze=False)
        for row, (name, image) in zip(axes, images.items(), strict=True):
            for axis, plane, (low, high) in zip(row[:-1], image, limits, strict=True):
                axis.imshow(plane, cmap="gray", vmin=low, vmax=high, interpolation="antialiased")
            row[-1].imshow(composite(image, tints), interpolation="antialiased")
            row[0].set_ylabel(name, size=10, weight="bold", labelpad=6)
        for axis in axes.flat:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        for axis, name, tint, (low, high) in zip(axes[0], channels, tints, limits, strict=False):
            axis.set_title(name, color=0.35 + 0.65 * tint, pad=16, wrap=True)
            _write_under_title(axis, f"{low:.0f} – {high:.0f}")
        axes[0, -1].set_title("composite", pad=16)
        _write_under_title(axes[0, -1], "each row by itself")
        if title:
            set_heading(figure, title)
        save(figure, path, dpi=170)


def _write_under_title(axis, text: str) -> None:
    look = {"size": 7, "color": "#A9A9A9", "ha": "center", "textcoords": "offset points"}
    axis.annotate(text, (0.5, 1), (0, 4), xycoords="axes fraction", **look)


def channel_colours(n: int) -> Sequence[tuple[float, float, float]]:
    """Return the colour of each of n channels in a composite."""
    from colorsys import hsv_to_rgb

    return _COMPOSITE.get(n) or tuple(hsv_to_rgb(number / n, 0.85, 1.0) for number in range(n))


def _contrast(planes: Sequence[np.ndarray], percentile: float = LOW) -> tuple[float, float]:
    """(black, white) gray levels of one channel over all samples; `percentile` is black."""
    pixels = np.concatenate([plane.ravel() for plane in planes])
    low, high = np.percentile(pixels, [percentile, HIGH])
    return float(low), float(max(high, low + 1))


def composite_limits(image: np.ndarray) -> list[tuple[float, float]]:
    """Return the grey levels of each channel that a composite draws black and white."""
    return [_contrast([plane], 20) for plane in image]


def composite(image: np.ndarray, tints: np.ndarray, limits=None) -> np.ndarray:
    """Return (H, W, 3) in [0, 1]; more than three channels are dimmed so that the sum stays clear.

    Args:
        image: (C, H, W).
        tints: (C, 3) of `channel_colours`.
        limits: (C, 2) grey levels that are drawn black and white; by default the image's own.
    """
    strength = 1.0 if len(image) <= 3 else 0.7
    dark = np.ones((*image[0].shape, 3), dtype=np.float32)
    limits = composite_limits(image) if limits is None else limits
    for plane, tint, (low, high) in zip(image, tints, limits, strict=True):
        level = np.clip((plane.astype(np.float32) - low) / (high - low), 0, 1)
        dark *= 1 - strength * level[..., None] * tint.astype(np.float32)
    return 1 - dark

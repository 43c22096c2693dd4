"""Draw plates as heat maps of what was measured of their wells, and all plates side by side."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.report.figure_style import INK, MUTED, VERMILION, save, set_heading, styled_figure

_SIZES = ((8, 12), (16, 24), (32, 48))  # rows and columns of plates with 96, 384 and 1,536 wells
_LARGEST_Z = 10.0  # where the colours of robust z end
_WELL = r"^([A-Z]{1,2})(\d{1,2})$"


def plate_heat_maps(
    path: Path | str,
    wells: pd.DataFrame,
    columns: Sequence[tuple[str, str]],
    title: str = "",
) -> None:
    """Draw one plate once for each readout; wells that stand out are framed.

    Args:
        wells: the wells of one plate: well, stands_out, and a column a readout ("dna mean").
        columns: (channel, measure) of the readouts; a channel is a column of the picture, a measure
            a row, and what has no channel comes last.
    """
    place = plate_positions(wells.well)
    shape = plate_shape(place)
    channels = [c for c in dict.fromkeys(channel for channel, _ in columns)]
    alone = [channel for channel, measure in columns if channel == measure]
    measures = list(dict.fromkeys(measure for channel, measure in columns if channel != measure))
    pictured = [channel for channel in channels if channel not in alone]
    n_rows, n_columns = len(measures) + bool(alone), max(len(pictured), 1)
    out = wells.stands_out.ne("").to_numpy()
    width, height = 2.6 * n_columns + 0.3, (2.1 * shape[0] / shape[1] + 0.45) * n_rows + 0.5
    with styled_figure(max(width, 4.0), height, axes_titleweight="normal") as figure:
        axes = figure.subplots(n_rows, n_columns, squeeze=False)
        for axis in axes.flat:
            axis.set_axis_off()
        for channel, measure in columns:
            name = measure if channel == measure else f"{channel} {measure}"
            if channel == measure:
                axis = axes[len(measures), alone.index(channel)]
            else:
                axis = axes[measures.index(measure), pictured.index(channel)]
            _draw_heat_map(figure, axis, place, shape, wells[name].to_numpy(float), out)
            words = [measure] if channel == measure else [channel, measure]
            axis.set_title("\n".join(words).replace("_", " "), size=7.5)
        if title:
            set_heading(figure, title)
        save(figure, path, dpi=110)


def plate_positions(well: pd.Series) -> np.ndarray:
    """Return row and column from 0 of addresses such as B04, (W, 2) int; -1 for other text."""
    parts = well.astype(str).str.extract(_WELL)
    known = parts.notna().all(axis=1).to_numpy()
    place = np.full((len(well), 2), -1)
    for number in np.flatnonzero(known):
        letters, digits = parts.iloc[number]
        row = 0
        for letter in letters:
            row = 26 * row + ord(letter) - ord("A") + 1
        place[number] = row - 1, int(digits) - 1
    return place


def plate_shape(place: np.ndarray) -> tuple[int, int]:
    """Return rows and columns of the smallest plate that has all these positions."""
    most = place.max(axis=0, initial=0)
    return next((s for s in _SIZES if most[0] < s[0] and most[1] < s[1]), _SIZES[-1])


def _draw_heat_map(
    figure, axis, place: np.ndarray, shape: tuple[int, int], values: np.ndarray, out: np.ndarray
) -> None:
    from matplotlib.patches import Rectangle

    grid = np.full(shape, np.nan)
    known = (place >= 0).all(axis=1) & (place < shape).all(axis=1)
    grid[tuple(place[known].T)] = values[known]
    axis.set_axis_on()
    axis.set_facecolor("#EFEFEF")
    image = axis.imshow(grid, cmap="viridis", interpolation="nearest", aspect="equal")
    levels = np.unique(values[np.isfinite(values)])
    if len(levels) == 1:  # else matplotlib invents a range around it
        image.set_clim(levels[0] - 0.5, levels[0] + 0.5)
    for row, column in place[known & out]:
        frame = {"fill": False, "ec": VERMILION, "lw": 1.4}
        axis.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, **frame))
    step = max(shape[1] // 4, 1)
    ticks = list(range(0, shape[1], step))
    axis.set_xticks(ticks, [str(number + 1) for number in ticks])
    rows = list(range(0, shape[0], max(shape[0] // 4, 1)))
    axis.set_yticks(rows, [_row_name(number) for number in rows])
    axis.tick_params(length=0, labelsize=6, pad=1, labelcolor=MUTED)
    axis.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axis, shrink=0.85, pad=0.02, aspect=14)
    bar.ax.tick_params(labelsize=6, length=2)
    if len(levels) == 1:
        bar.set_ticks(levels, labels=[f"{levels[0]:g}"])
    bar.outline.set_visible(False)


def _row_name(number: int) -> str:
    return chr(ord("A") + number) if number < 26 else "A" + chr(ord("A") + number - 26)


def plates_overview(path: Path | str, plates: pd.DataFrame, most: int = 60) -> None:
    """Draw the robust z of every plate (rows) and readout (columns); of many the worst plates.

    Args:
        plates: a row a plate, channel and measure: experiment, plate, channel, measure, z.
        most: plates that are drawn.
    """
    readout = [
        measure if channel == measure else f"{channel} {measure}"
        for channel, measure in zip(plates.channel, plates.measure, strict=True)
    ]
    name = plates.experiment.astype(str) + "  " + plates.plate.astype(str)
    table = plates.assign(readout=readout, name=name).pivot(
        index="name", columns="readout", values="z"
    )
    table = table[list(dict.fromkeys(readout))]
    total = len(table)
    if total > most:
        worst = table.abs().max(axis=1).fillna(-1).nlargest(most).index
        table = table.loc[sorted(worst)]
    size = max(0.27 * table.shape[1] + 2.6, 5.0), 0.19 * len(table) + 2.4
    with styled_figure(*size) as figure:
        axis = figure.subplots()
        axis.set_facecolor("#EFEFEF")
        limits = {"vmin": -_LARGEST_Z, "vmax": _LARGEST_Z}
        image = axis.imshow(table.to_numpy(float), cmap="RdBu_r", aspect="auto", **limits)
        labels = [column.replace("_", " ") for column in table.columns]
        axis.set_xticks(range(len(labels)), labels, rotation=60, ha="right", size=7)
        axis.set_yticks(range(len(table)), table.index, size=7)
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        bar = figure.colorbar(image, ax=axis, shrink=0.8, pad=0.02, extend="both")
        bar.set_label("robust z among plates of the cell type", color=INK, size=8)
        bar.outline.set_visible(False)
        shown = f"the {len(table)} of {total} plates furthest out" if total > most else "all plates"
        note = "" if np.isfinite(table.to_numpy(float)).any() else "; too few plates for a z"
        set_heading(figure, f"Plate medians, {shown}{note}")
        save(figure, path, dpi=120)

"""Figures of plates and images: where on the plates the predictions fail, and what the channels
look like.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.report.figure_style import MUTED, STYLE, VERMILION, new_figure, save

ROWS, COLUMNS = 16, 24  # of a 384-well plate
OUTCOMES = {"correct": "#8CC5E3", "wrong": VERMILION, "control": "#9E9E9E", "unused": "#FFFFFF"}
_COMPOSITE = {
    1: ((1, 1, 1),),
    2: ((0, 1, 0), (1, 0, 1)),
    3: ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    6: (
        (0.25, 0.4, 1),
        (0.1, 1, 0.2),
        (1, 0.15, 0.15),
        (0, 0.9, 0.95),
        (1, 0.2, 0.9),
        (1, 0.85, 0.1),
    ),
}
# percentiles of the pooled pixels of a channel that are drawn black and white
LOW, HIGH = 1.0, 99.7


def plate_map(
    path: Path | str,
    wells: pd.DataFrame,
    *,
    value: str = "value",
    title: str = "",
    label: str = "",
    limits: tuple[float, float] | None = None,
) -> None:
    """384-well plates as small multiples: an experiment a row (two where there are many), its
    plates side by side.

    Args:
        wells: columns experiment, plate, well ("B02") and `value`: either text, one of "correct",
        "wrong", "control",
            "unused", or numbers, where NaN is drawn gray. A well without a row is unused.
        label: what the numbers are, for the colour bar.
        limits: (low, high) of the colour scale; by default the 2nd and 98th percentile.

    Raises:
        InputError: a column is missing, no rows, an address that is on no 384-well plate, an
        unknown outcome, or a
            doubled well.
    """
    import matplotlib

    continuous = _check_wells(wells, value)
    experiments = {
        name: list(rows.groupby("plate", sort=True))
        for name, rows in wells.groupby("experiment", sort=True)
    }
    most = max(len(plates) for plates in experiments.values())
    abreast = 2 if len(experiments) > 4 and most <= 4 else 1
    n_rows, n_columns = -(-len(experiments) // abreast), most * abreast
    if continuous:
        numbers = wells[value].dropna()
        limits = limits or (tuple(np.percentile(numbers, [2, 98])) if len(numbers) else (0.0, 1.0))
    with matplotlib.rc_context(STYLE | {"axes.titleweight": "normal", "axes.titlesize": 8}):
        figure = new_figure(max(2.75 * n_columns, 5.5), 2.05 * n_rows + 0.9, layout="constrained")
        figure.get_layout_engine().set(w_pad=0.06, h_pad=0.06)
        axes = figure.subplots(n_rows, n_columns, squeeze=False)
        for axis in axes.flat:
            axis.set_axis_off()
        for at, (name, plates) in enumerate(experiments.items()):
            for offset, (plate, rows) in enumerate(plates):
                axis = axes[at // abreast, (at % abreast) * most + offset]
                _draw_plate(axis, rows, value, limits if continuous else None)
                axis.set_title(_plate_title(name, plate, rows[value], continuous), pad=9)
        _plate_legend(figure, axes, wells[value], limits if continuous else None, label or value)
        if title:
            figure.suptitle(title, x=0.01, ha="left", weight="bold", size=12)
        save(figure, path, dpi=130)


def _check_wells(wells: pd.DataFrame, value: str) -> bool:
    """Refuse what cannot be drawn; True where the values are numbers."""
    missing = [
        column for column in ("experiment", "plate", "well", value) if column not in wells.columns
    ]
    if missing or wells.empty:
        raise InputError(
            f"plate map: no column {missing[0]!r}" if missing else "plate map: no wells"
        )
    off = ~wells.well.astype(str).str.fullmatch(r"[A-P](0?[1-9]|1\d|2[0-4])")
    if off.any():
        raise InputError(f"plate map: {wells.well[off].iloc[0]!r} is no well of a 384-well plate")
    doubled = wells.duplicated(["experiment", "plate", "well"])
    if doubled.any():
        first = wells[doubled].iloc[0]
        raise InputError(
            f"plate map: well {first.well} of {first.experiment} plate {first.plate} occurs twice"
        )
    if pd.api.types.is_numeric_dtype(wells[value]) and not pd.api.types.is_bool_dtype(wells[value]):
        return True
    unknown = ~wells[value].isin(list(OUTCOMES))
    if unknown.any():
        raise InputError(
            f"plate map: {wells[value][unknown].iloc[0]!r} is none of {list(OUTCOMES)}"
        )
    return False


def _draw_plate(axis, rows: pd.DataFrame, value: str, limits: tuple[float, float] | None) -> None:
    """One plate: a circle a well at its place, row A on top."""
    from matplotlib import colormaps
    from matplotlib.collections import EllipseCollection
    from matplotlib.colors import Normalize, to_rgba
    from matplotlib.patches import FancyBboxPatch

    colours = np.tile(to_rgba(OUTCOMES["unused"]), (ROWS * COLUMNS, 1))
    place = rows.well.str[0].map(ord).to_numpy() - ord("A")
    place = place * COLUMNS + rows.well.str[1:].astype(int).to_numpy() - 1
    if limits is None:
        colours[place] = [to_rgba(OUTCOMES[outcome]) for outcome in rows[value]]
    else:
        numbers = rows[value].to_numpy(dtype=float)
        shade = colormaps["viridis"](Normalize(*limits)(np.nan_to_num(numbers)))
        colours[place] = np.where(np.isnan(numbers)[:, None], to_rgba(OUTCOMES["control"]), shade)
    centres = np.stack(np.meshgrid(np.arange(COLUMNS), np.arange(ROWS)), axis=-1).reshape(-1, 2)
    used = (colours != to_rgba(OUTCOMES["unused"])).any(axis=1)
    axis.set(xlim=(-1.1, COLUMNS + 0.1), ylim=(ROWS + 0.1, -1.1), aspect="equal")
    axis.set_axis_on()
    frame = FancyBboxPatch(
        (-0.5, -0.5), COLUMNS, ROWS, boxstyle="round,pad=.35", fc="#F7F7F7", ec="#BDBDBD", lw=0.7
    )
    axis.add_patch(frame)
    for inside, size, edge in ((~used, 0.45, "#DADADA"), (used, 0.86, "none")):
        sizes, angles = np.full(inside.sum(), size), np.zeros(inside.sum())
        wells = EllipseCollection(
            sizes,
            sizes,
            angles,
            units="xy",
            offsets=centres[inside],
            offset_transform=axis.transData,
            facecolors=colours[inside],
            edgecolors=edge,
            lw=0.4,
        )
        axis.add_collection(wells)
    columns = [0, 5, 11, 17, 23]
    axis.set_xticks(columns, [str(column + 1) for column in columns])
    axis.set_yticks(range(0, ROWS, 5), [chr(ord("A") + row) for row in range(0, ROWS, 5)])
    axis.xaxis.tick_top()
    axis.tick_params(length=0, labelsize=6, pad=1, labelcolor=MUTED)
    axis.spines[:].set_visible(False)


def _plate_title(experiment: str, plate: str, values: pd.Series, continuous: bool) -> str:
    plate = str(plate) if str(plate).lower().startswith("plate") else f"plate {plate}"
    if continuous:
        return f"{experiment}  {plate}   median {values.median():.2f}"
    right, treated = int((values == "correct").sum()), int(values.isin(["correct", "wrong"]).sum())
    return f"{experiment}  {plate}   {right}/{treated}" if treated else f"{experiment}  {plate}"


def _plate_legend(
    figure, axes, values: pd.Series, limits: tuple[float, float] | None, label: str
) -> None:
    """A colour bar for numbers, a key for outcomes, both below the plates."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.lines import Line2D

    if limits is not None:
        mappable = ScalarMappable(Normalize(*limits), "viridis")
        shape = {"location": "bottom", "shrink": 0.35, "aspect": 40, "pad": 0.02, "extend": "both"}
        bar = figure.colorbar(mappable, ax=axes, label=label, **shape)
        bar.outline.set_visible(False)
        return
    present = [outcome for outcome in OUTCOMES if outcome == "unused" or (values == outcome).any()]
    handles = [
        Line2D([], [], ls="", marker="o", ms=7, mfc=OUTCOMES[name], mec="none", label=name)
        for name in present
    ]
    handles[-1].set(markersize=4, markeredgecolor="#BDBDBD")  # unused
    figure.legend(
        handles=handles, loc="outside lower left", ncols=len(handles), fontsize=9, handletextpad=0.2
    )


def channel_montage(
    path: Path | str,
    images: Mapping[str, np.ndarray],
    channels: Sequence[str],
    *,
    colours: Sequence[tuple[float, float, float]] | None = None,
    title: str = "",
) -> None:
    """Samples (say, one a cell type) as rows, channels as columns, and a colour composite of all
    channels last.

    Every channel has one contrast for all rows: its 1st percentile over the pixels of all rows is
    black, its 99.7th white; the two gray levels stand under its name. So brightness may be compared
    down a column, not along a row. The composite lays the channels over each other in their colours
    by the screen rule, 1 - product(1 - x), each sample stretched on its own (20th to 99.7th
    percentile) so that a dim one shows its structure.

    Args:
        images: name -> (C, H, W) uint8; sizes may differ between samples.
        channels: C names.
        colours: C (r, g, b) in [0, 1] for the composite; by default red, green, blue for three
        channels and six hues
            for six.

    Raises:
        InputError: no images, or one that has another number of channels.
    """
    import matplotlib

    if not images:
        raise InputError("channel montage: no images")
    for name, image in images.items():
        if image.ndim != 3 or len(image) != len(channels):
            raise InputError(
                f"channel montage: {name!r} is {image.shape}, not ({len(channels)}, H, W)"
            )
    tints = np.asarray(
        colours if colours is not None else _default_colours(len(channels)), dtype=float
    )
    limits = [_contrast([image[at] for image in images.values()]) for at in range(len(channels))]
    dark = {"figure.facecolor": "#0E0E10", "text.color": "#F2F2F2", "axes.labelcolor": "#F2F2F2"}
    with matplotlib.rc_context(STYLE | dark | {"axes.titlelocation": "center"}):
        figure = new_figure(
            1.9 * (len(channels) + 1) + 0.4, 1.86 * len(images) + 0.72, layout="constrained"
        )
        figure.get_layout_engine().set(w_pad=0.015, h_pad=0.015, wspace=0, hspace=0)
        axes = figure.subplots(len(images), len(channels) + 1, squeeze=False)
        for row, (name, image) in enumerate(images.items()):
            for axis, plane, (low, high) in zip(axes[row], image, limits, strict=False):
                axis.imshow(plane, cmap="gray", vmin=low, vmax=high, interpolation="antialiased")
            axes[row, -1].imshow(_composite(image, tints), interpolation="antialiased")
            axes[row, 0].set_ylabel(name, size=10, weight="bold", labelpad=6)
        for axis in axes.flat:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        for axis, name, tint, (low, high) in zip(axes[0], channels, tints, limits, strict=False):
            axis.set_title(name, color=0.35 + 0.65 * tint, pad=16, wrap=True)
            _under_title(axis, f"{low:.0f} – {high:.0f}")
        axes[0, -1].set_title("composite", pad=16)
        _under_title(axes[0, -1], "each row by itself")
        if title:
            figure.suptitle(title, x=0.01, ha="left", weight="bold", size=12)
        save(figure, path, dpi=170)


def _under_title(axis, text: str) -> None:
    where = {"xycoords": "axes fraction", "textcoords": "offset points", "ha": "center"}
    axis.annotate(text, (0.5, 1), (0, 4), size=7, color="#A9A9A9", **where)


def _default_colours(n: int) -> Sequence[tuple[float, float, float]]:
    from colorsys import hsv_to_rgb

    return _COMPOSITE.get(n) or tuple(hsv_to_rgb(at / n, 0.85, 1.0) for at in range(n))


def _contrast(planes: Sequence[np.ndarray], percentile: float = LOW) -> tuple[float, float]:
    """(black, white) gray levels of one channel over all samples; `percentile` is black."""
    low, high = np.percentile(
        np.concatenate([plane.ravel() for plane in planes]), [percentile, HIGH]
    )
    return float(low), float(max(high, low + 1))


def _composite(image: np.ndarray, tints: np.ndarray) -> np.ndarray:
    """(H, W, 3) in [0, 1]; with more than three channels each is dimmed so that the sum does not
    wash out.
    """
    strength = 1.0 if len(image) <= 3 else 0.7
    dark = np.ones((*image[0].shape, 3), dtype=np.float32)
    for plane, tint in zip(image, tints, strict=True):
        low, high = _contrast([plane], 20)
        level = np.clip((plane.astype(np.float32) - low) / (high - low), 0, 1)
        dark *= 1 - strength * level[..., None] * tint.astype(np.float32)
    return 1 - dark

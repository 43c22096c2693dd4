"""Brightness by experiment and plate: the batch effect at a glance."""

import numpy as np
import pandas as pd

from cellsignal.report.figure_style import COLOURS, FAINT, MUTED, OTHER
from cellsignal.report.html.drawing import plot
from cellsignal.report.html.explore.look import Look
from cellsignal.report.html.page import figure, paragraph, table

LETTERS = 80  # of all names on an axis that stand upright
NAMED = 8  # values with a colour of their own
UNITS = ("cell_type", "experiment", "plate")


def intensity(look: Look) -> str:
    """Return brightness by plate, a map of the images by brightness, and shares of variance."""
    frame = look.intensities.sort_values(["experiment", "plate"], kind="stable")
    frame = frame.reset_index(drop=True)
    names = look.channels[:: look.competition.frames]
    what = "all images, from the store" if look.store is not None else f"{len(frame):,} images"
    figures = _figure_by_plate(frame, names, what) + _figure_of_map(frame, len(names))
    shares = _shares(frame, len(names))
    if not shares:
        note = "All images are of one plate: there is no batch effect between plates to see."
        return figures + paragraph(note)
    return (
        figures
        + table(
            ("between", *names),
            shares,
            numeric=range(1, len(names) + 1),
            caption="share of the variance of an image's brightness that is between units",
        )
        + paragraph(
            "A channel whose brightness is mostly between experiments or plates tells a network "
            "which plate it looks at. Normalisation by plate takes that out; folds that hold out "
            "whole experiments show what is left. With few images of each unit the shares are "
            "somewhat too large."
        )
    )


def shares_between(values: np.ndarray, unit: pd.Series) -> float:
    """Return the share of the variance of values (N,) that is between units."""
    total = float(((values - values.mean()) ** 2).sum())
    means = pd.Series(values).groupby(unit.to_numpy()).transform("mean").to_numpy()
    return float(((means - values.mean()) ** 2).sum()) / total if total > 0 else 0.0


def _shares(frame: pd.DataFrame, channels: int) -> list[list[str]]:
    rows = []
    for unit in UNITS:
        groups = frame[unit]
        if unit == "plate":
            groups = frame.experiment + "/" + frame.plate
        if groups.nunique() == 1:
            continue
        shares = [shares_between(frame[f"mean{c}"].to_numpy(), groups) for c in range(channels)]
        name = f"{unit.replace('_', ' ')}s ({groups.nunique()})"
        rows.append([name, *(f"{share:.2f}" for share in shares)])
    return rows


def _figure_by_plate(frame: pd.DataFrame, names: tuple[str, ...], what: str) -> str:
    """A panel a channel: the mean grey level of each image, plates side by side."""
    experiments = list(dict.fromkeys(frame.experiment))
    plates = frame.groupby(["experiment", "plate"], sort=False).ngroup().to_numpy()
    jitter = np.random.default_rng(0).uniform(-0.3, 0.3, len(frame))
    edges = [plates[(frame.experiment == name).to_numpy()] for name in experiments]
    colours, _ = _colours(frame.cell_type)
    pictures: list[bytes] = []
    with plot(7.4, 1.05 * len(names) + 1.1, pictures) as figure_:
        axes = figure_.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
        for channel, (axis, name) in enumerate(zip(axes, names, strict=True)):
            for number, places in enumerate(edges):
                if number % 2:
                    axis.axvspan(places.min() - 0.5, places.max() + 0.5, color=FAINT, lw=0)
            size = float(np.clip(2500 / len(frame), 1.5, 14))
            points = frame[f"mean{channel}"]
            axis.scatter(plates + jitter, points, s=size, lw=0, c=colours, alpha=0.8)
            axis.set_title(name, size=8.5, weight="normal", pad=2)
            axis.set_ylim(0, None)
            axis.tick_params(labelsize=7)
        middles = [places.mean() for places in edges]
        shown = slice(None, None, -(-len(middles) // 36))
        names_shown = [_short(name) for name in experiments[shown]]
        turn = 90 if sum(map(len, names_shown)) > LETTERS else 0
        axes[-1].set_xticks(middles[shown], names_shown, rotation=turn, size=6.5)
        axes[-1].tick_params(length=0)
        axes[-1].set_xlim(-0.7, plates.max() + 0.7)
        figure_.supylabel("mean grey level of an image", size=8.5)
    alt = f"Mean grey level of {what} by plate, a panel a channel: {', '.join(names)}."
    caption = "A dot is an image, a place on the axis a plate, a shaded band an experiment; "
    caption += f"colours are cell types ({', '.join(sorted(set(frame.cell_type))[:NAMED])})."
    return figure(pictures[0], alt, caption, width=900)


def _figure_of_map(frame: pd.DataFrame, channels: int) -> str:
    """The first two principal components of log mean and log SD, by what differs."""
    columns = [f"{name}{c}" for name in ("mean", "sd") for c in range(channels)]
    x = np.log1p(frame[columns].to_numpy(float))
    x = (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-9)
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    places, share = (u * s)[:, :2], s**2 / max(float((s**2).sum()), 1e-12)
    if places.shape[1] < 2:
        places = np.hstack([places, np.zeros((len(places), 2 - places.shape[1]))])
    drawn = []
    for column in ("cell_type", "experiment", "role"):
        if frame[column].nunique() == 1:
            continue
        pictures: list[bytes] = []
        with plot(4.2, 4.2, pictures) as figure_:
            axis = figure_.subplots()
            colours, legend = _colours(frame[column])
            size = float(np.clip(3000 / len(frame), 2, 18))
            axis.scatter(*places.T, c=colours, s=size, lw=0, alpha=0.75)
            axis.set(xticks=[], yticks=[], title=f"by {column.replace('_', ' ')}")
            axis.set_xlabel(f"first component, {100 * share[0]:.0f} % of the variance", size=8)
            _add_legend(figure_, legend)
        alt = f"Images in the plane of their brightness, coloured by {column.replace('_', ' ')}."
        drawn.append(figure(pictures[0], alt))
    return f'<div class="pair">{"".join(drawn)}</div>' if drawn else ""


def _colours(values: pd.Series) -> tuple[list[str], dict[str, str]]:
    """Return the colour of each value, and the colours of those that are named."""
    names = sorted(values.value_counts().index[:NAMED])
    legend = dict(zip(names, COLOURS, strict=False))
    colours = [legend.get(value, OTHER) for value in values]
    others = values.nunique() - len(names)
    return colours, legend | ({f"{others} others": OTHER} if others else {})


def _add_legend(figure_, legend: dict[str, str]) -> None:
    from matplotlib.lines import Line2D

    look = {"ls": "", "marker": "o", "ms": 5, "mec": "none"}
    handles = [
        Line2D([], [], mfc=colour, label=_short(name), **look) for name, colour in legend.items()
    ]
    columns = max(1, min(3, int(54 / (max(len(_short(name)) for name in legend) + 6))))
    figure_.legend(
        handles=handles,
        loc="outside lower left",
        ncols=columns,
        handletextpad=0.1,
        labelcolor=MUTED,
    )


def _short(name: str) -> str:
    return name.replace("_", " ") if len(name) <= 18 else f"…{name[-17:]}"

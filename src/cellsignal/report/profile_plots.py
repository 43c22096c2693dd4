"""Draw the figures of profiles beside those of their baselines."""

from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.tables import read_table
from cellsignal.report.figure_style import COLOURS, MUTED, save, styled_figure


def profiles_plot(table: Path, path: Path) -> None:
    """Draw the CSV that `profiles retrieve`, `match` or `classify` wrote.

    Of retrieval: each task a panel, each kind of profiles a curve of its groups' mAP, the highest
    first. Of matching and classification: bars of the share that is right.
    """
    frame = read_table(table)
    if "mean_average_precision" in frame:
        _draw_curves(frame, path)
    else:
        _draw_shares(frame, path)


def _draw_curves(frame: pd.DataFrame, path: Path) -> None:
    frame = frame.assign(precision=pd.to_numeric(frame.mean_average_precision))
    panels = list(frame.groupby(["where", "task"], sort=False))
    with styled_figure(4.2 * len(panels), 4.4) as figure:
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for axis, ((where, task), part) in zip(axes, panels, strict=True):
            kinds = part.groupby("profiles", sort=False)
            for colour, (name, rows) in zip(COLOURS, kinds, strict=False):
                values = np.sort(rows.precision.to_numpy())[::-1]
                place = (np.arange(len(values)) + 0.5) / len(values)
                axis.plot(place, values, color=colour, label=f"{name}: {values.mean():.3f}")
            axis.set(ylim=(0, 1.02), xlim=(0, 1), xlabel="share of groups", ylabel="mAP of a group")
            axis.set_title(f"{where}: {task}")
            axis.legend(title="mean mAP", loc="upper center", bbox_to_anchor=(0.5, -0.15))
        save(figure, path)


def _draw_shares(frame: pd.DataFrame, path: Path) -> None:
    name = "protocol" if "protocol" in frame else "profiles"
    right = frame.right == "True"
    shares = right.groupby(frame[name], sort=False).agg(["mean", "size"])
    with styled_figure(6.4, 0.9 + 0.32 * len(shares)) as figure:
        axis = figure.subplots()
        axis.barh(np.arange(len(shares)), shares["mean"], color=COLOURS[0], height=0.7)
        for row, (share, count) in enumerate(shares.itertuples(index=False)):
            text = f"{round(share * count)}/{count}"
            axis.annotate(text, (share, row), (3, 0), textcoords="offset points", va="center")
        axis.set_yticks(np.arange(len(shares)), shares.index)
        axis.invert_yaxis()
        axis.set(xlim=(0, 1.08), xlabel="share that is right")
        axis.tick_params(axis="y", color=MUTED, length=0)
        save(figure, path)

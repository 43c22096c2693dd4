"""Plates and well positions: the share of right labels by plate, and at each place of a plate."""

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.report.html.drawing import drawn
from cellsignal.report.html.outcomes import Outcome, plates_of
from cellsignal.report.html.page import (
    Raw,
    choices,
    escape,
    figure,
    folded,
    heading,
    paragraph,
    table,
)
from cellsignal.report.html.plate_svg import COLUMNS, ROWS, plate_svg, shade
from cellsignal.report.html.view import RunView
from cellsignal.report.plate_plots import plate_map
from cellsignal.report.run_report import outcome_by_well

WELL = r"[A-P](0[1-9]|1\d|2[0-4])"  # of a 384-well plate


def plates(view: RunView) -> str | None:
    """Return the heat maps, for each part; None where a label is not simply right or wrong."""
    if not view.has_one_label:
        return None
    return choices([(outcome.name, _of_part(view, outcome)) for outcome in view.outcomes.values()])


def _of_part(view: RunView, outcome: Outcome) -> str:
    by_plate = heading("By plate") + _by_plate(outcome)
    wells = view.samples_of(outcome).well
    if not wells.str.fullmatch(WELL).all():
        return by_plate + paragraph("Wells have no addresses of a 384-well plate: no map of them.")
    maps = _maps(view, outcome) if outcome is view.outcome else ""
    return heading("By position") + _by_position(outcome, wells) + by_plate + maps


def _by_plate(outcome: Outcome) -> str:
    """A row an experiment, a cell a plate."""
    frame = plates_of(outcome)
    names = sorted(frame.plate.unique(), key=lambda name: (len(name), name))
    if len(names) > 12:
        rows = [(r.experiment, r.plate, f"{r.right:.3f}", r.n) for r in frame.itertuples()]
        return table(("experiment", "plate", "right", "n"), rows, numeric={2, 3})
    cells = {(r.experiment, r.plate): r for r in frame.itertuples()}
    low, high = float(frame.right.min()), float(frame.right.max())
    rows = []
    for experiment in sorted(frame.experiment.unique()):
        row: list[str | Raw] = [experiment]
        for name in names:
            found = cells.get((experiment, name))
            row.append("" if found is None else _heat(found.right, found.n, low, high))
        rows.append(row)
    caption = f"share of right final labels, from {low:.2f} (white) to {high:.2f} (blue)"
    return table(("experiment", *(f"plate {name}" for name in names)), rows, caption=caption)


def _heat(value: float, n: int, low: float, high: float) -> Raw:
    paper, ink = shade(value, low, high)
    style = f'class="heat" style="background:{paper};color:{ink}" title="{n} wells"'
    return Raw(escape(f"{value:.2f}"), style)


def _by_position(outcome: Outcome, wells: pd.Series) -> str:
    """The share of right labels at each place, over all plates."""
    frame = pd.DataFrame({"well": wells.to_numpy(), "right": outcome.right})
    by_well = frame.groupby("well").right.agg(["mean", "size"])
    row = by_well.index.str[0].map(ord) - ord("A")
    column = by_well.index.str[1:].astype(int) - 1
    share, count = np.full((ROWS, COLUMNS), np.nan), np.zeros((ROWS, COLUMNS), int)
    share[row, column], count[row, column] = by_well["mean"], by_well["size"]
    used = np.isfinite(share)
    rows, columns = np.flatnonzero(used.any(1)), np.flatnonzero(used.any(0))
    edge = np.zeros_like(used)
    edge[[rows[0], rows[-1]], :] = edge[:, [columns[0], columns[-1]]] = True
    sums = share * count
    text = []
    for name, mask in (("outermost used wells", used & edge), ("inner wells", used & ~edge)):
        if mask.any():
            text.append(
                f"{name} {sums[mask].sum() / count[mask].sum():.3f} (n = {count[mask].sum():,})"
            )
    caption = (
        f"Share of right final labels at each place, over all plates: {'; '.join(text)}. A place "
        "with few wells varies by chance alone."
    )
    alt = f"Heat map of a 384-well plate: share of right labels by position; {'; '.join(text)}."
    return plate_svg(share, count, alt, caption)


def _maps(view: RunView, outcome: Outcome) -> str:
    """The outcome of each well on the first plates."""
    try:
        samples = view.store.samples
    except InputError:
        samples = view.entry.samples
    wells = outcome_by_well(samples, outcome.targets, outcome.right)
    if wells.empty or not wells.well.str.fullmatch(WELL).all():
        return ""
    shown = wells[["experiment", "plate"]].drop_duplicates()
    right = (wells.outcome == "correct").sum()
    treated = wells.outcome.isin(["correct", "wrong"]).sum()
    alt = f"Maps of {len(shown)} plates: {right} of {treated} treated wells have the right label."
    picture = drawn(lambda path: plate_map(path, wells, value="outcome"))
    total = len(plates_of(outcome))
    title = f"Well by well: {len(shown)} plates"
    title += f", the first of {total}" if len(shown) < total else ""
    return folded(title, figure(picture, alt))

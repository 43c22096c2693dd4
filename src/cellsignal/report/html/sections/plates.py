"""Plates and well positions: the share of right labels by plate, and at each place of a plate."""

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
from cellsignal.report.html.plate_svg import (
    Spot,
    format_of,
    places_of,
    plate_svg,
    row_name,
    shade,
)
from cellsignal.report.html.view import RunView
from cellsignal.report.plate_plots import plate_map
from cellsignal.report.run_report import outcome_by_well

MOST = 12  # plates of an experiment that stand side by side
WELL = r"[A-P](0[1-9]|1\d|2[0-4])"  # of a 384-well plate


def plates(view: RunView) -> str | None:
    """Return the heat maps, for each part; None where a label is not simply right or wrong."""
    if not view.has_one_label:
        return None
    return choices([(outcome.name, _of_part(view, outcome)) for outcome in view.outcomes.values()])


def _of_part(view: RunView, outcome: Outcome) -> str:
    by_plate = heading("By plate") + _by_plate(outcome)
    places = places_of(view.samples_of(outcome).well)
    if places is None:
        return by_plate + paragraph("Wells have no addresses such as B02: no map of them.")
    maps = _maps(view, outcome) if outcome is view.outcome else ""
    return heading("By position") + _by_position(outcome, places) + by_plate + maps


def _by_plate(outcome: Outcome) -> str:
    """A row an experiment, a cell a plate."""
    frame = plates_of(outcome)
    names = sorted(frame.plate.unique(), key=lambda name: (len(name), name))
    shared = frame.groupby("plate").size().median() > 1
    if len(names) > MOST or not shared:
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
    return table(("experiment", *map(_plate_name, names)), rows, caption=caption)


def _plate_name(name: str) -> str:
    return name if name.lower().startswith("plate") else f"plate {name}"


def _heat(value: float, n: int, low: float, high: float) -> Raw:
    paper, ink = shade(value, low, high)
    style = f'class="heat" style="background:{paper};color:{ink}" title="{n} wells"'
    return Raw(escape(f"{value:.2f}"), style)


def _by_position(outcome: Outcome, places: pd.DataFrame) -> str:
    """The share of right labels at each place, over all plates."""
    by_place = places.assign(right=outcome.right).groupby(["row", "column"]).right
    table_ = by_place.agg(["mean", "size"]).reset_index()
    low, high = float(table_["mean"].min()), float(table_["mean"].max())
    spots = {
        (row, column): Spot(
            shade(share, low, high)[0], f"{row_name(row)}{column + 1:02d}: {share:.2f} of {n}"
        )
        for row, column, share, n in table_.itertuples(index=False)
    }
    text = "; ".join(_edge_texts(table_))
    caption = (
        f"Share of right final labels at each place, over all plates: {text}. A place with few "
        f"wells varies by chance alone. White is {low:.2f}, blue {high:.2f}; dots are unused."
    )
    alt = f"Heat map of a plate: share of right labels by position; {text}."
    return plate_svg(spots, format_of(places), alt, caption)


def _edge_texts(table_: pd.DataFrame) -> list[str]:
    """Compare the outermost used wells with the others."""
    row, column = table_["row"], table_["column"]
    edge = (row == row.min()) | (row == row.max())
    edge |= (column == column.min()) | (column == column.max())
    text = []
    for name, part in (("outermost used wells", table_[edge]), ("inner wells", table_[~edge])):
        if len(part):
            n = part["size"].sum()
            share = (part["mean"] * part["size"]).sum() / n
            text.append(f"{name} {share:.3f} (n = {n:,})")
    return text


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

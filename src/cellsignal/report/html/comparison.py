"""Several runs side by side: scores, paired differences, and the settings that differ."""

import numpy as np

from cellsignal.common.errors import InputError
from cellsignal.config import config_differences
from cellsignal.report.html.outcomes import Outcome
from cellsignal.report.html.page import (
    Section,
    bar,
    counted,
    folded,
    heading,
    interval_text,
    missing,
    paragraph,
    preformatted,
    table,
    unit_name,
)
from cellsignal.report.html.view import RunView


def comparison(views: list[RunView]) -> Section:
    """Return the section that puts runs of one competition side by side."""
    content = heading("Scores of the final labels") + _scores(views)
    content += heading("Paired differences to the first") + _differences(views)
    content += heading("Settings that differ from the first") + _settings(views)
    return Section("Side by side", content, "side-by-side")


def _scores(views: list[RunView]) -> str:
    rows, lacking = [], ""
    for view in views:
        try:
            outcomes = view.outcomes.items()
        except InputError as error:
            lacking += missing(f"{view.title}: {error}")
            continue
        for part, outcome in outcomes:
            value, low, high = outcome.clustered(view.fold_group)
            name = "test" if part == "test" else "out of fold"
            drawn = bar(value, low, high, view.chance)
            n, units = f"{len(outcome.targets.target_id):,}", _units(view, outcome)
            interval = interval_text(low, high)
            rows.append((view.title, name, drawn, f"{value:.4f}", interval, n, units))
    head = ("run", "part", "", "score", "95 % interval", "n", "units")
    return (table(head, rows, numeric={3, 5}) if rows else "") + lacking


def _units(view: RunView, outcome: Outcome) -> str:
    by, units = outcome.units(view.fold_group)
    return counted(len(set(units)), unit_name(by))


def _differences(views: list[RunView]) -> str:
    first, rows, lacking = views[0], [], ""
    for view in views[1:]:
        try:
            rows += _paired(first, view)
        except InputError as error:
            lacking += missing(f"{view.title} - {first.title}: {error}")
    head = ("difference", "part", "on", "value", "95 % interval", "units", "")
    note = (
        "On the targets that both predicted; an interval is for another draw of units. Where it "
        "holds 0 these runs cannot be told apart. Of many runs compared, the best looks better "
        "than it is."
    )
    return (table(head, rows, numeric={2, 3}) if rows else "") + lacking + paragraph(note)


def _paired(first: RunView, other: RunView) -> list[tuple]:
    """Return a row for each part that both have."""
    rows = []
    for part, a in first.outcomes.items():
        b = other.outcomes.get(part)
        if b is None:
            continue
        common = np.intersect1d(a.targets.target_id, b.targets.target_id)
        if not len(common):
            raise InputError("predicted no target in common")
        kept_a, kept_b = a.kept(common), b.kept(common)
        if not np.array_equal(kept_a.truth.values, kept_b.truth.values, equal_nan=True):
            raise InputError("were predicted against different labels")
        value, low, high = kept_a.clustered(first.fold_group, kept_b)
        verdict = ""
        if np.isfinite([low, high]).all():
            verdict = "differ" if low > 0 or high < 0 else "cannot be told apart"
        name, interval = "test" if part == "test" else "out of fold", interval_text(low, high)
        title = f"{other.title} − {first.title}"
        n, units = f"{len(common):,}", _units(first, kept_a)
        rows.append((title, name, n, f"{value:+.4f}", interval, units, verdict))
    return rows


def _settings(views: list[RunView]) -> str:
    first, parts = views[0], []
    for view in views[1:]:
        try:
            trees = [item.config.model_dump(mode="json") for item in (first, view)]
        except InputError as error:
            parts.append(missing(f"{view.title}: {error}"))
            continue
        lines = config_differences(*trees)
        title = f"{first.title} → {view.title}: {len(lines)} settings"
        text = preformatted("\n".join(lines) or "none")
        parts.append(folded(title, text, is_open=len(lines) <= 12))
    return "".join(parts)

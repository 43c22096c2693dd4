"""What other commands left in the run folder: baselines, the leak audit, plate quality.

Each writes a .json or .csv there (and maybe pictures) whose name begins with the word below, or
that lies in a folder of that name; it is shown as it is.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cellsignal.common.errors import InputError
from cellsignal.common.tables import read_table
from cellsignal.report.html.drawing import smaller
from cellsignal.report.html.page import (
    Raw,
    choices,
    escape,
    figure,
    heading,
    paragraph,
    preformatted,
    table,
    tag,
)
from cellsignal.report.html.view import RunView

SHOWN = 200  # rows of a table
SCORES = ("score", "accuracy", "value", "average_precision", "mean_average_precision", "mAP")
SEVERITY = "severity"
# of the table that `cellsignal baseline` writes
BASELINE_COLUMNS = ("name", "title", "reason", "score", "low", "high", "run_score", "difference")
BASELINE_COLUMNS += ("difference_low", "difference_high", "verdict")


def audit(view: RunView) -> str:
    """Return the findings of `cellsignal audit`."""
    return _content(
        view, "audit", f"`cellsignal audit {view.command} --out {_folder(view) / 'audit.json'}`"
    )


def quality(view: RunView) -> str:
    """Return the measures of `cellsignal qc`."""
    out = _folder(view) / "qc"
    return _content(view, "qc", f"`cellsignal qc {view.command} --out {out}`")


def baselines(view: RunView) -> str:
    """Return the scores of `cellsignal baseline`, and whether the run beats them."""
    return _content(view, "baseline", f"`cellsignal baseline {view.command}`")


def _baseline_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of a table of baselines as a reader wants them."""
    return [
        {
            "baseline": row["name"],
            "knows": f"not measured: {row['reason']}" if row["reason"] else row["title"],
            "score": _digits(row["score"]),
            "95 % interval": _range(row["low"], row["high"]),
            "run": _digits(row["run_score"]),
            "run - baseline": _digits(row["difference"]),
            "paired 95 % interval": _range(row["difference_low"], row["difference_high"]),
            "the run": row["verdict"],
        }
        for row in rows
    ]


def _range(low: str, high: str) -> str:
    return f"{_digits(low)} to {_digits(high)}" if low and high else ""


def _digits(text: str) -> str:
    """Return a number as text with three decimals, other text as it is."""
    try:
        value = float(text)
    except ValueError:
        return text
    return f"{value:.3f}" if np.isfinite(value) else ""


def best_baseline(view: RunView) -> tuple[str, float] | None:
    """Return the name and score of the highest baseline, where any was measured."""
    best: tuple[str, float] | None = None
    for path in _files(view, "baseline"):
        if path.suffix not in (".csv", ".json"):
            continue
        for row in _rows(path):
            column = next((name for name in SCORES if name in row), None)
            try:
                value = float(row[column]) if column is not None else None
            except (TypeError, ValueError):
                continue
            name = str(next(iter(row.values())))
            if value is not None and np.isfinite(value) and (best is None or value > best[1]):
                best = (name, value)
    return best


def _folder(view: RunView) -> Path:
    return view.folders[0] if view.folders else Path("runs") / view.title


def _files(view: RunView, word: str) -> list[Path]:
    """Return the files of a word, of each seed and of the run: those whose name begins with it,
    and all in a folder of that name.

    Of a table in both forms the .csv is taken.
    """
    folders = dict.fromkeys([*view.folders, *(folder.parent for folder in view.folders)])
    paths = sorted(
        path
        for folder in folders
        for pattern in (f"{word}*", f"{word}/*")
        for path in folder.glob(pattern)
        if path.suffix in (".json", ".csv", ".png", ".txt")
    )
    paths = [p for p in paths if p.suffix != ".json" or p.with_suffix(".csv") not in paths]
    paths = [p for p in paths if p.suffix != ".csv" or len(read_table(p))]
    return sorted(paths, key=lambda path: path.suffix != ".png")  # pictures first


def _content(view: RunView, word: str, command: str) -> str:
    files = _files(view, word)
    if not files:
        raise InputError(f"not measured: {command}")
    return choices([(path.name, _of_file(path)) for path in files])


def _of_file(path: Path) -> str:
    if path.suffix == ".png":
        return figure(smaller(path.read_bytes()), f"{path.stem}, a picture of that command")
    if path.suffix == ".txt":
        return preformatted(path.read_text(encoding="utf-8", errors="replace"))
    rows = _rows(path)
    if rows and set(BASELINE_COLUMNS) <= set(rows[0]):
        rows = _baseline_rows(rows)
    head = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_cell(name, row.get(name, "")) for name in head] for row in rows[:SHOWN]]
    more = f"; the first {SHOWN} of {len(rows):,} rows" if len(rows) > SHOWN else ""
    if not rows:
        return _facts(path) or paragraph(f"{path}: has no rows")
    return _facts(path) + table(head, cells, caption=f"{path}{more}")


def _cell(name: str, value: Any) -> str | Raw:
    if name == SEVERITY:
        return tag(str(value), str(value).replace("_", " "))
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return "; ".join(map(str, value))
    return "" if value is None else str(value)


def _rows(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a table, or of the first list of rows in a JSON file.

    Raises:
        InputError: it cannot be read.
    """
    if path.suffix == ".csv":
        return read_table(path).to_dict("records")
    content = _json(path)
    lists = [content] if isinstance(content, list) else list(content.values())
    for value in lists:
        if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
            return value
    return []


def _json(path: Path) -> dict[str, Any] | list[Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is not JSON ({error})") from None
    if not isinstance(content, dict | list):
        raise InputError(f"{path}: holds neither facts nor a list")
    return content


def _facts(path: Path) -> str:
    """Return the plain facts of a JSON file, such as the verdict of an audit."""
    content = _json(path) if path.suffix == ".json" else []
    if not isinstance(content, dict):
        return ""
    lines: Sequence[str] = [
        f"{escape(name.replace('_', ' '))}: {escape(value)}"
        for name, value in content.items()
        if isinstance(value, str | int | float) and len(str(value)) < 200
    ]
    verdict = heading("passed" if content["passed"] else "failed") if "passed" in content else ""
    return f"{verdict}<p>{'; '.join(lines)}</p>"

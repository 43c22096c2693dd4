"""Find the wells of a condition (`COLUMN = VALUE`); say what a column holds where none fits."""

from collections import Counter
from pathlib import Path

import pandas as pd

from cellsignal.common.tables import MISSING
from cellsignal.competitions.plates.description import Condition, parse_condition
from cellsignal.competitions.plates.labels import require_column

KEYS = ("negative_controls", "positive_controls", "hidden")
_SHOWN = 8  # values of a column that are listed


def match_condition(
    path: Path, table: pd.DataFrame, key: str, text: str | None
) -> tuple[pd.Series, pd.Series]:
    """Return the cells that a condition looks at, and which of them fit; none fits None.

    Raises:
        InputError: the condition's column is not there.
    """
    if text is None:
        return pd.Series("", index=table.index), pd.Series(False, index=table.index)
    condition = parse_condition(text)
    require_column(path, table, key, condition.column)
    cells = table[condition.column]
    return cells, cells.isin(condition.values)


def explain_values(table: pd.DataFrame, condition: Condition, values: list[str]) -> str:
    """Say where values that a condition's column lacks may stand, and what the column holds."""
    column, parts = condition.column, []
    for value in values:
        same = [cell for cell in table[column].unique() if cell.lower() == value.lower()]
        elsewhere = [name for name in table if name != column and (table[name] == value).any()]
        if same:
            parts.append(f"did you mean {same[0]!r}?")
        elif elsewhere:
            parts.append(f"{value} stands in column {elsewhere[0]!r}")
    return "; ".join([*parts, f"{column!r} holds {count_values(table[column])}"])


def count_values(cells: pd.Series) -> str:
    """Return the most common values of a column with their counts: "drug (70), vehicle (24)"."""
    counts = Counter("empty" if cell in MISSING else cell for cell in cells).most_common()
    shown = ", ".join(f"{value} ({count})" for value, count in counts[:_SHOWN])
    more = len(counts) - _SHOWN
    return shown + (f" and {more} values more" if more > 0 else "")

"""Print a fold table: its folds, or its rows if they are few."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 15  # groups of a fold table that are printed


def folds_text(table: "pd.DataFrame") -> str:
    """Return a fold table in at most 25 lines: its folds, and its rows if they are few.

    The second column is the fold group. Fold -1 is never held out, -2 is kept for the test.
    """
    if len(table) <= SHOWN:
        return table.to_string(index=False)
    group = table.columns[1]
    folds = table.groupby("fold", sort=True)
    summary = folds[group].nunique().rename(f"{group}s").to_frame()
    summary["rows"] = folds.size()
    if "n" in table:
        summary["n"] = folds["n"].sum()
    summary["first"] = folds[group].first()
    summary = summary.rename(index={-1: "in training alone", -2: "kept for the test"})
    return summary.head(SHOWN).reset_index().to_string(index=False)

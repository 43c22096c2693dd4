"""The true labels of hidden wells: from the platemap, and checks of a file that holds them."""

import logging
from pathlib import Path

import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.competitions.plates.platemap import read_any_table
from cellsignal.competitions.plates.wells import read_rows

log = logging.getLogger(__name__)


def answers_of_platemap(root: Path) -> pd.DataFrame:
    """Return the labels that the platemap gives hidden wells, for scoring alone.

    They are in no samples table. Hidden wells whose label no training well has are left out, as
    nothing can predict it; a log line counts them, and those without a label.

    Returns:
        Columns well_id and `label`, or with several labels a well one of 0 and 1 for each class.

    Raises:
        InputError: no well is hidden, or none of those has a label that a training well has.
    """
    rows = read_rows(Path(root))
    frame = rows.frame[(rows.frame.split == "test") & (rows.frame.role == "treatment")]
    wells = frame.drop_duplicates("well_id").sort_values("well_id", ignore_index=True)
    if wells.empty:
        raise InputError(f"{root}: no well is hidden, so there is nothing to answer")
    names = wells["labels"] if rows.is_multi_label else wells.label_name.map(_one_name)
    is_known = names.notna()
    is_new = is_known & ~names.map(lambda labels: set(labels or ()) <= set(rows.classes))
    count = f"{len(wells)} hidden wells"
    if (~is_known).any():
        log.warning("%s: %d of %s have no label in the platemap", root, (~is_known).sum(), count)
    if is_new.any():
        first = f"{wells.well_id[is_new].iloc[0]} ({', '.join(names[is_new].iloc[0])})"
        text = "have a label that no training well has, and are left out; first"
        log.warning("%s: %d of %s %s %s", root, is_new.sum(), count, text, first)
    names, wells = names[is_known & ~is_new], wells[is_known & ~is_new]
    if wells.empty:
        raise InputError(
            f"{root}: none of {count} has a label in the platemap that a training well has"
        )
    if not rows.is_multi_label:
        columns = {"label": [labels[0] for labels in names]}
    else:
        columns = {name: [int(name in labels) for labels in names] for name in rows.classes}
    return pd.DataFrame({"well_id": wells.well_id.to_list(), **columns})


def _one_name(text: str) -> tuple[str, ...] | None:
    return (text,) if text else None


def require_answers_table(path: Path, id_column: str, target: str, labels: str) -> None:
    """Refuse a file that is no CSV of answers (a platemap), and say what one is.

    Args:
        target: the column that it needs beside the ids; "" where that is one a label.
        labels: how the columns of the labels are named to the user.
    """
    is_text = path.suffix.lower() not in (".xlsx", ".xls")
    table = read_any_table(path)
    if is_text and id_column in table and (not target or target in table):
        return
    raise InputError(
        f"{path}: is no table of answers: that is a CSV with the columns {id_column} "
        f"(PLATE_WELL) and {labels}; this one has {', '.join(table.columns)}. If the platemap has "
        "the labels of hidden wells, `cellsignal profiles answers` writes them as answers"
    )

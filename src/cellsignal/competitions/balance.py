"""Count how evenly a fold table spreads every class, for samples with several labels."""

from collections.abc import Sequence

import numpy as np
import pandas as pd


def balance(table: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Count classes per fold (column `label`: class numbers joined by "+", empty for none).

    Returns:
        One row a fold and class: fold, class, positives and compounds, prevalence (positives /
        compounds), positive_wells, wells.
    """
    member = np.zeros((len(table), len(classes)), int)
    for row, text in enumerate(table.label.astype(str)):
        member[row, [int(number) for number in text.split("+") if number]] = 1
    fold, wells, parts = table.fold.astype(int).to_numpy(), table.n.astype(int).to_numpy(), []
    for number in sorted(set(fold)):
        inside = fold == number
        positives = member[inside].sum(axis=0)
        columns = {
            "fold": number,
            "class": list(classes),
            "positives": positives,
            "compounds": inside.sum(),
            "prevalence": positives / inside.sum(),
            "positive_wells": wells[inside] @ member[inside],
            "wells": wells[inside].sum(),
        }
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def balance_table(table: pd.DataFrame, classes: Sequence[str]) -> str:
    """`balance` as text: for each class its compounds in every fold, their sum and their share;
    below, the folds' sizes.
    """
    frame = balance(table, classes)
    wide = frame.pivot(index="class", columns="fold", values="positives").loc[list(classes)]
    sizes = frame.drop_duplicates("fold").set_index("fold")
    shown = wide.rename(columns=lambda fold: f"fold {fold}")
    shown["all"] = wide.sum(axis=1)
    shown["prevalence"] = (wide.sum(axis=1) / sizes.compounds.sum()).map("{:.4f}".format)
    lowest, highest = (wide / sizes.compounds).min(axis=1), (wide / sizes.compounds).max(axis=1)
    shown["by fold"] = [
        f"{low:.4f} to {high:.4f}" for low, high in zip(lowest, highest, strict=True)
    ]
    shown = shown.astype(object)  # numbers, and text in the rows below
    for name in ("compounds", "wells"):
        shown.loc[f"({name})"] = [*sizes[name].map(str), str(sizes[name].sum()), "", ""]
    return shown.rename_axis(index=None, columns=None).to_string()

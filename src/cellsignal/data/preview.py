"""Show what a samples table holds, before anything is packed."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from cellsignal.common.errors import ImageError
from cellsignal.competitions.base import Competition

SHOWN = 12  # plates and labels that are listed
MONTAGE = 4  # labels of the picture; a control is added
_TRIED = 5  # sites of a label that are tried until one can be read
_LONGEST = 24  # letters of a name beside a row of the picture


def preview_text(
    table: pd.DataFrame,
    classes: Sequence[str],
    left_out: Sequence[tuple[str, str]],
    without_images: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> str:
    """Count a samples table by plate and by label, what was left out and what has no image.

    Args:
        left_out: (reason, name) of what is not in the table.
        without_images: sample_id of the rows that have no image.
        notes: `Competition.notes`.
    """
    wells = table.drop_duplicates("well_id")
    lines = [
        f"{len(table)} sites of {len(wells)} wells on {_plates(table)} plates, "
        f"{table.experiment.nunique()} batches, {table.cell_type.nunique()} cell types",
        "",
    ]
    plates = table.groupby(["experiment", "plate"], sort=True)
    counts = plates.well_id.nunique().rename("wells").to_frame()
    counts["sites"] = plates.size()
    roles = ("treatment", "positive_control", "negative_control")
    if (wells.role == "reference").any():
        roles += ("reference",)
    for role in roles:
        of_role = wells[(wells.role == role) & (wells.split == "train")]
        counts[role] = of_role.groupby(["experiment", "plate"]).size()
    test = wells[(wells.split == "test") & (wells.role == "treatment")]
    counts["test"] = test.groupby(["experiment", "plate"]).size()
    counts = counts.fillna(0).astype(int).reset_index()
    lines += [counts.head(SHOWN).to_string(index=False)]
    lines += [f"... and {len(counts) - SHOWN} plates more"] * (len(counts) > SHOWN)
    number = _wells_of_labels(wells)
    if len(number):
        lines += ["", f"{len(classes)} labels, {number.min()} to {number.max()} wells each:"]
        shown = sorted(number.index)[:SHOWN]
        lines += [f"  {classes[label]}: {number[label]}" for label in shown]
        lines += ["  ..."] * (len(number) > SHOWN)
        lines += [f"  {line}" for line in single_label_lines(wells, classes)]
    reasons = Counter(reason for reason, _ in left_out)
    lines += ["", "left out: " + ("" if reasons else "nothing"), *left_out_lines(left_out)]
    if without_images:
        lines.append(f"rows without images: {len(without_images)}; first {without_images[0]}")
    lines += ["", *(f"note: {note}" for note in notes)] if notes else []
    return "\n".join(lines)


def single_label_lines(samples: pd.DataFrame, classes: Sequence[str]) -> list[str]:
    """Return a line that counts the labels with one well, if there are any."""
    number = _wells_of_labels(samples.drop_duplicates("well_id"))
    single = sorted(number.index[number == 1])
    if not single:
        return []
    text = f"{len(single)} of {len(number)} labels have one well and can't be validated"
    return [f"{text}, first {classes[single[0]]}"]


def _wells_of_labels(wells: pd.DataFrame) -> pd.Series:
    """Count the treated wells of each class number that training may use."""
    treated = wells[(wells.role == "treatment") & (wells.split == "train")]
    several = treated["labels"].dropna().explode().dropna()
    return pd.concat([treated.label.dropna(), several]).astype(int).value_counts()


def left_out_lines(left_out: Sequence[tuple[str, str]]) -> list[str]:
    """Count what was left out by reason, each with the first example."""
    lines = []
    for reason, count in Counter(reason for reason, _ in left_out).items():
        first = next(name for why, name in left_out if why == reason)
        lines.append(f"  {count}: {reason}; first {first}")
    return lines


def _plates(table: pd.DataFrame) -> int:
    return len(table[["experiment", "plate"]].drop_duplicates())


def montage_images(competition: Competition, root: Path, table: pd.DataFrame) -> dict:
    """Read a site of each of up to four labels, and of a control: {title: (C, H, W) uint8}.

    Raises:
        ImageError: none of them can be read.
    """
    classes = competition.classes(root)
    rows = table.sort_values("sample_id").assign(several=table["labels"].map(str))
    is_treated = (rows.role == "treatment") & (rows.split == "train")
    treated = rows[is_treated].sort_values(["label", "several", "sample_id"])
    groups = [part for _, part in treated.groupby(["label", "several"], dropna=False)]
    groups = groups or [rows[rows.role == "treatment"]]
    images, failure = {}, None
    with TemporaryDirectory(prefix="cellsignal-") as folder:
        competition = competition.calibrate(root, Path(folder))
        for group in [*groups, rows[rows.role.str.endswith("control")]]:
            is_control = bool(len(group)) and group.role.iloc[0] != "treatment"
            if len(images) == MONTAGE and not is_control:
                continue
            for row in group.head(_TRIED).itertuples():
                try:
                    images[_title(row, classes)] = competition.read(root, row.files)
                    break
                except ImageError as error:
                    failure = error
    if not images and failure is not None:
        raise failure
    return images


def _title(row: tuple, classes: Sequence[str]) -> str:
    """Name a row of the picture by what its well got, and where it is."""
    if row.role.endswith("control"):
        names = ["control"]
    elif isinstance(row.labels, tuple):
        names = [" | ".join(classes[label] for label in row.labels) or "no label"]
    else:
        names = [classes[row.label] if pd.notna(row.label) else "no label"]
    if row.role == "treatment" and pd.notna(row.compound) and row.compound != names[0]:
        names.append(row.compound)
    shown = [name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…" for name in names]
    return f"{', '.join(map(str, shown))},\n{row.plate} {row.well}"

"""The samples table: one row an image. Everything downstream of a competition knows only these columns."""

from pathlib import Path

import pandas as pd

from cellsignal.errors import InputError

ROLES = ("treatment", "positive_control", "negative_control")
SPLITS = ("train", "test")

# column -> (kind, may be missing). `label` is missing in test rows; `site` counts from 1.
COLUMNS: dict[str, tuple[str, bool]] = {
    "sample_id": ("text", False),  # one image: a site, a field, a track. Unique
    "target_id": ("text", False),  # what is predicted: the submission's id. Several samples may share one
    "well_id": ("text", False),  # one physical well, unique over plates and experiments
    "experiment": ("text", False),  # batch
    "plate": ("text", False),  # unique within its experiment
    "well": ("text", False),  # address on the plate
    "site": ("int", False),
    "cell_type": ("text", False),  # domain; stage 2 fine-tunes for each
    "label": ("int", True),  # index into Competition.classes for treatments; beyond it for controls
    "role": ("text", False),
    "compound": ("text", True),  # what must not cross folds where it matters
    "split": ("text", False),
    "files": ("files", False),  # tuple of paths relative to the root, in channel order (or one file of all channels)
}


def check_samples(frame: pd.DataFrame, source: Path | str) -> pd.DataFrame:
    """Hold a samples table to the schema and give it back with the schema's column order and types.

    Raises:
        InputError: a missing column, a doubled sample_id, an empty cell where none may be, an unknown role or split, a training
            treatment without a label, or samples of one target_id that disagree. The message names `source` and the row.
    """
    missing = [column for column in COLUMNS if column not in frame.columns]
    if missing:
        raise InputError(f"{source}: samples table lacks the columns {missing}")
    frame = frame[list(COLUMNS)].reset_index(drop=True)
    for column, (kind, optional) in COLUMNS.items():
        empty = frame[column].isna()
        if empty.any() and not optional:
            raise InputError(
                f"{source}: {column} is empty in row {int(empty.idxmax()) + 2} ({frame.sample_id[empty.idxmax()]!r})"
            )
        if kind == "int":
            frame[column] = frame[column].astype("Int64" if optional else "int64")
        elif kind == "text":
            frame[column] = (
                frame[column]
                .astype("object")
                .where(~empty, None)
                .map(lambda v: v if v is None else str(v))
                .astype("object")
            )
    doubled = frame.sample_id[frame.sample_id.duplicated()]
    if len(doubled):
        raise InputError(f"{source}: sample_id {doubled.iloc[0]!r} occurs more than once ({len(doubled)} such rows)")
    for column, allowed in (("role", ROLES), ("split", SPLITS)):
        wrong = ~frame[column].isin(allowed)
        if wrong.any():
            raise InputError(
                f"{source}: {column} {frame[column][wrong].iloc[0]!r} of {frame.sample_id[wrong].iloc[0]!r} is none of {allowed}"
            )
    unlabelled = (frame.split == "train") & (frame.role == "treatment") & frame.label.isna()
    if unlabelled.any():
        raise InputError(
            f"{source}: training sample {frame.sample_id[unlabelled].iloc[0]!r} has no label ({int(unlabelled.sum())} such rows)"
        )
    spread = frame.fillna({"label": -1}).groupby("target_id")[["label", "split", "well_id"]].nunique().max(axis=1)
    if (spread > 1).any():
        raise InputError(f"{source}: samples of target_id {spread.idxmax()!r} disagree on label, split or well")
    return frame

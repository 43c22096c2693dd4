"""Progressive pseudo-labels: which test wells the model may teach itself with, and the file that
says so.

Source: RxRx1, 1st place (M. Sypetkowski). The plate's design does half of the work: a plate holds
one group of classes, each once, so a well's prediction is taken among the classes that its plate
can still hold, and of two wells that claim one class only the more confident keeps it. Unlike
there, wells are chosen anew every time (a wrong label does not stay for good), and no validation
well is ever among them.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.files import provenance, sha256, write_csv, write_json
from cellsignal.common.tables import read_table, refuse_rows
from cellsignal.competitions.base import PlateGroups
from cellsignal.config.stage import PseudoLabels
from cellsignal.prediction.plate_layout.groups import PlateGroupInference, infer_plate_groups

# label: index into the competition's classes; confidence: the best score minus the second best,
# infinite where the plate leaves one class
COLUMNS = {
    "target_id": str,
    "experiment": str,
    "plate": str,
    "label": "int64",
    "confidence": "float64",
}
# a well has one label, a plate each class once
UNIQUE = (["target_id"], ["experiment", "plate", "label"])


def share_at(config: PseudoLabels, epoch: int, epochs: int) -> float:
    """The share of the eligible wells that trains in an epoch: `first` at `config.start`, rising
    linearly to 1 in the last epoch.

    Args:
        epoch: 0-based, from `config.start` on.
        epochs: of the stage. With one epoch of pseudo-labels alone the share is 1.
    """
    assert config.start <= epoch < epochs, (config.start, epoch, epochs)
    span = epochs - 1 - config.start
    return config.first + (1 - config.first) * ((epoch - config.start) / span if span else 1.0)


def select(
    scores: np.ndarray,
    target_id,
    experiment,
    plate,
    groups: PlateGroups | None,
    share: float,
    least_confidence: float,
    used: Mapping[tuple[str, str], Collection[int]] = {},
) -> pd.DataFrame:
    """Choose and label wells: mask what the plate cannot hold, take the most confident share, then
    settle clashes.

    1. Each plate's class group is inferred from the same scores; an experiment whose groups are not
       clear gives no pseudo-label.
    2. Classes off the group and `used` classes are masked; a well with no class left is not
       eligible. Its label is the best
       class left, its confidence how far that stands above the second best.
    3. The round(share x eligible) most confident wells of all plates together are taken.
    4. Of those taken that claim one class of a plate the most confident stays. As in the source
       this comes after the share, so that
       fewer than the share may remain. Equal confidences are ranked by target_id, equal scores of a
       well by class.

    Args:
        scores: (W, K) merged logits or log-probabilities of the treatments' classes, one row a
        well, all finite. target_id, experiment, plate: (W,) names; each target_id once. groups: the
        class groups (its `plate_group` is not looked at); None: nothing is known of the plates, no
        group is masked. share: 0..1. least_confidence: of `infer_plate_groups`, a z. used:
        (experiment, plate) -> classes whose well on that plate is known.

    Returns:
        Columns target_id, experiment, plate, label, confidence, sorted by target_id. Its `attrs`
        are JSON-able and say how it came about: wells, eligible, taken, clashes, refused
        (experiments) and, with groups, plate_group and group_confidence (None: there was no
        alternative).

    Raises:
        InputError: shapes that do not fit, a score that is not finite, or a doubled target_id.
    """
    assert 0 <= share <= 1, share
    wells = _wells(scores, target_id, experiment, plate)
    inferred = (
        None
        if groups is None
        else infer_plate_groups(scores, wells.experiment, wells.plate, groups)
    )
    clear = {} if inferred is None else inferred.confidence
    refused = sorted(name for name, confidence in clear.items() if confidence < least_confidence)
    for at, rows in wells.groupby(["experiment", "plate"], sort=True).indices.items():
        if at[0] not in refused:
            open_ = np.ones(scores.shape[1], dtype=bool)
            if inferred is not None:
                open_ &= groups.class_group == inferred.plate_group[at]
            open_[list(used.get(at, ()))] = False
            label, confidence = _best(scores[rows], np.flatnonzero(open_))
            wells.loc[rows, "label"], wells.loc[rows, "confidence"] = label, confidence
    eligible = wells[wells.label >= 0].sort_values(
        ["confidence", "target_id"], ascending=[False, True]
    )
    taken = eligible.head(round(share * len(eligible)))
    chosen = taken.drop_duplicates(UNIQUE[1], keep="first")
    frame = chosen.sort_values("target_id", ignore_index=True)
    counts = {
        "wells": len(wells),
        "eligible": len(eligible),
        "taken": len(taken),
        "clashes": len(taken) - len(chosen),
    }
    frame.attrs = {"share": share, **counts, "refused": refused, **_described(inferred)}
    return frame


def _wells(scores: np.ndarray, target_id, experiment, plate) -> pd.DataFrame:
    """One row a well with `COLUMNS`, not yet labelled (-1), when all fits."""
    names = [np.asarray(values).astype(str) for values in (target_id, experiment, plate)]
    if (
        scores.ndim != 2
        or not scores.shape[1]
        or any(values.shape != scores.shape[:1] for values in names)
    ):
        lengths = ", ".join(str(len(values)) for values in names)
        raise InputError(
            f"pseudo-labels: scores are {scores.shape}, with {lengths} target ids, experiments "
            "and plates"
        )
    wells = pd.DataFrame(dict(zip(COLUMNS, names, strict=False)), dtype=object).assign(
        label=-1, confidence=np.nan
    )
    doubled, finite = wells.target_id.duplicated(), np.isfinite(scores).all(axis=1)
    if doubled.any():
        raise InputError(
            f"pseudo-labels: target_id {wells.target_id[doubled].iloc[0]!r} has more than one row "
            "of scores"
        )
    if not finite.all():
        raise InputError(
            f"pseudo-labels: the scores of {wells.target_id[~finite].iloc[0]!r} are not all finite"
        )
    return wells


def _best(block: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n,) best of `classes` (-1: there is none) and (n,) its lead over the second best, for (n, K)
    scores.
    """
    if not len(classes):
        return np.full(len(block), -1), np.full(len(block), np.nan)
    inside = block[:, classes].astype(np.float64)
    label = classes[inside.argmax(axis=1)]
    if len(classes) == 1:
        return label, np.full(len(block), np.inf)
    second, first = np.partition(inside, -2, axis=1)[:, -2:].T
    return label, first - second


def _described(inferred: PlateGroupInference | None) -> dict[str, Any]:
    if inferred is None:
        return {}
    plates: dict[str, dict[str, int]] = {}
    for (experiment, plate), group in sorted(inferred.plate_group.items()):
        plates.setdefault(experiment, {})[plate] = group
    confidence = {
        name: value if np.isfinite(value) else None
        for name, value in sorted(inferred.confidence.items())
    }
    return {"plate_group": plates, "group_confidence": confidence}


def csv_path(folder: Path, epoch: int) -> Path:
    """Where the pseudo-labels of an epoch (0-based) lie; what they were made from is beside them,
    in a .json.
    """
    return Path(folder) / "pseudo_labels" / f"epoch_{epoch:03d}.csv"


def write(folder: Path, epoch: int, frame: pd.DataFrame, about: Mapping[str, Any]) -> Path:
    """Write an epoch's pseudo-labels and, beside them, what they were made from: `about`, the
    frame's `attrs`, the CSV's SHA-256.

    The .json is written last: `read` refuses a pair that a stop left half new.

    Returns:
        The CSV's path.
    """
    path = csv_path(folder, epoch)
    write_csv(path, frame[list(COLUMNS)])
    made = provenance(
        **{**frame.attrs, **about, "epoch": epoch, "number": len(frame), "csv_sha256": sha256(path)}
    )
    write_json(path.with_suffix(".json"), made)
    return path


def read(folder: Path, epoch: int) -> pd.DataFrame:
    """The pseudo-labels of an epoch, to the bit as written; its `attrs` are what the .json says.

    Raises:
        InputError: no file, one that cannot be read, one that is not what its .json says, other
        columns, a label or
            confidence that is no number from 0, a doubled target_id, or a class twice on a plate.
    """
    path = csv_path(folder, epoch)
    about = _read_about(path)
    frame = read_table(path, filled=())
    if list(frame.columns) != list(COLUMNS):
        raise InputError(
            f"{path}: its columns are {', '.join(frame.columns)}, not {', '.join(COLUMNS)}"
        )
    for column, pattern in (("label", r"\d{1,6}"), ("confidence", r"inf|\d+(\.\d+)?(e[+-]?\d+)?")):
        wrong = ~frame[column].str.fullmatch(pattern)
        refuse_rows(path, frame, wrong, column, "is no number from 0")
    for columns in UNIQUE:
        doubled = frame.duplicated(columns)
        if doubled.any():
            at = int(doubled.idxmax())
            raise InputError(
                f"{path}: row {at}: {', '.join(columns)} {' '.join(frame.loc[at, columns])!r} "
                "stands twice"
            )
    frame = frame.reset_index(drop=True).astype(
        {name: object if kind is str else kind for name, kind in COLUMNS.items()}
    )
    frame.attrs = about
    return frame


def _read_about(path: Path) -> dict[str, Any]:
    beside = path.with_suffix(".json")
    for file in (path, beside):
        if not file.is_file():
            raise InputError(f"{file}: no such file")
    try:
        about = json.loads(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(f"{beside}: not a readable JSON file") from None
    if not isinstance(about, dict) or about.get("csv_sha256") != sha256(path):
        raise InputError(
            f"{path}: is not the file that {beside.name} tells of; remove both to choose anew"
        )
    return about


def check_clean(frame: pd.DataFrame, allowed: Collection[str]) -> None:
    """Make sure that every pseudo-labelled well is one of `allowed`, the target_ids of the test
    treatments.

    Raises:
        InputError: some are not; a validation well must never train.
    """
    outside = sorted(set(frame.target_id) - set(allowed))
    if outside:
        raise InputError(
            f"pseudo-labels: {len(outside)} wells are no test treatments, first {outside[0]!r}"
        )

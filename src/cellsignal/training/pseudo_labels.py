"""Progressive pseudo-labels: which test wells the model may teach itself with.

Source: RxRx1, 1st place (M. Sypetkowski). A plate holds one group of classes, each once, so a
well's prediction is taken among the classes that its plate can still hold, and of two wells that
claim one class only the more confident keeps it. Unlike there, wells are chosen anew every time (a
wrong label does not stay for good), and no validation well is ever among them.
"""

import json
import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import log_softmax
from torch import nn

from cellsignal.common.errors import InputError
from cellsignal.common.files import provenance, sha256, write_csv, write_json
from cellsignal.common.tables import read_table, refuse_rows
from cellsignal.competitions.base import PlateGroups
from cellsignal.competitions.targets import sum_by_target
from cellsignal.config.stage import PseudoLabels
from cellsignal.prediction.plate_layout.groups import infer_plate_groups
from cellsignal.training.control_offsets import plan_offsets, unit_offsets
from cellsignal.training.inference import Pixels, plan_reading, predict_with
from cellsignal.training.job import Job, fold_name
from cellsignal.training.ranks import ALONE, Ranks

log = logging.getLogger(__name__)
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


def draw_pseudo_labels(
    job: Job, model: nn.Module, pixels: Pixels, epoch: int, ranks: Ranks = ALONE
) -> str:
    """Choose and write the pseudo-labels of an epoch (0-based), of test treatments alone.

    Returns:
        The SHA-256 of the CSV under the job's folder, which rank 0 writes.
    """
    samples, config = job.store.samples, job.stage.pseudo_labels
    reading = plan_reading(job, pixels, job.test, ranks)
    offsets = unit_offsets(job, model, plan_offsets(job, pixels))
    logits = predict_with(job, model, reading, offsets=offsets, ranks=ranks)["identity"]
    logits = logits[:, : len(job.classes)]
    target_id = samples.target_id.to_numpy()[job.test].astype(str)
    targets, scores, first = sum_by_target(log_softmax(logits, axis=1), target_id)
    wells = samples.iloc[job.test[first]]
    share = share_at(config, epoch, job.stage.epochs)
    groups = job.competition.plate_groups(samples)
    frame = select(
        scores, targets, wells.experiment, wells.plate, groups, share, config.least_confidence
    )
    digest = None
    if ranks.first:
        log.info("%s: %d of %d test wells have pseudo-labels", job.title, len(frame), len(targets))
        about = {
            "competition": job.competition.id,
            "run": job.config.name,
            "seed": job.config.seed,
            "fold": fold_name(job.fold),
            "stage": job.stage.name,
        }
        digest = sha256(write(job.folder, epoch, frame, about))
    return ranks.share(digest)


def read_pseudo_labels(job: Job, epoch: int, digest: str) -> pd.DataFrame:
    """Read the pseudo-labels that an epoch began with.

    Raises:
        InputError: the file is damaged, names another well than a test treatment, or is not the one
            of this `digest` (SHA-256).
    """
    frame = read(job.folder, epoch)
    if frame.attrs["csv_sha256"] != digest:
        raise InputError(
            f"{csv_path(job.folder, epoch)}: is not what the interrupted epoch began with; remove "
            f"{job.folder} to train anew"
        )
    check_clean(frame, set(job.store.samples.target_id.to_numpy()[job.test].astype(str)))
    return frame


def check_clean(frame: pd.DataFrame, allowed: Collection[str]) -> None:
    """Raise if a pseudo-labelled well is not one of `allowed`, the test treatments.

    Raises:
        InputError: some are not; a validation well must never train.
    """
    outside = sorted(set(frame.target_id) - set(allowed))
    if outside:
        raise InputError(
            f"pseudo-labels: {len(outside)} wells are not test treatments, first {outside[0]!r}"
        )


def share_at(config: PseudoLabels, epoch: int, epochs: int) -> float:
    """Return the share of the eligible wells that trains in an epoch.

    It is `first` at `config.start` and rises linearly to 1 in the last of `epochs` epochs; 1 where
    one epoch alone has pseudo-labels.
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
) -> pd.DataFrame:
    """Choose and label wells: the most confident share, each class once a plate.

    1. Each plate's class group is inferred from the same scores; an experiment whose groups have a
       z below `least_confidence` gives no pseudo-label.
    2. Classes outside the plate's group are masked. A well's label is its best remaining class, its
       confidence is the score difference to the second best.
    3. The round(share x eligible) most confident wells are taken, over all plates together.
    4. If several of them have the same class on one plate, only the most confident is kept. As in
       the winners' code this comes after step 3. Ties are broken by target_id, and by class within
       a well.

    Args:
        scores: (W, K) merged logits or log-probabilities, one row a well, all finite.
        target_id, experiment, plate: (W,) names; each target_id once.
        groups: the class groups; None masks no class.

    Returns:
        `COLUMNS`, sorted by target_id. Its `attrs` are JSON-able: share, wells, eligible, taken,
        clashes, refused (experiments) and, with groups, plate_group and group_confidence (None if
        there is only one possible group).

    Raises:
        InputError: shapes that do not fit, a score that is not finite, or a doubled target_id.
    """
    assert 0 <= share <= 1, share
    wells = _make_wells(scores, target_id, experiment, plate)
    inference = _label_wells(wells, scores, groups, least_confidence)
    eligible = wells[wells.label >= 0]
    eligible = eligible.sort_values(["confidence", "target_id"], ascending=[False, True])
    taken = eligible.head(round(share * len(eligible)))
    chosen = taken.drop_duplicates(UNIQUE[1], keep="first")
    frame = chosen.sort_values("target_id", ignore_index=True)
    frame.attrs = {
        "share": share,
        "wells": len(wells),
        "eligible": len(eligible),
        "taken": len(taken),
        "clashes": len(taken) - len(chosen),
        **inference,
    }
    return frame


def _make_wells(scores: np.ndarray, target_id, experiment, plate) -> pd.DataFrame:
    """Make a table with `COLUMNS`, one row per well, not yet labelled (-1)."""
    names = [np.asarray(values).astype(str) for values in (target_id, experiment, plate)]
    fit = all(values.shape == scores.shape[:1] for values in names)
    if scores.ndim != 2 or not scores.shape[1] or not fit:
        lengths = ", ".join(str(len(values)) for values in names)
        raise InputError(
            f"pseudo-labels: scores are {scores.shape}, with {lengths} target ids, experiments "
            "and plates"
        )
    columns = dict(zip(("target_id", "experiment", "plate"), names, strict=True))
    wells = pd.DataFrame(columns, dtype=object).assign(label=-1, confidence=np.nan)
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


def _label_wells(
    wells: pd.DataFrame, scores: np.ndarray, groups: PlateGroups | None, least_confidence: float
) -> dict[str, Any]:
    """Label the wells in place, and return what was inferred about their plates."""
    about: dict[str, Any] = {"refused": []}
    if groups is not None:
        inferred = infer_plate_groups(scores, wells.experiment, wells.plate, groups)
        confidence = dict(sorted(inferred.confidence.items()))
        about["refused"] = [name for name, z in confidence.items() if z < least_confidence]
        about["plate_group"] = {}
        for (experiment, plate), group in sorted(inferred.plate_group.items()):
            about["plate_group"].setdefault(experiment, {})[plate] = group
        about["group_confidence"] = {
            name: z if np.isfinite(z) else None for name, z in confidence.items()
        }
    for key, rows in wells.groupby(["experiment", "plate"], sort=True).indices.items():
        if key[0] in about["refused"]:
            continue
        classes = np.arange(scores.shape[1])
        if groups is not None:
            classes = np.flatnonzero(groups.class_group == inferred.plate_group[key])
        label, lead = _best(scores[rows], classes)
        wells.loc[rows, "label"] = label
        wells.loc[rows, "confidence"] = lead
    return about


def _best(block: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the best of `classes` for each row of (n, K), and its lead over the second best."""
    scores = block[:, classes].astype(np.float64)
    label = classes[scores.argmax(axis=1)]
    if len(classes) == 1:
        return label, np.full(len(block), np.inf)
    second, first = np.partition(scores, -2, axis=1)[:, -2:].T
    return label, first - second


def csv_path(folder: Path, epoch: int) -> Path:
    """Return the path of an epoch's pseudo-labels; a .json beside it says how they were made."""
    return Path(folder) / "pseudo_labels" / f"epoch_{epoch:03d}.csv"


def write(folder: Path, epoch: int, frame: pd.DataFrame, about: Mapping[str, Any]) -> Path:
    """Write an epoch's pseudo-labels and, last, the .json: `about`, the frame's `attrs`, a SHA-256.

    `read` refuses a pair that a stop left half new.
    """
    path = csv_path(folder, epoch)
    write_csv(path, frame[list(COLUMNS)])
    state = {"epoch": epoch, "number": len(frame), "csv_sha256": sha256(path)}
    write_json(path.with_suffix(".json"), provenance(**{**frame.attrs, **about, **state}))
    return path


def read(folder: Path, epoch: int) -> pd.DataFrame:
    """Read the pseudo-labels of an epoch, as written to the bit; its `attrs` are the .json.

    Raises:
        InputError: the file is missing, cannot be read or differs from what its .json says; it has
            other columns; a label or confidence is not a number from 0; a target_id is repeated,
            or a class twice on a plate.
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
        refuse_rows(path, frame, wrong, column, "is not a number from 0")
    for columns in UNIQUE:
        doubled = frame.duplicated(columns)
        if doubled.any():
            row = int(doubled.idxmax())
            raise InputError(
                f"{path}: row {row}: {', '.join(columns)} {' '.join(frame.loc[row, columns])!r} "
                "occurs twice"
            )
    types = {name: object if kind is str else kind for name, kind in COLUMNS.items()}
    frame = frame.reset_index(drop=True).astype(types)
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

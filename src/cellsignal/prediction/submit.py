"""Make a submission CSV from an entry: merged predictions, plate layout, checks, provenance."""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from cellsignal.common.files import provenance, write_json, write_text
from cellsignal.competitions.base import PlateGroups
from cellsignal.competitions.targets import Targets
from cellsignal.evaluation.ladder import Step
from cellsignal.evaluation.standing import check_header, check_place, check_replacing
from cellsignal.metrics.reliability import temperatures_text
from cellsignal.prediction.blend_file import blend_warning
from cellsignal.prediction.entry import Entry, refuse_missing_ids, refuse_without_test
from cellsignal.prediction.plate_layout.apply import (
    assign_labels,
    refuse_idle_options,
    use_repeats,
)
from cellsignal.prediction.plate_layout.groups import PlateGroupInference
from cellsignal.prediction.plate_layout.repeats import Repeat
from cellsignal.prediction.probabilities import (
    about_probabilities,
    calibrate,
    confidence_table,
    probabilities_path,
)
from cellsignal.prediction.steps import ladder

log = logging.getLogger(__name__)


def make_submission(
    entry: Entry,
    out: Path,
    *,
    leaderboard: Path | None = None,
    force: bool = False,
    probabilities: bool = False,
) -> list[Step]:
    """Write the submission to `out` (.csv) and its provenance beside it (.json).

    Args:
        leaderboard: a submission that stands on it is not replaced by another (None: any file is).
        force: replace it all the same.
        probabilities: write the rows' confidences beside it (.probabilities.csv).

    Returns:
        The out-of-fold steps.

    Raises:
        InvalidSubmission: the result is not what the sample submission asks for.
        InputError: no test predictions, `out` holds something else than a submission, or it stands
            on the leaderboard and is another submission. Nothing is written.
    """
    competition, root = entry.competition, entry.root
    refuse_without_test(entry.final(), competition)
    groups = competition.plate_groups(entry.samples)
    refuse_idle_options(entry.how, groups, competition)
    _warn_of_chosen(entry)
    steps = ladder(entry, "oof", groups)
    targets = entry.merge(entry.final(), "test", pool=entry.how.pool)
    targets, repeats = use_repeats(entry, targets, groups)
    _warn_of_repeats(entry, repeats)
    refuse_missing_ids(targets.target_id, competition, root)
    submission, inferred = format_targets(entry, targets, groups)
    sample, classes = competition.sample_submission(root), competition.classes(root)
    competition.task.check_submission(submission, sample, classes)
    text = submission.to_csv(index=False)
    check_place(out, tuple(submission.columns), force)
    if leaderboard is not None:
        check_replacing(leaderboard, competition.id, out, text, force)
    about = _about(entry, steps, repeats) | _about_groups(inferred)
    if probabilities:
        about["probabilities"] = _write_probabilities(entry, targets, groups, out, force)
    _warn_of_old(probabilities_path(out), probabilities)
    write_text(out, text)
    inputs = _inputs(entry)
    write_json(out.with_suffix(".json"), provenance(inputs, rows=len(submission), **about))
    log.info("%s: %d rows", out, len(submission))
    return steps


def _warn_of_repeats(entry: Entry, repeats: list[Repeat]) -> None:
    used = "" if entry.how.repeats == "use" else " (submit.repeats: use would add its labels)"
    for repeat in repeats:
        log.warning("%s%s", repeat, used)


def _inputs(entry: Entry) -> dict[str, Path]:
    files = [*(member.path for member in entry.members), *filter(None, [entry.how.groups])]
    files += [] if entry.blend is None else [Path(entry.blend["file"])]
    return {str(path): path for path in files}


def _warn_of_old(file: Path, written: bool) -> None:
    """Warn of probabilities of an earlier submission."""
    if not written and file.is_file():
        log.warning("%s: is of an earlier submission; --probabilities renews it", file)


def _warn_of_chosen(entry: Entry) -> None:
    """Warn of checkpoints and weights that were chosen on the targets of out-of-fold scores."""
    if entry.blend is not None:
        log.warning("%s", blend_warning(entry.blend))
    if any(m.about.get("settings", {}).get("checkpoint") == "best" for m in entry.members):
        log.warning(
            "predict.checkpoint: best was picked on the out-of-fold targets; their scores below "
            "are optimistic"
        )


def _write_probabilities(
    entry: Entry, targets: Targets, groups: PlateGroups | None, out: Path, force: bool
) -> dict[str, Any]:
    """Write the probabilities of a submission's rows beside it; return their provenance."""
    file = probabilities_path(out)
    calibrated = calibrate(entry, targets, groups)
    table = confidence_table(entry, targets, groups, calibrated)
    check_header(file, tuple(table.columns), force, "the probabilities of a submission")
    write_text(file, table.to_csv(index=False, float_format="%.6g"))
    temperatures = temperatures_text(calibrated.temperatures)
    log.info("%s: %d rows, temperature %s", file, len(table), temperatures)
    return about_probabilities(file, calibrated)


def format_targets(
    entry: Entry, targets: Targets, groups: PlateGroups | None
) -> tuple[pd.DataFrame, PlateGroupInference | None]:
    """Return the submission, and the plate groups if any were used."""
    task = entry.competition.task
    if groups is None or entry.how.assignment == "none":
        return task.format_predictions(targets.target_id, targets.scores, entry.root), None
    labels, inferred = assign_labels(entry, targets, groups)
    for experiment, confidence in inferred.refused.items():
        log.warning(
            "%s: its plates' groups are not sure (z %.1f, submit.least_confidence is %g) and are "
            "not reported; its labels weigh all layouts",
            experiment,
            confidence,
            entry.how.least_confidence,
        )
    return task.format_labels(targets.target_id, labels, entry.root), inferred


def _about(entry: Entry, steps: list[Step], repeats: list[Repeat]) -> dict[str, Any]:
    """Return the provenance of the predictions, with their out-of-fold scores."""
    scores = [
        {
            "step": step.name,
            entry.competition.task.monitored: step.score.value,
            "low": step.score.low,
            "high": step.score.high,
            "n": step.score.total,
        }
        for step in steps
    ]
    blend = {} if entry.blend is None else {"blend": entry.blend}
    return blend | {
        "competition": entry.competition.id,
        "merge": entry.how.model_dump(),
        "weights": entry.weights,
        "runs": entry.runs,
        "seeds": sorted({member.about["seed"] for member in entry.members}),
        "out_of_fold": scores,
        "repeats": [asdict(repeat) | {"share": repeat.share} for repeat in repeats],
    }


def _about_groups(inferred: PlateGroupInference | None) -> dict[str, Any]:
    """Return the provenance of the plate groups; None if none were used."""
    if inferred is None:
        names = ("plate_groups", "plate_group_confidence", "plate_groups_refused", "plate_layouts")
        return dict.fromkeys(names)
    groups = {
        f"{experiment}/{plate}": int(group)
        for (experiment, plate), group in inferred.plate_group.items()
    }
    return {
        "plate_groups": groups,
        "plate_group_confidence": inferred.confidence,
        "plate_groups_refused": inferred.refused,
        "plate_layouts": inferred.layouts,
    }

"""From predictions files to a submission CSV, every step scored where the truth is known."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from cellsignal.competitions import get_competition
from cellsignal.competitions.base import Competition, PlateGroups
from cellsignal.config.schema import Submit
from cellsignal.errors import InputError
from cellsignal.evaluation.assignment import PlateGroupInference, assign, infer_plate_groups, restrict
from cellsignal.evaluation.ladder import Step
from cellsignal.evaluation.metrics import accuracy
from cellsignal.files import provenance, write_csv, write_json
from cellsignal.prediction.container import Predictions, load_predictions
from cellsignal.prediction.ensemble import Targets, merge

log = logging.getLogger(__name__)
Part = Literal["oof", "test"]


@dataclass(frozen=True)
class Entry:
    """What a submission is made from: all predictions of one competition, and how they are merged."""

    competition: Competition
    root: Path
    members: tuple[Predictions, ...]
    weights: dict[str, float]  # run -> weight
    how: Submit

    def final(self, run: str | None = None) -> list[Predictions]:
        """The members of each run's last stage (of one run, if named)."""
        last = {name: max(m.about["stage_index"] for m in self.members if m.about["run"] == name) for name in self.runs}
        return [
            m for m in self.members if m.about["stage_index"] == last[m.about["run"]] and run in (None, m.about["run"])
        ]

    @property
    def runs(self) -> list[str]:
        return list(dict.fromkeys(member.about["run"] for member in self.members))

    def merge(self, members: Sequence[Predictions], part: Part, **options: Any) -> Targets:
        members = [m for m in members if (m.ids["part"] == part).any()]
        return merge(members, part, self.how.merge, [self.weights.get(m.about["run"], 1.0) for m in members], **options)


def open_entry(
    files: Sequence[Path], how: Submit, weights: dict[str, float] | None = None, root: Path | None = None
) -> Entry:
    """Load predictions files that belong together.

    Raises:
        InputError: none given, of different competitions, or a file that is damaged.
    """
    if not files:
        raise InputError("no predictions files given")
    members = tuple(load_predictions(path) for path in files)
    ids = {member.about["competition"] for member in members}
    if len(ids) > 1:
        raise InputError(f"predictions of different competitions cannot be merged: {', '.join(sorted(ids))}")
    unknown = set(weights or {}) - {member.about["run"] for member in members}
    if unknown:
        raise InputError(f"weights: no predictions of a run called {sorted(unknown)[0]!r}")
    grouped = {member.about.get("fold_group") for member in members}
    if len(grouped) > 1:
        log.warning(
            "out-of-fold scores mix runs whose folds hold out different things: %s",
            ", ".join(sorted(map(str, grouped))),
        )
    competition = get_competition(ids.pop())
    entry = Entry(competition, Path(root or members[0].about["data_root"]), members, weights or {}, how)
    if competition.classes(entry.root) != members[0].classes:
        raise InputError(f"{members[0].path}: predicts other classes than {entry.root} has")
    return entry


def labels_of(
    entry: Entry, targets: Targets, groups: PlateGroups | None
) -> tuple[np.ndarray, PlateGroupInference | None]:
    """Predicted labels (T,) of merged scores: by plate assignment within inferred groups where the competition has groups, else the argmax."""
    if groups is None or entry.how.assignment == "none":
        return targets.scores.argmax(1), None
    inferred = infer_plate_groups(targets.scores, targets.experiment, targets.plate, groups)
    return assign(targets.scores, targets.experiment, targets.plate, groups.class_group, inferred.plate_group), inferred


def ladder(entry: Entry, part: Part, groups: PlateGroups | None, truth: dict[str, int] | None = None) -> list[Step]:
    """Accuracy after each step, from one site of one first-stage model to the whole. Every step adds one thing to the one before.

    On out-of-fold wells each fold's model predicts the wells it did not train on; on test wells the steps before "ensemble" use the first fold.

    Args:
        truth: target_id -> label; by default the labels in the predictions (out-of-fold wells have them).
    """
    steps: list[Step] = []
    classes = len(entry.members[0].classes)

    def add(
        name: str, targets: Targets, predicted: np.ndarray | None = None, chance: float = 1 / classes, note: str = ""
    ) -> None:
        true = targets.label if truth is None else np.array([truth[target] for target in targets.target_id])
        steps.append(
            Step(name, accuracy(true, targets.scores.argmax(1) if predicted is None else predicted), chance, note)
        )

    run = entry.runs[0]
    mine = [m for m in entry.members if m.about["run"] == run and (m.ids["part"] == part).any()]
    if not mine:
        return steps
    stages = {
        i: [m for m in mine if m.about["stage_index"] == i] for i in sorted({m.about["stage_index"] for m in mine})
    }
    single = {i: found if part == "oof" else found[:1] for i, found in stages.items()}
    plain = {"views": ("identity",)}
    start = next(iter(single.values()))
    multiple_sites = len(np.unique(np.concatenate([m.site for m in mine]))) > 1 and len(
        set(start[0].ids["target_id"])
    ) < len(start[0].site)
    if multiple_sites:
        add(f"stage {start[0].about['stage']}, one site", entry.merge(start, part, sites=(1,), **plain))
    for found in single.values():
        add(f"stage {found[0].about['stage']}", entry.merge(found, part, **plain))
    last = single[max(single)]
    if len(last[0].views) > 1:
        add(f"+ TTA, {len(last[0].views)} views", entry.merge(last, part))
    final = [m for m in entry.final() if (m.ids["part"] == part).any()]
    count = len(final) if part == "test" else len(entry.runs)
    if count > 1:
        add(f"+ ensemble of {count} models", entry.merge(final, part))
    targets = entry.merge(final, part, pool=entry.how.pool)
    if entry.how.pool == "well":
        add("+ pooled by well", targets)
    if groups is not None and entry.how.assignment != "none":
        predicted, inferred = labels_of(entry, targets, groups)
        within = restrict(targets.scores, targets.experiment, targets.plate, groups.class_group, inferred.plate_group)
        add("+ plate groups", targets, within, groups.n_groups / classes, _group_note(inferred, groups))
        add("+ plate assignment", targets, predicted, groups.n_groups / classes)
    return steps


def _group_note(inferred: PlateGroupInference, groups: PlateGroups) -> str:
    known = {key: group for key, group in inferred.plate_group.items() if key in groups.plate_group}
    note = f"groups inferred, least confidence {min(inferred.confidence.values()):.2f}"
    if known:
        note += f", {sum(groups.plate_group[key] == group for key, group in known.items())}/{len(known)} plates right"
    return note


def make_submission(entry: Entry, out: Path) -> list[Step]:
    """Write the submission to `out` (.csv) and its provenance beside it (.json); give back the out-of-fold ladder.

    Raises:
        InvalidSubmission: the result is not what the sample submission asks for; nothing is written.
    """
    groups = entry.competition.plate_groups(entry.competition.samples(entry.root))
    if any(member.about.get("settings", {}).get("checkpoint") == "best" for member in entry.members):
        log.warning("predict.checkpoint: best was picked on the out-of-fold targets; their scores below flatter")
    steps = ladder(entry, "oof", groups)
    targets = entry.merge(entry.final(), "test", pool=entry.how.pool)
    predicted, inferred = labels_of(entry, targets, groups)
    submission = entry.competition.format_submission(targets.target_id, predicted, entry.root)
    entry.competition.validate_submission(
        submission, entry.competition.sample_submission(entry.root), entry.competition.classes(entry.root)
    )
    write_csv(out, submission)
    inputs = {str(member.path): member.path for member in entry.members}
    write_json(out.with_suffix(".json"), provenance(
        inputs, competition=entry.competition.id, rows=len(submission), merge=entry.how.model_dump(), weights=entry.weights, runs=entry.runs,
        seeds=sorted({member.about["seed"] for member in entry.members}),
        out_of_fold=[{"step": s.name, "accuracy": s.accuracy.value, "low": s.accuracy.low, "high": s.accuracy.high, "n": s.accuracy.total} for s in steps],
        plate_groups=None if inferred is None else {f"{e}/{p}": int(g) for (e, p), g in inferred.plate_group.items()},
        plate_group_confidence=None if inferred is None else inferred.confidence,
    ))  # fmt: skip
    log.info("%s: %d rows", out, len(submission))
    return steps


def truth_labels(competition: Competition, answers: pd.DataFrame, classes: tuple[str, ...]) -> dict[str, int]:
    """Answers as target_id -> label."""
    index = {name: label for label, name in enumerate(classes)}
    return {
        str(i): index[str(t)]
        for i, t in zip(answers[competition.id_column], answers[competition.target_column], strict=True)
    }

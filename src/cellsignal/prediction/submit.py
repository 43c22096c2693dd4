"""From predictions files to a submission CSV, every step scored where the truth is known."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy.special import expit

from cellsignal.common.errors import InputError
from cellsignal.common.files import provenance, write_json, write_text
from cellsignal.competitions import get_competition
from cellsignal.competitions.base import Competition, PlateGroups
from cellsignal.config.schema import Submit
from cellsignal.evaluation.ladder import Step
from cellsignal.evaluation.standing import check_place, check_replacing
from cellsignal.metrics.accuracy import accuracy
from cellsignal.prediction.container import Predictions, load_predictions
from cellsignal.prediction.ensemble import Targets, merge
from cellsignal.prediction.entry_checks import (
    refuse_doubles,
    refuse_idle_options,
    refuse_missing_ids,
    refuse_other_data,
    refuse_without_test,
)
from cellsignal.prediction.entry_labels import (
    assign_labels,
    labels_by,
    plate_groups_of,
    with_repeats,
)
from cellsignal.prediction.judging import Truth, judge_of, true_labels
from cellsignal.prediction.merge_options import resolve_weights
from cellsignal.prediction.plate_layout.groups import PlateGroupInference

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
        last = {
            name: max(m.about["stage_index"] for m in self.members if m.about["run"] == name)
            for name in self.runs
        }
        return [
            m
            for m in self.members
            if m.about["stage_index"] == last[m.about["run"]] and run in (None, m.about["run"])
        ]

    @cached_property
    def samples(self) -> pd.DataFrame:
        """The samples table of the raw data."""
        return self.competition.samples(self.root)

    @property
    def runs(self) -> list[str]:
        return list(dict.fromkeys(member.about["run"] for member in self.members))

    def merge(self, members: Sequence[Predictions], part: Part, **options: Any) -> Targets:
        members = [m for m in members if (m.ids["part"] == part).any()]
        return merge(
            members,
            part,
            self.how.merge,
            [self.weights.get(m.about["run"], 1.0) for m in members],
            **options,
        )


def open_entry(
    files: Sequence[Path],
    how: Submit,
    weights: dict[str, float] | None = None,
    root: Path | None = None,
) -> Entry:
    """Load predictions files that belong together.

    Raises:
        InputError: none given, one twice, of different competitions, a file that is damaged, a
        weight of an unknown run, or predictions
            of samples that the root does not have.
    """
    if not files:
        raise InputError("no predictions files given")
    members = tuple(load_predictions(path) for path in files)
    refuse_doubles(members)
    ids = {member.about["competition"] for member in members}
    if len(ids) > 1:
        raise InputError(
            f"predictions of different competitions cannot be merged: {', '.join(sorted(ids))}"
        )
    weights = resolve_weights(
        weights or {}, list(dict.fromkeys(member.about["run"] for member in members))
    )
    grouped = {member.about.get("fold_group") for member in members}
    if len(grouped) > 1:
        log.warning(
            "out-of-fold scores mix runs whose folds hold out different things: %s",
            ", ".join(sorted(map(str, grouped))),
        )
    competition = get_competition(ids.pop())
    entry = Entry(competition, Path(root or members[0].about["data_root"]), members, weights, how)
    classes = competition.classes(entry.root)
    for member in members:
        controls = member.classes[len(classes) :]  # of a protocol that scores control wells
        if member.classes[: len(classes)] != classes or not all(
            name.startswith("control_") for name in controls
        ):
            raise InputError(f"{member.path}: predicts other classes than {entry.root} has")
        refuse_other_data(member, entry.samples, entry.root)
    return entry


def ladder(
    entry: Entry, part: Part, groups: PlateGroups | None, truth: Truth | None = None
) -> list[Step]:
    """Accuracy (with several labels a target: macro average precision) after each step, from one
    site of one first-stage model to the whole. Every step adds one thing to the one before.

    On out-of-fold wells each fold's model predicts the wells it did not train on; on test wells the
    steps before "ensemble" use the first fold.

    Args:
        truth: target_id -> label, or a multi-label competition's answers; by default the labels in
        the predictions (out-of-fold
            wells have them).
    """
    steps: list[Step] = []
    judge = judge_of(entry, truth)

    def add(name: str, targets: Targets) -> None:
        steps.append(Step(name, *judge(targets)))

    run = entry.runs[0]
    mine = [m for m in entry.members if m.about["run"] == run and (m.ids["part"] == part).any()]
    if not mine:
        return steps
    stages = {
        i: [m for m in mine if m.about["stage_index"] == i]
        for i in sorted({m.about["stage_index"] for m in mine})
    }
    single = {i: found if part == "oof" else found[:1] for i, found in stages.items()}
    plain = {"views": ("identity",)}
    start = next(iter(single.values()))
    multiple_sites = len(np.unique(np.concatenate([m.site for m in mine]))) > 1 and len(
        set(start[0].ids["target_id"])
    ) < len(start[0].site)
    if multiple_sites:
        add(
            f"stage {start[0].about['stage']}, one site",
            entry.merge(start, part, sites=(1,), **plain),
        )
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
    return steps if groups is None else steps + _layout_steps(entry, targets, groups, truth)


def _layout_steps(
    entry: Entry, targets: Targets, groups: PlateGroups, truth: dict[str, int] | None
) -> list[Step]:
    """What the plates' layout adds, as configured. The kind of assignment that is not configured is
    scored in a note: it would be no further step.
    """
    true, classes, steps = true_labels(targets, truth), len(groups.class_group), []
    if entry.how.repeats == "use":
        targets, repeats = with_repeats(entry, targets, groups)
        if repeats:
            note = "; ".join(f"{r.test} repeats {r.train}" for r in repeats)
            steps.append(
                Step(
                    "+ repeated layouts",
                    accuracy(true, targets.scores.argmax(1)),
                    1 / classes,
                    note,
                )
            )
    if entry.how.assignment == "none":
        return steps
    inferred = plate_groups_of(entry, targets, groups)
    kinds = ("groups",) if entry.how.assignment == "groups" else ("groups", "hungarian", "sinkhorn")
    right = {
        kind: accuracy(true, labels_by(entry, targets, groups, inferred, kind)) for kind in kinds
    }
    chance = _chance(targets, inferred, groups)
    steps.append(Step("+ plate groups", right["groups"], chance, _group_note(inferred, groups)))
    if other := {"hungarian": "sinkhorn", "sinkhorn": "hungarian"}.get(entry.how.assignment):
        note = f"{entry.how.assignment}; {other} would make it {right[other].value:.4f}"
        steps.append(Step("+ plate assignment", right[entry.how.assignment], chance, note))
    return steps


def _chance(targets: Targets, inferred: PlateGroupInference, groups: PlateGroups) -> float:
    """The accuracy of blind guessing: within the group on plates that have one, among all classes
    on the others.
    """
    known = {
        key: 1 / (groups.class_group == group).sum() for key, group in inferred.plate_group.items()
    }
    plates = zip(targets.experiment, targets.plate, strict=True)
    return float(np.mean([known.get(plate, 1 / len(groups.class_group)) for plate in plates]))


def _group_note(inferred: PlateGroupInference, groups: PlateGroups) -> str:
    known = {key: group for key, group in inferred.plate_group.items() if key in groups.plate_group}
    note = "groups given"
    if inferred.confidence:
        layouts = ", ".join(sorted(set(inferred.layouts.values())))
        note = f"groups inferred among {layouts}, least z {min(inferred.confidence.values()):.1f}"
    if inferred.refused:
        note += f", {len(inferred.refused)} of {len(inferred.confidence)} experiments not sure"
    if known:
        note += f", {sum(groups.plate_group[key] == group for key, group in known.items())}/{len(known)} plates right"
    return note


def make_submission(
    entry: Entry, out: Path, *, leaderboard: Path | None = None, force: bool = False
) -> list[Step]:
    """Write the submission to `out` (.csv) and its provenance beside it (.json); give back the
    out-of-fold ladder.

    Args:
        leaderboard: a submission that stands on it is not replaced by another (None: any file is).
        force: replace it all the same.

    Raises:
        InvalidSubmission: the result is not what the sample submission asks for; nothing is
        written. InputError: no test predictions, `out` holds something else than a submission, or
        it stands on the leaderboard and
            is another submission.
    """
    refuse_without_test(entry.final(), entry.competition)
    groups = entry.competition.plate_groups(entry.samples)
    refuse_idle_options(entry.how, groups, entry.competition)
    if any(
        member.about.get("settings", {}).get("checkpoint") == "best" for member in entry.members
    ):
        log.warning(
            "predict.checkpoint: best was picked on the out-of-fold targets; their scores below "
            "flatter"
        )
    steps = ladder(entry, "oof", groups)
    targets, repeats = with_repeats(
        entry, entry.merge(entry.final(), "test", pool=entry.how.pool), groups
    )
    for repeat in repeats:
        used = "" if entry.how.repeats == "use" else " (submit.repeats: use would add its labels)"
        log.warning("%s%s", repeat, used)
    refuse_missing_ids(targets.target_id, entry.competition, entry.root)
    submission, inferred = _submission(entry, targets, groups)
    for experiment, confidence in inferred.refused.items() if inferred else ():
        log.warning(
            "%s: its plates' groups are not sure (z %.1f, submit.least_confidence is %g) and are "
            "not reported; "
            "its labels weigh all layouts",
            experiment,
            confidence,
            entry.how.least_confidence,
        )
    entry.competition.validate_submission(
        submission,
        entry.competition.sample_submission(entry.root),
        entry.competition.classes(entry.root),
    )
    text = submission.to_csv(index=False)
    check_place(out, tuple(submission.columns), force)
    if leaderboard is not None:
        check_replacing(leaderboard, entry.competition.id, out, text, force)
    write_text(out, text)
    inputs = {
        str(path): path
        for path in (*(member.path for member in entry.members), entry.how.groups)
        if path
    }
    write_json(
        out.with_suffix(".json"),
        provenance(
            inputs,
            competition=entry.competition.id,
            rows=len(submission),
            merge=entry.how.model_dump(),
            weights=entry.weights,
            runs=entry.runs,
            seeds=sorted({member.about["seed"] for member in entry.members}),
            out_of_fold=[
                {
                    "step": s.name,
                    "accuracy": s.accuracy.value,
                    "low": s.accuracy.low,
                    "high": s.accuracy.high,
                    "n": s.accuracy.total,
                }
                for s in steps
            ],
            plate_groups=None
            if inferred is None
            else {f"{e}/{p}": int(g) for (e, p), g in inferred.plate_group.items()},
            plate_group_confidence=None if inferred is None else inferred.confidence,
            plate_groups_refused=None if inferred is None else inferred.refused,
            plate_layouts=None if inferred is None else inferred.layouts,
            repeats=[asdict(repeat) | {"share": repeat.share} for repeat in repeats],
        ),
    )
    log.info("%s: %d rows", out, len(submission))
    return steps


def _submission(
    entry: Entry, targets: Targets, groups: PlateGroups | None
) -> tuple[pd.DataFrame, PlateGroupInference | None]:
    """Predictions as the competition writes them, and the plate groups that were used."""
    if entry.competition.multilabel or entry.competition.ranked:
        scores = (
            expit(targets.scores.astype(np.float64))
            if entry.competition.multilabel
            else targets.scores
        )
        return entry.competition.format_scores(targets.target_id, scores, entry.root), None
    predicted, inferred = assign_labels(entry, targets, groups)
    return entry.competition.format_submission(targets.target_id, predicted, entry.root), inferred


def truth_labels(
    competition: Competition, answers: pd.DataFrame, classes: tuple[str, ...]
) -> Truth:
    """Answers as target_id -> label; those of a multi-label competition as they are."""
    if competition.multilabel:
        return answers
    if competition.ranked:
        return dict(
            zip(answers[competition.id_column], answers.moa.map(classes.index), strict=True)
        )
    index = {name: label for label, name in enumerate(classes)}
    return {
        str(i): index[str(t)]
        for i, t in zip(
            answers[competition.id_column], answers[competition.target_column], strict=True
        )
    }

"""Score every step from one site of one first-stage model to the whole of an entry."""

from functools import partial

import numpy as np

from cellsignal.competitions.base import PlateGroups
from cellsignal.competitions.targets import Targets, Truth
from cellsignal.evaluation.ladder import Step
from cellsignal.prediction.container import Predictions
from cellsignal.prediction.entry import Entry, with_part
from cellsignal.prediction.merge import Part
from cellsignal.prediction.plate_layout.apply import assign_by, infer_groups, use_repeats
from cellsignal.prediction.plate_layout.groups import PlateGroupInference


def ladder(
    entry: Entry, part: Part, groups: PlateGroups | None, truth: Truth | None = None
) -> list[Step]:
    """Score the predictions after each step; every step adds one thing to the one before.

    On out-of-fold wells each fold's model predicts the wells it did not train on; on test wells the
    steps before "ensemble" use the first fold.

    Args:
        truth: of test targets; out-of-fold targets know their own.
    """
    stages = _stages_of_first_run(entry, part)
    if not stages:
        return []
    steps = [_score(entry, name, merge(), truth) for name, merge in _merges(entry, part, stages)]
    targets = entry.merge(entry.final(), part, pool=entry.how.pool)
    if entry.how.pool == "well":
        steps.append(_score(entry, "+ pooled by well", targets, truth))
    return steps if groups is None else steps + _layout_steps(entry, targets, groups, truth)


def truth_of(entry: Entry, targets: Targets, truth: Truth | None) -> Truth:
    """Return the truth of targets in their order; None uses the labels of out-of-fold targets."""
    if truth is not None:
        return truth.of(targets.target_id)
    samples = entry.samples.drop_duplicates("target_id").set_index("target_id")
    return entry.competition.task.truth_of_targets(targets, samples)


def _score(entry: Entry, name: str, targets: Targets, truth: Truth | None) -> Step:
    truth = truth_of(entry, targets, truth)
    return Step(name, *entry.competition.task.evaluate(targets.scores, truth, entry.classes))


def _stages_of_first_run(entry: Entry, part: Part) -> list[list[Predictions]]:
    """Return the members of the first run that predict a part, by stage in order."""
    stages: dict[int, list[Predictions]] = {}
    for member in with_part(entry.members, part):
        if member.about["run"] == entry.runs[0]:
            stages.setdefault(member.about["stage_index"], []).append(member)
    return [stages[index] for index in sorted(stages)]


def _merges(entry: Entry, part: Part, stages: list[list[Predictions]]):
    """Yield each way to merge, from the least to all predictions: its name, and what merges.

    The targets are made when they are needed: two sets at a time would take the memory of both.
    """
    sites = {site for members in stages for member in members for site in np.unique(member.site)}
    if part == "test":
        stages = [members[:1] for members in stages]
    first, last = stages[0][0], stages[-1]
    if len(sites) > 1 and len(set(first.ids["target_id"])) < len(first.site):
        options = {"sites": (1,), "views": ("identity",)}
        name = f"stage {first.about['stage']}, one site"
        yield name, partial(entry.merge, stages[0], part, **options)
    for members in stages:
        stage = members[0].about["stage"]
        yield f"stage {stage}", partial(entry.merge, members, part, views=("identity",))
    if len(last[0].views) > 1:
        yield f"+ TTA, {len(last[0].views)} views", partial(entry.merge, last, part)
    final = with_part(entry.final(), part)
    models = len(final) if part == "test" else len(entry.runs)
    if models > 1:
        yield f"+ ensemble of {models} models", partial(entry.merge, final, part)


def _layout_steps(
    entry: Entry, targets: Targets, groups: PlateGroups, truth: Truth | None
) -> list[Step]:
    """Score the plate-layout steps of the config.

    The assignment that is not configured is scored in a note: it would be no further step.
    """
    task, steps = entry.competition.task, []
    truth = truth_of(entry, targets, truth)
    if entry.how.repeats == "use":
        targets, repeats = use_repeats(entry, targets, groups)
        if repeats:
            note = "; ".join(f"{repeat.test} repeats {repeat.train}" for repeat in repeats)
            score = task.evaluate_labels(targets.scores.argmax(1), truth)
            steps.append(Step("+ repeated layouts", score, 1 / len(groups.class_group), note))
    kind = entry.how.assignment
    if kind == "none":
        return steps
    inferred = infer_groups(entry, targets, groups)
    chance = _chance(targets, inferred, groups)
    kinds = ("groups",) if kind == "groups" else ("groups", "hungarian", "sinkhorn")
    scores = {
        name: task.evaluate_labels(assign_by(name, entry, targets, groups, inferred), truth)
        for name in kinds
    }
    steps.append(Step("+ plate groups", scores["groups"], chance, _group_note(inferred, groups)))
    if kind != "groups":
        other = "sinkhorn" if kind == "hungarian" else "hungarian"
        note = f"{kind}; {other} would make it {scores[other].value:.4f}"
        steps.append(Step("+ plate assignment", scores[kind], chance, note))
    return steps


def _chance(targets: Targets, inferred: PlateGroupInference, groups: PlateGroups) -> float:
    """Return the accuracy of guessing: within the group of a plate, else among all classes."""
    sizes = np.bincount(groups.class_group)
    chance = {plate: 1 / sizes[group] for plate, group in inferred.plate_group.items()}
    plates = zip(targets.experiment, targets.plate, strict=True)
    return float(np.mean([chance.get(plate, 1 / len(groups.class_group)) for plate in plates]))


def _group_note(inferred: PlateGroupInference, groups: PlateGroups) -> str:
    """Write how the plate groups were inferred, and how many of the known ones are right."""
    note = "plate groups given"
    if inferred.confidence:
        layouts = ", ".join(sorted(set(inferred.layouts.values())))
        lowest = min(inferred.confidence.values())
        note = f"plate groups inferred among {layouts}, lowest z {lowest:.1f}"
    if inferred.refused:
        note += f", {len(inferred.refused)} of {len(inferred.confidence)} experiments not sure"
    known = inferred.plate_group.keys() & groups.plate_group.keys()
    if known:
        right = sum(inferred.plate_group[plate] == groups.plate_group[plate] for plate in known)
        note += f", {right}/{len(known)} plates right"
    return note

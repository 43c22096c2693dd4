"""Blend runs: weights and temperatures chosen on their out-of-fold predictions.

Runs that differ in folds, classes, targets or unit are refused. The seeds of one run are one member
(a seed ensemble) unless each seed is to be weighed.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cellsignal.common.errors import InputError
from cellsignal.common.files import limited_name, provenance, sha256, write_json
from cellsignal.competitions.targets import Targets
from cellsignal.evaluation.blend_members import Members
from cellsignal.evaluation.nested_blend import PARTS, NestedBlend, nest_blend
from cellsignal.evaluation.nested_blend_text import nested_blend_text
from cellsignal.prediction.blend_file import KIND
from cellsignal.prediction.entry import Entry, open_entry, with_part
from cellsignal.prediction.merge_options import choose_section
from cellsignal.prediction.sources import Sources

FOLDER = Path("blends")
Groups = dict[str, list[str]]  # name of a member -> its runs


def blend_sources(
    sources: Sources,
    file: Path | None = None,
    *,
    method: str = "stack",
    by_seed: bool = False,
    parts: int = PARTS,
    root: Path | None = None,
) -> tuple[Path, str]:
    """Choose a blend of runs, and write it to a file that `submit --blend` reads.

    Args:
        file: None: blends/<runs>.json.
        method: "stack", "hill", "calibrate" or "equal".
        by_seed: weigh each seed, not the mean of a run's seeds.
        parts: units are dealt to so many; each is measured by a blend chosen on the others.

    Returns:
        The file, and what the blend is worth as text.

    Raises:
        InputError: runs that cannot be blended.
    """
    how, _ = choose_section(sources.sections, sources.changed)
    entry = open_entry(sources.files, how, root=sources.root(root))
    refuse_task(entry)
    groups = group_runs(entry.runs, by_seed)
    if parts < 2:
        raise InputError(f"--parts {parts}: at least 2, one to choose on and one to measure on")
    if len(groups) < 2:
        raise InputError(f"blend: {next(iter(groups))} is one member; --by-seed weighs its seeds")
    members, unit = open_members(entry, groups)
    if members.units < 2:
        raise InputError(
            f"blend: all out-of-fold targets are of one {unit}; weights chosen on it have no other "
            "to be measured on"
        )
    nested = nest_blend(members, method, parts)
    if file is None:
        names = dict.fromkeys(run.partition("/")[0] for run in entry.runs)
        file = FOLDER / f"{limited_name('+'.join(names))}.json"
    write_json(file, about_blend(entry, groups, nested, members, unit))
    return file, nested_blend_text(members, nested, unit)


def refuse_task(entry: Entry) -> None:
    """Refuse a task whose out-of-fold score is not the competition's, or another merge.

    Raises:
        InputError: in one line.
    """
    task = entry.competition.task
    if task.score_column != task.monitored:
        raise InputError(
            f"blend: {entry.competition.id} is scored by {task.score_column} of rankings and its "
            f"runs out of fold by {task.monitored}; a gain in one is none in the other, so blends "
            "of it are not supported"
        )
    if entry.how.merge == "probabilities":
        raise InputError(
            "submit.merge: blend averages logits, not probabilities; add "
            "--set submit.merge=geometric"
        )


def group_runs(runs: Sequence[str], by_seed: bool) -> Groups:
    """Return the runs of each member; several seeds of a run are named as a seed ensemble."""
    if by_seed:
        return {run: [run] for run in runs}
    names: Groups = {}
    for run in runs:
        names.setdefault(run.partition("/")[0], []).append(run)
    return {
        f"{name} (seed ensemble of {len(seeds)})" if len(seeds) > 1 else seeds[0]: seeds
        for name, seeds in names.items()
    }


def open_members(entry: Entry, groups: Groups) -> tuple[Members, str]:
    """Merge each run's out-of-fold predictions by target.

    Returns:
        The members, and the samples column of their unit.

    Raises:
        InputError: runs that differ in unit, folds, classes or targets; or no labelled target.
    """
    unit = _common_unit(entry)
    targets = _common_targets(entry)
    first = targets[entry.runs[0]]
    task = entry.competition.task
    samples = entry.samples.drop_duplicates("target_id").set_index("target_id")
    truth = task.truth_of_targets(first, samples).values
    labelled = ~np.isnan(truth).all(axis=1) if truth.ndim == 2 else truth >= 0
    if not labelled.any():
        raise InputError("blend: no out-of-fold target has a label to choose weights by")
    scores = [np.mean([targets[run].scores for run in runs], axis=0) for runs in groups.values()]
    sizes = np.array([len(runs) for runs in groups.values()], dtype=float)
    names = samples[unit].loc[first.target_id]
    if names[labelled].isna().any():
        target = names.index[labelled & names.isna().to_numpy()][0]
        raise InputError(f"blend: target {target!r} has no {unit}, which weights are chosen by")
    names = names.astype(str).to_numpy()
    members = Members(
        names=tuple(groups),
        scores=np.stack(scores)[:, labelled],
        truth=truth[labelled],
        unit=np.unique(names[labelled], return_inverse=True)[1],
        equal=sizes / sizes.sum(),
        loss=task.loss_family,
        metric=task.monitored,
    )
    return members, unit


def _common_unit(entry: Entry) -> str:
    units = {run: str(entry.final(run)[0].about.get("fold_group")) for run in entry.runs}
    first = entry.runs[0]
    for run, unit in units.items():
        if unit != units[first]:
            raise InputError(
                f"blend: the folds of {first} hold out whole {units[first]}s, those of {run} whole "
                f"{unit}s; train both on one fold table"
            )
    return units[first]


def _common_targets(entry: Entry) -> dict[str, Targets]:
    """Return each run's out-of-fold targets, which are the same and of the same folds."""
    targets, folds = {}, {}
    first = entry.runs[0]
    for run in entry.runs:
        final = with_part(entry.final(run), "oof")
        if not final:
            raise InputError(f"blend: {run} has no out-of-fold predictions to choose weights by")
        if final[0].classes != entry.classes:
            raise InputError(f"blend: {run} predicts other classes than {first}")
        targets[run] = entry.merge(final, "oof", pool=entry.how.pool)
        folds[run] = {
            target: member.about.get("fold")
            for member in final
            for target in member.ids["target_id"][member.ids["part"] == "oof"]
        }
        other = set(folds[run]) ^ set(folds[first])
        if other:
            raise InputError(
                f"blend: {len(other)} out-of-fold targets are predicted by only one of {first} and "
                f"{run}, first {min(other)!r}; predict the same folds of the same data with both"
            )
        moved = [target for target in targets[run].target_id if _differs(folds, run, first, target)]
        if moved:
            raise InputError(
                f"blend: {len(moved)} targets are held out by other folds in {run} than in "
                f"{first}, first {str(moved[0])!r}; train both on one fold table"
            )
    return targets


def _differs(folds: dict[str, dict], run: str, first: str, target: str) -> bool:
    return folds[run][target] != folds[first][target]


def about_blend(
    entry: Entry, groups: Groups, nested: NestedBlend, members: Members, unit: str
) -> dict[str, Any]:
    """Return what a blend file holds."""
    blend, gain, equal = nested.blend, nested.gain, nested.row("equal weights")
    runs = {
        run: {
            "weight": float(weight) / len(seeds),
            "temperature": float(temperature * blend.temperature),
        }
        for seeds, weight, temperature in zip(
            groups.values(), blend.weights, blend.temperatures, strict=True
        )
        for run in seeds
    }
    measured = {
        "unit": unit,
        "units": members.units,
        "parts": nested.parts,
        "targets": len(members.unit),
        members.metric: gain.score.value,
        "equal_weights": equal.score.value,
        "gain": gain.score.change,
        "gain_low": gain.score.low,
        "gain_high": gain.score.high,
        "log_loss": gain.loss.value,
        "log_loss_change": gain.loss.change,
    }
    files = [member.path for member in entry.final()]
    return provenance(
        {str(path): path for path in files},
        kind=KIND,
        competition=entry.competition.id,
        method=nested.method,
        runs=runs,
        files=sorted({sha256(path) for path in files}),
        nested={
            key: None if isinstance(value, float) and math.isnan(value) else value
            for key, value in measured.items()
        },
    )

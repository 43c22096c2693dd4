"""Checks of what a run wrote: its pseudo-labels and checkpoints, against the folds of now."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from cellsignal.audit.findings import Finding, first_examples, not_applicable, passed
from cellsignal.audit.parts import Audited, Part
from cellsignal.common.errors import InputError
from cellsignal.common.tables import read_table

_TOLERANCE = 1e-3  # of a grey level


def check_run(audited: Audited) -> list[Finding]:
    """Look at the run's folder; nothing there is not applicable."""
    folder = audited.config.run_folder
    checks = ("pseudo-labels", "what a checkpoint held out", "pixel statistics of a checkpoint")
    if audited.folds is None:
        reason = "a split table says nothing of a run"
        return [not_applicable(check, reason) for check in checks]
    findings = []
    for part in audited.validations:
        number = part.name.replace(" ", "")
        findings += _pseudo_labels(audited, part, folder / number)
        findings += _checkpoints(audited, part, folder / number)
    for check in checks:
        if not any(finding.check == check for finding in findings):
            findings.append(not_applicable(check, f"{folder} has none"))
    return findings


def _pseudo_labels(audited: Audited, part: Part, folder: Path) -> list[Finding]:
    """Hold every pseudo-labelled well to the part's validation and labelled wells."""
    check, samples = "pseudo-labels", audited.samples
    files = sorted(folder.glob("**/pseudo_labels/*.csv"))
    if not files:
        return []
    target = samples.target_id.astype(str)
    well_of = dict(zip(target, samples.well_id.astype(str), strict=True))
    held = set(samples.well_id.iloc[part.held].astype(str))
    test = (samples.split == "test") & (samples.role == "treatment")
    allowed = set(target[test])
    touching, outside, foreign, unknown = [], [], [], []
    for file in files:
        table = read_table(file, ["target_id", "label"])
        for name in table.target_id:
            if well_of.get(name) in held:
                touching.append(f"{file.name}: {name}")
            elif name not in allowed:
                outside.append(f"{file.name}: {name}")
        made_by = _read_json(file.with_suffix(".json")).get("fold")
        if made_by is None:
            unknown.append(file.name)
        elif str(made_by) != part.name.replace(" ", ""):
            foreign.append(f"{file.name}: by {made_by}")
    findings = []
    for found, words, advice in (
        (touching, "pseudo-labels are of wells that this fold validates on", _CLEAN),
        (outside, "pseudo-labels are of wells that are no test treatments", _CLEAN),
        (foreign, "files are of a model that trained on this fold's validation wells", _OWN),
    ):
        if found:
            message = f"{len(found)} {words}"
            examples = first_examples(found)
            findings.append(
                Finding(check, part.name, "fail", len(found), message, examples, advice)
            )
    if unknown:
        message = f"{len(unknown)} files have no .json that says which fold's model made them"
        findings.append(
            Finding(check, part.name, "warn", len(unknown), message, tuple(unknown[:5]), _OWN)
        )
    words = f"{len(files)} files, test wells alone, by the fold's own model"
    return findings or [passed(check, part.name, words, len(files))]


_CLEAN = "label test wells alone, and train this fold anew"
_OWN = "let each fold's own model choose its pseudo-labels, and train this fold anew"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _checkpoints(audited: Audited, part: Part, folder: Path) -> list[Finding]:
    """Hold what each checkpoint says it held out to what the fold table holds out now."""
    files = sorted(folder.glob("*/*/last.pt"))
    if not files:
        return []
    from cellsignal.training.checkpoints import load_checkpoint

    check = "what a checkpoint held out"
    held = set(audited.samples[audited.folds.group].iloc[part.held].astype(str))
    findings, seen, shown = [], [], []
    for file in files:
        state = load_checkpoint(file)
        name = f"{file.parent.parent.name}/{file.parent.name}"
        if "held_out" not in state:
            raise InputError(f"{file}: does not say what it held out; train anew")
        missing = sorted(held - set(map(str, state["held_out"])))
        if missing:
            seen.append((name, missing))
        shown.append((name, state))
    if seen:
        count = len({group for _, missing in seen for group in missing})
        message = f"{len(seen)} of {len(files)} checkpoints trained on {count} of the "
        message += f"{len(held)} values of {audited.folds.group} that this fold validates on"
        examples = first_examples(f"{name}: {', '.join(m[:3])}" for name, m in seen)
        advice = "all stages of a fold must hold the same groups out: train the fold anew"
        findings.append(Finding(check, part.name, "fail", count, message, examples, advice))
    else:
        words = f"{len(files)} checkpoints held out what the fold table holds out now"
        findings.append(passed(check, part.name, words, len(files)))
    if audited.config.normalization.by == "global" and audited.store is not None:
        findings.append(_overall(audited, part, shown))
    return findings


def _overall(audited: Audited, part: Part, states: list[tuple[str, dict]]) -> Finding:
    """Compare a checkpoint's pixel statistics with those of training rows, and of all rows."""
    check, store = "pixel statistics of a checkpoint", audited.store
    rows = audited.samples["row"].to_numpy()
    means = store.mean[rows].astype(float).mean(axis=0)
    train = store.mean[rows[part.train]].astype(float).mean(axis=0)
    wrong = []
    for name, state in states:
        mean = np.asarray(state["overall"][0], float)
        of_all = mean.shape == train.shape and np.abs(mean - means).max() < _TOLERANCE
        if of_all and np.abs(means - train).max() > 2 * _TOLERANCE:
            wrong.append(name)
    if not wrong:
        return passed(check, part.name, "they are not those of all wells, held-out ones included")
    message = f"{len(wrong)} checkpoints standardise by the mean of all wells, held-out ones too"
    advice = "compute them over the fold's training rows (`normalization.by: global` does)"
    return Finding(check, part.name, "fail", len(wrong), message, first_examples(wrong), advice)

"""Checks of the tables: wells, plates, experiments and compounds on both sides; copies of rows."""

import pandas as pd

from cellsignal.audit.findings import Finding, Severity, first_examples, not_applicable, passed
from cellsignal.audit.parts import LEVELS, Audited, Part
from cellsignal.audit.spelling import loosely

# what a reader calls the unit, and the samples columns that name it
UNITS = {
    "wells": ("well_id",),
    "plates": ("experiment", "plate"),
    "experiments": ("experiment",),
    "compounds": ("compound",),
}
LEVEL = {"wells": "well_id", "plates": "plate", "experiments": "experiment"}


def check_units(audited: Audited) -> list[Finding]:
    """Look for units that are trained on and held out."""
    findings = []
    for part in audited.parts:
        findings += [_shared(audited, part, unit) for unit in UNITS]
        findings.append(_spelled_twice(audited, part))
    return findings


def unit_names(samples: pd.DataFrame, unit: str) -> pd.Series:
    """Return the name of each sample's unit: "experiment plate" for plates; NaN where none."""
    columns = list(UNITS[unit])
    if len(columns) == 1:
        return samples[columns[0]]
    return samples[columns[0]].astype(str) + " " + samples[columns[1]].astype(str)


def promises(group: str, unit: str) -> bool:
    """Return whether folds by `group` promise that no unit lies on both sides."""
    if unit == "compounds":
        return group in ("compound", "treatment")
    return LEVELS.get(group, LEVELS["well_id"]) >= LEVELS[LEVEL[unit]]


def _shared(audited: Audited, part: Part, unit: str) -> Finding:
    check = f"shared {unit}"
    names = unit_names(audited.samples, unit)
    train, held = names.iloc[part.train].dropna(), names.iloc[part.held].dropna()
    if not len(train) or not len(held):
        return not_applicable(check, f"the {unit} of one side are not known", part.name)
    both = sorted(set(train.astype(str)) & set(held.astype(str)))
    if not both:
        return passed(check, part.name, f"{held.nunique()} {unit} held out, none in training")
    rows = int(held.astype(str).isin(set(both)).sum())
    severity, why, advice = _judge(audited, part, unit)
    message = f"{len(both)} of {held.nunique()} held-out {unit} are in training, too ({rows} rows)"
    return Finding(
        check, part.name, severity, len(both), f"{message}; {why}", tuple(both[:5]), advice
    )


def _judge(audited: Audited, part: Part, unit: str) -> tuple[Severity, str, str]:
    """Return severity, reason and advice for units on both sides of a part."""
    command = f"`cellsignal folds {audited.competition.id}"
    if part.kind == "published" and (unit == "wells" or promises(audited.default_group, unit)):
        advice = f"the published protocol is made so: its score says nothing of unseen {unit}"
        return "warn", "as the protocol wants", advice
    if unit == "wells":
        advice = f"deal whole wells: {command} --group well_id`"
        return "fail", "images of one well show the same cells and treatment", advice
    if part.kind in ("validation", "test") and audited.folds is None:
        group = "a split table"
        if promises(audited.default_group, unit):
            advice = f"deal whole {unit}: {command} --group {audited.default_group}`"
            return "fail", f"{audited.competition.id} asks about unseen {unit}", advice
        return "pass", f"{group} does not promise unseen {unit}", ""
    if part.kind == "validation" and promises(audited.group, unit):
        advice = f"make the table anew: {command} --group {audited.group}`"
        return "fail", f"folds by {audited.group} promise unseen {unit}", advice
    if promises(audited.default_group, unit):
        if part.kind == "validation":
            advice = (
                f"claim nothing about new {unit}, or {command} --group {audited.default_group}`"
            )
        else:
            advice = f"the test does not ask about new {unit}: say so beside its score"
        words = f"{audited.competition.id}'s own folds promise unseen {unit}, these do not"
        return "warn", words, advice
    return "pass", f"folds by {audited.group} do not promise unseen {unit}", ""


def _spelled_twice(audited: Audited, part: Part) -> Finding:
    """Look for experiments or wells that differ in spelling alone ("HUVEC-1", "huvec 01")."""
    check, pairs = "spelling of units", []
    for column in ("experiment", "well_id"):
        if not promises(audited.group, f"{column}s" if column == "experiment" else "wells"):
            continue
        names = audited.samples[column].astype(str)
        train = set(names.iloc[part.train])
        loose = {loosely(name): name for name in sorted(train)}
        for name in sorted(set(names.iloc[part.held]) - train):
            other = loose.get(loosely(name))
            if other is not None:
                pairs.append(f"{name} and {other}")
    if not pairs:
        return passed(check, part.name, "no experiment or well is named in two spellings")
    message = f"{len(pairs)} held-out names differ from a training one in spelling alone"
    advice = "give each experiment and well one name in the raw tables, then make the folds anew"
    return Finding(check, part.name, "warn", len(pairs), message, first_examples(pairs), advice)


def check_copies(audited: Audited) -> list[Finding]:
    """Look for images that are used as several rows, on both sides above all."""
    findings = []
    for part in audited.parts:
        findings.append(_copied_rows(audited.samples, part))
    files = audited.samples.files
    doubled = files.duplicated(keep=False)
    check = "files of several rows"
    if doubled.any():
        message = f"{int(doubled.sum())} samples are of files that another sample has, too"
        examples = first_examples(audited.samples.sample_id[doubled])
        findings.append(Finding(check, "", "fail", int(doubled.sum()), message, examples, _ADVICE))
    else:
        findings.append(passed(check, "", f"{len(files):,} samples, each of files of its own"))
    return findings


_ADVICE = "deal each image once; repeat rare classes within training, after the split"


def _copied_rows(samples: pd.DataFrame, part: Part) -> Finding:
    check = "oversampling before the split"
    train, held = pd.Series(part.train), pd.Series(part.held)
    across = held.isin(set(part.train))
    if across.any():
        message = f"{int(across.sum())} of {len(held)} held-out rows are copies of training rows"
        examples = first_examples(samples.sample_id.iloc[held[across].unique()])
        return Finding(check, part.name, "fail", int(across.sum()), message, examples, _ADVICE)
    repeats = held.duplicated()
    if repeats.any():
        message = f"{int(repeats.sum())} held-out rows repeat an image: it counts several times"
        examples = first_examples(samples.sample_id.iloc[held[repeats].unique()])
        return Finding(check, part.name, "warn", int(repeats.sum()), message, examples, _ADVICE)
    count = int(train.duplicated().sum())
    return passed(check, part.name, f"no image on both sides; {count} repeats within training")

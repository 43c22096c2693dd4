"""Checks of the config: what chooses a model on the rows that score it, what statistics are of."""

import numpy as np

from cellsignal.audit.findings import Finding, not_applicable, passed
from cellsignal.audit.parts import LEVELS, Audited
from cellsignal.audit.units import promises, unit_names


def check_settings(audited: Audited) -> list[Finding]:
    """Look at what the config chooses by, and what its statistics are computed over."""
    return [
        *_selection(audited),
        *_shared_rows_of_selection(audited),
        *_normalization(audited),
        _control_wells(audited),
        _test_labels(audited),
    ]


def _selection(audited: Audited) -> list[Finding]:
    """Name each setting that chooses by the validation wells, on which the score is then made."""
    check, findings, config = "selection on the scored rows", [], audited.config
    beyond = "score on rows that chose nothing: `predict.checkpoint: last` without it, or the test"
    if config.predict.checkpoint == "best":
        message = "predict.checkpoint: best takes the epoch that scores best on the very wells that"
        message += " are scored out of fold; such figures flatter"
        advice = "write `predict.checkpoint: last` (the default), or score the test alone"
        findings.append(Finding(check, "", "warn", 1, message, ("predict.checkpoint",), advice))
    for stage in config.stages:
        keys = []
        if stage.early_stopping is not None:
            keys.append(f"stages.{stage.name}.early_stopping")
        if stage.schedule.name == "plateau":
            keys.append(f"stages.{stage.name}.schedule")
        for key in keys:
            message = f"{key} follows the monitored figure ({stage.monitor}) of the validation "
            message += "wells, which are then scored out of fold"
            findings.append(Finding(check, "", "warn", 1, message, (key,), beyond))
    if findings:
        return findings
    return [passed(check, "", "the last epoch predicts; no setting chooses by validation wells")]


def _shared_rows_of_selection(audited: Audited) -> list[Finding]:
    """Look for rows of the test among those that choose a model (split tables alone)."""
    check, findings = "selection and test on the same rows", []
    for part in audited.parts:
        if part.kind != "selection":
            continue
        wells = audited.samples.well_id.astype(str)
        both = sorted(set(wells.iloc[part.train]) & set(wells.iloc[part.held]))
        if both:
            message = f"{len(both)} wells of the test are validation wells, too"
            advice = "choose on validation wells, then score the test wells once"
            finding = Finding(check, part.name, "fail", len(both), message, tuple(both[:5]), advice)
            findings.append(finding)
        else:
            findings.append(passed(check, part.name, "no well is in both"))
    return findings


def _normalization(audited: Audited) -> list[Finding]:
    """Say what the pixel statistics of held-out wells are computed over."""
    check, settings = "statistics over held-out wells", audited.config.normalization
    unit = settings.by
    if unit in ("none", "image"):
        return [passed(check, "", f"normalization.by: {unit} takes nothing from other images")]
    if unit == "global":
        words = "normalization.by: global takes the mean and SD of each fold's training rows alone"
        return [passed(check, "", words)]
    findings = []
    for part in audited.parts:
        if part.kind == "selection":
            continue
        names = unit_names(audited.samples, f"{unit}s").astype(str)
        shared = sorted(set(names.iloc[part.train]) & set(names.iloc[part.held]))
        if not shared:
            words = f"each {unit} is standardised by its own wells, and lies on one side"
            findings.append(passed(check, part.name, words))
            continue
        message = f"{len(shared)} {unit}s hold training and held-out wells: one mean and SD (no "
        message += f"label) is of both (normalization.wells: {settings.wells})"
        if settings.wells != "all" or not promises(audited.default_group, f"{unit}s"):
            findings.append(passed(check, part.name, message, len(shared)))
            continue
        advice = f"fold by {audited.default_group}, or write `normalization.wells: controls`"
        finding = Finding(check, part.name, "warn", len(shared), message, tuple(shared[:5]), advice)
        findings.append(finding)
    return findings


def _control_wells(audited: Audited) -> Finding:
    """Say whether control wells of held-out units train."""
    check, config = "control wells of held-out units", audited.config
    if config.data.controls == "ignore":
        return passed(check, "", "data.controls: ignore: no control well trains")
    unit = "experiments" if config.data.controls == "train" else "plates"
    names = unit_names(audited.samples, unit).astype(str)
    counted = 0
    if config.data.controls == "all" or LEVELS.get(audited.group, 0) < LEVELS["experiment"]:
        role = audited.samples.role.to_numpy()
        held = {name for part in audited.parts for name in names.iloc[part.held]}
        control = (role != "treatment") & audited.samples.label.notna().to_numpy()
        counted = int((control & names.isin(held).to_numpy()).sum())
    if not counted:
        return passed(check, "", "controls of training experiments alone train")
    message = f"data.controls: {config.data.controls}: {counted} control images of held-out "
    message += "experiments train; their labels are part of every plate's design"
    advice = "say so beside the score: a new experiment must bring such controls, and be trained on"
    return Finding(check, "", "warn", counted, message, ("data.controls",), advice)


def _test_labels(audited: Audited) -> Finding:
    """Look for labels of test treatments in the samples that training reads."""
    check, samples = "labels of the test", audited.samples
    test = (samples.split == "test") & (samples.role == "treatment")
    if not test.any():
        return not_applicable(check, "there is no test treatment")
    known = test & samples.label.notna()
    if "labels" in samples.columns:
        known |= test & samples["labels"].notna()
    if not known.any():
        return passed(check, "", f"{int(test.sum()):,} test images, none has a label")
    message = f"{int(known.sum())} test images carry their label in the table that training reads"
    examples = tuple(samples.sample_id[np.asarray(known)].head(5))
    advice = "keep answers in a file of their own, for `cellsignal score --answers` alone"
    return Finding(check, "", "warn", int(known.sum()), message, examples, advice)

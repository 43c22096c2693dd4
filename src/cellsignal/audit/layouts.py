"""Checks of plate layouts: does a held-out plate repeat a training one?

Of two unrelated plates as many wells agree as shuffling one of them would give: with n_a and n_b
wells of a class among n shared ones, sum(n_a n_b) / n on average, and nearly as a Poisson variable.
A layout repeats if far more agree, over all pairs of plates that were compared (Bonferroni).
"""

import numpy as np
import pandas as pd

from cellsignal.audit.findings import Finding, first_examples, not_applicable, passed
from cellsignal.audit.parts import Audited, Part

ALARM = 1e-4  # chance that a check of unrelated layouts says anything
LEAST_SHARE = 0.2  # of the shared wells; below it a repeat would help nobody
LEAST_WELLS = 6
_ADVICE = (
    "hold the plates of one layout out together, or report what the well's position alone scores"
)


def check_layouts(audited: Audited) -> list[Finding]:
    """Compare the layouts of held-out plates with those of training plates."""
    findings, check = [], "repeated layouts"
    labels = _labels(audited)
    if labels is None:
        return [not_applicable(check, "samples have several labels, or none")]
    for part in audited.parts:
        wells = [_wells(audited.samples, labels, rows) for rows in (part.train, part.held)]
        if not len(wells[1]):
            reason = "the held-out labels are not known; --answers FILE, or what `submit` says of "
            reason += "repeats (submit.repeats)"
            findings.append(not_applicable(check, reason, part.name))
        else:
            findings.append(_repeats(part, *wells))
    return findings


def _labels(audited: Audited) -> pd.Series | None:
    """Return the class of each sample as text, test answers included; "" where not known."""
    samples = audited.samples
    if samples.label.isna().all():
        return None
    names = list(audited.store.source["classes"]) if audited.store else None
    if names is None:
        names = list(audited.competition.require_classes(audited.config.data.root))
    known = samples.label.map(lambda v: "" if pd.isna(v) else _name(int(v), names))
    return known.where(known != "", samples.answer).astype(str)


def _name(label: int, names: list[str]) -> str:
    return str(names[label]) if label < len(names) else f"control {label}"


def _wells(samples: pd.DataFrame, labels: pd.Series, rows: np.ndarray) -> pd.DataFrame:
    """Return one row a labelled well: experiment, plate, well, label."""
    columns = samples[["experiment", "plate", "well"]].assign(label=labels)
    wells = columns.iloc[np.unique(rows)]
    return wells[wells.label != ""].drop_duplicates(["experiment", "plate", "well"])


def _repeats(part: Part, train: pd.DataFrame, held: pd.DataFrame) -> Finding:
    from scipy.stats import poisson

    check, repeats, compared = "repeated layouts", [], 0
    wells = pd.concat([train, held])
    well_codes, label_codes = (sorted(set(wells[name])) for name in ("well", "label"))
    names, layouts = _grid(train, well_codes, label_codes)
    held_names, held_layouts = _grid(held, well_codes, label_codes)
    for name, layout in zip(held_names, held_layouts, strict=True):
        shared = (layouts >= 0) & (layout >= 0)
        agree = (shared & (layouts == layout)).sum(axis=1)
        enough = (shared.sum(axis=1) >= LEAST_WELLS) & np.array([n != name for n in names])
        compared += int(enough.sum())
        for row in np.flatnonzero(enough & (agree >= LEAST_SHARE * shared.sum(axis=1))):
            inside = shared[row]
            expected = _expected(layouts[row][inside], layout[inside])
            p = float(poisson.sf(agree[row] - 1, expected))
            words = f"{name} repeats {names[row]}: {agree[row]} of {inside.sum()} wells"
            repeats.append((p, -int(agree[row]), name, words))
    repeats = sorted(row for row in repeats if row[0] * compared <= ALARM)
    if not compared:
        return not_applicable(check, "no two plates share enough labelled wells", part.name)
    if not repeats:
        return passed(check, part.name, f"{compared} pairs of plates, none agrees beyond chance")
    plates = {row[2] for row in repeats}
    message = f"{len(plates)} of {len(held_names)} held-out plates repeat a training layout: a "
    message += "well's position tells its class"
    examples = first_examples(row[3] for row in repeats)
    return Finding(check, part.name, "warn", len(plates), message, examples, _ADVICE)


def _grid(wells: pd.DataFrame, addresses: list[str], labels: list[str]) -> tuple:
    """Return the plates' names and their layouts: (P, W) class codes, -1 where no well is."""
    plate = wells.experiment.astype(str) + " " + wells.plate.astype(str)
    names = sorted(set(plate))
    grid = np.full((len(names), len(addresses)), -1)
    places = [pd.Index(names).get_indexer(plate), pd.Index(addresses).get_indexer(wells.well)]
    grid[places[0], places[1]] = pd.Index(labels).get_indexer(wells.label)
    return names, grid


def _expected(layout: np.ndarray, other: np.ndarray) -> float:
    """Return in how many of the shared wells two layouts would agree if one were shuffled."""
    size = int(max(layout.max(), other.max())) + 1
    counts = np.bincount(layout, minlength=size) @ np.bincount(other, minlength=size)
    return max(float(counts) / len(layout), 1e-12)

"""Compare the final recipe with what came after it, on experiments that chose nothing.

`cellsignal study ablation CONFIG --answers CSV --final` trains and predicts these recipes alone.
The validation experiments say which one is taken, the test experiments what it gains. The page is
docs/results/rxrx1_simulated.md, "After the winners".
"""

from dataclasses import replace

import numpy as np

from cellsignal.evaluation.blend_weights import METHODS
from cellsignal.prediction.blend import group_runs, open_members
from cellsignal.prediction.entry import Entry, open_entry
from cellsignal.prediction.merge import Part
from cellsignal.prediction.plate_layout.apply import predict_labels
from cellsignal.prediction.steps import truth_of
from cellsignal.studies.pages import head_lines, row_text
from cellsignal.studies.rxrx1_simulated import (
    ASSIGNMENTS,
    DIHEDRAL_VIEWS,
    Outcome,
    Runs,
    figure_text,
    gain_text,
)
from cellsignal.studies.rxrx1_variants import FINAL, SEEDS, Variant

CONTROLS = Variant(
    "final_controls",
    "and images standardised by the control wells of the plate",
    (*FINAL.changes, "normalization.wells=controls"),
)
# statistics foretold by controls lose .02 on plates of even classes, as RxRx1's are: shift.md
CANDIDATES = (FINAL, CONTROLS)
KINDS = ("none", "hungarian")


def final_runs() -> list[tuple[Variant, int, int]]:
    """Return (variant, seed, views) of all candidates."""
    return [(variant, seed, 8) for variant in CANDIDATES for seed in SEEDS]


def final_table(runs: Runs) -> str:
    """Write the candidates' scores, and those of blends of all their seeds, in Markdown."""
    head = ["recipe, 8 views", "validation"]
    for kind in KINDS:
        head += [f"test, {ASSIGNMENTS[kind]}", "gain"]
    lines = head_lines(head)
    titles = {FINAL: f"final: {FINAL.title}", CONTROLS: CONTROLS.title}
    singles = {titles[variant]: _seed_outcomes(runs, variant, 1) for variant in CANDIDATES}
    lines += _rows(singles, "seed by seed")
    ensembles = {"final": _seed_outcomes(runs, FINAL, len(SEEDS))}
    ensembles[CONTROLS.title] = _seed_outcomes(runs, CONTROLS, len(SEEDS))
    for method, title in (("equal", "equal weights"), ("stack", "stacked")):
        ensembles[f"both recipes' seeds, {title}"] = _blend_outcomes(runs, method)
    return "\n".join([*lines, *_rows(ensembles, f"ensembles of {len(SEEDS)} seeds")]) + "\n"


Outcomes = dict[str, Outcome]  # "oof", and each kind of assignment of the test wells


def _rows(outcomes: dict[str, Outcomes], section: str) -> list[str]:
    base = next(iter(outcomes.values()))
    lines = [f"| **{section}** | | | | | |"]
    for title, scored in outcomes.items():
        cells = [title, f"{scored['oof'].accuracy:.3f}"]
        for kind in KINDS:
            gain = "" if scored is base else gain_text(scored[kind], base[kind])
            cells += [figure_text(scored[kind]), gain]
        lines.append(row_text(cells))
    return lines


def _seed_outcomes(runs: Runs, variant: Variant, together: int) -> Outcomes:
    scored = {"oof": runs.outcome(variant, "oof", together=together, **DIHEDRAL_VIEWS)}
    for kind in KINDS:
        scored[kind] = runs.outcome(variant, "test", kind, together=together, **DIHEDRAL_VIEWS)
    return scored


def _blend_outcomes(runs: Runs, method: str) -> Outcomes:
    """Score a blend of every seed of every candidate, weighed on the validation experiments."""
    members = [runs.entry(variant, SEEDS) for variant in CANDIDATES]
    files = [member.path for entry in members for member in entry.members]
    entry = open_entry(files, members[0].how, root=members[0].root)
    groups = group_runs(entry.runs, by_seed=True)
    blend = METHODS[method](open_members(entry, groups)[0])
    chosen = {
        run: (float(weight), float(temperature))
        for (run,), weight, temperature in zip(
            groups.values(), blend.weights, blend.temperatures, strict=True
        )
        if weight > 0
    }
    entry = replace(
        entry,
        members=tuple(member for member in entry.members if member.about["run"] in chosen),
        weights={run: weight for run, (weight, _) in chosen.items()},
        temperatures={run: temperature for run, (_, temperature) in chosen.items()},
    )
    scored = {"oof": _outcome(runs, entry, "oof", "none")}
    return scored | {kind: _outcome(runs, entry, "test", kind) for kind in KINDS}


def _outcome(runs: Runs, entry: Entry, part: Part, assignment: str) -> Outcome:
    how = entry.how.model_copy(update={"assignment": assignment, "repeats": "off"})
    entry = replace(entry, how=how)
    targets = entry.merge(entry.final(), part, **DIHEDRAL_VIEWS)
    labels = truth_of(entry, targets, None if part == "oof" else runs.truth).values
    right = predict_labels(entry, targets, runs.groups)[0] == labels
    return Outcome(np.array([right]), targets.experiment)

"""Write the page docs/results/relations.md."""

import math
from time import process_time

import numpy as np
import pandas as pd

from cellsignal.evaluation.gene_relations import (
    exchange_p,
    exchanged_recalls,
    recall_relations,
)
from cellsignal.metrics.intervals import range_text
from cellsignal.profiles.batch_effects import centre
from cellsignal.simulation.phenotypes import (
    N_EFFECTS,
    effect,
    experiment_response,
    well_effect,
)
from cellsignal.simulation.plates import WELLS
from cellsignal.studies.pages import machine, table
from cellsignal.studies.relations.coverage import Coverage, cases, measure

GENES, COMPLEXES, SIZE = 240, 40, 3
EXPERIMENTS, CONTROLS = 4, 24
LIKENESS = (0, 20, 40, 60, 80, 100)
BAND = (0.93, 0.97)
DRAWS = 999
PAGE = """# Are known gene relations recalled from a map, and how sure is the figure?

The code is `cellsignal.studies.relations`; the command writes this page.

    cellsignal study relations --simulations {simulations} --seed {seed} \\
        --out docs/results/relations.md

{machine}; {seconds:.0f} s of processor time. Nothing is trained.

## Planted relations

{genes} simulated siRNAs of RxRx1 in {experiments} HUVEC experiments, {complexes} complexes of
{size}; the profile of a well is the phenotype that the simulator gives it (with its efficiency, its
experiment's response and noise), what a perfect network would see. Centred by experiment on
{controls} untreated wells (but for one row), averaged by siRNA. *Likeness*: the share of the
variance of an siRNA's common effect that its complex shares. Recall at 5 % and 95 % of all pairs,
at random .1; p by {draws} exchanges of the names.

{planted}

## How often the 95 % intervals hold the truth

{simulations} simulations a row; standard error {error:.1f} points at 95 %. Half of the genes are in
complexes; knock-downs differ in strength, complexes in how alike their genes are. *Same complexes*:
each simulation draws other genes of the same complexes. *Other complexes*: complexes are drawn
anew. Outside 93 .. 97 % **bold**.

{coverage}

## What it says

- The interval over genes is one for other genes of the same complexes. It says nothing about other
  complexes: with complexes of ten genes or more it is then too narrow, since all pairs of a complex
  rise and fall together.
- The interval over parts of the graph is the one for other complexes. It is given where the known
  pairs fall into ten connected parts or more; CORUM, Reactome, SIGNOR and StringDB are mostly one
  part, so that their figures have the interval over genes alone.
"""


def relations_page(simulations: int, seed: int) -> str:
    """Measure everything and return the page."""
    start = process_time()
    planted = planted_table(seed)
    rows = [measure(case, simulations, seed) for case in cases()]
    return PAGE.format(
        simulations=simulations,
        seed=seed,
        machine=machine(),
        genes=GENES,
        experiments=EXPERIMENTS,
        complexes=COMPLEXES,
        size=SIZE,
        controls=CONTROLS,
        draws=DRAWS,
        planted=planted,
        coverage=table(pd.DataFrame([_coverage_row(row) for row in rows])),
        error=100 * math.sqrt(0.95 * 0.05 / simulations),
        seconds=process_time() - start,
    )


def planted_table(seed: int) -> str:
    """Return the recall of planted relations for each likeness, as a Markdown table."""
    first, second = np.triu_indices(COMPLEXES * SIZE, 1)
    known = first // SIZE == second // SIZE
    pairs = np.stack([first[known], second[known]], axis=1)
    rng = np.random.default_rng(seed)
    rows = []
    for likeness in LIKENESS:
        raw, wells = _wells(seed, likeness / 100)
        kinds = {"planted": centre(raw, wells, "experiment", "negative_controls")}
        if likeness == LIKENESS[-2]:
            kinds["planted, not centred"] = raw
        for name, x in kinds.items():
            rows.append(_recall_row(name, likeness, _by_gene(x, wells), pairs))
        if likeness == LIKENESS[-2]:
            x = _by_gene(kinds["planted"], wells)
            rows.append(
                _recall_row("shuffled relations", likeness, x[rng.permutation(GENES)], pairs)
            )
            noise = rng.normal(size=x.shape)
            rows.append(_recall_row("profiles of noise", likeness, noise, pairs))
    return table(pd.DataFrame(rows))


def _wells(seed: int, likeness: float) -> tuple[np.ndarray, pd.DataFrame]:
    """Profiles of wells, and their experiment, role and gene."""
    x, rows = [], []
    for number in range(EXPERIMENTS):
        experiment = f"HUVEC-{number + 1:02d}"
        response = experiment_response(seed, experiment)
        for label in range(GENES + CONTROLS):
            group = label // SIZE if label < COMPLEXES * SIZE else None
            units = effect(seed, label, "HUVEC", group, likeness)
            treated = label < GENES
            units = units if treated else np.zeros(N_EFFECTS)
            x.append(well_effect(seed, units, response, (experiment, 1), WELLS[label]))
            rows.append((experiment, "treatment" if treated else "negative_control", label))
    return np.array(x), pd.DataFrame(rows, columns=["experiment", "role", "gene"])


def _by_gene(x: np.ndarray, wells: pd.DataFrame) -> np.ndarray:
    treated = (wells.role == "treatment").to_numpy()
    return pd.DataFrame(x[treated]).groupby(wells.gene[treated].to_numpy()).mean().to_numpy()


def _recall_row(name: str, likeness: int, x: np.ndarray, pairs: np.ndarray) -> dict[str, str]:
    recall = recall_relations(x, pairs)
    draws = exchanged_recalls(x, recall, DRAWS)
    return {
        "profiles": name,
        "likeness": f"{likeness} %",
        "pairs": f"{len(pairs)}",
        "recall": f"{recall.value:.3f}",
        "95 % over genes": range_text(*recall.over_genes, 3),
        "95 % over parts": range_text(*recall.over_parts, 3),
        "p": f"{exchange_p(recall.value, draws):.3f}",
    }


def _coverage_row(row: Coverage) -> dict[str, str]:
    return {
        "drawn anew": "genes, same complexes" if row.case.same else "other complexes",
        "genes of a complex": str(row.case.size),
        "genes": str(row.case.genes),
        "pairs": f"{row.pairs:.0f}",
        "recall": f"{row.truth:.3f}",
        "over genes held": _share(row.over_genes),
        "median width": f"{row.width:.3f}",
        "over parts held": _share(row.over_parts),
    }


def _share(value: float) -> str:
    if math.isnan(value):
        return "none"
    text = f"{100 * value:.1f} %"
    return text if BAND[0] <= value <= BAND[1] else f"**{text}**"

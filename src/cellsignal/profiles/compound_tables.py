"""Rank genes by their likeness to compounds: from profiles to a table."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.files import write_csv
from cellsignal.common.tables import aligned
from cellsignal.evaluation.compound_genes import LARGEST, Activity, compound_gene_table
from cellsignal.metrics.intervals import mean_interval, range_text
from cellsignal.profiles.comparisons import head_lines
from cellsignal.profiles.gene_maps import (
    EXCHANGED,
    RANDOM,
    GeneMap,
    MapOptions,
    compound_doses,
    make_gene_map,
)
from cellsignal.profiles.profile_steps import Profiles


def activity_text(
    profiles: Profiles,
    done: str,
    interactions: pd.DataFrame,
    options: MapOptions,
    how: Activity,
    out: Path | None = None,
) -> str:
    """Return how well compounds find their targets among the genes, as text.

    Args:
        interactions: see `relation_tables.read_interactions`.
        options: of the map of genes.
        out: a CSV of every compound and concentration of every row.

    Raises:
        InputError: no well of a compound, or see `compound_gene_table`.
    """
    made = make_gene_map(profiles, options)
    x, doses = compound_doses(profiles)
    header = ("concentration", "profiles", "compounds", "AP", "95 % over compounds", "chance")
    lines, tables = [(*header, "median AP", "AUC")], []
    for name, genes in _activity_maps(profiles.label, made, how.seed):
        table = compound_gene_table(x, doses, genes, list(made.genes), interactions, how)
        tables.append(table.assign(profiles=name))
    frame = pd.concat(tables, ignore_index=True)
    for level in sorted(frame.concentration.unique(), key=_dose_order):
        for name, rows in frame[frame.concentration == level].groupby("profiles", sort=False):
            interval = mean_interval(rows.ap, rows["compound"])
            lines.append(
                (
                    level or "(none)",
                    str(name),
                    f"{len(rows):,}",
                    f"{rows.ap.mean():.3f}",
                    range_text(*interval, 3),
                    f"{rows.chance.mean():.3f}",
                    f"{rows.ap.median():.3f}",
                    f"{rows.auc.mean():.3f}",
                )
            )
    if out is not None:
        write_csv(out, frame)
    note = (
        f"targets: {how.active:g} nM or less; others: {how.draws} draws of twice as many genes, "
        f"{how.negatives} at least; by the absolute cosine. {LARGEST}: each gene's largest cosine "
        "over the concentrations. chance: expected AP of a random order"
    )
    text = aligned(lines, right={2, 3, 5, 6, 7})
    return "\n".join([*head_lines(profiles, done), "", text, "", note])


def _activity_maps(label: str, made: GeneMap, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    yield label, made.x
    yield EXCHANGED, made.x[rng.permutation(len(made.x))]
    yield RANDOM, rng.normal(size=made.x.shape)


def _dose_order(level: str) -> tuple[int, float, str]:
    try:
        return (0, float(level), level)
    except ValueError:
        return (1, 0.0, level)

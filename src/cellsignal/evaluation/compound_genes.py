"""Rank genes by how much their knock-out resembles a compound: are its targets first?

Source: the compound-gene benchmark of RxRx3-core (Kraus et al. 2025, arXiv:2503.20158, and the
repository EFAAR_benchmarking). For each compound, genes that it acts on (at 1,000 nM or less) are
ranked among random other genes of the interactions' table by the absolute cosine of their profiles;
genes that it acts on at up to 10,000 nM take no part. Twice as many others are drawn as there are
targets, 20 at least; average precision and ROC AUC are means over the draws, and then over
compounds. "max" takes each gene's largest cosine over all concentrations.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.ties import unit_vectors
from cellsignal.evaluation.map_defaults import ACTIVE, DRAWS, INACTIVE, NEGATIVES
from cellsignal.metrics.ranking import chance_average_precision

LARGEST = "max"
COLUMNS = ["compound", "concentration", "targets", "others", "ap", "auc", "chance"]


@dataclass(frozen=True)
class Activity:
    """What counts as an interaction, and how others are drawn.

    Attributes:
        active: nM at or below which a gene is a target.
        inactive: nM up to which a gene that is no target takes no part.
        negatives: the fewest others.
        draws: how often they are drawn.
        seed: of the draws.
    """

    active: float = ACTIVE
    inactive: float = INACTIVE
    negatives: int = NEGATIVES
    draws: int = DRAWS
    seed: int = 0


def compound_gene_table(
    compounds: np.ndarray,
    doses: pd.DataFrame,
    genes: np.ndarray,
    symbols: list[str],
    interactions: pd.DataFrame,
    how: Activity | None = None,
) -> pd.DataFrame:
    """Return average precision and AUC of each compound at each concentration, and at "max".

    Args:
        compounds: (N, D) a row a compound and concentration.
        doses: N rows with compound and concentration (text).
        genes: (G, D).
        symbols: their G names, none twice.
        interactions: columns compound, gene, nm (float).
        how: see `Activity`.

    Returns:
        `COLUMNS`; `chance` is the expected average precision of a random order.

    Raises:
        InputError: no compound has a target and enough other genes.
    """
    how = how or Activity()
    cosine = np.abs(unit_vectors(compounds) @ unit_vectors(genes).T)
    known = interactions[interactions.gene.isin(symbols)]
    pool, place = set(known.gene), {gene: n for n, gene in enumerate(symbols)}
    rows = []
    by_compound = doses.groupby("compound", sort=True).indices
    for number, (name, own) in enumerate(by_compound.items()):
        targets, others = _sides(known[known["compound"] == name], pool, how)
        wanted = max(2 * len(targets), how.negatives)
        if not targets or len(others) < wanted:
            continue
        rng = np.random.default_rng((how.seed, number))
        drawn = np.stack([rng.permutation(len(others))[:wanted] for _ in range(how.draws)])
        columns = [place[gene] for gene in targets], np.array([place[gene] for gene in others])
        levels = {str(doses.concentration.iloc[row]): cosine[row] for row in own}
        levels[LARGEST] = cosine[own].max(axis=0)
        chance = chance_average_precision(len(targets) + wanted, len(targets))
        for level, values in levels.items():
            figures = _figures(values[columns[0]], values[columns[1]][drawn])
            rows.append((name, level, len(targets), wanted, *figures, chance))
    if not rows:
        raise InputError(
            f"activity: no compound has a target at {how.active:g} nM and {how.negatives} other "
            "genes among the profiles"
        )
    return pd.DataFrame(rows, columns=COLUMNS)


def _sides(own: pd.DataFrame, pool: set[str], how: Activity) -> tuple[list[str], list[str]]:
    """The targets of a compound, and the genes that others are drawn from."""
    targets = set(own.gene[own.nm <= how.active])
    between = set(own.gene[(own.nm > how.active) & (own.nm <= how.inactive)])
    return sorted(targets), sorted(pool - targets - between)


def _figures(targets: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """Mean average precision and AUC over draws; ties count as a half.

    Args:
        targets: (A,) scores.
        others: (draws, B) scores.
    """
    above = (others[:, None, :] > targets[None, :, None]).sum(-1)  # (draws, A)
    equal = (others[:, None, :] == targets[None, :, None]).sum(-1)
    wrong = above + equal / 2
    auc = 1 - wrong.mean() / others.shape[1]
    place = np.empty(len(targets), int)
    place[np.argsort(-targets, kind="stable")] = np.arange(1, len(targets) + 1)
    return float((place / (place + wrong)).mean()), float(auc)

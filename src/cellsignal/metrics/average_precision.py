"""Compute average precision per class, with chance and an interval over compounds.

Average precision means nothing without its prevalence: guessing scores the prevalence (Cox et al.,
Sci Rep 10:13262, 2020, count mechanisms by ROC AUC instead, 41 of 83 at 0.9 or more; both stand
here). Wells, doses and replicates of a compound are one draw from the compounds that could have
been screened, so the bootstrap resamples whole compounds, the same ones for all classes, and a
class that a replicate draws no positive of is left out of that replicate.

Few positive compounds make the intervals too narrow. On simulated scores (two wells a compound, 300
samples) the 95 % interval of average precision held the true value in 92 to 93 % of samples with 30
to 60 positive compounds and in 87 to 90 % with 6 to 10; that of ROC AUC in 93 % and in 64 to 85 %.
With so few, average precision itself comes out too high (mean .23 for a true .17 at six of 300).
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.tables import aligned

GOOD_AUC = 0.9  # Cox et al. 2020 count the mechanisms that reach it
MACRO = "macro average"
COLUMNS = (
    *("class", "positives", "n", "positive_compounds", "prevalence"),
    *("average_precision", "low", "high", "ratio", "roc_auc", "roc_auc_low", "roc_auc_high"),
)
_CELLS = 4_000_000  # numbers in one array of the bootstrap at a time


def macro_average_precision(truth: np.ndarray, scores: np.ndarray) -> float:
    """Average scikit-learn's average precision over classes with a positive and a negative.

    Args:
        truth: (N, K) bool, or float with NaN where it is not known; those are left out.
        scores: (N, K) finite, higher is likelier.

    Raises:
        InputError: no class has both.
    """
    from sklearn.metrics import average_precision_score

    truth, scores = np.asarray(truth, dtype=float), np.asarray(scores, dtype=float)
    assert truth.shape == scores.shape and truth.ndim == 2, (truth.shape, scores.shape)
    values = []
    for true, score in zip(truth.T, scores.T, strict=True):
        known = ~np.isnan(true)
        if len(np.unique(true[known])) == 2:
            values.append(average_precision_score(true[known], score[known]))
    if not values:
        raise InputError(
            f"none of the {truth.shape[1]} classes has both a positive and a negative; there is "
            "nothing to rank"
        )
    return float(np.mean(values))


def average_precision_table(
    truth: np.ndarray,
    scores: np.ndarray,
    classes: Sequence[str],
    clusters: np.ndarray,
    draws: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Score every class and their mean, with 95 % percentile intervals over clusters.

    Args:
        truth: (N, K) bool, or float with NaN where it is not known: left out, never negative.
        scores: (N, K) finite, higher is likelier; only the order within a class counts.
        clusters: (N,) what is resampled whole, usually the compound.
        draws: replicates of the bootstrap.

    Returns:
        Columns `COLUMNS`: the macro average first, then the classes in their order. A class without
        a positive or without a negative has NaN for its figures and is left out of the average,
        whose `n` and `positives` count rows known for, and positive of, any class. Intervals are
        NaN where fewer than two clusters hold positives, or negatives.

    Raises:
        InputError: shapes that disagree, a missing cluster, or a score that is not finite.
    """
    truth, scores, codes, count = _checked(truth, scores, classes, clusters)
    times = np.empty((count, draws + 1), np.float32)
    times[:, 0] = 1  # the data themselves, then the replicates
    times[:, 1:] = (
        np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws).T
    )
    figures = np.full((len(classes), 2, draws + 1), np.nan)
    rows = []
    for number, name in enumerate(classes):
        known = ~np.isnan(truth[:, number])
        true, cluster = truth[known, number] == 1, codes[known]
        if true.any() and not true.all():
            figures[number] = weighted_ranking(true, scores[known, number], cluster, times)
        n_clusters = [len(np.unique(cluster[part])) for part in (true, ~true)]
        share = true.mean() if len(true) else np.nan
        counts = (int(true.sum()), len(true), n_clusters[0])
        rows.append((name, *counts, share, *_row(figures[number], share, min(n_clusters) > 1)))
    tested = ~np.isnan(figures[:, 0, 0])
    macro = _macro(truth, codes, rows, figures, tested)
    return pd.DataFrame([macro, *rows], columns=list(COLUMNS))


def _checked(truth, scores, classes, clusters) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Return truth and scores as float64, clusters as numbers from 0, and their count."""
    truth, scores = np.asarray(truth, dtype=float), np.asarray(scores, dtype=float)
    if (
        truth.shape != scores.shape
        or truth.ndim != 2
        or truth.shape[1] != len(classes)
        or len(truth) != len(clusters)
    ):
        raise InputError(
            f"truth {truth.shape}, scores {scores.shape}, {len(classes)} classes and "
            f"{len(clusters)} clusters do not fit together"
        )
    if not len(truth):
        raise InputError("no predictions to score")
    codes, names = pd.factorize(np.asarray(clusters, dtype=object))
    if (codes < 0).any():
        raise InputError(f"the cluster of row {int(np.argmax(codes < 0))} is missing")
    if not np.isfinite(scores).all():
        row, column = np.argwhere(~np.isfinite(scores))[0]
        raise InputError(
            f"the score of {classes[column]!r} in row {row} is {scores[row, column]}, "
            "not a finite number"
        )
    return truth, scores, codes, len(names)


def _row(figures: np.ndarray, prevalence: float, interval: bool) -> tuple[float, ...]:
    """Return the values of a row from (2, 1 + draws) average precisions and ROC AUCs."""
    ap, auc = figures[:, 0]
    ap_interval, auc_interval = (_interval(values[1:], interval) for values in figures)
    ratio = float(ap / prevalence) if prevalence else np.nan
    return float(ap), *ap_interval, ratio, float(auc), *auc_interval


def _interval(replicates: np.ndarray, has_interval: bool) -> tuple[float, float]:
    finite = replicates[~np.isnan(replicates)]
    if not has_interval or not len(finite):
        return np.nan, np.nan
    low, high = np.percentile(finite, [2.5, 97.5])
    return float(low), float(high)


def _macro(
    truth: np.ndarray, codes: np.ndarray, rows: list[tuple], figures: np.ndarray, tested: np.ndarray
) -> tuple:
    """Return the macro-average row; each replicate averages the classes it can test."""
    known, positive = ~np.isnan(truth).all(axis=1), (truth == 1).any(axis=1)
    counts = (MACRO, int(positive.sum()), int(known.sum()), len(np.unique(codes[positive])))
    if not tested.any():
        return *counts, *[np.nan] * (len(COLUMNS) - len(counts))
    table = pd.DataFrame(rows, columns=list(COLUMNS))[tested]
    inside = figures[tested]
    number = (~np.isnan(inside)).sum(axis=0)
    with np.errstate(invalid="ignore"):
        mean = np.where(number > 0, np.nansum(inside, axis=0) / number, np.nan)
    ap, low, high, _, *auc = _row(mean, 1.0, bool(table.low.notna().any()))
    return *counts, float(table.prevalence.mean()), ap, low, high, float(table.ratio.mean()), *auc


def weighted_ranking(
    truth: np.ndarray, score: np.ndarray, cluster: np.ndarray, times: np.ndarray
) -> np.ndarray:
    """Return average precision and ROC AUC of a class, each cluster counted `times` times.

    As scikit-learn's `average_precision_score` and `roc_auc_score` with
    `sample_weight=times[cluster]`, for all columns of `times` at once: only the places of positives
    in the ranking matter, so rows between two of them are summed by cluster first, and a replicate
    costs one multiplication by that sparse matrix. Equal scores are one place.

    Args:
        truth: (N,) bool.
        score: (N,) finite, higher is likelier.
        cluster: (N,) int in [0, C).
        times: (C, D) float32, whole numbers from 0 (their sums are exact below 2 ** 24).

    Returns:
        (2, D) float64; NaN in columns that leave no positive (average precision) or not both (ROC
        AUC).
    """
    _, place = np.unique(-score, return_inverse=True)
    marked = np.unique(place[truth])  # the G places with positives, best first
    # segment 2 g holds what lies between the marked places g - 1 and g, segment 2 g + 1 the place g
    # itself
    next_marked = np.searchsorted(marked, place)
    segment = 2 * next_marked + (marked[np.minimum(next_marked, len(marked) - 1)] == place)
    shape = (2 * len(marked) + 1, len(times))
    counts = [_counts(segment[part], cluster[part], shape) for part in (truth, ~truth)]
    counts[0] = counts[0][1::2]
    out = np.full((2, times.shape[1]), np.nan)
    step = max(1, _CELLS // shape[0])
    for start in range(0, times.shape[1], step):
        part = slice(start, start + step)
        positive, negative = (count @ times[:, part] for count in counts)
        out[:, part] = _figures(positive.astype(np.float64), negative.astype(np.float64))
    return out


def _counts(segment: np.ndarray, cluster: np.ndarray, shape: tuple[int, int]):
    """Count rows by segment and cluster, as a sparse matrix."""
    from scipy.sparse import csr_array  # slow to import, and scoring accuracy needs none

    return csr_array((np.ones(len(segment), np.float32), (segment, cluster)), shape=shape)


def _figures(positive: np.ndarray, negative: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """From positives (G, D) at, and negatives (2 G + 1, D) between and at, the marked places."""
    hits, misses = positive.cumsum(axis=0), negative.cumsum(axis=0)
    total, others, above = hits[-1], misses[-1], misses[1::2]
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(positive > 0, hits / (hits + above), 0.0)
        ap = (positive * precision).sum(axis=0) / total
        auc = 1 - (positive * (above - negative[1::2] / 2)).sum(axis=0) / (total * others)
    return np.where(total > 0, ap, np.nan), np.where((total > 0) & (others > 0), auc, np.nan)


def good_classes(table: pd.DataFrame, least: float = GOOD_AUC) -> tuple[int, int]:
    """Count the classes with a ROC AUC of at least `least`, and the tested classes."""
    auc = table.roc_auc[table["class"] != MACRO].dropna()
    return int((auc >= least).sum()), len(auc)


def average_precision_text(table: pd.DataFrame, top: int | None = None) -> str:
    """Format the table for a terminal, at most `top` classes.

    The average comes first, then the classes, furthest above their prevalence first.
    """
    classes = table[table["class"] != MACRO].sort_values(
        "ratio", ascending=False, kind="stable", na_position="last"
    )
    shown = pd.concat(
        [table[table["class"] == MACRO], classes.head(len(classes) if top is None else top)]
    )
    header = ("class", "AP", "95 % interval", "prevalence", "x prevalence", "ROC AUC")
    lines = [(*header, "95 % interval", "positives", "compounds", "n")]
    for row in shown.itertuples(index=False):
        precision = (_number(row.average_precision), _range(row.low, row.high))
        prevalence = (_number(row.prevalence), _number(row.ratio, 2))
        auc = (_number(row.roc_auc), _range(row.roc_auc_low, row.roc_auc_high))
        counts = (f"{row.positives:,}", f"{row.positive_compounds:,}", f"{row.n:,}")
        lines.append((row[0], *precision, *prevalence, *auc, *counts))
    good, tested = good_classes(table)
    left = [f"{len(classes) - top} more classes"] if top is not None and top < len(classes) else []
    untested = (
        [f"{len(classes) - tested} without both positives and negatives"]
        if tested < len(classes)
        else []
    )
    last = "; ".join([f"{good} of {tested} classes at ROC AUC >= {GOOD_AUC}", *untested, *left])
    return aligned(lines, right={1, 3, 4, 5, 7, 8, 9}) + "\n" + last


def _number(value: float, digits: int = 4) -> str:
    return "" if np.isnan(value) else f"{value:.{digits}f}"


def _range(low: float, high: float) -> str:
    return "" if np.isnan(low) else f"{low:.3f} .. {high:.3f}"

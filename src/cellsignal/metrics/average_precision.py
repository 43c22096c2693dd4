"""Compute average precision per class, with chance and an interval over compounds.

Average precision means nothing without its prevalence: guessing scores the prevalence (Cox et al.,
Sci Rep 10:13262, 2020, count mechanisms by ROC AUC instead, 41 of 83 at 0.9 or more; both stand
here). Wells, doses and replicates of a compound are one draw from the compounds that could have
been screened, so the interval comes from leaving out whole compounds in turn, the same ones for all
classes (`intervals.jackknife_interval`). A class that is left without a positive is left out of
that average. How often such intervals hold the truth: docs/results/coverage.md.

With few positive compounds average precision itself comes out too high (mean .23 for a true .17 at
six of 300), which no interval around it mends.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.tables import aligned
from cellsignal.metrics.intervals import jackknife_groups, jackknife_interval, range_text

GOOD_AUC = 0.9  # Cox et al. 2020 count the mechanisms that reach it
MACRO = "macro average"
COLUMNS = (
    *("class", "positives", "n", "positive_compounds", "prevalence"),
    *("average_precision", "low", "high", "ratio", "roc_auc", "roc_auc_low", "roc_auc_high"),
)
_CELLS = 4_000_000  # numbers in one array at a time
_NOTHING_TO_RANK = (
    "none of the {} classes has both a positive and a negative; there is nothing to rank"
)


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
        raise InputError(_NOTHING_TO_RANK.format(truth.shape[1]))
    return float(np.mean(values))


def average_precision_table(
    truth: np.ndarray,
    scores: np.ndarray,
    classes: Sequence[str],
    clusters: np.ndarray,
) -> pd.DataFrame:
    """Score every class and their mean, with 95 % intervals over clusters.

    Args:
        truth: (N, K) bool, or float with NaN where it is not known: left out, never negative.
        scores: (N, K) finite, higher is likelier; only the order within a class counts.
        clusters: (N,) the unit of each row, usually the compound.

    Returns:
        Columns `COLUMNS`: the macro average first, then the classes in their order. A class without
        a positive or without a negative has NaN for its figures and is left out of the average,
        whose `n` and `positives` count rows known for, and positive of, any class. Intervals are
        NaN where fewer than `intervals.LEAST_UNITS` clusters hold positives, or negatives.

    Raises:
        InputError: shapes that disagree, a missing cluster, or a score that is not finite.
    """
    truth, scores, codes, count = _checked(truth, scores, classes, clusters)
    group, n_groups = jackknife_groups(codes, count)
    figures = leave_out_rankings(truth, scores, group, n_groups)
    rows = []
    for number, name in enumerate(classes):
        known = ~np.isnan(truth[:, number])
        true, cluster = truth[known, number] == 1, codes[known]
        n_clusters = [len(np.unique(cluster[part])) for part in (true, ~true)]
        rarer = true if n_clusters[0] <= n_clusters[1] else ~true
        share = np.bincount(group[known][rarer], minlength=n_groups) / max(rarer.sum(), 1)
        prevalence = true.mean() if len(true) else np.nan
        counts = (int(true.sum()), len(true), n_clusters[0])
        rows.append((name, *counts, prevalence, *_row(figures[number], prevalence, share)))
    macro = _macro(truth, codes, rows, figures, group)
    return pd.DataFrame([macro, *rows], columns=list(COLUMNS))


def leave_out_rankings(
    truth: np.ndarray, scores: np.ndarray, group: np.ndarray, n_groups: int
) -> np.ndarray:
    """Return average precision and ROC AUC of each class, of all rows and without each group.

    Args:
        truth, scores: (N, K), as `average_precision_table` takes them.
        group: (N,) int below `n_groups`.

    Returns:
        (K, 2, 1 + n_groups), NaN where a class has not both positives and negatives.
    """
    times = np.ones((n_groups, 1 + n_groups), np.float32)
    times[np.arange(n_groups), 1 + np.arange(n_groups)] = 0
    figures = np.full((truth.shape[1], 2, 1 + n_groups), np.nan)
    for number in range(truth.shape[1]):
        known = ~np.isnan(truth[:, number])
        true = truth[known, number] == 1
        if true.any() and not true.all():
            figures[number] = weighted_ranking(true, scores[known, number], group[known], times)
    return figures


def macro_leave_out(figures: np.ndarray) -> np.ndarray:
    """Average (K, ...) figures over the classes that have one; NaN where none has."""
    number = (~np.isnan(figures)).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(number > 0, np.nansum(figures, axis=0) / number, np.nan)


def macro_leave_out_scores(
    truth: np.ndarray, scores: np.ndarray, clusters: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """Return the macro average precision, without each unit, and the units' shares.

    Returns:
        The score of all rows, (J,) without each unit, (J,) its share of all positives: what
        `intervals.jackknife_interval` takes.

    Raises:
        InputError: as `average_precision_table`, or no class has a positive and a negative.
    """
    classes = range(truth.shape[1])
    truth, scores, codes, count = _checked(truth, scores, classes, clusters)
    group, n_groups = jackknife_groups(codes, count)
    values = macro_leave_out(leave_out_rankings(truth, scores, group, n_groups)[:, 0])
    if np.isnan(values[0]):
        raise InputError(_NOTHING_TO_RANK.format(truth.shape[1]))
    return float(values[0]), values[1:], positive_share(truth, group, n_groups)


def positive_share(truth: np.ndarray, group: np.ndarray, n_groups: int) -> np.ndarray:
    """Return the share of all positives that each group holds."""
    positives = np.bincount(group, weights=(truth == 1).sum(axis=1), minlength=n_groups)
    return positives / max(positives.sum(), 1)


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


def _row(figures: np.ndarray, prevalence: float, share: np.ndarray) -> tuple[float, ...]:
    """Return the values of a row from (2, 1 + groups) average precisions and ROC AUCs."""
    ap, auc = figures[:, 0]
    intervals = [jackknife_interval(float(values[0]), values[1:], share) for values in figures]
    ratio = float(ap / prevalence) if prevalence else np.nan
    return float(ap), *intervals[0], ratio, float(auc), *intervals[1]


def _macro(
    truth: np.ndarray, codes: np.ndarray, rows: list[tuple], figures: np.ndarray, group: np.ndarray
) -> tuple:
    """Return the macro-average row."""
    known, positive = ~np.isnan(truth).all(axis=1), (truth == 1).any(axis=1)
    counts = (MACRO, int(positive.sum()), int(known.sum()), len(np.unique(codes[positive])))
    tested = ~np.isnan(figures[:, 0, 0])
    if not tested.any():
        return *counts, *[np.nan] * (len(COLUMNS) - len(counts))
    table = pd.DataFrame(rows, columns=list(COLUMNS))[tested]
    share = positive_share(truth[:, tested], group, figures.shape[2] - 1)
    ap, low, high, _, *auc = _row(macro_leave_out(figures[tested]), 1.0, share)
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
        precision = (_number(row.average_precision), range_text(row.low, row.high, 3))
        prevalence = (_number(row.prevalence), _number(row.ratio, 2))
        auc = (_number(row.roc_auc), range_text(row.roc_auc_low, row.roc_auc_high, 3))
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

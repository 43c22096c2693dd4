"""Measure row and column effects of a plate, and what chance gives."""

import numpy as np
import pandas as pd

from cellsignal.profiles.position_effects import median_polish

PERMUTATIONS = 99
_WELL = r"^([A-Z]{1,2})(\d{1,2})$"
_WELLS_PER_LINE = 2  # at least, over rows and columns; else the polish explains everything
_COMPLETE = 0.9  # share of the wells that a readout is known of
_SHARE, _SDS = 0.8, 1.2816  # of |x| of a normal distribution, this share is below so many SDs


def position_effects(values: np.ndarray, well: pd.Series, seed: int = 0) -> np.ndarray:
    """Return size and p value of the row and of the column effects of one plate, (F, 4).

    An effect's size is the range of the row (or column) medians after Tukey's median polish, in
    robust SDs of what remains. Its p value is the share of plates with exchanged wells, this one
    counted, on which it is as large: with 99 exchanges at least .01.

    Args:
        values: (W, F) readouts of the wells, NaN where not measured.
        well: (W,) addresses.

    Returns:
        Columns row effect, its p, column effect, its p. NaN where fewer than two rows and columns,
        or fewer wells than twice the rows and columns together, are known, and where nothing
        remains to vary.
    """
    out = np.full((values.shape[1], 4), np.nan)
    parts = well.astype(str).str.extract(_WELL)
    is_known = np.isfinite(values)
    used = np.flatnonzero(is_known.mean(axis=0) >= _COMPLETE)
    chosen = parts.notna().all(axis=1).to_numpy() & is_known[:, used].all(axis=1)
    row, column = (pd.factorize(parts[name][chosen])[0] for name in (0, 1))
    lines = len(set(row)), len(set(column))
    if not len(used) or min(lines) < 2 or chosen.sum() < _WELLS_PER_LINE * sum(lines):
        return out
    x = values[np.ix_(chosen, used)]
    generator = np.random.default_rng(seed)
    orders = [np.arange(len(x)), *(generator.permutation(len(x)) for _ in range(PERMUTATIONS))]
    sizes = effect_sizes(np.hstack([x[order] for order in orders]), row, column)
    sizes = sizes.reshape(2, len(orders), len(used))
    with np.errstate(invalid="ignore"):
        p = (sizes >= sizes[:, :1] - 1e-9).mean(axis=1)
    p[np.isnan(sizes[:, 0])] = np.nan
    out[used] = np.stack([sizes[0, 0], p[0], sizes[1, 0], p[1]], axis=1)
    return out


def effect_sizes(x: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Return the size of row and of column effects, (2, D), NaN where nothing remains to vary.

    The SD of what remains is taken from the 80th percentile of its distance from the median: a
    polish by medians makes many of the smallest distances zero, which would halve the MAD. It is
    corrected for the lines that were fitted.
    """
    effects = median_polish(x, row, column)
    rest = x - np.median(x, axis=0)
    for code, by in zip((row, column), effects, strict=True):
        rest = rest - np.stack([by[number] for number in range(len(by))])[code]
    distance = np.abs(rest - np.median(rest, axis=0))
    free = len(x) - sum(map(len, effects)) + 1
    spread = np.quantile(distance, _SHARE, axis=0) / _SDS * np.sqrt(len(x) / free)
    ranges = [np.ptp(np.stack(list(by.values())), axis=0) for by in effects]
    with np.errstate(divide="ignore", invalid="ignore"):
        varies = spread > 1e-9 * np.abs(x).max(axis=0)
        return np.where(varies, np.stack(ranges) / spread, np.nan)

"""Test whether groups of queries beat random orders, by copairs' null or the published one."""

import contextlib
import functools
import logging
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from cellsignal.common.optional import load_extra

NullKind = Literal["copairs", "published"]
NULL_SIZE = 100_000
THRESHOLD = 0.05  # of q
_DRAWN = 10_000_000  # random numbers in memory at a time


@dataclass(frozen=True)
class Null:
    """The permutation null.

    Attributes:
        size: random orders for each number of positives and negatives.
        seed: of these orders.
        cache: a folder in which they are kept; None keeps none.
        kind: "copairs": p of a group is the share of means over random orders of its queries that
            exceed its mAP. "published" (Chandrasekaran et al. 2024): p of each query is the share
            of random orders of strictly greater AP, and a group's -log10 p the mean over its
            queries.
    """

    size: int = NULL_SIZE
    seed: int = 0
    cache: Path | None = None
    kind: NullKind = "copairs"

    def test(self, scores: pd.DataFrame) -> pd.DataFrame:
        """Test the groups of some queries.

        Args:
            scores: one row a query: group, average_precision, n_pos_pairs, n_total_pairs.

        Returns:
            mean_average_precision, p_value and q_value (Benjamini-Hochberg), the index the group.
        """
        if self.kind == "published":
            return _test_as_published(scores, self)
        return _test_by_copairs(scores, self)


DEFAULT_NULL = Null()


def _test_by_copairs(scores: pd.DataFrame, null: Null) -> pd.DataFrame:
    """Test by copairs, quietly and without its cache in the user's home."""
    copairs = load_extra("copairs.map", "profiles", "p values of retrieval")
    # a column of copairs' that nothing here reads
    scores = scores.assign(normalized_average_precision=np.nan)
    options = {"progress_bar": False, "max_workers": 1}
    with _quiet_copairs(), tempfile.TemporaryDirectory() as folder:
        table = copairs.mean_average_precision(
            scores,
            ["group"],
            null.size,
            THRESHOLD,
            null.seed,
            cache_dir=null.cache or Path(folder),
            **options,
        )
    table = table.rename(columns={"corrected_p_value": "q_value"})
    return table.set_index("group")[["mean_average_precision", "p_value", "q_value"]]


def _test_as_published(scores: pd.DataFrame, null: Null) -> pd.DataFrame:
    from scipy.stats import false_discovery_control

    surprise = np.empty(len(scores))
    sizes = scores.groupby(["n_pos_pairs", "n_total_pairs"])
    for (positives, total), rows in sizes.indices.items():
        random = random_precisions(int(positives), int(total), null.size, null.seed)
        precision = scores.average_precision.to_numpy()[rows]
        # what exceeds by rounding alone is not greater
        greater = null.size - np.searchsorted(random, precision + 1e-9, side="right")
        surprise[rows] = -np.log10((greater + 1) / (null.size + 1))
    groups = scores.assign(surprise=surprise).groupby("group")
    means = groups[["average_precision", "surprise"]].mean()
    p_value = np.power(10.0, -means.surprise)
    table = pd.DataFrame({"mean_average_precision": means.average_precision, "p_value": p_value})
    return table.assign(q_value=false_discovery_control(p_value))


@functools.lru_cache(maxsize=256)
def random_precisions(positives: int, total: int, size: int, seed: int) -> np.ndarray:
    """Return the average precisions of random orders of items, ascending.

    Args:
        positives: relevant items.
        total: all items.
        size: orders.

    Returns:
        (size,) float64.
    """
    rng, precisions = np.random.default_rng(seed), []
    rows = max(1, _DRAWN // total)
    for start in range(0, size, rows):
        drawn = rng.random((min(rows, size - start), total), dtype=np.float32)
        places = np.argpartition(drawn, min(positives, total - 1), axis=1)[:, :positives]
        rank = np.sort(places, axis=1) + 1
        precisions.append((np.arange(1, positives + 1) / rank).mean(axis=1))
    return np.sort(np.concatenate(precisions))


@contextlib.contextmanager
def _quiet_copairs() -> Iterator[None]:
    """Silence copairs' log messages and its warnings about means of empty arrays."""
    logger = logging.getLogger("copairs")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)

"""Do groups of queries beat random orders? Two permutation nulls of a fraction retrieved, copairs'
and the published one.
"""

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
        exceed its mAP. "published" (Chandrasekaran et al.
            2024): p of each query is the share of random orders of strictly greater AP, and a
            group's -log10 p the mean over its queries.
    """

    size: int = NULL_SIZE
    seed: int = 0
    cache: Path | None = None
    kind: NullKind = "copairs"

    def test(self, scores: pd.DataFrame) -> pd.DataFrame:
        """Test the groups of some queries.

        Args:
            scores: One row a query: group, average_precision, n_pos_pairs, n_total_pairs.

        Returns:
            mean_average_precision, p_value and q_value (Benjamini-Hochberg), the index the group.
        """
        return _published(scores, self) if self.kind == "published" else _by_copairs(scores, self)


DEFAULT_NULL = Null()


def _by_copairs(scores: pd.DataFrame, null: Null) -> pd.DataFrame:
    """mAP, p and q by group, by copairs; quiet, and without its cache in the user's home."""
    from copairs import map as copairs_map

    # a column of copairs' that nothing here reads
    scores = scores.assign(normalized_average_precision=np.nan)
    with _quiet_copairs(), _null_folder(null) as folder:
        found = copairs_map.mean_average_precision(
            scores,
            ["group"],
            null.size,
            THRESHOLD,
            null.seed,
            progress_bar=False,
            max_workers=1,
            cache_dir=folder,
        )
    found = found.rename(columns={"corrected_p_value": "q_value"})
    return found.set_index("group")[["mean_average_precision", "p_value", "q_value"]]


def _published(scores: pd.DataFrame, null: Null) -> pd.DataFrame:
    """mAP, p and q by group, as published; see `Null`."""
    from scipy.stats import false_discovery_control

    surprise = np.empty(len(scores))
    for (positives, total), rows in scores.groupby(
        ["n_pos_pairs", "n_total_pairs"]
    ).indices.items():
        random = random_precisions(int(positives), int(total), null.size, null.seed)
        precision = scores.average_precision.to_numpy()[rows]
        # what exceeds by rounding alone is not greater
        greater = null.size - np.searchsorted(random, precision + 1e-9, side="right")
        surprise[rows] = -np.log10((greater + 1) / (null.size + 1))
    means = (
        scores.assign(surprise=surprise).groupby("group")[["average_precision", "surprise"]].mean()
    )
    p_value = np.power(10.0, -means.surprise)
    table = pd.DataFrame({"mean_average_precision": means.average_precision, "p_value": p_value})
    return table.assign(q_value=false_discovery_control(p_value))


@functools.lru_cache(maxsize=256)
def random_precisions(positives: int, total: int, size: int, seed: int) -> np.ndarray:
    """Average precisions of `size` random orders of `total` items, `positives` of them relevant:
    (size,) ascending.
    """
    rng, found = np.random.default_rng(seed), []
    rows = max(1, _DRAWN // total)
    for start in range(0, size, rows):
        drawn = rng.random((min(rows, size - start), total), dtype=np.float32)
        places = np.argpartition(drawn, min(positives, total - 1), axis=1)[:, :positives]
        found.append((np.arange(1, positives + 1) / (np.sort(places, axis=1) + 1)).mean(axis=1))
    return np.sort(np.concatenate(found))


@contextlib.contextmanager
def _null_folder(null: Null) -> Iterator[Path]:
    with contextlib.ExitStack() as stack:
        yield null.cache or Path(stack.enter_context(tempfile.TemporaryDirectory()))


@contextlib.contextmanager
def _quiet_copairs() -> Iterator[None]:
    """copairs logs a line for each of its steps and warns of means of nothing; neither says
    anything of the data.
    """
    logger = logging.getLogger("copairs")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)

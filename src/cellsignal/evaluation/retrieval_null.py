"""Do groups of queries beat random orders? Two permutation nulls of a fraction retrieved, copairs' and the published one."""

import contextlib
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


@dataclass(frozen=True)
class Null:
    """The permutation null.

    Attributes:
        size: random orders for each number of positives and negatives.
        seed: of these orders.
        cache: a folder in which they are kept; None keeps none.
        kind: "copairs": p of a group is the share of means over random orders of its queries that exceed its mAP. "published" (Chandrasekaran et al.
            2024): p of each query is the share of random orders of strictly greater AP, and a group's -log10 p the mean over its queries.
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


def _by_copairs(scores: pd.DataFrame, null: Null) -> pd.DataFrame:
    """mAP, p and q by group, by copairs; quiet, and without its cache in the user's home."""
    from copairs import map as copairs_map

    scores = scores.assign(normalized_average_precision=np.nan)  # a column of copairs' that nothing here reads
    with _quiet_copairs(), _null_folder(null) as folder:
        found = copairs_map.mean_average_precision(
            scores, ["group"], null.size, THRESHOLD, null.seed, progress_bar=False, max_workers=1, cache_dir=folder
        )
    found = found.rename(columns={"corrected_p_value": "q_value"})
    return found.set_index("group")[["mean_average_precision", "p_value", "q_value"]]


def _published(scores: pd.DataFrame, null: Null) -> pd.DataFrame:
    """mAP, p and q by group, as published; see `Null`."""
    from copairs.compute import get_null_dists
    from scipy.stats import false_discovery_control

    pairs = ["n_pos_pairs", "n_total_pairs"]
    surprise = np.empty(len(scores))
    with _quiet_copairs(), _null_folder(null) as folder:
        for kind, rows in scores.groupby(pairs).indices.items():
            random = np.sort(get_null_dists(np.array([kind]), null.size, null.seed, folder, progress_bar=False)[0])
            precision = scores.average_precision.to_numpy()[rows]
            # random precisions are float32: what exceeds by rounding alone is not greater
            greater = null.size - np.searchsorted(random, precision + 1e-6, side="right")
            surprise[rows] = -np.log10((greater + 1) / (null.size + 1))
    means = scores.assign(surprise=surprise).groupby("group")[["average_precision", "surprise"]].mean()
    p_value = np.power(10.0, -means.surprise)
    table = pd.DataFrame({"mean_average_precision": means.average_precision, "p_value": p_value})
    return table.assign(q_value=false_discovery_control(p_value))


@contextlib.contextmanager
def _null_folder(null: Null) -> Iterator[Path]:
    with contextlib.ExitStack() as stack:
        yield null.cache or Path(stack.enter_context(tempfile.TemporaryDirectory()))


@contextlib.contextmanager
def _quiet_copairs() -> Iterator[None]:
    """copairs logs a line for each of its steps and warns of means of nothing; neither says anything of the data."""
    logger = logging.getLogger("copairs")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)

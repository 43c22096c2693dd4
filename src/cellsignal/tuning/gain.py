"""What the winner of a search gains over the base, on targets that both predicted out of fold."""

from collections.abc import Sequence

import numpy as np

from cellsignal.common.errors import InputError
from cellsignal.competitions.targets import subset
from cellsignal.config import Config
from cellsignal.metrics.intervals import interval_words, range_text
from cellsignal.metrics.paired import Paired, compare_scores
from cellsignal.report.runs import OutOfFold, read_out_of_fold


def measure_gain(pairs: Sequence[tuple[Config, Config]]) -> tuple[Paired, list[float], str]:
    """Compare the trained configs of winner and base, a pair (base, winner) for each seed.

    Returns:
        The winner's mean score over the seeds minus the base's, with the interval over fold groups;
        the difference of each seed; and the name of the fold group.

    Raises:
        InputError: a run has no predictions, or the two were predicted against different labels.
    """
    runs = [(read_run(base), read_run(winner)) for base, winner in pairs]
    ids = runs[0][0].targets.target_id
    for pair in runs:
        for run in pair:
            ids = np.intersect1d(ids, run.targets.target_id)
    if not len(ids):
        raise InputError(f"{pairs[0][1].name}: predicted no target that the base predicted")
    kept = [(base.kept(ids), winner.kept(ids)) for base, winner in runs]
    first = kept[0][0]
    for run in (run for pair in kept for run in pair):
        if not _have_same_truth(run, first):
            raise InputError(
                f"{pairs[0][1].name}: was predicted against other labels than its base"
            )

    def score(rows: np.ndarray) -> tuple[float, float]:
        means = [np.mean([_score(pair[place], rows) for pair in kept]) for place in (1, 0)]
        return float(means[0]), float(means[1])

    paired = compare_scores(score, first.cluster, len(ids))
    every = np.arange(len(ids))
    by_seed = [_score(winner, every) - _score(base, every) for base, winner in kept]
    return paired, by_seed, first.group


def read_run(config: Config) -> OutOfFold:
    """Read the out-of-fold predictions of a run of a search.

    Raises:
        InputError: the run was deleted since, or has no predictions.
    """
    if not config.run_folder.is_dir():
        raise InputError(
            f"{config.run_folder}: this run of the search is gone, and its trial is finished; put "
            "it back, or move the search and its other runs away to start anew"
        )
    return read_out_of_fold([config])


def _have_same_truth(run: OutOfFold, other: OutOfFold) -> bool:
    if not np.array_equal(run.targets.label, other.targets.label):
        return False
    labels, others = run.targets.labels, other.targets.labels
    return labels is None or np.array_equal(labels, others, equal_nan=True)


def _score(run: OutOfFold, rows: np.ndarray) -> float:
    return run.task.point_score(subset(run.targets, rows))


def gain_words(paired: Paired, group: str) -> str:
    """Write a gain and its interval: "+0.01 (95 % interval over 7 experiments -0.01 .. +0.03)"."""
    ends = range_text(paired.low, paired.high, sign="+")
    words = interval_words(group, paired.units)
    if ends:
        words = f"{words} {ends}"
    elif not words.startswith("no interval"):
        words = "no interval: the same in every unit"
    return f"{paired.difference:+.4f} ({words})"

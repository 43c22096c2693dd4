"""Scoring a submission of rankings against the answers: the counterpart of `score` where the answer
is a list, best first.
"""

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cellsignal.common.tables import aligned
from cellsignal.metrics.accuracy import clustered_interval
from cellsignal.metrics.ranking import average_precisions, ranked_matches

if TYPE_CHECKING:
    from cellsignal.competitions.base import Competition

COLUMNS = ("slice", "name", "n", "skipped", "average_precision", "low", "high", "rank1")
_SEED = 0  # of the bootstrap


def score_ranking(
    competition: "Competition", submission: pd.DataFrame, answers: pd.DataFrame
) -> pd.DataFrame:
    """Mean average precision and rank-1, overall, by leaderboard and by experiment (library).

    Returns:
        Columns `COLUMNS`. `n` queries have a match, `skipped` have none. `low` and `high` are the
        95 % interval of a bootstrap over the queries' compounds, NaN where there is one compound.

    Raises:
        InvalidSubmission: ids that are missing or unknown, or a ranking that is not the whole
        gallery once.
    """
    competition.score(submission, answers)  # refuses what cannot be scored
    rankings = submission.set_index(competition.id_column)[competition.target_column].loc[
        answers[competition.id_column]
    ]
    lists = ranked_matches(rankings.tolist(), answers.matches.tolist(), answers.left_out.tolist())
    precision = average_precisions(lists)
    first = np.array([bool(found[0]) if len(found) else False for found in lists])
    slices = [("overall", "overall", np.ones(len(answers), bool))]
    slices += [
        (board, board, answers.leaderboard.eq(board).to_numpy()) for board in ("public", "private")
    ]
    slices += [
        ("experiment", name, answers.experiment.eq(name).to_numpy())
        for name in sorted(answers.experiment.unique())
    ]
    rows = []
    for kind, name, inside in slices:
        told = inside & ~np.isnan(precision)
        if told.any():
            low, high = clustered_interval(
                precision[told], answers["compound"].to_numpy()[told], _SEED
            )
            rows.append(
                (
                    kind,
                    name,
                    int(told.sum()),
                    int((inside & ~told).sum()),
                    precision[told].mean(),
                    low,
                    high,
                    first[told].mean(),
                )
            )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def ranking_text(scores: pd.DataFrame) -> str:
    """The table of `score_ranking` for a terminal."""
    lines = [("slice", "name", "mAP", "95 % interval", "rank 1", "queries", "without a match")]
    for row in scores.itertuples():
        interval = "" if math.isnan(row.low) else f"{row.low:.4f} .. {row.high:.4f}"
        lines.append(
            (
                row.slice,
                row.name,
                f"{row.average_precision:.4f}",
                interval,
                f"{row.rank1:.4f}",
                f"{row.n:,}",
                f"{row.skipped:,}",
            )
        )
    return aligned(lines, right={2, 4, 5, 6}) + "\nintervals resample the queries' compounds"

"""A ranking of a gallery for each id, best first, scored by mean average precision."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError, InvalidSubmission
from cellsignal.common.tables import aligned
from cellsignal.competitions import submissions
from cellsignal.competitions.single_label import SingleLabel
from cellsignal.competitions.targets import Truth, slices_of
from cellsignal.competitions.units import interval_note, over_text, unit_interval
from cellsignal.metrics.intervals import range_text
from cellsignal.metrics.ranking import (
    average_precisions,
    order_by_class,
    ranked_matches,
)

COLUMNS = (
    *("slice", "name", "n", "skipped", "average_precision", "low", "high", "unit", "units"),
    "rank1",
)


class Ranking(SingleLabel):
    """A ranking of the gallery for each query. Networks learn one class a track.

    Training and out-of-fold scores are those of `SingleLabel`; only submissions are rankings. The
    competition has `gallery(root)`: columns target_id and label. Its answers have the columns
    `matches` and `left_out`: gallery ids with spaces between.
    """

    score_column = "average_precision"
    slices = ("experiment",)
    printed_slices = (*SingleLabel.printed_slices, "experiment")

    def require_ranking(self, verb: str) -> None:
        """Allow the verb."""

    def truth(self, answers: pd.DataFrame, classes: Sequence[str]) -> Truth:
        ids = answers[self.competition.id_column].to_numpy(object)
        labels = answers.moa.map(list(classes).index).to_numpy(np.int64)
        return Truth(ids, labels, *self.units_of(answers))

    def format_predictions(
        self, target_ids: Iterable[str], scores: np.ndarray, root: Path
    ) -> pd.DataFrame:
        """Rank the gallery by the score of its classes; ties at random, controls last."""
        labels = self.competition.gallery(root).label.to_numpy()
        return self.format_rankings(target_ids, order_by_class(scores, labels), root)

    def format_labels(
        self, target_ids: Iterable[str], labels: Iterable[int], root: Path
    ) -> pd.DataFrame:
        """Rank the gallery's tracks of the predicted class first."""
        scores = np.eye(len(self.competition.classes(root)))[np.asarray(list(labels), dtype=int)]
        return self.format_predictions(target_ids, scores, root)

    def format_rankings(
        self, target_ids: Iterable[str], order: np.ndarray, root: Path
    ) -> pd.DataFrame:
        """Write rankings as a submission, in the sample submission's order.

        Args:
            target_ids: T ids, in any order.
            order: (T, G) int, rows of `gallery(root)`, best first.

        Raises:
            InvalidSubmission: a query has no ranking, or a ranking no query.
        """
        names = self.competition.gallery(root).target_id.to_numpy(object)
        columns = {
            self.competition.id_column: list(target_ids),
            self.competition.target_column: [" ".join(names[rows]) for rows in np.asarray(order)],
        }
        sample = self.competition.sample_submission(root)
        frame = pd.DataFrame(columns, dtype=object)
        return submissions.in_sample_order(frame, sample, self.competition.id_column)

    def check_values(
        self, submission: pd.DataFrame, sample: pd.DataFrame, classes: Sequence[str]
    ) -> None:
        """Refuse rankings that are not the whole gallery once."""
        self._check_rankings(submission, sample, submissions.SUBMISSION)

    def _check_rankings(self, submission: pd.DataFrame, complete: pd.DataFrame, name: str) -> None:
        """Refuse rankings that do not hold each id of `complete`'s first ranking once."""
        ids, target = self.competition.id_column, self.competition.target_column
        gallery = complete[target].iloc[0].split()
        for query, text in zip(submission[ids], submission[target], strict=True):
            ranking = pd.Index(str(text).split())
            unknown = ranking[~ranking.isin(gallery)]
            if len(unknown):
                raise InvalidSubmission(
                    f"{name}: ranking of {query!r}: {unknown[0]!r} is not a gallery track"
                )
            if len(ranking) == len(gallery) and ranking.is_unique:
                continue
            if ranking.is_unique:
                why = f"{min(set(gallery) - set(ranking))!r} is missing"
            else:
                why = f"{ranking[ranking.duplicated(keep=False)][0]!r} stands there twice"
            raise InvalidSubmission(
                f"{name}: ranking of {query!r} has {len(ranking)} of {len(gallery)} gallery "
                f"tracks: {why}"
            )

    def _matches_and_precisions(
        self, submission: pd.DataFrame, answers: pd.DataFrame, name: str
    ) -> tuple[list[np.ndarray], np.ndarray]:
        """Return whether each place of each query's list matches, and its average precision."""
        ids, target = self.competition.id_column, self.competition.target_column
        submissions.require_columns(submission.columns, ids, [target], name)
        submissions.check_submission_ids(submission, answers, ids, name)
        self._check_rankings(submission, answers, name)
        rankings = submission.set_index(ids)[target].loc[answers[ids]]
        matches = ranked_matches(rankings, answers.matches, answers.left_out)
        precisions = average_precisions(matches)
        if np.isnan(precisions).all():
            raise InputError(
                f"none of the {len(precisions)} queries has a match in the gallery; there is "
                "nothing to score"
            )
        return matches, precisions

    def score(self, submission: pd.DataFrame, answers: pd.DataFrame) -> float:
        """Return the mean average precision over the queries with a match."""
        _, precisions = self._matches_and_precisions(submission, answers, submissions.SUBMISSION)
        return float(np.nanmean(precisions))

    def _scores_of_ids(
        self, submission: pd.DataFrame, answers: pd.DataFrame, name: str
    ) -> np.ndarray:
        return self._matches_and_precisions(submission, answers, name)[1]

    def score_table(
        self, submission: pd.DataFrame, answers: pd.DataFrame, name: str = submissions.SUBMISSION
    ) -> pd.DataFrame:
        """Mean average precision and rank-1, overall, by leaderboard and by experiment (library).

        Returns:
            Columns `COLUMNS`. `n` queries have a match, `skipped` have none. `low` and `high` are
            the 95 % interval over `units` of the `unit`, NaN where there are too few.
        """
        matches, precision = self._matches_and_precisions(submission, answers, name)
        first = np.array([len(match) > 0 and bool(match[0]) for match in matches])
        unit = self.resampled_column(answers)
        units = answers[unit].to_numpy()
        rows = []
        for kind, slice_name, inside in slices_of(answers, self.slices):
            scored = inside & ~np.isnan(precision)
            if scored.any():
                interval = unit_interval(
                    precision[scored], unit, units[scored], self.competition.id_column
                )
                counts = (int(scored.sum()), int((inside & ~scored).sum()))
                figures = (precision[scored].mean(), *interval, first[scored].mean())
                rows.append((kind, slice_name, *counts, *figures))
        return pd.DataFrame(rows, columns=list(COLUMNS))

    def table_text(self, table: pd.DataFrame) -> str:
        head = ("slice", "name", "mAP", "95 % interval", "over", "rank 1", "queries")
        lines = [(*head, "without a match")]
        for row in table.to_dict("records"):
            over = over_text(row["unit"], row["units"])
            interval = (range_text(row["low"], row["high"]), over)
            score, rank1 = f"{row['average_precision']:.4f}", f"{row['rank1']:.4f}"
            counts = (f"{row['n']:,}", f"{row['skipped']:,}")
            lines.append((row["slice"], row["name"], score, *interval, rank1, *counts))
        return f"{aligned(lines, right={2, 5, 6, 7})}\n{interval_note(table)}"

    def check_answers(self, answers: pd.DataFrame, root: Path, path: Path) -> None:
        target = self.competition.target_column
        sample = self.competition.sample_submission(root)
        gallery = set(sample[target].iloc[0].split())
        answered = set(answers[target].iloc[0].split())
        for names, words in (
            (gallery - answered, "lacks"),
            (answered - gallery, "has, and --root has not,"),
        ):
            if names:
                raise InputError(
                    f"{path}: {words} {len(names)} gallery tracks, first {min(names)!r}"
                )

    def check_names(self, submission, answers, root, path, name) -> None:
        """Nothing to do: `score_table` checks rankings."""

"""Score re-identification: each query track ranks a gallery, its mechanism (MoA) should come first.

Protocols say which gallery tracks a query does not rank:

- published (Li et al., Nat Comput Sci 2024): those of its own library *and* drug. The same drug in
  another library counts as a match, and tracks of one well may stand in training, query and
  gallery: it measures that a drug is recognised again as much as that a mechanism is.
- strict: those of its own drug in any library, so that only another drug of the mechanism counts.
- strict, new drugs: strict, over the queries alone whose drug took no part in pretraining, training
  or validation (`reid_new_drugs`). It says something about new drugs; the gallery's may have been
  trained on, as those of a reference library are.

A query without a match among what is left is skipped and counted. Rank-k is the share of queries
with a match among the first k (CMC), mAP the mean of the average precision over the whole list.
Equal distances count as a random order (`common.ties`): AP is its mean over the orders of ties, and
the rank of the first match is that of one order, drawn with a seed. So a model that gives every
track one embedding scores chance. Wilson's interval takes tracks as independent, which tracks of
one drug are not; the interval over drugs takes drugs as the units and is the one for a claim about
other drugs.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.ties import (
    draw_one,
    expected_average_precision,
    random_order,
    tied_best,
    unit_vectors,
)
from cellsignal.evaluation.retrieval import expected_ap
from cellsignal.metrics.accuracy import Accuracy, Score, accuracy
from cellsignal.metrics.average_precision import MACRO, average_precision_table
from cellsignal.metrics.intervals import mean_interval

Protocol = Literal["published", "strict"]
NEW_DRUGS = "strict, new drugs"
_TIE_SEED = 0  # of the orders of equal distances
_COLUMNS = ("label", "compound", "library")


@dataclass(frozen=True)
class ReId:
    """What a ranking of the gallery scores under one protocol.

    Attributes:
        protocol: published, strict, or `NEW_DRUGS`.
        queries: one row a scored query: `query` (its row in the table of queries), label, compound,
            library, `length` (gallery tracks that it ranks), `matches` among them, `first` (rank of
            the first match, from 1; ties drawn) and `average_precision` (expected, of ties).
        skipped: queries without a match.
        mean_average_precision: with its interval over drugs (NaN where there are too few drugs).
    """

    protocol: str
    queries: pd.DataFrame
    skipped: int
    mean_average_precision: Score

    @property
    def cmc(self) -> np.ndarray:
        """(longest list,): entry k - 1 is the share of queries with a match among the first k."""
        first = np.bincount(self.queries["first"], minlength=self.queries.length.max() + 1)
        return first[1:].cumsum() / len(self.queries)

    def rank(self, k: int) -> Accuracy:
        """Return rank-k, with Wilson's interval."""
        return Accuracy.of(int((self.queries["first"] <= k).sum()), len(self.queries))

    def rank_over_drugs(self, k: int) -> tuple[float, float]:
        """Return the 95 % interval of rank-k over drugs."""
        return mean_interval(self.queries["first"] <= k, self.queries.compound)

    def random_rank(self, k: int) -> float:
        """Return the rank-k expected of a random order: k draws without replacement a query."""
        from scipy.stats import hypergeom

        length, matches = self.queries.length.to_numpy(), self.queries.matches.to_numpy()
        return float(hypergeom.sf(0, length, matches, np.minimum(k, length)).mean())

    @property
    def random_average_precision(self) -> float:
        """mAP expected of a random order."""
        length, matches = self.queries.length.to_numpy(), self.queries.matches.to_numpy()
        return float(expected_ap(matches, length).mean())


@dataclass(frozen=True)
class Classified:
    """What the classifier's logits score on the queries.

    Attributes:
        accuracy: right argmaxes, of equal logits one drawn, with Wilson's interval.
        over_drugs: 95 % interval of the accuracy over drugs.
        auc: one-vs-rest ROC AUC of the softmax, averaged over the classes that have queries, with
            its interval over drugs.
        classes: how many classes these are.
        of: how many classes the logits have.
    """

    accuracy: Accuracy
    over_drugs: tuple[float, float]
    auc: Score
    classes: int
    of: int


def cosine_distances(query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """Return 1 - cosine of each query and gallery embedding: (Q, D), (G, D) -> (Q, G) in [0, 2].

    An embedding of zeros is at 1 from all, as in scikit-learn.

    Raises:
        InputError: widths that differ, or a value that is not finite; the row is named.
    """
    units = []
    for name, x in (("query", query), ("gallery", gallery)):
        x = np.asarray(x, np.float64)
        if x.ndim != 2 or not len(x):
            raise InputError(
                f"{name}: needs one embedding a track, not an array of shape {x.shape}"
            )
        finite = np.isfinite(x).all(axis=1)
        if not finite.all():
            raise InputError(f"{name}: embedding {int(np.argmin(finite))} is not finite")
        units.append(unit_vectors(x))
    widths = [unit.shape[1] for unit in units]
    if widths[0] != widths[1]:
        raise InputError(
            f"query and gallery embeddings differ in width: {widths[0]} and {widths[1]}"
        )
    return np.clip(1 - units[0] @ units[1].T, 0, 2)


def nearest(distance: np.ndarray, k: int | None = None) -> np.ndarray:
    """Rank the gallery by distance, nearest first: (Q, G) -> (Q, k) int rows; None ranks it all.

    Equal distances stand in a random order.
    """
    return random_order(distance, _TIE_SEED)[:, :k]


def reid(
    distance: np.ndarray,
    query: pd.DataFrame,
    gallery: pd.DataFrame,
    protocol: Protocol = "published",
) -> ReId:
    """Score a ranking of the gallery.

    Args:
        distance: (Q, G), less is nearer; see `cosine_distances`.
        query, gallery: Q and G rows with label (MoA), compound (drug) and library (`experiment` in
            the samples table).

    Raises:
        InputError: shapes that do not fit, an empty cell, a distance that is not a number, or no
            query with a match.
    """
    distance = np.asarray(distance, np.float64)
    _check_distance(distance, query, gallery)
    queries = zip(*_columns(query, "query"), strict=True)
    gallery_label, gallery_compound, gallery_library = _columns(gallery, "gallery")
    order = random_order(distance, _TIE_SEED)
    rows = []
    for row, (label, compound, library) in enumerate(queries):
        left_out = gallery_compound == compound
        if protocol == "published":
            left_out &= gallery_library == library
        matches = (gallery_label == label)[~left_out]
        if not matches.any():
            continue
        ranked = order[row][~left_out[order[row]]]
        first = int((gallery_label[ranked] == label).argmax()) + 1
        precision = expected_average_precision(distance[row, ~left_out], matches)
        counts = (len(matches), int(matches.sum()))
        rows.append((row, label, compound, library, *counts, first, precision))
    if not rows:
        raise InputError(
            f"no query of {len(query)} has a match in the gallery under the {protocol} protocol"
        )
    columns = ["query", *_COLUMNS, "length", "matches", "first", "average_precision"]
    scored = pd.DataFrame(rows, columns=columns)
    interval = mean_interval(scored.average_precision, scored.compound)
    mean = Score(float(scored.average_precision.mean()), *interval, len(scored))
    return ReId(protocol, scored, len(query) - len(scored), mean)


def reid_new_drugs(
    distance: np.ndarray,
    query: pd.DataFrame,
    gallery: pd.DataFrame,
    seen: Collection[str],
) -> ReId | None:
    """Score the queries whose compound is not in `seen`, strictly; None if there are none.

    Args:
        seen: every compound that any stage trained on or validated with.

    Raises:
        InputError: as `reid`.
    """
    new = np.flatnonzero(~query["compound"].isin(set(seen)).to_numpy())
    if not len(new):
        return None
    scored = reid(np.asarray(distance)[new], query.iloc[new], gallery, "strict")
    queries = scored.queries.assign(query=new[scored.queries["query"]])
    return replace(scored, protocol=NEW_DRUGS, queries=queries)


def classified(logits: np.ndarray, query: pd.DataFrame) -> Classified:
    """Score a classifier of the queries: accuracy and macro one-vs-rest AUC.

    Args:
        logits: (Q, K).
        query: Q rows with label (below K) and compound.

    Raises:
        InputError: shapes that do not fit, a logit that is not finite, or a label that the logits
            do not have.
    """
    from scipy.special import softmax

    logits = np.asarray(logits, np.float64)
    label = _columns(query, "query", ("label", "compound"))[0].astype(int)
    if logits.ndim != 2 or len(logits) != len(label):
        raise InputError(f"logits {logits.shape} do not fit {len(label)} queries")
    n_classes = logits.shape[1]
    if len(label) and not 0 <= label.min() <= label.max() < n_classes:
        raise InputError(f"a label lies outside the {n_classes} classes of the logits")
    compound = query.compound.to_numpy(object)
    truth = label[:, None] == np.arange(n_classes)
    classes = [str(k) for k in range(n_classes)]
    table = average_precision_table(truth, softmax(logits, axis=1), classes, compound)
    mean = table[table["class"] == MACRO].iloc[0]
    predicted = draw_one(tied_best(logits), _TIE_SEED)
    return Classified(
        accuracy(label, predicted),
        mean_interval(label == predicted, compound),
        Score(float(mean.roc_auc), float(mean.roc_auc_low), float(mean.roc_auc_high), len(label)),
        int(table.roc_auc[1:].notna().sum()),
        n_classes,
    )


def _check_distance(distance: np.ndarray, query: pd.DataFrame, gallery: pd.DataFrame) -> None:
    if distance.shape != (len(query), len(gallery)):
        raise InputError(
            f"distances {distance.shape} do not fit {len(query)} queries and {len(gallery)} "
            "gallery tracks"
        )
    missing = np.isnan(distance).any(axis=1)
    if missing.any():
        raise InputError(f"query {int(missing.argmax())}: a distance is not a number")


def _columns(
    frame: pd.DataFrame, name: str, columns: Sequence[str] = _COLUMNS
) -> tuple[np.ndarray, ...]:
    for column in columns:
        if column not in frame.columns:
            raise InputError(f"{name}: no column {column!r}")
        empty = frame[column].isna().to_numpy()
        if empty.any():
            raise InputError(f"{name}: {column} is empty in row {int(empty.argmax())}")
    return tuple(frame[column].to_numpy(object) for column in columns)

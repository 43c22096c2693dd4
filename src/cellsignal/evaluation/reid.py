"""Re-identification of mechanisms: each query track ranks a gallery of labelled tracks, and those
of its mechanism (MoA) should come first.

Protocols say which gallery tracks a query does not rank:
- published (Li et al., Nat Comput Sci 2024): those of its own library *and* drug. The same drug in
  another library counts as found, and tracks of one well
  may stand in training, query and gallery: it measures that a drug is recognised again as much as
  that a mechanism is.
- strict: those of its own drug in any library, so that only another drug of the mechanism counts.
- strict, new drugs: strict, over the queries alone whose drug took no part in pretraining, training
  or validation (`reid_new_drugs`). It says
  something about new drugs; the gallery's may have been trained on, as those of a reference library
  are.

A query without a match among what is left is skipped and counted. Rank-k is the share of queries
with a match among the first k (CMC), mAP the mean of the average precision over the whole list.
Equal distances count as a random order, as everywhere in this package (`cellsignal.common.ties`): AP is
its mean over the orders of ties, and the rank of the first match is that of one order, drawn with a
seed. So a model that gives every track one embedding scores chance, neither first place by the
order of the table nor below chance. Wilson's interval takes tracks as independent, which tracks of
one drug are not; the interval over drugs resamples whole drugs and is the one for a claim about
other drugs.

A list of gallery ids, best first, is scored by the same code: its places are its distances.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.tables import aligned
from cellsignal.common.ties import (
    draw_one,
    expected_average_precision,
    random_order,
    tied_best,
    unit_vectors,
)
from cellsignal.evaluation.retrieval import expected_ap
from cellsignal.metrics.accuracy import Accuracy, Figure, accuracy, clustered_interval
from cellsignal.metrics.average_precision import MACRO, average_precision_table

Protocol = Literal["published", "strict"]
NEW_DRUGS = "strict, new drugs"
RANKS = (1, 5, 10)
_TIE_SEED = 0  # of the orders of equal distances
_COLUMNS = ("label", "compound", "library")


@dataclass(frozen=True)
class ReId:
    """What a ranking of the gallery scores under one protocol.

    Attributes:
        protocol: published, strict, or `NEW_DRUGS`.
        queries: one row a scored query: `query` (its row in the table of queries), label, compound,
        library, `length` (gallery tracks
            that it ranks), `matches` among them, `first` (rank of the first match, from 1; ties
            drawn) and `average_precision` (expected, of ties).
        skipped: queries without a match.
        mean_average_precision: with its interval over drugs (NaN where there is one drug).
        seed: of the intervals over drugs.
    """

    protocol: str
    queries: pd.DataFrame
    skipped: int
    mean_average_precision: Figure
    seed: int

    @property
    def cmc(self) -> np.ndarray:
        """(longest list,) float: entry k - 1 is the share of queries with a match among the first
        k.
        """
        first = np.bincount(self.queries["first"], minlength=self.queries.length.max() + 1)
        return first[1:].cumsum() / len(self.queries)

    def rank(self, k: int) -> Accuracy:
        """Rank-k, with Wilson's interval."""
        return Accuracy.of(int((self.queries["first"] <= k).sum()), len(self.queries))

    def rank_over_drugs(self, k: int) -> tuple[float, float]:
        """95 % interval of rank-k over drugs."""
        return clustered_interval(self.queries["first"] <= k, self.queries.compound, self.seed)

    def random_rank(self, k: int) -> float:
        """Rank-k expected of a random order: k draws without replacement from each query's list."""
        from scipy.stats import hypergeom

        length = self.queries.length.to_numpy()
        return float(
            hypergeom.sf(0, length, self.queries.matches.to_numpy(), np.minimum(k, length)).mean()
        )

    @property
    def random_average_precision(self) -> float:
        """mAP expected of a random order."""
        return float(
            expected_ap(self.queries.matches.to_numpy(), self.queries.length.to_numpy()).mean()
        )


@dataclass(frozen=True)
class Classified:
    """What the classifier's logits score on the queries.

    Attributes:
        accuracy: right argmaxes, of equal logits one drawn, with Wilson's interval.
        over_drugs: 95 % interval of the accuracy over drugs.
        auc: one-vs-rest ROC AUC of the softmax, averaged over the classes that have queries, with
        its interval over drugs. classes: how many classes these are. of: how many classes the
        logits tell apart.
    """

    accuracy: Accuracy
    over_drugs: tuple[float, float]
    auc: Figure
    classes: int
    of: int


def cosine_distances(query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """(Q, D), (G, D) embeddings -> (Q, G) float64, 1 - cosine, in [0, 2]. An embedding of zeros is
    at 1 from all, as in scikit-learn.

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
        if not np.isfinite(x).all():
            raise InputError(
                f"{name}: embedding {int(np.argmin(np.isfinite(x).all(axis=1)))} is not finite"
            )
        units.append(unit_vectors(x))
    if units[0].shape[1] != units[1].shape[1]:
        raise InputError(
            f"query and gallery embeddings differ in width: {units[0].shape[1]} and "
            f"{units[1].shape[1]}"
        )
    return np.clip(1 - units[0] @ units[1].T, 0, 2)


def list_places(
    rankings: Sequence[Sequence[str]], query_ids: Sequence[str], gallery_ids: Sequence[str]
) -> np.ndarray:
    """Lists of gallery ids, best first, as distances: (Q, G) float64, the place of each gallery
    track in each query's list, from 0.

    Raises:
        InputError: a list that does not hold every gallery id once; the query and the id are named.
    """
    column = {name: at for at, name in enumerate(gallery_ids)}
    assert len(column) == len(gallery_ids) and len(rankings) == len(query_ids)
    places = np.full((len(rankings), len(column)), np.nan)
    for row, (query, ranking) in enumerate(zip(query_ids, rankings, strict=True)):
        for place, name in enumerate(ranking):
            at = column.get(name)
            if at is None:
                raise InputError(f"ranking of {query!r}: {name!r} is not in the gallery")
            if not np.isnan(places[row, at]):
                raise InputError(f"ranking of {query!r}: {name!r} occurs twice")
            places[row, at] = place
        if np.isnan(places[row]).any():
            missing = np.flatnonzero(np.isnan(places[row]))
            raise InputError(
                f"ranking of {query!r}: {len(missing)} of the gallery are missing, first "
                f"{gallery_ids[missing[0]]!r}"
            )
    return places


def nearest(distance: np.ndarray, k: int | None = None) -> np.ndarray:
    """(Q, G) distances -> (Q, k) int, rows of the gallery, nearest first; None ranks them all.
    Equal distances stand in a random order.
    """
    return random_order(distance, _TIE_SEED)[:, :k]


def reid(
    distance: np.ndarray,
    query: pd.DataFrame,
    gallery: pd.DataFrame,
    protocol: Protocol = "published",
    seed: int = 0,
) -> ReId:
    """Score a ranking of the gallery.

    Args:
        distance: (Q, G), less is nearer; see `cosine_distances` and `list_places`.
        query, gallery: Q and G rows with label (MoA), compound (drug) and library (`experiment` in
        the samples table). seed: of the intervals over drugs.

    Raises:
        InputError: shapes that do not fit, an empty cell, a distance that is not a number, or no
        query with a match.
    """
    distance = np.asarray(distance, np.float64)
    if distance.shape != (len(query), len(gallery)):
        raise InputError(
            f"distances {distance.shape} do not fit {len(query)} queries and {len(gallery)} "
            "gallery tracks"
        )
    if np.isnan(distance).any():
        raise InputError(
            f"query {int(np.isnan(distance).any(axis=1).argmax())}: a distance is not a number"
        )
    asked, held = (
        _columns(frame, name) for frame, name in ((query, "query"), (gallery, "gallery"))
    )
    order = random_order(distance, _TIE_SEED)
    rows = []
    for at, (label, compound, library) in enumerate(zip(*asked, strict=True)):
        left_out = held[1] == compound
        if protocol == "published":
            left_out &= held[2] == library
        matched = (held[0] == label)[~left_out]
        if matched.any():
            ranked = order[at][~left_out[order[at]]]
            first = int((held[0][ranked] == label).argmax()) + 1
            precision = expected_average_precision(distance[at, ~left_out], matched)
            rows.append(
                (at, label, compound, library, len(matched), int(matched.sum()), first, precision)
            )
    if not rows:
        raise InputError(
            f"no query of {len(query)} has a match in the gallery under the {protocol} protocol"
        )
    found = pd.DataFrame(
        rows, columns=["query", *_COLUMNS, "length", "matches", "first", "average_precision"]
    )
    interval = clustered_interval(found.average_precision, found.compound, seed)
    score = Figure(float(found.average_precision.mean()), *interval, len(found))
    return ReId(protocol, found, len(query) - len(found), score, seed)


def reid_new_drugs(
    distance: np.ndarray,
    query: pd.DataFrame,
    gallery: pd.DataFrame,
    seen: Collection[str],
    seed: int = 0,
) -> ReId | None:
    """`reid` by the strict protocol, over the queries whose compound is not among `seen`; None
    where there are none.

    Args:
        seen: every compound that any stage trained on or validated with.

    Raises:
        InputError: as `reid`.
    """
    new = np.flatnonzero(~query["compound"].isin(set(seen)).to_numpy())
    if not len(new):
        return None
    found = reid(np.asarray(distance)[new], query.iloc[new], gallery, "strict", seed)
    return replace(
        found, protocol=NEW_DRUGS, queries=found.queries.assign(query=new[found.queries["query"]])
    )


def seen_text(seen: Mapping[str, Collection[str]], query: pd.DataFrame) -> str:
    """One line: how many queries' drugs training saw, and what that does to the figures.

    Args:
        seen: stage -> the compounds that it trained on or validated with.
    """
    stages = [name for name, drugs in seen.items() if query["compound"].isin(set(drugs)).any()]
    known = query["compound"].isin(set().union(*seen.values()))
    if not known.any():
        return (
            f"Training saw the drugs of 0 of {len(query)} queries: the figures are about new drugs."
        )
    told = f"Training saw the drugs of {known.sum()} of {len(query)} queries (stage {', '.join(stages)}), so"
    return (
        f"{told} every figure flatters; no query is of a new drug."
        if known.all()
        else f"{told} every figure but those of '{NEW_DRUGS}' flatters."
    )


def classified(logits: np.ndarray, query: pd.DataFrame, seed: int = 0) -> Classified:
    """Accuracy and macro one-vs-rest AUC of a classifier.

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
    if len(label) and not 0 <= label.min() <= label.max() < logits.shape[1]:
        raise InputError(f"a label lies outside the {logits.shape[1]} classes of the logits")
    compound, classes = query.compound.to_numpy(object), [str(k) for k in range(logits.shape[1])]
    table = average_precision_table(
        label[:, None] == np.arange(logits.shape[1]),
        softmax(logits, axis=1),
        classes,
        compound,
        seed=seed,
    )
    mean = table[table["class"] == MACRO].iloc[0]
    right = draw_one(tied_best(logits), _TIE_SEED)
    return Classified(
        accuracy(label, right),
        clustered_interval(label == right, compound, seed),
        Figure(float(mean.roc_auc), float(mean.roc_auc_low), float(mean.roc_auc_high), len(label)),
        int(table.roc_auc[1:].notna().sum()),
        logits.shape[1],
    )


def reid_table(found: Mapping[str, Sequence[ReId | Classified]]) -> pd.DataFrame:
    """All figures of some models, for a CSV and `reid_text`.

    Returns:
        Columns model, protocol ("" for a classifier), figure, value, chance, correct (NaN of mAP
        and AUC), total, skipped, low and high (Wilson's; NaN of mAP and AUC), drugs_low and
        drugs_high (over drugs).
    """
    rows, none = [], (np.nan, np.nan)
    for name, results in found.items():
        for one in results:
            if isinstance(one, Classified):
                right, auc = one.accuracy, one.auc
                rows.append(
                    (
                        name,
                        "",
                        "accuracy",
                        right.value,
                        1 / one.of,
                        right.correct,
                        right.total,
                        0,
                        right.low,
                        right.high,
                        *one.over_drugs,
                    )
                )
                rows.append(
                    (
                        name,
                        "",
                        f"AUC of {one.classes} classes",
                        auc.value,
                        0.5,
                        np.nan,
                        auc.total,
                        0,
                        *none,
                        auc.low,
                        auc.high,
                    )
                )
                continue
            for k in RANKS:
                at = one.rank(k)
                ends = (at.low, at.high, *one.rank_over_drugs(k))
                rows.append(
                    (
                        name,
                        one.protocol,
                        f"rank-{k}",
                        at.value,
                        one.random_rank(k),
                        at.correct,
                        at.total,
                        one.skipped,
                        *ends,
                    )
                )
            mean = one.mean_average_precision
            rows.append(
                (
                    name,
                    one.protocol,
                    "mAP",
                    mean.value,
                    one.random_average_precision,
                    np.nan,
                    mean.total,
                    one.skipped,
                    *none,
                    mean.low,
                    mean.high,
                )
            )
    ends = ("low", "high", "drugs_low", "drugs_high")
    return pd.DataFrame(
        rows,
        columns=[
            "model",
            "protocol",
            "figure",
            "value",
            "chance",
            "correct",
            "total",
            "skipped",
            *ends,
        ],
    )


def reid_text(table: pd.DataFrame) -> str:
    """The rows of `reid_table` for a terminal."""
    lines = [
        (
            "model",
            "protocol",
            "figure",
            "value",
            "k/n",
            "95 %, tracks",
            "95 %, drugs",
            "chance",
            "skipped",
        )
    ]
    for row in table.itertuples():
        count = f"{row.total}" if np.isnan(row.correct) else f"{row.correct:.0f}/{row.total}"
        ends = [
            "" if np.isnan(low) else f"{low:.3f} .. {high:.3f}"
            for low, high in ((row.low, row.high), (row.drugs_low, row.drugs_high))
        ]
        lines.append(
            (
                row.model,
                row.protocol,
                row.figure,
                f"{row.value:.4f}",
                count,
                *ends,
                f"{row.chance:.3f}",
                str(row.skipped),
            )
        )
    return aligned(lines, right={3, 4, 7, 8})


def _columns(
    frame: pd.DataFrame, name: str, columns: Sequence[str] = _COLUMNS
) -> tuple[np.ndarray, ...]:
    for column in columns:
        if column not in frame.columns:
            raise InputError(f"{name}: no column {column!r}")
        if frame[column].isna().any():
            raise InputError(
                f"{name}: {column} is empty in row {int(frame[column].isna().to_numpy().argmax())}"
            )
    return tuple(frame[column].to_numpy(object) for column in columns)

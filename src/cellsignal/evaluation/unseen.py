"""Name the mechanism (MoA) of unseen compounds by their nearest labelled tracks.

Each track of a compound takes the mechanism of the nearest labelled track; its tracks then vote. A
mechanism is named for every compound, also for one without effect or with a mechanism that the
gallery does not have: the distance, the margin over the second mechanism and the votes say how much
it is worth. The tracks of a compound share wells and a day, so their votes are not independent
trials and get no interval; where the truth of compounds is known, compounds are counted. Equal
distances and equal votes are drawn among with a seed, so a space that cannot separate tracks names
mechanisms at random.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.tables import aligned
from cellsignal.common.ties import draw_one, random_order, tied_best
from cellsignal.metrics.accuracy import Accuracy


@dataclass(frozen=True)
class Unseen:
    """Mechanisms predicted for unseen compounds.

    Attributes:
        tracks: one row a track, in their order: sample_id, compound, moa_id, moa, `distance`
            (cosine, of rank 1), `nearest` and `nearest_compound` (the gallery track of rank 1 and
            its drug), `second_moa` and `margin` (the nearest other mechanism, and how much farther
            its nearest track is; None and NaN where there is no other).
        compounds: one row a compound, sorted by name: compound, tracks, moa_id, moa (the majority
            of its tracks; of equal votes the one at the smaller mean distance, and where that is
            equal, too, one is drawn), `votes`, `mean_distance` (of rank 1, over all tracks),
            `margin` (how much farther, on the mean over its tracks, the nearest track of any other
            mechanism is than that of `moa`: below 0 where votes and distances disagree, NaN where
            there is no other), and `moa_id_by_distance`, `moa_by_distance`, `distance_to_moa`: the
            mechanism whose nearest gallery tracks are nearest on the mean over the compound's
            tracks, and that mean.
    """

    tracks: pd.DataFrame
    compounds: pd.DataFrame


def predict_unseen(
    distance: np.ndarray, unseen: pd.DataFrame, gallery: pd.DataFrame, names: Sequence[str]
) -> Unseen:
    """Name the mechanisms of unseen compounds.

    Args:
        distance: (N, G) cosine distances; see `evaluation.reid.cosine_distances`.
        unseen: N rows with sample_id and compound.
        gallery: G rows with sample_id, compound and label (MoA id, index into `names`).
        names: of the mechanisms; last the control's, where control tracks are in the gallery.

    Raises:
        InputError: shapes or labels that do not fit, a distance that is not a number, or a compound
            that is in the gallery and so is not unseen.
    """
    distance = np.asarray(distance, np.float64)
    _check(distance, unseen, gallery, len(names))
    label = gallery.label.to_numpy(int)
    present = np.unique(label)
    # (N, mechanisms of the gallery)
    to_moa = np.stack([distance[:, label == moa].min(axis=1) for moa in present], axis=1)
    rows, first = np.arange(len(unseen)), draw_one(tied_best(-distance))
    best = np.searchsorted(present, label[first])
    tracks = pd.DataFrame(
        {
            "sample_id": unseen.sample_id.to_numpy(object),
            "compound": unseen.compound.to_numpy(object),
            "moa_id": present[best],
            "moa": [names[moa] for moa in present[best]],
            "distance": to_moa[rows, best],
            "nearest": gallery.sample_id.to_numpy(object)[first],
            "nearest_compound": gallery.compound.to_numpy(object)[first],
            "second_moa": None,
            "margin": np.nan,
        }
    )
    if len(present) > 1:
        others = to_moa.copy()
        others[rows, best] = np.inf
        second = random_order(others)[:, 0]
        tracks["second_moa"] = [names[moa] for moa in present[second]]
        tracks["margin"] = to_moa[rows, second] - to_moa[rows, best]
    return Unseen(tracks, _vote(tracks, to_moa, present, names))


def _check(distance: np.ndarray, unseen: pd.DataFrame, gallery: pd.DataFrame, n_names: int) -> None:
    if distance.shape != (len(unseen), len(gallery)) or not distance.size:
        raise InputError(
            f"distances {distance.shape} do not fit {len(unseen)} unseen and {len(gallery)} "
            "gallery tracks"
        )
    missing = np.isnan(distance).any(axis=1)
    if missing.any():
        track = unseen.sample_id.iloc[int(missing.argmax())]
        raise InputError(f"unseen track {track!r}: a distance is not a number")
    known = sorted(set(unseen.compound) & set(gallery.compound))
    if known:
        raise InputError(f"{len(known)} unseen compounds are in the gallery, first {known[0]!r}")
    if gallery.label.isna().any() or not gallery.label.between(0, n_names - 1).all():
        raise InputError(
            f"gallery: a label is empty or lies outside the {n_names} names of mechanisms"
        )


def _vote(
    tracks: pd.DataFrame, to_moa: np.ndarray, present: np.ndarray, names: Sequence[str]
) -> pd.DataFrame:
    """`Unseen.compounds`; `to_moa` (N, M) are the distances to the mechanisms of `present` (M,)."""
    rows = []
    for number, (compound, places) in enumerate(tracks.groupby("compound").indices.items()):
        moa_id, mean = tracks.moa_id.to_numpy()[places], to_moa[places].mean(axis=0)
        votes = (moa_id[:, None] == present).sum(axis=0)
        elected = tied_best(np.where(votes == votes.max(), -mean, -np.inf)[None])
        most = int(draw_one(elected, seed=number)[0])
        near = int(draw_one(tied_best(-mean[None]), seed=number)[0])
        rows.append(
            {
                "compound": compound,
                "tracks": len(places),
                "moa_id": present[most],
                "moa": names[present[most]],
                "votes": votes[most],
                "mean_distance": tracks.distance.to_numpy()[places].mean(),
                "margin": np.delete(mean, most).min(initial=np.inf) - mean[most],
                "moa_id_by_distance": present[near],
                "moa_by_distance": names[present[near]],
                "distance_to_moa": mean[near],
            }
        )
    return pd.DataFrame(rows).replace({"margin": {np.inf: np.nan}})


def nearest_first(compounds: pd.DataFrame) -> pd.DataFrame:
    """Sort `Unseen.compounds`, those nearest to the gallery first: the likeliest to be right."""
    return compounds.sort_values(["mean_distance", "compound"], ignore_index=True)


def typical_track(tracks: pd.DataFrame, compound: str, moa_id: int) -> int:
    """Return the row of `Unseen.tracks` that is most typical of a compound.

    Of its tracks that voted for `moa_id` the one of median distance, not the best.
    """
    rows = np.flatnonzero((tracks["compound"] == compound) & (tracks.moa_id == moa_id))
    assert len(rows), (compound, moa_id)
    order = np.argsort(tracks.distance.to_numpy()[rows], kind="stable")
    return int(rows[order[(len(rows) - 1) // 2]])


def unseen_right(compounds: pd.DataFrame, truth: Mapping[str, str]) -> Accuracy | None:
    """Count the compounds whose `moa` is right; None if no truth is known.

    Args:
        truth: compound -> mechanism.
    """
    known = compounds[compounds["compound"].isin(set(truth))]
    if known.empty:
        return None
    return Accuracy.of(int((known.moa == known["compound"].map(truth)).sum()), len(known))


def unseen_text(compounds: pd.DataFrame, truth: Mapping[str, str], most: int = 20) -> str:
    """Format `Unseen.compounds` for a terminal, nearest to the gallery first, at most `most` rows.

    Args:
        truth: compound -> mechanism; a column of it where any is known.
    """
    known = compounds["compound"].isin(set(truth)).any()
    header = ("compound", "MoA id", "MoA", "votes", "distance", "margin")
    lines = [(*header, "truth") if known else header]
    for row in nearest_first(compounds)[:most].itertuples():
        margin = "" if np.isnan(row.margin) else f"{row.margin:.3f}"
        figures = (f"{row.votes}/{row.tracks}", f"{row.mean_distance:.3f}", margin)
        cells = (row.compound, str(row.moa_id), row.moa, *figures)
        lines.append((*cells, truth.get(row.compound, "")) if known else cells)
    text = aligned(lines, right={1, 3, 4, 5})
    if len(compounds) > most:
        text += f"\n... and {len(compounds) - most} farther ones"
    return text

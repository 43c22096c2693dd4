"""Mechanisms named by the nearest other treatment: NSC and NSCB, how the field measures profiles on
BBBC021.

A profile is the mean over a well's images, then the median over a treatment's wells (Ljosa et al.,
J Biomol Screen 18:1321, 2013). Each treatment is given the mechanism (MoA) of its nearest neighbour
by cosine: among the treatments of other compounds (NSC, not same compound; Ljosa), or of other
compounds and other batches (NSCB; Ando, McLean & Berndl 2017, doi:10.1101/161422). NSCB does not
score classes that stand in one batch alone, which nothing could match.

A compound that stands on many batches (a control: taxol in all ten of BBBC021) would have no
neighbour under NSCB at all, though the published 92 treatments count it. So a pair that shares
batches is compared after the treatment that stands in more batches has lost its wells in the shared
ones; where both stand in equally many the pair is not compared. No two profiles that are compared
ever hold wells of one batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.ties import CHORD_TOLERANCE, chord, draw_one, tied_best, unit_vectors
from cellsignal.metrics.accuracy import Accuracy, clustered_interval

_SEED = 0  # of the draws among equally near treatments
NSCB_NOTE = (
    "NSCB: a treatment on many batches (taxol) is compared on its wells outside the other's "
    "batches; "
    "DeepProfiler's notebook has another rule for taxol, so its figures may differ"
)


@dataclass(frozen=True)
class Matches:
    """Each treatment and its nearest neighbour.

    Attributes:
        protocol: "NSC" or "NSCB".
        table: one row a scored treatment, sorted by `treatment`: treatment, compound, moa, wells,
        neighbour, predicted (the neighbour's MoA), similarity,
            right, candidates (how many treatments the neighbour was chosen from), tied (how many of
            them were equally near, and the neighbour drawn among) and chance (the share of
            candidates that are right). Where there are none `neighbour` and `predicted` are None
            and the treatment counts as wrong.
        left_out: classes that are not scored (their treatments are still neighbours of others).
        accuracy: right treatments, with Wilson's interval.
        cluster_low, cluster_high: 95 % interval from a bootstrap over compounds, the one to quote
        for other compounds: doses of one stand or fall together. chance: expected accuracy if the
        neighbour were drawn at random from the candidates.
    """

    protocol: str
    table: pd.DataFrame
    left_out: tuple[str, ...]
    accuracy: Accuracy
    cluster_low: float
    cluster_high: float
    chance: float

    def of(self, treatments: Sequence[str], protocol: str) -> "Matches":
        """The same matches scored on some treatments alone, under a name of its own.

        Raises:
            InputError: none of them was scored.
        """
        return _scored(
            replace(self, protocol=protocol), self.table[self.table.treatment.isin(set(treatments))]
        )


def average(
    x: np.ndarray, samples: pd.DataFrame, by: Sequence[str]
) -> tuple[np.ndarray, pd.DataFrame]:
    """Average the rows that agree in the columns `by`, say sites to wells.

    Returns:
        (W, D) float32 in the order of their first rows, and these rows of `samples` with a fresh
        index.
    """
    code = samples.groupby(list(by), sort=False).ngroup().to_numpy()
    order = np.argsort(code, kind="stable")
    start = np.flatnonzero(np.diff(code[order], prepend=-1))
    total = np.add.reduceat(np.asarray(x)[order], start, axis=0, dtype=np.float64)
    size = np.diff(start, append=len(code))
    means = (total / size[:, None]).astype(np.float32)
    return means, samples.iloc[order[start]].reset_index(drop=True)


def treatment_profiles(
    x: np.ndarray, wells: pd.DataFrame, batch: str = "experiment"
) -> tuple[np.ndarray, pd.DataFrame]:
    """Mean of the rows of a well, then the element-wise median over a treatment's wells; wells that
    are not there are not counted as zero.

    Args:
        x: (N, D) one row an image or a well.
        wells: N rows with `well_id`, `treatment`, `compound` (where missing, the treatment itself),
        the column `batch`, and `moa` where known. Rows without
            a treatment are left out.

    Returns:
        (T, D) float32 and T rows sorted by treatment: treatment, compound, moa (None where
        unknown), wells (how many), batches (tuple of text).

    Raises:
        InputError: no row has a treatment, a number is not finite, a treatment has two compounds or
        MoAs, or a well two treatments or batches; it is named.
    """
    x, wells = _by_well(x, wells, batch)
    rows = wells.groupby("treatment", sort=True).indices
    table = wells.iloc[[found[0] for found in rows.values()]][
        ["treatment", "compound", "moa"]
    ].reset_index(drop=True)
    table["wells"] = [len(found) for found in rows.values()]
    table["batches"] = [
        tuple(sorted(wells[batch].iloc[found].astype(str).unique())) for found in rows.values()
    ]
    return np.stack([np.median(x[found], axis=0) for found in rows.values()]), table


def not_same_compound(x: np.ndarray, wells: pd.DataFrame) -> Matches:
    """NSC: the nearest treatment of another compound. Of equally near ones one is drawn.

    Args:
        x: (N, D) one row an image or a well.
        wells: N rows as in `treatment_profiles`; those without a MoA and negative controls are
        neither scored nor neighbours.

    Raises:
        InputError: see `treatment_profiles`; no row has a MoA.
    """
    x, wells = _known(x, wells)
    profiles, table = treatment_profiles(x, wells)
    similarity = _similarity(profiles, profiles)
    similarity[_same(table.compound)] = -np.inf
    return _match("NSC", similarity, table, left_out=())


def not_same_compound_or_batch(
    x: np.ndarray, wells: pd.DataFrame, batch: str = "experiment"
) -> Matches:
    """NSCB: the nearest treatment of another compound, compared on wells of no common batch (see
    the module). Ties, arguments and errors as in NSC.

    Args:
        batch: column of `wells`: what was made together (a week, an experiment).
    """
    x, wells = _by_well(*_known(x, wells), batch)
    profiles, table = treatment_profiles(x, wells, batch)
    similarity = _similarity(profiles, profiles)
    similarity[_same(table.compound)] = -np.inf
    sets = [frozenset(batches) for batches in table.batches]
    rows = wells.groupby("treatment", sort=True).indices
    for a, mine in enumerate(sets):
        shared = [b for b, others in enumerate(sets) if mine & others]
        if len(mine) == 1:
            similarity[a, [b for b in shared if len(sets[b]) == 1]] = -np.inf
            continue
        own = rows[table.treatment[a]]
        place = wells[batch].iloc[own].astype(str).to_numpy()
        for b in shared:
            if len(sets[b]) == len(mine):
                similarity[a, b] = -np.inf
            elif len(sets[b]) < len(mine) and np.isfinite(similarity[a, b]):
                left = np.median(x[own[~np.isin(place, list(sets[b]))]], axis=0)
                similarity[a, b] = similarity[b, a] = _similarity(left[None], profiles[b : b + 1])[
                    0, 0
                ]
    seen = table.groupby("moa").batches.agg(lambda found: len(set().union(*found)))
    return _match("NSCB", similarity, table, left_out=tuple(seen.index[seen == 1]))


def moa_table(matches: Sequence[Matches]) -> pd.DataFrame:
    """One row a MoA: how many treatments each protocol got right, as "right/all"; empty where it
    does not score the class.
    """
    counts = {
        one.protocol: one.table.groupby("moa").right.agg(
            lambda right: f"{int(right.sum())}/{len(right)}"
        )
        for one in matches
    }
    return pd.DataFrame(counts).fillna("").rename_axis("moa").sort_index().reset_index()


def match_text(matches: Sequence[Matches]) -> str:
    """For a terminal: the protocols with their intervals, the MoAs, and each treatment that was
    given a wrong one.
    """
    from cellsignal.common.tables import aligned

    lines = [
        ("protocol", "right", "accuracy", "95 % interval", "over compounds", "chance", "not scored")
    ]
    for one in matches:
        a = one.accuracy
        lines.append(
            (
                one.protocol,
                f"{a.correct}/{a.total}",
                f"{a.value:.3f}",
                f"{a.low:.3f} .. {a.high:.3f}",
                f"{one.cluster_low:.3f} .. {one.cluster_high:.3f}",
                f"{one.chance:.3f}",
                ", ".join(one.left_out),
            )
        )
    by_moa = moa_table(matches)
    parts = [
        aligned(lines, right={1, 2, 5}),
        aligned(
            [tuple(by_moa), *by_moa.itertuples(index=False, name=None)],
            right=set(range(1, by_moa.shape[1])),
        ),
    ]
    wrong = [("wrong under", "treatment", "MoA", "neighbour", "its MoA", "cosine")]
    for one in matches:
        for row in one.table[~one.table.right].itertuples():
            found = (
                (row.neighbour, row.predicted, f"{row.similarity:.3f}")
                if row.candidates
                else ("none to choose from", "", "")
            )
            wrong.append((one.protocol, row.treatment, row.moa, *found))
    parts += [aligned(wrong, right={5})] if len(wrong) > 1 else []
    notes = [
        f"{one.protocol}: {int((one.table.tied > 1).sum())} of {len(one.table)} treatments have "
        "several equally near neighbours; one was drawn"
        for one in matches
        if (one.table.tied > 1).any()
    ]
    notes += [NSCB_NOTE] if any(one.protocol == "NSCB" for one in matches) else []
    return "\n\n".join([*parts, *(["\n".join(notes)] if notes else [])])


def _known(x: np.ndarray, wells: pd.DataFrame) -> tuple[np.ndarray, pd.DataFrame]:
    """The rows that have a treatment and a MoA and are no negative control."""
    keep = (wells.treatment.notna() & wells.moa.notna()).to_numpy()
    if "role" in wells:
        keep = keep & (wells.role != "negative_control").to_numpy()
    if not keep.any():
        raise InputError("matching: no well has both a treatment and a mechanism (moa)")
    return np.asarray(x)[keep], wells[keep].reset_index(drop=True)


def _by_well(x: np.ndarray, wells: pd.DataFrame, batch: str) -> tuple[np.ndarray, pd.DataFrame]:
    """One row a well, float32; held to what `treatment_profiles` says. `moa` is None where the
    table has none.
    """
    keep = wells.treatment.notna().to_numpy()
    x, wells = np.asarray(x)[keep], wells[keep].reset_index(drop=True)
    if not len(wells):
        raise InputError("profiles: no well has a treatment")
    bad = ~np.isfinite(x).all(axis=1)
    if bad.any():
        raise InputError(
            f"profiles: well {wells.well_id[np.argmax(bad)]!r} has a feature that is no finite "
            "number"
        )
    wells = wells.assign(
        compound=wells["compound"].fillna(wells.treatment),
        moa=wells.moa if "moa" in wells else None,
    )
    told = wells.fillna({"moa": ""})
    for key, columns in (("well_id", ["treatment", batch]), ("treatment", ["compound", "moa"])):
        spread = told.groupby(key)[columns].nunique().max(axis=1)
        if (spread > 1).any():
            raise InputError(
                f"profiles: rows of {key} {spread.idxmax()!r} disagree on {' or '.join(columns)}"
            )
    return average(x, wells, ["well_id"])


def _similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(A, B) float64, larger is nearer: the chord between directions, negative. A vector of zeros
    is at right angles to all.
    """
    return -chord(unit_vectors(a) @ unit_vectors(b).T)


def _same(names: pd.Series) -> np.ndarray:
    """(T, T) bool."""
    names = names.to_numpy()
    return names[:, None] == names[None, :]


def _match(
    protocol: str, similarity: np.ndarray, table: pd.DataFrame, left_out: tuple[str, ...]
) -> Matches:
    """The nearest column of each row, -inf where a pair is not compared."""
    allowed = np.isfinite(similarity)
    nearest = tied_best(similarity, CHORD_TOLERANCE)
    neighbour, some = draw_one(nearest, _SEED), allowed.any(axis=1)
    moa = table.moa.to_numpy(dtype=object)
    cosine = 1 - np.square(similarity[np.arange(len(table)), neighbour]) / 2
    found = table.assign(
        neighbour=pd.Series(
            np.where(some, table.treatment.to_numpy(dtype=object)[neighbour], None), dtype=object
        ),
        predicted=pd.Series(np.where(some, moa[neighbour], None), dtype=object),
        similarity=np.where(some, cosine, np.nan),
        right=some & (moa[neighbour] == moa),
        candidates=allowed.sum(axis=1),
        tied=nearest.sum(axis=1),
        chance=(allowed & _same(table.moa)).sum(axis=1) / np.maximum(allowed.sum(axis=1), 1),
    )
    nothing = Accuracy(0, 0, np.nan, np.nan, np.nan)
    return _scored(
        Matches(protocol, found, left_out, nothing, np.nan, np.nan, np.nan),
        found[~found.moa.isin(left_out)],
    )


def _scored(matches: Matches, table: pd.DataFrame) -> Matches:
    if not len(table):
        raise InputError(f"{matches.protocol}: no treatment is left to score")
    table = table.reset_index(drop=True)
    low, high = clustered_interval(table.right, table["compound"], seed=0)
    scored = Accuracy.of(int(table.right.sum()), len(table))
    return replace(
        matches,
        table=table,
        accuracy=scored,
        cluster_low=low,
        cluster_high=high,
        chance=float(table.chance.mean()),
    )

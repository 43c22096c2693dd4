"""Name the mechanism of a treatment by its nearest other treatment: NSC and NSCB.

This is how the field measures profiles on BBBC021. A profile is the mean over a well's images, then
the median over a treatment's wells (Ljosa et al., J Biomol Screen 18:1321, 2013). Each treatment is
given the mechanism (MoA) of its nearest neighbour by cosine: among the treatments of other
compounds (NSC, not same compound; Ljosa), or of other compounds and other batches (NSCB; Ando,
McLean & Berndl 2017, doi:10.1101/161422). NSCB does not score classes that stand in one batch
alone, which nothing could match.

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
from cellsignal.metrics.accuracy import Accuracy
from cellsignal.metrics.intervals import mean_interval

_SEED = 0  # of the draws among equally near treatments


@dataclass(frozen=True)
class Matches:
    """Each treatment and its nearest neighbour.

    Attributes:
        protocol: "NSC" or "NSCB".
        table: one row a scored treatment, sorted by `treatment`: treatment, compound, moa, wells,
            neighbour, predicted (the neighbour's MoA), similarity, right, candidates (how many
            treatments the neighbour was chosen from), tied (how many of them were equally near, and
            the neighbour drawn among) and chance (the share of candidates that are right). Where
            there are none `neighbour` and `predicted` are None and the treatment counts as wrong.
        left_out: classes that are not scored (their treatments are still neighbours of others).
        accuracy: right treatments, with Wilson's interval.
        cluster_low, cluster_high: 95 % interval over compounds, the one to quote
            for other compounds: doses of one stand or fall together.
        chance: expected accuracy if the neighbour were drawn at random from the candidates.
    """

    protocol: str
    table: pd.DataFrame
    left_out: tuple[str, ...]
    accuracy: Accuracy
    cluster_low: float
    cluster_high: float
    chance: float

    def of(self, treatments: Sequence[str], protocol: str) -> "Matches":
        """Score the same matches on some treatments only, under another name.

        Raises:
            InputError: none of them was scored.
        """
        table = self.table[self.table.treatment.isin(set(treatments))]
        return replace(_score(protocol, table), left_out=self.left_out)


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
    """Take the mean of a well's rows, then the element-wise median over a treatment's wells.

    Args:
        x: (N, D) one row an image or a well.
        wells: N rows with `well_id`, `treatment`, `compound` (where missing, the treatment itself),
            the column `batch`, and `moa` where known. Rows without a treatment are left out.

    Returns:
        (T, D) float32 and T rows sorted by treatment: treatment, compound, moa (None where
        unknown), wells (how many), batches (tuple of text).

    Raises:
        InputError: no row has a treatment, a number is not finite, a treatment has two compounds or
            MoAs, or a well two treatments or batches; it is named.
    """
    x, wells = _average_wells(x, wells, batch)
    return _median_profiles(x, wells, batch)


def _median_profiles(
    x: np.ndarray, wells: pd.DataFrame, batch: str
) -> tuple[np.ndarray, pd.DataFrame]:
    groups = wells.groupby("treatment", sort=True)
    table = groups[["compound", "moa"]].agg(lambda column: column.iloc[0]).reset_index()
    table["wells"] = groups.size().to_numpy()
    names = wells[batch].astype(str)
    rows = list(groups.indices.values())
    table["batches"] = [tuple(sorted(names.iloc[chosen].unique())) for chosen in rows]
    return np.stack([np.median(x[chosen], axis=0) for chosen in rows]), table


def not_same_compound(x: np.ndarray, wells: pd.DataFrame) -> Matches:
    """Match by NSC: the nearest treatment of another compound; of equally near ones one is drawn.

    Args:
        x: (N, D) one row an image or a well.
        wells: N rows as in `treatment_profiles`; those without a MoA and negative controls are
            neither scored nor neighbours.

    Raises:
        InputError: see `treatment_profiles`; no row has a MoA.
    """
    return _match("NSC", *nsc_similarity(x, wells), left_out=())


def nsc_similarity(x: np.ndarray, wells: pd.DataFrame) -> tuple[np.ndarray, pd.DataFrame]:
    """Return minus the distances (T, T) of treatments, -inf in pairs that NSC does not compare.

    The table has a row a treatment, see `treatment_profiles`.
    """
    profiles, table = treatment_profiles(*_with_moa(x, wells))
    similarity = _similarity(profiles, profiles)
    similarity[_same(table["compound"])] = -np.inf
    return similarity, table


def not_same_compound_or_batch(
    x: np.ndarray, wells: pd.DataFrame, batch: str = "experiment"
) -> Matches:
    """Match by NSCB (see the module): the nearest treatment, on wells of no common batch.

    Ties, arguments and errors as in NSC.

    Args:
        batch: column of `wells`: what was made together (a week, an experiment).
    """
    similarity, table = nscb_similarity(x, wells, batch)
    return _match("NSCB", similarity, table, single_batch_classes(table))


def single_batch_classes(table: pd.DataFrame) -> tuple[str, ...]:
    """Return the mechanisms that stand in one batch alone, which NSCB does not score."""
    batches_of_moa = table.groupby("moa").batches.agg(lambda sets: len(set().union(*sets)))
    return tuple(batches_of_moa.index[batches_of_moa == 1])


def nscb_similarity(
    x: np.ndarray, wells: pd.DataFrame, batch: str = "experiment"
) -> tuple[np.ndarray, pd.DataFrame]:
    """Return minus the distances (T, T) of treatments as `nsc_similarity`, by NSCB."""
    x, wells = _average_wells(*_with_moa(x, wells), batch)
    profiles, table = _median_profiles(x, wells, batch)
    similarity = _similarity(profiles, profiles)
    similarity[_same(table["compound"])] = -np.inf
    batches = [set(names) for names in table.batches]
    rows = list(wells.groupby("treatment", sort=True).indices.values())
    names = wells[batch].astype(str).to_numpy()
    for a, mine in enumerate(batches):
        for b, others in enumerate(batches):
            if not mine & others or len(mine) < len(others):  # the pair's turn is (b, a)
                continue
            if len(mine) == len(others):
                similarity[a, b] = -np.inf
            elif np.isfinite(similarity[a, b]):
                outside = rows[a][~np.isin(names[rows[a]], list(others))]
                left = np.median(x[outside], axis=0)
                nearness = _similarity(left[None], profiles[b : b + 1])[0, 0]
                similarity[a, b] = similarity[b, a] = nearness
    return similarity, table


def _with_moa(x: np.ndarray, wells: pd.DataFrame) -> tuple[np.ndarray, pd.DataFrame]:
    """The rows that have a treatment and a MoA and are not negative controls."""
    keep = (wells.treatment.notna() & wells.moa.notna()).to_numpy()
    if "role" in wells:
        keep = keep & (wells.role != "negative_control").to_numpy()
    if not keep.any():
        raise InputError("matching: no well has both a treatment and a mechanism (moa)")
    return np.asarray(x)[keep], wells[keep].reset_index(drop=True)


def _average_wells(
    x: np.ndarray, wells: pd.DataFrame, batch: str
) -> tuple[np.ndarray, pd.DataFrame]:
    """One row a well, float32, checked as `treatment_profiles` says."""
    keep = wells.treatment.notna().to_numpy()
    x, wells = np.asarray(x)[keep], wells[keep].reset_index(drop=True)
    if not len(wells):
        raise InputError("profiles: no well has a treatment")
    bad = ~np.isfinite(x).all(axis=1)
    if bad.any():
        raise InputError(
            f"profiles: well {wells.well_id[np.argmax(bad)]!r} has a feature that is not a finite "
            "number"
        )
    compound = wells["compound"].fillna(wells.treatment)
    wells = wells.assign(compound=compound, moa=wells.moa if "moa" in wells else None)
    filled = wells.fillna({"moa": ""})
    for key, columns in (("well_id", ["treatment", batch]), ("treatment", ["compound", "moa"])):
        values = filled.groupby(key)[columns].nunique().max(axis=1)
        if (values > 1).any():
            raise InputError(
                f"profiles: rows of {key} {values.idxmax()!r} disagree on {' or '.join(columns)}"
            )
    return average(x, wells, ["well_id"])


def _similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(A, B) float64: minus the chord between directions; zeros are at right angles to all."""
    return -chord(unit_vectors(a) @ unit_vectors(b).T)


def _same(names: pd.Series) -> np.ndarray:
    names = names.to_numpy()
    return names[:, None] == names[None, :]


def _match(
    protocol: str, similarity: np.ndarray, table: pd.DataFrame, left_out: tuple[str, ...]
) -> Matches:
    """Score the nearest column of each row; a pair with -inf is not compared."""
    allowed = np.isfinite(similarity)
    candidates = allowed.sum(axis=1)
    nearest = tied_best(similarity, CHORD_TOLERANCE)
    neighbour = draw_one(nearest, _SEED)
    treatment = table.treatment.to_numpy(dtype=object)
    moa = table.moa.to_numpy(dtype=object)
    cosine = 1 - np.square(similarity[np.arange(len(table)), neighbour]) / 2
    some = candidates > 0
    names = np.where(some, treatment[neighbour], None)
    predicted = np.where(some, moa[neighbour], None)
    table = table.assign(
        neighbour=pd.Series(names, dtype=object),
        predicted=pd.Series(predicted, dtype=object),
        similarity=np.where(some, cosine, np.nan),
        right=some & (moa[neighbour] == moa),
        candidates=candidates,
        tied=nearest.sum(axis=1),
        chance=(allowed & _same(table.moa)).sum(axis=1) / np.maximum(candidates, 1),
    )
    return replace(_score(protocol, table[~table.moa.isin(left_out)]), left_out=left_out)


def _score(protocol: str, table: pd.DataFrame) -> Matches:
    if not len(table):
        raise InputError(f"{protocol}: no treatment is left to score")
    table = table.reset_index(drop=True)
    interval = mean_interval(table.right, table["compound"])
    accuracy = Accuracy.of(int(table.right.sum()), len(table))
    return Matches(protocol, table, (), accuracy, *interval, float(table.chance.mean()))

"""Read tables of well profiles, such as CellProfiler's and pycytominer's.

A feature is a column of one of CellProfiler's compartments, or one that the caller names. What is
left out is counted by reason: an index or an image number beside the features passes for one and
changes every figure.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.tables import normalise_well
from cellsignal.common.ties import listed
from cellsignal.evaluation.matching import average
from cellsignal.profiles.feature_columns import COMPARTMENTS
from cellsignal.profiles.table_files import TablePart, read_part

UNMATCHED = 0.05  # share of a table's rows that may be of wells that the data set has not
HALF_EMPTY = 0.5  # a row that lacks more of the features is of a well without cells
_NORMALISED = re.compile(
    r"(?<!un)(?<!un[-_])(?<!not[-_ ])(?<!non[-_])(?<!non)"
    r"(normali[sz]ed|mad_?robusti[sz]ed?|standardi[sz]ed|spheri[sz]ed?|spherized)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Record:
    """What exported files say of their profiles.

    Attributes:
        label, normalised: as of `Profiles`; "" unless all files are exported ones that say so.
        trained: as of `Profiles`, of all files together.
        notes: of all files.
    """

    label: str = ""
    normalised: str = ""
    trained: frozenset[str] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ProfileTable:
    """Profiles as tables hold them, averaged by well.

    Attributes:
        x: (W, D) float32, finite.
        wells: W rows of the data set's wells.
        features: D names.
        notes: what was used and left out, and why.
        named_normalised: the words of a file's name that say that the profiles are normalised; ""
            where none does.
        compartments: whether the features are CellProfiler's.
        record: what exported files say of their profiles, see `merge_records`.
    """

    x: np.ndarray
    wells: pd.DataFrame
    features: tuple[str, ...]
    notes: tuple[str, ...]
    named_normalised: str
    compartments: bool
    record: Record


def read_profiles(
    paths: Sequence[Path],
    wells: pd.DataFrame,
    features: Sequence[str] = (),
    unmatched: float = UNMATCHED,
) -> ProfileTable:
    """Read profiles of a data set's wells.

    Args:
        paths: .csv, .tsv (or either with .gz) or .parquet files with Metadata_Plate and
            Metadata_Well; of their features the common ones are taken.
        wells: the data set's wells, one row each, with well_id, plate and well.
        features: see `feature_columns.choose_features`.
        unmatched: largest share of rows whose wells the data set does not have.

    Raises:
        InputError: no readable table; no feature; too many rows of unknown wells. Names the file.
    """
    parts = [read_part(Path(path), features) for path in paths]
    return join_parts(parts, wells, unmatched, not features)


def join_parts(
    parts: Sequence[TablePart], wells: pd.DataFrame, unmatched: float, compartments: bool
) -> ProfileTable:
    """Return the profiles of wells from files that were read; see `read_profiles`.

    Args:
        compartments: whether the features were chosen as CellProfiler's.
    """
    title = listed((part.path.name for part in parts), 2)
    source = str(parts[0].path) if len(parts) == 1 else title
    sets = [set(part.numbers.columns) for part in parts]
    common = [name for name in parts[0].numbers.columns if all(name in names for names in sets)]
    if not common:
        raise InputError(f"{source}: the tables have no feature in common")
    differing = sorted(set().union(*sets) - set(common))
    numbers = pd.concat([part.numbers[common] for part in parts], ignore_index=True)
    keys = pd.concat([part.keys for part in parts], ignore_index=True)
    place = _match_wells(source, keys, wells, unmatched)
    empty = (numbers.isna().mean(axis=1) > HALF_EMPTY).to_numpy()
    used = (place >= 0) & ~empty
    if not used.any():
        raise InputError(f"{source}: every row lacks more than half of the {len(common)} features")
    values, unusable = _usable(source, numbers[used])
    used_wells = wells.iloc[place[used]].reset_index(drop=True)
    x, rows = average(values.to_numpy(), used_wells, ["well_id"])
    reasons = [*(part.left_out for part in parts), {"not in every table": differing}, unusable]
    left_out = _merge_reasons(reasons)
    notes = [_feature_note(title, values.shape[1], left_out)]
    notes.append(_well_note(title, keys, place >= 0, rows, wells))
    if empty.any():
        notes.append(
            f"{title}: {int(empty.sum())} rows left out that lack more than half of the features "
            f"({_examples(keys[empty])})"
        )
    if "constant" not in unusable and not np.ptp(values.to_numpy(), axis=0).any():
        notes.append(f"{title}: every feature is constant, so no profile differs from another")
    normalised = _normalised_words([part.path for part in parts])
    record = merge_records([part.record for part in parts])
    notes = [*record.notes, *notes]
    compartments = compartments and all(name.startswith(COMPARTMENTS) for name in values.columns)
    features = tuple(values.columns)
    return ProfileTable(x, rows, features, tuple(notes), normalised, compartments, record)


def merge_records(records: Sequence[dict[str, Any]]) -> Record:
    """Return what the records of several files say together; an empty one says nothing."""
    facts = [record["profiles"] for record in records if record]
    trained = [names for fact in facts if (names := fact["trained"]) is not None]
    notes = dict.fromkeys(note for fact in facts for note in fact["notes"])
    labels = {fact["label"] for fact in facts}
    normalised = [fact["normalised"] for fact in facts]
    of_all = len(facts) == len(records)
    return Record(
        label=labels.pop() if of_all and len(labels) == 1 else "",
        normalised=normalised[0] if of_all and all(normalised) else "",
        trained=frozenset().union(*trained) if trained else None,
        notes=tuple(notes),
    )


def _match_wells(
    title: str, keys: pd.DataFrame, wells: pd.DataFrame, unmatched: float
) -> np.ndarray:
    """Return each row's position among `wells`, (N,), -1 if it is not one of them."""
    if keys.empty:
        raise InputError(f"{title}: has no row")
    plates = wells.plate.astype(str).str.strip()
    known = pd.MultiIndex.from_arrays([plates, wells.well.map(normalise_well)])
    rows = pd.MultiIndex.from_frame(keys)
    ambiguous = rows.isin(known[known.duplicated()])
    if ambiguous.any():
        plate, well = rows[ambiguous][0]
        raise InputError(
            f"{title}: plate and well '{plate} {well}' occur in several experiments of the data set"
        )
    first = np.flatnonzero(~known.duplicated())
    place = known[first].get_indexer(rows)
    lost = place < 0
    if lost.all():
        plate, well = keys.iloc[0]
        without_zeros = {str(name).lstrip("0"): name for name in plates}
        twin = without_zeros.get(str(plate).lstrip("0"))
        hint = ""
        if twin and twin != plate:
            hint = f" (the data set writes plate {twin!r}: keep barcodes as text)"
        raise InputError(
            f"{title}: none of its plates and wells is in the data set, first "
            f"{plate!r} {well!r}{hint}"
        )
    if lost.mean() > unmatched:
        raise InputError(
            f"{title}: {int(lost.sum())} of {len(lost)} rows are of wells that the data set has "
            f"not, first {_examples(keys[lost])}; at most {unmatched:.0%} may be (--unmatched "
            "SHARE allows more)"
        )
    return np.where(lost, -1, first[place])


def _examples(keys: pd.DataFrame) -> str:
    """The first plates and wells, and how many more there are."""
    return listed(dict.fromkeys(f"{plate} {well}" for plate, well in keys.itertuples(index=False)))


def _usable(title: str, numbers: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """Return the finite columns that vary (or all finite ones), and the others by reason."""
    values = numbers.to_numpy()
    finite = (np.isfinite(values) & (np.abs(values) < np.finfo(np.float32).max)).all(axis=0)
    if not finite.any():
        raise InputError(f"{title}: every one of the {len(finite)} features has a missing value")
    reasons = {"missing or infinite values": list(numbers.columns[~finite])}
    varies = finite.copy()
    varies[finite] = np.ptp(values[:, finite], axis=0) > 0
    if varies.any():
        reasons["constant"] = list(numbers.columns[finite & ~varies])
    return numbers.loc[:, varies if varies.any() else finite], reasons


def _merge_reasons(reasons: Sequence[dict[str, list[str]]]) -> dict[str, list[str]]:
    merged: dict[str, dict[str, None]] = {}
    for part in reasons:
        for reason, names in part.items():
            merged.setdefault(reason, {}).update(dict.fromkeys(names))
    return {reason: list(names) for reason, names in merged.items() if names}


def _feature_note(title: str, n_used: int, left_out: dict[str, list[str]]) -> str:
    parts = []
    for reason, names in left_out.items():
        examples = "" if reason == "Metadata_" else f" ({listed(names)})"
        parts.append(f"{len(names)} {reason}{examples}")
    return f"{title}: {n_used} columns used as features; left out: {'; '.join(parts) or 'none'}"


def _well_note(
    title: str, keys: pd.DataFrame, known: np.ndarray, rows: pd.DataFrame, wells: pd.DataFrame
) -> str:
    text = f"{title}: {len(keys)} rows of {len(rows)} wells"
    lost = keys[~known]
    if len(lost):
        text += (
            f"; {len(lost)} rows of wells that the data set has not ({_examples(lost)}) left out"
        )
    lacking = int(wells.plate.isin(set(rows.plate)).sum()) - len(rows)
    if lacking:
        text += f"; {lacking} wells of its plates have no profile"
    return text


def _normalised_words(paths: Sequence[Path]) -> str:
    """The words that say so in the first file's name; "" unless all names say so."""
    matches = [_NORMALISED.search(path.name) for path in paths]
    return matches[0][0] if all(matches) else ""

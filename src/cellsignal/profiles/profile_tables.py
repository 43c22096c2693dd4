"""Read tables of well profiles, such as CellProfiler's and pycytominer's: which columns are
features, and whose wells.

A feature is a column of one of CellProfiler's compartments, or one that the caller names. What is
left out is counted by reason, since an index or an image number beside the features passes for one
and changes every figure.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.tables import MISSING, normalise_well, read_table
from cellsignal.common.ties import listed
from cellsignal.evaluation.matching import average

# Image_ describes the picture, so it has to be asked for
COMPARTMENTS = ("Cells_", "Cytoplasm_", "Nuclei_")
UNMATCHED = 0.05  # share of a table's rows that may be of wells that the data set has not
PLATE, WELL = "Metadata_Plate", "Metadata_Well"
HALF_EMPTY = 0.5  # a row that lacks more of the features is of a well without cells
_COUNTER = re.compile(r"(^|_)(Image|Table|Object)_?Number(\.\d+)?$", re.IGNORECASE)
_INDEX = re.compile(r"(Unnamed: \d+(\.\d+)*|index|level_\d+|__index_level_\d+__)")
_NORMALISED = re.compile(
    r"(?<!un)(?<!un[-_])(?<!not[-_ ])(?<!non[-_])(?<!non)"
    r"(normali[sz]ed|mad_?robusti[sz]ed?|standardi[sz]ed|spheri[sz]ed?|spherized)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class ProfileTable:
    """Profiles as tables hold them, averaged by well.

    Attributes:
        x: (W, D) float32, finite.
        wells: W rows of the data set's wells.
        features: D names.
        notes: what was used and left out, and why.
        named_normalised: the words of a file's name that say that the profiles are normalised; ""
        where none does. compartments: whether the features are CellProfiler's.
    """

    x: np.ndarray
    wells: pd.DataFrame
    features: tuple[str, ...]
    notes: tuple[str, ...]
    named_normalised: str
    compartments: bool


def read_profiles(
    paths: Sequence[Path],
    wells: pd.DataFrame,
    features: Sequence[str] = (),
    unmatched: float = UNMATCHED,
) -> ProfileTable:
    """Read profiles of a data set's wells.

    Args:
        paths: .csv, .tsv (or either with .gz) or .parquet files with Metadata_Plate and
        Metadata_Well, of the same
            features; where they differ the common ones are taken.
        wells: The data set's wells, one row each, with well_id, plate and well.
        features: Names of columns, prefixes of names, or files with a name on each line, the first
        of these that fits;
            by default `COMPARTMENTS`.
        unmatched: Largest share of rows of wells that the data set has not.

    Raises:
        InputError: No readable table; no feature; too many rows of unknown wells. Names the file.
    """
    parts = [_read_numbers(Path(path), features) for path in paths]
    common = [
        name for name in parts[0].numbers.columns if all(name in part.numbers for part in parts)
    ]
    title = listed((part.path.name for part in parts), 2)
    source = str(parts[0].path) if len(parts) == 1 else title
    if not common:
        raise InputError(f"{source}: the tables have no feature in common")
    differing = sorted(set().union(*(part.numbers.columns for part in parts)) - set(common))
    numbers = pd.concat([part.numbers[common] for part in parts], ignore_index=True)
    keys = pd.concat([part.keys for part in parts], ignore_index=True)
    place = _match_wells(source, keys, wells, unmatched)
    empty = (numbers.isna().mean(axis=1) > HALF_EMPTY).to_numpy()
    inside = (place >= 0) & ~empty
    if not inside.any():
        raise InputError(f"{source}: every row lacks more than half of the {len(common)} features")
    values, reasons = _usable(source, numbers[inside])
    x, rows = average(
        values.to_numpy(), wells.iloc[place[inside]].reset_index(drop=True), ["well_id"]
    )
    columns = _merge_reasons(
        [*(part.left_out for part in parts), {"not in every table": differing}, reasons]
    )
    notes = [
        _feature_note(title, list(values.columns), columns),
        _well_note(title, keys, place >= 0, rows, wells),
    ]
    if empty.any():
        lacking = listed(
            dict.fromkeys(f"{plate} {well}" for plate, well in keys[empty].itertuples(index=False))
        )
        notes.append(
            f"{title}: {int(empty.sum())} rows left out that lack more than half of the features "
            f"({lacking})"
        )
    if "constant" not in reasons and not np.ptp(values.to_numpy(), axis=0).any():
        notes.append(f"{title}: every feature is constant, so no profile differs from another")
    return ProfileTable(
        x,
        rows,
        tuple(values.columns),
        tuple(notes),
        _says_normalised([part.path for part in parts]),
        not features,
    )


@dataclass(frozen=True)
class _Part:
    """One file: the numbers of its feature columns, plate and well of each row, and columns left
    out by reason.
    """

    path: Path
    numbers: pd.DataFrame
    keys: pd.DataFrame
    left_out: dict[str, list[str]]


def _read_numbers(path: Path, features: Sequence[str]) -> _Part:
    frame = _read_parquet(path) if path.suffix == ".parquet" else read_table(path, (PLATE, WELL))
    names, left_out = _choose_features(path, frame.columns, features)
    numbers = pd.DataFrame({name: _to_numbers(frame[name]) for name in names})
    words = [
        name
        for name in names
        if (numbers[name].isna() & ~frame[name].isin(MISSING) & frame[name].notna()).any()
    ]
    if features and words:
        row = numbers.index[numbers[words[0]].isna()][0]
        raise InputError(
            f"{path}: row {row}: feature {words[0]} is {frame.at[row, words[0]]!r}, not a number"
        )
    if len(words) == len(names):
        row = frame.index[0]
        raise InputError(
            f"{path}: none of the {len(names)} features is a column of numbers; "
            f"row {row}: {words[0]} is {frame.at[row, words[0]]!r}"
        )
    left_out["not numbers"] = words
    keys = pd.DataFrame({"plate": frame[PLATE], "well": frame[WELL].map(normalise_well)})
    return _Part(path, numbers.drop(columns=words), keys, left_out)


def _to_numbers(cells: pd.Series) -> pd.Series:
    """float64, NaN where a cell is no number; a date is none, though pandas would count its
    nanoseconds.
    """
    if pd.api.types.is_datetime64_any_dtype(cells) or pd.api.types.is_timedelta64_dtype(cells):
        return pd.Series(np.nan, cells.index)
    return pd.to_numeric(cells, errors="coerce").astype(np.float64)


def _read_parquet(path: Path) -> pd.DataFrame:
    """As `read_table` reads a CSV: plates and wells are stripped text, and rows count from 2."""
    try:
        frame = pd.read_parquet(path)
    except ImportError:
        raise InputError(
            f"{path}: reading parquet needs pyarrow (pip install pyarrow); a .csv does not"
        ) from None
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:  # pandas' and pyarrow's errors of damage are ValueErrors
        raise InputError(
            f"{path}: not a readable table ({str(error).splitlines()[0][:100]})"
        ) from None
    # plate and well may be the index
    kept = [name for name in frame.index.names if name is not None and name not in frame]
    frame = frame.reset_index(kept).reset_index(drop=True)
    frame.columns = [str(name) for name in frame.columns]
    frame.index = pd.RangeIndex(2, len(frame) + 2, name="row")
    for column in (PLATE, WELL):
        if column not in frame:
            raise InputError(f"{path}: no column {column!r}, which says where a profile is from")
        frame[column] = frame[column].map(_cell_text).astype(object)
        if frame[column].isin(MISSING).any():
            raise InputError(
                f"{path}: row {frame.index[frame[column].isin(MISSING)][0]}: {column} is empty"
            )
    return frame


def _cell_text(cell: object) -> str:
    """An identifier as text: 7.0, which is what a whole number becomes beside an empty cell, is 7;
    none is "".
    """
    if pd.isna(cell):
        return ""
    if isinstance(cell, bytes):
        return cell.decode("utf-8", "replace").strip()
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell).strip()


def _choose_features(
    path: Path, columns: Sequence[str], features: Sequence[str]
) -> tuple[list[str], dict[str, list[str]]]:
    """The feature columns of a table, and the others by reason."""
    metadata = [name for name in columns if name.startswith("Metadata_")]
    others = [name for name in columns if not name.startswith("Metadata_")]
    if features:
        chosen = _named_features(path, others, features)
    else:
        chosen = [
            name for name in others if name.startswith(COMPARTMENTS) and not _COUNTER.search(name)
        ]
    if not chosen:
        raise InputError(
            f"{path}: no column starts with {', '.join(COMPARTMENTS)}; name the features with "
            "--features PREFIX or "
            f"--features FILE (a name on each line). Other columns: {listed(others, 5) or 'none'}"
        )
    left_out: dict[str, list[str]] = {"Metadata_": metadata}
    for name in sorted(set(others) - set(chosen), key=others.index):
        if _INDEX.fullmatch(name):
            reason = "table index"
        elif _COUNTER.search(name):
            reason = "image, table or object number"
        elif name.startswith("Image_"):
            reason = "Image_, not asked for"
        else:
            reason = "not asked for" if features else "of no compartment"
        left_out.setdefault(reason, []).append(name)
    return chosen, left_out


def _named_features(path: Path, columns: Sequence[str], features: Sequence[str]) -> list[str]:
    chosen: set[str] = set()
    for item in features:
        if not item.strip():
            raise InputError("--features: an empty name")
        if item in columns:
            chosen.add(item)
            continue
        if Path(item).is_file():
            names = _read_names(Path(item))
            absent = [name for name in names if name not in columns]
            if absent or not names:
                what = (
                    f"lacks {len(absent)} of the {len(names)} features of {item}, first "
                    f"{absent[0]!r}"
                    if absent
                    else f"{item} names no feature"
                )
                raise InputError(f"{path}: {what}")
            chosen |= set(names)
            continue
        found = [name for name in columns if name.startswith(item)]
        if not found:
            raise InputError(
                f"{path}: no column starts with {item!r} and no such file; it has "
                f"{listed(columns, 5) or 'none'}"
            )
        # an index or a number of an image is no measurement, unless it is named in full
        chosen |= {name for name in found if not (_COUNTER.search(name) or _INDEX.fullmatch(name))}
    return [name for name in columns if name in chosen]


def _read_names(path: Path) -> list[str]:
    """The lines of a file of names, stripped; blank ones are passed over."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise InputError(f"--features {path}: is no text file with a name on each line") from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def _match_wells(
    title: str, keys: pd.DataFrame, wells: pd.DataFrame, unmatched: float
) -> np.ndarray:
    """(N,) position among `wells` of each row, -1 where it is of none."""
    if keys.empty:
        raise InputError(f"{title}: has no row")
    known = pd.MultiIndex.from_arrays(
        [wells.plate.astype(str).str.strip(), wells.well.map(normalise_well)]
    )
    asked = pd.MultiIndex.from_frame(keys)
    doubled = known[known.duplicated(keep=False)]
    several = asked.isin(doubled) if len(doubled) else np.zeros(len(asked), bool)
    if several.any():
        plate, well = asked[several][0]
        raise InputError(
            f"{title}: plate and well '{plate} {well}' occur in several experiments of the data set"
        )
    place = known.drop_duplicates().get_indexer(asked) if len(doubled) else known.get_indexer(asked)
    if len(doubled):
        first = np.flatnonzero(~known.duplicated())
        place = np.where(place >= 0, first[place], -1)
    lost = place < 0
    examples = listed(dict.fromkeys(f"{plate} {well}" for plate, well in asked[lost]))
    if lost.all():
        stripped = {str(plate).lstrip("0"): plate for plate in known.get_level_values(0)}
        twin = stripped.get(str(keys.plate.iloc[0]).lstrip("0"))
        hint = (
            f" (the data set writes plate {twin!r}: keep barcodes as text)"
            if twin and twin != keys.plate.iloc[0]
            else ""
        )
        raise InputError(
            f"{title}: none of its plates and wells is in the data set, first "
            f"{keys.plate.iloc[0]!r} {keys.well.iloc[0]!r}{hint}"
        )
    if lost.mean() > unmatched:
        raise InputError(
            f"{title}: {int(lost.sum())} of {len(lost)} rows are of wells that the data set has "
            f"not, first {examples}; "
            f"at most {unmatched:.0%} may be (--unmatched SHARE allows more)"
        )
    return place


def _usable(title: str, numbers: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """The columns of finite numbers that differ, and the others by reason; where none differs, all
    finite ones.
    """
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
    merged: dict[str, list[str]] = {}
    for part in reasons:
        for reason, names in part.items():
            known = merged.setdefault(reason, [])
            known += [name for name in dict.fromkeys(names) if name not in set(known)]
    return {reason: names for reason, names in merged.items() if names}


def _feature_note(title: str, used: Sequence[str], left_out: dict[str, list[str]]) -> str:
    parts = [
        f"{len(names)} {reason}" + ("" if reason == "Metadata_" else f" ({listed(names)})")
        for reason, names in left_out.items()
    ]
    return f"{title}: {len(used)} columns used as features; left out: {'; '.join(parts) or 'none'}"


def _well_note(
    title: str, keys: pd.DataFrame, inside: np.ndarray, rows: pd.DataFrame, wells: pd.DataFrame
) -> str:
    lost, lacking = int((~inside).sum()), int(wells.plate.isin(set(rows.plate)).sum()) - len(rows)
    examples = listed(
        dict.fromkeys(f"{plate} {well}" for plate, well in keys[~inside].itertuples(index=False))
    )
    text = f"{title}: {len(keys)} rows of {len(rows)} wells"
    text += (
        f"; {lost} rows of wells that the data set has not ({examples}) left out" if lost else ""
    )
    return text + (f"; {lacking} wells of its plates have no profile" if lacking else "")


def _says_normalised(paths: Sequence[Path]) -> str:
    words = [match[0] if (match := _NORMALISED.search(path.name)) else "" for path in paths]
    return words[0] if all(words) else ""

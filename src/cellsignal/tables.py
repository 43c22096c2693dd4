"""Read tables strictly: every cell is stripped text, every row keeps the number it has in its file.

All CSV and TSV files that a person or another program wrote are read here, so that there is one rule for each
question: an identifier such as the barcode `00090001` stays text, blanks at the ends of a cell go, blank lines are
passed over but counted, and a row with more or fewer cells than the header is an error.
"""

import csv
import gzip
import io
import re
import zlib
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.errors import InputError

# What programs write for "no value". Compared as it stands: a class may be called "none".
MISSING = frozenset({"", "nan", "NaN", "NA", "N/A", "<NA>", "NULL", "null"})
_WELL = re.compile(r"([A-Za-z]|[Aa][A-Fa-f])0*([1-9]\d?)")
_OTHER_DELIMITERS = (";", "\t", ",", "|")


def read_table(
    path: Path | str,
    columns: Sequence[str] = (),
    *,
    filled: Collection[str] | None = None,
    unique: str | None = None,
    delimiter: str | None = None,
    content: bytes | None = None,
    rows: int | None = None,
    missing: Collection[str] = MISSING,
    error: type[InputError] = InputError,
) -> pd.DataFrame:
    """Read a table of text cells.

    Args:
        path: A .csv or .tsv file, or either with .gz behind it.
        columns: Columns that must be there; others are kept too.
        filled: Columns that may have no empty cell (default: all of `columns`).
        unique: A column in which no value may occur twice.
        delimiter: Between cells; by default a tab in .tsv files and a comma elsewhere.
        content: The bytes of the table where `path` only names it (a member of a zip file).
        rows: Read only the first `rows` rows.
        missing: Cells that count as empty in `filled` columns.
        error: What is raised.

    Returns:
        Text cells, stripped. The index, called "row", is the row's line in the file; the header is line 1. A column
        without a name is called "Unnamed: k", k its position from 0, as pandas does.

    Raises:
        InputError: No such file; not text; no header; a doubled or missing column; a row with more or fewer cells than
            the header; an empty cell in a `filled` column; a doubled value. Names the file, the row and the column.
    """
    path = Path(path)
    if delimiter is None:
        delimiter = "\t" if ".tsv" in path.suffixes else ","
    text = _read_text(path, content, error)
    frame = _parse(path, text, delimiter, rows, error)
    absent = [column for column in columns if column not in frame.columns]
    if absent:
        raise error(f"{path}: no column {absent[0]!r}; it has {_shown(frame.columns)}{_delimiter_hint(frame, delimiter)}")
    for column in columns if filled is None else filled:
        empty = frame[column].isin(missing)
        if empty.any():
            first = frame.index[empty][0]
            raise error(f"{path}: row {first}: {column} is empty{_count(empty)}{_row_name(frame, first)}")
    if unique is not None:
        refuse_rows(path, frame, frame[unique].duplicated(), unique, "occurs more than once", error)
    return frame


def refuse_rows(
    path: Path | str,
    frame: pd.DataFrame,
    wrong: pd.Series | np.ndarray,
    column: str,
    why: str,
    error: type[InputError] = InputError,
) -> None:
    """Raise one line about the first wrong row, if there is any.

    Args:
        frame: A table of `read_table`, or a part of one.
        wrong: (N,) bool.
        column: The column whose value is shown.
        why: What is wrong with it, to follow the value: "is no dose".

    Raises:
        InputError: `wrong` is true somewhere. Names the file, the row, the column, the value and the number of such rows.
    """
    wrong = np.asarray(wrong, bool)
    if wrong.any():
        at = int(wrong.argmax())
        value = frame[column].iloc[at]
        row = frame.index[at]
        raise error(f"{path}: row {row}: {column} {value!r} {why}{_count(wrong)}{_row_name(frame, row)}")


def parse_numbers(
    path: Path | str, frame: pd.DataFrame, column: str, low: float = -np.inf, high: float = np.inf
) -> pd.Series:
    """Parse a column of finite numbers from `low` to `high`.

    Raises:
        InputError: A cell is no such number; names the file and the row.
    """
    numbers = pd.to_numeric(frame[column], errors="coerce").astype(float)
    bounds = "".join(f" {word} {bound:g}" for word, bound in (("from", low), ("to", high)) if np.isfinite(bound))
    wrong = ~(np.isfinite(numbers) & (numbers >= low) & (numbers <= high))
    refuse_rows(path, frame, wrong, column, f"is not a number{bounds}")
    return numbers


def parse_integers(
    path: Path | str, frame: pd.DataFrame, column: str, low: int | None = None, high: int | None = None
) -> pd.Series:
    """Parse a column of whole numbers from `low` to `high` as int64; "3.0" is 3, as programs write it.

    Raises:
        InputError: A cell is no such number; names the file and the row.
    """
    whole = frame[column].str.fullmatch(r"[+-]?\d{1,15}(\.0*)?").astype(bool)
    numbers = frame[column].where(whole, "0").str.partition(".")[0].astype("int64")
    bounds = "".join(f" {word} {bound}" for word, bound in (("from", low), ("to", high)) if bound is not None)
    wrong = ~whole
    if low is not None:
        wrong |= numbers < low
    if high is not None:
        wrong |= numbers > high
    refuse_rows(path, frame, wrong, column, f"is not a whole number{bounds}")
    return numbers


def normalise_well(text: str) -> str:
    """Write a plate address as A01 (AF48 on 1,536 wells); other text is only stripped.

    Accepts a1, A1, A01 and A001.
    """
    text = str(text).strip()
    match = _WELL.fullmatch(text)
    return f"{match[1].upper()}{int(match[2]):02d}" if match else text


def is_well(text: str) -> bool:
    """Whether a normalised text is a plate address such as A01."""
    return _WELL.fullmatch(text) is not None


def _read_text(path: Path, content: bytes | None, error: type[InputError]) -> str:
    if content is None:
        if path.is_dir():
            raise error(f"{path}: is a folder, not a table")
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise error(f"{path}: no such file") from None
        except OSError as failure:
            raise error(f"{path}: cannot be read ({failure.strerror})") from None
    try:
        if path.suffix == ".gz" or content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        text = content.decode("utf-8-sig")
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise error(f"{path}: damaged or cut short (gzip)") from None
    except UnicodeDecodeError as failure:
        line = content[: failure.start].count(b"\n") + 1
        raise error(f"{path}: line {line} is not UTF-8 text; save the table as CSV in UTF-8") from None
    if "\0" in text:
        raise error(f"{path}: is not a CSV file")
    if not text.strip():
        raise error(f"{path}: is empty")
    return text


def _parse(path: Path, text: str, delimiter: str, rows: int | None, error: type[InputError]) -> pd.DataFrame:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    names: list[str] | None = None
    records, lines = [], []
    start = 1
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            line, start = start, reader.line_num + 1
            if not any(cells):
                continue
            if names is None:
                names = [name or f"Unnamed: {number}" for number, name in enumerate(cells)]
                continue
            if len(records) == rows:
                break
            if len(cells) != len(names):
                raise error(f"{path}: row {line} has {len(cells)} cells, the header has {len(names)}")
            records.append(cells)
            lines.append(line)
    except csv.Error as failure:
        raise error(f"{path}: is not a CSV file (row {start}: {failure})") from None
    if names is None:
        raise error(f"{path}: is empty")
    doubled = pd.Series(names).duplicated()
    if doubled.any():
        raise error(f"{path}: column {names[int(doubled.argmax())]!r} occurs twice in the header")
    return pd.DataFrame(records, columns=names, index=pd.Index(lines, dtype="int64", name="row"), dtype=object)


def _count(wrong: pd.Series | np.ndarray) -> str:
    number = int(np.sum(wrong))
    return f" ({number} such rows)" if number > 1 else ""


def _row_name(frame: pd.DataFrame, row: int) -> str:
    """The first cell of a row, for a reader who looks for it by name."""
    first = frame.columns[0]
    value = frame.at[row, first]
    return f"; its {first} is {value!r}" if value not in MISSING and not first.startswith("Unnamed: ") else ""


def _shown(columns: Collection[str], most: int = 12) -> str:
    names = list(columns)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _delimiter_hint(frame: pd.DataFrame, delimiter: str) -> str:
    if frame.shape[1] == 1:
        for other in _OTHER_DELIMITERS:
            if other != delimiter and other in frame.columns[0]:
                return f" (cells look separated by {other!r}; {delimiter!r} is expected)"
    return ""

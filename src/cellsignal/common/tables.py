"""Read tables strictly: cells are stripped text, rows keep their line number in the file.

All CSV and TSV files that a person or another program wrote are read here, so that there is one
rule for each question: an identifier such as the barcode `00090001` stays text, blanks at the ends
of a cell go, blank lines are passed over but counted, and a row with more or fewer cells than the
header is an error.
"""

import re
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.table_text import decode_table, parse_table, with_header

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
    any_row: bool = False,
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
        any_row: Whether a table with its header alone is an error.
        delimiter: Between cells; by default a tab in .tsv files and a comma elsewhere.
        content: The bytes of the table where `path` only names it (a member of a zip file).
        rows: Read only the first `rows` rows.
        missing: Cells that count as empty in `filled` columns.
        error: What is raised.

    Returns:
        Text cells, stripped. The index, called "row", is the row's line in the file; the header is
        line 1. A column without a name is called "Unnamed: k", k its position from 0, as pandas
        does.

    Raises:
        InputError: No such file; not text; no header; a doubled or missing column; a row with more
        or fewer cells than
            the header; an empty cell in a `filled` column; a doubled value. Names the file, the row
            and the column.
    """
    path = Path(path)
    if delimiter is None:
        delimiter = "\t" if ".tsv" in path.suffixes else ","
    frame = parse_table(path, decode_table(path, content, error), delimiter, rows, error)
    frame = _check(
        path, frame, columns, filled, unique, missing, error, _delimiter_hint(frame, delimiter)
    )
    if any_row and frame.empty:
        raise error(f"{path}: has a header but no rows")
    return frame


def read_sheet(
    path: Path | str,
    sheet: str | None = None,
    columns: Sequence[str] = (),
    *,
    filled: Collection[str] | None = None,
    unique: str | None = None,
    missing: Collection[str] = MISSING,
    error: type[InputError] = InputError,
) -> pd.DataFrame:
    """Read a sheet of an Excel workbook (by default the first) as `read_table` reads a table.

    A whole number is written without a decimal point, whichever way the workbook keeps it. Cells
    that a row lacks are "".

    Raises:
        InputError: No such file, no workbook, no such sheet, or what `read_table` refuses. Names
        the sheet and the row.
    """
    try:
        with pd.ExcelFile(path, engine="openpyxl") as book:
            sheet = book.sheet_names[0] if sheet is None else sheet
            if sheet not in book.sheet_names:
                raise error(f"{path}: no sheet {sheet!r}; it has {_shown(book.sheet_names)}")
            cells = pd.read_excel(
                book,
                sheet_name=sheet,
                header=None,
                dtype=object,
                keep_default_na=False,
                na_filter=False,
            )
    except FileNotFoundError:
        raise error(f"{path}: no such file") from None
    except InputError:
        raise
    # of damaged bytes zipfile, openpyxl and its XML parser raise anything
    except Exception as failure:
        why = " ".join(str(failure).split())[:100]
        raise error(f"{path}: is not a readable xlsx file ({why})") from None
    name = f"{path}: sheet {sheet!r}"
    frame = with_header(name, cells.map(_cell_text).astype(object), error)
    return _check(name, frame, columns, filled, unique, missing, error)


def _cell_text(value: object) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()


def _check(
    path: Path | str,
    frame: pd.DataFrame,
    columns: Sequence[str],
    filled: Collection[str] | None,
    unique: str | None,
    missing: Collection[str],
    error: type[InputError],
    hint: str = "",
) -> pd.DataFrame:
    """Check a frame against the arguments of `read_table`; return it."""
    absent = [column for column in columns if column not in frame.columns]
    if absent:
        raise error(f"{path}: no column {absent[0]!r}; it has {_shown(frame.columns)}{hint}")
    for column in columns if filled is None else filled:
        empty = frame[column].isin(missing)
        if empty.any():
            first = frame.index[empty][0]
            raise error(
                f"{path}: row {first}: {column} is empty{_count(empty)}{_row_name(frame, first)}"
            )
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
        why: What is wrong with it, to follow the value: "is not a dose".

    Raises:
        InputError: `wrong` is true somewhere. Names the file, the row, the column, the value and
        the number of such rows.
    """
    wrong = np.asarray(wrong, bool)
    if wrong.any():
        first = int(wrong.argmax())
        value = frame[column].iloc[first]
        row = frame.index[first]
        name = "" if column == frame.columns[0] else _row_name(frame, row)
        raise error(f"{path}: row {row}: {column} {value!r} {why}{_count(wrong)}{name}")


def parse_numbers(
    path: Path | str, frame: pd.DataFrame, column: str, low: float = -np.inf, high: float = np.inf
) -> pd.Series:
    """Parse a column of finite numbers from `low` to `high`.

    Raises:
        InputError: A cell is no such number; names the file and the row.
    """
    numbers = pd.to_numeric(frame[column], errors="coerce").astype(float)
    bounds = "".join(
        f" {word} {bound:g}" for word, bound in (("from", low), ("to", high)) if np.isfinite(bound)
    )
    wrong = ~(np.isfinite(numbers) & (numbers >= low) & (numbers <= high))
    refuse_rows(path, frame, wrong, column, f"is not a number{bounds}")
    return numbers


def parse_integers(
    path: Path | str,
    frame: pd.DataFrame,
    column: str,
    low: int | None = None,
    high: int | None = None,
) -> pd.Series:
    """Parse a column of whole numbers from `low` to `high` as int64; "3.0" is read as 3.

    Raises:
        InputError: A cell is no such number; names the file and the row.
    """
    codes, texts = pd.factorize(frame[column], use_na_sentinel=False)
    texts = pd.Series(texts, dtype=object)  # each value once
    whole = texts.str.fullmatch(r"[+-]?\d{1,15}(\.0*)?").eq(True)
    numbers = texts.where(whole, "0").str.replace(r"\..*", "", regex=True).astype("int64")
    whole = pd.Series(whole.to_numpy()[codes], frame.index)
    numbers = pd.Series(numbers.to_numpy()[codes], frame.index, name=column)
    bounds = "".join(
        f" {word} {bound}" for word, bound in (("from", low), ("to", high)) if bound is not None
    )
    wrong = ~whole
    if low is not None:
        wrong |= numbers < low
    if high is not None:
        wrong |= numbers > high
    refuse_rows(path, frame, wrong, column, f"is not a whole number{bounds}")
    return numbers


def matches(column: pd.Series, pattern: str) -> np.ndarray:
    """Return (N,) bool: whether all of a text matches; each different text is looked at once."""
    codes, texts = pd.factorize(column, use_na_sentinel=False)
    found = [isinstance(text, str) and bool(re.fullmatch(pattern, text)) for text in texts]
    return np.array(found, bool)[codes]


def normalise_well(text: str) -> str:
    """Write a plate address as A01 (AF48 on 1,536 wells); other text is only stripped.

    Accepts a1, A1, A01 and A001.
    """
    text = str(text).strip()
    match = _WELL.fullmatch(text)
    return f"{match[1].upper()}{int(match[2]):02d}" if match else text


def normalise_wells(column: pd.Series) -> pd.Series:
    """`normalise_well` of every cell."""
    return column.map({well: normalise_well(well) for well in column.unique()}).astype(object)


def is_well(text: str) -> bool:
    """Whether a normalised text is a plate address such as A01."""
    return _WELL.fullmatch(text) is not None


def _count(wrong: pd.Series | np.ndarray) -> str:
    number = int(np.sum(wrong))
    return f" ({number} such rows)" if number > 1 else ""


def _row_name(frame: pd.DataFrame, row: int) -> str:
    """The first cell of a row, for a reader who looks for it by name."""
    first = frame.columns[0]
    value = frame.at[row, first]
    return (
        f"; its {first} is {value!r}"
        if value not in MISSING and not first.startswith("Unnamed: ")
        else ""
    )


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


def aligned(lines: Sequence[tuple[str, ...]], right: Collection[int]) -> str:
    """Lay out rows of cells in columns: a header, a rule, then the rows.

    Args:
        right: numbers of the columns that are flush right.
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = []
    for line in lines:
        cells = [
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        rows.append("  ".join(cells).rstrip())
    rule = "  ".join("-" * width for width in widths)
    return "\n".join([rows[0], rule, *rows[1:]])

"""Split the text of a table into rows and cells, with the line number of each row."""

import csv
import gzip
import io
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError

_END = "\x1f"  # the ASCII separator of units, which no table here uses

csv.field_size_limit(2**31 - 1)  # a ranking of a whole gallery is one cell


def decode_table(path: Path, content: bytes | None, error: type[InputError]) -> str:
    """The text of a table's file, or of the bytes that stand for it; see `tables.read_table`."""
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
        raise error(
            f"{path}: line {line} is not UTF-8 text; save the table as CSV in UTF-8"
        ) from None
    if "\0" in text:
        raise error(f"{path}: is not a CSV file")
    if not text.strip():
        raise error(f"{path}: is empty")
    return text


def parse_table(
    path: Path, text: str, delimiter: str, rows: int | None, error: type[InputError]
) -> pd.DataFrame:
    """Parse a table of text cells; see `tables.read_table`."""
    frame = _parse_regular(text, delimiter) if rows is None else None
    return _parse_strictly(path, text, delimiter, rows, error) if frame is None else frame


def _parse_regular(text: str, delimiter: str) -> pd.DataFrame | None:
    """Parse a table in which every line is one well-formed row; return None for others.

    Several times as fast as `_parse_strictly`.
    """
    text = text.replace("\r\n", "\n").removesuffix("\n")
    if "\r" in text or _END in text or _has_odd_quote(text, delimiter):
        return None
    lines = text.count("\n") + 1
    # a cell behind the last one: a short row is padded without a word, and then lacks it there
    mark = delimiter + _END
    try:
        cells = pd.read_csv(
            io.StringIO(text.replace("\n", mark + "\n") + mark),
            sep=delimiter,
            header=None,
            dtype=object,
            keep_default_na=False,
            skip_blank_lines=False,
            skipinitialspace=True,
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError):
        return None
    if len(cells) != lines or not (cells.pop(cells.columns[-1]) == _END).all():
        return None
    for name, column in cells.items():
        texts = column.unique()
        if any(text != text.strip() for text in texts):
            cells[name] = column.map({text: text.strip() for text in texts}).astype(object)
    names = cells.iloc[0].tolist()
    named = [name for name in names if name]
    if not named or len(set(named)) < len(named):
        return None
    return with_header("", cells, InputError)


def _has_odd_quote(text: str, delimiter: str) -> bool:
    """Return whether a quote is inside a cell's text; parsers disagree on such tables."""
    content = np.frombuffer(f"\n{text}\n".encode(), np.uint8)
    quotes = np.flatnonzero(content == ord('"'))
    if len(quotes) % 2:
        return True
    # a doubled quote in a quoted cell closes it and opens it again
    limits = [ord(delimiter), ord("\n"), ord('"')]
    before, behind = content[quotes[::2] - 1], content[quotes[1::2] + 1]
    return not (np.isin(before, limits).all() and np.isin(behind, limits).all())


def with_header(path: Path | str, cells: pd.DataFrame, error: type[InputError]) -> pd.DataFrame:
    """Take the first row that is not blank as the header; drop blank rows but count them."""
    filled = np.zeros(len(cells), dtype=bool)
    for _, column in cells.items():
        if filled.all():
            break
        filled |= (column != "").to_numpy(dtype=bool)
    kept = np.flatnonzero(filled)
    if not len(kept):
        raise error(f"{path}: is empty")
    names = _column_names(path, cells.iloc[kept[0]], error)
    frame = cells.iloc[kept[1:]].set_axis(names, axis=1)
    return frame.set_axis(pd.Index(kept[1:] + 1, dtype="int64", name="row"), axis=0)


def _column_names(path: Path | str, cells: Sequence[str], error: type[InputError]) -> list[str]:
    """Return the column names; an empty one becomes "Unnamed: k", or "Unnamed: k.1" if taken."""
    given, names = set(cells), []
    for number, name in enumerate(cells):
        name = name or f"Unnamed: {number}"
        while not cells[number] and name in given:
            name += ".1"
        names.append(name)
    doubled = pd.Series(names).duplicated()
    if doubled.any():
        raise error(f"{path}: column {names[int(doubled.argmax())]!r} occurs twice in the header")
    return names


def _parse_strictly(
    path: Path, text: str, delimiter: str, rows: int | None, error: type[InputError]
) -> pd.DataFrame:
    lines_of_text = io.StringIO(text, newline="")
    reader = csv.reader(lines_of_text, delimiter=delimiter, skipinitialspace=True, strict=True)
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
                names = _column_names(path, cells, error)
                continue
            if len(records) == rows:
                break
            if len(cells) != len(names):
                raise error(
                    f"{path}: row {line} has {len(cells)} cells, the header has {len(names)}"
                )
            records.append(cells)
            lines.append(line)
    except csv.Error as failure:
        raise error(f"{path}: is not a CSV file (row {start}: {failure})") from None
    if names is None:
        raise error(f"{path}: is empty")
    return pd.DataFrame(
        records, columns=names, index=pd.Index(lines, dtype="int64", name="row"), dtype=object
    )

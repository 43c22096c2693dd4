"""The table of a call: a JSON line for each check, written anew after each."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cellsignal.common.errors import InputError
from cellsignal.common.files import write_text

FORMAT = "cellsignal-gpu-check-1"
VERDICTS = ("pass", "fail", "skipped")


@dataclass(frozen=True)
class Row:
    """What came of one check.

    Attributes:
        verdict: one of `VERDICTS`.
        reason: one line; empty where it passed.
        seconds: that it took.
        figures: JSON-able values by name.
    """

    check: str
    verdict: str
    reason: str = ""
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)


def one_line(text: str, length: int = 300) -> str:
    """Return a text as one line of limited length."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 3] + "..."


def write_table(path: Path, head: dict[str, Any], rows: list[Row]) -> None:
    """Write the head (machine, versions) and the rows so far, by an atomic rename."""
    lines = [{"format": FORMAT, **head}, *map(asdict, rows)]
    write_text(path, "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines))


def read_table(path: Path) -> tuple[dict[str, Any], list[Row]]:
    """Read a table back.

    Raises:
        InputError: no such file, or a line that is not of such a table; names it.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    parsed = []
    for number, line in enumerate(lines, 1):
        try:
            values = json.loads(line)
            row = values if number == 1 else Row(**values)
            known = row.get("format") == FORMAT if number == 1 else row.verdict in VERDICTS
        except (ValueError, TypeError, AttributeError):
            known = False
        if not known:
            raise InputError(f"{path}: line {number} is not of a table of gpu-check")
        parsed.append(row)
    if not parsed:
        raise InputError(f"{path}: is empty")
    return parsed[0], parsed[1:]

"""The journal of a packing: one line for each finished row, of which a kill can tear the last."""

import json
import zlib
from pathlib import Path
from typing import Any

JOURNAL = "journal"


def journal_line(entry: dict[str, Any]) -> bytes:
    """One finished row as a line that shows if it is torn: the crc32 of what follows, then JSON."""
    text = json.dumps(entry).encode("ascii")
    return b"%08x %s\n" % (zlib.crc32(text), text)


def read_journal(path: Path) -> tuple[dict[int, dict[str, Any]], int]:
    """The rows a packing has finished: row -> entry, and the length in bytes of the journal's good
    part.

    A kill or a power cut can tear the last line; reading stops at the first line whose checksum
    does not match.
    """
    entries: dict[int, dict[str, Any]] = {}
    good = 0
    try:
        data = (path / JOURNAL).read_bytes()
    except FileNotFoundError:
        return {}, 0
    for line in data.splitlines(keepends=True):
        if not line.endswith(b"\n") or line[:8] != b"%08x" % zlib.crc32(line[9:-1]):
            break
        entry = json.loads(line[9:])
        entries[entry["row"]] = entry
        good += len(line)
    return entries, good

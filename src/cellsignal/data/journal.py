"""Keep a journal of finished work in a store's folder; its lines show if they are torn."""

import json
import zlib
from pathlib import Path
from typing import Any

JOURNAL = "journal"
# a finished row: row, status, and bytes, checksum, mean, sd, stamp (packed) or message (skipped)
Entry = dict[str, Any]


def journal_line(entry: Entry) -> bytes:
    """Write one finished row as a line that shows if it is torn: a crc32, then JSON."""
    text = json.dumps(entry).encode("ascii")
    return b"%08x %s\n" % (zlib.crc32(text), text)


def read_journal(path: Path) -> tuple[dict[int, Entry], int]:
    """Read which rows a packing has finished: row -> entry, and the journal's good length."""
    entries, good = read_journal_lines(path)
    return {entry["row"]: entry for entry in entries}, good


def read_journal_lines(path: Path) -> tuple[list[Entry], int]:
    """Return the entries of the journal's lines, and its good length in bytes.

    Reading stops at the first line whose checksum does not match: a kill or a power cut can tear
    the last one.
    """
    entries: list[Entry] = []
    good = 0
    try:
        data = (path / JOURNAL).read_bytes()
    except FileNotFoundError:
        return [], 0
    for line in data.splitlines(keepends=True):
        if not line.endswith(b"\n") or line[:8] != b"%08x" % zlib.crc32(line[9:-1]):
            break
        entries.append(json.loads(line[9:]))
        good += len(line)
    return entries, good

"""Notes of finished downloads: what each one made, so that it counts as done only while all of that
is there.
"""

import gzip
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cellsignal.common.errors import InputError
from cellsignal.common.files import atomic_path, write_json

FILE = "done.json"


class Notes:
    """The notes kept in a folder, for the files under `out`.

    Args:
        folder: where they are kept; `done.json` has an entry a download, and a list of its files
        lies beside it. out: what paths are relative to.

    Raises:
        InputError: `done.json` is damaged.
    """

    def __init__(self, folder: Path, out: Path):
        self._folder, self._out = folder, out
        try:
            notes = json.loads((folder / FILE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            notes = {}
        except ValueError:
            notes = None
        if not isinstance(notes, dict):
            raise InputError(
                f"{folder / FILE}: is not valid JSON; remove it to fetch everything anew"
            )
        self._notes: dict[str, Any] = notes

    def __contains__(self, name: str) -> bool:
        return name in self._notes

    def old_size(self, name: str) -> int | None:
        """Return what an earlier version noted, a size without a list of files; None where a note
        is none of its.
        """
        note = self._notes.get(name)
        return note if isinstance(note, int) else None

    def missing(self, name: str, size: int) -> str | None:
        """Say why a download must be done again: None where nothing it made is gone or of another
        size.

        Args:
            size: of the download as the host lists it.
        """
        note = self._notes.get(name)
        if note is None:
            return "not fetched yet"
        if not isinstance(note, dict):
            return "noted without a list of its files"
        if note.get("listed") != size:
            return f"has {size} bytes now, {note.get('listed')} when it was fetched"
        files = self._read_list(name)
        if files is None:
            return "its list of files is gone"
        for path, expected in files.items():
            actual = _size(self._out / path)
            if actual != expected:
                return f"{path} {'is gone' if actual is None else f'has {actual} bytes, {expected} expected'}"
        return None

    def add(self, name: str, size: int, files: Mapping[str, int]) -> None:
        """Note a download as done.

        Args:
            files: path relative to `out` -> bytes, of all that it made.
        """
        with atomic_path(self._list(name)) as temporary:
            temporary.write_bytes(gzip.compress(json.dumps(dict(files)).encode(), 5, mtime=0))
        self._notes[name] = {"listed": size, "files": len(files), "bytes": sum(files.values())}
        write_json(self._folder / FILE, self._notes)

    def _list(self, name: str) -> Path:
        return self._folder / "lists" / f"{name.replace('/', '%')}.json.gz"

    def _read_list(self, name: str) -> dict[str, int] | None:
        try:
            files = json.loads(gzip.decompress(self._list(name).read_bytes()))
        except (OSError, ValueError, EOFError, zlib.error):
            return None
        return (
            files
            if isinstance(files, dict) and len(files) == self._notes[name].get("files")
            else None
        )


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size if path.is_file() else None
    except OSError:
        return None

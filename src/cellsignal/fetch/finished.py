"""List the finished downloads; one counts as done while all its files exist."""

import gzip
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cellsignal.common.errors import InputError
from cellsignal.common.files import atomic_path, write_json

FILE = "done.json"


class FinishedDownloads:
    """The finished downloads that are listed in a folder.

    Args:
        folder: where the list is kept: `done.json` has an entry a download, `lists/` its files.
        out: what the paths of the files are relative to.

    Raises:
        InputError: `done.json` is damaged.
    """

    def __init__(self, folder: Path, out: Path):
        self._folder, self._out = folder, out
        try:
            entries = json.loads((folder / FILE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            entries = {}
        except ValueError:
            entries = None
        if not isinstance(entries, dict):
            raise InputError(
                f"{folder / FILE}: is not valid JSON; remove it to fetch everything anew"
            )
        self._entries: dict[str, Any] = entries

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def old_size(self, name: str) -> int | None:
        """Return the size that an earlier version kept instead of a list of files, if any."""
        entry = self._entries.get(name)
        return entry if isinstance(entry, int) else None

    def why_missing(self, name: str, size: int) -> str | None:
        """Return the reason to download again; None if all files exist.

        Args:
            size: bytes of the download as the host lists it.
        """
        entry = self._entries.get(name)
        if entry is None:
            return "not fetched yet"
        if not isinstance(entry, dict):
            return "noted without a list of its files"
        if entry.get("listed") != size:
            return f"has {size} bytes now, {entry.get('listed')} when it was fetched"
        files = self._read_list(name)
        if files is None:
            return "its list of files is gone"
        for path, expected in files.items():
            actual = _size_of(self._out / path)
            if actual is None:
                return f"{path} is gone"
            if actual != expected:
                return f"{path} has {actual} bytes, {expected} expected"
        return None

    def add(self, name: str, size: int, files: Mapping[str, int]) -> None:
        """Mark a download as done.

        Args:
            files: path relative to `out` -> bytes, of all files it made.
        """
        with atomic_path(self._list_path(name)) as temporary:
            temporary.write_bytes(gzip.compress(json.dumps(dict(files)).encode(), 5, mtime=0))
        self._entries[name] = {"listed": size, "files": len(files), "bytes": sum(files.values())}
        write_json(self._folder / FILE, self._entries)

    def _list_path(self, name: str) -> Path:
        return self._folder / "lists" / f"{name.replace('/', '%')}.json.gz"

    def _read_list(self, name: str) -> dict[str, int] | None:
        try:
            files = json.loads(gzip.decompress(self._list_path(name).read_bytes()))
        except (OSError, ValueError, EOFError, zlib.error):
            return None
        is_whole = isinstance(files, dict) and len(files) == self._entries[name].get("files")
        return files if is_whole else None


def _size_of(path: Path) -> int | None:
    try:
        return path.stat().st_size if path.is_file() else None
    except OSError:
        return None

"""The rows of the memory study: written as each command is measured, and kept between runs."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cellsignal.common.errors import InputError
from cellsignal.common.files import git_commit, write_json
from cellsignal.studies.memory.measuring import Usage

FILE = "rows.json"
GIB, GB = 2**30, 10**9
HEADER = ("command", "limit", "peak", "imports", "CPU s", "processes", "met")


@dataclass(frozen=True)
class Measured:
    """A command and what it may take.

    Attributes:
        words: after `cellsignal`, in the folder of the inputs.
        bytes: of peak memory, imports included.
        seconds: of CPU time without the imports; None where there is no limit.
        note: what is behind it in the table, where the same words come twice.
        statuses: exit statuses of a command that did its work.
        makes: what is removed first, as the command would go on with it.
    """

    words: tuple[str, ...]
    bytes: int
    seconds: float | None = None
    note: str = ""
    statuses: tuple[int, ...] = (0,)
    makes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What a row is kept under."""
        return " ".join(self.words) + self.note


class Rows:
    """What was measured in a folder so far.

    Args:
        folder: of the inputs.
        scale: of the inputs.

    Raises:
        InputError: the folder's inputs have another scale, or its file of rows is damaged.
    """

    def __init__(self, folder: Path, scale: float):
        self.path = folder / FILE
        self.kept: dict[str, dict[str, Any]] = {}
        self.scale = scale
        if self.path.is_file():
            try:
                content = json.loads(self.path.read_text(encoding="utf-8"))
                self.kept, kept_scale = content["rows"], content["scale"]
            except (ValueError, KeyError, TypeError):
                raise InputError(f"{self.path}: damaged; remove it to measure anew") from None
            if kept_scale != scale:
                raise InputError(
                    f"--scale {scale:g}: the inputs in {folder} have scale {kept_scale:g}; give "
                    "that, or another folder"
                )
        else:
            self._write()

    def forget(self, verbs: Sequence[str]) -> None:
        """Forget the rows whose command begins with one of some verbs, to measure them again."""
        known = {name.partition(" ")[0] for name in self.kept}
        for verb in verbs:
            if verb not in known:
                raise InputError(f"--again {verb}: no row of it; there are {sorted(known)}")
        self.kept = {
            name: row for name, row in self.kept.items() if name.partition(" ")[0] not in verbs
        }
        self._write()

    def find(self, command: Measured) -> Usage | str | None:
        """Return what a command took, or the error it ended with; None if it was not measured."""
        row = self.kept.get(command.name)
        if row is None:
            return None
        return row["error"] if "error" in row else Usage(**row["usage"])

    def add(self, command: Measured, result: Usage | str) -> None:
        """Keep what a command took, or the error it ended with, in the file."""
        row = {"error": result} if isinstance(result, str) else {"usage": asdict(result)}
        self.kept[command.name] = row | {"commit": git_commit()}
        self._write()

    def _write(self) -> None:
        write_json(self.path, {"scale": self.scale, "rows": self.kept})


def table_row(command: Measured, result: Usage | str) -> tuple[str, ...]:
    """Return the cells of one command's row."""
    unit, name = (GIB, "GiB") if command.bytes % GB else (GB, "GB")
    limit = f"{command.bytes / unit:.0f} {name}"
    if command.seconds is not None:
        limit += f", {command.seconds:.0f} s"
    words = f"`{' '.join(command.words)}`{command.note}"
    if isinstance(result, str):
        return (words, limit, "", "", "", "", f"**failed**: {result}")
    seconds = result.seconds - result.import_seconds
    small, quick = result.peak < command.bytes, command.seconds is None or seconds < command.seconds
    met = "yes" if small and quick else "**no**"
    if result.stopped:
        met = "stopped before its end" if small else "**no**, and stopped before its end"
    return (
        words,
        limit,
        f"{result.peak / unit:.2f} {name}",
        f"{result.imports / unit:.2f} {name}" if result.imports else "",
        f"{seconds:.1f} + {result.import_seconds:.1f}",
        str(result.processes),
        met,
    )

"""The command: look what is there, make the checks, write table and page after each.

Only the standard library and torch are needed to start.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cellsignal.common.errors import InputError
from cellsignal.common.files import git_commit, write_text
from cellsignal.studies.gpu_check.packages import (
    NEEDED,
    install_wheels,
    missing_modules,
    version_of,
    versions,
)
from cellsignal.studies.gpu_check.page import is_of_a_gpu, page_text
from cellsignal.studies.gpu_check.plan import CHECKS, Check
from cellsignal.studies.gpu_check.runner import Budget, child_environment, make_checks
from cellsignal.studies.gpu_check.table import Row, write_table

TABLE, LOG, PAGE = "gpu_check.jsonl", "gpu_check.log", "gpu.md"
_LOG_BYTES = 400_000  # of each lane's log, at most, from its end
_SLOWER = 5  # a dry run's limits are so many times as long


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the checks."""
    text = "of the whole call (default 6; 30 in a dry run)"
    parser.add_argument("--minutes", type=float, help=text)
    out = f"folder of {TABLE}, {LOG} and, unless --page says otherwise, {PAGE}"
    parser.add_argument("--out", type=Path, default=Path("runs/gpu_check"), help=out)
    text = "file of the page; one of a GPU is never replaced by one of a dry run"
    parser.add_argument("--page", type=Path, help=text)
    text = "folder of wheels of packages that are missing here"
    parser.add_argument("--wheels", type=Path, default=Path("wheels"), help=text)
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, small; also without it")
    names = [check.name for check in CHECKS]
    text = "these checks alone"
    parser.add_argument("--only", nargs="+", choices=names, metavar="CHECK", help=text)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the options and make the checks; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m cellsignal.studies.gpu_check", description=__doc__.splitlines()[0]
    )
    add_options(parser)
    try:
        return run(parser.parse_args(argv))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def run(arguments: argparse.Namespace) -> int:
    """Make the checks; return 0, or 1 if one has failed.

    Raises:
        InputError: torch is missing, or nothing can be written.
    """
    started = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="cellsignal_gpu_check_"))
    signal.signal(signal.SIGTERM, _stop)
    try:
        return _run_in(folder, arguments, started)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _stop(*_: Any) -> None:
    raise KeyboardInterrupt


def _run_in(folder: Path, arguments: argparse.Namespace, started: float) -> int:
    site = folder / "site"
    installed, failed = install_wheels(arguments.wheels, site)
    sys.path.insert(0, str(site))
    missing = missing_modules()
    names = [NEEDED[name][0] for name in missing]
    print(f"missing packages: {', '.join(names) or 'none'}; from wheels: {len(installed)}")
    for line in failed:
        print(f"not installed: {line}")
    if "torch" in missing:
        raise InputError("torch is not installed; gpu-check needs it and the standard library")
    kind = "cpu" if arguments.dry_run else _kind()
    if kind == "cpu":
        why = "as asked" if arguments.dry_run else "torch sees no CUDA device"
        print(f"a dry run on the CPU ({why}): nothing that follows is a figure of a GPU")
    minutes = arguments.minutes or (6.0 if kind == "cuda" else 30.0)
    head = {
        "kind": kind,
        "minutes": minutes,
        "missing": names,
        "wheels": installed,
        "wheels_failed": failed,
        "versions": versions() | {"triton": version_of("triton")},
        "git_commit": git_commit(),
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
    }
    checks = _chosen(arguments.only, kind)
    writer = Writer(arguments, head, checks)
    source = Path(__file__).resolve().parents[3]
    environment = child_environment([site, source], dict(os.environ))
    budget = Budget(60 * minutes, started)
    beside = kind == "cuda" and (os.cpu_count() or 1) >= 4
    try:
        make_checks(checks, folder, kind, budget, writer.add, environment, beside)
    finally:
        write_text(arguments.out / LOG, _logs(folder))
        writer.write_page(time.monotonic() - started)
    return int(any(row.verdict == "fail" for row in writer.rows))


def _kind() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _chosen(only: list[str] | None, kind: str) -> list[Check]:
    from dataclasses import replace

    factor = 1 if kind == "cuda" else _SLOWER
    checks = [check for check in CHECKS if only is None or check.name in only]
    return [replace(check, seconds=factor * check.seconds) for check in checks]


class Writer:
    """Keeps the rows; writes the table after each, and the page."""

    def __init__(self, arguments: argparse.Namespace, head: dict[str, Any], checks: list[Check]):
        self.table, self.out, self.head = arguments.out / TABLE, arguments.out, head
        self.page = arguments.page or arguments.out / PAGE
        self.order = {check.name: number for number, check in enumerate(checks)}
        self.rows: list[Row] = []
        write_table(self.table, head, self.rows)

    def add(self, row: Row) -> None:
        """Add a row, in the order of the plan; print it."""
        self.rows.append(row)
        self.rows.sort(key=lambda each: self.order[each.check])
        write_table(self.table, self.head, self.rows)
        reason = f": {row.reason}" if row.reason else ""
        print(f"{row.check:<18}{row.verdict:<8}{row.seconds:7.1f} s{reason}", flush=True)

    def write_page(self, seconds: float) -> None:
        """Write the page; a page of a GPU stays where this is a dry run."""
        self.head |= {"seconds": round(seconds, 1)}
        write_table(self.table, self.head, self.rows)
        text, page = page_text(self.head, self.rows), self.page
        if self.head["kind"] == "cpu" and is_of_a_gpu(page):
            page = self.out / PAGE
            print(f"{self.page}: is of a GPU and stays; the dry run's page is {page}")
        write_text(page, text)
        counts = {verdict: 0 for verdict in ("pass", "fail", "skipped")}
        for row in self.rows:
            counts[row.verdict] += 1
        text = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
        print(f"{text} in {seconds:.0f} s; {self.table}, {page}")


def _logs(folder: Path) -> str:
    """Return the ends of all logs: what a failed check said besides its one line."""
    parts = []
    for path in sorted([*folder.glob("*.log"), *folder.glob("*/*.log")]):
        text = path.read_text(encoding="utf-8", errors="replace")[-_LOG_BYTES:]
        parts.append(f"===== {path.relative_to(folder)}\n{text}\n")
    return "".join(parts)

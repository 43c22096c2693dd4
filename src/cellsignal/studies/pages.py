"""What the pages of the studies share: their option, where they go, tables, and the machine."""

import argparse
import contextlib
import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cellsignal.common.files import write_text

if TYPE_CHECKING:
    import pandas as pd


def add_out(parser: argparse.ArgumentParser, what: str = "page") -> None:
    """Add `--out`, which `show_page` takes."""
    parser.add_argument("--out", type=Path, help=f"file for the {what} (Markdown)")


def show_page(text: str, out: Path | None) -> None:
    """Print a page, after writing it where `--out` says."""
    if out is not None:
        write_text(out, text)
    print(text, end="")


def machine() -> str:
    """Name the processor, GPU and versions that figures are measured on."""
    import torch

    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        names = [
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ", no GPU"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{os.cpu_count()} cores of {cpu}{gpu}; {versions}"


def table(frame: "pd.DataFrame") -> str:
    """Write a data frame in Markdown; numbers to three digits."""
    cells = [
        [f"{value:.3g}" if isinstance(value, float) else str(value) for value in row]
        for row in frame.itertuples(index=False, name=None)
    ]
    return "\n".join(map(row_text, (list(frame.columns), ["---"] * len(frame.columns), *cells)))


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Write rows of texts in Markdown; the first holds the heads of the columns."""
    head, *others = rows
    return "\n".join([*head_lines(head), *map(row_text, others)])


def head_lines(head: Sequence[str]) -> list[str]:
    """Return the two lines that begin a table: the heads, and the line below them."""
    return [row_text(head), f"|{'---|' * len(head)}"]


def row_text(cells: Iterable[str]) -> str:
    """Return one row of a table."""
    return f"| {' | '.join(cells)} |"

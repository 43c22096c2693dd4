"""The commands that are measured, their limits, and the table of what they took."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from cellsignal.competitions.base import answers_path
from cellsignal.studies.memory.measuring import Usage, measure
from cellsignal.studies.memory.simulated import (
    write_images,
    write_layout,
    write_predictions,
    write_profiles,
)
from cellsignal.studies.pages import machine

VIEWS = 8
GIB, GB = 2**30, 10**9
HEADER = ("command", "limit", "peak", "imports", "CPU s", "processes", "met")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measured:
    """A command and what it may take.

    Attributes:
        words: after `cellsignal`, in the folder of the inputs.
        bytes: of peak memory, imports included.
        seconds: of CPU time without the imports; None where there is no limit.
    """

    words: tuple[str, ...]
    bytes: int
    seconds: float | None = None


def memory_page(folder: Path, parts: Sequence[str], scale: float = 1.0) -> str:
    """Measure the commands of the parts and return the table as Markdown.

    Args:
        folder: of the inputs; what lies there already is used.
        parts: of `commands.PARTS`.
        scale: share of the experiments and wells.
    """
    lines = [f"{machine()}.", ""]
    for part in parts:
        title, commands = _PARTS[part](folder, scale)
        lines += [f"{title}:", "", *(f"| {' | '.join(row)} |" for row in (HEADER, _RULE))]
        for command in commands:
            log.info("measuring cellsignal %s", " ".join(command.words))
            usage = measure(command.words, folder)
            row = table_row(command, usage)
            log.info("%s", " | ".join(row))
            lines.append(f"| {' | '.join(row)} |")
        lines.append("")
    return "\n".join(lines)


_RULE = ("---",) * len(HEADER)


def table_row(command: Measured, usage: Usage) -> tuple[str, ...]:
    """Return the cells of one command's row."""
    seconds = usage.seconds - usage.import_seconds
    met = usage.peak < command.bytes and (command.seconds is None or seconds < command.seconds)
    unit, name = (GIB, "GiB") if command.bytes % GB else (GB, "GB")
    limit = f"{command.bytes / unit:.0f} {name}"
    if command.seconds is not None:
        limit += f", {command.seconds:.0f} s"
    return (
        f"`{' '.join(command.words)}`",
        limit,
        f"{usage.peak / unit:.2f} {name}",
        f"{usage.imports / unit:.2f} {name}",
        f"{seconds:.1f} + {usage.import_seconds:.1f}",
        str(usage.processes),
        "yes" if met else "**no**",
    )


# the parts
# --------------------------------------------------------------------------------------------------


def _submission(folder: Path, scale: float) -> tuple[str, list[Measured]]:
    root = folder / "layout"
    wells = write_layout(root, scale)
    for part in ("test", "oof"):
        if not (folder / f"{part}.npz").is_file():
            write_predictions(folder / f"{part}.npz", root, wells, part, VIEWS)
    treated = wells[wells.well_type == "treatment"]
    counts = treated.split.value_counts()
    title = (
        f"{counts['test']:,} test wells and {counts['train']:,} out-of-fold wells x "
        f"{treated.sirna.nunique():,} classes x 2 sites x {VIEWS} views, a file each"
    )
    return title, [
        Measured(("submit", "test.npz", "--out", "test.csv"), GIB, 3.0),
        Measured(("submit", "test.npz", "oof.npz", "--out", "both.csv"), GIB),
        Measured(("submit", "test.npz", "oof.npz", "--probabilities", "--out", "sure.csv"), GIB),
        Measured(("score", "oof.npz"), GIB),
    ]


def _profiles(folder: Path, scale: float) -> tuple[str, list[Measured]]:
    number = write_profiles(folder / "wells.csv", scale)
    table = ("--table", "wells.csv")
    title = f"{number:,} wells of profiles with 1,000 features, three replicates"
    return title, [
        Measured(("profiles", "retrieve", *table), 2 * GB),
        Measured(("profiles", "match", *table), 2 * GB),
        Measured(("profiles", "classify", *table), 2 * GB),
    ]


def _images(folder: Path, scale: float) -> tuple[str, list[Measured]]:
    root = folder / "images"
    wells = write_layout(root, scale)
    if not (root / "written").is_file():
        number = write_images(root, wells)
        (root / "written").write_text(str(number), encoding="utf-8")
    write_config(folder)
    of_root, config = ("rxrx1", "--root", "images"), "layout.yaml"
    commands = [
        ("verify", *of_root, "--workers", "2"),
        ("folds", *of_root, "--out", "folds.csv", "--force"),
        ("prepare", config),
        ("prepare", config),
        ("audit", config),
        ("explore", *of_root, "--out", "explore.html"),
        ("qc", config, "--out", "qc"),
        ("train", config),
        ("predict", config),
        ("report", "layout", "--answers", str(answers_path(Path("images")))),
    ]
    title = f"{2 * len(wells):,} sites of tiny images ({2 * len(wells) * 6:,} files)"
    return title, [Measured(words, 2 * GIB) for words in commands]


def write_config(folder: Path) -> Path:
    """Write the config of a short training on the images, with two workers."""
    stage = {
        "name": "all",
        "epochs": 1,
        "batch_size": 256,
        "batches": {"unit": "plate"},
        "optimizer": {"name": "adamw", "lr": 1e-3},
        "augment": [{"name": "horizontal_flip"}],
    }
    config = {
        "name": "layout",
        "competition": "rxrx1",
        "data": {"root": "images", "store": "layout.zarr", "workers": 2},
        "folds": {"file": "folds.csv", "use": [0]},
        "normalization": {"by": "plate", "wells": "all"},
        "model": {"backbone": "resnet10t"},
        "stages": [stage],
        "predict": {"tta": 1, "batch_size": 512},
    }
    path = folder / "layout.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path


_PARTS: dict[str, Callable[[Path, float], tuple[str, list[Measured]]]] = {
    "submission": _submission,
    "profiles": _profiles,
    "images": _images,
}

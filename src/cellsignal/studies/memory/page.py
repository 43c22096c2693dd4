"""The commands that are measured, their limits, and the page of what they took."""

import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from cellsignal.common.errors import InputError
from cellsignal.common.files import hold_alone, write_text
from cellsignal.competitions.base import answers_path
from cellsignal.studies.memory.measuring import Usage, measure
from cellsignal.studies.memory.rows import GB, GIB, HEADER, Measured, Rows, table_row
from cellsignal.studies.memory.simulated import (
    write_images,
    write_layout,
    write_predictions,
    write_profiles,
)
from cellsignal.studies.pages import head_lines, machine, row_text

VIEWS = 8
log = logging.getLogger(__name__)

INTRODUCTION = """\
# Memory and time at RxRx1's full size

The code is `cellsignal.studies.memory`;

    cellsignal study memory --folder runs/memory --out docs/results/memory.md

makes this page, and goes on where it was stopped. Inputs of RxRx1's full size are simulated (some
6 GB of disk); each command then runs in a process of its own. `peak` is what the kernel notes of
the process (VmHWM), imports included, or the sum of its and its workers' proportional sizes (PSS,
sampled five times a second) where that is larger; `imports` is the peak of a process that only
imports the same modules. CPU seconds are those of the work + those of the imports. Where other
programs run, they are good to a fifth or so.
"""


def memory_page(
    folder: Path,
    parts: Sequence[str],
    scale: float = 1.0,
    *,
    minutes: float | None = None,
    again: Sequence[str] = (),
    out: Path | None = None,
) -> str:
    """Measure the commands of the parts and return the page as Markdown.

    Args:
        folder: of the inputs and of the rows so far; what lies there already is used.
        parts: of `commands.PARTS`.
        scale: share of the experiments and wells.
        minutes: by the clock after which a command is stopped.
        again: verbs whose commands are measured again.
        out: written anew after each row.

    Raises:
        InputError: what `Rows` refuses; or commands failed: the page says which and why.
    """
    with hold_alone(folder / ".lock", f"{folder}"):
        return _measure_parts(Rows(folder, scale), folder, parts, minutes, again, out)


def _measure_parts(
    rows: Rows,
    folder: Path,
    parts: Sequence[str],
    minutes: float | None,
    again: Sequence[str],
    out: Path | None,
) -> str:
    """Measure what has no row yet, and write the page after each row; see `memory_page`."""
    rows.forget(again)
    sections: list[list[str]] = []
    failed = 0
    for part in parts:
        title, commands = _PARTS[part](folder, rows.scale)
        sections.append([f"{title}:", "", *head_lines(HEADER)])
        for command in commands:
            result = rows.find(command)
            if result is None:
                result = _measure(command, folder, minutes)
                rows.add(command, result)
            failed += isinstance(result, str)
            cells = table_row(command, result)
            log.info("%s", " | ".join(cells))
            sections[-1].append(row_text(cells))
            text = _page(sections, rows)
            if out is not None:
                write_text(out, text)
    if failed:
        where = "" if out is None else f"; see {out}"
        raise InputError(f"{failed} commands failed{where}; --again VERB measures them again")
    return text


def _measure(command: Measured, folder: Path, minutes: float | None) -> Usage | str:
    """Measure a command; return what it took, or in one line why it failed."""
    log.info("measuring cellsignal %s", " ".join(command.words))
    for name in command.makes:
        shutil.rmtree(folder / name, ignore_errors=True)
    seconds = None if minutes is None else 60 * minutes
    try:
        return measure(command.words, folder, seconds, command.statuses)
    except InputError as error:
        return str(error)


def _page(sections: Sequence[Sequence[str]], rows: Rows) -> str:
    """Write the sections as a page."""
    about = f"{machine()}." + (f" Scale {rows.scale:g}." if rows.scale != 1 else "")
    return "\n".join([INTRODUCTION, about, *("\n" + "\n".join(lines) for lines in sections), ""])


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
    if not (folder / "wells.csv").is_file():
        write_profiles(folder / "wells.csv", scale)
    with open(folder / "wells.csv", encoding="utf-8") as file:
        number = sum(1 for _ in file) - 1
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
    title = f"{2 * len(wells):,} sites of tiny images ({2 * len(wells) * 6:,} files)"
    return title, [
        Measured(("verify", *of_root, "--workers", "2"), 2 * GIB),
        Measured(("folds", *of_root, "--out", "folds.csv", "--force"), 2 * GIB),
        Measured(("prepare", config), 2 * GIB, makes=("layout.zarr",)),
        Measured(("prepare", config), 2 * GIB, note=" again, nothing to do"),
        Measured(("audit", config), 2 * GIB, statuses=(0, 1)),  # 1: it found a fault in the data
        Measured(("explore", *of_root, "--out", "explore.html"), 2 * GIB),
        Measured(("qc", config, "--out", "qc"), 2 * GIB, makes=("qc",)),
        Measured(
            ("train", config), 2 * GIB, note=", one epoch, model included", makes=("runs/layout",)
        ),
        Measured(
            ("predict", config),
            2 * GIB,
            note=f", {VIEWS} views, model included",
            makes=("runs/layout/seed0/predictions",),
        ),
        Measured(("report", "layout", "--answers", str(answers_path(Path("images")))), 2 * GIB),
    ]


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
        "predict": {"tta": VIEWS, "batch_size": 512},
    }
    path = folder / "layout.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path


_PARTS: dict[str, Callable[[Path, float], tuple[str, list[Measured]]]] = {
    "submission": _submission,
    "profiles": _profiles,
    "images": _images,
}

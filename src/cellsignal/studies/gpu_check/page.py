"""The page of a call: docs/results/gpu.md."""

import json
from pathlib import Path
from typing import Any

from cellsignal.studies.gpu_check.plan import CHECKS
from cellsignal.studies.gpu_check.table import Row

_GPU = "These figures are of a GPU."
_DRY = (
    "**This is a CPU dry run: nothing on this page is a figure of a GPU, and the code for CUDA has "
    "never been run on one yet.** A pass says only that the check itself works; small networks and "
    "images stand for those that it names, and no time says anything."
)
_FED = ("images/s in memory", "images/s fed", "ratio", "waiting", "of the peak", "GiB")


def is_of_a_gpu(page: Path) -> bool:
    """Return whether a page is there that a GPU's figures were written to."""
    return page.is_file() and _GPU in page.read_text(encoding="utf-8")


def page_text(head: dict[str, Any], rows: list[Row]) -> str:
    """Return the Markdown of a table's head and rows."""
    parts = [
        "# CUDA: what runs, and how fast",
        "The code is `cellsignal.studies.gpu_check`.",
        "    make gpu-check      # or: cellsignal study gpu-check",
        _GPU if head["kind"] == "cuda" else _DRY,
        _machine(head, rows),
        "## Checks\n\n" + _checks(rows),
    ]
    fed = _throughput(rows)
    if fed and head["kind"] == "cuda":
        parts.append("## Training fed from the store, and on one batch in memory\n\n" + fed)
    variants = _variants(rows)
    if variants and head["kind"] == "cuda":
        parts.append("## Variants of the step\n\n" + variants)
    parts.append("## Figures\n\n" + _figures(rows))
    parts.append(_HOW)
    return "\n\n".join(parts) + "\n"


def _machine(head: dict[str, Any], rows: list[Row]) -> str:
    about = {
        name: value for row in rows if row.check == "device" for name, value in row.figures.items()
    }
    words = [f"{about.get('device', head['kind'])}"]
    if "memory_gib" in about:
        words.append(f"{about['memory_gib']} GiB")
    words.append(f"{head['cores']} cores of {about.get('processor', 'an unknown processor')}")
    words.append(f"Python {about['python']}" if "python" in about else "")
    words.append(f"torch {about.get('torch', head['versions'].get('torch'))}")
    if "cuda" in about:
        words.append(f"CUDA {about['cuda']}, cuDNN {about['cudnn']}")
    text = "; ".join(word for word in words if word) + "."
    missing = ", ".join(head["missing"]) or "none"
    text += f" Packages missing: {missing}. Commit {head['git_commit']}, {head['started_at']}"
    if "seconds" in head:
        text += f", {head['seconds']:.0f} s of {60 * head['minutes']:.0f} s"
    return text + "."


def _checks(rows: list[Row]) -> str:
    titles = {check.name: check.title for check in CHECKS}
    lines = ["| check | what it shows | verdict | seconds |", "|---|---|---|---|"]
    for row in rows:
        reason = f": {_cell(row.reason)}" if row.reason else ""
        title = titles.get(row.check, "")
        lines.append(f"| {row.check} | {title} | {row.verdict}{reason} | {row.seconds:.1f} |")
    return "\n".join(lines)


def _throughput(rows: list[Row]) -> str:
    keys = ("in_memory", "fed", "ratio", "waiting", "of_peak", "memory_gib")
    lines = []
    for row in rows:
        figures = row.figures
        if row.verdict == "pass" and "in_memory" in figures:
            cells = [str(figures.get(key, "")) for key in keys]
            name = f"{figures['backbone']} | {figures['size']} | {figures['batch']}"
            lines.append(f"| {name} | {' | '.join(cells)} |")
    if not lines:
        return ""
    head = f"| network | px | batch | {' | '.join(_FED)} |"
    return "\n".join([head, "|---" * (3 + len(_FED)) + "|", *lines])


def _variants(rows: list[Row]) -> str:
    lines = []
    for row in rows:
        for each in row.figures.get("variants", []):
            keys = ("images_per_s", "ratio", "of_peak", "peak_gib")
            cells = [str(each.get(key, "")) for key in keys]
            lines.append(f"| {each['variant']} | {' | '.join(cells)} |")
    if not lines:
        return ""
    head = "| step | images/s | x | of the peak | GiB |"
    return "\n".join([head, "|---|---|---|---|---|", *lines])


def _figures(rows: list[Row]) -> str:
    lines = ["| check | figures |", "|---|---|"]
    for row in rows:
        if row.figures:
            lines.append(f"| {row.check} | `{_cell(json.dumps(row.figures))}` |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "/").replace("`", "'")


_HOW = """\
`..._off` is a distance: of gradients and weights relative to their length, of logits relative
to the largest, of pixels in grey levels (their limits are in the code of the check). `waiting` is
the share of the time in which the device waited for data, `of the peak` the share of `matmul_peak`.

The call takes at most its minutes (`--minutes`, 6): what does not fit any more is skipped, by name.
Each check has a limit of its own and runs in a process that is ended when it hangs.
`gpu_check.jsonl` holds the same as JSON lines, written after each check; `gpu_check.log` what the
checks printed. The demo runs beside the checks, so its seconds are not those of the demo alone.

On a machine that reaches no package index, collect the wheels of what its image lacks first, on
one that does, with a list of what it has (`pip list --format=freeze` there; without the list all
are taken):

    make gpu-wheels HAVE=image.txt      # for Python 3.12 on Linux x86-64, never torch
    make gpu-check                      # uses wheels/ where a package is missing or too old"""

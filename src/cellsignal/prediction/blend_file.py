"""Read a blend file, and merge an entry by its weights and temperatures."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from cellsignal.common.errors import InputError
from cellsignal.common.files import sha256
from cellsignal.prediction.entry import Entry, has_test

KIND = "cellsignal blend 1"
ABOUT = ("method", "runs", "nested")  # keys that go into a submission's provenance


def read_blend(path: Path) -> dict[str, Any]:
    """Read a blend file.

    Raises:
        InputError: no such file, not a blend, or a weight or temperature that cannot be one.
    """
    try:
        about = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError:
        raise InputError(f"{path}: is not JSON, so no blend of `cellsignal blend`") from None
    if not isinstance(about, dict) or about.get("kind") != KIND:
        raise InputError(f"{path}: is not a blend of `cellsignal blend`")
    runs = about.get("runs")
    shapes = {"runs": dict, "files": list, "nested": dict, "method": str, "competition": str}
    for key, shape in shapes.items():
        if not isinstance(about.get(key), shape) or not about[key]:
            raise InputError(f"{path}: {key} is missing or no {shape.__name__}; blend again")
    for run, numbers in runs.items():
        for key, least in (("weight", 0), ("temperature", 1e-9)):
            value = numbers.get(key) if isinstance(numbers, dict) else None
            if not isinstance(value, int | float) or not least <= value < math.inf:
                raise InputError(f"{path}: runs.{run}.{key}: {value!r} is not a {key}")
    if not any(numbers["weight"] > 0 for numbers in runs.values()):
        raise InputError(f"{path}: no run has a weight above 0")
    return about


def apply_blend(entry: Entry, path: Path) -> Entry:
    """Return the entry with a blend's weights and temperatures, without runs of weight 0.

    Raises:
        InputError: a blend of other runs or other predictions, or predictions that it cannot merge.
    """
    about = read_blend(path)
    if about["competition"] != entry.competition.id:
        raise InputError(
            f"{path}: is a blend for {about['competition']}, the predictions are of "
            f"{entry.competition.id}"
        )
    if entry.how.merge == "probabilities":
        raise InputError(
            f"{path}: blends average logits, not probabilities; add --set submit.merge=geometric"
        )
    for run in sorted(set(about["runs"]) ^ set(entry.runs)):
        where = "is not given" if run in about["runs"] else "is not in the blend"
        raise InputError(f"{path}: {run} {where}; give the runs that were blended, or blend again")
    for member in entry.final():
        if sha256(member.path) not in about["files"]:
            raise InputError(
                f"{path}: was chosen on another state of {member.path}; blend the runs again"
            )
    runs = {run: numbers for run, numbers in about["runs"].items() if numbers["weight"] > 0}
    for run in runs:
        if has_test(entry.members) and not has_test(entry.final(run)):
            raise InputError(
                f"{run}: has a weight in {path} and no test predictions; predict them, or blend "
                "the other runs"
            )
    return replace(
        entry,
        members=tuple(member for member in entry.members if member.about["run"] in runs),
        weights={run: float(numbers["weight"]) for run, numbers in runs.items()},
        temperatures={run: float(numbers["temperature"]) for run, numbers in runs.items()},
        blend={"file": str(path)} | {key: about[key] for key in ABOUT},
    )


def blend_warning(blend: dict[str, Any]) -> str:
    """Say that out-of-fold scores of a blend flatter, and what it gained nested."""
    nested = blend["nested"]
    return (
        f"{blend['file']}: its weights were chosen on the out-of-fold targets, whose scores below "
        f"flatter; measured on {nested['unit']}s that did not choose, it gained "
        f"{nested['gain']:+.4f} over equal weights"
    )

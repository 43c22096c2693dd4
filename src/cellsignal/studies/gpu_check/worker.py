"""The process that makes checks, one after the other, as the parent names them on its input.

A line of the input is JSON: name, function, seconds. The answer is a file, renamed into place: a
check that kills the process leaves none.
"""

import gc
import importlib
import json
import sys
import time
import traceback
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from cellsignal.common.files import write_text
from cellsignal.studies.gpu_check.room import CheckFailed, Room, Skipped
from cellsignal.studies.gpu_check.table import Row, one_line


def main() -> None:
    """Read requests until the input ends: `python -m ...worker FOLDER KIND`."""
    room = Room(Path(sys.argv[1]), sys.argv[2])
    for line in sys.stdin:
        request = json.loads(line)
        row = make(request, replace(room, seconds=request["seconds"]))
        write_text(Path(request["answer"]), json.dumps(asdict(row), default=str))
        _clean(room)


def make(request: dict[str, Any], room: Room) -> Row:
    """Make one check; whatever it raises becomes its verdict."""
    print(f"--- {request['name']}", file=sys.stderr, flush=True)
    name, started = request["name"], time.perf_counter()
    verdict, reason, figures = "pass", "", {}
    try:
        module, _, function = request["function"].partition(":")
        figures = getattr(importlib.import_module(module), function)(room) or {}
    except Skipped as error:
        verdict, reason = "skipped", one_line(str(error))
    except CheckFailed as error:
        verdict, reason = "fail", one_line(str(error))
        figures = getattr(error, "figures", {})
    except Exception as error:  # any error of any library is what a check is for
        traceback.print_exc()
        verdict, reason = "fail", one_line(f"{type(error).__name__}: {error}")
    return Row(name, verdict, reason, round(time.perf_counter() - started, 2), figures)


def _clean(room: Room) -> None:
    """Give memory back to the device, so that a check begins as the first did."""
    gc.collect()
    if room.kind == "cuda" and "torch" in sys.modules:
        sys.modules["torch"].cuda.empty_cache()


if __name__ == "__main__":
    main()

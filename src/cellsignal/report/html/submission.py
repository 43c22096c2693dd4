"""Read the record beside a submission: what it was merged from."""

import json
from pathlib import Path
from typing import Any

from cellsignal.common.errors import InputError

KEYS = ("competition", "runs", "inputs", "merge", "weights")


def read_submission_record(path: Path) -> dict[str, Any]:
    """Read the .json that `cellsignal submit` writes beside a submission.

    Raises:
        InputError: there is none, or it is something else.
    """
    beside = path.with_suffix(".json")
    if not path.is_file():
        raise InputError(f"{path}: no such submission")
    if not beside.is_file():
        raise InputError(f"{beside}: is not there; it says what {path.name} was made from")
    try:
        record = json.loads(beside.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError):
        record = None
    if not isinstance(record, dict) or any(key not in record for key in KEYS):
        raise InputError(f"{beside}: is not what `cellsignal submit` writes beside a submission")
    return record

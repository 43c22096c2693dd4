"""Read and write `chain.json`, the description of a kernel's output.

It is the last file that a kernel writes: an output without it is not whole. This module needs the
standard library alone, as a kernel reads it before anything is installed.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath

from cellsignal.common.errors import InputError
from cellsignal.common.files import sha256, write_json

CHAIN = "chain.json"
CARRIED = ("runs", "store")  # folders of an output that the next kernel takes
UNLISTED = "store/images/"  # one file a site: the store holds them to checksums of its own


@dataclass(frozen=True)
class Status:
    """What one kernel did.

    Attributes:
        job, step, link: which it was; links count from 1.
        done: the step is finished; else the next link goes on.
        status: the exit status of its last command; 0 when done, 75 when its time was used up.
        reason: one line.
        hours: how long it worked.
        config, package: SHA-256 of the config and of the archive that travelled in the script.
        commit: git commit of the package, as far as known.
        files: path -> SHA-256 of what the next kernel needs, relative to the output.
    """

    job: str
    step: str
    link: int
    done: bool
    status: int
    reason: str
    hours: float
    config: str
    package: str
    commit: str | None = None
    files: dict[str, str] = field(default_factory=dict)


_TEXT = dict.fromkeys(("job", "step", "reason", "config", "package"), str)
_TYPES = _TEXT | {"link": int, "done": bool, "status": int, "hours": (int, float), "files": dict}


def write_status(folder: Path, status: Status) -> None:
    """Write `chain.json` atomically."""
    write_json(folder / CHAIN, asdict(status))


def read_status(folder: Path | str) -> Status:
    """Read the `chain.json` of an output.

    Raises:
        InputError: there is none (the kernel was killed before its end), or it is damaged or names
            a file that may not be there.
    """
    path = Path(folder) / CHAIN
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise InputError(f"{path}: no such file; the kernel did not come to its end") from None
    except ValueError:
        raise InputError(f"{path}: damaged, not JSON") from None
    for name, kind in _TYPES.items():
        if not isinstance(tree, dict) or not isinstance(tree.get(name), kind):
            raise InputError(f"{path}: not a kernel's status ({name} is missing or wrong)")
    for name, digest in tree["files"].items():
        parts = PurePosixPath(name).parts
        inside = parts[:1] in [(top,) for top in CARRIED] and ".." not in parts
        if not inside or "\\" in name or not isinstance(digest, str):
            raise InputError(
                f"{path}: names {name!r}, which is not a file of {' or '.join(CARRIED)}"
            )
    return Status(**{name: tree.get(name) for name in Status.__dataclass_fields__})


def check_files(folder: Path | str, status: Status, names: Iterable[str] | None = None) -> None:
    """Compare files of an output with their checksums; all that it lists, unless named.

    Raises:
        InputError: one is missing or damaged.
    """
    for name in status.files if names is None else names:
        path = Path(folder) / name
        if not path.is_file():
            raise InputError(f"{path}: is missing; {CHAIN} lists it")
        if sha256(path) != status.files[name]:
            raise InputError(f"{path}: is damaged (its checksum is not that of {CHAIN})")


def list_files(folder: Path) -> dict[str, str]:
    """Return path -> SHA-256 of what an output hands on; temporary files (.*.tmp) are left out."""
    files = {}
    for path in sorted(path for top in CARRIED for path in (folder / top).rglob("*")):
        name = path.relative_to(folder).as_posix()
        temporary = path.name.startswith(".") and path.suffix == ".tmp"
        if path.is_file() and not name.startswith(UNLISTED) and not temporary:
            files[name] = sha256(path)
    return files

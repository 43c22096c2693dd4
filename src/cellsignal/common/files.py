"""Write files atomically, hash them, record what they were made from, and lock folders."""

import contextlib
import fcntl
import glob
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellsignal import __version__
from cellsignal.common.errors import InputError

if TYPE_CHECKING:
    import numpy as np

LONGEST_NAME = 120  # bytes of a file's name that is made of names that users chose


@contextlib.contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` when the block ends without an error.

    After an error the temporary file is removed.

    The content is flushed to disk before the rename, so after a crash `path` holds the old bytes or
    the new, never a mix. What a killed process of this machine left half-written beside it goes.

    Raises:
        InputError: the disk is full or the place cannot be written; the old file is untouched.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            dir=path.parent, prefix=temporary_prefix(path), suffix=".tmp"
        )
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(
            f"{path}: could not be written ({error.strerror or error}); what was there before is "
            "untouched"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def refuse_unwritable(path: Path | str, advice: str) -> Iterator[None]:
    """Raise `InputError` if the block cannot write below `path`; `advice` says what to do."""
    try:
        yield
    except OSError as error:
        why = error.strerror or error
        raise InputError(f"{path}: cannot be written ({why}); {advice}") from error


@contextlib.contextmanager
def open_arrays(path: Path | str) -> Iterator["np.lib.npyio.NpzFile"]:
    """Open an .npz file of plain arrays; close it even if it is damaged.

    Raises:
        ValueError, EOFError, OSError, zipfile.BadZipFile: no such file, a damaged one, or one of
        another kind.
    """
    import numpy as np  # here, as a kernel's runner reads this module before anything is installed

    with open(path, "rb") as file:
        archive = np.load(file, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("holds a single array, no archive of them")
        with archive:
            yield archive


def temporary_prefix(path: Path) -> str:
    """Return how names of this process's temporary files for a path begin; orphans are removed.

    Orphans are those of processes of this machine that have ended.
    """
    prefix = f".{path.name}.{platform.node()}-"
    for orphan in path.parent.glob(f"{glob.escape(prefix)}*.tmp"):
        process = orphan.name.removeprefix(prefix).partition(".")[0]
        if process.isdigit() and not _lives(int(process)):
            if orphan.is_dir():
                shutil.rmtree(orphan, ignore_errors=True)
            else:
                orphan.unlink(missing_ok=True)
    return f"{prefix}{os.getpid()}."


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def limited_name(name: str, limit: int = LONGEST_NAME) -> str:
    """Make a valid file name: if it is too long or has a slash, change it and add a hash.

    Args:
        name: Made of names that users chose. A slash would be a folder: it becomes "_", and the
            hash is added.
        limit: Bytes of UTF-8. File systems take 255, of which `atomic_path` and endings need some.
    """
    plain = name.replace("/", "_").replace("\0", "_")
    if plain == name and len(name.encode()) <= limit and name not in ("", ".", ".."):
        return name
    mark = f"-{hashlib.sha256(name.encode()).hexdigest()[:10]}"
    return plain.encode()[: limit - len(mark)].decode(errors="ignore") + mark


def write_text(path: Path | str, text: str) -> None:
    """Write `text` to `path` atomically, as UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` to `path` atomically, as indented JSON with sorted keys."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, default=str) + "\n")


def write_csv(path: Path | str, frame) -> None:
    """Write a data frame to `path` atomically, without its index."""
    with atomic_path(path) as temporary:
        frame.to_csv(temporary, index=False)


def describe_folder(folder: Path | str, shown: int = 5) -> str:
    """Return what is in a folder in a few words: "there is a, b and 3 more", for errors."""
    folder = Path(folder)
    if not folder.is_dir():
        return "there is no such folder"
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    if not names:
        return "it is empty"
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"there is {', '.join(names[:shown])}{more}"


def sha256(path: Path | str) -> str:
    """The SHA-256 of a file's bytes, as hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """The SHA-256 of a JSON-able value in canonical form, as hex."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def provenance(inputs: dict[str, Path | str] | None = None, **more: Any) -> dict[str, Any]:
    """Return what a file is made from: version, commit, command, time, hashes of its inputs."""
    hashes = {
        name: {"path": str(path), "sha256": sha256(path)}
        for name, path in (inputs or {}).items()
        if Path(path).is_file()
    }
    return {
        "cellsignal": __version__,
        "git_commit": git_commit(),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "written_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "inputs": hashes,
        **more,
    }


def git_commit() -> str | None:
    """Return the git commit of this package's checkout, or None.

    "-dirty" is added if files differ from the commit.
    """
    if not shutil.which("git"):
        return None
    here = Path(__file__).parent
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True)
    if head.returncode:
        return None
    status = subprocess.run(
        ["git", "status", "--porcelain", "-uno"], cwd=here, capture_output=True, text=True
    )
    return head.stdout.strip() + ("-dirty" if status.stdout.strip() else "")


def changed_inputs(recorded: Any, current: dict[str, Any]) -> list[str]:
    """List the inputs that changed since a file was made.

    A made file is up to date only if this list is empty. Every step that skips finished work asks
    it, and logs the names.

    Args:
        recorded: What the file carries; anything but a dict counts as nothing.
        current: Name of an input -> its hash, settings or version; nested dicts are compared key by
        key.

    Returns:
        Names in the order of `current`, nested ones as "predict.tta"; then those that only
        `recorded` has.
    """
    before = flatten_dict(recorded) if isinstance(recorded, dict) else {}
    now = flatten_dict(json.loads(json.dumps(current, default=str)))
    names = [name for name, value in now.items() if name not in before or before[name] != value]
    return names + [name for name in before if name not in now]


def flatten_dict(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested dicts by their dotted keys."""
    flat: dict[str, Any] = {}
    for name, inner in value.items():
        if isinstance(inner, dict):
            flat |= flatten_dict(inner, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = inner
    return flat


# locks on folders
# --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def work_in(folder: Path) -> Iterator[None]:
    """Mark a folder as in use within the block; other processes may use it too.

    The mark ends with the process. Does nothing if the folder does not exist or its disk has no
    locks.
    """
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        yield
        return
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)


def is_worked_in(folder: Path) -> bool:
    """Return whether a process of this machine works in a folder."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a disk without locks
        return False
    finally:
        os.close(handle)
    return False


@contextlib.contextmanager
def hold_alone(file: Path, what: str) -> Iterator[None]:
    """Hold a lock file within the block, alone.

    Raises:
        InputError: Another process holds it; the message begins with `what`.
    """
    with open(file, "w", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{what}: another process works at this job") from None
        yield

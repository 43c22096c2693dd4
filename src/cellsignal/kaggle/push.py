"""Push folders to Kaggle, wait for them, and pull the output of kernels."""

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Collection
from pathlib import Path, PurePosixPath
from typing import TypeVar

from cellsignal.common.errors import InputError
from cellsignal.common.files import sha256, write_text
from cellsignal.fetch import Fetcher, Politeness
from cellsignal.fetch.kaggle import redact
from cellsignal.kaggle.api import Kaggle, Session
from cellsignal.kaggle.job import refuse_placeholder
from cellsignal.kaggle.status import CHAIN, Status, read_status

log = logging.getLogger(__name__)

State = TypeVar("State")
KERNEL, DATASET = "kernel-metadata.json", "dataset-metadata.json"
STAGING = ".pull"  # below the target: what is not whole yet
EVERY_S, STILL_S = 60.0, 1800.0  # between two questions; between two lines that say the same


def push(kaggle: Kaggle, folder: Path) -> str:
    """Push the folder of a kernel or a data set, and wait until a data set can be used.

    Returns:
        The URL of its page.

    Raises:
        InputError: no metadata in the folder, or what Kaggle answers.
    """
    slug = slug_of(folder)
    if (folder / KERNEL).is_file():
        return kaggle.push_kernel(folder, slug, kaggle.versions(slug))
    url = kaggle.push_dataset(folder, slug)
    wait_for_dataset(kaggle, slug)
    return url


def slug_of(folder: Path) -> str:
    """Return `user/name` of the kernel or data set that a folder holds."""
    paths = [folder / name for name in (KERNEL, DATASET) if (folder / name).is_file()]
    if not paths:
        raise InputError(
            f"{folder}: has neither {KERNEL} nor {DATASET}; make it by cellsignal kaggle build"
        )
    try:
        content = json.loads(paths[0].read_text(encoding="utf-8"))
        slug = check_slug(content["id"])
        for source in content.get("dataset_sources", []):
            refuse_placeholder(str(source))
        return slug
    except InputError as error:
        raise InputError(f"{paths[0]}: {error}") from None
    except (ValueError, KeyError, TypeError, OSError):
        raise InputError(f"{paths[0]}: is not JSON with an id of the form user/name") from None


def check_slug(slug: object) -> str:
    """Return `slug`; raise if it is not `user/name`."""
    user, _, name = str(slug).partition("/")
    plain = all(c.isascii() and (c.isalnum() or c in "-_") for c in user + name)
    if not user or not name or not plain:
        raise InputError(f"{slug!r} is not a slug of the form user/name")
    return refuse_placeholder(str(slug))


def wait(
    kaggle: Kaggle, slug: str, every: float = EVERY_S, timeout: float | None = None
) -> Session:
    """Ask every so many seconds until the kernel's run has ended, and log each change.

    Args:
        timeout: seconds; None waits for as long as it takes.

    Raises:
        InputError: the time is over (the kernel runs on), or what Kaggle answers.
    """
    return _wait(
        f"kernel {slug}",
        lambda: kaggle.session(slug),
        lambda session: session.ended,
        lambda session: session.state,
        every,
        timeout,
    )


def wait_for_dataset(
    kaggle: Kaggle, slug: str, every: float = 10.0, timeout: float | None = 3600.0
) -> None:
    """Wait until a data set that was just uploaded can be attached.

    Raises:
        InputError: Kaggle could not unpack it, or the time is over.
    """
    state = _wait(
        f"data set {slug}",
        lambda: kaggle.dataset_state(slug),
        lambda state: state in ("ready", "failed", "deleted"),
        str,
        every,
        timeout,
    )
    if state != "ready":
        raise InputError(
            f"data set {slug}: Kaggle could not process it (it is {state}); see "
            f"https://www.kaggle.com/datasets/{slug}"
        )


def _wait(
    what: str,
    ask: Callable[[], State],
    has_ended: Callable[[State], bool],
    describe: Callable[[State], str],
    every: float,
    timeout: float | None,
) -> State:
    begun = logged_at = time.monotonic()
    before = None
    while True:
        state = ask()
        word = describe(state)
        now = time.monotonic()
        if word != before or now - logged_at >= STILL_S:
            log.info("%s: %s after %.1f h", what, word, (now - begun) / 3600)
            before, logged_at = word, now
        if has_ended(state):
            return state
        if timeout is not None and now - begun + every > timeout:
            raise InputError(
                f"{what}: is {word} after {timeout:.0f} s of waiting; it goes on, ask again by "
                "cellsignal kaggle status"
            )
        time.sleep(every)


def pull(
    kaggle: Kaggle, slug: str, out: Path, only: Collection[str] | None = None
) -> Status | None:
    """Fetch the output of a kernel's last run into `out`, and its log as `<name>.log`.

    Safe to call again: what is whole stays. Files that chain.json lists are checked against it.
    Every name is checked before anything is written.

    Args:
        only: the files to fetch; None fetches all.

    Returns:
        What chain.json says; None where the kernel left none.

    Raises:
        InputError: a name that would land outside `out`, a file that is damaged or missing, or what
            Kaggle answers.
    """
    output = kaggle.output(slug)
    for name in output.files:
        _check_name(name, slug, out)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / f"{slug.rpartition('/')[2]}.log", log_text(output.log))
    status = None
    with Fetcher(Politeness(per_second=20.0)) as fetcher:
        if CHAIN in output.files:
            _fetch(fetcher, output.files[CHAIN], out, CHAIN, None)
            status = read_status(out)
        listed = status.files if status else {}
        names = (set(output.files) if only is None else set(only)) - {CHAIN}
        needed = names | set(listed) if only is None else names
        missing = sorted(needed - set(output.files) - {CHAIN})
        if missing:
            more = f" and {len(missing) - 3} more" if missing[3:] else ""
            raise InputError(f"kernel {slug}: its output lacks {', '.join(missing[:3])}{more}")
        for name in sorted(names):
            _fetch(fetcher, output.files[name], out, name, listed.get(name))
    shutil.rmtree(out / STAGING, ignore_errors=True)
    return status


def _fetch(fetcher: Fetcher, url: str, out: Path, name: str, checksum: str | None) -> None:
    """Fetch one file into the staging folder, and move it when it is whole and right."""
    final, staged = out / name, out / STAGING / name
    if checksum is not None and final.is_file() and sha256(final) == checksum:
        return
    if checksum is None:
        staged.unlink(missing_ok=True)  # whole, but perhaps of an earlier run
    fetcher.file(url, staged, sha256=checksum)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        os.replace(staged, final)
    except OSError as error:
        raise InputError(f"{final}: could not be written ({error.strerror or error})") from None


def _check_name(name: str, slug: str, out: Path) -> None:
    """Raise if a file name from the server would lead outside `out`."""
    path = PurePosixPath(name)
    outside = not path.parts or path.is_absolute() or ".." in path.parts
    if outside or any(c in name for c in "\\:\0") or path.parts[0] == STAGING:
        raise InputError(
            f"kernel {slug}: its output names {name!r}, which would land outside {out}; nothing "
            "was fetched"
        )
    if not out.joinpath(*path.parts).resolve().is_relative_to(out.resolve()):
        raise InputError(
            f"kernel {slug}: {name!r} would go through a link out of {out}; nothing was fetched"
        )


def log_text(log_of_kernel: str) -> str:
    """Return a kernel's log as lines of text.

    Kaggle keeps it as a JSON list of pieces, {"stream_name": ..., "time": ..., "data": ...}.
    """
    try:
        pieces = json.loads(log_of_kernel)
        text = "".join(str(piece["data"]) for piece in pieces)
    except (ValueError, TypeError, KeyError):
        text = log_of_kernel
    return "".join(f"{redact_line(line)}\n" for line in text.splitlines())


def redact_line(line: str) -> str:
    """Return a log's line without secrets, its indentation kept."""
    return line[: len(line) - len(line.lstrip())] + redact(line)


def last_lines(path: Path, count: int = 15) -> str:
    """Return the last lines of a log."""
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-count:])

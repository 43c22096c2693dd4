"""Folders to Kaggle, and what came of them back: pushed, waited for, pulled into a folder that
nothing can leave.
"""

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
from cellsignal.kaggle.owner import refuse_placeholder
from cellsignal.kaggle.status import CHAIN, Status, read_status

log = logging.getLogger(__name__)

State = TypeVar("State")
KERNEL, DATASET = "kernel-metadata.json", "dataset-metadata.json"
STAGING = ".pull"  # under the target: what is not whole yet
# how often Kaggle is asked, and how often that nothing changed is said
EVERY_S, STILL_S = 60.0, 1800.0


def push(kaggle: Kaggle, folder: Path) -> str:
    """Push a kernel's folder or a data set's, told by its metadata file. A data set is waited for.
    Returns the URL of its page.

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
    """`user/name` of the kernel or data set that a folder holds."""
    metadata = next(
        (folder / name for name in (KERNEL, DATASET) if (folder / name).is_file()), None
    )
    if metadata is None:
        raise InputError(
            f"{folder}: has neither {KERNEL} nor {DATASET}; make it by cellsignal kaggle build"
        )
    try:
        content = json.loads(metadata.read_text(encoding="utf-8"))
        slug = check_slug(content["id"])
        for source in content.get("dataset_sources", []):
            refuse_placeholder(str(source))
        return slug
    except (ValueError, KeyError, TypeError, OSError) as error:
        if isinstance(error, InputError):
            raise InputError(f"{metadata}: {error}") from None
        raise InputError(f"{metadata}: is no JSON with an id of the form user/name") from None


def check_slug(slug: object) -> str:
    """`slug`, or a refusal of what is not `user/name`."""
    user, _, name = str(slug).partition("/")
    if (
        not user
        or not name
        or not all(c.isascii() and (c.isalnum() or c in "-_") for c in user + name)
    ):
        raise InputError(f"{slug!r} is no slug of the form user/name")
    return refuse_placeholder(str(slug))


def wait(
    kaggle: Kaggle, slug: str, every: float = EVERY_S, timeout: float | None = None
) -> Session:
    """Ask every so many seconds until the kernel's run has ended, and say each change.

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
    """Until a data set that was just uploaded can be attached.

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
    ended: Callable[[State], bool],
    word: Callable[[State], str],
    every: float,
    timeout: float | None,
) -> State:
    begun = said_at = time.monotonic()
    before = None
    while True:
        state = ask()
        now = time.monotonic()
        if word(state) != before or now - said_at >= STILL_S:
            log.info("%s: %s after %.1f h", what, word(state), (now - begun) / 3600)
            before, said_at = word(state), now
        if ended(state):
            return state
        if timeout is not None and now - begun + every > timeout:
            raise InputError(
                f"{what}: is {word(state)} after {timeout:.0f} s of waiting; it goes on, ask "
                "again by cellsignal kaggle status"
            )
        time.sleep(every)


def pull(
    kaggle: Kaggle, slug: str, out: Path, only: Collection[str] | None = None
) -> Status | None:
    """Fetch the output of a kernel's last run into `out`, and its log as `<name>.log`. Safe to call
    again: what is whole stays.

    Files that chain.json lists are checked against it. Every name is checked before anything is
    written.

    Args:
        only: the files to fetch; None fetches all.

    Returns:
        What chain.json says; None where the kernel left none.

    Raises:
        InputError: a name that would land outside `out`, a file that is damaged or missing, or what
        Kaggle answers.
    """
    output = kaggle.output(slug)
    targets = {name: _target(name, slug, out) for name in output.files}
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / f"{slug.rpartition('/')[2]}.log", log_text(output.log))
    status = None
    with Fetcher(Politeness(per_second=20.0)) as fetcher:
        if CHAIN in targets:
            _fetch(fetcher, output.files[CHAIN], out, CHAIN, None)
            status = read_status(out)
        listed = status.files if status else {}
        wanted = set(targets if only is None else only) - {CHAIN}
        missing = sorted(
            name
            for name in wanted | (set(listed) if only is None else set())
            if name not in targets and name != CHAIN
        )
        if missing:
            raise InputError(
                f"kernel {slug}: its output lacks "
                f"{', '.join(missing[:3])}{f' and {len(missing) - 3} more' if missing[3:] else ''}"
            )
        for name in sorted(wanted):
            _fetch(fetcher, output.files[name], out, name, listed.get(name))
    shutil.rmtree(out / STAGING, ignore_errors=True)
    return status


def _fetch(fetcher: Fetcher, url: str, out: Path, name: str, checksum: str | None) -> None:
    """One file: grown in the staging folder, where a broken download is taken up again, and moved
    when it is whole and right.
    """
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


def _target(name: str, slug: str, out: Path) -> Path:
    """Where a file goes whose name the server chose, or a refusal."""
    path = PurePosixPath(name)
    if (
        path.is_absolute()
        or not path.parts
        or ".." in path.parts
        or "\\" in name
        or ":" in name
        or "\0" in name
        or path.parts[0] == STAGING
    ):
        raise InputError(
            f"kernel {slug}: its output names {name!r}, which would land outside {out}; nothing "
            "was fetched"
        )
    target = out.joinpath(*path.parts)
    if not target.resolve().is_relative_to(out.resolve()):
        raise InputError(
            f"kernel {slug}: {name!r} would go through a link out of {out}; nothing was fetched"
        )
    return target


def log_text(log_of_kernel: str) -> str:
    """A kernel's log as lines of text: Kaggle keeps it as a JSON list of pieces, `{"stream_name":
    ..., "time": ..., "data": ...}`.
    """
    try:
        pieces = json.loads(log_of_kernel)
        text = "".join(str(piece["data"]) for piece in pieces)
    except (ValueError, TypeError, KeyError):
        text = log_of_kernel
    return "".join(f"{redact_line(line)}\n" for line in text.splitlines())


def redact_line(line: str) -> str:
    """A log's line without secrets, its indentation kept."""
    return line[: len(line) - len(line.lstrip())] + redact(line)


def last_lines(path: Path, count: int = 15) -> str:
    """The last lines of a log."""
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-count:])

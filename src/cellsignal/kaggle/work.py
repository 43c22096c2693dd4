"""A whole job as one command: every kernel built, pushed, waited for and pulled.

What was done is noted in `progress.json` after each event and before each push, so the command can
be stopped at any point and given again: nothing is pushed twice, no step is lost. The kernels run
on meanwhile. All waiting is one loop; threads would only wait too.
"""

import json
import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cellsignal.common.errors import InputError
from cellsignal.common.files import digest, hold_alone, write_json
from cellsignal.kaggle.api import Kaggle
from cellsignal.kaggle.build import build
from cellsignal.kaggle.job import KernelJob, Step, job_config, slug, steps
from cellsignal.kaggle.push import EVERY_S, last_lines, pull
from cellsignal.kaggle.status import CHAIN, Status

log = logging.getLogger(__name__)

PROGRESS, OUTPUT = "progress.json", "output"
PARALLEL = 2  # GPU kernels that Kaggle runs for one user at a time


@dataclass
class Place:
    """How far a step is.

    Attributes:
        link: the kernel of its chain that is at work, from 1.
        state: todo, pushing, running, done or failed.
        versions: how many versions Kaggle had of the kernel before it was pushed.
        reason: why it failed.
        hours: what each finished link worked.
    """

    link: int = 1
    state: str = "todo"
    versions: int = 0
    reason: str = ""
    hours: tuple[float, ...] = ()

    @property
    def under_way(self) -> bool:
        return self.state in ("pushing", "running")


@dataclass(frozen=True)
class Work:
    """A running job: its steps, its folder, and the state of each step.

    Attributes:
        key: hash of what a job must not change under way.
        keep: fetch the whole output of each step, not `chain.json` alone.
    """

    job: KernelJob
    steps: tuple[Step, ...]
    folder: Path
    kaggle: Kaggle
    places: dict[str, Place]
    key: str
    keep: bool = False

    def slug(self, step: str) -> str:
        return f"{self.kaggle.user}/{slug(self.job, step, self.places[step].link)}"

    def kernel(self, step: str) -> Path:
        return kernel_folder(self.folder, self.job, step, self.places[step].link)

    def note(self, step: str, **changes: Any) -> None:
        """Set a step's place and save it."""
        place = self.places[step]
        for name, value in changes.items():
            setattr(place, name, value)
        state = {
            "job": self.job.name,
            "user": self.kaggle.user,
            "key": self.key,
            "steps": {name: asdict(place) for name, place in self.places.items()},
        }
        write_json(self.folder / PROGRESS, state)
        log.info("%s: %s, link %d: %s", self.job.name, step, place.link, place.state)


def work(
    kaggle: Kaggle,
    job: KernelJob,
    folder: Path,
    *,
    every: float = EVERY_S,
    parallel: int = PARALLEL,
    keep: bool = False,
) -> dict[str, Place]:
    """Bring a job to its end, from wherever it is.

    Kernels, outputs and `progress.json` are in `folder`.

    Args:
        every: seconds between two rounds of asking Kaggle.
        parallel: kernels under way at a time.
        keep: fetch the whole output of each step's last kernel (weights, logs), not `chain.json`
            alone; the last step's is always fetched.

    Returns:
        The place of each step, all of them done.

    Raises:
        InputError: kernels that failed or took too many links (what did not need them was finished
            first; the same command pushes them again), a job that changed under way, another
            process at the same job, or what Kaggle answers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with hold_alone(folder / ".lock", str(folder)):
        under_way = Work(job, steps(job), folder, kaggle, *_read(job, folder, kaggle.user), keep)
        for step in under_way.steps:
            place = under_way.places.setdefault(step.name, Place())
            if place.state == "failed":  # the user gave the command again
                place.state, place.reason = "todo", ""
        while _round(under_way, parallel):
            time.sleep(every)
        failed = [
            f"{name} ({place.reason})"
            for name, place in under_way.places.items()
            if place.state == "failed"
        ]
        if failed:
            raise InputError(f"{job.name}: {'; '.join(failed)}; the same command tries again")
        return under_way.places


def kernel_folder(folder: Path, job: KernelJob, step: str, link: int) -> Path:
    """Return the folder a kernel is built in; its pulled output goes to `OUTPUT` inside."""
    return folder / slug(job, step, link)


def _round(work: Work, parallel: int) -> bool:
    """Check every step once and do what is possible; return whether any step is running."""
    places = work.places
    for step in work.steps:  # first what is under way, so that its place is free for the next
        if places[step.name].state == "pushing":
            _push(work, step)
        elif places[step.name].state == "running":
            _look(work, step)
    for step in work.steps:
        needs_are_done = all(places[name].state == "done" for name in step.needs)
        if places[step.name].state == "todo" and needs_are_done and _count(work) < parallel:
            _begin(work, step)
    return _count(work) > 0


def _count(work: Work) -> int:
    """Return how many kernels are under way."""
    return sum(place.under_way for place in work.places.values())


def _begin(work: Work, step: Step) -> None:
    """Build the next kernel of a step and push it."""
    place = work.places[step.name]
    last = {name: work.places[name].link for name in step.needs}
    build(work.job, step, place.link, work.folder, work.kaggle.user, last)
    work.note(step.name, versions=work.kaggle.versions(work.slug(step.name)), state="pushing")
    _push(work, step, fresh=True)


def _push(work: Work, step: Step, fresh: bool = False) -> None:
    """Push a built kernel; ask Kaggle first if an earlier process may have pushed it."""
    place, name = work.places[step.name], work.slug(step.name)
    if fresh or work.kaggle.versions(name) <= place.versions:
        url = work.kaggle.push_kernel(work.kernel(step.name), name, place.versions)
        log.info("%s: %s", work.job.name, url)
    work.note(step.name, state="running")


def _look(work: Work, step: Step) -> None:
    """Check a running kernel; when it has ended, pull its output and start the next."""
    place, name = work.places[step.name], work.slug(step.name)
    session = work.kaggle.session(name)
    if not session.ended:
        return
    out = work.kernel(step.name) / OUTPUT
    if session.state != "complete":
        _fail(work, step, out, session.failure or session.state)
        return
    status = pull(work.kaggle, name, out, only=())
    if wrong := _wrong(work, step, status):
        _fail(work, step, out, wrong)
        return
    hours = (*place.hours, status.hours)
    if status.done:
        if work.keep or step is work.steps[-1]:
            pull(work.kaggle, name, out)
        work.note(step.name, state="done", hours=hours)
    elif place.link >= work.job.most_links:
        reason = (
            f"not done after {place.link} kernels ({sum(hours):.1f} h), which is most_links; the "
            f"last one says: {status.reason}"
        )
        work.note(step.name, state="failed", reason=reason)
    else:
        work.note(step.name, state="todo", link=place.link + 1, hours=hours)


def _wrong(work: Work, step: Step, status: Status | None) -> str | None:
    """Return the fault of the status that a kernel left, or None."""
    if status is None:
        return f"it left no {CHAIN}"
    expected = (work.job.name, step.name, work.places[step.name].link)
    if (status.job, status.step, status.link) != expected:
        return (
            f"its {CHAIN} is of {status.job}, {status.step}, link {status.link}, not of this kernel"
        )
    return None


def _fail(work: Work, step: Step, out: Path, reason: str) -> None:
    """Log the last lines of a failed kernel's log, and the path of the whole log."""
    name = work.slug(step.name)
    pull(work.kaggle, name, out, only=())
    file = out / f"{name.rpartition('/')[2]}.log"
    log.warning(
        "%s: %s failed: %s; the end of its log:\n%s", work.job.name, name, reason, last_lines(file)
    )
    work.note(step.name, state="failed", reason=f"{reason}; its log: {file}")


def _read(job: KernelJob, folder: Path, user: str) -> tuple[dict[str, Place], str]:
    """Return the places that an earlier process noted, and the job's key."""
    parts = {
        "job": job.model_dump(mode="json", exclude={"most_links", "max_hours"}),
        "config": job_config(job).model_dump(mode="json"),
    }
    key = digest(parts)
    if not (folder / PROGRESS).is_file():
        return {}, key
    places, owner, before = _progress(folder)
    again = f"give the job another name, or remove {folder} to begin it anew"
    if owner != user:
        raise InputError(
            f"{folder / PROGRESS}: the job's kernels are {owner}'s, and you are {user}; {again}"
        )
    if before != key:
        raise InputError(
            f"{folder / PROGRESS}: the job or its config changed under way, and its kernels would "
            f"not go on from each other; {again}"
        )
    return places, key


def _progress(folder: Path) -> tuple[dict[str, Place], str, str]:
    """Read `progress.json`: places, user, key."""
    path = folder / PROGRESS
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        places = {
            name: Place(**{**place, "hours": tuple(place["hours"])})
            for name, place in state["steps"].items()
        }
        return places, str(state["user"]), str(state["key"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path}: is damaged; remove it to begin the job anew") from None


def report(job: KernelJob, folder: Path, kaggle: Kaggle | None = None) -> str:
    """Return how far a job is, as a table.

    It is read from `progress.json`; with `kaggle`, running kernels have the state it says now.
    """
    places = _progress(folder)[0] if (folder / PROGRESS).is_file() else {}
    lines = [f"{'step':10} {'link':>4} {'hours':>6}  state"]
    for step in steps(job):
        place = places.get(step.name, Place())
        state = place.reason
        if kaggle is not None and place.state == "running":
            state = kaggle.session(f"{kaggle.user}/{slug(job, step.name, place.link)}").state
        words = f"{place.state}: {state}" if state else place.state
        lines.append(f"{step.name:10} {place.link:4} {sum(place.hours):6.1f}  {words}")
    return "\n".join(lines)

"""Whose a job's kernels and data sets are on Kaggle: the name that stands where a job file says
USER.
"""

import re

from cellsignal.common.errors import InputError
from cellsignal.fetch.kaggle import stored_user
from cellsignal.kaggle.job import KernelJob

# USER, OWNER, YOUR_NAME, <your-kaggle-username>, INSERT_KAGGLE_NAME, ...: these words alone, in any
# order
_PLACEHOLDER = re.compile(
    r"((your|my|the|insert|kaggle|user|name|id|owner|account|handle|here)[ _-]?)+", re.IGNORECASE
)
NAME_IT = (
    "give your name on Kaggle by --user NAME, as `owner: NAME` in the job, "
    "or by credentials (KAGGLE_USERNAME, or ~/.kaggle/kaggle.json)"
)


def find_owner(job: KernelJob, user: str | None = None) -> str:
    """Return the name on Kaggle that owns the job's kernels.

    Args:
        user: of `--user`, or who is signed in; None takes the job's `owner`, then the credentials'.

    Raises:
        InputError: no name is known, it is a placeholder or no name, or the job is another's.
    """
    owner = user or job.owner or stored_user()
    if not owner:
        raise InputError(f"job {job.name}: whose kernels they are is not known; {NAME_IT}")
    if is_placeholder(owner):
        raise InputError(f"job {job.name}: {owner!r} only stands for a name; {NAME_IT}")
    if not re.fullmatch(r"[A-Za-z0-9_-]+", owner):
        raise InputError(f"job {job.name}: {owner!r} is no name on Kaggle; {NAME_IT}")
    if job.owner and job.owner.casefold() != owner.casefold():
        raise InputError(f"job {job.name}: its owner is {job.owner}, and you are {owner}")
    return owner


def fill_owner(job: KernelJob, owner: str) -> KernelJob:
    """Return the job with `owner` where a data set's owner is a placeholder."""
    sources = tuple(_fill(source, owner) for source in job.dataset_sources)
    wheels = None if job.wheels is None else _fill(job.wheels, owner)
    return job.model_copy(update={"owner": owner, "dataset_sources": sources, "wheels": wheels})


def is_placeholder(name: str) -> bool:
    """Return whether a name is one that examples write for the reader's own."""
    return _PLACEHOLDER.fullmatch(name.strip("<>{}[]$ ")) is not None


def refuse_placeholder(slug: str) -> str:
    """Return `slug` (owner/name), or refuse an owner that is a placeholder.

    Raises:
        InputError: the owner is a placeholder.
    """
    owner = slug.partition("/")[0]
    if is_placeholder(owner):
        raise InputError(f"{slug}: {owner!r} only stands for a name; write your name on Kaggle")
    return slug


def _fill(source: str, owner: str) -> str:
    name, slash, rest = source.partition("/")
    return f"{owner}{slash}{rest}" if is_placeholder(name) else source

"""Read a job file: one config as a chain of Kaggle kernels, its steps and its owner."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from cellsignal.common.errors import InputError
from cellsignal.config import Config, load_config
from cellsignal.config.explain import did_you_mean
from cellsignal.config.load import read_mapping
from cellsignal.config.strict import Strict
from cellsignal.data.folds import FoldTable, read_fold_rows
from cellsignal.fetch.kaggle import stored_user

PREPARE, FULL = "prepare", "full"
LONGEST_NAME = 36  # leaves room for "-prepare-99" within the 50 characters that Kaggle gives a slug
SLUG = r"^[a-z0-9]+(-[a-z0-9]+)*$"
SOURCE = r"^[A-Za-z0-9_-]+/[A-Za-z0-9_-]+(/\d+)?$"  # owner/slug, and a version
NAME_IT = (
    "give your name on Kaggle by --user NAME, as `owner: NAME` in the job, "
    "or by credentials (KAGGLE_USERNAME, or ~/.kaggle/kaggle.json)"
)
# USER, OWNER, YOUR_NAME, <your-kaggle-username>, ...: these words alone, in any order
_PLACEHOLDER = re.compile(
    r"((your|my|the|insert|kaggle|user|name|id|owner|account|handle|here)[ _-]?)+", re.IGNORECASE
)


def _check_path(path: str) -> str:
    if not path or path.startswith("/") or "\\" in path or ".." in path.split("/"):
        raise ValueError("write a path relative to Kaggle's input folder, without ..")
    return path


def _check_source(text: str) -> str:
    if not re.fullmatch(SOURCE, text):
        raise ValueError(f"{text!r} is not a data set; write OWNER/SLUG, or OWNER/SLUG/VERSION")
    return text


InputPath = Annotated[str, AfterValidator(_check_path)]
Source = Annotated[str, AfterValidator(_check_source)]


class SubmitStep(Strict):
    """How a job ends.

    `submit` merges the fold kernels' predictions. `code` is for code competitions, where the last
    kernel alone sees the test images: it predicts them with the fold kernels' weights.
    """

    verb: Literal["submit", "code"] = "submit"


class KernelJob(Strict):
    """A config that is trained fold by fold, each fold in its own kernels.

    Attributes:
        config: its path; this and the fold table are found from the repository's top.
        owner: your name on Kaggle, which replaces USER in the data sets; else `--user` or the
            credentials give it.
        set: changes keys of the config, as `--set` does.
        folds: those to train; None: the config's. `folds.full` of the config adds a kernel.
        max_hours: how long a kernel works before it saves and hands over.
        most_links: kernels that a step may take.
        machine: Kaggle's name of the accelerator.
        processes: training processes in a kernel, one for each GPU (two T4: 2).
        wheels: the data set of `cellsignal kaggle wheels`.
        root: the raw data, as a path below Kaggle's input folder.
        store: the packed images there. None packs them in a step of its own, whose output the
            others attach: it must fit into a kernel's 20 GB.
        weights: the file of ImageNet weights there, where the config starts from such.
        submit: None ends with the fold kernels.
    """

    name: str = Field(pattern=SLUG, max_length=LONGEST_NAME)
    config: Path
    owner: str | None = Field(None, pattern=r"^[A-Za-z0-9_-]+$")
    set: tuple[str, ...] = ()
    folds: tuple[Annotated[int, Field(ge=0, le=99)], ...] | None = None
    max_hours: float = Field(8.5, gt=0)
    most_links: int = Field(4, ge=1, le=99)
    gpu: bool = True
    machine: str | None = Field(None, pattern=r"^[A-Za-z0-9]+$")
    processes: int = Field(1, ge=1, le=8)
    competition_sources: tuple[Annotated[str, Field(pattern=SLUG)], ...] = ()
    dataset_sources: tuple[Source, ...] = ()
    wheels: Source | None = None
    root: InputPath
    store: InputPath | None = None
    weights: InputPath | None = None
    submit: SubmitStep | None = SubmitStep()

    @model_validator(mode="after")
    def _check_folds(self) -> "KernelJob":
        if self.folds is not None and len(set(self.folds)) < len(self.folds):
            raise ValueError("folds: a fold is named twice")
        return self

    @property
    def predicts_in_last_kernel(self) -> bool:
        return self.submit is not None and self.submit.verb == "code"


def load_job(path: Path | str) -> KernelJob:
    """Read a job file.

    Raises:
        InputError: unreadable, not YAML, a config in place of a job, an unknown key or a wrong
            value; the line names it.
    """
    path = Path(path)
    tree = read_mapping(path, "a job")
    if is_config(tree):
        raise InputError(
            f"{path}: is a config, not a job; give a job file that names it (`config: {path}`), "
            "such as kernels/rxrx1_one_hour.yaml"
        )
    try:
        return KernelJob.model_validate(tree)
    except ValidationError as error:
        raise InputError(f"{path}: {_describe(error)}") from None


def is_config(tree: Mapping[str, Any]) -> bool:
    """Return whether a mapping has the keys of a config rather than those of a job."""
    keys = {*Config.model_fields, "base"} - set(KernelJob.model_fields)
    return "config" not in tree and not keys.isdisjoint(tree)


def _describe(error: ValidationError) -> str:
    lines = []
    for item in error.errors():
        key = ".".join(map(str, item["loc"]))
        if item["type"] == "extra_forbidden":
            lines.append(f"unknown key {key}{did_you_mean(key, KernelJob.model_fields)}")
        else:
            lines.append(f"{key}: {item['msg'].removeprefix('Value error, ')}".removeprefix(": "))
    return "; ".join(lines)


def job_config(job: KernelJob) -> Config:
    """Return the job's config; refuse one that a kernel without internet cannot run."""
    config = load_config(job.config, job.set)
    if config.model.pretrained and job.weights is None:
        raise InputError(
            f"job {job.name}: {job.config} starts from ImageNet weights, and a kernel has no "
            "internet; give their file in a dataset as `weights`"
        )
    if job.weights is not None and not config.model.pretrained and config.model.weights is None:
        raise InputError(f"job {job.name}: weights: {job.config} starts from none")
    if job.predicts_in_last_kernel and config.predict.checkpoint == "best":
        raise InputError(
            f"job {job.name}: predict.checkpoint: best; a code submission predicts with the last "
            "weights"
        )
    return config


def job_folds(job: KernelJob, config: Config) -> tuple[int, ...]:
    """Return the folds to train: the job's, else the config's, else the fold table's."""
    table = read_table(config.folds.file)
    folds = job.folds if job.folds is not None else config.folds.use
    if folds is None:
        return tuple(table.folds)
    for fold in folds:
        if fold not in table.folds:
            raise InputError(
                f"job {job.name}: folds: {config.folds.file} has the folds {list(table.folds)}, "
                f"not {fold}"
            )
    return tuple(folds)


def read_table(path: Path) -> FoldTable:
    """Read a fold table without its samples; the kernel checks it against them."""
    if not path.is_file():
        raise InputError(
            f"{path}: no such fold table; make it with `cellsignal folds`, it travels with the "
            "kernels"
        )
    rows = read_fold_rows(path).reset_index(drop=True)
    return FoldTable(rows.columns[1], rows)


@dataclass(frozen=True)
class Step:
    """One part of a job: a kernel, or a chain of kernels if one is too short.

    Attributes:
        name: prepare, fold0, fold1, ..., full, submit.
        verbs: the commands that it runs, in order; `code` predicts for a code competition.
        needs: the steps whose last kernel must be done; its output is attached.
        fold: which one it trains; None for no single one.
    """

    name: str
    verbs: tuple[str, ...]
    needs: tuple[str, ...] = ()
    fold: int | None = None

    @property
    def trains(self) -> bool:
        return "train" in self.verbs


def steps(job: KernelJob) -> tuple[Step, ...]:
    """Return the steps of a job in an order in which they can run.

    Raises:
        InputError: see `job_config` and `job_folds`; or nothing to train.
    """
    config = job_config(job)
    preparing = [] if job.store is not None else [Step(PREPARE, ("prepare",))]
    needs = tuple(step.name for step in preparing)
    verbs = ("train",) if job.predicts_in_last_kernel else ("train", "predict")
    training = [Step(f"fold{fold}", verbs, needs, fold) for fold in job_folds(job, config)]
    if config.folds.full:
        training.append(Step(FULL, verbs, needs))
    if not training:
        raise InputError(
            f"job {job.name}: folds: there is none, and folds.full is false: nothing to train"
        )
    ending = []
    if job.submit is not None:
        needs = tuple(step.name for step in training)
        ending.append(Step("submit", (job.submit.verb,), needs))
    return (*preparing, *training, *ending)


def step_named(job: KernelJob, name: str) -> Step:
    """Return the step of that name, or refuse a name that the job does not have."""
    by_name = {step.name: step for step in steps(job)}
    if name not in by_name:
        raise InputError(f"job {job.name}: has the steps {', '.join(by_name)}, not {name!r}")
    return by_name[name]


def slug(job: KernelJob, step: str, link: int) -> str:
    """Return the kernel's slug, which Kaggle makes from its `title`: 5 to 50 characters."""
    name = f"{job.name}-{step}-{link}"
    assert 5 <= len(name) <= 50, name
    return name


def title(job: KernelJob, step: str, link: int) -> str:
    """Return the kernel's title. Kaggle takes the slug from it, whatever `id` says."""
    return slug(job, step, link).replace("-", " ")


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
        raise InputError(f"job {job.name}: {owner!r} is not a name on Kaggle; {NAME_IT}")
    if job.owner and job.owner.casefold() != owner.casefold():
        raise InputError(f"job {job.name}: its owner is {job.owner}, and you are {owner}")
    return owner


def fill_owner(job: KernelJob, owner: str) -> KernelJob:
    """Put `owner` into data sets whose owner is a placeholder; return the new job."""

    def fill(source: str) -> str:
        name, slash, rest = source.partition("/")
        return f"{owner}{slash}{rest}" if is_placeholder(name) else source

    sources = tuple(map(fill, job.dataset_sources))
    wheels = None if job.wheels is None else fill(job.wheels)
    return job.model_copy(update={"owner": owner, "dataset_sources": sources, "wheels": wheels})


def is_placeholder(name: str) -> bool:
    """Return whether an owner is a placeholder from an example."""
    return _PLACEHOLDER.fullmatch(name.strip("<>{}[]$ ")) is not None


def refuse_placeholder(slug: str) -> str:
    """Return `slug` (owner/name), or refuse an owner that is a placeholder."""
    owner = slug.partition("/")[0]
    if is_placeholder(owner):
        raise InputError(f"{slug}: {owner!r} only stands for a name; write your name on Kaggle")
    return slug

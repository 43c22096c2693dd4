"""A job file: one config as a chain of Kaggle kernels. Its keys are checked as a config's are."""

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from cellsignal.common.errors import InputError
from cellsignal.config import Config, load_config
from cellsignal.config.load import read_mapping
from cellsignal.config.strict import Strict
from cellsignal.data.folds import FoldTable, read_fold_rows

LONGEST_NAME = 36  # leaves room for "-prepare-99" within the 50 characters that Kaggle gives a slug
SLUG = r"^[a-z0-9]+(-[a-z0-9]+)*$"
SOURCE = r"^[A-Za-z0-9_-]+/[A-Za-z0-9_-]+(/\d+)?$"  # owner/slug, and a version


def _inside(path: str) -> str:
    if not path or path.startswith("/") or "\\" in path or ".." in path.split("/"):
        raise ValueError("write a path relative to Kaggle's input folder, without ..")
    return path


def _source(text: str) -> str:
    if not re.fullmatch(SOURCE, text):
        raise ValueError(f"{text!r} is no data set; write OWNER/SLUG, or OWNER/SLUG/VERSION")
    return text


InputPath = Annotated[str, AfterValidator(_inside)]
Source = Annotated[str, AfterValidator(_source)]


class SubmitStep(Strict):
    """How a job ends. `submit`: the fold kernels' predictions are merged. `code`: the last kernel
    predicts itself, with the fold kernels' weights, whatever test images the competition shows it
    (a code competition, where the files that are scored are seen by that kernel alone).
    """

    verb: Literal["submit", "code"] = "submit"


class KernelJob(Strict):
    """One config, trained fold by fold in kernels of their own.

    `config` and its fold table are paths as from the repository's top. `set` overrides keys of the
    config, as `--set` does. `folds`: those to train (null: the config's; with `folds.full` a kernel
    more). `max_hours`: how long a kernel works before it saves and hands over; `most_links`:
    kernels that a step may take. `root`: the raw data, as a path below Kaggle's input folder;
    `store`: the packed images, likewise, from a dataset. Null packs them first, in a step of its
    own whose output the others attach: it must fit into a kernel's 20 GB. `weights`: the file of
    ImageNet weights, likewise, where the config starts from such (kernels have no internet).
    `wheels`: the dataset of `cellsignal kaggle wheels`. `machine`: Kaggle's name of the
    accelerator. `processes`: training processes in one kernel, one for each GPU (two T4: 2).
    `submit: null` ends with the fold kernels. `owner`: your name on Kaggle, which replaces USER in
    the data sets; else `--user` or the credentials give it.
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
    def _folds_once(self) -> "KernelJob":
        if self.folds is not None and len(set(self.folds)) < len(self.folds):
            raise ValueError("folds: a fold is named twice")
        return self


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


def job_config(job: KernelJob) -> Config:
    """The job's config with its overrides, after checking that a kernel without internet can run
    it.

    Raises:
        InputError: a config that is wrong, or asks for what a kernel does not have.
    """
    config = load_config(job.config, job.set)
    if config.model.pretrained and job.weights is None:
        raise InputError(
            f"job {job.name}: {job.config} starts from ImageNet weights, and a kernel has no "
            "internet; give their file in a dataset as `weights`"
        )
    if job.weights is not None and not config.model.pretrained and config.model.weights is None:
        raise InputError(f"job {job.name}: weights: {job.config} starts from none")
    if job.submit is not None and job.submit.verb == "code" and config.predict.checkpoint == "best":
        raise InputError(
            f"job {job.name}: predict.checkpoint: best; a code submission predicts with the last "
            "weights"
        )
    return config


def job_folds(job: KernelJob, config: Config) -> tuple[int, ...]:
    """The folds that the job trains: its own, else the config's, else all of the fold table.

    Raises:
        InputError: no fold table, or a fold that it does not have.
    """
    table = read_table(config.folds.file)
    wanted: Sequence[int] = (
        job.folds
        if job.folds is not None
        else (config.folds.use if config.folds.use is not None else table.folds)
    )
    unknown = [fold for fold in wanted if fold not in table.folds]
    if unknown:
        raise InputError(
            f"job {job.name}: folds: {config.folds.file} has the folds {list(table.folds)}, not "
            f"{unknown[0]}"
        )
    return tuple(wanted)


def read_table(path: Path) -> FoldTable:
    """A fold table without the samples that it deals: enough to know its folds. The kernel checks
    it against the samples.
    """
    if not path.is_file():
        raise InputError(
            f"{path}: no such fold table; make it with `cellsignal folds`, it travels with the "
            "kernels"
        )
    rows = read_fold_rows(path).reset_index(drop=True)
    return FoldTable(rows.columns[1], rows)


def _describe(error: ValidationError) -> str:
    lines = []
    for item in error.errors():
        key = ".".join(map(str, item["loc"]))
        if item["type"] == "extra_forbidden":
            near = difflib.get_close_matches(key, KernelJob.model_fields, 1)
            lines.append(f"unknown key {key}" + (f" (did you mean {near[0]!r}?)" if near else ""))
        else:
            lines.append(f"{key}: {item['msg'].removeprefix('Value error, ')}".removeprefix(": "))
    return "; ".join(lines)

"""What kernels a job is: its steps in order, what each needs, and the names that Kaggle knows them
by.
"""

from dataclasses import dataclass

from cellsignal.common.errors import InputError
from cellsignal.kaggle.job import KernelJob, job_config, job_folds

PREPARE, FULL = "prepare", "full"


@dataclass(frozen=True)
class Step:
    """One part of a job. A step is one kernel, or several in a chain where one is not enough.

    Attributes:
        name: prepare, fold0, fold1, ..., full, submit.
        verbs: the commands that it runs, in order; `code` is the prediction of a code competition.
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
    """The steps of a job in an order in which they can run.

    Raises:
        InputError: see `job_config` and `job_folds`; or nothing to train.
    """
    config = job_config(job)
    before = () if job.store is not None else (PREPARE,)
    found = [Step(PREPARE, ("prepare",))] if before else []
    code = job.submit is not None and job.submit.verb == "code"
    # a code competition's test images are seen by the last kernel alone
    verbs = ("train",) if code else ("train", "predict")
    training = [Step(f"fold{fold}", verbs, before, fold) for fold in job_folds(job, config)]
    if config.folds.full:
        training.append(Step(FULL, verbs, before))
    if not training:
        raise InputError(
            f"job {job.name}: folds: there is none, and folds.full is false: nothing to train"
        )
    found += training
    if job.submit is not None:
        found.append(Step("submit", (job.submit.verb,), tuple(step.name for step in training)))
    return tuple(found)


def step_named(job: KernelJob, name: str) -> Step:
    """The step of that name.

    Raises:
        InputError: the job has none.
    """
    found = {step.name: step for step in steps(job)}
    if name not in found:
        raise InputError(f"job {job.name}: has the steps {', '.join(found)}, not {name!r}")
    return found[name]


def slug(job: KernelJob, step: str, link: int) -> str:
    """The kernel's name in its address: 5 to 50 characters, and what Kaggle makes of `title`."""
    found = f"{job.name}-{step}-{link}"
    assert 5 <= len(found) <= 50, found
    return found


def title(job: KernelJob, step: str, link: int) -> str:
    """The kernel's title. Kaggle takes the slug from it, whatever `id` says, so the two must agree."""
    return slug(job, step, link).replace("-", " ")

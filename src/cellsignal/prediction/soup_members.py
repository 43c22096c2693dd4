"""The trained models that a soup is made of: found, compared, and their weights averaged."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cellsignal.common.errors import InputError
from cellsignal.common.files import digest, sha256
from cellsignal.config import Config, config_differences
from cellsignal.prediction.predict import checkpoint_path
from cellsignal.training.checkpoints import load_checkpoint
from cellsignal.training.identity import check_belongs, check_config
from cellsignal.training.job import Job
from cellsignal.training.plan import jobs_of

# sections and keys that decide what a network is and what it is given
_SAME = ("competition", "protocol", "model", "normalization")
_SAME_DATA = ("channels", "controls", "sites", "exclude")
Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Member:
    """The last stage of one run and seed, or of one of its snapshots.

    Attributes:
        title: run/seed, and @epoch of a snapshot.
        jobs: of the config, all stages.
        epoch: of the snapshot; None for what predicts.
    """

    config: Config
    title: str
    jobs: tuple[Job, ...]
    epoch: int | None = None

    @property
    def last_jobs(self) -> tuple[Job, ...]:
        """The jobs of the last stage: each fold, and each cell type where they have their own."""
        last = len(self.config.stages) - 1
        return tuple(job for job in self.jobs if job.stage_index == last)

    def path(self, job: Job) -> Path:
        """Return the checkpoint of one of the jobs.

        Raises:
            InputError: it does not exist.
        """
        if self.epoch is None:
            return checkpoint_path(self.config, job)
        path = job.snapshot(self.epoch)
        if not path.is_file():
            raise InputError(
                f"{path}: no such snapshot; train with stages.{job.stage.name}.snapshots"
            )
        return path

    def load(self, job: Job) -> dict[str, Any]:
        """Read the checkpoint of one of the jobs.

        Raises:
            InputError: missing, damaged, unfinished, or of another training.
        """
        path = self.path(job)
        state = load_checkpoint(path)
        check_config(state, job.config, path)
        check_belongs(job, state, path, same_samples=False)
        finished = state["progress"]["finished"] or path.stem != "last"
        if not finished:
            raise InputError(f"{path}: training is not finished; run the training command again")
        return state

    def start(self, job: Job) -> str:
        """Name the weights that a job of the last stage started from; the same if they were.

        The checkpoint of the stage before, the pretrained file, or the seed of random weights.
        """
        if job.init is not None:
            if not job.init.is_file():
                raise InputError(
                    f"{job.init}: no such checkpoint; it is what this stage began with"
                )
            return f"checkpoint {weights_digest(predicting(load_checkpoint(job.init)))}"
        model = job.config.model
        if model.weights is not None:
            known = model.weights.is_file()
            return f"file {sha256(model.weights) if known else model.weights}"
        return "pretrained" if model.pretrained else f"random weights of seed {job.seed}"


def find_members(configs: Sequence[Config], snapshots: bool) -> list[Member]:
    """Return the members of some configs: each what predicts, or all its snapshots.

    Raises:
        InputError: a stage without classes, one member alone, or no snapshots.
    """
    members = []
    for config in configs:
        jobs, stage = tuple(jobs_of(config)), config.stages[-1]
        if stage.target != "label" or stage.self_supervised is not None:
            raise InputError(f"{config.name}: its last stage {stage.name!r} predicts no class")
        title = f"{config.name}/seed{config.seed}"
        if not snapshots:
            members.append(Member(config, title, jobs))
            continue
        if not stage.snapshot_epochs:
            raise InputError(f"{title}: keeps no snapshots; see stages.{stage.name}.snapshots")
        epochs = stage.snapshot_epochs
        members += [Member(config, f"{title}@{epoch}", jobs, epoch) for epoch in epochs]
    titles = [member.title for member in members]
    twice = {title for title in titles if titles.count(title) > 1}
    if twice:
        raise InputError(f"{min(twice)}: is named twice")
    if len(members) < 2:
        raise InputError(f"{titles[0]}: one member alone; name several runs or seeds")
    return members


def check_alike(members: Sequence[Member]) -> None:
    """Refuse members whose weights are not of the same thing.

    Raises:
        InputError: they differ in network, channels, normalisation, classes, stages or folds.
    """
    first = members[0]
    for other in members[1:]:
        different = _differences(first, other)
        if different:
            raise InputError(
                f"{other.title}: its weights cannot be averaged with those of {first.title} "
                f"({'; '.join(different[:3])})"
            )


def _differences(first: Member, other: Member) -> list[str]:
    """Say in what two members differ; the later facts only where the earlier ones agree."""
    trees = [member.config.model_dump(mode="json") for member in (first, other)]
    settings = [
        {name: tree[name] for name in _SAME}
        | {"data": {name: tree["data"][name] for name in _SAME_DATA}}
        | {
            "stages": [
                {name: stage[name] for name in ("name", "per", "target")}
                for stage in tree["stages"]
            ]
        }
        for tree in trees
    ]
    if different := config_differences(*settings):
        return different
    jobs = [{_place(job): job for job in member.last_jobs} for member in (first, other)]
    alone = sorted(jobs[0].keys() ^ jobs[1].keys())
    if alone:
        return [f"{(first if alone[0] in jobs[0] else other).title} alone has {alone[0]}"]
    facts = {
        "classes": lambda job: job.classes,
        "number of outputs": lambda job: job.outputs,
        "samples held out": lambda job: job.held_out,
    }
    return [
        f"{place}: other {name}"
        for place in jobs[0]
        for name, fact in facts.items()
        if digest(fact(jobs[0][place])) != digest(fact(jobs[1][place]))
    ]


def _place(job: Job) -> str:
    """Name a job by its fold and key, without the seed."""
    return job.title.split(" ", 2)[2]


def predicting(state: dict[str, Any]) -> Weights:
    """Return the weights of a checkpoint that predict: the averaged ones, if any."""
    return state["averaged"] or state["model"]


def weights_digest(weights: Weights) -> str:
    """Return a hash of names, shapes and values."""
    whole = hashlib.sha256()
    for name, tensor in weights.items():
        whole.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        whole.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy())
    return whole.hexdigest()


def average_weights(weights: Sequence[Weights], titles: Sequence[str]) -> tuple[Weights, bool]:
    """Return the mean of several networks' weights, and whether all were the same already.

    Means are taken in double precision; counters are the first network's.

    Raises:
        InputError: a tensor is missing or has another shape.
    """
    first, mean, same = weights[0], {}, True
    for other, title in zip(weights[1:], titles[1:], strict=True):
        shapes = [{name: tuple(t.shape) for name, t in each.items()} for each in (first, other)]
        if shapes[0] != shapes[1]:
            names = [
                n for n in shapes[0].keys() | shapes[1] if shapes[0].get(n) != shapes[1].get(n)
            ]
            raise InputError(f"{title}: {min(names)} has another shape than in {titles[0]}")
    for name, tensor in first.items():
        equal = all(torch.equal(tensor, other[name]) for other in weights[1:])
        same &= equal or not tensor.is_floating_point()
        if equal or not tensor.is_floating_point():
            mean[name] = tensor.clone()
        else:
            stacked = torch.stack([each[name].double() for each in weights])
            mean[name] = stacked.mean(0).to(tensor.dtype)
    return mean, same

"""Hours and price of a config before anything is rented: its floating-point operations over what a GPU is taken to reach of its peak.

Nothing is trained, and of the data only the tables are read (those of the raw data, or a packed store's). The samples of each training are those that
`training.job.plan_jobs` deals; the operations of an image come from `models.cost`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from cellsignal.cloud.gpus import GPUS, PRICES_OF, Gpu
from cellsignal.competitions import get_competition
from cellsignal.competitions.base import Competition
from cellsignal.config import Config
from cellsignal.errors import InputError
from cellsignal.folds import read_folds

if TYPE_CHECKING:
    from cellsignal.training.job import Job

UTILISATION = 0.2  # of the vendor's peak; an assumption, see docs/cloud.md
RANGE = 0.1, 0.35
SPOT = 0.4  # of the list price; spot prices move by the hour


@dataclass(frozen=True)
class JobCost:
    """One training of a config.

    Attributes:
        images: that train, over all epochs.
        training: FLOPs of these, and of the teacher's and the pseudo-labels' forward passes.
        validation: FLOPs.
    """

    fold: str
    stage: str
    images: float
    training: float
    validation: float
    half: bool


@dataclass(frozen=True)
class Cost:
    """A whole config: its trainings, and the FLOPs of prediction with all views."""

    jobs: tuple[JobCost, ...]
    prediction: float
    per_image: float  # FLOPs of a training image of the first stage

    def seconds(self, gpu: Gpu, utilisation: float) -> float:
        """On one GPU that reaches this share of its peak; prediction computes as the first stage does."""
        half = self.jobs[0].half
        work = [(job.training + job.validation, job.half) for job in self.jobs] + [(self.prediction, half)]
        return sum(flops / ((gpu.half if in_half else gpu.single) * 1e12 * utilisation) for flops, in_half in work)

    def images_per_s(self, gpu: Gpu, utilisation: float) -> float:
        """Training images of the first stage."""
        return (gpu.half if self.jobs[0].half else gpu.single) * 1e12 * utilisation / self.per_image


def cost_of(config: Config) -> Cost:
    """Count a config's operations.

    Validation counts once for each epoch that validates; `adapt` adds a forward pass of as many images. Early stopping is not foreseen. Pseudo-labels: as many
    test images as their share grows to. The networks' own extras (mixing, averaging, optimiser) are not counted.

    Raises:
        InputError: neither the store nor the raw data's tables are there; anything wrong with the config.
    """
    from cellsignal.training.job import plan_jobs

    competition, store = get_competition(config.competition), _tables(config)
    jobs = plan_jobs(config, competition, store, store.classes, read_folds(config.folds.file, store.samples))
    costs, prediction, per_image, known = [], 0.0, [], {}
    for job in jobs:
        forward = _forward(job, known)
        cost, of_one = _job_cost(job, forward)
        costs.append(cost)
        per_image.append(of_one)
        if job.stage.target == "label" and job.stage.self_supervised is None:
            passes = config.predict.tta + (config.predict.adapt != "none")
            prediction += forward * passes * (len(job.valid) + len(job.test))
    return Cost(tuple(costs), prediction, per_image[0])


def _job_cost(job: "Job", forward: float) -> tuple[JobCost, float]:
    """The job's cost, and the FLOPs of one training image."""
    from cellsignal.models.cost import training_flops
    from cellsignal.training.job import fold_name, without_labels
    from cellsignal.training.pseudo_labels import share_at

    stage = job.stage
    per_image = forward if job.config.model.frozen else training_flops(forward, stage.gradient_checkpointing)
    images, extra = stage.epochs * len(job.train), 0.0
    if stage.self_supervised is not None:
        images = 2 * stage.epochs * int(without_labels(job).sum())
    if stage.mean_teacher is not None:
        images += stage.epochs * len(job.test) * (stage.mean_teacher.unlabelled == "test")
        extra += images * forward
    if stage.pseudo_labels is not None:
        shares = [share_at(stage.pseudo_labels, epoch, stage.epochs) for epoch in range(stage.pseudo_labels.start, stage.epochs)]
        images += sum(shares) * len(job.test)
        extra += len(shares) * len(job.test) * forward
    rounds = -(-stage.epochs // stage.validate_every)
    validation = rounds * len(job.scored) * forward * (1 + (job.config.predict.adapt != "none"))
    half = stage.amp != "off"
    return JobCost(fold_name(job.fold), stage.name, images, images * per_image + extra, validation, half), per_image


def _forward(job: "Job", known: dict[tuple[int, int], float]) -> float:
    """FLOPs of one image through the job's network, at the size that the store gives (a random crop's where the stage has one)."""
    from cellsignal.models.backbones import build_model
    from cellsignal.models.cost import forward_flops

    crops = [item.size for item in job.stage.augment if item.name in ("random_crop", "random_resized_crop") and item.size]
    size = crops[-1] if crops else min(job.store.shape[1:])
    key = size, job.outputs
    if key not in known:
        types = len(job.cell_types)
        model = build_model(job.config.model, len(job.channels), job.outputs, size, types, initial_weights=False)
        square = forward_flops(model, len(job.channels), size, types)
        known[key] = square if crops else square * job.store.shape[1] * job.store.shape[2] / size**2
    return known[key]


def _tables(config: Config) -> SimpleNamespace:
    """What `plan_jobs` asks of a store (samples, channels, shape, classes): of the store, or as packing the raw data would make it."""
    from cellsignal.data.store import Store

    competition, data = get_competition(config.competition), config.data
    if (data.store / "store.json").is_file():
        store = Store.open(data.store)
        return SimpleNamespace(samples=store.samples, channels=store.channels, shape=store.shape, classes=tuple(store.source["classes"]))
    if not data.root.exists():
        raise InputError(f"data.root: {data.root}: no such folder, nor a store at {data.store}; the tables of the raw data are enough, no image is read")
    samples = competition.samples(data.root)
    channels = tuple(competition.channels)
    shape = (data.size, data.size) if data.size else _shape(competition, data.root)
    return SimpleNamespace(samples=samples, channels=channels, shape=(len(channels), *shape), classes=tuple(competition.classes(data.root)))


def _shape(competition: Competition, root: Path) -> tuple[int, int]:
    """(height, width) of the images under the root: as published, for there may be tables only; a simulated copy has sizes of its own."""
    published = competition.image_shape
    return competition.root_shape(root) if published is None or (root / "simulation.json").is_file() else published


def cost_text(name: str, cost: Cost, *, utilisation: float = UTILISATION, measured: Mapping[str, float] | None = None, gpus: Sequence[Gpu] = GPUS) -> str:
    """The estimate in Markdown: what is computed, then a row for each GPU.

    Args:
        utilisation: share of the peak that is assumed.
        measured: GPU -> training images/s of the first stage, as the log of a run says it; replaces the assumption for that GPU.
    """
    measured = dict(measured or {})
    unknown = set(measured) - {gpu.name for gpu in gpus}
    if unknown:
        raise InputError(f"--measured {min(unknown)}: there are {', '.join(gpu.name for gpu in gpus)}")
    training, validation = sum(job.training for job in cost.jobs), sum(job.validation for job in cost.jobs)
    images = sum(job.images for job in cost.jobs)
    models = ", ".join(dict.fromkeys(job.fold for job in cost.jobs))
    low, high = min(RANGE[0], utilisation), max(RANGE[1], utilisation)
    lines = [
        f"{name} ({models}; {len(cost.jobs)} trainings): {images / 1e6:,.2f} million training images of {cost.per_image / 1e9:,.1f} GFLOP",
        f"({training / 1e15:,.1f} PFLOP), validation {validation / 1e15:,.1f}, prediction {cost.prediction / 1e15:,.1f} PFLOP.",
        *_warnings(utilisation, f" (in brackets: {high:.0%} and {low:.0%})"),
        f"Spot is taken for {SPOT:.0%} of the list price.",
        "",
        "| GPU | list price, USD/h | images/s | hours | USD on demand | USD spot | |",
        "|---|---|---|---|---|---|---|",
    ]
    for gpu in gpus:
        lines.append(_row(cost, gpu, utilisation, (high, low), measured.get(gpu.name)))
    return "\n".join(lines)


def costs_text(costs: Mapping[str, Cost], *, utilisation: float = UTILISATION, gpus: Sequence[Gpu] = GPUS) -> str:
    """Several configs in one Markdown table, by name: hours and USD on demand, of all folds and stages, on one GPU of each kind."""
    lines = [
        *_warnings(utilisation, ""),
        "",
        "| recipe | models | million images | EFLOP | " + " | ".join(f"{gpu.name}, {gpu.usd:.2f} USD/h" for gpu in gpus) + " |",
        "|---|---|---|---|" + "---|" * len(gpus),
    ]
    for name, cost in costs.items():
        models = len({job.fold for job in cost.jobs})
        flops = sum(job.training + job.validation for job in cost.jobs) + cost.prediction
        hours = [cost.seconds(gpu, utilisation) / 3600 for gpu in gpus]
        cells = [f"{_short(h)} h, {_short(h * gpu.usd)} USD" for h, gpu in zip(hours, gpus, strict=True)]
        images = sum(job.images for job in cost.jobs) / 1e6
        lines.append(f"| {name} | {models} | {_short(images)} | {_short(flops / 1e18)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _warnings(utilisation: float, bounds: str) -> list[str]:
    return [
        f"COMPUTED, NOT MEASURED: {utilisation:.0%} of the vendor's peak is an assumption{bounds}.",
        f"List prices as remembered ({PRICES_OF}), on demand, one GPU with its machine: CHECK BEFORE YOU RENT.",
    ]


def _row(cost: Cost, gpu: Gpu, utilisation: float, bounds: tuple[float, float], rate: float | None) -> str:
    if rate is not None:
        share = rate / cost.images_per_s(gpu, 1.0)
        if not 0 < share <= 1:
            raise InputError(f"--measured {gpu.name}={rate:g}: that is {share:.0%} of the peak of a {gpu.name}; is it images/s of the first stage?")
        utilisation, bounds = share, (share, share)
    hours = cost.seconds(gpu, utilisation) / 3600
    between = "" if rate is not None else " [{} to {}]".format(*(_short(cost.seconds(gpu, bound) / 3600) for bound in bounds))
    note = f"{utilisation:.0%} of the peak, measured" if rate is not None else gpu.source
    price = hours * gpu.usd
    return (f"| {gpu.name} | {gpu.usd:.2f} | {_short(cost.images_per_s(gpu, utilisation))} | {_short(hours)}{between} | "
            f"{_short(price)} | {_short(price * SPOT)} | {note} |")  # fmt: skip


def _short(number: float) -> str:
    """Two digits, or all before the point."""
    return f"{number:,.0f}" if number >= 10 else f"{number:.1f}" if number >= 1 else f"{number:.2g}"

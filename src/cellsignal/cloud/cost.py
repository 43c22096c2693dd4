"""Estimate the hours of a config: the slowest of arithmetic, reading images and launching steps.

Nothing is trained, and no image is read. How many images each training reads comes from
`cloud.counts`, the operations of an image from `models.cost`, the rest from `cloud.machines`.
"""

from collections import defaultdict
from dataclasses import dataclass

from cellsignal.cloud.counts import Counts, JobCounts, count_images
from cellsignal.cloud.machines import (
    FORWARD_LAYER_S,
    LAYER_S,
    STEP_S,
    Gpu,
    count_layers,
    read_seconds,
)
from cellsignal.config import Config
from cellsignal.config.stage import Stage
from cellsignal.data.views import tta_views

UTILISATION = 0.2  # of the vendor's peak; an assumption, see docs/cloud.md
GIB = 2**30


@dataclass(frozen=True)
class Load:
    """Work of one kind: images that are read, operations, and the host's time to launch them.

    Attributes:
        images: read from the store.
        flops: of a GPU.
        launch_s: seconds of one process; each GPU has its own.
        half: whether it computes in half precision.
    """

    images: float
    flops: float
    launch_s: float
    half: bool

    def limits(self, gpu: Gpu, utilisation: float, read_s: float) -> dict[str, float]:
        """Return the seconds of computing, reading and launching; the longest counts.

        Args:
            read_s: seconds an image takes all cores together.
        """
        peak = (gpu.half if self.half else gpu.single) * 1e12
        return {
            "computing": self.flops / (peak * utilisation),
            "reading": self.images * read_s,
            "launching": self.launch_s / gpu.count,
        }


@dataclass(frozen=True)
class JobCost:
    """Cost of one training: its training images, its forward passes for labels, its validation."""

    fold: str
    stage: str
    training: Load
    validation: Load

    @property
    def images(self) -> float:
        """Images that train, over all epochs."""
        return self.training.images


@dataclass(frozen=True)
class Cost:
    """A whole config: its trainings, and the prediction with all views, in the first's precision.

    Attributes:
        per_image: FLOPs of a training image of the first stage.
        read_s: core-seconds of an image's reading.
        workers: cores that read for one GPU at most (`data.workers`).
        note: on what the numbers of images are from; may be empty.
    """

    jobs: tuple[JobCost, ...]
    prediction: Load
    per_image: float
    read_s: float
    workers: int
    note: str = ""

    def seconds(self, gpu: Gpu, utilisation: float) -> float:
        """Return the seconds on a GPU that reaches `utilisation` of its peak."""
        return sum(max(limits.values()) for limits in self._limits(gpu, utilisation))

    def computing_seconds(self, gpu: Gpu, utilisation: float) -> float:
        """Return the seconds of arithmetic alone, for a measured utilisation."""
        return sum(limits["computing"] for limits in self._limits(gpu, utilisation))

    def images_per_s(self, gpu: Gpu, utilisation: float) -> float:
        """Return the rate of the first stage's training images."""
        return self.jobs[0].images / max(self._limits(gpu, utilisation)[0].values())

    def peak_images_per_s(self, gpu: Gpu) -> float:
        """Return the rate at the GPU's full peak, if nothing but arithmetic took time."""
        peak = gpu.half if self.jobs[0].training.half else gpu.single
        return peak * 1e12 / self.per_image

    def bound(self, gpu: Gpu, utilisation: float) -> str:
        """Return the part that limits the speed: computing, reading or launching."""
        waited: dict[str, float] = defaultdict(float)
        for limits in self._limits(gpu, utilisation):
            name = max(limits, key=limits.get)
            waited[name] += limits[name]
        return max(waited, key=waited.get)

    def _limits(self, gpu: Gpu, utilisation: float) -> list[dict[str, float]]:
        loads = [load for job in self.jobs for load in (job.training, job.validation)]
        read_s = self.read_s / max(1, min(gpu.cores, self.workers * gpu.count))
        return [load.limits(gpu, utilisation, read_s) for load in [*loads, self.prediction]]


@dataclass(frozen=True)
class Network:
    """FLOPs of one image's forward pass, and the layers that it launches."""

    forward: float
    layers: int


def cost_of(config: Config) -> Cost:
    """Count a config's operations, images and steps.

    Validation counts once for each epoch that validates; `adapt` adds a forward pass of as many
    images. Early stopping is not foreseen. Pseudo-labels: as many test images as their share grows
    to. The networks' own extras (mixing, averaging) and augmentation are not counted.

    Raises:
        InputError: see `count_images`.
    """
    counts = count_images(config)
    costs, predicted, per_image, known = [], [], [], {}
    for job in counts.jobs:
        network = _network(config, job, known)
        cost, flops = _job_cost(config, job, network)
        costs.append(cost)
        per_image.append(flops)
        if job.stage.target == "label" and job.stage.self_supervised is None:
            passes = len(tta_views(config.predict.tta)) + (config.predict.adapt != "none")
            images = job.valid + job.test
            predicted.append(_forward_load(config, job.stage, network, images, passes))
    prediction = Load(
        images=sum(load.images for load in predicted),
        flops=sum(load.flops for load in predicted),
        launch_s=sum(load.launch_s for load in predicted),
        half=costs[0].training.half,
    )
    read_s = _read_seconds(config, counts)
    return Cost(tuple(costs), prediction, per_image[0], read_s, config.data.workers, counts.note)


def _job_cost(config: Config, job: JobCounts, network: Network) -> tuple[JobCost, float]:
    """Return the job's cost, and the FLOPs of one training image."""
    from cellsignal.models.cost import training_flops
    from cellsignal.training.pseudo_labels import share_at

    stage, frozen = job.stage, config.model.frozen
    per_image = network.forward
    if not frozen:
        per_image = training_flops(network.forward, stage.gradient_checkpointing)
    images = stage.epochs * job.train
    extra = 0.0  # images that a teacher or the model itself predicts
    if stage.self_supervised is not None:
        images = 2 * stage.epochs * job.unlabelled
    if stage.mean_teacher is not None:
        images += stage.epochs * job.test * (stage.mean_teacher.unlabelled == "test")
        extra += images
    if stage.pseudo_labels is not None:
        shares = [
            share_at(stage.pseudo_labels, epoch, stage.epochs)
            for epoch in range(stage.pseudo_labels.start, stage.epochs)
        ]
        images += sum(shares) * job.test
        extra += len(shares) * job.test
    steps = max(stage.epochs, images / stage.batch_size)
    step_s = STEP_S + network.layers * (FORWARD_LAYER_S if frozen else LAYER_S)
    training = Load(
        images=images,
        flops=images * per_image + extra * network.forward,
        launch_s=steps * step_s + extra / stage.batch_size * network.layers * FORWARD_LAYER_S,
        half=stage.amp != "off",
    )
    rounds = -(-stage.epochs // stage.validate_every)
    passes = 1 + (config.predict.adapt != "none")
    validation = _forward_load(config, stage, network, rounds * job.scored, passes)
    return JobCost(job.fold, stage.name, training, validation), per_image


def _forward_load(
    config: Config, stage: Stage, network: Network, images: float, passes: int
) -> Load:
    """Return the load of predicting images, each read once for all its passes."""
    launches = images / config.predict.batch_size * passes
    return Load(
        images=images,
        flops=images * passes * network.forward,
        launch_s=launches * network.layers * FORWARD_LAYER_S,
        half=stage.amp != "off",
    )


def _network(config: Config, job: JobCounts, known: dict[tuple[int, int], Network]) -> Network:
    """Return the job's network on one image of the store, or on a random crop of the stage."""
    from cellsignal.models.backbones import build_model
    from cellsignal.models.cost import forward_flops

    crops = [
        item.size
        for item in job.stage.augment
        if item.name in ("random_crop", "random_resized_crop") and item.size
    ]
    size = crops[-1] if crops else min(job.shape[1:])
    key = size, job.outputs
    if key not in known:
        model = build_model(
            config.model, job.channels, job.outputs, size, job.cell_types, initial_weights=False
        )
        square = forward_flops(model, job.channels, size, job.cell_types)
        forward = square if crops else square * job.shape[1] * job.shape[2] / size**2
        known[key] = Network(forward, count_layers(model))
    return known[key]


def _read_seconds(config: Config, counts: Counts) -> float:
    """Return the core-seconds that reading one image takes."""
    from cellsignal.data.codec import RAW_UP_TO

    data, shape = config.data, counts.jobs[0].shape
    image_bytes = shape[0] * shape[1] * shape[2]
    codec = data.codec
    if codec == "auto":
        codec = "raw" if shape[1] * shape[2] <= RAW_UP_TO else "zstd"
    kept = [
        place
        for place, gib in (("device", data.device_gib), ("memory", data.cache_gib))
        if counts.images * image_bytes <= gib * GIB
    ]
    return read_seconds(image_bytes, codec, kept[0] if kept else "no")

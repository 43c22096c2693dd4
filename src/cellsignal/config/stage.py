"""One training stage of a config: batches, optimiser, schedule, averaging, pseudo-labels."""

from typing import Literal

from pydantic import Field, model_validator

from cellsignal.config.augment import Augmentation, Mix
from cellsignal.config.losses import Center, Margin, MeanTeacher, SelfSupervised, Triplet
from cellsignal.config.schedule import Optimizer, Schedule
from cellsignal.config.strict import LeastZ, Probability, Snapshots, Strict

# keys of a stage that a stage without labels cannot have
_NEEDS_LABELS = (
    "target",
    "cross_entropy",
    "label_smoothing",
    "class_weights",
    "positive_weight",
    "focal",
    "margin",
    "triplet",
    "center",
    "mix",
    "drop_predicted_controls",
    "mean_teacher",
    "pseudo_labels",
)


class Batches(Strict):
    """Which samples share a batch. `images` goes with no other key, `labels: balanced` with no
    `unit`."""

    unit: Literal["mixed", "cell_type", "experiment", "plate"] = "mixed"
    """Draw each batch from one cell type, experiment or plate, so that BatchNorm sees that unit
    alone (RxRx1, 2nd, 5th and 44th place); mixed: from the whole stage."""
    labels: Literal["any", "unique", "balanced"] = "any"
    """unique: no label twice in a batch, so that two sites of a well never meet. balanced: every
    class equally often, as many images an epoch as without; rare images come several times, each
    time augmented anew. With several labels an image, "none of them" is a class."""
    images: int | None = Field(None, ge=1)
    """Images of each class in every batch, as triplets need them (P x K, arXiv:1703.07737);
    `batch_size` is a multiple of it, at least twice as many."""

    @model_validator(mode="after")
    def _one_way_of_drawing(self) -> "Batches":
        if self.labels == "balanced" and self.unit != "mixed":
            raise ValueError("labels: balanced draws from the whole stage; leave unit out")
        if self.images is not None and (self.unit != "mixed" or self.labels != "any"):
            raise ValueError("images: draws from the whole stage; leave unit and labels out")
        return self


class PseudoLabels(Strict):
    """Progressive pseudo-labels of test wells (RxRx1, 1st place), drawn anew before every epoch.

    The most confident share of them trains. Validation wells are never among them. The plates'
    class groups are inferred from the same predictions.
    """

    start: int = Field(0, ge=0)
    """First epoch with pseudo-labels, counted from 0."""
    first: Probability = 0.4
    """Share of the test wells that trains at the start; it grows to 1 in the last epoch."""
    least_confidence: LeastZ = 3.0
    """An experiment whose best layout beats the others by a smaller z gives no pseudo-label; 0: all
    give some."""


class Stage(Strict):
    """One training stage."""

    name: str = Field(pattern=r"^[a-z0-9_]+$", max_length=120)
    """Name of the stage's folder, and of the stage in `--set stages.<name>.<key>=value`."""
    per: Literal["all", "cell_type"] = "all"
    """all: train one model; cell_type: one for each cell type."""
    init: Literal["scratch", "previous"] = "scratch"
    """previous: start from the stage before, of the same fold."""
    target: Literal["label", "compound", "any_compound"] = "label"
    """compound: tell the training compounds apart, as a start for the next stage, which takes all
    weights but the heads'; any_compound: also those of images without a label. Such a stage has no
    validation and makes no predictions, only embeddings."""
    epochs: int = Field(ge=1)
    """How often the training samples are seen."""
    batch_size: int = Field(32, ge=1)
    """Images in a batch, on each process."""
    batches: Batches = Batches()
    """Which samples share a batch."""
    accumulation: int = Field(1, ge=1)
    """Batches whose gradients make one step."""
    optimizer: Optimizer = Optimizer()
    """The optimiser of the network."""
    schedule: Schedule = Schedule()
    """The learning rate over the stage."""
    clip_norm: float | None = Field(None, gt=0)
    """Largest norm of the gradients; longer ones are shortened."""
    amp: Literal["auto", "off", "bf16", "fp16"] = "off"
    """Precision: auto is bfloat16 where the device has it, else float16 on a GPU and float32 on a
    CPU; off is float32."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of the target that is spread over all classes."""
    class_weights: Literal["none", "balanced", "sqrt"] = "none"
    """Weight classes by the inverse of their frequency, or by its root. With several labels an
    image: each class's positives by its negatives over its positives."""
    positive_weight: float | None = Field(None, gt=0)
    """With several labels an image: one weight for the positives of all classes."""
    focal: float | None = Field(None, gt=0)
    """Focal loss (arXiv:1708.02002) with this gamma: each cross-entropy term times
    (1 - p) ** gamma, p the probability of the truth."""
    cross_entropy: float = Field(1.0, gt=0)
    """Weight of the plain cross-entropy beside the other losses. With several labels an image it is
    the binary one, the mean over classes."""
    margin: Margin | None = None
    """Add a margin loss on the cosine head."""
    triplet: Triplet | None = None
    """Add a triplet loss on the embedding."""
    center: Center | None = None
    """Add a center loss on the embedding."""
    mean_teacher: MeanTeacher | None = None
    """Add consistency with the averaged model."""
    drop_predicted_controls: int | None = Field(None, ge=0)
    """From this epoch on (counted from 0), images that the network takes for a negative control add
    nothing to the loss (MitoReID: a drug that does nothing looks like DMSO). Negative controls must
    be a class: `data.controls`."""
    self_supervised: SelfSupervised | None = None
    """Learn from images alone."""
    pseudo_labels: PseudoLabels | None = None
    """Train also on pseudo-labels of test wells."""
    ema: float | None = Field(None, gt=0, lt=1)
    """Decay of an exponential average of weights and BatchNorm statistics, after every step. The
    averaged model validates and predicts."""
    swa: float | None = Field(None, ge=0, lt=1)
    """Stochastic weight averaging (arXiv:1803.05407): the mean of the weights at the end of each
    epoch, from this share of the epochs on. The averaged model validates and predicts."""
    snapshots: Snapshots = None
    """Keep the weights that would predict, at the end of each of the schedule's cycles
    (arXiv:1704.00109) or of these epochs, counted from 1, as snapshot_<epoch>.pt;
    `cellsignal runs soup --snapshots` makes runs of them or averages them."""
    bn_recompute: bool = False
    """Compute the averaged model's BatchNorm statistics anew from the training samples; swa always
    does."""
    early_stopping: int | None = Field(None, ge=1)
    """Stop after so many validations without a better monitored figure."""
    monitor: Literal["score", "accuracy", "average_precision", "retrieval", "loss"] = "score"
    """Figure that schedule, early stopping and the best checkpoint follow; score is the
    competition's own. retrieval (one label an image): mean average precision of finding each
    validation target's class by cosine distance among a few training samples of each class, outside
    its own fold group and compound."""
    augment: tuple[Augmentation, ...] = ()
    """Augmentations of the training images, applied in the order written."""
    mix: Mix | None = None
    """MixUp or CutMix of batches."""
    validate_every: int = Field(1, ge=1)
    """Epochs between validations; the last is always validated."""
    checkpoint_minutes: float = Field(5.0, gt=0)
    """Minutes between checkpoints within an epoch."""
    compile: Literal["off", "default", "reduce-overhead", "max-autotune"] = "off"
    """Mode of torch.compile; it pays after minutes, on a GPU, and changes nothing but rounding."""
    gradient_checkpointing: bool = False
    """Keep fewer activations and compute them again: less memory, about a third more time."""

    @model_validator(mode="after")
    def _parts_fit(self) -> "Stage":
        if self.self_supervised is not None:
            self._check_without_labels()
        if self.ema is not None and self.swa is not None:
            raise ValueError("ema and swa are two ways to average; leave one out")
        if self.bn_recompute and self.ema is None and self.swa is None:
            raise ValueError("bn_recompute is for an averaged model; give ema or swa")
        if self.positive_weight is not None and self.class_weights != "none":
            raise ValueError(
                "positive_weight and class_weights are two ways to weight; leave one out"
            )
        if self.mean_teacher is not None and self.ema is None:
            raise ValueError("mean_teacher: the teacher is the averaged model; give ema")
        if self.mix is not None and self.mix.p == 1 and (self.triplet or self.center):
            raise ValueError(
                "triplet and center need batches that are not mixed; give mix.p below 1"
            )
        self._check_snapshots()
        late = {
            "pseudo_labels.start": self.pseudo_labels and self.pseudo_labels.start,
            "drop_predicted_controls": self.drop_predicted_controls,
        }
        for key, epoch in late.items():
            if epoch is not None and epoch >= self.epochs:
                raise ValueError(f"{key}: {epoch} is not before the last of {self.epochs} epochs")
        return self

    @model_validator(mode="after")
    def _targets_and_batches_fit(self) -> "Stage":
        images, teacher = self.batches.images, self.mean_teacher
        if images is not None:
            if self.batch_size % images or self.batch_size < 2 * images:
                raise ValueError(
                    f"batch_size: {self.batch_size} does not hold 2 or more classes of "
                    f"batches.images: {images} each"
                )
            if teacher is not None and teacher.unlabelled != "none":
                raise ValueError(
                    "batches.images: unlabelled images have no class; leave "
                    "mean_teacher.unlabelled out"
                )
        if self.target != "label" and self.pseudo_labels is not None:
            raise ValueError(
                f"pseudo_labels name classes; a stage with target: {self.target} has none"
            )
        if self.target != "label" and self.positive_weight is not None:
            raise ValueError(
                "positive_weight is for several labels an image; with target: "
                f"{self.target} it has one"
            )
        schedule = self.schedule
        if schedule.name == "onecycle" and schedule.warmup_epochs >= self.epochs:
            raise ValueError(
                f"schedule.warmup_epochs: {schedule.warmup_epochs:g} leaves onecycle none of "
                f"{self.epochs} epochs to fall"
            )
        return self

    @property
    def cycle_epochs(self) -> float:
        """The epochs of one of the schedule's cycles."""
        return (self.epochs - self.schedule.warmup_epochs) / self.schedule.cycles

    @property
    def snapshot_epochs(self) -> tuple[int, ...]:
        """The epochs, counted from 1, after which a snapshot is kept."""
        if self.snapshots == "cycles":
            warmup, cycles = self.schedule.warmup_epochs, self.schedule.cycles
            return tuple(round(warmup + self.cycle_epochs * n) for n in range(1, cycles + 1))
        return tuple(sorted(set(self.snapshots or ())))

    def _check_snapshots(self) -> None:
        if self.schedule.cycles > 1 and (self.cycle_epochs <= 0 or self.cycle_epochs % 1):
            raise ValueError(
                f"schedule.cycles: {self.epochs} epochs after {self.schedule.warmup_epochs:g} of "
                f"warm-up are not {self.schedule.cycles} cycles of whole epochs"
            )
        if self.snapshots == "cycles" and self.schedule.cycles == 1:
            raise ValueError("snapshots: cycles needs schedule.cycles above 1")
        wrong = [epoch for epoch in self.snapshot_epochs if not 1 <= epoch <= self.epochs]
        if wrong:
            raise ValueError(f"snapshots: epoch {wrong[0]} is none of 1 .. {self.epochs}")

    def _check_without_labels(self) -> None:
        """Refuse the keys that a self-supervised stage cannot have."""
        wrong = [name for name in _NEEDS_LABELS if name in changed_keys(self)]
        wrong += [f"batches.{name}" for name in changed_keys(self.batches) if name != "unit"]
        if wrong:
            raise ValueError(f"{wrong[0]} needs labels, and self_supervised has none; leave it out")
        if not self.augment:
            raise ValueError("self_supervised: without augment both views of an image are the same")
        if self.batch_size < 2:
            raise ValueError(
                "self_supervised: batch_size must be at least 2, one image has nothing to differ "
                "from"
            )


def changed_keys(section: Strict) -> list[str]:
    """List the keys of a section that differ from their default."""
    fields = type(section).model_fields
    return [name for name, field in fields.items() if getattr(section, name) != field.default]

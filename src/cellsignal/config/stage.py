"""One training stage of a config: batches, optimiser, schedule, losses, averaging, pseudo-labels."""

from typing import Literal

from pydantic import Field, model_validator

from cellsignal.config.augment import Augmentation, Mix
from cellsignal.config.self_supervised import SelfSupervised, check_stage_without_labels
from cellsignal.config.strict import LeastZ, Probability, Strict


class Optimizer(Strict):
    name: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1)  # sgd
    nesterov: bool = False  # sgd
    betas: tuple[float, float] = (0.9, 0.999)  # adam, adamw
    decay_all: bool = False  # weight decay on biases and norms too

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> "Optimizer":
        if self.nesterov and (self.name != "sgd" or self.momentum == 0):
            raise ValueError("nesterov needs name: sgd and a momentum above 0")
        return self


class Schedule(Strict):
    """Learning rate over a stage. Warm-up is linear from 0 and comes before the schedule;
    `onecycle` has its own.

    cosine: to `min_lr_ratio` x lr by half a cosine, per step. onecycle: up for `pct_start` of the
    steps, then down. plateau: x `factor` after `patience` epochs without a better monitored figure.
    exponential: x `gamma` after each epoch. `over_epochs` is the length of a cosine that the stage
    ends before (None: the stage's own length).
    """

    name: Literal["constant", "cosine", "onecycle", "plateau", "exponential"] = "cosine"
    warmup_epochs: float = Field(0.0, ge=0)
    min_lr_ratio: float = Field(0.0, ge=0, le=1)
    pct_start: float = Field(0.2, gt=0, lt=1)
    factor: float = Field(0.1, gt=0, lt=1)
    patience: int = Field(2, ge=0)
    gamma: float = Field(0.95, gt=0, le=1)
    over_epochs: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _onecycle_warms_up_itself(self) -> "Schedule":
        if self.name == "onecycle" and self.warmup_epochs:
            raise ValueError("onecycle has its own warm-up (pct_start); leave warmup_epochs out")
        return self

    @model_validator(mode="after")
    def _only_a_cosine_is_cut(self) -> "Schedule":
        if self.over_epochs is not None and self.name != "cosine":
            raise ValueError(f"over_epochs needs name: cosine, not {self.name}")
        return self


class EarlyStopping(Strict):
    patience: int = Field(5, ge=1)
    min_delta: float = Field(0.0, ge=0)


class Batches(Strict):
    """Where the samples of a batch come from: the whole stage (`mixed`), or one cell type,
    experiment or plate, so that BatchNorm sees that unit alone.

    `unique_labels`: no label twice in a batch (two sites of a well never meet). Source: RxRx1, 2nd,
    5th and 44th place. `balanced`: every class is drawn equally often (with several labels an
    image: every class, and "none of them"), as many images an epoch as without; rare ones come
    several times, each time augmented anew. It is oversampling within the training fold, after the
    split. `identities` and `images`: every batch has so many classes, and so many images of each (P
    x K, arXiv:1703.07737), as triplets need them; `batch_size` is their product. A class of fewer
    images gives some of them several times, each time augmented anew.
    """

    unit: Literal["mixed", "cell_type", "experiment", "plate"] = "mixed"
    unique_labels: bool = False
    balanced: bool = False
    identities: int | None = Field(None, ge=2)
    images: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _balance_is_of_all(self) -> "Batches":
        if self.balanced and (self.unit != "mixed" or self.unique_labels):
            raise ValueError(
                "balanced draws from the whole stage; leave unit and unique_labels out"
            )
        return self

    @model_validator(mode="after")
    def _identities_are_a_way_of_their_own(self) -> "Batches":
        if (self.identities is None) != (self.images is None):
            raise ValueError("identities and images need each other")
        if self.identities is not None and (
            self.unit != "mixed" or self.unique_labels or self.balanced
        ):
            raise ValueError(
                "identities x images draws from the whole stage; leave unit, unique_labels and "
                "balanced out"
            )
        return self


class Focal(Strict):
    """Focal loss (arXiv:1708.02002): each cross-entropy term x (1 - p) ** `gamma`, p the
    probability given to the truth.
    """

    gamma: float = Field(2.0, gt=0)


class Margin(Strict):
    """A margin loss on the cosine head, by soft labels. arcface: cos(theta + margin)
    (arXiv:1801.07698); cosface: cos(theta) - margin (arXiv:1801.09414).

    The stage's loss is `cross_entropy` x CE(plain head) + `weight` x CE(`scale` x cosines with
    margin).
    """

    name: Literal["arcface", "cosface"] = "arcface"
    margin: float = Field(0.5, ge=0, lt=1.5)
    scale: float = Field(30.0, gt=0)
    weight: float = Field(0.1, gt=0)


class Triplet(Strict):
    """Triplet loss on the embedding, of triplets within the batch. Batches with `unique_labels`
    have none; those of `identities` x `images` have many.

    `mining: semihard` takes all semi-hard triplets by squared distances (arXiv:1503.03832); `hard`
    the furthest positive and the nearest negative of each anchor by distances (batch-hard,
    arXiv:1703.07737). Distances are Euclidean, of embeddings brought to length 1 unless
    `normalised` is false.
    """

    weight: float = Field(0.1, gt=0)
    margin: float = Field(0.2, ge=0)
    mining: Literal["semihard", "hard"] = "semihard"
    normalised: bool = True


class Center(Strict):
    """Center loss on the embedding: squared distance to the class's learnt centre (Wen et al., ECCV
    2016).

    `lr`: the centres learn by plain SGD of their own at this constant rate, from the loss before
    `weight`; None: by the network's optimiser.
    """

    weight: float = Field(0.01, gt=0)
    lr: float | None = Field(None, gt=0)


class DropPredictedControls(Strict):
    """From epoch `after_epochs` (0-based) on, an image of a treatment that the network in training
    takes for a negative control adds nothing to the loss (MitoReID: a drug that does nothing looks
    like DMSO).

    Negative controls must be a class: `data.controls: train` or `all`.
    """

    after_epochs: int = Field(ge=0)


class Swa(Strict):
    """Stochastic weight averaging (arXiv:1803.05407): the plain mean of the weights at the end of
    each epoch, from this share of the epochs on.
    """

    start: float = Field(0.75, ge=0, lt=1)


class MeanTeacher(Strict):
    """Consistency with the averaged model (arXiv:1703.01780): `weight` x the squared difference of
    the softmaxes of two views of an image, ramped up.

    `unlabelled: test` lets the images of test treatments take part; validation wells never do.
    Needs `ema`.
    """

    weight: float = Field(1.0, gt=0)
    ramp_epochs: float = Field(5.0, ge=0)
    unlabelled: Literal["none", "test"] = "none"


class PseudoLabels(Strict):
    """Progressive pseudo-labels of test wells (RxRx1, 1st place), drawn anew before every epoch
    from `start` (0-based) on.

    The most confident share of them trains: `first` at the start, 1 in the last epoch. Validation
    wells are never among them. The plates' class groups are inferred from the same predictions; an
    experiment whose best layout beats the others by a z below `least_confidence` gives no
    pseudo-label (0: all give some).
    """

    start: int = Field(0, ge=0)
    first: Probability = 0.4
    least_confidence: LeastZ = 3.0


class Stage(Strict):
    """One training stage. `per: all` trains one model; `per: cell_type` one for each cell type,
    from the stage before of the same fold.

    `ema` averages weights and BatchNorm statistics exponentially, after every step; `swa` the
    weights after every late epoch. The averaged model validates and predicts. `bn_recompute`
    (always with swa) computes its BatchNorm statistics anew from the training samples before that.

    `amp: auto` computes in bfloat16 where the device has it, else in float16 on a GPU and in
    float32 on a CPU. `compile` hands the network to torch.compile (`reduce-overhead` with CUDA
    graphs); it pays after minutes, on a GPU. `gradient_checkpointing` keeps fewer activations and
    computes them again: less memory, about a third more time. Both change nothing but rounding.

    Where an image has several labels (multi-label competitions) the loss is binary cross-entropy,
    the mean over classes; `class_weights` then weights each class's positives by its negatives over
    its positives (`sqrt`: the root), and `positive_weight` all positives alike. `monitor: score` is
    the competition's own: accuracy or macro average precision. `monitor: retrieval` (one label an
    image) embeds the validation samples and a few training samples of each class, and follows the
    mean average precision of finding each validation target's class by cosine distance, outside its
    own fold group and compound.

    `target: compound` trains the network to tell the training compounds apart, as a start for the
    next stage, which takes all its weights but the heads'. Held-out compounds are none of them:
    such a stage has no validation (schedule and early stopping follow the training loss) and makes
    no predictions, only embeddings. `unlabelled` adds the training split's images that have a
    compound and no label (MitoReID: drugs without a chosen mechanism).

    `self_supervised` learns from images alone: such a stage is not validated (schedule and early
    stopping follow the training loss) and makes no predictions, only embeddings; the next stage
    starts from it.
    """

    name: str = Field(pattern=r"^[a-z0-9_]+$", max_length=120)
    per: Literal["all", "cell_type"] = "all"
    init: Literal["scratch", "previous"] = "scratch"
    target: Literal["label", "compound"] = "label"
    unlabelled: bool = False
    epochs: int = Field(ge=1)
    batch_size: int = Field(32, ge=1)
    batches: Batches = Batches()
    accumulation: int = Field(1, ge=1)
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    class_weights: Literal["none", "balanced", "sqrt"] = "none"
    positive_weight: float | None = Field(None, gt=0)
    focal: Focal | None = None
    clip_norm: float | None = Field(None, gt=0)
    amp: Literal["auto", "off", "bf16", "fp16"] = "off"
    self_supervised: SelfSupervised | None = None
    cross_entropy: float = Field(1.0, gt=0)
    margin: Margin | None = None
    triplet: Triplet | None = None
    center: Center | None = None
    drop_predicted_controls: DropPredictedControls | None = None
    ema: float | None = Field(None, gt=0, lt=1)
    swa: Swa | None = None
    bn_recompute: bool = False
    mean_teacher: MeanTeacher | None = None
    pseudo_labels: PseudoLabels | None = None
    early_stopping: EarlyStopping | None = None
    monitor: Literal["score", "accuracy", "average_precision", "retrieval", "loss"] = "score"
    augment: tuple[Augmentation, ...] = ()
    mix: Mix | None = None
    validate_every: int = Field(1, ge=1)
    checkpoint_minutes: float = Field(5.0, gt=0)
    compile: Literal["off", "default", "reduce-overhead", "max-autotune"] = "off"
    gradient_checkpointing: bool = False

    @model_validator(mode="after")
    def _parts_fit(self) -> "Stage":
        if self.self_supervised is not None:
            check_stage_without_labels(self)
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
        if self.pseudo_labels is not None and self.pseudo_labels.start >= self.epochs:
            raise ValueError(
                f"pseudo_labels.start: {self.pseudo_labels.start} is not before the last of "
                f"{self.epochs} epochs"
            )
        return self

    @model_validator(mode="after")
    def _targets_and_batches_fit(self) -> "Stage":
        batches, dropping = self.batches, self.drop_predicted_controls
        if (
            batches.identities is not None
            and batches.identities * batches.images != self.batch_size
        ):
            raise ValueError(
                f"batch_size: {self.batch_size} is not the {batches.identities} x "
                f"{batches.images} of batches.identities and batches.images"
            )
        if (
            batches.identities is not None
            and self.mean_teacher is not None
            and self.mean_teacher.unlabelled != "none"
        ):
            raise ValueError(
                "batches.identities: unlabelled images have none; leave mean_teacher.unlabelled out"
            )
        if self.unlabelled and self.target != "compound":
            raise ValueError(
                "unlabelled: images without a label can train with target: compound alone"
            )
        if self.target == "compound" and self.pseudo_labels is not None:
            raise ValueError("pseudo_labels name classes; a stage with target: compound has none")
        if self.target == "compound" and self.positive_weight is not None:
            raise ValueError(
                "positive_weight is for several labels an image; with target: compound it has one"
            )
        if dropping is not None and dropping.after_epochs >= self.epochs:
            raise ValueError(
                f"drop_predicted_controls.after_epochs: {dropping.after_epochs} is not before the "
                f"last of {self.epochs} epochs"
            )
        return self

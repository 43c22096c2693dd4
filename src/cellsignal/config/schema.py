"""The schema of an experiment: one YAML file, every key checked. See `configs/` for worked ones."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from cellsignal.config.augment import Augmentation, Mix
from cellsignal.config.strict import Probability, Strict


class Data(Strict):
    """Where the images are, and how they become a store.

    `size` resizes to size x size pixels at packing (None keeps the files' size). A site with a missing or damaged channel is left out
    and listed (`skip`), or stops the packing (`refuse`); it is never filled in. `workers` are processes (packing and loading; 0: none).
    Where the images of a job fit into `cache_gib` GiB they are read once and kept in memory.
    """

    root: Path
    store: Path
    size: int | None = Field(None, gt=0)
    bad_site: Literal["skip", "refuse"] = "skip"
    sites: tuple[int, ...] | None = None
    workers: int = Field(2, ge=0)
    cache_gib: float = Field(1.0, ge=0)


class Folds(Strict):
    """The fold table and which folds to train. `full` adds a model trained on every training sample, without validation."""

    file: Path
    use: tuple[int, ...] | None = None
    full: bool = False


class Normalization(Strict):
    """Which samples' pixel statistics standardise a sample: (x - mean) / sd per channel.

    `by`: the unit they are pooled over; `none` is x / 255. `wells`: which of the unit's wells count (only for by: experiment or plate). Where a unit has no
    such wells the fallback is the experiment's, then all wells of the unit; it is logged. No label is ever looked at but the role of control wells.
    """

    by: Literal["none", "global", "experiment", "plate", "image"] = "plate"
    wells: Literal["all", "controls", "negative_controls"] = "all"

    @model_validator(mode="after")
    def _wells_need_a_unit(self) -> "Normalization":
        if self.wells != "all" and self.by not in ("experiment", "plate"):
            raise ValueError(f"wells: {self.wells} needs by: experiment or plate, not {self.by}")
        return self


class Model(Strict):
    """A timm backbone (resnet18, densenet161, ...) or `lenet`, for any number of channels.

    `pretrained` loads timm's ImageNet weights (from the hub) or, with `weights`, a local safetensors/pth file; the RGB stem is adapted.
    """

    backbone: str = "resnet18"
    pretrained: bool = False
    weights: Path | None = None
    dropout: Probability = 0.0
    drop_path: Probability = 0.0


class Optimizer(Strict):
    name: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1)  # sgd
    nesterov: bool = False  # sgd
    betas: tuple[float, float] = (0.9, 0.999)  # adam, adamw

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> "Optimizer":
        if self.nesterov and (self.name != "sgd" or self.momentum == 0):
            raise ValueError("nesterov needs name: sgd and a momentum above 0")
        return self


class Schedule(Strict):
    """Learning rate over a stage. Warm-up is linear from 0 and comes before the schedule; `onecycle` has its own.

    cosine: to `min_lr_ratio` x lr by half a cosine, per step. onecycle: up for `pct_start` of the steps, then down. plateau: x `factor` after
    `patience` epochs without a better monitored figure. exponential: x `gamma` after each epoch.
    """

    name: Literal["constant", "cosine", "onecycle", "plateau", "exponential"] = "cosine"
    warmup_epochs: float = Field(0.0, ge=0)
    min_lr_ratio: float = Field(0.0, ge=0, le=1)
    pct_start: float = Field(0.2, gt=0, lt=1)
    factor: float = Field(0.1, gt=0, lt=1)
    patience: int = Field(2, ge=0)
    gamma: float = Field(0.95, gt=0, le=1)

    @model_validator(mode="after")
    def _onecycle_warms_up_itself(self) -> "Schedule":
        if self.name == "onecycle" and self.warmup_epochs:
            raise ValueError("onecycle has its own warm-up (pct_start); leave warmup_epochs out")
        return self


class EarlyStopping(Strict):
    patience: int = Field(5, ge=1)
    min_delta: float = Field(0.0, ge=0)


class Stage(Strict):
    """One training stage. `per: all` trains one model; `per: cell_type` one for each cell type, from the stage before of the same fold."""

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    per: Literal["all", "cell_type"] = "all"
    init: Literal["scratch", "previous"] = "scratch"
    epochs: int = Field(ge=1)
    batch_size: int = Field(32, ge=1)
    accumulation: int = Field(1, ge=1)
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    class_weights: Literal["none", "balanced", "sqrt"] = "none"
    clip_norm: float | None = Field(None, gt=0)
    amp: Literal["off", "bf16", "fp16"] = "off"
    ema: float | None = Field(None, gt=0, lt=1)
    early_stopping: EarlyStopping | None = None
    monitor: Literal["accuracy", "loss"] = "accuracy"
    augment: tuple[Augmentation, ...] = ()
    mix: Mix | None = None
    validate_every: int = Field(1, ge=1)
    checkpoint_minutes: float = Field(5.0, gt=0)


class Predict(Strict):
    """`tta`: d4 views (1, 2, 4 or 8). `checkpoint: best` was picked on the validation wells, so out-of-fold figures of it flatter a little."""

    tta: Literal[1, 2, 4, 8] = 8
    checkpoint: Literal["last", "best"] = "last"
    batch_size: int = Field(64, ge=1)
    center_crop: int | None = Field(None, gt=0)


class Submit(Strict):
    """How predictions become a submission. `pool` says what shares one prediction before the argmax: the submission's id, or a whole well."""

    merge: Literal["logits", "probabilities", "geometric"] = "geometric"
    pool: Literal["target", "well"] = "target"
    assignment: bool = True


class Config(Strict):
    """One experiment."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    competition: str
    seed: int = 0
    runs: Path = Path("runs")
    data: Data
    folds: Folds
    normalization: Normalization = Normalization()
    model: Model = Model()
    stages: tuple[Stage, ...] = Field(min_length=1)
    predict: Predict = Predict()
    submit: Submit = Submit()

    @model_validator(mode="after")
    def _stages_follow(self) -> "Config":
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"stages: names must differ, got {names}")
        if self.stages[0].init == "previous":
            raise ValueError("stages.0.init: the first stage has no previous one")
        return self

    @property
    def run_folder(self) -> Path:
        """runs/<name>/seed<k>: the same experiment with another seed is another run of it."""
        return self.runs / self.name / f"seed{self.seed}"

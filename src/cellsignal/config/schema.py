"""The schema of an experiment: one YAML file, every key checked. See `configs/` for worked ones."""

from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from cellsignal.config.stage import Stage
from cellsignal.config.strict import LeastZ, Probability, Strict, Views


class Data(Strict):
    """Where the images are, and how they become a store.

    `size` resizes to size x size pixels at packing (None keeps the files' size). A site with a
    missing or damaged channel is left out and listed (`skip`), or stops the packing (`refuse`); it
    is never filled in. `workers` are processes (packing, albumentations) or threads (reading); 0:
    none. Where the images of a job fit into `cache_gib` GiB they are read once and kept in memory;
    in `device_gib`, as bytes on the GPU itself.

    `pipeline`: `warp` sends bytes to the device and augments whole batches there (on a CPU, image
    by image in reading threads); `albumentations` augments in worker processes, which blur,
    frame_blur, salt_and_pepper and the like need; `auto` is warp where it can do all that a stage
    lists. The two draw alike but not the same numbers.

    `codec`: how the store keeps pixels: compressed without loss (`zstd`), as they are (`raw`: 2 to
    3 times the disk, read ten times as fast), or `auto`: raw where images are stored at 256 x 256
    pixels or less.

    `channels` are the numbers (from 1) of the channels that networks see; None: all. `controls`
    makes the control wells further classes of the training, of the training experiments alone or of
    all, test included: their labels are part of every plate's design. They are not validated on,
    nor predicted but for a protocol that scores them.
    """

    root: Path
    store: Path
    size: int | None = Field(None, gt=0)
    codec: Literal["auto", "zstd", "raw"] = "auto"
    bad_site: Literal["skip", "refuse"] = "skip"
    sites: tuple[int, ...] | None = None
    channels: tuple[PositiveInt, ...] | None = Field(None, min_length=1)
    controls: Literal["ignore", "train", "all"] = "ignore"
    workers: int = Field(2, ge=0)
    cache_gib: float = Field(1.0, ge=0)
    device_gib: float = Field(0.0, ge=0)
    pipeline: Literal["auto", "warp", "albumentations"] = "auto"


class Folds(Strict):
    """The fold table and which folds to train. `full` adds a model trained on every training
    sample, without validation.
    """

    file: Path
    use: tuple[int, ...] | None = None
    full: bool = False


class Normalization(Strict):
    """Which samples' pixel statistics standardise a sample: (x - mean) / sd per channel.

    `by`: the unit they are pooled over; `none` is x / 255. `wells`: which of the unit's wells count
    (only for by: experiment or plate). Where a unit has no such wells the fallback is the
    experiment's, then all wells of the unit; it is logged. No label is ever looked at but the role
    of control wells.
    """

    by: Literal["none", "global", "experiment", "plate", "image"] = "plate"
    wells: Literal["all", "controls", "negative_controls"] = "all"

    @model_validator(mode="after")
    def _wells_need_a_unit(self) -> "Normalization":
        if self.wells != "all" and self.by not in ("experiment", "plate"):
            raise ValueError(f"wells: {self.wells} needs by: experiment or plate, not {self.by}")
        return self


class Model(Strict):
    """A timm backbone (resnet18, densenet161, ...), `lenet` or `scratch_cnn`, for any number of
    channels; for clips of three channels `resnet3d18` or `resnet3d50`, whose `keep_time` halves
    time less often and whose first layer has `base_width` channels (64 as published; the last eight
    times as many, or 32 times).

    `pretrained` loads timm's ImageNet weights (from the hub) or, with `weights`, a local
    safetensors/pth file; the RGB stem is adapted.

    Between the pooled features and the head: `cell_type_vector` appends the cell type's one-hot
    vector; `neck` is BN-FC-ReLU-BN-FC-BN of that width, FCs without bias (RxRx1, 1st place).
    `cosine_head` adds a head of cosines that a stage's `margin` loss trains; the plain head
    predicts. `bn_momentum` is the weight of the newest batch in BatchNorm's running statistics
    (None: the backbone's own). `bnneck` (3-D networks) normalises the features for the head and for
    retrieval, while metric losses see them before it. `frozen` trains the heads alone: the backbone
    keeps its weights and its BatchNorm statistics. `layers` (numbers of timm's feature_info, from
    0, ascending): the features are the means and SDs over the image of these layers' outputs, and
    what comes after the last of them is cut off; None takes the last layer's mean. Middle layers of
    ImageNet networks fit cells better than the last. `pool_relu: false` pools the signed output of
    a DenseNet's (or pre-activation ResNet's) last norm, without the ReLU that timm and torchvision
    put before the pooling (RxRx1, 1st place).
    """

    backbone: str = "resnet18"
    pretrained: bool = False
    weights: Path | None = None
    dropout: Probability = 0.0
    drop_path: Probability = 0.0
    cell_type_vector: bool = False
    neck: int | None = Field(None, gt=0)
    cosine_head: bool = False
    bn_momentum: float | None = Field(None, gt=0, le=1)
    frozen: bool = False
    keep_time: bool = False
    base_width: PositiveInt = 64
    bnneck: bool = False
    layers: tuple[int, ...] | None = Field(None, min_length=1)
    pool_relu: bool = True


class Predict(Strict):
    """How a trained model predicts.

    `tta`: the views of each image: a list of names (`[identity, hflip]`), or a preset: `none` (1
    view), `half_turn` (2), `flips` (4), `d4` (8: flips and quarter turns), `d4_zoom` (16: each also
    zoomed), or its number of views. The views are in data/views.py. `checkpoint: best` was picked
    on the validation wells, so out-of-fold figures of it flatter a little.

    `adapt` (AdaBN): BatchNorm standardises each cell type, experiment or plate by statistics of
    that unit's own images, controls included, computed anew by every model at validation and
    prediction; `none` keeps the running statistics of training. No label is looked at. Source:
    arXiv:1603.04779.
    """

    tta: Views = 8
    checkpoint: Literal["last", "best"] = "last"
    batch_size: int = Field(64, ge=1)
    center_crop: int | None = Field(None, gt=0)
    adapt: Literal["none", "cell_type", "experiment", "plate"] = "none"


class Submit(Strict):
    """How predictions become a submission. `pool` says what shares one prediction before the
    argmax: the submission's id, or a whole well.

    `assignment`, where plates hold class groups: `none` (argmax), `groups` (argmax within the
    plate's group), `hungarian` (each class once on a plate) or `sinkhorn` (its soft form, then the
    argmax; `temperature` divides the scores). `groups` is a CSV (experiment, plate, group) that
    gives the groups; None infers them: labels weigh every layout by its probability, and the groups
    of an experiment are reported if its best layout beats the others by a z of `least_confidence`
    (0 reports all). `repeats: use` adds what a training experiment with the same layout tells about
    a test experiment, where the predictions themselves show the repeat; `report` only says so.
    """

    merge: Literal["logits", "probabilities", "geometric"] = "geometric"
    pool: Literal["target", "well"] = "target"
    assignment: Literal["none", "groups", "hungarian", "sinkhorn"] = "hungarian"
    temperature: float = Field(1.0, gt=0)
    groups: Path | None = None
    least_confidence: LeastZ = 3.0
    repeats: Literal["off", "report", "use"] = "report"


class Config(Strict):
    """One experiment. `protocol`: one of the competition's ways of being measured (`cellsignal
    competitions`); None is its own.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$", max_length=120)
    competition: str
    protocol: str | None = None
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

    @model_validator(mode="after")
    def _cosine_head_is_trained(self) -> "Config":
        margins = [stage.margin is not None for stage in self.stages]
        if self.model.cosine_head != any(margins):
            raise ValueError("model.cosine_head: true and a margin loss in a stage need each other")
        return self

    @model_validator(mode="after")
    def _self_supervised_has_something_to_train(self) -> "Config":
        if self.model.frozen and any(stage.self_supervised for stage in self.stages):
            raise ValueError("model.frozen: a frozen backbone learns nothing from self_supervised")
        return self

    @property
    def run_folder(self) -> Path:
        """runs/<name>/seed<k>: the same experiment with another seed is another run of it."""
        return self.runs / self.name / f"seed{self.seed}"

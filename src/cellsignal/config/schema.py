"""The schema of an experiment: one YAML file, every key checked. See `configs/` for worked ones."""

from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from cellsignal.common.places import CACHE_GIB, REQUESTS, RemoteFolder
from cellsignal.config.stage import Stage
from cellsignal.config.strict import LeastZ, Probability, StorePlace, Strict, Trackers, Views


class Data(Strict):
    """Where the images are, how they become a store, and how they are read from it."""

    root: Path
    """Folder of the data set."""
    store: StorePlace
    """Folder of the store, which `prepare` makes; or the URL of a copy of one on object storage,
    for reading (`s3://bucket/store.zarr`; docs/cloud.md)."""
    size: int | None = Field(None, gt=0)
    """Side in pixels to which images are resized at packing; none keeps the files' size."""
    codec: Literal["auto", "zstd", "lz4", "raw"] = "auto"
    """How the store keeps pixels, without loss: zstd is the smallest; lz4 takes a third more disk,
    is read in less than half the time, and takes some 50 ms of a core to pack six channels of
    512 px; raw takes twice the disk or more and is read four to five times as fast. auto is raw up
    to 256 x 256 pixels, zstd above."""
    bad_site: Literal["skip", "refuse"] = "skip"
    """What to do with a site whose channels are missing or damaged: leave it out and list it, or
    stop the packing. It is never filled in."""
    sites: tuple[int, ...] | None = None
    """Sites (fields) of a well that are used; none: all."""
    channels: tuple[PositiveInt, ...] | None = Field(None, min_length=1)
    """Numbers, from 1, of the channels that networks see; none: all."""
    controls: Literal["ignore", "train", "all"] = "ignore"
    """Make the control wells further classes of the training: those of the training experiments, or
    of all, test included (their labels are part of every plate's design). They are not validated
    on, nor predicted but for a protocol that scores them."""
    exclude: Path | None = None
    """CSV of samples (sample_id), wells (well_id; experiment, plate, well) or plates (experiment,
    plate) that neither train nor validate, as `cellsignal qc` writes it. Test samples on it are
    predicted all the same: a submission needs them. Pixel statistics still see all wells."""
    workers: int = Field(2, ge=0)
    """Processes (packing, albumentations) or threads (reading); 0: none."""
    cache_gib: float = Field(1.0, ge=0)
    """Cache a job's images in memory if they fit in this many GiB."""
    device_gib: float = Field(0.0, ge=0)
    """Keep a job's images as bytes on the GPU if they fit in this many GiB."""
    cache_disk_gib: float = Field(CACHE_GIB, ge=0)
    """Remote stores: keep sites that were fetched on the local disk, up to so many GiB for all runs
    of this machine together; in the folder CELLSIGNAL_CACHE, else ~/.cache/cellsignal."""
    requests: PositiveInt = REQUESTS
    """Remote stores: so many requests wait side by side (where `workers` is not 0): images/s that
    the training needs x seconds that an answer takes."""
    pipeline: Literal["auto", "warp", "albumentations"] = "auto"
    """warp augments whole batches on the device (on a CPU, image by image in reading threads);
    albumentations augments in worker processes, which blur, frame_blur and transforms named as in
    albumentations need; auto is warp where it can do all that a stage lists. The two draw alike but
    not the same numbers."""

    @model_validator(mode="after")
    def _remote_stores_know_their_limits(self) -> "Data":
        if isinstance(self.store, RemoteFolder):
            place = RemoteFolder(self.store.url, self.cache_disk_gib, self.requests)
            object.__setattr__(self, "store", place)
        return self


class Folds(Strict):
    """The fold table, and which folds to train."""

    file: Path
    """CSV that `folds` writes."""
    use: tuple[int, ...] | None = None
    """Folds to train; none: all."""
    full: bool = False
    """Also train a model on every training sample, without validation."""


class Normalization(Strict):
    """Which samples' pixel statistics standardise a sample: (x - mean) / sd per channel.

    Labels are not used, only the role of control wells.
    """

    by: Literal["none", "global", "experiment", "plate", "image"] = "plate"
    """Unit whose samples are pooled; none is x / 255."""
    wells: Literal["all", "controls", "negative_controls"] = "all"
    """Wells of the unit that count, for by: experiment or plate. A unit without such wells takes
    the experiment's, then all wells of the unit; it is logged."""

    @model_validator(mode="after")
    def _wells_need_a_unit(self) -> "Normalization":
        if self.wells != "all" and self.by not in ("experiment", "plate"):
            raise ValueError(f"wells: {self.wells} needs by: experiment or plate, not {self.by}")
        return self


class Model(Strict):
    """The network, for any number of channels."""

    backbone: str = "resnet18"
    """A timm network (resnet18, densenet161, ...), `lenet` or `scratch_cnn`; for clips `resnet3d18`
    or `resnet3d50`; for stains by name `channel_vit_{micro,tiny,small,base}_patch{8,16}` or
    `open_phenom`, which serve data sets of other channels ([weights.md](weights.md))."""
    pretrained: bool = False
    """Start from ImageNet weights (timm's, from the hub); the RGB stem is adapted."""
    weights: Path | None = None
    """Local safetensors or pth file in place of the hub's weights."""
    dropout: Probability = 0.0
    """Dropout before the head."""
    drop_path: Probability = 0.0
    """Stochastic depth, where the backbone has it."""
    channel_wise: Literal["none", "concat", "mean"] = "none"
    """timm networks: look at each channel by itself, by one network of a single channel, and put
    the features side by side (concat) or average them, each times a gate of its stain (mean). none:
    the first layer sees all channels."""
    channel_dropout: Probability = 0.0
    """channel_vit_*, open_phenom, channel_wise: mean: probability that a training batch is seen
    with some of its channels alone, how many and which drawn at random; the others are not read."""
    dynamic_size: bool = False
    """Vision transformers: take images of any size; the position embeddings, which are of the
    training images' size, are resampled for others. false: images of that size alone."""
    cell_type_vector: bool = False
    """Append the cell type's one-hot vector to the pooled features."""
    neck: int | None = Field(None, gt=0)
    """Width of BN-FC-ReLU-BN-FC-BN between features and head, FCs without bias (RxRx1, 1st
    place)."""
    cosine_head: bool = False
    """Add a head of cosines that a stage's `margin` loss trains; the plain head predicts."""
    bn_momentum: float | None = Field(None, gt=0, le=1)
    """Weight of the newest batch in BatchNorm's running statistics; none: the backbone's own."""
    frozen: bool = False
    """Train the heads alone: the backbone keeps its weights and BatchNorm statistics."""
    keep_time: bool = False
    """resnet3d: halve time less often."""
    base_width: PositiveInt = 64
    """resnet3d: channels of the first layer (64 as published); the last has eight times as many, or
    32 times."""
    bnneck: bool = False
    """resnet3d: normalise the features for the head and for retrieval, while metric losses see them
    before it."""
    layers: tuple[int, ...] | None = Field(None, min_length=1)
    """Layers (numbers of timm's feature_info, from 0, ascending) whose means and SDs over the image
    are the features; what comes after the last is cut off. Middle layers of ImageNet networks fit
    cells better than the last. none: the last layer's mean."""
    pool_relu: bool = True
    """false: pool the signed output of a DenseNet's (or pre-activation ResNet's) last norm, without
    the ReLU before the pooling (RxRx1, 1st place)."""


class Predict(Strict):
    """How the test wells, and the validation wells, are predicted."""

    tta: Views = 8
    """Views of each image: a list of names in data/views.py (`[identity, hflip]`), or a preset:
    `none` (1 view), `half_turn` (2), `flips` (4), `d4` (8: flips and quarter turns), `d4_zoom` (16:
    each also zoomed), or its number of views."""
    checkpoint: Literal["last", "best"] = "last"
    """best was picked on the validation wells: its out-of-fold scores are a little optimistic."""
    batch_size: int = Field(64, ge=1)
    """Images in a batch."""
    channels: tuple[PositiveInt, ...] | None = Field(None, min_length=1)
    """channel_vit_*, open_phenom, channel_wise: mean: numbers, from 1, of those of the training's
    channels that the network looks at; none: all."""
    center_crop: int | None = Field(None, gt=0)
    """Side in pixels of the central square that is predicted; none: the whole image."""
    adapt: Literal["none", "cell_type", "experiment", "plate"] = "none"
    """AdaBN (arXiv:1603.04779): BatchNorm standardises each unit by statistics of that unit's own
    images, controls included, computed anew at validation and prediction; none keeps the running
    statistics of training. No label is looked at."""
    adapt_wells: Literal["all", "controls", "negative_controls"] = "all"
    """Wells of the unit whose images these statistics are of. With controls (positive and negative
    ones) each layer takes what they foretell: their statistics, and how those of treatments
    differed from them on training plates. What treatments a plate holds then moves nothing, which
    plates of few wells or few classes need (docs/results/shift.md). A unit without such wells takes
    its experiment's, then all of its own; it is logged."""

    @model_validator(mode="after")
    def _wells_need_a_unit(self) -> "Predict":
        if self.adapt_wells != "all" and self.adapt == "none":
            raise ValueError(
                f"adapt_wells: {self.adapt_wells} needs adapt: plate, experiment or cell_type"
            )
        return self


class Submit(Strict):
    """How predictions become a submission."""

    merge: Literal["logits", "probabilities", "geometric"] = "geometric"
    """What is averaged over views, sites, folds and seeds."""
    pool: Literal["target", "well"] = "target"
    """What shares one prediction before the argmax: the submission's id, or a whole well."""
    assignment: Literal["none", "groups", "hungarian", "sinkhorn"] = "hungarian"
    """Where plates hold class groups: none is the argmax; groups the argmax within the plate's
    group; hungarian gives each class once on a plate; sinkhorn is its soft form, then the
    argmax."""
    temperature: float = Field(1.0, gt=0)
    """sinkhorn: what the scores are divided by."""
    groups: Path | None = None
    """CSV (experiment, plate, group) of the plates' class groups; none infers them: labels weigh
    every layout by its probability."""
    least_confidence: LeastZ = 3.0
    """Inferred groups of an experiment are reported if its best layout beats the others by this z;
    0 reports all."""
    repeats: Literal["off", "report", "use"] = "report"
    """use: add what a training experiment with the same layout says about a test experiment, where
    the predictions themselves show the repeat; report only says so."""


class Config(Strict):
    """One experiment."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$", max_length=120)
    """Name of the run."""
    competition: str
    """Id of the data set; `cellsignal competitions` lists them."""
    protocol: str | None = None
    """One of the competition's ways of being measured; none: its own."""
    seed: int = 0
    """Root of every random draw."""
    runs: Path = Path("runs")
    """Folder of all runs; this one is in <runs>/<name>/seed<seed>."""
    tracking: Trackers = ("tensorboard",)
    """Programs that draw the curves of training, one or a list; none: only `log.csv`. mlflow, wandb
    and trackio are extras; docs/tracking.md."""
    data: Data
    """Where the images are."""
    folds: Folds
    """Which folds to train."""
    normalization: Normalization = Normalization()
    """How pixels are standardised."""
    model: Model = Model()
    """The network."""
    stages: tuple[Stage, ...] = Field(min_length=1)
    """Training stages, one after the other."""
    predict: Predict = Predict()
    """How wells are predicted."""
    submit: Submit = Submit()
    """How predictions become a submission."""

    @model_validator(mode="after")
    def _stages_follow(self) -> "Config":
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"stages: names must differ, got {names}")
        if self.stages[0].init == "previous":
            raise ValueError("stages.0.init: the first stage has no previous one")
        return self

    @model_validator(mode="after")
    def _model_fits_the_stages(self) -> "Config":
        margins = [stage.margin is not None for stage in self.stages]
        if self.model.cosine_head != any(margins):
            raise ValueError("model.cosine_head: true and a margin loss in a stage need each other")
        if self.model.frozen and any(stage.self_supervised for stage in self.stages):
            raise ValueError("model.frozen: a frozen backbone learns nothing from self_supervised")
        return self

    @property
    def run_folder(self) -> Path:
        """runs/<name>/seed<k>: the same experiment with another seed is another run of it."""
        return self.runs / self.name / f"seed{self.seed}"

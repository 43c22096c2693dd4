"""The losses of a stage beside the plain cross-entropy, and learning without labels."""

from typing import Literal

from pydantic import Field, PositiveInt

from cellsignal.config.strict import Strict


class Margin(Strict):
    """A margin loss on the cosine head, by soft labels; `model.cosine_head` must be true.

    The stage's loss is `cross_entropy` x CE(plain head) + `weight` x CE(`scale` x cosines with
    margin).
    """

    name: Literal["arcface", "cosface"] = "arcface"
    """arcface: cos(theta + margin), arXiv:1801.07698; cosface: cos(theta) - margin,
    arXiv:1801.09414."""
    margin: float = Field(0.5, ge=0, lt=1.5)
    """The margin between classes: an angle in radians (arcface) or a cosine (cosface)."""
    scale: float = Field(30.0, gt=0)
    """What cosines are multiplied by to become logits."""
    weight: float = Field(0.1, gt=0)
    """The share of this loss."""


class Triplet(Strict):
    """Triplet loss on the embedding, of triplets within the batch.

    Batches with `labels: unique` have none; those of `batches.images` have many.
    """

    weight: float = Field(0.1, gt=0)
    """The share of this loss."""
    margin: float = Field(0.2, ge=0)
    """How much farther the negative must be than the positive."""
    mining: Literal["semihard", "hard"] = "semihard"
    """semihard: all semi-hard triplets by squared distances (arXiv:1503.03832); hard: each
    anchor's furthest positive and nearest negative by distances (batch-hard, arXiv:1703.07737)."""
    normalised: bool = True
    """Whether embeddings are brought to length 1 before Euclidean distances are taken."""


class Center(Strict):
    """Center loss on the embedding: squared distance to the class's learnt centre.

    Source: Wen et al., ECCV 2016.
    """

    weight: float = Field(0.01, gt=0)
    """The share of this loss."""
    lr: float | None = Field(None, gt=0)
    """Rate at which the centres learn, by plain SGD of their own, from the loss before `weight`;
    none: the network's optimiser trains them."""


class MeanTeacher(Strict):
    """Consistency with the averaged model (arXiv:1703.01780): the squared difference of the
    softmaxes of two views of an image. Needs `ema`."""

    weight: float = Field(1.0, gt=0)
    """The share of this loss, when it is ramped up."""
    ramp_epochs: float = Field(5.0, ge=0)
    """Epochs over which the weight grows from 0."""
    unlabelled: Literal["none", "test"] = "none"
    """test: the images of test treatments take part; validation wells never do."""


class SelfSupervised(Strict):
    """Pretrain without labels: make two random views (`augment`) of an image have like embeddings.

    The embeddings of different images become unlike.

    Such a stage is not validated (schedule and early stopping follow the training loss) and makes
    no predictions, only embeddings. The next stage starts from the network (`init: previous`); the
    projection is thrown away. A batch of `batch_size` images is twice as many views.

    A plate looks like itself: where a batch holds several plates, telling plates apart already
    lowers the loss. `batches: {unit: plate}` draws every batch, and so every negative, from one
    plate; `gain_bias` among the augmentations hides what light and staining add.
    """

    loss: Literal["simclr", "vicreg"] = "simclr"
    """simclr: cross-entropy of finding an image's other view among all views of the batch (NT-Xent,
    arXiv:2002.05709); vicreg (arXiv:2105.04906) needs no negatives."""
    temperature: float = Field(0.1, gt=0)
    """What simclr divides the cosines by."""
    projection: tuple[PositiveInt, ...] = Field((512, 128), min_length=1)
    """Widths of the MLP between the features and the loss."""
    images: Literal["labelled", "train", "all"] = "train"
    """labelled: those that a stage with labels would train on; train: also the other images of the
    training split; all: also the test split. Groups that the fold holds out never take part."""

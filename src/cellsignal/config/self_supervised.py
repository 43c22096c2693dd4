"""The section of a stage that learns from images alone, and what such a stage cannot have."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field, PositiveInt

from cellsignal.config.strict import Strict

if TYPE_CHECKING:
    from cellsignal.config.stage import Stage

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


class SelfSupervised(Strict):
    """Pretraining without labels: two random views (`augment`) of each image shall have like
    features, views of different images unlike ones. The next stage goes on from the network (`init:
    previous`); the projection is thrown away.

    `loss`: simclr, the cross-entropy of finding an image's other view among all views of the batch,
    by cosine / `temperature` (NT-Xent, arXiv:2002.05709); or vicreg (arXiv:2105.04906), which needs
    no negatives. `projection`: widths of the MLP between the features and the loss.

    A plate looks like itself: where a batch holds several plates, telling plates apart already
    lowers the loss. `batches: {unit: plate}` draws every batch, and so every negative, from one
    plate; `gain_bias` among the augmentations hides what light and staining add.

    `images`: `labelled` are those that a stage with labels would train on; `train` adds the rest of
    the training split, controls and images without a label; `all` adds the test split. Nothing of
    the groups that the fold holds out takes part. A batch of `batch_size` images is twice as many
    views.
    """

    loss: Literal["simclr", "vicreg"] = "simclr"
    temperature: float = Field(0.1, gt=0)
    projection: tuple[PositiveInt, ...] = Field((512, 128), min_length=1)
    images: Literal["labelled", "train", "all"] = "train"


def check_stage_without_labels(stage: "Stage") -> None:
    """Refuse what a self-supervised stage cannot have.

    Raises:
        ValueError: names the key.
    """
    wrong = [
        name
        for name in _NEEDS_LABELS
        if getattr(stage, name) != type(stage).model_fields[name].default
    ]
    fields = type(stage.batches).model_fields
    wrong += [
        f"batches.{name}"
        for name, field in fields.items()
        if name != "unit" and getattr(stage.batches, name) != field.default
    ]
    if wrong:
        raise ValueError(f"{wrong[0]} needs labels, and self_supervised has none; leave it out")
    if not stage.augment:
        raise ValueError("self_supervised: without augment both views of an image are the same")
    if stage.batch_size < 2:
        raise ValueError(
            "self_supervised: batch_size must be at least 2, one image has nothing to differ from"
        )

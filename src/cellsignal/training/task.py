"""What a competition's kind of label, one of K or any of K, means for training."""

from cellsignal.common.errors import InputError
from cellsignal.competitions.base import Competition
from cellsignal.config import Config


def score_name(competition: Competition) -> str:
    """The figure that is better when higher: accuracy, or average_precision of a multi-label
    competition.
    """
    return "average_precision" if competition.multilabel else "accuracy"


def check_stages(config: Config, competition: Competition) -> None:
    """Refuse what a stage cannot do with the competition's kind of label.

    Raises:
        InputError: names the key.
    """
    other = "accuracy" if competition.multilabel else "average_precision"
    single = ("margin", "triplet", "center", "pseudo_labels", "mean_teacher")
    for stage in config.stages:
        if stage.drop_predicted_controls is not None and config.data.controls == "ignore":
            raise InputError(
                f"stages.{stage.name}.drop_predicted_controls: negative controls are no class; "
                "write data.controls: train"
            )
        multilabel = competition.multilabel and stage.target == "label"
        if stage.monitor == other:
            raise InputError(
                f"stages.{stage.name}.monitor: {competition.id} is scored by "
                f"{score_name(competition)}, not {other}"
            )
        if competition.multilabel and stage.monitor == "retrieval":
            raise InputError(
                f"stages.{stage.name}.monitor: retrieval needs one label an image; those of "
                f"{competition.id} have several or none"
            )
        if not multilabel and stage.positive_weight is not None:
            raise InputError(
                f"stages.{stage.name}.positive_weight: an image of {competition.id} has one "
                "label; use class_weights"
            )
        wrong = [name for name in single if getattr(stage, name) is not None] if multilabel else []
        wrong += [
            f"batches.{name}"
            for name in ("unique_labels", "identities")
            if multilabel and getattr(stage.batches, name)
        ]
        if wrong:
            raise InputError(
                f"stages.{stage.name}.{wrong[0]}: needs one label an image; those of "
                f"{competition.id} have several or none"
            )
    if competition.multilabel and config.data.controls != "ignore":
        raise InputError(f"data.controls: {competition.id} has no classes of its control wells")

"""The rows of docs/results/soups.md, and the configs of their trainings.

Every network that predicts has seen the training images `epochs` times from random weights on, but
the mean of its members' weights, whose members have. Rates were written down once and not tuned.
"""

from dataclasses import dataclass
from pathlib import Path

from cellsignal.common.errors import InputError
from cellsignal.config import Config

CYCLES, MEMBERS, WARM_UP = 3, 3, 3
RATE, FINE_RATE = 4e-3, 1e-3  # of the demo's two stages
EMA, SWA = 0.99, 0.75
FLIPS = ("horizontal_flip", "transpose", "rotate90")
ONE, LAST, APART_ONE = "one", "cycles_last", "apart_alone"
TUNED_ALONE, TUNED_MEAN = "tuned_alone", "tuned_mean"


@dataclass(frozen=True)
class Row:
    """A way to get one prediction.

    Attributes:
        title: as the page calls it.
        trained: epochs of training behind it, in multiples of one run's.
        trainings: how many, and of what, in words.
        networks: that a prediction runs.
        alone: the row that is its members, each alone; "" where it is not made of several.
        mean: the row that is the mean of the same members' predictions.
    """

    title: str
    trained: float
    trainings: str
    networks: int = 1
    alone: str = ""
    mean: str = ""


_TUNED = (2.0, "a first half, 3 second halves")
ROWS = {
    ONE: Row("one run, one cosine", 1, "1"),
    "ema": Row(f"EMA of the weights ({EMA} a step)", 1, "1"),
    "swa": Row(f"SWA of the last {1 - SWA:.0%} of the epochs", 1, "1"),
    LAST: Row("3 cycles: the last snapshot", 1, "1"),
    "cycles_mean": Row("3 cycles: mean of the snapshots' predictions", 1, "1", 3, LAST),
    "cycles_uniform": Row("3 cycles: uniform soup", 1, "1", 1, LAST, "cycles_mean"),
    "cycles_greedy": Row("3 cycles: greedy soup", 1, "1", 1, LAST, "cycles_mean"),
    TUNED_ALONE: Row("fine-tuned once from a common first half", 1, "a first half, a second"),
    TUNED_MEAN: Row("3 fine-tunes: mean of their predictions", *_TUNED, 3, TUNED_ALONE),
    "tuned_uniform": Row("3 fine-tunes: uniform soup", *_TUNED, 1, TUNED_ALONE, TUNED_MEAN),
    "tuned_greedy": Row("3 fine-tunes: greedy soup", *_TUNED, 1, TUNED_ALONE, TUNED_MEAN),
    APART_ONE: Row("3 runs from different starts, each alone", 1, "1"),
    "apart_mean": Row("3 different starts: mean of predictions", 3, "3", 3, APART_ONE),
    "apart_uniform": Row(
        "3 different starts: uniform soup, by force (`--any-start`)",
        3,
        "3",
        1,
        APART_ONE,
        "apart_mean",
    ),
}


def check_epochs(epochs: int) -> None:
    """Refuse epochs that have no half, or that are no whole cycles.

    Raises:
        InputError: says what is wrong.
    """
    if epochs % 6 or epochs < 6:
        raise InputError(
            f"--epochs {epochs}: give a multiple of 6, for two halves and three cycles"
        )


def training(
    name: str, plates: Path, seed: int, epochs: int, weights: Path | None = None, **stage: object
) -> Config:
    """Return the config of one training: the demo's network and recipe, one stage, one fold.

    Args:
        plates: folder with raw, store and folds.csv; the run goes to its folder runs.
        weights: to start from, at the fine-tune's rate without a warm-up; None: random ones.
        stage: keys of the stage that differ; `cycles` is the schedule's.
    """
    warm_up = 0 if weights else min(WARM_UP, epochs // 2)
    schedule = {"name": "cosine", "warmup_epochs": warm_up, "cycles": stage.pop("cycles", 1)}
    optimizer = {"name": "adamw", "lr": FINE_RATE if weights else RATE, "weight_decay": 0.05}
    tree = {
        "name": name,
        "competition": "rxrx1",
        "seed": seed,
        "runs": plates / "runs",
        "data": {"root": plates / "raw", "store": plates / "store", "workers": 0},
        "folds": {"file": plates / "folds.csv", "use": [0]},
        "normalization": {"by": "plate", "wells": "all"},
        "model": {"backbone": "test_resnet", "dropout": 0.1, "weights": weights},
        "stages": [
            {
                "name": "all",
                "epochs": epochs,
                "batch_size": 24,
                "batches": {"unit": "plate"},
                "optimizer": optimizer,
                "schedule": schedule,
                "label_smoothing": 0.1,
                "validate_every": epochs,
                "augment": [
                    *({"name": flip} for flip in FLIPS),
                    {"name": "gain_bias", "gain": 0.1, "bias": 0.1},
                ],
            }
            | stage
        ],
        "predict": {"tta": 1, "batch_size": 128, "adapt": "plate"},
        "submit": {"merge": "geometric", "assignment": "hungarian", "repeats": "off"},
    }
    return Config.model_validate(tree)

"""A tiny simulated RxRx1 with store and fold table, and configs on it: what tests of training and
prediction that look inside a run begin with.
"""

from pathlib import Path

from cellsignal.common.files import write_csv
from cellsignal.competitions import get_competition
from cellsignal.competitions.folds import make_folds
from cellsignal.config.schema import Config
from cellsignal.data.pack import prepare


def make_plates(folder: Path, **size: int) -> Path:
    """`folder` with raw/, store and folds.csv of 4 cell types x (2 train + 1 test) experiments, 8
    classes, 1 positive control a plate, 24 px.
    """
    competition = get_competition("rxrx1")
    competition.simulate(
        folder / "raw",
        3,
        **(
            {"classes": 8, "controls": 1, "size": 24, "train_experiments": 2, "test_experiments": 1}
            | size
        ),
    )
    prepare(competition, folder / "raw", folder / "store")
    samples = competition.samples(folder / "raw")
    write_csv(
        folder / "folds.csv",
        make_folds(samples, "experiment", 2, 0, plate_groups=competition.plate_groups(samples)),
    )
    return folder


def stage(name="all", **more):
    return {
        "name": name,
        "epochs": 2,
        "batch_size": 8,
        "optimizer": {"name": "adamw", "lr": 2e-3},
        "schedule": {"name": "onecycle"},
        "augment": [{"name": "rotate90"}, {"name": "gain_bias"}],
    } | more


def make_config(plates: Path, runs: Path, stages=None, **more) -> Config:
    """A config on `make_plates`, one fold, one stage unless given."""
    data = {"root": plates / "raw", "store": plates / "store", "workers": 0} | more.pop("data", {})
    return Config(
        **{
            "name": "tiny",
            "competition": "rxrx1",
            "runs": runs,
            "data": data,
            "folds": {"file": plates / "folds.csv", "use": [0]},
            "model": {"backbone": "test_resnet"},
            "stages": stages or [stage()],
        }
        | more
    )

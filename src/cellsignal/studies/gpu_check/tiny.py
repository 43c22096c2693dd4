"""Tiny simulated plates of RxRx1 and configs on them, for checks that train whole runs."""

import shutil
from pathlib import Path
from typing import Any

from cellsignal.common.files import write_csv
from cellsignal.competitions import get_competition
from cellsignal.competitions.folds import make_folds
from cellsignal.config import dump_config
from cellsignal.config.schema import Config
from cellsignal.data.pack import prepare
from cellsignal.studies.gpu_check.room import Room

SIZE = 32  # pixels a side
_PLATES = {"classes": 8, "controls": 1, "train_experiments": 2, "test_experiments": 1}


def tiny_plates(room: Room) -> Path:
    """Return a folder with raw/, store and folds.csv; it is made by the first check that asks."""
    folder = room.folder / "tiny"
    if folder.is_dir():
        return folder
    unfinished = room.folder / "tiny.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    competition = get_competition("rxrx1")
    competition.simulate(unfinished / "raw", 3, size=SIZE, **_PLATES)
    prepare(competition, unfinished / "raw", unfinished / "store", codec="zstd")
    samples = competition.samples(unfinished / "raw")
    groups = competition.plate_groups(samples)
    folds = make_folds(samples, "experiment", 2, 0, plate_groups=groups)
    write_csv(unfinished / "folds.csv", folds)
    unfinished.rename(folder)
    return folder


def tiny_stage(name: str = "all", **more: Any) -> dict[str, Any]:
    """Return a stage of two epochs."""
    return {
        "name": name,
        "epochs": 2,
        "batch_size": 16,
        "optimizer": {"name": "adamw", "lr": 3e-3},
        "amp": "auto",
        "augment": [{"name": "rotate90"}, {"name": "gain_bias"}],
    } | more


def tiny_config(room: Room, name: str, stages: list[dict[str, Any]], **more: Any) -> Config:
    """Return a config on the tiny plates whose run goes into the check's folder."""
    plates = tiny_plates(room)
    data = {"root": plates / "raw", "store": plates / "store", "workers": 2, "cache_gib": 0.0}
    return Config(
        **{
            "name": name,
            "competition": "rxrx1",
            "runs": room.own(name) / "runs",
            "data": data | more.pop("data", {}),
            "folds": {"file": plates / "folds.csv", "use": [0]},
            "model": {"backbone": "test_resnet" if room.dry else "resnet10t"},
            "stages": stages,
            "predict": {"tta": 2},
        }
        | more
    )


def write_config(config: Config, path: Path) -> Path:
    """Write a config for a command; return its file."""
    path.write_text(dump_config(config), encoding="utf-8")
    return path

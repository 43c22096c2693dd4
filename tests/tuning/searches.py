"""A search whose trials are scored by a formula, in a folder of its own."""

from pathlib import Path

import yaml

from cellsignal.tuning.division import Division
from cellsignal.tuning.search import BASE, Search
from cellsignal.tuning.space import Choices, Range

SPACE = {
    "stages.all.optimizer.lr": Range(1e-4, 1e-1, log=True),
    "model.dropout": Range(0.0, 0.9, step=0.1),
    "stages.all.batch_size": Choices(("8", "16")),
}


def base_tree(**more):
    return {
        "name": "tiny",
        "competition": "rxrx1",
        "data": {"root": "raw", "store": "store", "workers": 0},
        "folds": {"file": "folds.csv"},
        "model": {"backbone": "test_resnet"},
        "stages": [{"name": "all", "epochs": 2, "batch_size": 8}],
    } | more


def write_base(path: Path, **more) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(base_tree(**more)))
    return path


def make_search(runs: Path, folds=(0, 1, 2, 3), left_out=(4,), **more) -> Search:
    options = {
        "name": "tiny",
        "runs": runs,
        "space": SPACE,
        "division": Division("experiment", tuple(folds), tuple(left_out), 3),
        "seed": 0,
        "halving": 2,
        "trials": 12,
        "hours": None,
        "processes": 1,
        "confirm_seeds": 2,
    }
    search = Search(**options | more)
    write_base(search.folder / BASE)
    return search

"""Run configs/rxrx1/demo.yaml whole, as `make demo` does, and read its score."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import cellsignal
from cellsignal.common.tables import read_table
from cellsignal.studies.gpu_check.room import Figures, Room, Skipped, require
from cellsignal.studies.gpu_check.table import one_line

# of test wells after assignment; the README's run on a CPU reached .98
LEAST_SCORE = 0.9
_CONFIG = "configs/rxrx1/demo.yaml"
_SMALL = (
    *("stages.all.epochs=1", "stages.cell_type.epochs=1", "model.backbone=test_resnet"),
    *("predict.tta=1", "data.workers=0"),
)


def demo(room: Room) -> Figures:
    """Simulate plates, run all steps, score on the test wells; small in a dry run."""
    config = Path(cellsignal.__file__).resolve().parents[2] / _CONFIG
    if not config.is_file():
        raise Skipped(f"{_CONFIG} is not there: run it from a checkout")
    folder = room.folder / "demo"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    classes, more = "48", ["--set", "test_experiments=2"]
    if room.dry:
        classes, more = "8", ["--size", "24", "--set", "controls=1", "--set", "test_experiments=1"]
        more += ["--set", "train_experiments=2"]
    data = ["--out", "data/rxrx1_demo", "--seed", "1", "--classes", classes, *more]
    workers = ["--set", f"workers={min(8, os.cpu_count() or 1)}"]
    _run(room, folder, ["simulate", "rxrx1", *data, *workers])
    changes = [word for key in _SMALL for word in ("--set", key)] if room.dry else []
    answers = ["--answers", "data/rxrx1_demo.answers.csv", "--splits", "2"]
    _run(room, folder, ["run", str(config), *answers, *changes])
    board = read_table(folder / "submissions" / "leaderboard.csv")
    row = board[board["kind"] == "submission"].iloc[-1]
    figures = {
        "score": float(row["overall"]),
        "low": float(row["overall_low"]),
        "high": float(row["overall_high"]),
        "wells": int(float(row["overall_n"])),
    }
    least = 0.0 if room.dry else LEAST_SCORE
    require(figures["score"] >= least, f"scored {figures['score']:.3f}, less than {least}")
    return figures


def _run(room: Room, folder: Path, words: list[str]) -> None:
    """Run a command of cellsignal in the folder; what it says goes to demo.log there."""
    environment = dict(os.environ)
    if room.dry:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    path = folder / "demo.log"
    with open(path, "a", encoding="utf-8") as log:
        status = subprocess.run(
            [sys.executable, "-m", "cellsignal", *words],
            cwd=folder,
            stdout=log,
            stderr=log,
            env=environment,
        ).returncode
    if status:
        said = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last = one_line(said[-1], 200) if said else "it said nothing"
        require(False, f"cellsignal {words[0]} ended with status {status}: {last}")

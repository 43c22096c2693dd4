"""Execute the small whole run that is tortured, and read its state from its files."""

import hashlib
import json
import os
import resource
import runpy
import signal
import sys
from pathlib import Path

import numpy as np

NAME, SEED = "torture", "seed0"
PHASES = ("packing", "stage 1", "stage 2", "predicting", "submitting")
COMMANDS = (
    ("prepare", "config.yaml"),
    ("folds", "rxrx1", "--root", "../raw", "--splits", "3", "--out", "folds.csv"),
    ("train", "config.yaml"),
    ("predict", "config.yaml"),
    ("submit", "config.yaml"),
)
CONFIG = """
name: torture
competition: rxrx1
data: {root: ../raw, store: store, workers: 0}
folds: {file: folds.csv, use: [0]}
model: {backbone: test_resnet}
stages:
  - &stage
    name: first
    epochs: 4
    batch_size: 8
    optimizer: {name: adamw, lr: 2.0e-3}
    schedule: {name: onecycle}
    ema: 0.9
    pseudo_labels: {start: 2}
    checkpoint_minutes: 0.0005
    augment: [{name: rotate90}, {name: gain_bias}]
  - <<: *stage
    name: second
    per: cell_type
    init: previous
    epochs: 2
    pseudo_labels: {start: 1}
predict: {tta: 8, batch_size: 4}
"""


def import_all() -> None:
    """Import what a run imports, so that forked ones need not."""
    import cellsignal.data.pack
    import cellsignal.models.torchvision_cpu
    import cellsignal.pipeline
    import cellsignal.prediction.submit
    import cellsignal.report.run_report
    import cellsignal.training.run

    cellsignal.models.torchvision_cpu.import_timm()


def execute_run(place: Path, largest_file: int | None) -> None:
    """Execute `COMMANDS` in `place`, then end this process with their status.

    Args:
        largest_file: bytes; the limit of a file's size, where it stands for a full disk.
    """
    import torch

    os.setsid()
    with open(place.with_suffix(".log"), "ab", buffering=0) as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    # the parent may have replaced them
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
    os.chdir(place)
    torch.set_num_threads(1)
    if largest_file is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    os._exit(next((status for words in COMMANDS if (status := _command(words))), 0))


def _command(words: tuple[str, ...]) -> int:
    """Execute `python -m cellsignal` with these words in this process; return its status."""
    sys.argv = ["cellsignal", *words]
    try:
        runpy.run_module("cellsignal", run_name="__main__")
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def outcome(place: Path) -> dict[str, str]:
    """Return name -> digest of all that a finished run consists of.

    Packed images, weights, histories, pseudo-labels, predictions and the submission.
    """
    from cellsignal.data.store import Store
    from cellsignal.training.checkpoints import load_checkpoint

    store = Store.open(place / "store")
    digests = {
        "store": _digest(b"".join(store.read(int(row)).tobytes() for row in store.samples.row))
    }
    run = place / "runs" / NAME / SEED
    for path in sorted(run.rglob("last.pt")):
        state = load_checkpoint(path)
        tensors = [
            (part, name, state[part][name])
            for part in ("model", "averaged")
            for name in sorted(state[part] or ())
        ]
        digests[str(path.relative_to(place))] = _digest(
            b"".join(
                f"{part} {name}".encode() + tensor.numpy().tobytes()
                for part, name, tensor in tensors
            )
        )
        timed = {"images_per_s", "waiting", "of_peak"}
        rows = [
            {key: value for key, value in row.items() if key not in timed}
            for row in state["progress"]["history"]
        ]
        digests[f"history of {path.relative_to(place)}"] = _digest(json.dumps(rows).encode())
    for path in sorted(run.rglob("pseudo_labels*.csv")):
        digests[str(path.relative_to(place))] = _digest(path.read_bytes())
    for path in sorted((run / "predictions").glob("*.npz")):
        with np.load(path, allow_pickle=False) as arrays:
            names = sorted(name for name in arrays.files if arrays[name].dtype.kind in "fiu")
            digests[str(path.relative_to(place))] = _digest(
                b"".join(name.encode() + arrays[name].tobytes() for name in names)
            )
    digests["submission"] = _digest((place / "submissions" / f"{NAME}.csv").read_bytes())
    return digests


def phase_of(place: Path) -> str:
    """Return the phase that a run is in, by its files."""
    run = place / "runs" / NAME / SEED
    if (place / "submissions").exists() or any((run / "predictions").glob("*.npz")):
        return "submitting"
    if (run / "predictions").exists():
        return "predicting"
    if (run / "fold0" / "second").exists():
        return "stage 2"
    return "stage 1" if (place / "store" / "store.json").exists() else "packing"


def whole_checkpoints(place: Path) -> dict[str, tuple[int, str]]:
    """Return the checkpoints that load: name -> size and digest."""
    from cellsignal.training.checkpoints import load_checkpoint

    digests = {}
    for path in (place / "runs").rglob("last.pt"):
        load_checkpoint(path)
        digests[str(path.relative_to(place))] = (path.stat().st_size, _digest(path.read_bytes()))
    return digests


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

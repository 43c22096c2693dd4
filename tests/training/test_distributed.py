"""Two processes are one: the same steps as one process that accumulates two batches, plate by
plate, with EMA, pseudo-labels and AdaBN; stopped and resumed to the bit; and the same predictions.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from tiny import make_config, stage

from cellsignal.common.errors import InputError
from cellsignal.common.stopping import Stop
from cellsignal.prediction.container import load_predictions
from cellsignal.prediction.predict import predict
from cellsignal.training import pseudo_labels
from cellsignal.training.checkpoints import load_checkpoint
from cellsignal.training.plan import jobs_of
from cellsignal.training.ranks import ALONE
from cellsignal.training.run import train
from cellsignal.training.trainer import Trainer

pytestmark = pytest.mark.slow

ROUNDING = 0.05  # log-probabilities of two trainings whose steps differ by rounding

# without momentum a step is its gradient; each batch is standardised by itself, in one process and
# in two
STAGE = {
    "epochs": 2,
    "batches": {"unit": "plate"},
    "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.0, "weight_decay": 0.0},
    "schedule": {"name": "cosine"},
    "ema": 0.8,
    "bn_recompute": True,
    "validate_every": 1,
    "pseudo_labels": {"start": 1, "first": 0.7, "least_confidence": 0.0},
}


def config(plates: Path, folder: Path, **more):
    return make_config(
        plates,
        folder,
        [stage(**(STAGE | more))],
        predict={"adapt": "plate", "tta": 2, "batch_size": 16},
    )


@pytest.fixture(scope="module")
def two(plates, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    configs = {name: config(plates, folder / name) for name in ("whole", "broken")}
    for name, made in configs.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(made.model_dump(mode="json")))
    words = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        Path(__file__).with_name("two_trainers.py"),
        folder,
    ]
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, configs


@pytest.fixture(scope="module")
def one(plates, tmp_path_factory):
    made = config(plates, tmp_path_factory.mktemp("one"), accumulation=2)
    train(made)
    predict(made)
    return made


def checkpoint(made) -> dict:
    return load_checkpoint(jobs_of(made)[0].folder / "last.pt")


def test_two_processes_make_the_steps_of_one_that_accumulates(two, one):
    _, configs = two
    a, b = checkpoint(configs["whole"]), checkpoint(one)
    assert a["progress"]["updates"] == b["progress"]["updates"] > 20
    for part in ("model", "averaged"):
        parameters = [
            name for name in a[part] if "running" not in name and "num_batches" not in name
        ]
        for name in parameters:
            torch.testing.assert_close(a[part][name], b[part][name], atol=2e-4, rtol=1e-3, msg=name)
    for name in a["averaged"]:  # recomputed from the images of both processes
        if "running" in name:
            torch.testing.assert_close(
                a["averaged"][name], b["averaged"][name], atol=1e-3, rtol=1e-2, msg=name
            )
    columns = ["train_loss", "valid_loss", "valid_accuracy", "lr"]
    logs = [
        pd.read_csv(jobs_of(made)[0].folder / "log.csv")[columns]
        for made in (configs["whole"], one)
    ]
    np.testing.assert_allclose(*logs, atol=1e-3)


def test_both_draw_the_same_pseudo_labels(two, one):
    """As many wells, and wherever a well's lead is larger than what rounding does to it, with the
    same label.
    """
    a, b = (pseudo_labels.read(jobs_of(made)[0].folder, 1) for made in (two[1]["whole"], one))
    for count in ("wells", "eligible", "taken", "refused"):
        assert a.attrs[count] == b.attrs[count], count
    assert a.attrs["taken"] > 10
    alike = {
        name
        for name, plates in a.attrs["plate_group"].items()
        if plates == b.attrs["plate_group"][name]
    }
    doubtful = {name: z for name, z in a.attrs["group_confidence"].items() if name not in alike}
    assert all(z < 0.1 for z in doubtful.values()), doubtful
    both = a[a.experiment.isin(alike)].merge(b, on="target_id", suffixes=("", "_other"))
    clear = both[both.confidence > ROUNDING]
    assert len(clear) and (clear.label == clear.label_other).all()
    assert (clear.confidence - clear.confidence_other).abs().max() < ROUNDING


def test_a_signal_to_one_process_stops_both_and_they_go_on_to_the_same_bits(two):
    folder, configs = two
    told = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert told[0] == told[1] and told[0]["stops"] == 2  # at the same steps
    whole, broken = (checkpoint(configs[name]) for name in ("whole", "broken"))
    for part in ("model", "averaged"):
        assert all(torch.equal(value, broken[part][name]) for name, value in whole[part].items())
    assert (
        whole["progress"]["history"][-1]["train_loss"]
        == broken["progress"]["history"][-1]["train_loss"]
    )


def test_predictions_of_two_processes_are_one_file(two, one):
    found = [
        load_predictions(made.run_folder / "predictions" / "fold0_all.npz")
        for made in (two[1]["whole"], one)
    ]
    assert np.array_equal(found[0].ids["sample_id"], found[1].ids["sample_id"]) and set(
        found[0].ids["part"]
    ) == {"oof", "test"}
    for view in found[0].views:
        np.testing.assert_allclose(found[0].logits(view), found[1].logits(view), atol=0.02)
    assert [path.name for path in (two[1]["whole"].run_folder / "predictions").iterdir()] == [
        "fold0_all.npz"
    ]


def test_another_number_of_processes_is_refused_and_named(plates, tmp_path, monkeypatch):
    made = config(plates, tmp_path, checkpoint_minutes=1e-9)
    job = jobs_of(made)[0]
    monkeypatch.setattr(
        Trainer, "_stop_if_asked", lambda self: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        Trainer(job, ALONE, Stop()).run()
    state = load_checkpoint(job.folder / "last.pt")
    state["processes"] = state["processes"] * 2
    from cellsignal.training.checkpoints import save_checkpoint

    save_checkpoint(
        job.folder / "last.pt", {name: value for name, value in state.items() if name != "format"}
    )
    with pytest.raises(InputError, match=r"last\.pt: was saved by 2 processes, these are 1"):
        Trainer(job, ALONE, Stop()).run()

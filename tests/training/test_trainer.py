"""The trainer on a tiny simulated competition: stages, leakage, and resume to the bit."""

import itertools
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from tiny import stage

from cellsignal.common.errors import OUT_OF_TIME, InputError, Interrupted
from cellsignal.common.stopping import Stop
from cellsignal.competitions import get_competition
from cellsignal.config.schema import Config
from cellsignal.data.draws import Recipe
from cellsignal.data.pack import prepare
from cellsignal.data.transforms import Transform
from cellsignal.prediction.predict import predict
from cellsignal.training import trainer as trainer_module
from cellsignal.training.checkpoints import load_checkpoint
from cellsignal.training.examples import Examples
from cellsignal.training.plan import jobs_of, plan_jobs
from cellsignal.training.ranks import ALONE
from cellsignal.training.run import train
from cellsignal.training.trainer import Trainer


def make(plates, tmp_path, stages=None, **more) -> Config:
    second = stage(
        "cell_type", per="cell_type", init="previous", epochs=1, schedule={"name": "constant"}
    )
    return Config(
        **{
            "name": "tiny",
            "competition": "rxrx1",
            "runs": tmp_path / "runs",
            "data": {"root": plates / "raw", "store": plates / "store", "workers": 0},
            "folds": {"file": plates / "folds.csv"},
            "model": {"backbone": "test_resnet", "dropout": 0.2},
            "stages": stages or [stage(), second],
        }
        | more
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor that a run's checkpoints predict with, by place."""
    found = {}
    for path in sorted(folder.rglob("last.pt")):
        state = load_checkpoint(path)
        for part in ("model", "averaged"):
            found |= {
                f"{path.relative_to(folder)} {part} {name}": tensor
                for name, tensor in (state[part] or {}).items()
            }
    return found


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_no_training_well_of_any_stage_is_in_a_validation_set_of_its_fold(plates, tmp_path):
    config = make(plates, tmp_path, folds={"file": plates / "folds.csv", "full": True})
    jobs = jobs_of(config)
    samples = jobs[0].store.samples
    assert {job.fold for job in jobs} == {0, 1, None} and {job.key for job in jobs} == {
        "all",
        "HEPG2",
        "HUVEC",
        "RPE",
        "U2OS",
    }
    for fold in (0, 1):
        mine = [job for job in jobs if job.fold == fold]
        trained = set().union(*(samples.iloc[job.train].well_id for job in mine))
        validated = set().union(*(samples.iloc[job.valid].well_id for job in mine))
        assert trained and validated and not trained & validated
        experiments = {e: set() for e in ("train", "valid")}
        for job in mine:
            experiments["train"] |= set(samples.iloc[job.train].experiment)
            experiments["valid"] |= set(samples.iloc[job.valid].experiment)
        assert not experiments["train"] & experiments["valid"]
    for job in jobs:
        assert (samples.iloc[job.train].split == "train").all() and (
            samples.iloc[job.train].role == "treatment"
        ).all()
        if job.key != "all":
            assert set(samples.iloc[np.r_[job.train, job.valid]].cell_type) == {job.key}
    assert all(not len(job.valid) for job in jobs if job.fold is None)


def test_every_labelled_well_is_validated_once_and_the_full_model_trains_on_all(plates, tmp_path):
    jobs = [
        job
        for job in jobs_of(
            make(plates, tmp_path, folds={"file": plates / "folds.csv", "full": True})
        )
        if job.stage_index == 0
    ]
    samples = jobs[0].store.samples
    labelled = np.flatnonzero((samples.split == "train") & (samples.role == "treatment"))
    assert sorted(np.concatenate([job.valid for job in jobs])) == list(labelled)
    assert list(jobs[-1].train) == list(labelled)


def test_stage_two_starts_from_stage_one_of_the_same_fold(plates, tmp_path):
    config = make(plates, tmp_path, folds={"file": plates / "folds.csv", "use": [1]})
    train(config)
    jobs = jobs_of(config)
    first = load_checkpoint(jobs[0].folder / "last.pt")
    trainer = Trainer(jobs[1], ALONE, Stop())
    assert jobs[1].init == jobs[0].folder / "last.pt"
    assert all(
        torch.equal(value, first["model"][name])
        for name, value in trainer.model.state_dict().items()
    )
    assert (
        same(weights(config.run_folder), weights(config.run_folder))
        and len(list(config.run_folder.rglob("last.pt"))) == 5
    )
    for name in ("config.yaml", "provenance.json"):
        assert (config.run_folder / name).is_file()
    log = pd.read_csv(jobs[0].folder / "log.csv")
    assert list(log.epoch) == [1, 2] and log.valid_accuracy.between(0, 1).all()


def test_a_stage_one_of_other_folds_is_refused(plates, tmp_path):
    """The flaw that lost the capstone its second stage: splitting anew between the stages."""
    config = make(plates, tmp_path, folds={"file": plates / "folds.csv", "use": [0]})
    jobs = jobs_of(config)
    with Stop() as stop:
        Trainer(jobs[0], ALONE, stop).run()
    swapped = jobs[0].folds.rows.assign(fold=1 - jobs[0].folds.rows.fold)
    other = plan_jobs(
        config,
        jobs[0].competition,
        jobs[0].store,
        jobs[0].classes,
        type(jobs[0].folds)("experiment", swapped),
    )
    with pytest.raises(InputError, match=r"last\.pt: was trained on other folds"):
        Trainer(other[1], ALONE, Stop())


VARIANTS = {
    "plain": {},
    "everything": {
        "ema": 0.9,
        "accumulation": 3,
        "amp": "bf16",
        "label_smoothing": 0.1,
        "class_weights": "balanced",
        "clip_norm": 1.0,
        "mix": {"mixup": 0.4, "cutmix": 1.0, "p": 0.7},
        "optimizer": {"name": "sgd", "lr": 0.02},
        "schedule": {"name": "cosine", "warmup_epochs": 0.5},
    },
    "plates": {
        "batches": {"unit": "plate", "labels": "unique"},
        "swa": 0.3,
        "epochs": 3,
        "triplet": {},
        "center": {},
    },
    "pseudo": {
        "pseudo_labels": {"start": 1, "least_confidence": 0.0},
        "epochs": 3,
        "batches": {"unit": "experiment"},
        "mix": {"cutmix": 1.0, "p": 0.5},
        "margin": {},
        "ema": 0.9,
        "mean_teacher": {"ramp_epochs": 1, "unlabelled": "test"},
        "bn_recompute": True,
    },
    "albumentations": {
        "augment": [{"name": "blur"}, {"name": "rotate90"}, {"name": "gain_bias"}],
        "mix": {"mixup": 0.4},
    },
    "plateau": {
        "schedule": {"name": "plateau", "patience": 0},
        "epochs": 3,
        "early_stopping": 2,
        "optimizer": {"name": "adam", "lr": 1e-3},
    },
}
MORE = {
    "pseudo": {
        "model": {
            "backbone": "test_resnet",
            "neck": 16,
            "cell_type_vector": True,
            "cosine_head": True,
            "bn_momentum": 0.05,
        },
        "predict": {"adapt": "plate", "adapt_wells": "controls"},
    },
}


ENDS = (signal.SIGTERM, OUT_OF_TIME, signal.SIGUSR1)
EVERY = {"plates": 7, "pseudo": 7}  # many small batches
LONG = ("plates", "pseudo", "albumentations", "plateau")


@pytest.mark.parametrize(
    "variant",
    [pytest.param(name, marks=pytest.mark.slow if name in LONG else ()) for name in VARIANTS],
)
def test_stopped_anywhere_and_run_again_ends_in_the_same_bytes(
    plates, tmp_path, variant, monkeypatch
):
    """A signal, or the end of the time budget, after every k-th optimiser step, the same command
    again each time: equal, bit for bit, to the whole run.
    """
    one = {"file": plates / "folds.csv", "use": [0]}
    more = MORE.get(variant, {})
    whole = make(plates, tmp_path / "whole", [stage(**VARIANTS[variant])], folds=one, **more)
    train(whole)
    broken = make(plates, tmp_path / "broken", [stage(**VARIANTS[variant])], folds=one, **more)
    steps = {"n": 0}
    update = Trainer._update

    def interrupting(self, share):
        update(self, share)
        steps["n"] += 1
        if steps["n"] % EVERY.get(variant, 3) == 0:
            how = ENDS[steps["n"] // EVERY.get(variant, 3) % len(ENDS)]
            if how == OUT_OF_TIME:
                self.stop.deadline = 0.0
            else:
                os.kill(os.getpid(), how)

    monkeypatch.setattr(Trainer, "_update", interrupting)
    stops = []
    for _ in range(50):
        try:
            torch.rand(3)  # whatever the process did before must not matter
            train(broken)
            break
        except Interrupted as error:
            stops.append(error.status)
    assert (
        len(stops) >= 2
        and set(stops) <= {OUT_OF_TIME, 143, 138}
        and same(weights(whole.run_folder), weights(broken.run_folder))
    )
    logs = [
        pd.read_csv(c.run_folder / "fold0/all/all/log.csv").drop(
            columns=["images_per_s", "waiting", "of_peak"]
        )
        for c in (whole, broken)
    ]
    assert logs[0].equals(logs[1])


@pytest.mark.slow
def test_a_killed_process_goes_on_to_the_same_bytes(plates, tmp_path):
    """SIGKILL, as a vanishing machine does it, through the command line."""
    one = {"file": plates / "folds.csv", "use": [0]}
    stages = [stage(epochs=3, checkpoint_minutes=1e-6, ema=0.9)]
    configs = {
        name: make(plates, tmp_path / name, stages, folds=one) for name in ("whole", "killed")
    }
    for name, config in configs.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    train(configs["whole"])
    command = [sys.executable, "-m", "cellsignal.cli", "-q", "train", str(tmp_path / "killed.yaml")]
    last = configs["killed"].run_folder / "fold0/all/all/last.pt"
    process = subprocess.Popen(
        command, env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    )
    deadline = time.monotonic() + 120
    while not last.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert last.exists() and not load_checkpoint(last)["progress"]["finished"]
    train(configs["killed"])
    assert same(weights(configs["whole"].run_folder), weights(configs["killed"].run_folder))


@pytest.mark.slow
def test_ctrl_c_reaches_the_workers_too_and_nothing_breaks(plates, tmp_path):
    """SIGINT to the whole process group, as a terminal sends it, while two processes load."""
    data = {
        "root": str(plates / "raw"),
        "store": str(plates / "store"),
        "workers": 2,
        "cache_gib": 0.0,
    }
    config = make(
        plates,
        tmp_path,
        [stage(epochs=500, checkpoint_minutes=1e-6)],
        folds={"file": plates / "folds.csv", "use": [0]},
        data=data,
    )
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    last = config.run_folder / "fold0/all/all/last.pt"
    command = [sys.executable, "-m", "cellsignal.cli", "-q", "train", str(tmp_path / "c.yaml")]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not last.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    error = process.communicate(timeout=120)[1]
    assert (
        process.returncode == 130
        and error.count("\n") == 1
        and "stopped by SIGINT, state saved" in error
    )
    assert load_checkpoint(last)["progress"]["updates"] > 0


@pytest.mark.parametrize("pipeline", ["warp", "albumentations"])
def test_workers_do_not_change_the_result(plates, tmp_path, pipeline):
    one = {"file": plates / "folds.csv", "use": [0]}
    data = {"root": plates / "raw", "store": plates / "store", "pipeline": pipeline}
    runs = [
        make(
            plates,
            tmp_path / str(n),
            [stage(epochs=1)],
            folds=one,
            data=data | {"workers": n, "cache_gib": c},
        )
        for n, c in ((0, 1.0), (2, 0.0))
    ]
    for config in runs:
        train(config)
    assert same(weights(runs[0].run_folder), weights(runs[1].run_folder))


def test_accumulated_small_batches_are_one_large_batch(plates, tmp_path, monkeypatch):
    """Without batch statistics (LeNet), 2 x 8 is 16, where the halves are those of the large
    batches.
    """
    one = {"file": plates / "folds.csv", "use": [0]}
    more = {
        "epochs": 1,
        "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0},
        "schedule": {"name": "constant"},
        "augment": [],
    }
    lenet = {"backbone": "lenet"}
    competition = get_competition("rxrx1")
    prepare(competition, plates / "raw", tmp_path / "store64", size=64)
    data = {"root": plates / "raw", "store": tmp_path / "store64", "workers": 0}
    a = make(
        plates, tmp_path / "a", [stage(batch_size=16, **more)], folds=one, model=lenet, data=data
    )
    b = make(
        plates,
        tmp_path / "b",
        [stage(batch_size=8, accumulation=2, **more)],
        folds=one,
        model=lenet,
        data=data,
    )
    train(a)
    large = Examples.batches
    monkeypatch.setattr(
        trainer_module.Examples,
        "batches",
        lambda self, epoch: [
            half
            for batch in large(Examples(jobs_of(a)[0]), epoch)
            for half in (batch[:8], batch[8:])
        ],
    )
    train(b)
    for name, value in weights(a.run_folder).items():
        assert torch.allclose(value, weights(b.run_folder)[name], atol=1e-5), name


@pytest.mark.parametrize(("minutes", "saves"), [(1e6, 0), (1e-9, 2)])
def test_an_epoch_can_be_saved_after_each_update_and_is_when_it_is_due(
    plates, tmp_path, monkeypatch, minutes, saves
):
    """5 batches, 2 an update: it is asked after 2, 4 and at the end, where the epoch is saved."""
    config = make(
        plates,
        tmp_path,
        [stage(batch_size=4, accumulation=2, epochs=1, augment=[], checkpoint_minutes=minutes)],
        folds={"file": plates / "folds.csv", "use": [0]},
    )
    (job,) = jobs_of(config)
    asked, saved = [], []
    seconds = itertools.count(1e9)  # the machine has run for thirty years
    clock = SimpleNamespace(monotonic=lambda: next(seconds))
    monkeypatch.setattr(trainer_module, "time", clock)
    trainer = Trainer(replace(job, train=job.train[:20]), ALONE, Stop())
    check, save = Trainer._check, Trainer._save
    monkeypatch.setattr(
        Trainer, "_check", lambda self: [asked.append(self.progress["batch"]), check(self)]
    )
    monkeypatch.setattr(
        Trainer, "_save", lambda self: [saved.append(self.progress["batch"]), save(self)]
    )
    trainer.run()
    assert asked == [2, 4, 5]
    assert [batch for batch in saved if batch in (2, 4)] == [2, 4][:saves]
    assert saved[-1] == 0 and load_checkpoint(job.folder / "last.pt")["progress"]["epoch"] == 1


def test_ema_is_the_brute_force_average_of_weights_and_buffers(plates, tmp_path, monkeypatch):
    config = make(
        plates, tmp_path, [stage(ema=0.8)], folds={"file": plates / "folds.csv", "use": [0]}
    )
    history = []
    update = Trainer._update

    def recording(self, share):
        update(self, share)
        history.append({name: value.clone() for name, value in self.model.state_dict().items()})

    monkeypatch.setattr(Trainer, "_update", recording)
    job = jobs_of(config)[0]
    trainer = Trainer(job, ALONE, Stop())
    average = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.run()
    for number, state in enumerate(history, 1):
        decay = trainer.average.kept.get_decay(number)
        for name, value in state.items():
            average[name] = (
                average[name] * decay + value * (1 - decay) if value.is_floating_point() else value
            )
    found = trainer.average.module.state_dict()
    assert any("running_var" in name for name in found)
    for name, value in average.items():
        assert torch.allclose(found[name].double(), value.double(), atol=1e-5, rtol=1e-4), name


def test_a_run_of_another_config_is_not_mixed_with(plates, tmp_path):
    one = {"file": plates / "folds.csv", "use": [0]}
    train(make(plates, tmp_path, [stage(epochs=1)], folds=one))
    with pytest.raises(InputError, match=r"another config.*stages\.0\.batch_size: 8 -> 4"):
        train(make(plates, tmp_path, [stage(epochs=1, batch_size=4)], folds=one))
    train(
        make(
            plates, tmp_path, [stage(epochs=1)], folds={"file": plates / "folds.csv", "use": [0, 1]}
        )
    )  # more folds is no other config
    with pytest.raises(InputError, match=r"another config.*normalization\.by: plate -> image"):
        predict(make(plates, tmp_path, [stage(epochs=1)], folds=one, normalization={"by": "image"}))


def test_a_diverging_loss_is_one_line(plates, tmp_path):
    config = make(
        plates,
        tmp_path,
        [stage(optimizer={"name": "sgd", "lr": 1e30})],
        folds={"file": plates / "folds.csv", "use": [0]},
    )
    with pytest.raises(InputError, match="seed 0 fold 0 stage all: the loss became"):
        train(config)


def test_early_stopping_stops_and_best_is_kept(plates, tmp_path):
    config = make(
        plates,
        tmp_path,
        [
            stage(
                epochs=30,
                early_stopping=2,
                monitor="loss",
                optimizer={"name": "adamw", "lr": 1e-2},
            )
        ],
        folds={"file": plates / "folds.csv", "use": [0]},
    )
    train(config)
    folder = config.run_folder / "fold0/all/all"
    log, best = pd.read_csv(folder / "log.csv"), load_checkpoint(folder / "best.pt")
    assert len(log) < 30 and log.valid_loss.idxmin() == len(log) - 3
    assert best["progress"]["best"] == pytest.approx(log.valid_loss.min())


def test_a_recipe_that_only_albumentations_can_make(plates, tmp_path):
    one = {"file": plates / "folds.csv", "use": [0]}
    data = {"root": plates / "raw", "store": plates / "store", "workers": 0}
    blurred = stage(epochs=1, augment=[{"name": "blur"}])
    kinds = {name: Transform for name in ("auto", "albumentations")} | {"warp": None}
    for name, kind in kinds.items():
        job = jobs_of(
            make(plates, tmp_path / name, [blurred], folds=one, data=data | {"pipeline": name})
        )[0]
        if kind is None:
            with pytest.raises(
                InputError,
                match=r"data\.pipeline: warp cannot make stage 'all': blur is only there",
            ):
                Trainer(job, ALONE, Stop())
        else:
            assert isinstance(Trainer(job, ALONE, Stop()).training.augmentation, kind)
    plain = jobs_of(make(plates, tmp_path / "plain", [stage(epochs=1)], folds=one, data=data))[0]
    assert isinstance(Trainer(plain, ALONE, Stop()).training.augmentation, Recipe)


@pytest.mark.slow  # the compiler cannot trace what measures the lines of `make test`
@pytest.mark.parametrize("more", [{"compile": "default"}, {"gradient_checkpointing": True}])
def test_what_makes_a_step_cheaper_changes_only_rounding(plates, tmp_path, more, monkeypatch):
    """torch.compile by its eager backend: what it traces, not what a compiler makes of it."""
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, mode: real(function, backend="eager"))
    one = {"file": plates / "folds.csv", "use": [0]}
    same_steps = {"epochs": 1, "optimizer": {"name": "sgd", "lr": 0.02}, "augment": []}
    runs = [
        make(
            plates,
            tmp_path / str(n),
            [stage(**same_steps, **extra)],
            folds=one,
            model={"backbone": "test_resnet"},
        )
        for n, extra in enumerate(({}, more))
    ]
    for config in runs:
        train(config)
    for name, value in weights(runs[0].run_folder).items():
        if "num_batches" not in name:
            torch.testing.assert_close(
                weights(runs[1].run_folder)[name], value, atol=2e-4, rtol=1e-3, msg=name
            )

"""Trackers get every epoch once, and never cost a training time or its end."""

import contextlib
import json
import logging
import os
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import make_config, stage

from cellsignal.common.errors import InputError
from cellsignal.config.load import dump_config, load_config
from cellsignal.training import trackers, tracking
from cellsignal.training.identity import what_differs
from cellsignal.training.run import train
from cellsignal.training.trackers import CLIENTS, Client
from cellsignal.training.tracking import Tracking, read_note


class Recorder(Client):
    """Keeps what it is sent; may raise or hang."""

    package, patience = "json", 5.0
    made: list["Recorder"] = []  # noqa: RUF012
    raises_at, hangs_at, gate = None, None, threading.Event()

    def __init__(self, folder, title, config, id):
        self.title, self.given, self.id = title, id, id or f"id{len(self.made)}"
        self.rows, self.finished = [], None
        self._act(0)
        self.made.append(self)

    def _act(self, epoch):
        if self.raises_at == epoch:
            raise ConnectionError("no route\nto the server")
        if self.hangs_at == epoch:
            self.gate.wait(30)

    def add(self, epoch, figures):
        self._act(epoch)
        self.rows.append((epoch, figures))

    def close(self, finished):
        self.finished = finished


@pytest.fixture
def recorder(monkeypatch):
    class Fresh(Recorder):
        made, gate = [], threading.Event()

    monkeypatch.setitem(CLIENTS, "mlflow", Fresh)
    monkeypatch.setattr(tracking, "_hung", set())
    yield Fresh
    Fresh.gate.set()


def row(epoch):
    return {"epoch": epoch, "train_loss": 1 / epoch, "valid_loss": None}


def begin(folder, history=(), names=("mlflow",)):
    return Tracking(names, folder, "run/seed0/fold0/all/all", {"a": 1}, list(history))


def test_epochs_are_sent_in_order_without_what_is_not_known(recorder, tmp_path):
    curves = begin(tmp_path)
    for epoch in (1, 2, 3):
        curves.add(row(epoch))
    curves.close()
    (client,) = recorder.made
    assert client.rows == [(n, {"train_loss": 1 / n}) for n in (1, 2, 3)] and client.finished
    assert read_note(tmp_path) == {"mlflow": {"id": "id0", "epoch": 3}}


def test_a_resumed_training_goes_on_in_the_same_place(recorder, tmp_path):
    curves = begin(tmp_path)
    for epoch in (1, 2, 3):
        curves.add(row(epoch))
    curves.close(finished=False)
    assert recorder.made[0].finished is False
    # killed before the checkpoint of epoch 3: it is trained again
    curves = begin(tmp_path, [row(1), row(2)])
    curves.add(row(3))
    curves.close()
    assert recorder.made[1].given == "id0"
    assert [epoch for epoch, _ in recorder.made[1].rows] == [3]
    # a training that begins anew in the same folder is another one
    curves = begin(tmp_path)
    curves.add(row(1))
    curves.close()
    assert recorder.made[2].given is None and recorder.made[2].id == "id2"


@pytest.mark.parametrize("at", [0, 1, 2])
def test_one_that_raises_is_named_in_one_line_and_caught_up_later(
    recorder, tmp_path, caplog, monkeypatch, at
):
    monkeypatch.setattr(recorder, "raises_at", at)
    curves = begin(tmp_path)
    for epoch in (1, 2, 3):
        curves.add(row(epoch))
    with caplog.at_level(logging.WARNING):
        curves.close()
    (line,) = [record.getMessage() for record in caplog.records]
    missing = 3 - max(at - 1, 0)
    assert f"{missing} of 3 epochs not sent" in line and "no route to the server" in line
    assert "log.csv" in line and "\n" not in line
    monkeypatch.setattr(recorder, "raises_at", None)
    curves = begin(tmp_path, [row(1), row(2), row(3)])
    curves.add(row(4))
    curves.close()
    assert [epoch for epoch, _ in recorder.made[-1].rows] == list(range(max(at, 1), 5))


@pytest.mark.parametrize("at", [0, 2])
def test_one_that_hangs_is_left_behind(recorder, tmp_path, caplog, monkeypatch, at):
    monkeypatch.setattr(recorder, "hangs_at", at)
    monkeypatch.setattr(recorder, "patience", 0.2)
    monkeypatch.setattr(tracking, "QUEUED", 4)
    curves, started = begin(tmp_path), time.monotonic()
    for epoch in range(1, 50):
        curves.add(row(epoch))
    assert time.monotonic() - started < 1
    with caplog.at_level(logging.WARNING):
        curves.close()
    assert time.monotonic() - started < 5
    (line,) = [record.getMessage() for record in caplog.records]
    missing = 49 - max(at - 1, 0)
    assert f"does not answer for 0.2 s; {missing} of 49 epochs not sent" in line
    again, threads = begin(tmp_path / "next"), threading.active_count()
    again.add(row(1))
    again.close()  # it is not waited for again in this process
    assert threading.active_count() == threads and not (tmp_path / "next").exists()


@given(st.binary(max_size=40))
def test_a_damaged_note_is_no_note(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("note")
    (folder / tracking.NOTE).write_bytes(content)
    try:
        expected = json.loads(content)
    except ValueError:
        expected = None
    assert read_note(folder) == (expected if isinstance(expected, dict) else {})


# in a config
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "names"),
    [
        ("mlflow", ("mlflow",)),
        ("none", ()),
        ("off", ()),
        ("[]", ()),
        ("TensorBoard", ("tensorboard",)),
        ("[tensorboard, wandb]", ("tensorboard", "wandb")),
    ],
)
def test_the_key_takes_a_word_or_a_list(plates, tmp_path, word, names):
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(make_config(plates, tmp_path)))
    assert load_config(path).tracking == ("tensorboard",)
    config = load_config(path, [f"tracking={word}"])
    assert config.tracking == names
    assert load_config(path, [f"tracking={json.dumps(names)}"]) == config


@pytest.mark.parametrize("word", ["mlflo", "[mlflow, mlflow]", "[mlflow, nothing]", "3"])
def test_another_word_is_refused(plates, tmp_path, word):
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(make_config(plates, tmp_path)))
    with pytest.raises(InputError, match="tracking"):
        load_config(path, [f"tracking={word}"])


@pytest.mark.parametrize("word", ["{mlflow: 1}", "3", "true"])
def test_what_is_no_word_and_no_list_is_told_the_words(plates, tmp_path, word):
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(make_config(plates, tmp_path)))
    message = r"tracking: takes one of tensorboard, mlflow, wandb, trackio, or a list of them, got"
    with pytest.raises(InputError, match=message):
        load_config(path, [f"tracking={word}"])


def test_another_tracker_is_no_other_run(plates, tmp_path):
    old = make_config(plates, tmp_path).model_dump(mode="json")
    assert what_differs(old, make_config(plates, tmp_path, tracking="mlflow")) == []
    del old["tracking"]  # a run from before the key
    assert what_differs(old, make_config(plates, tmp_path, tracking="none")) == []


@pytest.mark.parametrize("name", ["mlflow", "wandb", "trackio"])
def test_one_that_is_not_installed_is_refused_before_anything_trains(
    plates, tmp_path, monkeypatch, name
):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=rf"install the extra {name}") as error:
        train(make_config(plates, tmp_path / "runs", tracking=[name]))
    assert "\n" not in str(error.value) and not (tmp_path / "runs").exists()


def test_without_tensorboard_the_log_remains(plates, tmp_path, monkeypatch, caplog):
    for name in ("tensorboard", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
    trackers._say_once.cache_clear()
    config = make_config(plates, tmp_path, [stage(epochs=1), stage(name="more", epochs=1)])
    with caplog.at_level(logging.INFO):
        job, _ = train(config)
    lines = [r.getMessage() for r in caplog.records if r.getMessage().startswith("tracking")]
    assert len(lines) == 1 and "no TensorBoard here" in lines[0], "once, not for each training"
    assert len((job.folder / "log.csv").read_text().splitlines()) == 2


@pytest.mark.slow
def test_a_tracker_that_hangs_changes_no_weight(plates, tmp_path, recorder, monkeypatch):
    monkeypatch.setattr(recorder, "hangs_at", 1)
    monkeypatch.setattr(recorder, "patience", 0.1)
    states = []
    for name, named in (("with", "mlflow"), ("without", "none")):
        config = make_config(plates, tmp_path, [stage(epochs=2)], name=name, tracking=named)
        (job,) = train(config)
        states.append(_weights(job.folder))
        assert len((job.folder / "log.csv").read_text().splitlines()) == 3
    assert states[0].keys() == states[1].keys()
    assert all(states[0][key].equal(states[1][key]) for key in states[0])
    assert recorder.made[0].title == "with/seed0/fold0/all/all"


def _weights(folder):
    import torch

    return torch.load(folder / "last.pt", weights_only=True)["model"]


# with the programs' own clients
# --------------------------------------------------------------------------------------------------


def stop_and_resume(folder: Path, name: str) -> None:
    """Two epochs, a stop, one more; the second call does epoch 2 again, as after a kill."""
    curves = begin(folder, names=(name,))
    curves.add(row(1))
    curves.add(row(2))
    curves.close(finished=False)
    curves = begin(folder, [row(1)], names=(name,))
    curves.add(row(2))
    curves.add(row(3))
    curves.close()
    assert read_note(folder)[name]["epoch"] == 3


def test_tensorboard_has_each_epoch_once(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    stop_and_resume(tmp_path, "tensorboard")
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    scalars = events.Scalars("train_loss")
    assert [event.step for event in scalars] == [1, 2, 3]
    assert [event.value for event in scalars] == pytest.approx([1, 1 / 2, 1 / 3])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("uri", ["file:{}", "sqlite:///{}"])
def test_mlflow_has_one_run_of_a_resumed_training(tmp_path, monkeypatch, caplog, uri):
    for package in ("mlflow", "sqlalchemy", "alembic"):
        pytest.importorskip(package)
    from mlflow.tracking import MlflowClient

    for key in [key for key in os.environ if key.startswith("MLFLOW_")]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.format(tmp_path / "mlflow"))
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setattr(CLIENTS["mlflow"], "patience", 60.0)
    with caplog.at_level(logging.WARNING):
        stop_and_resume(tmp_path / "job", "mlflow")
    assert not [r for r in caplog.records if r.getMessage().startswith("tracking")]
    client = MlflowClient()
    (experiment,) = client.search_experiments(filter_string="name = 'cellsignal'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "run/seed0/fold0/all/all" and run.info.status == "FINISHED"
    assert run.data.params == {"a": "1"}
    metrics = client.get_metric_history(run.info.run_id, "train_loss")
    values = {metric.step: metric.value for metric in metrics}
    assert values == pytest.approx({1: 1, 2: 1 / 2, 3: 1 / 3})
    # the run is deleted on the server: a new one is begun
    note = read_note(tmp_path / "job")
    note["mlflow"]["id"] = "0" * 32
    (tmp_path / "job" / tracking.NOTE).write_text(json.dumps(note))
    curves = begin(tmp_path / "job", [row(1), row(2), row(3)])
    curves.add(row(4))
    curves.close()
    assert len(client.search_runs([experiment.experiment_id])) == 2


AWAY = """
import logging, sys, time
from pathlib import Path
from cellsignal.training.tracking import Tracking
from cellsignal.training.trackers import CLIENTS
logging.basicConfig(format="%(name)s %(message)s")
CLIENTS["mlflow"].patience = 1.0
curves = Tracking(("mlflow",), Path(sys.argv[1]), "run", {}, [])
started = time.monotonic()
curves.add({"epoch": 1, "train_loss": 1.0})
assert time.monotonic() - started < 1
curves.close()
print(time.monotonic() - started)
"""


@pytest.mark.slow
def test_mlflow_whose_server_is_away_costs_seconds_and_the_process_ends(tmp_path):
    """In a process of its own: the client goes on asking in its thread."""
    pytest.importorskip("mlflow")
    environment = os.environ | {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    words = [sys.executable, "-c", AWAY, str(tmp_path)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and float(done.stdout) < 10, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("cellsignal")]
    assert len(lines) == 1 and "mlflow: does not answer for 1 s; 1 of 1 epochs" in lines[0]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_wandb_offline_keeps_one_id(tmp_path, monkeypatch, caplog):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(CLIENTS["wandb"], "patience", 60.0)
    with caplog.at_level(logging.WARNING):
        stop_and_resume(tmp_path, "wandb")
    assert not [r for r in caplog.records if r.getMessage().startswith("tracking")]
    id = read_note(tmp_path)["wandb"]["id"]
    folders = sorted((tmp_path / "wandb").glob("offline-run-*"))
    assert folders and all(folder.name.endswith(id) for folder in folders)
    files = [file for folder in folders for file in folder.glob("*.wandb")]
    assert files and any(b"train_loss" in file.read_bytes() for file in files)


@pytest.mark.slow
def test_trackio_has_one_run_of_a_resumed_training(tmp_path):
    """In a process of its own: its folder is fixed when it is imported."""
    pytest.importorskip("trackio")
    program = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from pathlib import Path
from test_tracking import stop_and_resume
stop_and_resume(Path("job"), "trackio")
"""
    environment = os.environ | {"TRACKIO_DIR": str(tmp_path / "data")}
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "data").glob("*.db")
    with contextlib.closing(sqlite3.connect(file)) as base:
        rows = base.execute("SELECT run_name, step, metrics FROM metrics").fetchall()
    assert len({name for name, _, _ in rows}) == 1
    losses = {step: json.loads(values)["train_loss"] for _, step, values in rows}
    assert losses == pytest.approx({1: 1, 2: 1 / 2, 3: 1 / 3})

"""The last good checkpoint: whatever moment a kill, a full disk or a damaged file comes at, a
training goes on from a whole one, and only its own.
"""

import logging
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from tiny import make_config, stage

from cellsignal.common.errors import InputError
from cellsignal.common.stopping import Stop
from cellsignal.prediction.predict import predict
from cellsignal.training.checkpoints import (
    has_checkpoint,
    load_checkpoint,
    load_last,
    previous_of,
    save_checkpoint,
)
from cellsignal.training.plan import jobs_of
from cellsignal.training.ranks import ALONE
from cellsignal.training.run import is_finished, train
from cellsignal.training.trainer import Trainer


def number(path: Path) -> int:
    return int(load_last(path)[0]["number"])


def spoil(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.unlink()
    path.write_bytes(data)


def test_either_of_the_two_files_is_a_checkpoint(tmp_path):
    path = tmp_path / "last.pt"
    assert not has_checkpoint(path)
    for name in (previous_of(path), path):
        name.write_bytes(b"x")
        assert has_checkpoint(path)
    previous_of(path).unlink()
    assert has_checkpoint(path)


@pytest.mark.slow
def test_the_one_before_is_kept(tmp_path):
    last = tmp_path / "last.pt"
    for n in range(3):
        save_checkpoint(last, {"number": n}, keep=True)
    assert (number(last), int(load_checkpoint(previous_of(last))["number"])) == (2, 1)
    assert sorted(os.listdir(tmp_path)) == ["last.previous.pt", "last.pt"]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
@pytest.mark.slow
def test_at_every_moment_of_a_save_a_whole_one_is_there(tmp_path, monkeypatch, links):
    """A kill before each call that changes a name; the next save goes on with what is there, three
    times in a row.
    """
    calls, kill_at = 0, None

    def killing(name):
        real = getattr(os, name)

        def call(*args, **more):
            nonlocal calls
            if kill_at is not None and calls == kill_at:
                raise Killed
            calls += 1
            if name == "link" and not links:
                raise OSError(1, "Operation not permitted")
            return real(*args, **more)

        monkeypatch.setattr(os, name, call)

    for name in ("link", "replace", "unlink", "fsync"):
        killing(name)
    for at in range(6):
        last = tmp_path / str(at) / "last.pt"
        for n in range(2):
            kill_at = None
            save_checkpoint(last, {"number": n}, keep=True)
        for n in range(2, 5):
            before, calls, kill_at = number(last), 0, at
            try:
                save_checkpoint(last, {"number": n}, keep=True)
            except Killed:
                assert number(last) in (before, n) and has_checkpoint(last)
            else:
                assert number(last) == n
            assert last.exists() or not links
        kill_at = None
        save_checkpoint(last, {"number": 9}, keep=True)
        assert number(last) == 9 and sorted(
            name for name in os.listdir(last.parent) if not name.startswith(".last.pt.")
        ) == ["last.previous.pt", "last.pt"]
    assert calls > 3


@pytest.mark.parametrize("how", ["damaged", "cut", "lost", "foreign"])
@pytest.mark.slow
def test_a_damaged_one_is_told_in_one_line_and_the_one_before_taken(tmp_path, caplog, how):
    last = tmp_path / "last.pt"
    for n in range(2):
        save_checkpoint(last, {"number": n, "w": torch.arange(5000.0)}, keep=True)
    data = last.read_bytes()
    if how == "damaged":
        spoil(last)
    else:
        last.unlink()
        if how != "lost":
            last.write_bytes(data[: len(data) // 2] if how == "cut" else b"what is this")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert load_last(last)[0]["number"] == 0 and load_last(last)[1] == previous_of(last)
    (line,) = [record.message for record in caplog.records]
    assert (
        line.startswith(f"{last}: ")
        and line.endswith("going on from the one before it, last.previous.pt")
        and "\n" not in line
    )
    spoil(previous_of(last))
    with pytest.raises(
        InputError,
        match=r"last\.pt: .*; and the one before it, .*last\.previous\.pt: corrupt checkpoint",
    ) as told:
        load_last(last)
    assert "\n" not in str(told.value)


@pytest.mark.slow
def test_without_one_before_a_damaged_one_is_refused(tmp_path):
    save_checkpoint(tmp_path / "last.pt", {"w": torch.arange(5000.0)}, keep=True)
    spoil(tmp_path / "last.pt")
    with pytest.raises(InputError, match=r"last\.pt: corrupt checkpoint"):
        load_last(tmp_path / "last.pt")


# in training
# --------------------------------------------------------------------------------------------------

ONE = {"epochs": 2, "checkpoint_minutes": 1e-9, "ema": 0.9}


@pytest.fixture(scope="module")
def whole(plates, tmp_path_factory):
    config = make_config(plates, tmp_path_factory.mktemp("whole"), [stage(**ONE)])
    train(config)
    return load_checkpoint(jobs_of(config)[0].folder / "last.pt")


def stopped(config, monkeypatch, updates: int) -> Path:
    """Train and die after so many updates, each of which is saved; the last checkpoint."""
    real, done = Trainer._update, []

    def update(self, share):
        if len(done) == updates:
            raise Killed
        real(self, share)
        done.append(share)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_update", update)
        with pytest.raises(Killed):
            train(config)
    return jobs_of(config)[0].folder / "last.pt"


@pytest.mark.slow
def test_training_goes_on_from_the_one_before_to_the_same_bits(
    plates, tmp_path, whole, monkeypatch, caplog
):
    config = make_config(plates, tmp_path, [stage(**ONE)])
    last = stopped(config, monkeypatch, 9)
    before = load_checkpoint(previous_of(last))["progress"]["updates"]
    assert before < load_checkpoint(last)["progress"]["updates"]
    spoil(last)
    kept, save = [], Trainer._save

    def saving(self):
        save(self)
        if len(kept) < 2:
            kept.append(load_checkpoint(previous_of(last))["progress"]["updates"])

    monkeypatch.setattr(Trainer, "_save", saving)
    with caplog.at_level(logging.WARNING):
        train(config)
    # the damaged one did not take the place of the good one before it
    assert kept == [before, before + 1]
    assert (
        len(
            [
                record
                for record in caplog.records
                if "going on from the one before it" in record.message
            ]
        )
        == 1
    )
    state = load_checkpoint(last)
    for part in ("model", "averaged"):
        assert all(torch.equal(values, state[part][name]) for name, values in whole[part].items())
    assert not previous_of(last).exists()  # the stage is finished


@pytest.mark.slow
def test_both_damaged_are_named_and_nothing_is_trained(plates, tmp_path, monkeypatch):
    config = make_config(plates, tmp_path, [stage(**ONE)])
    last = stopped(config, monkeypatch, 4)
    for path in (last, previous_of(last)):
        spoil(path)
    with pytest.raises(
        InputError, match=r"all/all/last\.pt: corrupt .*all/all/last\.previous\.pt: corrupt"
    ):
        train(config)


@pytest.mark.slow
def test_a_stage_before_that_is_damaged_is_not_finished(plates, tmp_path, monkeypatch):
    """Killed between the last save of stage 1 and the removal of the one before it, then damaged:
    its end is trained again.
    """
    stages = [stage(**ONE), stage("second", init="previous", epochs=1)]
    config = make_config(plates, tmp_path, stages)
    last = stopped(config, monkeypatch, 5)
    spoil(last)
    first, second = jobs_of(config)
    assert not is_finished(first)
    with pytest.raises(InputError, match=r"last\.previous\.pt: that stage is not finished"):
        Trainer(second, ALONE, Stop())


@pytest.mark.parametrize("key", ["fold", "held_out"])
def test_a_stage_that_held_out_something_else_is_refused(plates, tmp_path, key):
    """Its training wells could be validated by the stage that starts from it."""
    stages = [stage(**ONE), stage("second", init="previous", epochs=1)]
    first, second = jobs_of(make_config(plates, tmp_path, stages))
    state = Trainer(first, ALONE, Stop()).state_dict()
    state["progress"]["finished"] = True
    second.init.parent.mkdir(parents=True)
    save_checkpoint(second.init, state)
    Trainer(second, ALONE, Stop())
    save_checkpoint(second.init, state | {key: {"fold": 1, "held_out": ["HUVEC-01"]}[key]})
    with pytest.raises(InputError, match=r"last\.pt: was trained on other folds"):
        Trainer(second, ALONE, Stop())


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.slow
def test_a_checkpoint_of_another_config_is_refused_and_what_differs_named(
    plates, tmp_path, monkeypatch, finished
):
    config = make_config(plates, tmp_path, [stage(**ONE)])
    if finished:
        train(config)
    else:
        stopped(config, monkeypatch, 3)
    (config.run_folder / "config.yaml").unlink()  # as where checkpoints alone were copied
    changed = make_config(
        plates,
        tmp_path,
        [stage(**ONE | {"batch_size": 4, "optimizer": {"name": "adamw", "lr": 5e-4}})],
        normalization={"by": "image"},
    )
    what = (
        r"is of another config.*normalization\.by: plate -> image; "
        r"stages\.0\.batch_size: 8 -> 4; stages\.0\.optimizer\.lr: 0\.002 -> 0\.0005"
    )
    with pytest.raises(InputError, match=what):
        train(changed)
    if finished:
        (config.run_folder / "config.yaml").unlink()
        with pytest.raises(InputError, match=what):
            predict(changed)
        same = make_config(
            plates,
            tmp_path,
            [stage(**ONE)],
            data={"workers": 2, "cache_gib": 0.5},
            predict={"tta": 2},
        )
        (config.run_folder / "config.yaml").unlink(missing_ok=True)
        assert is_finished(jobs_of(same)[0])


SMALL_DISK = """
set -e
mount -t tmpfs -o size={size}k tmpfs "$1"
train() {{ "$2" -m cellsignal -q train "$3" 2> "$4/err"; }}
set +e
train "$@"; echo $? > "$4/first"
ls -a "$1"/tiny/seed0/fold0/all/all > "$4/files"
cp "$1"/tiny/seed0/fold0/all/all/last.pt "$4/last.pt"
mv "$4/err" "$4/err1"
mount -o remount,size=100m "$1"
train "$@"; echo $? > "$4/second"
cp "$1"/tiny/seed0/fold0/all/all/last.pt "$4/end.pt"
"""


@pytest.mark.slow
@pytest.mark.slow
def test_a_disk_that_is_really_full(plates, tmp_path, whole):
    """A small tmpfs in a mount namespace of its own, where one may have one: it has room for some
    checkpoints, not for all that a save needs at a time.
    """
    runs, out = tmp_path / "runs", tmp_path / "out"
    runs.mkdir()
    out.mkdir()
    config = make_config(plates, runs, [stage(**ONE)])
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    probe = subprocess.run(
        ["unshare", "-Urm", "mount", "-t", "tmpfs", "tmpfs", str(runs)], capture_output=True
    )
    if probe.returncode:
        pytest.skip("no mount namespaces here")
    one = 2600  # KiB, a little above a checkpoint
    script = SMALL_DISK.format(size=5 * one // 2)
    words = [
        "unshare",
        "-Urm",
        "sh",
        "-c",
        script,
        "sh",
        str(runs),
        sys.executable,
        str(tmp_path / "c.yaml"),
        str(out),
    ]
    subprocess.run(words, check=True, timeout=300)
    assert (out / "first").read_text() == "2\n", (out / "err1").read_text()
    line = (out / "err1").read_text()
    assert line.startswith("error: ") and line.count("\n") == 1
    assert load_checkpoint(out / "last.pt")["progress"]["updates"] > 0
    assert (out / "second").read_text() == "0\n"
    end = load_checkpoint(out / "end.pt")
    assert all(torch.equal(values, end["model"][name]) for name, values in whole["model"].items())


# the file
# --------------------------------------------------------------------------------------------------


def test_checkpoint_round_trip(tmp_path):
    state = {
        "model": {"w": torch.arange(4.0)},
        "progress": {"epoch": 3, "best": None, "history": [{"a": 1.5}]},
    }
    save_checkpoint(tmp_path / "a" / "last.pt", state)
    found = load_checkpoint(tmp_path / "a" / "last.pt")
    assert (
        torch.equal(found["model"]["w"], state["model"]["w"])
        and found["progress"] == state["progress"]
    )
    assert os.listdir(tmp_path / "a") == ["last.pt"]


def test_a_flipped_byte_in_a_checkpoint_is_found(tmp_path):
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"model": {"w": torch.arange(1000.0)}})
    data = bytearray(path.read_bytes())
    place = data.find(torch.arange(1000.0).numpy().tobytes()[400:800])
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"last\.pt: corrupt checkpoint"):
        load_checkpoint(path)


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("exploded",))


def test_pickled_code_never_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"format": "cellsignal-checkpoint-1", "bomb": Bomb()}, "evil.pt")
    with open("plain.pt", "wb") as file:
        pickle.dump(Bomb(), file)
    for name in ("evil.pt", "plain.pt"):
        with pytest.raises(InputError, match="corrupt or foreign"):
            load_checkpoint(tmp_path / name)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04" + b"\0" * 50])
def test_what_is_no_checkpoint(tmp_path, content):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.pt: corrupt or foreign checkpoint"):
        load_checkpoint(tmp_path / "x.pt")


def test_a_foreign_checkpoint_is_refused(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "x.pt")
    with pytest.raises(InputError, match="not a checkpoint of cellsignal"):
        load_checkpoint(tmp_path / "x.pt")


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"model": {"w": torch.ones(2)}})

    def full(*_, **__):
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InputError, match=r"last\.pt: could not be written .*untouched"):
        save_checkpoint(path, {"model": {"w": torch.zeros(2)}})
    monkeypatch.undo()
    assert torch.equal(load_checkpoint(path)["model"]["w"], torch.ones(2)) and os.listdir(
        tmp_path
    ) == ["last.pt"]

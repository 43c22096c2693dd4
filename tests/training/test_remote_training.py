"""A training from a remote store ends in the weights of one from the local store; so does one that
is killed and run again.
"""

import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import yaml
from helpers import cellsignal
from range_server import serving
from remote_store import Flaky
from tiny import make_config, stage

from cellsignal.common.errors import InputError
from cellsignal.common.files import open_arrays
from cellsignal.common.places import RemoteFolder
from cellsignal.config import load_config
from cellsignal.config.load import dump_config
from cellsignal.data import transfer
from cellsignal.data.sharding import write_shards
from cellsignal.prediction.predict import predict
from cellsignal.training.checkpoints import load_checkpoint
from cellsignal.training.run import train

URL = "flaky://store"


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path, plates):
    monkeypatch.setattr(transfer, "FIRST_WAIT", 0.0)
    monkeypatch.setenv("CELLSIGNAL_CACHE", str(tmp_path / "cache"))
    Flaky.serve(plates)


def weights(config) -> dict[str, torch.Tensor]:
    (path,) = config.run_folder.rglob("last.pt")
    return load_checkpoint(path)["model"]


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
@pytest.mark.parametrize(
    "data",
    [
        {"workers": 2, "cache_gib": 0.0},
        {"workers": 0, "cache_gib": 1.0, "cache_disk_gib": 0.0},
        {"workers": 2, "cache_gib": 0.0, "pipeline": "albumentations"},
    ],
    ids=["threads", "in memory", "processes"],
)
def test_weights_and_predictions_are_those_of_the_local_store(plates, tmp_path, data):
    pipeline = {"pipeline": data.get("pipeline", "auto")}
    local = make_config(plates, tmp_path / "local", [stage(epochs=1)], data=pipeline)
    remote = make_config(plates, tmp_path / "remote", [stage(epochs=1)], data=data | {"store": URL})
    assert isinstance(remote.data.store, RemoteFolder)
    train(local)
    Flaky.plan += [TimeoutError("once"), "ok", ConnectionResetError("twice")]
    train(remote)
    assert same(weights(local), weights(remote))
    if pipeline["pipeline"] == "auto":
        for one, other in zip(predict(local), predict(remote), strict=True):
            with open_arrays(one) as first, open_arrays(other) as second:
                names = [name for name in first.files if first[name].dtype.kind == "f"]
                assert names and first.files == second.files
                for name in names:
                    np.testing.assert_array_equal(first[name], second[name])


@pytest.mark.slow
def test_weights_are_those_of_the_site_files_from_local_and_remote_shards(plates, tmp_path):
    source, shards = plates / "store", tmp_path / "served/shards"
    report = write_shards(source, shards, 0.1)
    assert report.shards > 2
    Flaky.serve(tmp_path / "served")
    stores = {"site": source, "shards": shards, "remote": "flaky://shards"}
    configs = [
        make_config(plates, tmp_path / name, [stage(epochs=1)], data={"store": str(store)})
        for name, store in stores.items()
    ]
    for config in configs:
        train(config)
    site, *others = map(weights, configs)
    assert all(same(site, other) for other in others)
    moved = make_config(plates, tmp_path / "site", [stage(epochs=1)], data={"store": str(shards)})
    train(moved)  # it is the same run, and has ended
    assert same(site, weights(moved))


def test_a_run_may_move_from_the_local_store_to_its_copy(plates, tmp_path):
    """Where the store is, and how it is cached, are no part of what a run is."""
    local = make_config(plates, tmp_path / "runs", [stage(epochs=1)])
    train(local)
    before = weights(local)
    moved = make_config(
        plates, tmp_path / "runs", [stage(epochs=1)], data={"store": URL, "requests": 3}
    )
    train(moved)
    assert same(before, weights(moved))


def test_the_url_survives_a_config_file(plates, tmp_path):
    text = dump_config(make_config(plates, tmp_path / "runs"))
    tree = yaml.safe_load(text)
    tree["data"] |= {"store": "s3://bucket/a/b.zarr/", "cache_disk_gib": 3, "requests": 5}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(tree))
    config = load_config(tmp_path / "c.yaml")
    assert config.data.store == RemoteFolder("s3://bucket/a/b.zarr", 3.0, 5)
    again = yaml.safe_load(dump_config(config))
    assert again["data"]["store"] == "s3://bucket/a/b.zarr"
    other = load_config(tmp_path / "c.yaml", ["data.store=https://host/x.zarr"])
    assert str(other.data.store) == "https://host/x.zarr" and other.data.store.requests == 5
    for wrong in ("https://me:secret@host/x.zarr", "https://host/x.zarr?key=secret"):
        with pytest.raises(InputError, match=r"data\.store: ") as caught:
            load_config(tmp_path / "c.yaml", [f"data.store={wrong}"])
        assert "secret" not in str(caught.value) and "\n" not in str(caught.value)


def test_packing_into_a_url_is_refused(plates, tmp_path, capsys):
    (tmp_path / "c.yaml").write_text(
        dump_config(make_config(plates, tmp_path / "runs", data={"store": "s3://bucket/x.zarr"}))
    )
    assert cellsignal("prepare", tmp_path / "c.yaml", cwd=tmp_path) == 2
    error = capsys.readouterr().err.strip()
    assert error.count("\n") == 0 and "s3://bucket/x.zarr is read only" in error
    assert "aws s3 sync stores/x.zarr s3://bucket/x.zarr" in error


def test_no_store_at_a_url_is_one_line(plates, tmp_path, capsys):
    (tmp_path / "c.yaml").write_text(
        dump_config(make_config(plates, tmp_path / "runs", data={"store": "flaky://none"}))
    )
    assert cellsignal("train", tmp_path / "c.yaml", cwd=tmp_path) == 2
    error = capsys.readouterr().err.strip()
    assert "flaky://none: there is no store" in error and error.count("\n") == 0


@pytest.mark.slow
def test_killed_and_run_again_from_a_web_server(plates, tmp_path):
    """SIGKILL amid an epoch, and a server that fails now and then."""
    pytest.importorskip("aiohttp")
    stages = [stage(epochs=3, checkpoint_minutes=1e-6, ema=0.9)]
    whole = make_config(plates, tmp_path / "whole", stages)
    train(whole)
    with serving(plates) as server:
        store = {"store": f"{server.url}/store", "workers": 2, "cache_gib": 0.0}
        killed = make_config(plates, tmp_path / "killed", stages, data=store)
        (tmp_path / "killed.yaml").write_text(dump_config(killed))
        command = [sys.executable, "-m", "cellsignal.cli", "-q", "train"]
        last = killed.run_folder / "fold0/all/all/last.pt"
        server.plan += [503, "ok", "cut", "ok", "ok", 500]
        server.delay = 0.02  # of each image: not finished before it is seen
        process = subprocess.Popen(
            [*command, str(tmp_path / "killed.yaml")],
            env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
        )
        deadline = time.monotonic() + 120
        while not last.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        process.kill()
        process.wait()
        server.delay = 0
        assert last.exists() and not load_checkpoint(last)["progress"]["finished"]
        train(killed)
    assert same(weights(whole), weights(killed))

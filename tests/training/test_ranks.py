"""One process and two. What two processes do is in two_ranks.py, run once by torchrun on gloo; the
truth is numpy's and one process's.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cellsignal import __version__
from cellsignal.common.errors import InputError
from cellsignal.training import ranks as ranks_module
from cellsignal.training.ranks import this_process

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
GOOD = {
    "RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "localhost",
    "MASTER_PORT": "29500",
}


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> list[dict]:
    """What each of two processes saw."""
    folder = tmp_path_factory.mktemp("two")
    environment = {name: value for name, value in os.environ.items() if name not in NAMES}
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    words = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        Path(__file__).with_name("two_ranks.py"),
        folder,
    ]
    done = subprocess.run(
        [sys.executable, *words], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture
def environment(monkeypatch):
    def put(**values: str) -> None:
        for name in NAMES:
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return put


@pytest.mark.slow
def test_two_processes_know_who_they_are_and_wait(two):
    assert [(one["rank"], one["world"], one["first"], one["device"]) for one in two] == [
        (0, 2, True, "cpu"),
        (1, 2, False, "cpu"),
    ]
    assert two[0]["waits"] and two[1]["waits"]


@pytest.mark.slow
def test_arrays_are_summed_to_the_bit(two):
    for one in two:
        assert len(one["sums"]) == 13 and all(one["sums"].values()), one["sums"]


@pytest.mark.slow
def test_values_travel(two):
    for one in two:
        assert one["gathers"] and one["share"] == {"step": 3, "path": "a.csv"}
        assert one["adds_up"] == [[3.0, 30.0], [1, 10]]


@pytest.mark.slow
def test_processes_that_were_not_started_alike_are_all_refused(two):
    assert (
        two[0]["refuses"] == two[1]["refuses"]
        and "'config 0', rank 1 has 'config 1'" in two[0]["refuses"]
    )


@pytest.mark.slow
@pytest.mark.parametrize("batch_norm", ["False", "True"])
def test_gradients_are_those_of_one_process_on_both_halves(two, batch_norm):
    first, second = (one["gradients"][batch_norm] for one in two)
    for one in first, second:
        assert one["same_weights"] and one["distance"] < 1e-6 and one["scale"] > 1e-3
    assert first["gradients"] == second["gradients"]


@pytest.mark.slow
def test_batch_norm_buffers_stay_each_process_s_own(two):
    first, second = (one["gradients"]["True"] for one in two)
    assert first["buffers"] != second["buffers"]


@pytest.mark.slow
def test_batch_norm_statistics_are_those_of_all_images(two):
    for first, second in zip(two[0]["statistics"], two[1]["statistics"], strict=True):
        assert first["digest"] == second["digest"]
        assert first["distance"] < 1e-6
    assert two[0]["nothing_to_train"]


@pytest.mark.parametrize(
    "values", [{}, {"WORLD_SIZE": "1"}, GOOD | {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}]
)
def test_one_process_is_alone_and_nothing_is_copied(environment, monkeypatch, values):
    environment(**values)
    monkeypatch.setitem(sys.modules, "accelerate", None)  # importing it would raise
    us = this_process()
    assert (us.rank, us.world, us.first) == (0, 1, True) and not torch.distributed.is_initialized()
    array, tensor, module = np.ones(3), torch.ones(2), nn.Linear(2, 2)
    assert us.sum_array(array) is array and us.gather(array) == [array] and us.share(array) is array
    us.add_up(tensor)
    assert tensor.tolist() == [1, 1] and us.wrap(module, unused=False) is module
    us.same_everywhere("config")
    us.barrier()
    us.close()


@pytest.mark.parametrize(
    "values, message",
    [
        ({"WORLD_SIZE": "2"}, "RANK is not set"),
        ({"RANK": "0", "LOCAL_RANK": "0"}, "WORLD_SIZE is not set"),
        (GOOD | {"MASTER_ADDR": ""}, "MASTER_ADDR is not set"),
        (GOOD | {"RANK": "2", "WORLD_SIZE": "2"}, "RANK 2, WORLD_SIZE 2"),
        (GOOD | {"RANK": "0"}, "LOCAL_RANK 1 cannot be"),
        ({"RANK": "1", "WORLD_SIZE": "1"}, "RANK 1, WORLD_SIZE 1"),
        (GOOD | {"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'"),
        (GOOD | {"RANK": "-1"}, "RANK is '-1'"),
    ],
)
def test_environments_that_cannot_be_are_refused(environment, values, message):
    environment(**values)
    with pytest.raises(InputError, match=message):
        this_process()


def test_more_processes_than_gpus_are_refused(environment, monkeypatch):
    environment(**GOOD)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(
        InputError, match="more processes than GPUs: LOCAL_RANK is 1, GPUs to be seen are 1"
    ):
        this_process()


@pytest.mark.slow
def test_the_package_starts_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "cellsignal", "--version"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.strip()) == (0, __version__), done.stderr


@pytest.mark.parametrize(
    ("minutes", "seconds"), [(None, 1800), ("", 1800), ("10", 600), ("0.05", 3)]
)
def test_how_long_a_process_waits_is_told_by_the_environment(minutes, seconds, monkeypatch):
    monkeypatch.delenv("CELLSIGNAL_PATIENCE_MINUTES", raising=False)
    if minutes is not None:
        monkeypatch.setenv("CELLSIGNAL_PATIENCE_MINUTES", minutes)
    assert ranks_module._patience().total_seconds() == seconds


@pytest.mark.parametrize("minutes", ["soon", "0", "-1", "nan", "inf", "1e300"])
def test_no_patience_is_refused(minutes, monkeypatch):
    monkeypatch.setenv("CELLSIGNAL_PATIENCE_MINUTES", minutes)
    with pytest.raises(InputError, match="CELLSIGNAL_PATIENCE_MINUTES"):
        ranks_module._patience()

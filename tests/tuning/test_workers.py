"""Where workers compute, and what stops them."""

import subprocess
import sys
import time

import pytest

from cellsignal.common.errors import InputError, OutOfTime
from cellsignal.common.stopping import Stop
from cellsignal.tuning import workers
from cellsignal.tuning.workers import environment_of


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("0,1", ["0", "1", "0"]),
        ("3", ["3", "3", "3"]),
        ("GPU-8f2a, GPU-91bc,GPU-aa", ["GPU-8f2a", "GPU-91bc", "GPU-aa"]),
    ],
)
def test_each_worker_has_a_gpu_of_its_own(monkeypatch, visible, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    environments = [environment_of(number, 3) for number in range(3)]
    assert environments == [{"CUDA_VISIBLE_DEVICES": name} for name in expected]


def test_without_gpus_workers_share_the_cores(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(workers, "threads_of_each", lambda processes: 16 // processes)
    assert environment_of(1, 2) == {"OMP_NUM_THREADS": "8"}


def test_the_worst_of_the_workers_decides_the_end():
    with pytest.raises(OutOfTime) as error:
        workers._raise_for([0, 75], Stop())
    assert error.value.status == 75
    with pytest.raises(InputError, match="worker 1 ended with status -9; the same command resumes"):
        workers._raise_for([0, -9], Stop())


def test_a_worker_stops_when_its_parent_is_gone():
    program = (
        "import time; from cellsignal.tuning.workers import _stop_with_parent as watch; watch();"
        "print('up', flush=True); time.sleep(60)"
    )
    worker = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert worker.stdout.readline() == b"up\n"
    time.sleep(0.1)
    assert worker.poll() is None
    worker.stdin.close()
    assert worker.wait(20) == -15
    worker.stdout.close()

"""The Slurm scripts and those for several machines, run by bash with an `srun` and an `scontrol`
that note their words.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cellsignal.cloud.commands import add_cloud_commands
from cellsignal.cloud.torchrun import status_of
from cellsignal.common.errors import InputError

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parent.parent.parent
CONFIG = "configs/rxrx1/one_hour.yaml"


def cloud(*words) -> None:
    parser = argparse.ArgumentParser()
    add_cloud_commands(parser)
    arguments = parser.parse_args([*map(str, words)])
    arguments.run(arguments)


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch):
    monkeypatch.chdir(REPOSITORY)


@pytest.fixture
def programs(tmp_path):
    """A folder with srun (ends with $SRUN_STATUS, or at SIGTERM with 143 after $SRUN_SECONDS),
    scontrol and sbatch.
    """
    folder = tmp_path / "bin"
    folder.mkdir()
    note = f'echo "${{0##*/}} $* deadline=${{CELLSIGNAL_DEADLINE:-none}}" >> {tmp_path}/called\n'
    texts = {
        "srun": f"trap 'echo told >> {tmp_path}/called; sleep 0.2; exit 143' TERM\n{note}"
        'if [ -n "${SRUN_SECONDS:-}" ]; then sleep "$SRUN_SECONDS" & wait $!; fi\nexit '
        '"${SRUN_STATUS:-0}"\n',
        "scontrol": f'{note}[ "$1" != show ] || printf "node7\\nnode8\\n"\n',
        "sbatch": f"{note}echo '4711;here'\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}")
        (folder / name).chmod(0o755)
    return folder


def environment(programs: Path, **more) -> dict[str, str]:
    job = {"ID": "815", "NUM_NODES": "2", "NODELIST": "node[7-8]"}
    slurm = {"SLURM_SUBMIT_DIR": str(REPOSITORY), "SLURM_ARRAY_TASK_ID": "0"} | {
        f"SLURM_JOB_{name}": value for name, value in job.items()
    }
    return (
        os.environ
        | slurm
        | {"PATH": f"{programs}:{os.environ['PATH']}"}
        | {name: str(value) for name, value in more.items()}
    )


def called(tmp_path: Path) -> list[list[str]]:
    return [shlex.split(line) for line in (tmp_path / "called").read_text().splitlines()]


@pytest.fixture
def script(tmp_path) -> Path:
    cloud("slurm", CONFIG, "--nodes", 2, "--gpus", 4, "--out", tmp_path / "slurm")
    return tmp_path / "slurm" / "folds.sbatch"


def run(script: Path, programs: Path, **more) -> int:
    return subprocess.run(
        ["bash", script], env=environment(programs, **more), capture_output=True, timeout=60
    ).returncode


def test_every_script_is_bash(script, tmp_path, capsys):
    cloud("torchrun", CONFIG, "--endpoint", "node7")
    (tmp_path / "slurm" / "several.sh").write_text(capsys.readouterr().out.split("launch.sh\n")[-1])
    for path in (tmp_path / "slurm").iterdir():
        done = subprocess.run(["bash", "-n", path], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), path
    directives = {
        line.split()[1] for line in script.read_text().splitlines() if line.startswith("#SBATCH")
    }
    assert {
        "--requeue",
        "--signal=B:USR1@300",
        "--array=0-1",
        "--nodes=2",
        "--gpus-per-node=4",
        "--ntasks-per-node=1",
    } <= directives
    first_command = next(
        number
        for number, line in enumerate(script.read_text().splitlines())
        if line and not line.startswith("#")
    )
    # Slurm would not read them
    assert all(
        not line.startswith("#SBATCH") for line in script.read_text().splitlines()[first_command:]
    )


def test_a_task_trains_and_predicts_its_fold_on_all_nodes(script, programs, tmp_path):
    for task, folds in (
        ("0", ["folds.use=[0]", "folds.full=false"]),
        ("1", ["folds.use=[]", "folds.full=true"]),
    ):
        (tmp_path / "called").write_text("")
        assert (
            run(script, programs, SLURM_ARRAY_TASK_ID=task, SLURM_JOB_END_TIME=2_000_000_000) == 0
        )
        steps = [words for words in called(tmp_path) if words[0] == "srun"]
        assert [words[words.index("cellsignal") + 1] for words in steps] == ["train", "predict"]
        for words in steps:
            verb = words[words.index("cellsignal") + 1]
            assert (
                words[-6:-1] == [CONFIG, "--set", folds[0], "--set", folds[1]]
                and words[-1] == "deadline=1999999700"
            )
            assert (
                words[words.index("--rdzv_endpoint") + 1] == f"node7:{29500 + 815}"
                and words[words.index("--rdzv_id") + 1] == f"815-{verb}"
            )
            assert (
                words[words.index("--nnodes") + 1] == "2"
                and words[words.index("--nproc_per_node") + 1] == "4"
            )
        assert not any("requeue" in words for words in called(tmp_path))


@pytest.mark.parametrize(("status", "requeued"), [(75, True), (2, False), (1, False), (137, False)])
def test_only_time_that_is_up_puts_a_task_back(status, requeued, script, programs, tmp_path):
    assert run(script, programs, SRUN_STATUS=status) == status
    calls = called(tmp_path)
    # a failed training is not predicted with
    assert sum(words[0] == "srun" for words in calls) == 1
    assert (["scontrol", "requeue", "815", "deadline=none"] in calls) == requeued


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_slurms_notice_reaches_training_and_puts_the_task_back(number, script, programs, tmp_path):
    task = subprocess.Popen(["bash", script], env=environment(programs, SRUN_SECONDS=30))
    until = time.monotonic() + 20
    while not (tmp_path / "called").exists() or "srun" not in (tmp_path / "called").read_text():
        assert time.monotonic() < until
        time.sleep(0.02)
    task.send_signal(number)
    assert task.wait(20) == 75
    assert ["told"] in called(tmp_path) and called(tmp_path)[-1][:3] == [
        "scontrol",
        "requeue",
        "815",
    ]


@pytest.mark.slow
def test_a_real_training_goes_through_the_queue_to_its_predictions(
    prepared, programs, tmp_path, monkeypatch
):
    """`srun` runs the command; Slurm gives notice in the middle, the task is started again as Slurm
    would, until it is done.
    """
    space = prepared("rxrx1").copy(tmp_path / "space")
    (programs / "srun").write_text('#!/bin/bash\nshift\nexec "$@"\n')
    monkeypatch.chdir(space.folder)
    more = ("--set", "stages.0.epochs=8", "--set", "stages.0.checkpoint_minutes=1e-9")
    cloud("slurm", "config.yaml", *more, "--python", sys.executable, "--out", tmp_path / "slurm")
    env = environment(programs, SLURM_SUBMIT_DIR=space.folder)
    statuses = []
    for _ in range(2):
        task = subprocess.Popen(["bash", tmp_path / "slurm" / "folds.sbatch"], env=env)
        until = time.monotonic() + 120
        while not statuses and not (space.run_folder / "fold0/all/all/last.pt").exists():
            assert time.monotonic() < until and task.poll() is None
            time.sleep(0.02)
        if not statuses:
            task.send_signal(signal.SIGUSR1)
        statuses.append(task.wait(120))
    assert statuses == [75, 0] and [words[:3] for words in called(tmp_path)] == [
        ["scontrol", "requeue", "815"]
    ]
    assert {path.name for path in (space.run_folder / "predictions").iterdir()} == {
        "fold0_all.npz",
        "fold0_cell_type.npz",
    }


def test_a_task_that_never_ends_is_given_up(script, programs, tmp_path):
    assert run(script, programs, SRUN_STATUS=75, SLURM_RESTART_COUNT=100) == 1
    assert not any("requeue" in words for words in called(tmp_path))


def test_the_submission_waits_for_all_folds(script, programs, tmp_path):
    assert (
        subprocess.run(
            [script.parent / "launch.sh"], env=environment(programs), capture_output=True
        ).returncode
        == 0
    )
    first, second = called(tmp_path)
    assert first[:3] == ["sbatch", "--parsable", str(script)]
    assert "--dependency=afterok:4711" in second and str(script.parent / "submit.sbatch") in second
    assert (
        "cellsignal submit configs/rxrx1/one_hour.yaml --out runs/rxrx1_one_hour/submission.csv"
        in (script.parent / "submit.sbatch").read_text()
    )


def test_one_gpu_needs_no_torchrun(tmp_path):
    cloud("slurm", CONFIG, "--folds", 2, "--partition", "gpu", "--out", tmp_path)
    text = (tmp_path / "folds.sbatch").read_text()
    assert (
        "torchrun" not in text.split("set -uo pipefail")[1]
        and "#SBATCH --partition=gpu" in text
        and "#SBATCH --array=0-0" in text
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("slurm", CONFIG, "--time", "soon"), "--time soon"),
        (("slurm", CONFIG, "--nodes", "0"), "--nodes"),
        (("slurm", CONFIG, "--partition", "a b"), "is not a name"),
        (("torchrun", CONFIG, "--endpoint", ":29500"), "--endpoint"),
        (("torchrun", CONFIG, "--endpoint", "a", "--nodes", "0"), "--nodes 0"),
    ],
)
def test_bad_words_are_refused(words, said, tmp_path):
    with pytest.raises(InputError, match=said):
        cloud(*words, *(["--out", tmp_path] if words[0] == "slurm" else []))


def test_several_machines_stop_at_the_first_failure_and_hand_its_status_on(
    programs, tmp_path, capsys
):
    cloud(
        "torchrun",
        CONFIG,
        "--nodes",
        2,
        "--processes",
        3,
        "--endpoint",
        "node7:1234",
        "--python",
        "srun",
    )
    text = capsys.readouterr().out
    for status, verbs in ((75, ["train"]), (0, ["train", "predict", "train", "predict"])):
        (tmp_path / "called").write_text("")
        done = subprocess.run(["bash", "-c", text], env=environment(programs, SRUN_STATUS=status))
        steps = called(tmp_path)
        assert (
            done.returncode == status
            and [words[words.index("cellsignal") + 1] for words in steps] == verbs
        )
        assert all(
            words[words.index("--rdzv_endpoint") + 1] == "node7:1234" and "--max_restarts" in words
            for words in steps
        )


@pytest.mark.parametrize(
    ("codes", "status"),
    [
        ([75, 75], 75),
        ([75, -15], 75),
        ([-9, 1], 1),
        ([1, -15, -15], 1),
        ([-9], 137),
        ([-9, -15], 137),
        ([2, 2], 2),
        ([2, 75], 2),
        ([143], 143),
        ([1, 75], 75),
    ],
)
def test_one_status_for_several_processes(codes, status):
    assert status_of(codes) == status


# packing in parts
# --------------------------------------------------------------------------------------------------


@pytest.fixture
def packing(tmp_path) -> Path:
    """The scripts of a config whose Python is a stand-in: it notes its words, waits, and ends with
    $STATUS, or at SIGTERM with 143.
    """
    python = tmp_path / "python"
    python.write_text(
        f"#!/bin/bash\ntrap 'echo told >> {tmp_path}/called; exit 143' TERM\n"
        f'echo "python $* deadline=${{CELLSIGNAL_DEADLINE:-none}}" >> {tmp_path}/called\n'
        'if [ -n "${SECONDS_TO_WAIT:-}" ]; then sleep "$SECONDS_TO_WAIT" & wait $!; fi\n'
        'exit "${STATUS:-0}"\n'
    )
    python.chmod(0o755)
    out = tmp_path / "slurm"
    cloud("slurm", CONFIG, "--pack", 51, "--cpus", 4, "--python", python, "--out", out)
    return out


def test_a_task_packs_its_part(packing, programs, tmp_path):
    for path in packing.iterdir():
        assert subprocess.run(["bash", "-n", path]).returncode == 0, path
    script = packing / "pack.sbatch"
    assert "#SBATCH --array=1-51\n" in script.read_text() and "--gpus" not in script.read_text()
    end = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_JOB_END_TIME": "1000"}
    assert run(script, programs, **end) == 0
    wanted = ["-m", "cellsignal", "prepare", CONFIG, "--set", "data.workers=4", "--part", "7/51"]
    assert called(tmp_path) == [["python", *wanted, "deadline=700"]]
    assert run(packing / "merge.sbatch", programs) == 0
    assert called(tmp_path)[-1][-3:-1] == ["--merge", "51"]


@pytest.mark.parametrize(("status", "requeued"), [(2, False), (75, True), (1, False), (137, False)])
def test_a_part_out_of_time_is_queued_again_and_a_bad_one_is_not(
    packing, programs, tmp_path, status, requeued
):
    assert run(packing / "pack.sbatch", programs, STATUS=status) == status
    words = [line[:2] for line in called(tmp_path)]
    assert (["scontrol", "requeue"] in words) is requeued
    if requeued:
        end = {"STATUS": status, "SLURM_RESTART_COUNT": 100}
        assert run(packing / "pack.sbatch", programs, **end) == 1


def test_notice_before_the_limit_is_handed_on_to_the_packing(packing, programs, tmp_path):
    job = subprocess.Popen(
        ["bash", packing / "pack.sbatch"], env=environment(programs, SECONDS_TO_WAIT=30)
    )
    until = time.monotonic() + 20
    while not (tmp_path / "called").exists() and time.monotonic() < until:
        time.sleep(0.05)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(20) == 75
    assert ["told"] in called(tmp_path) and called(tmp_path)[-1][:2] == ["scontrol", "requeue"]


def test_packing_comes_first_and_each_waits_for_the_one_before(packing, programs, tmp_path):
    assert run(packing / "launch.sh", programs) == 0
    calls = called(tmp_path)
    scripts = [Path(next(w for w in line if w.endswith(".sbatch"))).stem for line in calls]
    assert scripts == ["pack", "merge", "folds", "submit"]
    assert "--dependency=afterok:4711" not in calls[0]
    assert all("--dependency=afterok:4711" in line for line in calls[1:])


def test_no_number_of_parts_is_refused(tmp_path):
    with pytest.raises(InputError, match="--pack 0: a number of parts from 1"):
        cloud("slurm", CONFIG, "--pack", 0, "--out", tmp_path)


@pytest.mark.parametrize("folder", ["my jobs", "."])
def test_the_next_command_can_be_pasted(folder):
    """A folder with a space is quoted; a script of the working folder has a slash."""
    import shlex

    from cellsignal.cloud.commands import _launcher

    words = shlex.split(_launcher(Path(folder)))
    assert len(words) == 1 and "/" in words[0]
    assert Path(words[0]) == Path(folder) / "launch.sh"

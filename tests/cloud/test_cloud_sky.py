"""SkyPilot task files: what they say, SkyPilot's own reading of them, and the script that launches
them, with a `sky` that only notes its words.
"""

import argparse
import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from cellsignal.cloud.commands import add_cloud_commands
from cellsignal.common.errors import InputError

REPOSITORY = Path(__file__).resolve().parent.parent.parent
TWO_STAGE = "configs/rxrx1/two_stage_resnet50.yaml"
ONE_HOUR = "configs/rxrx1/one_hour.yaml"
BUCKET = ("--bucket", "s3://some-cells/rcic")


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch):
    monkeypatch.chdir(REPOSITORY)


def cloud(*words) -> None:
    parser = argparse.ArgumentParser()
    add_cloud_commands(parser)
    arguments = parser.parse_args([*map(str, words)])
    arguments.run(arguments)


def tasks(out: Path, *words, config=TWO_STAGE) -> dict[str, dict]:
    cloud("tasks", config, *(() if "--bucket" in words else BUCKET), *words, "--out", out)
    return {path.stem: yaml.safe_load(path.read_text()) for path in out.glob("*.yaml")}


def test_one_managed_job_a_fold(tmp_path):
    found = tasks(tmp_path, "--gpu", "L4:1,A100:1", "--set", "stages.0.epochs=3")
    assert set(found) == {"prepare", *(f"fold{k}" for k in range(5)), "submit"}
    for k in range(5):
        task = found[f"fold{k}"]
        assert (
            task["resources"]["accelerators"] == {"L4": 1, "A100": 1}
            and task["resources"]["use_spot"] is True
        )
        assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [75, 143]
        runs = task["file_mounts"]["~/runs"]
        assert runs == {"source": "s3://some-cells/rcic/runs", "mode": "MOUNT_CACHED"}
        assert task["file_mounts"]["~/store"] == {
            "source": "s3://some-cells/rcic/store/rxrx1.zarr",
            "mode": "COPY",
        }
        same = f"{TWO_STAGE} --set stages.0.epochs=3 --set 'folds.use=[{k}]' --set folds.full=false"
        assert task["run"].splitlines()[-2:] == [
            f".venv/bin/python -m cellsignal {verb} {same}" for verb in ("train", "predict")
        ]
    assert len({task["name"] for task in found.values()}) == len(found)
    assert (
        "accelerators" not in found["submit"]["resources"]
        and found["submit"]["resources"]["use_spot"] is False
    )
    assert (
        found["prepare"]["run"]
        .rstrip()
        .endswith(f"-m cellsignal prepare {TWO_STAGE} --set stages.0.epochs=3")
    )


def test_some_folds_the_full_model_several_gpus_a_budget_and_a_checkout(tmp_path):
    assert set(tasks(tmp_path / "a", config=ONE_HOUR)) == {"prepare", "fold0", "full", "submit"}
    found = tasks(
        tmp_path / "b",
        "--gpu",
        "H100:4",
        "--no-spot",
        "--hours",
        "1.5",
        "--folds",
        "3",
        "--git",
        "https://example.org/a/b.git@v1",
        config=ONE_HOUR,
    )
    assert (
        set(found) == {"prepare", "fold3", "submit"}
        and found["fold3"]["resources"]["use_spot"] is False
    )
    run = found["fold3"]["run"]
    assert (
        "-m cellsignal.cloud.torchrun --standalone --nproc_per_node 4 --max_restarts 0 -m "
        "cellsignal train" in run
    )
    assert "export CELLSIGNAL_DEADLINE=$(($(date +%s) + 5400))\n" in run
    assert found["fold3"]["workdir"] == {"url": "https://example.org/a/b.git", "ref": "v1"}
    assert tasks(tmp_path / "c", "--git", "https://user@example.org/a")["fold0"]["workdir"] == {
        "url": "https://user@example.org/a"
    }


def test_the_run_script_links_the_mounts_to_where_the_config_looks(tmp_path):
    """The script of a fold in a home of its own, with a python that notes its words; twice, as on a
    machine that is used again.
    """
    run = tasks(tmp_path / "tasks")["fold1"]["run"]
    home, work = tmp_path / "home", tmp_path / "home" / "checkout"
    python = work / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$*" >> words\n[ "$3" != predict ] || exit 75\n')
    python.chmod(0o755)
    for _ in range(2):
        assert (
            subprocess.run(
                ["bash", "-c", run], cwd=work, env=os.environ | {"HOME": str(home)}
            ).returncode
            == 75
        )
    assert (work / "stores/rxrx1.zarr").resolve() == home / "store" and (
        work / "runs"
    ).resolve() == home / "runs"
    verbs = [
        line.split()[2]
        for line in (work / "words").read_text().splitlines()
        if line.startswith("-m cellsignal")
    ]
    assert verbs == ["train", "predict", "train", "predict"]


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--gpu", "L4:2,A100:2", "--hours", "8", "--store-mode", "MOUNT_CACHED"),
        ("--no-spot", "--git", "https://example.org/a/b@v1"),
        ("--bucket", "gs://some-cells", "--store-mode", "MOUNT"),
    ],
)
def test_skypilot_reads_every_task(words, tmp_path, monkeypatch):
    """Checked with SkyPilot 0.14.1; it is not a requirement of this package."""
    monkeypatch.setenv("SKYPILOT_DISABLE_USAGE_COLLECTION", "1")
    monkeypatch.setenv("HOME", str(tmp_path))
    sky = pytest.importorskip("sky")
    found = tasks(tmp_path / "tasks", *words)
    for name, written in found.items():
        task = sky.Task.from_yaml(str(tmp_path / "tasks" / f"{name}.yaml"))
        assert (
            task.name == written["name"]
            and task.run == written["run"]
            and task.setup == written["setup"]
        )
        for resources in task.resources:
            assert resources.use_spot == written["resources"]["use_spot"]
            if name.startswith("fold"):
                assert (
                    resources.job_recovery["recover_on_exit_codes"] == [75, 143]
                    and len(resources.accelerators) == 1
                )
        modes = {place: storage.mode.value for place, storage in task.storage_mounts.items()}
        assert modes == {place: mount["mode"] for place, mount in written["file_mounts"].items()}


@pytest.fixture
def fake_sky(tmp_path):
    """(words of launch.sh, names in the queue) -> (exit status, the names that were launched in
    order).
    """
    tasks(tmp_path / "tasks")
    sky = tmp_path / "bin" / "sky"
    sky.parent.mkdir()
    sky.write_text(
        f'#!/bin/bash\nif [ "$2" = queue ]; then cat {tmp_path}/queue; exit; fi\n[ -f "${{@: '
        f'-1}}" ] || exit 9\necho "$*" >> {tmp_path}/launched\n'
    )
    sky.chmod(0o755)

    def launch(*words, queue=(), cwd=REPOSITORY):
        (tmp_path / "queue").write_text(
            json.dumps([{"job_id": 1, "job_name": name} for name in queue])
        )
        (tmp_path / "launched").write_text("")
        env = os.environ | {"PATH": f"{sky.parent}:{os.environ['PATH']}"}
        done = subprocess.run(
            [tmp_path / "tasks" / "launch.sh", *words],
            cwd=cwd,
            env=env,
            capture_output=True,
            text=True,
        )
        return done.returncode, [
            line.split() for line in (tmp_path / "launched").read_text().splitlines()
        ]

    return launch


NAME = "rxrx1-two-stage-resnet50-seed0"


def test_one_command_launches_all_folds_and_none_twice(fake_sky):
    status, launched = fake_sky()
    assert status == 0 and sorted(words[3] for words in launched) == [
        f"{NAME}-fold{k}" for k in range(5)
    ]
    assert all(
        words[:3] == ["jobs", "launch", "-n"] and {"-y", "--detach-run"} <= set(words)
        for words in launched
    )
    status, launched = fake_sky(
        queue=[f"{NAME}-fold1", f"{NAME}-fold4", f"{NAME}-fold", f"other-{NAME}-fold0"]
    )
    assert status == 0 and sorted(words[3] for words in launched) == [
        f"{NAME}-fold{k}" for k in (0, 2, 3)
    ]


def test_all_goes_from_packing_to_the_submission(fake_sky, tmp_path):
    status, launched = fake_sky("all")
    names = [words[3].removeprefix(f"{NAME}-") for words in launched]
    assert (
        status == 0
        and names[0] == "prepare"
        and names[-1] == "submit"
        and sorted(names[1:-1]) == [f"fold{k}" for k in range(5)]
    )
    assert not any("--detach-run" in words for words in launched)
    assert fake_sky("all", queue=[f"{NAME}-fold3"]) == (2, [])
    assert fake_sky("nonsense")[0] == 2 and fake_sky(cwd=tmp_path) == (2, [])
    (tmp_path / "tasks" / "fold2.yaml").unlink()  # launching it fails: no submission
    status, launched = fake_sky("all")
    assert status != 0 and NAME + "-submit" not in [words[3] for words in launched]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--gpu", "L4:1,A100:2"), "one number"),
        (("--gpu", "L4:0"), "NAME:NUMBER"),
        (("--gpu", "L4;rm"), "NAME:NUMBER"),
        (("--bucket", "some-cells"), "s3://NAME"),
        (("--bucket", "s3://some cells"), "s3://NAME"),
        (("--folds", "7"), "has the folds 0, 1, 2, 3, 4"),
        (("--hours", "0"), "more than 0"),
        (("--set", "name=x"), "submit reads the file alone"),
        (("--set", "data.store=/somewhere/else"), "data.store"),
        (("--set", "data.root=../elsewhere"), "data.root"),
        (("--set", "folds.file=none.csv"), "none.csv"),
    ],
)
def test_what_cannot_be_run_elsewhere_is_refused(words, said, tmp_path):
    with pytest.raises(InputError, match=said):
        tasks(tmp_path / "tasks", *words)
    assert not (tmp_path / "tasks").exists()


def test_a_config_outside_of_the_repository_is_refused(tmp_path):
    (tmp_path / "a.yaml").write_text((REPOSITORY / TWO_STAGE).read_text())
    with pytest.raises(
        InputError, match=r"a\.yaml: another machine has only the repository; the config: "
    ):
        tasks(tmp_path / "tasks", config=tmp_path / "a.yaml")

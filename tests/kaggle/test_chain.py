"""The built kernel, run alone: an empty folder, no network, a read-only input folder as Kaggle lays
it out; stopped by its budget, gone on by the next link.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
import venv
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from helpers import cellsignal, contents, tiny_config

import cellsignal as cellsignal_package
from cellsignal.common.errors import InputError
from cellsignal.kaggle import runner
from cellsignal.kaggle.build import build
from cellsignal.kaggle.job import KernelJob, SubmitStep, slug, step_named
from cellsignal.kaggle.runner import Kernel
from cellsignal.kaggle.status import Status, check_files, list_files, read_status, write_status

# read by that Python at its start: no network; and a clock that jumps on by a day once a file was
# seen to change so many times, so that a budget ends
# there on any machine
SITE = """
import os, socket, time
def refuse(self, address):
    if self.family != socket.AF_UNIX and not str(address[0]).startswith(("127.", "::1", "localhost")):
        raise OSError("no network here: " + str(address))
    return connect(self, address)
connect, socket.socket.connect = socket.socket.connect, refuse
seen = set()
def late():
    try:
        found = os.stat(os.environ["CLOCK_FILE"])
        seen.add((found.st_ino, found.st_mtime_ns))
    except OSError:
        pass
    return len(seen) >= int(os.environ["CLOCK_TIMES"])
if "CLOCK_FILE" in os.environ:
    now = time.time
    time.time = lambda: now() + 86400 * late()
"""


def clean_environment() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if not name.lower().endswith("_proxy") and not name.startswith(("CELLSIGNAL_", "PYTHON"))
    }


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """A Python that has the third-party libraries, but neither this package nor a network."""
    folder = tmp_path_factory.mktemp("python") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    site = next(folder.glob("lib/python*/site-packages"))
    # .pth files that lie there, such as this package's, are not read
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (site / "sitecustomize.py").write_text(SITE)
    return folder / "bin" / "python"


def test_that_python_has_neither_the_package_nor_a_network(python, tmp_path):
    environment = clean_environment()
    for program, error in (
        ("import cellsignal", "No module named"),
        ("import socket; socket.create_connection(('192.0.2.1', 80), 1)", "no network here"),
    ):
        done = subprocess.run(
            [python, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode and error in done.stderr
    assert (
        subprocess.run([python, "-c", "import yaml"], cwd=tmp_path, env=environment).returncode == 0
    )


@dataclass(frozen=True)
class Kaggle:
    """A stand-in for Kaggle's machine: what it attaches as input, and the outputs that it kept, by
    slug.
    """

    folder: Path
    job: KernelJob
    python: Path

    @property
    def inputs(self) -> Path:
        return self.folder / "input"

    def output(self, step: str, link: int = 1) -> Path:
        return self.folder / "outputs" / slug(self.job, step, link)

    def run(
        self,
        step: str,
        link: int = 1,
        *,
        until: tuple[str, int] | None = None,
        last: dict[str, int] | None = None,
    ) -> str:
        """Build a kernel and run its script; `until` a checkpoint was saved so many times its
        budget lasts. What it printed.
        """
        kernel = build(
            self.job, step_named(self.job, step), link, self.folder / "built", "me", last
        )
        metadata = json.loads((kernel / "kernel-metadata.json").read_text())
        for attached in self.inputs.glob(f"{self.job.name}-*"):
            shutil.rmtree(attached)
        for source in metadata["kernel_sources"]:
            shutil.copytree(
                self.folder / "outputs" / source.split("/")[1], self.inputs / source.split("/")[1]
            )
        seen = contents(self.inputs)
        alone = self.folder / "alone" / kernel.name
        alone.mkdir(parents=True, exist_ok=True)
        shutil.copy2(kernel / "script.py", alone)
        working = self.output(step, link)
        working.mkdir(parents=True, exist_ok=True)
        scratch = self.folder / "scratch"
        scratch.mkdir(exist_ok=True)
        environment = clean_environment()
        environment |= {
            "CELLSIGNAL_KAGGLE_INPUT": str(self.inputs),
            "CELLSIGNAL_KAGGLE_WORKING": str(working),
            "TMPDIR": str(scratch),
            "HOME": str(alone),
            "OMP_NUM_THREADS": "1",
        }
        if until is not None:
            environment |= {
                "CLOCK_FILE": str(working / "runs/tiny/seed0/fold0" / until[0] / "last.pt"),
                "CLOCK_TIMES": str(until[1]),
            }
        done = subprocess.run(
            [self.python, "script.py"],
            cwd=alone,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert contents(self.inputs) == seen, "the input folder is read only"
        assert sorted(path.name for path in alone.iterdir()) == ["script.py"] and not list(
            scratch.glob("cellsignal-*")
        )
        return done.stdout + done.stderr


def make_kaggle(folder: Path, python: Path, prepared, **changes) -> Kaggle:
    """A job of one fold in two stages on a tiny simulated RxRx1, whose raw data are attached as
    Kaggle attaches a competition's.
    """
    space = prepared("rxrx1")
    tree = tiny_config("rxrx1", Path("data/rxrx1")) | {
        "folds": {"file": str(space.folder / "folds.csv")}
    }
    tree["stages"][0] |= {"epochs": 4, "batch_size": 8, "checkpoint_minutes": 1e-6}
    (folder / "input").mkdir(parents=True)
    (folder / "job.yaml").write_text(yaml.safe_dump(tree))
    shutil.copytree(space.root, folder / "input" / "the-competition")
    fields = {
        "name": "tiny",
        "config": folder / "job.yaml",
        "folds": (0,),
        "root": "the-competition",
        "competition_sources": ("the-competition",),
    }
    return Kaggle(folder, KernelJob(**fields | changes), python)


def weights(runs: Path) -> dict[str, torch.Tensor]:
    found = {}
    for path in sorted(runs.rglob("last.pt")):
        state = torch.load(path, map_location="cpu", weights_only=True)
        found |= {
            f"{path.relative_to(runs)} {name}": tensor
            for name, tensor in (state["averaged"] or state["model"]).items()
        }
    return found


# what a kernel takes up from those before, without running any verb
# ------------------------------------------------------------------------


SPEC = {
    "job": "tiny",
    "step": "fold0",
    "link": 2,
    "verbs": ["train", "predict"],
    "fold": 0,
    "before": "tiny-fold0-1",
    "needs": {},
    "root": "raw",
    "store": None,
    "weights": None,
    "wheels": None,
    "processes": 1,
    "package": "a",
    "commit": None,
}


def make_kernel(folder: Path, **changes) -> Kernel:
    for name in ("input/raw", "working", "scratch/package"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "scratch/package/config.yaml").write_text("{}")
    return Kernel(
        SPEC | changes,
        folder / "scratch",
        folder / "input",
        folder / "working",
        time.time(),
        time.time() + 3600,
    )


def make_output(folder: Path, files: dict[str, str], **changes) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    status = Status(
        "tiny", "fold0", 1, False, 75, "out of time", 1.5, "c", "a", None, list_files(folder)
    )
    write_status(folder, replace(status, **changes))
    return folder


RUN = {
    "runs/t/seed0/fold0/all/all/last.pt": "weights",
    "runs/t/seed0/predictions/fold0_all.npz": "logits",
    "runs/t/seed0/config.yaml": "name: t",
}


def taken(kernel: Kernel) -> dict[str, str]:
    return {
        str(path.relative_to(kernel.working)): path.read_text()
        for path in kernel.working.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("place", ["tiny-fold0-1", "notebooks/me/tiny-fold0-1"])
def test_a_link_takes_up_all_that_the_one_before_listed_and_nothing_else(tmp_path, place):
    kernel = make_kernel(tmp_path)
    images = {"store/store.json": "{}", "store/images/c.0.0.0.0": "pixels"}
    output = make_output(
        kernel.inputs / place,
        RUN
        | images
        | {
            "runs/t/.last.pt.x.tmp": "torn",
            "script.log": "words",
            "cellsignal/__init__.py": "evil",
        },
    )
    assert set(read_status(output).files) == {*RUN, "store/store.json"}
    runner._take_up(kernel)
    assert taken(kernel) == RUN | images
    # the same script again, after a kill
    (kernel.working / "runs/t/seed0/fold0/all/all/last.pt").write_text("newer")
    runner._take_up(kernel)
    assert taken(kernel)["runs/t/seed0/fold0/all/all/last.pt"] == "newer"


def missing_chain(output: Path) -> None:
    (output / "chain.json").unlink()


def torn_chain(output: Path) -> None:
    (output / "chain.json").write_text((output / "chain.json").read_text()[:100])


def lost(output: Path) -> None:
    (output / "runs/t/seed0/config.yaml").unlink()


def damaged(output: Path) -> None:
    (output / "runs/t/seed0/fold0/all/all/last.pt").write_text("weighty")


def leaving(output: Path) -> None:
    tree = json.loads((output / "chain.json").read_text())
    tree["files"]["runs/../../../outside"] = tree["files"]["runs/t/seed0/config.yaml"]
    (output / "chain.json").write_text(json.dumps(tree))


def other_link(output: Path) -> None:
    write_status(output, replace(read_status(output), link=3))


def other_job(output: Path) -> None:
    write_status(output, replace(read_status(output), job="another"))


def nothing(output: Path) -> None:
    shutil.rmtree(output)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (missing_chain, "chain.json: no such file; the kernel did not come to its end"),
        (torn_chain, "chain.json: damaged, not JSON"),
        (lost, "runs/t/seed0/config.yaml: is missing"),
        (damaged, "last.pt: is damaged"),
        (leaving, "names 'runs/../../../outside'"),
        (other_link, "is of link 3, link 1 is wanted"),
        (other_job, "is of another fold0, this kernel wants tiny fold0"),
        (nothing, "tiny-fold0-1: is not attached; there is raw"),
    ],
)
def test_a_link_before_that_is_not_whole_is_refused_in_one_line(
    tmp_path, monkeypatch, capsys, spoil, message
):
    kernel = make_kernel(tmp_path)
    spoil(make_output(kernel.inputs / "tiny-fold0-1", RUN))
    (kernel.scratch / "spec.json").write_text(json.dumps(kernel.spec))
    for name, value in (
        ("KAGGLE_INPUT", kernel.inputs),
        ("KAGGLE_WORKING", kernel.working),
        ("DEADLINE", kernel.deadline),
    ):
        monkeypatch.setenv(f"CELLSIGNAL_{name}", str(value))
    monkeypatch.setattr(
        cellsignal_package, "__file__", str(kernel.scratch / "package/src/cellsignal/__init__.py")
    )
    assert runner.main(kernel.scratch) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert taken(kernel) == {} and not list(tmp_path.parent.glob("outside"))


def test_the_last_kernel_takes_predictions_or_for_a_code_competition_weights(tmp_path):
    for verb, kept, where in (
        ("submit", "predictions/fold0_all.npz", "working"),
        ("code", "fold0/all/all/last.pt", "scratch"),
    ):
        kernel = make_kernel(
            tmp_path / verb,
            step="submit",
            link=1,
            verbs=[verb],
            before=None,
            needs={"fold0": "tiny-fold0-2"},
        )
        output = make_output(kernel.inputs / "tiny-fold0-2", RUN, link=2, done=True, status=0)
        runner._take_up(kernel)
        files = [
            path
            for name in ("working", "scratch/runs")
            for path in (tmp_path / verb / name).rglob("*")
            if path.is_file()
        ]
        found = {str(path.relative_to(tmp_path / verb)) for path in files}
        assert found == {f"{where}/runs/t/seed0/{kept}"}
        write_status(output, replace(read_status(output), done=False))
        with pytest.raises(InputError, match="fold0 is not done"):
            runner._take_up(kernel)


def test_no_verb_begins_when_the_time_is_over_and_a_late_one_is_stopped(tmp_path, monkeypatch):
    kernel, ran = make_kernel(tmp_path), []
    monkeypatch.setattr(runner, "_run", lambda kernel, verb, config: ran.append(verb) or (0, ""))
    assert (
        runner._run_verbs(replace(kernel, deadline=time.time() - 1), Path("c"))
        == (75, "out of time before train")
        and ran == []
    )
    assert runner._run_verbs(kernel, Path("c")) == (0, "done") and ran == ["train", "predict"]
    for status, deadline, expected in ((2, 9e9, 2), (75, 9e9, 75), (143, 9e9, 143), (143, 0.0, 75)):
        times = iter([-1.0, 10.0, 10.0])
        monkeypatch.setattr(runner.time, "time", lambda times=times: next(times))
        monkeypatch.setattr(
            runner, "_run", lambda kernel, verb, config, status=status: (status, "the last line")
        )
        found, reason = runner._run_verbs(replace(kernel, deadline=deadline), Path("c"))
        assert found == expected and reason.endswith(
            "of train: the last line" if expected in (2, 143) else "in train: the last line"
        )


def test_a_verb_hands_on_its_status_its_last_line_and_sigterm(tmp_path, monkeypatch):
    kernel = make_kernel(tmp_path)
    program = (
        "import sys; print('one', file=sys.stderr); print('two', file=sys.stderr); sys.exit(3)"
    )
    monkeypatch.setattr(runner, "_command", lambda *_: [sys.executable, "-S", "-c", program])
    assert runner._run(kernel, "train", Path("c")) == (3, "two")
    monkeypatch.setattr(
        runner, "_command", lambda *_: [sys.executable, "-S", "-c", "import time; time.sleep(60)"]
    )
    monkeypatch.setattr(runner, "GRACE_S", 0.0)
    assert runner._run(replace(kernel, deadline=time.time() + 0.1), "train", Path("c")) == (143, "")


# whole kernels
# --------------------------------------------------------------------------------------------------


@pytest.mark.torture
def test_a_job_is_stopped_by_its_budget_and_ends_as_if_it_had_not_been(tmp_path, python, prepared):
    """prepare; fold 0 in three links, stopped in the middle of an epoch, then in stage 2; submit.
    The commands alone give the same bytes.
    """
    kaggle = make_kaggle(tmp_path / "kaggle", python, prepared)
    plain = tmp_path / "plain"
    plain.mkdir()
    tree = yaml.safe_load((kaggle.folder / "job.yaml").read_text())
    tree["data"]["root"], tree["folds"]["use"] = str(kaggle.inputs / "the-competition"), [0]
    (plain / "config.yaml").write_text(yaml.safe_dump(tree))
    assert cellsignal("prepare", "config.yaml", cwd=plain) == 0
    for words in (
        ["train", "config.yaml"],
        ["predict", "config.yaml"],
        ["submit", "config.yaml", "--out", "submission.csv"],
    ):
        assert cellsignal(*words, cwd=plain) == 0

    kaggle.run("prepare")
    assert read_status(kaggle.output("prepare")).done
    for link, until in ((1, ("all/all", 14)), (2, ("cell_type/HUVEC", 1))):
        said = kaggle.run("fold0", link, until=until)
        status = read_status(kaggle.output("fold0", link))
        assert (status.done, status.status, status.link) == (
            False,
            75,
            link,
        ) and status.reason.startswith("out of time in train"), said
        check_files(kaggle.output("fold0", link), status)
    first = torch.load(
        kaggle.output("fold0") / "runs/tiny/seed0/fold0/all/all/last.pt", weights_only=True
    )["progress"]
    assert first["epoch"] == 1 and first["batch"] > 0 and not first["finished"], (
        "in the middle of the second epoch"
    )
    link = 3
    assert "goes on from tiny-fold0-2" in kaggle.run("fold0", link)
    assert read_status(kaggle.output("fold0", link)).done
    kaggle.run("submit", last={"fold0": link})
    status = read_status(kaggle.output("submit"))
    assert status.done and status.status == 0

    ours, theirs = weights(plain / "runs"), weights(kaggle.output("fold0", link) / "runs")
    assert (
        len(ours) > 100
        and ours.keys() == theirs.keys()
        and all(torch.equal(ours[name], theirs[name]) for name in ours)
    )
    assert (kaggle.output("submit") / "submission.csv").read_bytes() == (
        plain / "submission.csv"
    ).read_bytes()
    assert not list(kaggle.output("submit").rglob("*.pt"))

    # a code competition: the last kernel sees other test images than there were before (here
    # fewer), and no training images
    code = replace(kaggle, job=kaggle.job.model_copy(update={"submit": SubmitStep(verb="code")}))
    root = kaggle.inputs / "the-competition"
    for name in ("test.csv", "test_controls.csv", "sample_submission.csv"):
        table = pd.read_csv(root / name)
        table[~table.id_code.str.startswith("HUVEC")].to_csv(root / name, index=False)
    shutil.rmtree(root / "train")
    shutil.rmtree(kaggle.output("submit"))
    code.run("submit", last={"fold0": link})
    whole = pd.read_csv(plain / "submission.csv")
    part = pd.read_csv(kaggle.output("submit") / "submission.csv")
    wanted = whole[~whole.id_code.str.startswith("HUVEC")]
    assert 0 < len(wanted) < len(whole) and part.equals(wanted.reset_index(drop=True))
    assert not list(kaggle.output("submit").rglob("*.pt"))

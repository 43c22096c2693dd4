"""A whole job against a server on this machine: in order, in parallel, and stopped anywhere without
a push too many.
"""
# ruff: noqa: F811  (fixtures are imported by name)

import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml
from fake_kaggle import KEY, USER, Run, Trouble, client_home, executes, fake  # noqa: F401

from cellsignal.common.errors import InputError
from cellsignal.common.files import write_json, write_text
from cellsignal.kaggle import work as module
from cellsignal.kaggle.api import Kaggle
from cellsignal.kaggle.job import load_job, slug
from cellsignal.kaggle.work import PROGRESS, report, work

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent


def quick_build(job, step, link, out, user, last):
    """What `build` writes, without the package: the tests of `build` are elsewhere."""
    needs = [f"{user}/{slug(job, name, last[name])}" for name in step.needs]
    before = [f"{user}/{slug(job, step.name, link - 1)}"] if link > 1 else []
    folder = out / slug(job, step.name, link)
    write_text(folder / "script.py", f"# {step.name} {link}\n")
    metadata = {
        "id": f"{user}/{folder.name}",
        "title": folder.name.replace("-", " "),
        "code_file": "script.py",
        "language": "python",
    }
    write_json(
        folder / "kernel-metadata.json",
        metadata
        | {"kernel_type": "script", "kernel_sources": needs + before, "enable_internet": False},
    )
    return folder


def job_file(folder, **changes):
    """A job of prepare, three folds and a submission."""
    (folder / "folds.csv").write_text("fold,experiment\n0,A\n1,B\n2,C\n")
    config = {
        "name": "tiny",
        "competition": "rxrx1",
        "data": {"root": "data/rxrx1", "store": "store"},
        "folds": {"file": str(folder / "folds.csv"), "use": [0, 1, 2]},
        "model": {"backbone": "test_resnet"},
        "stages": [
            {
                "name": "all",
                "epochs": 1,
                "batch_size": 8,
                "optimizer": {"name": "adamw", "lr": 0.001},
            }
        ],
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    job = {
        "name": "tiny",
        "config": str(folder / "config.yaml"),
        "root": "rxrx1",
        "competition_sources": ["rxrx1"],
    } | changes
    (folder / "tiny.yaml").write_text(yaml.safe_dump(job))
    return folder / "tiny.yaml"


def obliging(links=None, running_for=1, **states):
    """Kernels that do what they should: done after so many links (one unless told)."""

    def outcome(kernel, asked, version):
        _, step, link = kernel.split("/")[1].rsplit("-", 2)
        if step in states and version == 1:
            return Run(
                asked,
                {},
                json.dumps([{"data": f"line {n}\n"} for n in range(40)]),
                running_for=0,
                **states[step],
            )
        done = int(link) >= (links or {}).get(step, 1)
        status = {
            "job": "tiny",
            "step": step,
            "link": int(link),
            "done": done,
            "status": 0 if done else 75,
            "reason": "said",
            "hours": 1.5,
        }
        files = {
            "chain.json": json.dumps(status | {"config": "c", "package": "p", "files": {}}).encode()
        }
        return Run(
            asked,
            files | ({"submission.csv": b"id\n"} if step == "submit" else {"weights.pt": b"w"}),
            "",
            running_for=running_for,
        )

    return outcome


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(module, "build", quick_build)


def run(folder, job, **options):
    return work(Kaggle(), load_job(job), folder / "out", **({"every": 0.001} | options))


def sources(fake, kernel):
    return [
        name.split("/")[1]
        for name in next(
            b
            for n, b in fake.requests
            if n == "SaveKernel#done" and b["slug"] == f"{USER}/{kernel}"
        )["kernelDataSources"]
    ]


def names(fake):
    return [name.split("/")[1] for name in fake.pushed()]


def test_a_job_goes_from_nothing_to_a_submission(fake, quick, tmp_path):
    fake.outcome = obliging({"prepare": 2, "fold1": 3})
    places = run(tmp_path, job_file(tmp_path))
    assert {name: (place.state, place.link) for name, place in places.items()} == {
        "prepare": ("done", 2),
        "fold0": ("done", 1),
        "fold1": ("done", 3),
        "fold2": ("done", 1),
        "submit": ("done", 1),
    }
    assert sorted(names(fake)) == sorted(set(names(fake))) and len(names(fake)) == 8
    assert sources(fake, "tiny-prepare-2") == ["tiny-prepare-1"]
    assert sources(fake, "tiny-fold1-3") == ["tiny-prepare-2", "tiny-fold1-2"]
    assert sources(fake, "tiny-submit-1") == ["tiny-fold0-1", "tiny-fold1-3", "tiny-fold2-1"]
    out = tmp_path / "out"
    assert (out / "tiny-submit-1/output/submission.csv").read_bytes() == b"id\n"
    assert (out / "tiny-fold1-3/output/chain.json").exists() and not list(out.rglob("weights.pt"))
    assert report(load_job(tmp_path / "tiny.yaml"), out).splitlines()[3].split() == [
        "fold1",
        "3",
        "4.5",
        "done",
    ]


def test_what_is_done_is_not_done_again(fake, quick, tmp_path):
    fake.outcome = obliging()
    run(tmp_path, job_file(tmp_path))
    before = len(fake.requests)
    run(tmp_path, job_file(tmp_path))
    assert len(fake.requests) == before


def test_keep_brings_the_weights(fake, quick, tmp_path):
    fake.outcome = obliging({"fold0": 2})
    run(tmp_path, job_file(tmp_path), keep=True)
    found = {path.parent.parent.name for path in (tmp_path / "out").rglob("weights.pt")}
    assert found == {"tiny-fold0-2", "tiny-fold1-1", "tiny-fold2-1", "tiny-prepare-1"}


@pytest.mark.parametrize("parallel", [1, 2, 3])
def test_so_many_kernels_run_at_a_time(fake, quick, tmp_path, parallel):
    """Counted by the server: those that were pushed and have not been seen to end."""
    fake.outcome = obliging(running_for=3)
    most = []
    push = fake._SaveKernel

    def counted(body):
        answer = push(body)
        most.append(sum(runs[-1].running_for >= 0 for runs in fake.kernels.values()))
        return answer

    fake._SaveKernel = counted
    run(tmp_path, job_file(tmp_path), parallel=parallel)
    assert max(most) == parallel


def test_too_many_links_are_one_line_and_may_be_raised(fake, quick, tmp_path):
    fake.outcome = obliging({"fold0": 3})
    job = job_file(tmp_path, most_links=2)
    with pytest.raises(
        InputError, match=r"fold0 \(not done after 2 kernels \(3\.0 h\), which is most_links"
    ) as error:
        run(tmp_path, job)
    assert (
        "\n" not in str(error.value)
        and "tiny-submit-1" not in names(fake)
        and "tiny-fold2-1" in names(fake)
    )
    places = run(tmp_path, job_file(tmp_path, most_links=4))
    assert places["submit"].state == "done" and places["fold0"].link == 3


def test_a_failed_kernel_shows_the_end_of_its_log_and_is_tried_again_when_asked(
    fake, quick, tmp_path, caplog
):
    fake.outcome = obliging(fold1={"state": "ERROR", "failure": "CUDA out of memory"})
    with pytest.raises(
        InputError, match=r"fold1 \(CUDA out of memory; its log: .*tiny-fold1-1\.log\)"
    ) as error:
        run(tmp_path, job_file(tmp_path))
    log = Path(str(error.value).split("its log: ")[1].split(")")[0])
    assert log.read_text() == "".join(f"line {n}\n" for n in range(40))
    assert "line 39" in caplog.text and "line 25\n" in caplog.text and "line 24" not in caplog.text
    # what does not need it is finished
    assert "tiny-fold2-1" in names(fake) and "tiny-submit-1" not in names(fake)
    assert run(tmp_path, job_file(tmp_path))["submit"].state == "done"
    assert names(fake).count("tiny-fold1-1") == 2 and len(set(names(fake))) == len(names(fake)) - 1


@pytest.mark.parametrize(
    "left, said",
    [
        ({}, "left no chain.json"),
        ({"step": "fold2"}, "is of tiny, fold2, link 1, not of this kernel"),
        ({"link": 7}, "link 7, not"),
    ],
)
def test_an_output_that_is_not_the_kernels_is_refused(fake, quick, tmp_path, left, said):
    good = obliging()

    def outcome(kernel, asked, version):
        made = good(kernel, asked, version)
        if "fold0" in kernel:
            made.files = (
                {"chain.json": json.dumps(json.loads(made.files["chain.json"]) | left).encode()}
                if left
                else {}
            )
        return made

    fake.outcome = outcome
    with pytest.raises(InputError, match=said):
        run(tmp_path, job_file(tmp_path))


class Stopped(BaseException):
    pass


def stop_everywhere(fake, monkeypatch, folder, job, pushes, whens):
    """Run `job` once for each point at which it can be stopped, stop it there, run it to its end.
    Returns how many points there were.
    """
    real_note, real_quietly = module.Work.note, Kaggle._quietly
    stops = 0
    for when in whens:
        for at in range(1, 10**6):
            left = [at]

            def counts(now, when=when, left=left):
                left[0] -= now == when
                if now == when and left[0] == 0:
                    raise Stopped

            def quietly(once, counts=counts):
                counts("before")
                answer = real_quietly(once)
                counts("after")
                return answer

            def note(self, step, counts=counts, **changes):
                counts("note")
                return real_note(self, step, **changes)

            fake.kernels.clear()
            fake.requests.clear()
            out = folder / f"{when}{at}"
            out.mkdir()
            with monkeypatch.context() as patch:
                patch.setattr(Kaggle, "_quietly", staticmethod(quietly))
                patch.setattr(module.Work, "note", note)
                try:
                    run(out, job)
                    break  # the point lies beyond the end
                except Stopped:
                    stops += 1
            assert run(out, job)["submit"].state == "done"
            assert sorted(names(fake)) == sorted(set(names(fake))) and len(names(fake)) == pushes, (
                when,
                at,
            )
    return stops


@pytest.fixture
def hasty(monkeypatch):
    monkeypatch.setattr("cellsignal.fetch.fetcher.time.sleep", lambda seconds: None)


def test_stopped_at_any_point_nothing_is_pushed_twice_and_nothing_lost(
    fake, quick, hasty, tmp_path, monkeypatch
):
    """Stopped at each request in turn, after the server did it and before the answer is used (the
    403s for new names are no answers).
    """
    fake.outcome = obliging({"fold0": 2}, running_for=0)
    job = job_file(tmp_path, folds=[0], store="store")
    assert stop_everywhere(fake, monkeypatch, tmp_path, job, 3, ["after"]) == 10


@pytest.mark.torture
def test_a_larger_job_stopped_at_any_point(fake, quick, hasty, tmp_path, monkeypatch):
    """Also before the server hears of a request, and before each writing of the progress."""
    fake.outcome = obliging({"prepare": 2, "fold1": 2}, running_for=0)
    assert (
        stop_everywhere(
            fake, monkeypatch, tmp_path, job_file(tmp_path), 7, ["before", "after", "note"]
        )
        > 60
    )


def test_a_push_whose_answer_was_lost_with_the_process_is_not_given_again(
    fake, quick, tmp_path, monkeypatch
):
    """The server took it, the process died before it heard so; the kernel has older versions of an
    earlier job besides.
    """
    fake.outcome = obliging()
    for _ in range(2):
        fake.kernels[f"{USER}/tiny-prepare-1"].append(
            fake.outcome(f"{USER}/tiny-prepare-1", {"text": ""}, 1)
        )
    fake.always["SaveKernel"] = Trouble("lost")
    real = Kaggle.versions
    asked = []

    def versions(self, name):
        asked.append(name)
        if len(asked) == 2:
            raise Stopped
        return real(self, name)

    monkeypatch.setattr(Kaggle, "versions", versions)
    with pytest.raises(Stopped):
        run(tmp_path, job_file(tmp_path))
    assert json.loads((tmp_path / "out" / PROGRESS).read_text())["steps"]["prepare"] | {
        "hours": []
    } == {"link": 1, "state": "pushing", "versions": 2, "reason": "", "hours": []}
    fake.always.clear()
    run(tmp_path, job_file(tmp_path))
    assert names(fake).count("tiny-prepare-1") == 1


def test_two_processes_do_not_work_at_one_job(fake, quick, tmp_path):
    (tmp_path / "out").mkdir()
    with open(tmp_path / "out" / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another process works at this job"):
            run(tmp_path, job_file(tmp_path))
    assert fake.pushed() == []


def test_a_job_that_changed_under_way_is_refused(fake, quick, tmp_path):
    fake.outcome = obliging(fold0={"state": "ERROR", "failure": "x"})
    with pytest.raises(InputError, match="fold0"):
        run(tmp_path, job_file(tmp_path))
    with pytest.raises(InputError, match=r"progress.json: the job or its config changed under way"):
        run(tmp_path, job_file(tmp_path, set=["stages.0.epochs=2"]))
    (tmp_path / "out" / PROGRESS).write_text("{")
    with pytest.raises(InputError, match=r"progress.json: is damaged"):
        run(tmp_path, job_file(tmp_path))


DRIVER = """
import sys
from pathlib import Path
import fake_kaggle, test_work
from cellsignal.kaggle import api, work
from cellsignal.kaggle.job import load_job
fake_kaggle.point_client_at(sys.argv[1])
api.BACKOFF_S = 0.01
work.build = test_work.quick_build
places = work.work(api.Kaggle(), load_job(sys.argv[2]), Path(sys.argv[3]), every=0.05)
assert all(place.state == "done" for place in places.values())
"""


@pytest.mark.torture
def test_killed_at_random_times_it_ends_the_same(fake, tmp_path):
    """SIGKILL, ten times, while the server also cuts and loses what it can."""
    fake.outcome = obliging({"prepare": 2, "fold0": 3, "fold1": 3, "fold2": 3}, running_for=4)
    dice = random.Random(1)
    for request in ("SaveKernel", "GetKernel", "GetKernelSessionStatus", "ListKernelSessionOutput"):
        fake.trouble(request, *dice.choices(["lost", "cut", 500], k=6))
    job = job_file(tmp_path)
    words = [sys.executable, "-c", DRIVER, fake.url, str(job), str(tmp_path / "out")]
    environment = os.environ | {"PYTHONPATH": str(HERE), "KAGGLE_USERNAME": USER, "KAGGLE_KEY": KEY}
    killed = 0
    for _ in range(200):
        process = subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True)
        begun = len(fake.requests)
        deadline = time.monotonic() + 60
        while (
            len(fake.requests) == begun and process.poll() is None and time.monotonic() < deadline
        ):
            time.sleep(0.01)  # imports
        if killed < 10:
            time.sleep(dice.uniform(0, 0.4))
            process.send_signal(signal.SIGKILL)
            killed += process.wait() == -signal.SIGKILL
        _, error = process.communicate()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, error
    assert process.returncode == 0 and killed >= 5
    assert len(names(fake)) == len(set(names(fake))) == 2 + 9 + 1


@pytest.mark.torture
def test_a_simulated_job_from_nothing_to_a_submission(fake, tmp_path):
    """Every script that is pushed really runs; the first fold's first kernel has no time and hands
    over.
    """
    from tiny import make_plates, stage

    from cellsignal.competitions import get_competition

    plates = make_plates(tmp_path / "plates")
    config = {
        "name": "tiny",
        "competition": "rxrx1",
        "data": {"root": str(plates / "raw"), "store": str(plates / "store"), "workers": 0},
        "folds": {"file": str(plates / "folds.csv"), "use": [0, 1]},
        "model": {"backbone": "test_resnet"},
        "stages": [stage(epochs=1)],
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    job = {
        "name": "tiny",
        "config": str(tmp_path / "config.yaml"),
        "root": "rxrx1-simulated",
        "competition_sources": ["rxrx1-simulated"],
        "gpu": False,
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(job))

    def environment(slug):
        return {"CELLSIGNAL_DEADLINE": str(time.time())} if slug.endswith("fold0-1") else {}

    executes(fake, tmp_path / "kaggle", {"rxrx1-simulated": plates / "raw"}, environment)
    places = run(tmp_path, tmp_path / "tiny.yaml", every=0.2)
    assert {name: (place.state, place.link) for name, place in places.items()} == {
        "prepare": ("done", 1),
        "fold0": ("done", 2),
        "fold1": ("done", 1),
        "submit": ("done", 1),
    }
    (submission,) = (tmp_path / "out" / "tiny-submit-1" / "output").rglob("submission.csv")
    competition, root = get_competition("rxrx1"), plates / "raw"
    competition.task.check_submission(
        pd.read_csv(submission), competition.sample_submission(root), competition.classes(root)
    )

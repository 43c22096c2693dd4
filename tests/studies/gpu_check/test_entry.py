"""The command: a whole dry run has a verdict for each check; its page says that it is one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cellsignal.studies.gpu_check import entry
from cellsignal.studies.gpu_check.entry import main
from cellsignal.studies.gpu_check.page import is_of_a_gpu, page_text
from cellsignal.studies.gpu_check.plan import CHECKS, LANES
from cellsignal.studies.gpu_check.table import VERDICTS, Row, read_table

SOURCE = Path(entry.__file__).parents[3]
HEAD = {
    "kind": "cuda",
    "minutes": 6.0,
    "missing": ["onnx"],
    "versions": {"torch": "2.11.0"},
    "cores": 16,
    "git_commit": "abc",
    "started_at": "2026-01-01T00:00:00+00:00",
}
FED = {"backbone": "resnet50", "size": 256, "batch": 256, "in_memory": 1200.0, "fed": 1176.0}
FED |= {"ratio": 0.98, "waiting": 0.01, "of_peak": 0.2, "memory_gib": 31.0}
ROWS = [
    Row(
        "device",
        "pass",
        "",
        3.0,
        {"device": "NVIDIA H200", "memory_gib": 139.8, "python": "3.12.3"},
    ),
    Row("fused_warp", "fail", "affine: 3 | levels", 1.0),
    Row("resnet50_256", "pass", "", 20.0, FED),
    Row("resnet50_512", "skipped", "no time: 4 s of 360 s are left"),
]


def test_the_page_of_a_gpu():
    text = page_text(HEAD, ROWS)
    assert "NVIDIA H200; 139.8 GiB; 16 cores" in text and "dry run" not in text
    assert (
        "| fused_warp | warp of a batch on the device as on the CPU | fail: affine: 3 / levels | 1.0 |"
        in text
    )
    assert "| resnet50 | 256 | 256 | 1200.0 | 1176.0 | 0.98 | 0.01 | 0.2 | 31.0 |" in text
    assert "skipped: no time: 4 s of 360 s are left" in text


def test_the_page_of_a_dry_run_says_so_and_shows_no_speed():
    text = page_text(HEAD | {"kind": "cpu"}, ROWS)
    assert "CPU dry run: nothing on this page is a figure of a GPU" in text
    assert "has never been run on one yet" in text.replace("\n", " ")
    assert "## Training fed" not in text


def test_a_page_of_a_gpu_is_not_replaced_by_a_dry_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(entry, "make_checks", lambda *arguments: None)
    page = tmp_path / "gpu.md"
    words = ["--dry-run", "--out", str(tmp_path / "out"), "--page", str(page)]
    words += ["--wheels", str(tmp_path / "none")]
    assert main(words) == 0
    assert page.is_file() and not is_of_a_gpu(page)
    page.write_text(page_text(HEAD, ROWS))
    assert main(words) == 0
    assert page.read_text() == page_text(HEAD, ROWS)
    assert "dry run" in (tmp_path / "out" / "gpu.md").read_text()
    assert "is of a GPU and stays" in capsys.readouterr().out


def test_a_failure_is_the_exit_status(tmp_path, monkeypatch, capsys):
    def fail(checks, folder, kind, budget, done, *_):
        done(Row("amp", "fail", "wrong"))
        done(Row("device", "pass"))

    monkeypatch.setattr(entry, "make_checks", fail)
    assert main(["--dry-run", "--out", str(tmp_path), "--wheels", str(tmp_path / "none")]) == 1
    rows = read_table(tmp_path / "gpu_check.jsonl")[1]
    assert [row.check for row in rows] == ["device", "amp"]  # in the order of the plan
    said = capsys.readouterr().out
    assert "amp               fail        0.0 s: wrong" in said
    assert "a dry run on the CPU (as asked): nothing that follows is a figure of a GPU" in said


def test_without_torch_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(entry, "missing_modules", lambda: ["torch", "zarr"])
    assert main(["--out", str(tmp_path), "--wheels", str(tmp_path / "none")]) == 2
    said = capsys.readouterr()
    assert said.out.startswith("missing packages: torch, zarr;")
    assert said.err.startswith("error: torch is not installed") and said.err.count("\n") == 1


def test_the_plan_names_each_check_once():
    names = [check.name for check in CHECKS]
    assert len(set(names)) == len(names) and {check.lane for check in CHECKS} == set(LANES)


@pytest.mark.slow
def test_a_whole_dry_run(tmp_path):
    """Every check is made or skipped for a reason, and none fails here."""
    words = [
        "--dry-run",
        "--out",
        str(tmp_path),
        "--minutes",
        "30",
        "--wheels",
        str(tmp_path / "none"),
    ]
    environment = os.environ | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "cellsignal.studies.gpu_check", *words],
        env=environment,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    head, rows = read_table(tmp_path / "gpu_check.jsonl")
    assert [row.check for row in rows] == [check.name for check in CHECKS]
    verdicts = {row.check: row.verdict for row in rows}
    assert set(verdicts.values()) <= set(VERDICTS) and head["kind"] == "cpu"
    assert [row for row in rows if row.verdict == "fail"] == [], done.stdout
    assert done.returncode == 0
    skipped = {row.check: row.reason for row in rows if row.verdict == "skipped"}
    assert skipped.pop("cuda_graphs") == "needs a GPU"
    assert set(skipped) <= {"compile", "export_onnx"}
    page = (tmp_path / "gpu.md").read_text()
    assert "CPU dry run" in page and all(f"| {check.name} | " in page for check in CHECKS)

"""A check that fails, dies or hangs is told with its reason, and no other suffers from it."""

import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from cellsignal.studies.gpu_check import runner
from cellsignal.studies.gpu_check.plan import LANES, Check
from cellsignal.studies.gpu_check.runner import Budget, child_environment, make_checks
from cellsignal.studies.gpu_check.table import read_table, write_table

HERE = Path(__file__).parent
SOURCE = Path(runner.__file__).parents[3]


def planted(name: str, function: str | None = None, seconds: float = 60, **more) -> Check:
    return Check(name, f"planted:{function or name}", "", seconds, **{"needs": ()} | more)


def make(tmp_path, checks, minutes=5.0, kind="cpu"):
    rows = []
    environment = child_environment([HERE, SOURCE], dict(os.environ))
    budget = Budget.of_minutes(minutes)
    make_checks(checks, tmp_path / "room", kind, budget, rows.append, environment, beside=False)
    return {row.check: row for row in rows}


def lives(process: int) -> bool:
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return text.rsplit(")", 1)[1].split()[0] != "Z"


@pytest.mark.slow
def test_what_is_planted_is_told_and_the_others_go_on(tmp_path):
    names = ["wrong", "broken", "absent", "die", "leave"]
    checks = [planted("first", "good")]
    checks += [each for n in names for each in (planted(n), planted(f"after {n}", "good"))]
    checks += [planted("hang", seconds=3), planted("after hang", "good")]
    rows = make(tmp_path, checks)
    assert list(rows) == [check.name for check in checks]
    good = [check.name for check in checks if check.function.endswith(":good")]
    assert [name for name, row in rows.items() if row.verdict == "pass"] == good
    assert (rows["wrong"].verdict, rows["wrong"].reason) == ("fail", "pixels are 3 grey levels off")
    assert rows["broken"].reason == "RuntimeError: CUDA error: an illegal memory access"
    assert (rows["absent"].verdict, rows["absent"].reason) == ("skipped", "one GPU")
    assert rows["die"].reason == "its process ended with signal 9: out of memory"
    assert rows["leave"].reason.startswith("its process ended with status 3")
    # a worker that failed is not used again; one that passed or skipped is
    process = {name: row.figures.get("process") for name, row in rows.items()}
    assert process["first"] != process["after wrong"] != process["after broken"]
    assert process["after broken"] == process["after absent"]


@pytest.mark.slow
def test_a_hang_is_cut_with_all_that_it_started(tmp_path):
    began = time.monotonic()
    # the first check of a worker may take longer, as it imports
    rows = make(tmp_path, [planted("good"), planted("hang", seconds=2), planted("last", "good")])
    assert time.monotonic() - began < 60
    assert (rows["hang"].verdict, rows["hang"].reason) == ("fail", "timed out after 2 s")
    assert rows["good"].verdict == rows["last"].verdict == "pass"
    child = int((tmp_path / "room" / "hang" / "child").read_text())
    until = time.monotonic() + 5
    while lives(child) and time.monotonic() < until:
        time.sleep(0.05)
    assert not lives(child)


def test_a_missing_package_and_a_used_up_budget_skip(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "missing_modules", lambda: ["timm", "zarr"])
    monkeypatch.setattr(runner, "time", SimpleNamespace(monotonic=lambda: 100.0))  # none passes
    checks = [
        planted("needs", needs=("numpy", "timm")),
        planted("late"),
        planted("speed", lane="alone"),
    ]
    rows = make(tmp_path, checks, minutes=0.05)
    assert (rows["needs"].verdict, rows["needs"].reason) == ("skipped", "no timm")
    assert rows["late"].verdict == rows["speed"].verdict == "skipped"
    assert (
        rows["late"].reason
        == "no time: 3 s of 3 s are left, of which 1 s are kept for the throughput"
    )
    assert rows["speed"].reason == "no time: 3 s of 3 s are left"


@pytest.mark.slow
def test_the_end_of_the_budget_is_no_failure(tmp_path):
    rows = make(tmp_path, [planted("hang", seconds=300, lane="alone")], minutes=0.15)
    assert rows["hang"].verdict == "skipped" and "no time: ended after" in rows["hang"].reason


@pytest.mark.slow
def test_lanes_come_in_their_order_and_beside_at_the_same_time(tmp_path):
    checks = [planted(lane, "good", lane=lane) for lane in reversed(LANES)]
    assert list(make(tmp_path, checks)) == list(LANES)
    rows = []
    environment = child_environment([HERE, SOURCE], dict(os.environ))
    budget = Budget.of_minutes(5)
    make_checks(checks, tmp_path / "two", "cpu", budget, rows.append, environment, beside=True)
    assert {row.verdict for row in rows} == {"pass"} and rows[-1].check == "alone"
    assert len({row.figures["process"] for row in rows}) == 3


@pytest.mark.slow
def test_a_table_is_whole_after_each_check(tmp_path):
    path, seen, rows = tmp_path / "t.jsonl", [], []

    def add(row):
        rows.append(row)
        write_table(path, {"kind": "cpu"}, rows)
        seen.append([each.check for each in read_table(path)[1]])

    environment = child_environment([HERE, SOURCE], dict(os.environ))
    checks = [planted("one", "good"), planted("wrong"), planted("two", "good")]
    make_checks(checks, tmp_path / "room", "cpu", Budget.of_minutes(5), add, environment, False)
    assert seen == [["one"], ["one", "wrong"], ["one", "wrong", "two"]]

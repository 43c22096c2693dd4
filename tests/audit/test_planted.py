"""Every planted leak is found by the check that is meant to; clean sets raise no alarm."""

import json
from pathlib import Path

import pytest
from helpers import cellsignal
from planted import LEAKS, Leak, PlateSet, clean_set

CLEAN = (("rxrx1", "experiment"), ("cpjump1", "plate"), ("bbbc021", "compound"))


def findings_of(plates: PlateSet, folder: Path) -> tuple[int, list[dict]]:
    status = cellsignal(*plates.write(folder), cwd=folder)
    return status, json.loads((folder / "findings.json").read_text())["findings"]


def name_of(leak: Leak) -> str:
    return f"{leak.plant.__name__}-{leak.check}"


@pytest.mark.parametrize("leak", LEAKS, ids=name_of)
def test_a_planted_leak_is_found(leak, tmp_path):
    plates = clean_set(5, leak.competition, leak.group, **leak.size)
    leak.plant(plates)
    status, findings = findings_of(plates, tmp_path)
    found = [f for f in findings if f["check"] == leak.check and f["severity"] == leak.severity]
    assert found and all(f["count"] > 0 and f["advice"] for f in found)
    assert status == (1 if any(f["severity"] == "fail" for f in findings) else 0)
    assert leak.severity == "warn" or status == 1


def alarms(seed: int, folder: Path) -> list[str]:
    competition, group = CLEAN[seed % len(CLEAN)]
    status, findings = findings_of(clean_set(seed, competition, group), folder)
    wrong = [f for f in findings if f["severity"] in ("fail", "warn")]
    assert status == 0 or wrong
    return [f"{f['check']} {f['part']}: {f['message']}" for f in wrong]


@pytest.mark.parametrize("seed", range(3))
def test_a_clean_set_raises_no_alarm(seed, tmp_path):
    assert alarms(seed, tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3, 20))
def test_twenty_clean_sets_raise_no_alarm(seed, tmp_path):
    assert alarms(seed, tmp_path) == []

"""Every planted leak is found by the check that is meant to; clean sets raise no alarm."""

import contextlib
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import cellsignal
from planted import (
    LEAKS,
    NAMES,
    Leak,
    PlateSet,
    clean_set,
    oversampled_first,
    shared_wells_that_look_alike,
)

from cellsignal.audit.layouts import check_layouts
from cellsignal.audit.parts import read_audited
from cellsignal.config import load_config

pytestmark = pytest.mark.slow

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


@pytest.mark.parametrize("plant", [oversampled_first, shared_wells_that_look_alike])
def test_the_price_is_more_than_nothing(plant, tmp_path):
    """A nearest neighbour scores more under the leak than with experiments held out."""
    plates = clean_set(5)
    plant(plates)
    findings = findings_of(plates, tmp_path)[1]
    (as_split,) = [f for f in findings if (f["check"], f["part"]) == ("ladder", "as split")]
    price = re.search(r"neighbour \S+ \[.*?\] \(\S+\), \+(\S+) \[(\S+),", as_split["message"])
    assert float(price[1]) > 0.1 > float(price[2])  # few units: the interval is wide


def test_a_clean_split_has_no_price(tmp_path):
    findings = findings_of(clean_set(5), tmp_path)[1]
    (as_split,) = [f for f in findings if (f["check"], f["part"]) == ("ladder", "as split")]
    low, high = re.search(r"neighbour .*, [+-]\S+ \[(\S+), (\S+)\]", as_split["message"]).groups()
    assert float(low) <= 0.05 and float(high) >= -0.05


@pytest.mark.parametrize("repeated", [False, True])
def test_a_repeated_layout_of_the_test_is_seen_in_its_answers(repeated, tmp_path):
    plates = clean_set(3, wells=24, experiments=4, sites=1)
    samples, test = plates.samples, plates.rows(split="test")
    rng = np.random.default_rng(0)
    samples["answer"] = ""
    samples.loc[test, "answer"] = [NAMES[k] for k in rng.permutation(len(test)) % 12]
    if repeated:
        ours = plates.rows(experiment=samples.experiment[test[0]], plate="1")
        theirs = plates.rows(experiment=samples.experiment[0], plate="2")
        samples.loc[ours, "well"] = samples.well[theirs].to_numpy()
        samples.loc[ours, "answer"] = [NAMES[label] for label in samples.label[theirs]]
    plates.write(tmp_path)
    with contextlib.chdir(tmp_path):
        audited = read_audited(load_config(tmp_path / "config.yaml"))
    assert (audited.samples.answer == "").all()
    findings = check_layouts(replace(audited, samples=samples.assign(row=range(len(samples)))))
    assert {f.part: f.severity for f in findings}["test"] == ("warn" if repeated else "pass")


def test_what_is_excluded_neither_trains_nor_validates(tmp_path):
    plates = clean_set(5)
    gone = plates.samples.well_id.drop_duplicates().iloc[::7]
    plates.tables["gone.csv"] = gone.to_frame()
    plates.write(tmp_path)
    changes = [f"data.store={tmp_path / 'store'}", f"folds.file={tmp_path / 'folds.csv'}"]
    whole = read_audited(load_config(tmp_path / "config.yaml", changes))
    changes += [f"data.exclude={tmp_path / 'gone.csv'}"]
    without = read_audited(load_config(tmp_path / "config.yaml", changes))
    is_gone = whole.samples.well_id.isin(gone).to_numpy()
    for before, after in zip(whole.parts, without.parts, strict=True):
        assert set(after.train) == set(before.train[~is_gone[before.train]])
        test = before.kind == "test"  # predicted all the same
        assert set(after.held) == set(before.held if test else before.held[~is_gone[before.held]])
    assert is_gone[whole.parts[0].train].any() and is_gone[whole.parts[0].held].any()

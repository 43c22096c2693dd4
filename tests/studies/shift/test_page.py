"""The page's figures from a table of known accuracies."""

import argparse
import math

import numpy as np
import pandas as pd
import pytest

from cellsignal.common.errors import InputError
from cellsignal.studies.shift import commands, page
from cellsignal.studies.shift.page import (
    Results,
    alpha_table,
    gain_table,
    skipped_text,
    target_text,
)
from cellsignal.studies.shift.simulated_plates import ALPHAS, REPEATS, Design


def frame_of(**methods: tuple[float, float]) -> pd.DataFrame:
    """Accuracies of each method: (even, at alpha .01), a little different in each experiment."""
    rows = [
        {
            "seed": seed,
            "method": method,
            "experiment": f"test-{number}",
            "alpha": alpha,
            "size": size,
            "accuracy": (even if alpha > 0.05 else severe) + 0.01 * (number - 0.5) + 0.01 * seed,
        }
        for method, (even, severe) in methods.items()
        for seed in range(2)
        for number in range(2)
        for alpha in ALPHAS
        for size in REPEATS
    ]
    frame = pd.DataFrame(rows)
    frame.attrs["cpu_s"] = 120.0
    return frame


def test_kept_is_the_ratio_of_the_means():
    results = Results.of(frame_of(erm=(0.6, 0.3)))
    assert results.units == 4
    assert results.accuracy("erm", math.inf, 96) == pytest.approx(0.605)
    value, low, high = results.kept("erm", 96)
    assert value == pytest.approx(0.305 / 0.605) and low < value < high


@pytest.mark.parametrize(
    ("ours", "plain", "verdict"),
    [
        ((0.5, 0.49), (0.6, 0.2), "met"),
        ((0.5, 0.4), (0.6, 0.2), "missed"),
        ((0.5, 0.5), (0.6, 0.4), "missed"),
    ],
)
def test_the_target_is_judged(ours, plain, verdict):
    text = target_text(Results.of(frame_of(controls_offset=ours, adabn_plate=plain)))
    assert text.endswith(f"{verdict}.")


def test_gains_are_paired_over_experiments():
    results = Results.of(frame_of(erm=(0.5, 0.5), tvn=(0.6, 0.4)))
    paired = results.paired("tvn", "erm", math.inf, 96)
    assert paired.difference == pytest.approx(0.1) and paired.units == 4
    lines = gain_table(results).splitlines()
    assert "+0.100" in lines[-1] and "-0.100" in lines[-1]
    assert "| ERM" in lines[2] and lines[2].count("(") == 1  # of its title


def test_tables_have_a_row_a_method_and_blanks_for_what_was_not_measured():
    frame = frame_of(erm=(0.5, 0.5), combat=(0.6, 0.4))
    frame = frame[(frame.method == "erm") | (frame["size"] == 96)]
    lines = page.size_table(Results.of(frame)).splitlines()
    assert len(lines) == 4 and {line.count("|") for line in lines} == {10}
    assert lines[-1].count("0.605") == 1 and lines[-1].count("|  |") >= 3
    assert len(alpha_table(Results.of(frame)).splitlines()) == 4


def test_the_page_names_what_lost_and_what_was_skipped():
    frame = frame_of(
        erm=(0.5, 0.5), dann=(0.4, 0.51), controls=(0.52, 0.52), adabn_plate=(0.6, 0.1)
    )
    noise = np.random.default_rng(0).normal(size=len(frame)) * 1e-3
    frame["accuracy"] += noise
    attrs = dict(frame.attrs)
    missing = pd.DataFrame([{"seed": 0, "method": "harmony", "skipped": "needs harmonypy"}])
    frame = pd.concat([frame, missing])
    frame.attrs.update(attrs)
    text = page.shift_page(frame, [0, 1], Design())
    assert "at alpha infinity DANN over experiments; at alpha .01\nplate batches, AdaBN" in text
    assert "Harmony with asked wells: skipped. needs harmonypy" in text
    assert "--seeds 0 1 --out" in text and "2 minutes" in text
    assert skipped_text(frame_of(erm=(0.5, 0.5))) == ""


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"networks": ["resnet"]}, "--networks resnet: no such network; mixed, "),
        ({"seeds": [1, 1]}, "--seeds 1 1: one is given twice"),
        ({}, "no part of the shift bench is finished; leave --finished out"),
    ],
)
def test_wrong_options_are_refused(given, message, tmp_path):
    options = {
        "seeds": [0],
        "folder": tmp_path,
        "networks": None,
        "out": None,
        "finished": True,
    } | given
    with pytest.raises(InputError, match=message):
        commands.shift(argparse.Namespace(**options))
    assert not list(tmp_path.iterdir())

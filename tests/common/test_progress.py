"""Lines that say how much time is left, by a clock that the test holds."""

import logging
from types import SimpleNamespace

import pytest

from cellsignal.common import progress as progress_module
from cellsignal.common.progress import Progress, Steps, with_progress


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress_module, "time", clock)
    return clock


def run(clock, durations, total, caplog):
    with caplog.at_level(logging.INFO), Progress("packing", total, "site") as progress:
        for seconds in durations:
            clock.now += seconds
            progress.add()
    return [record.message for record in caplog.records]


def test_the_time_left_is_that_of_the_rest_at_the_pace_so_far(clock, caplog):
    """A second a site. The first line comes when two seconds are measured, others 20 s apart."""
    lines = run(clock, [1.0] * 50, 50, caplog)
    assert lines == [
        "packing: 3 of 50 sites, 47 s left",
        "packing: 23 of 50 sites, 27 s left",
        "packing: 43 of 50 sites, 7.0 s left",
    ]


def test_what_comes_before_the_first_unit_is_no_measure_of_the_rest(clock, caplog):
    lines = run(clock, [60.0] + [1.0] * 3, 1000, caplog)
    assert lines == ["packing: 3 of 1,000 sites, 16.6 min left"]


@pytest.mark.parametrize("durations", [[0.1] * 90, [3.0], []])
def test_short_work_has_no_line(clock, caplog, durations):
    assert run(clock, durations, len(durations), caplog) == []


def test_units_are_counted_when_they_are_used_up(clock, caplog):
    counted = []
    with caplog.at_level(logging.INFO):
        for number in with_progress(iter(range(30)), "reading", 30, "image"):
            counted.append(number)
            clock.now += 1
    assert counted == list(range(30))
    assert [record.message for record in caplog.records] == [
        "reading: 3 of 30 images, 27 s left",
        "reading: 23 of 30 images, 7.0 s left",
    ]


def test_a_terminal_shows_a_bar_in_place_of_lines(clock, caplog, monkeypatch):
    bar = SimpleNamespace(disable=False, update=lambda n: None, close=lambda: None)
    monkeypatch.setattr(progress_module, "tqdm", lambda **options: bar)
    assert run(clock, [1.0] * 50, 50, caplog) == []


def test_steps_are_named_before_they_begin_and_timed_in_the_end(clock, caplog):
    with caplog.at_level(logging.INFO):
        steps = Steps("folds", "train", "report")
        clock.now += 1  # what comes before the first step is in the total
        for name, seconds in (("folds", 2.0), ("train", 120.0), ("report", 4.0)):
            steps.begin(name)
            clock.now += seconds
        steps.finish()
    assert [record.message for record in caplog.records] == [
        "step 1 of 3: folds",
        "step 2 of 3: train",
        "step 3 of 3: report",
        "took 2.1 min: folds 2.0 s, train 2.0 min, report 4.0 s",
    ]

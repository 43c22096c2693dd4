"""Signals, stop files, preemption notices and time budgets end long work."""

import logging
import os
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from helpers import cellsignal, tiny_config, write_config
from hypothesis import given
from hypothesis import strategies as st

from cellsignal.cli import main
from cellsignal.common import preemption, stopping
from cellsignal.common.errors import OUT_OF_TIME, InputError, Interrupted, OutOfTime
from cellsignal.common.preemption import METADATA_URL, PREEMPTION
from cellsignal.common.stopping import (
    DEADLINE,
    STOP_FILE,
    Pace,
    Stop,
    duration,
    read_deadline,
    time_budget,
)


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    for name in (DEADLINE, STOP_FILE, PREEMPTION, METADATA_URL):
        monkeypatch.delenv(name, raising=False)


def wait_for(condition) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


# signals and the stop file
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_is_noted_and_told_by_its_name(number):
    before = signal.getsignal(number)
    with Stop() as stop:
        assert stop.stop_status() == 0
        os.kill(os.getpid(), number)
        wait_for(lambda: stop.signal_number is not None)
        assert stop.stop_status() == 128 + number
        with pytest.raises(
            Interrupted,
            match=rf"^fold0 all: stopped by {number.name}, state saved; the same command goes on from here$",
        ) as told:
            stop.check("fold0 all")
    assert told.value.status == 128 + number and signal.getsignal(number) is before


@pytest.fixture
def usual_interrupt():
    """SIGINT as Python has it; who starts the tests in the background may have it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_second_signal_acts_at_once(usual_interrupt):
    with pytest.raises(KeyboardInterrupt), Stop() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        wait_for(lambda: stop.signal_number is not None)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(20)


def test_a_signal_that_comes_with_the_last_of_the_work_is_not_lost_but_a_spent_budget_is_no_matter_then(
    monkeypatch,
):
    monkeypatch.setenv(DEADLINE, "1")
    stop = Stop()
    stop.raise_if_signalled("x")
    stop.signal_number = int(signal.SIGTERM)
    with pytest.raises(Interrupted) as told:
        stop.raise_if_signalled("x")
    assert told.value.status == 143


def test_a_stop_file_is_as_sigterm(tmp_path, monkeypatch):
    monkeypatch.setenv(STOP_FILE, str(tmp_path / "stop"))
    stop = Stop()
    assert stop.stop_status() == 0
    (tmp_path / "stop").touch()
    # it is looked for once a second
    monkeypatch.setattr(stopping.time, "monotonic", lambda real=time.monotonic: real() + 2)
    assert stop.stop_status() == 128 + signal.SIGTERM
    with pytest.raises(
        Interrupted, match=r"stopped by the stop file .*stop, as by SIGTERM, state saved"
    ):
        stop.check("x")


def test_beside_the_main_thread_there_are_no_signals_but_the_budget_holds(monkeypatch):
    monkeypatch.setenv(DEADLINE, "1")
    found, before = [], signal.getsignal(signal.SIGTERM)

    def work():
        with Stop() as stop:
            found.extend([stop.stop_status(), signal.getsignal(signal.SIGTERM) is before])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [OUT_OF_TIME, True]


# the budget
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hours", ["0", "-1", "nan", "inf", "soon", ""])
@pytest.mark.parametrize("verb", ["run", "train", "predict", "embed", "prepare", "submit"])
def test_a_budget_that_cannot_be_is_one_line(verb, hours, capsys):
    assert main([*verb.split(), "x.yaml", f"--max-hours={hours}"]) == 2
    assert (
        capsys.readouterr().err == f"error: --max-hours {hours}: give a number of hours above 0\n"
    )


def test_the_environment_overrides_the_option_and_children_inherit_it(monkeypatch):
    with time_budget("2"):
        assert abs(
            float(os.environ[DEADLINE]) - time.time() - 7200
        ) < 60 and read_deadline() == float(os.environ[DEADLINE])
    assert DEADLINE not in os.environ
    monkeypatch.setenv(DEADLINE, "12345.5")
    with time_budget("2"):
        assert read_deadline() == 12345.5
    assert os.environ[DEADLINE] == "12345.5"
    with time_budget(None):
        assert read_deadline() == 12345.5
    monkeypatch.setenv(DEADLINE, "tomorrow")
    with pytest.raises(
        InputError, match="CELLSIGNAL_DEADLINE is 'tomorrow', not seconds since the epoch"
    ):
        Stop()


def test_work_stops_where_the_next_would_not_fit(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(stopping, "_now", lambda: now)
    monkeypatch.setenv(DEADLINE, "2000")  # of the 1000 s, 10 s are kept free
    stop = Stop()
    assert (
        stop.seconds_left == 990
        and stop.stop_status(990 / 1.25) == 0
        and stop.stop_status(990 / 1.25 + 1) == OUT_OF_TIME
    )
    now = 1989.0
    assert stop.stop_status(None) == 0 and stop.stop_status(2.0) == OUT_OF_TIME
    with pytest.raises(OutOfTime) as told:
        stop.check("fold0 all", "epoch 3/9", "the validation", 100.0)
    estimate = "the validation would take about 2.1 min, 1.0 s left"
    assert (
        str(told.value)
        == f"fold0 all: out of time, epoch 3/9 saved ({estimate}); the same command goes on from here"
    )
    assert told.value.status == 75 and isinstance(told.value, Interrupted)
    now = 1990.5  # though nothing is known of what comes
    assert stop.stop_status(None) == OUT_OF_TIME
    stop.signal_number = int(signal.SIGTERM)
    assert stop.stop_status(None) == 143  # of several processes' wishes the largest holds: a signal


def test_what_is_kept_free_is_a_share_within_bounds(monkeypatch):
    monkeypatch.setattr(stopping, "_now", lambda: 0.0)
    free = []
    for budget in (4, 1000, 8.5 * 3600):
        monkeypatch.setenv(DEADLINE, str(budget))
        free.append(budget - Stop().seconds_left)
    assert free == [0.5, 10, 60]


def test_without_a_budget_all_fits():
    assert Stop().seconds_left is None and Stop().stop_status(1e9) == 0


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=100))
def test_a_pace_is_a_high_quantile_of_the_recent_ones(seconds):
    pace = Pace()
    for one in seconds:
        pace.add(one)
    assert pace.high == np.quantile(seconds[-64:], 0.95, method="inverted_cdf")
    again = Pace()
    for one in pace.seconds():
        again.add(one)
    assert again.high == pace.high


def test_an_unmeasured_pace_says_nothing():
    assert Pace().high is None and Pace().median is None


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.04, "0.0 s"), (12.4, "12 s"), (204, "3.4 min"), (30600, "8.5 h")]
)
def test_durations_in_words(seconds, words):
    assert duration(seconds) == words


@pytest.mark.parametrize("verb", ["train", "prepare", "submit"])
def test_a_spent_budget_ends_a_command_before_it_begins(
    prepared, tmp_path, monkeypatch, capsys, verb
):
    space = prepared("rxrx1").copy(tmp_path / "work")
    if verb == "prepare":
        write_config(
            space.folder,
            "rxrx1",
            space.root,
            data=tiny_config("rxrx1", space.root)["data"] | {"store": "other"},
        )
    monkeypatch.setenv(DEADLINE, "1")
    assert cellsignal(verb, "config.yaml", cwd=space.folder) == OUT_OF_TIME
    err = capsys.readouterr().err
    assert (
        "out of time" in err
        and err.endswith("the same command goes on from here\n")
        and err.count("\n") == 1
    )
    assert (
        not list(space.folder.rglob("*.pt"))
        and len(list(space.folder.glob("other/images/c.*"))) <= 1
    )


# preemption notices
# --------------------------------------------------------------------------------------------------


class Metadata(BaseHTTPRequestHandler):
    """Both clouds' services, as they answer: AWS wants a token of its own, GCP a header; `notice`
    on the server is what they tell.
    """

    def do_PUT(self):
        self.server.seen.append(("PUT", self.path))
        right = (
            self.path == "/latest/api/token"
            and self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
        )
        self.answer(200, b"secret-token") if right else self.answer(400)

    def do_GET(self):
        self.server.seen.append(("GET", self.path))
        if self.server.broken:
            self.server.broken -= 1
            self.answer(503)
        elif self.path == "/latest/meta-data/spot/instance-action":
            if self.headers["X-aws-ec2-metadata-token"] != "secret-token":
                self.answer(401)
            else:
                self.answer(
                    200, b'{"action": "terminate", "time": "2026-01-01T00:00:00Z"}'
                ) if self.server.notice else self.answer(404)
        elif (
            self.path == "/computeMetadata/v1/instance/preempted"
            and self.headers["Metadata-Flavor"] == "Google"
        ):
            self.answer(200, b"TRUE\n" if self.server.notice else b"FALSE\n")
        else:
            self.answer(403)

    def answer(self, code, body=b""):
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def service(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    server.seen, server.notice, server.broken = [], False, 0
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    monkeypatch.setenv(METADATA_URL, f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # a proxy is not asked
    monkeypatch.setattr(preemption, "_POLL_S", 0.01)
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_a_preemption_notice_is_as_sigterm(cloud, service, monkeypatch, caplog):
    monkeypatch.setenv(PREEMPTION, cloud)
    with caplog.at_level(logging.WARNING), Stop() as stop:
        wait_for(lambda: len(service.seen) > 6)
        assert stop.stop_status() == 0
        service.notice = True
        wait_for(lambda: stop.stop_status())
        assert stop.stop_status() == 143
        with pytest.raises(
            Interrupted,
            match=f"stopped by a preemption notice of {cloud}, as by SIGTERM, state saved",
        ):
            stop.check("x")
    assert not caplog.records


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_a_service_that_fails_is_told_of_once_and_asked_on(cloud, service, monkeypatch, caplog):
    monkeypatch.setenv(PREEMPTION, cloud)
    service.broken, service.notice = 3, True
    with caplog.at_level(logging.WARNING), Stop() as stop:
        wait_for(lambda: stop.stop_status())
    assert [record.message.split(" (")[0].split(": ")[0] for record in caplog.records] == [
        f"preemption notices of {cloud}"
    ]


def test_no_service_at_all_changes_nothing(monkeypatch, caplog):
    monkeypatch.setenv(PREEMPTION, "aws")
    monkeypatch.setenv(METADATA_URL, "http://127.0.0.1:1")
    monkeypatch.setattr(preemption, "_POLL_S", 0.01)
    with caplog.at_level(logging.WARNING), Stop() as stop:
        wait_for(lambda: caplog.records)
        time.sleep(0.05)
        assert stop.stop_status() == 0
    assert len(caplog.records) == 1


def test_the_thread_ends_with_the_work(service, monkeypatch):
    monkeypatch.setenv(PREEMPTION, "gcp")
    with Stop():
        wait_for(lambda: service.seen)
    wait_for(lambda: "preemption" not in {thread.name for thread in threading.enumerate()})


def test_no_service_is_asked_unless_told_to(service):
    with Stop():
        time.sleep(0.05)
    assert service.seen == []


def test_an_unknown_cloud_is_refused(monkeypatch):
    monkeypatch.setenv(PREEMPTION, "azure")
    with pytest.raises(InputError, match="CELLSIGNAL_PREEMPTION is 'azure', not aws or gcp"):
        Stop()

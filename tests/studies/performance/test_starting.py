"""How long commands take to start: what is measured, and that each process starts at all."""

from cellsignal.studies.performance import starting
from cellsignal.studies.performance.starting import bench_starting


def test_every_process_starts_and_is_measured(monkeypatch):
    monkeypatch.setattr(starting, "HELP", ("", "cloud tasks"))
    table = bench_starting(rounds=1)
    assert table.process.tolist()[-2:] == ["cellsignal --help", "cellsignal cloud tasks --help"]
    assert len(table) == 5 and (table["CPU s"] > 0).all()


def test_the_median_of_the_rounds_counts(monkeypatch):
    monkeypatch.setattr(starting, "HELP", ("",))
    seconds = iter([1.0, 2.0, 3.0, 10.0, 9.0, 20.0, 30.0, 40.0, 3.0, 4.0, 5.0, 60.0])
    monkeypatch.setattr(starting, "_cpu_seconds", lambda words: next(seconds))
    assert bench_starting(rounds=3)["CPU s"].tolist() == [3.0, 4.0, 5.0, 40.0]

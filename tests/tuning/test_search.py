"""What a search keeps between calls, when it is damaged; and the command that goes on."""

import shlex

import pytest
from searches import make_search, write_base

from cellsignal.cli import build_parser
from cellsignal.common.errors import InputError
from cellsignal.config import load_config
from cellsignal.tuning.commands import _next_search
from cellsignal.tuning.gain import read_run
from cellsignal.tuning.search import ABOUT, load_search, refuse_lost_trials, save_search


@pytest.fixture
def saved(tmp_path):
    """A search with a journal, its base config and its fold table."""
    search = make_search(tmp_path / "runs")
    table = tmp_path / "folds.csv"
    table.write_text("fold,experiment\n")
    base = load_config(write_base(tmp_path / "base.yaml"))
    save_search(search, base, table)
    search.journal.touch()
    return search, base, table


@pytest.mark.parametrize("content", ["{", "[]", "", None, b"\xff\xfe"])
def test_a_damaged_description_of_a_search_is_one_line(saved, content):
    search, base, table = saved
    path = search.folder / ABOUT
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    for read in (lambda: save_search(search, base, table), lambda: load_search(search.folder)):
        with pytest.raises(InputError, match=r"search.json: cannot be read .* to start anew"):
            read()


def test_a_run_of_a_search_that_is_gone_is_named(saved):
    _, base, _ = saved
    with pytest.raises(InputError, match="seed0: this run of the search is gone"):
        read_run(base)


def test_a_lost_journal_is_refused_where_runs_of_its_trials_are(saved):
    search, base, table = saved
    search.journal.unlink()
    save_search(search, base, table)  # no run yet: nothing is lost
    (search.runs / "tiny_trial004" / "seed0").mkdir(parents=True)
    message = (
        r"journal.log: is gone, and .*tiny_trial004 is a run .*; put the whole journal back, or"
    )
    with pytest.raises(InputError, match=message):
        save_search(search, base, table)


def test_a_cut_journal_is_refused_where_runs_of_more_trials_are(saved):
    search, _, _ = saved
    for name in ("tiny_base", "tiny_base_confirm", "tiny_trial000", "tiny_trial002_confirm"):
        (search.runs / name / "seed0").mkdir(parents=True)
    (search.runs / "tiny_trial_of_mine").mkdir()
    refuse_lost_trials(search, 3)
    with pytest.raises(InputError, match=r"cut short \(it holds 2 trials\).*tiny_trial002_confirm"):
        refuse_lost_trials(search, 2)


def test_the_next_command_keeps_every_option():
    words = "tune c.yaml --space 'my space.yaml' --trials 3 --hours 1.5 --confirm-seeds 1 "
    words += "--processes 2 --halving 0 --seed 5 --folds 0 1 --left-out 2 3 --name n "
    words += "--set 'a=[1, 2]'"
    first = build_parser().parse_args(shlex.split(words))
    following = shlex.split(_next_search(first))
    assert following[0] == "cellsignal"
    second = vars(build_parser().parse_args(following[1:]))
    assert second == vars(first) | {"trials": 6, "hours": 3.0}

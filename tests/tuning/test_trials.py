"""The loop of a search with scores by a formula in place of trainings."""

import json
import pickle

import pytest

pytest.importorskip("optuna")
from optuna.storages.journal._storage import JournalOperation
from searches import make_search

from cellsignal.common.errors import InputError, OutOfTime
from cellsignal.tuning import trials as module
from cellsignal.tuning.journal import (
    ask_for_trial,
    best_trial,
    mend_journal,
    open_study,
    unfinished_trials,
)
from cellsignal.tuning.trials import search_trials


class Scores:
    """Scores a config by its learning rate; counts what was trained; may stop or fail."""

    def __init__(self, monkeypatch, act=None):
        self.trained, self.act = [], act
        monkeypatch.setattr(module, "score_run", self.score)
        monkeypatch.setattr(module, "train_and_predict", lambda config: None)

    def score(self, config):
        if self.act is not None:
            self.act(config)
        self.trained.append((config.name, config.folds.use))
        lr, folds = config.stages[0].optimizer.lr, len(config.folds.use)
        return 0.9 - abs(lr - 0.01) - 0.01 * folds - 0.1 * config.model.dropout


def rows(search):
    return [
        (trial.params, trial.state.name, trial.intermediate_values)
        for trial in open_study(search).get_trials()
    ]


def expected_states(values, folds, factor):
    """Asynchronous successive halving by hand: rungs at 1, N, N * N ... folds, trials in turn."""
    reached, states = {}, []
    for scores in values:
        count, rung, state = 0, 0, "COMPLETE"
        for count in range(1, folds):
            if count < factor**rung:
                continue
            others = reached.setdefault(rung, [])
            others.append(scores[count])
            best = sorted(others, reverse=True)[: max(1, len(others) // factor)]
            rung += 1
            if scores[count] < best[-1]:
                state = "PRUNED"
                break
        states.append((state, count if state == "PRUNED" else folds))
    return states


@pytest.mark.parametrize("factor", [2, 3])
def test_poor_trials_stop_after_the_fold_that_shows_it(tmp_path, monkeypatch, factor):
    search = make_search(tmp_path, halving=factor, trials=16)
    scores = Scores(monkeypatch)
    search_trials(search)
    found = rows(search)
    values = []
    for params, _, _ in found:
        lr, dropout = params["stages.all.optimizer.lr"], params["model.dropout"]
        score = [0.9 - abs(lr - 0.01) - 0.01 * n - 0.1 * dropout for n in range(5)]
        values.append(dict(enumerate(score)))
    expected = expected_states(values, 4, factor)
    assert [(state, len(done)) for _, state, done in found] == expected
    assert {"PRUNED", "COMPLETE"} == {state for _, state, _ in found}
    assert len(scores.trained) == sum(len(done) for _, _, done in found)
    finished = [(done[4], -n) for n, (_, state, done) in enumerate(found) if state == "COMPLETE"]
    assert best_trial(open_study(search)).number == -max(finished)[1]


def test_without_halving_every_trial_has_every_fold(tmp_path, monkeypatch):
    search = make_search(tmp_path, halving=0, trials=5)
    Scores(monkeypatch)
    search_trials(search)
    assert [(state, len(done)) for _, state, done in rows(search)] == [("COMPLETE", 4)] * 5


def test_a_stopped_search_goes_on_as_if_it_had_not_stopped(tmp_path, monkeypatch):
    whole = make_search(tmp_path / "whole")
    Scores(monkeypatch)
    search_trials(whole)
    stopped, stops = make_search(tmp_path / "stopped"), 0

    def stop_after_three(config):
        if len(scores.trained) == 3:
            raise OutOfTime("tune", "all", "0 s left")

    while True:
        mend_journal(stopped.journal)
        scores = Scores(monkeypatch, stop_after_three)
        left = unfinished_trials(open_study(stopped))
        try:
            search_trials(stopped, stopped=left)
            break
        except OutOfTime:
            assert len(unfinished_trials(open_study(stopped))) == 1
            stops += 1
    assert stops > 3 and rows(stopped) == rows(whole)


@pytest.mark.parametrize("drawn", [0, 2])
def test_values_that_a_kill_kept_from_being_drawn_are_drawn(tmp_path, monkeypatch, drawn):
    """Killed when the last trial's line, and `drawn` of its values, are in the journal."""
    Scores(monkeypatch)
    whole = make_search(tmp_path / "whole", trials=3)
    search_trials(whole)
    killed = make_search(tmp_path / "killed", trials=3)
    lines = whole.journal.read_text().splitlines(keepends=True)
    kinds = [json.loads(line)["op_code"] for line in lines]
    begun = len(kinds) - 1 - kinds[::-1].index(JournalOperation.CREATE_TRIAL)
    values = [n for n, kind in enumerate(kinds) if kind == JournalOperation.SET_TRIAL_PARAM]
    killed.journal.write_text("".join(lines[: [n for n in values if n > begun][drawn]]))
    kept = rows(killed)[-1][0]
    assert len(kept) == drawn
    search_trials(killed, stopped=unfinished_trials(open_study(killed)))
    params, state, _ = rows(killed)[-1]
    assert set(params) == set(killed.space) and params.items() >= kept.items()
    assert state in ("COMPLETE", "PRUNED")
    if not drawn:
        assert rows(killed) == rows(whole)


def test_trials_that_another_worker_began_are_left_to_it(tmp_path, monkeypatch):
    scores = Scores(monkeypatch)
    search = make_search(tmp_path, trials=2, processes=2)
    other = ask_for_trial(search, open_study(search))
    search_trials(search)
    assert {name for name, _ in scores.trained} == {"tiny_trial001"}
    assert unfinished_trials(open_study(search)) == [other.number]


def test_draws_depend_on_seed_and_number_and_stay_in_the_space(tmp_path, monkeypatch):
    Scores(monkeypatch)
    searches = [
        make_search(tmp_path / str(k), seed=seed, trials=4) for k, seed in enumerate((0, 0, 1))
    ]
    for search in searches:
        search_trials(search)
    first, same, other = ([params for params, _, _ in rows(search)] for search in searches)
    assert first == same and first[0] != other[0]
    for params in first:
        assert 1e-4 <= params["stages.all.optimizer.lr"] <= 1e-1
        assert round(10 * params["model.dropout"]) in range(10)
        assert params["stages.all.batch_size"] in ("8", "16")
    assert len({params["stages.all.optimizer.lr"] for params in first}) == len(first)


def test_a_trial_that_fails_ends_alone(tmp_path, monkeypatch):
    search = make_search(tmp_path, trials=6)

    def fail(config):
        if config.name == "tiny_trial001" and len(config.folds.use) == 1:
            raise InputError("seed 0 fold 0 stage all: the loss became nan in epoch 1")

    Scores(monkeypatch, fail)
    search_trials(search)
    trials = open_study(search).get_trials()
    assert len(trials) == 6 and "the loss became nan" in trials[1].user_attrs["failed"]
    assert not any("failed" in t.user_attrs for t in trials if t.number != 1)


def test_a_full_disk_is_no_failed_trial(tmp_path, monkeypatch):
    def fill(config):
        raise InputError("last.pt: could not be written") from OSError(28, "No space left")

    Scores(monkeypatch, fill)
    search = make_search(tmp_path)
    with pytest.raises(InputError, match="could not be written"):
        search_trials(search)
    assert [state for _, state, _ in rows(search)] == ["RUNNING"]


def test_more_trials_go_on_and_hours_end_the_search(tmp_path, monkeypatch):
    scores = Scores(monkeypatch)
    search_trials(make_search(tmp_path, trials=2))
    before = len(scores.trained)
    search = make_search(tmp_path, trials=4)
    search_trials(search)
    assert len(rows(search)) == 4 and len(scores.trained) > before
    assert len({name for name, _ in scores.trained}) == 4
    search_trials(make_search(tmp_path, trials=9, hours=1e-12))
    assert len(rows(search)) == 4


def test_what_a_kill_left_in_the_journal_is_mended(tmp_path, monkeypatch):
    Scores(monkeypatch)
    search = make_search(tmp_path, trials=3)
    search_trials(search)
    before = rows(search)
    with open(search.journal, "a") as file:
        file.write('{"op_code":4,"worker')
    lock = search.journal.with_name("journal.log.lock")
    lock.symlink_to(search.journal)
    mend_journal(search.journal)
    assert rows(search) == before and not lock.is_symlink()
    trial = ask_for_trial(make_search(tmp_path, trials=4), open_study(search))
    assert trial.number == 3


def test_a_damaged_journal_is_refused(tmp_path, monkeypatch):
    search = make_search(tmp_path)
    search.journal.write_text("not json\n{}\n")
    with pytest.raises(InputError, match=r"journal.log: is damaged"):
        open_study(search)


def test_nothing_is_pickled(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("pickled")

    for name in ("dumps", "loads", "dump", "load"):
        monkeypatch.setattr(pickle, name, refuse)
    Scores(monkeypatch)
    search = make_search(tmp_path, trials=14)
    search_trials(search)
    for line in search.journal.read_text().splitlines():
        assert isinstance(json.loads(line), dict)
    assert len(rows(search)) == 14

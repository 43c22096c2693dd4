"""Train the trials of a search, fold by fold, and stop those that are poor.

A trial is an ordinary run. After each fold it is scored out of fold on the folds so far, and goes
on if it is among the best of the trials with as many folds (asynchronous successive halving,
arXiv:1810.05934). A trial that a kill or the time budget stopped goes on from its checkpoint.
"""

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from cellsignal.common.errors import InputError
from cellsignal.common.files import work_in
from cellsignal.common.stopping import Stop
from cellsignal.config import Config
from cellsignal.prediction.predict import predict
from cellsignal.report.runs import read_out_of_fold
from cellsignal.training.run import train
from cellsignal.tuning.journal import (
    FAILED,
    SECONDS,
    ask_for_trial,
    best_trial,
    load_optuna,
    open_study,
    resume_trial,
)
from cellsignal.tuning.search import Search

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import Trial

log = logging.getLogger(__name__)


def search_trials(search: Search, worker: int = 0, stopped: Sequence[int] = ()) -> None:
    """Train trials until there are enough; worker 0 trains the base first.

    Args:
        stopped: numbers of the unfinished trials that this worker resumes. No other worker may
            have them.

    Raises:
        InputError: the base cannot be trained, or the disk is full.
        Interrupted: stopped by a signal or the time budget; the state is saved.
    """
    study = open_study(search)
    with Stop() as stop:
        if worker == 0:
            train_and_predict(search.base_config())
        for number in stopped:
            run_trial(search, study, resume_trial(search, study, number))
        while True:
            stop.check("tune", saved="every trial so far")
            trial = ask_for_trial(search, study)
            if trial is None:
                return
            run_trial(search, study, trial)


def run_trial(search: Search, study: "Study", trial: "Trial") -> None:
    """Train a trial's folds that are not trained yet, and tell the study how it ended.

    A trial that the config refuses, whose loss is not finite or that does not fit on the GPU ends
    there; the search goes on.
    """
    optuna = load_optuna()
    pruned = optuna.trial.TrialState.PRUNED
    frozen = study.get_trials(deepcopy=False)[trial.number]
    scores, folds = dict(frozen.intermediate_values), search.division.search
    seconds = frozen.user_attrs.get(SECONDS, 0.0)
    title = f"trial {trial.number} of {search.trials}"
    log.info("%s: %s", title, ", ".join(f"{k} {v}" for k, v in trial.params.items()))
    for count in range(1, len(folds) + 1):
        if count in scores:
            continue
        started = time.monotonic()
        try:
            config = search.trial_config(trial.number, trial.params, folds[:count])
            scores[count] = score_run(config)
        except (InputError, torch.OutOfMemoryError) as error:
            if isinstance(error.__cause__, OSError):  # the disk, not the trial
                raise
            trial.set_user_attr(FAILED, " ".join(str(error).split()))
            log.warning("%s: ended at fold %d: %s", title, folds[count - 1], error)
            study.tell(trial, state=pruned)
            return
        seconds += time.monotonic() - started
        trial.set_user_attr(SECONDS, seconds)
        trial.report(scores[count], count)
        log.info("%s: %.4f out of fold, %d of %d folds", title, scores[count], count, len(folds))
        if count < len(folds) and trial.should_prune():
            study.tell(trial, state=pruned)
            log.info("%s: stops here, others with as many folds are better", title)
            return
    study.tell(trial, scores[len(folds)])


def score_run(config: Config) -> float:
    """Train and predict what is missing; return the score of `cellsignal score CONFIG`."""
    train_and_predict(config)
    return read_out_of_fold([config]).score()[0]


def train_and_predict(config: Config) -> None:
    train(config)
    with work_in(config.run_folder):
        predict(config)


# measuring the winner
# --------------------------------------------------------------------------------------------------


def confirm_configs(search: Search, study: "Study") -> list[tuple[Config, Config]]:
    """Return the configs of base and winner, one pair for each seed of the measuring."""
    best = best_trial(study)
    assert best is not None, "a search without a finished trial has no winner"
    return [
        (
            search.confirm_config(None, {}, seed),
            search.confirm_config(best.number, best.params, seed),
        )
        for seed in search.seeds()
    ]


def train_confirmation(search: Search, worker: int = 0) -> None:
    """Train this worker's part of the runs that measure the winner."""
    pairs = confirm_configs(search, open_study(search))
    configs: Sequence[Config] = [config for pair in pairs for config in pair]
    with Stop() as stop:
        for config in configs[worker :: search.processes]:
            stop.check("tune", saved="the search")
            train_and_predict(config)

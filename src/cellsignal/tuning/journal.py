"""The trials of a search, as optuna keeps them: a file of JSON lines that survives a kill.

Nothing is pickled: optuna's file journal is text, and the sampler has no state to keep. It is made
anew for each trial, from the seed of the search and the trial's number, so that a search that was
stopped draws what it would have drawn.
"""

import fcntl
import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from cellsignal.common.errors import InputError
from cellsignal.tuning.search import Search
from cellsignal.tuning.space import Choices, Range

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

STARTUP = 10  # trials that are drawn at random before the sampler learns from scores
SECONDS, FAILED = "seconds", "failed"  # attributes of a trial


def load_optuna() -> ModuleType:
    """Import optuna.

    Raises:
        InputError: it is not installed; names the extra that installs it.
    """
    try:
        optuna = importlib.import_module("optuna")
    except ImportError as error:
        raise InputError(
            f"tune: needs the package optuna, which cannot be loaded ({error}); install the extra "
            'tune (pip install -e ".[tune]")'
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def mend_journal(path: Path) -> None:
    """Remove what a killed process left: half a last line, and the lock of the file.

    Call it where no other process works at the search.
    """
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    if not path.is_file():
        return
    with open(path, "rb+") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)


def open_study(search: Search) -> "Study":
    """Open the study of a search; make it where there is none.

    Raises:
        InputError: the journal cannot be read.
    """
    optuna = load_optuna()
    pruner = optuna.pruners.NopPruner()
    if search.halving:
        pruner = optuna.pruners.SuccessiveHalvingPruner(
            min_resource=1, reduction_factor=search.halving
        )
    try:
        backend = optuna.storages.journal.JournalFileBackend(str(search.journal))
        return optuna.create_study(
            storage=optuna.storages.JournalStorage(backend),
            study_name=search.name,
            direction="maximize",
            pruner=pruner,
            load_if_exists=True,
        )
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise InputError(
            f"{search.journal}: is damaged ({error}); move {search.folder} and the trials' runs "
            "away to start anew"
        ) from None


def ask_for_trial(search: Search, study: "Study") -> "Trial | None":
    """Begin the next trial and draw its values; None if there are enough, or the hours are used.

    Several processes may ask at the same time.
    """
    with _asking_alone(search.folder):
        trials = study.get_trials(deepcopy=False)
        if len(trials) >= search.trials or _are_hours_used(search, trials):
            return None
        _set_sampler(search, study, len(trials))
        return study.ask(distributions_of(search))


def _set_sampler(search: Search, study: "Study", number: int) -> None:
    """Give the study the sampler of one trial."""
    optuna = load_optuna()
    words = [search.seed, number]
    seed = int(np.random.SeedSequence(words).generate_state(1)[0])
    with warnings.catch_warnings():  # an option that optuna 4 calls experimental
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.sampler = optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=STARTUP, constant_liar=True
        )


def distributions_of(search: Search) -> dict[str, Any]:
    """Return the space as optuna's distributions, sorted: draws do not depend on the order."""
    optuna = load_optuna()
    distributions = {}
    for key, part in sorted(search.space.items()):
        if isinstance(part, Choices):
            distributions[key] = optuna.distributions.CategoricalDistribution(part.texts)
        else:
            distributions[key] = _numbers(optuna, part)
    return distributions


def _numbers(optuna: ModuleType, part: Range) -> Any:
    if part.whole:
        low, high, step = int(part.low), int(part.high), int(part.step or 1)
        return optuna.distributions.IntDistribution(low, high, log=part.log, step=step)
    return optuna.distributions.FloatDistribution(part.low, part.high, log=part.log, step=part.step)


def unfinished_trials(study: "Study") -> list[int]:
    """Return the numbers of the trials that are begun and have not ended.

    Call it where no worker trains, so that these are trials that a stopped process left.
    """
    states = (load_optuna().trial.TrialState.RUNNING,)
    return [trial.number for trial in study.get_trials(deepcopy=False, states=states)]


def resume_trial(search: Search, study: "Study", number: int) -> "Trial":
    """Return a trial that a stopped process left, with the values that were not drawn yet."""
    optuna = load_optuna()
    frozen = study.get_trials(deepcopy=False)[number]
    _set_sampler(search, study, number)
    trial = optuna.trial.Trial(study, frozen._trial_id)
    for key, distribution in distributions_of(search).items():
        trial._suggest(key, distribution)  # keeps a value that is there
    return trial


def best_trial(study: "Study") -> "FrozenTrial | None":
    """Return the trial with the best score on all folds; of equals the first."""
    optuna = load_optuna()
    done = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    return max(done, key=lambda trial: (trial.value, -trial.number), default=None)


def importances(study: "Study") -> dict[str, float]:
    """Return how much each key decides the score, as optuna estimates it; {} if it cannot."""
    optuna = load_optuna()
    done = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    if len(done) < STARTUP or len({trial.value for trial in done}) < 2:
        return {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            evaluator = optuna.importance.PedAnovaImportanceEvaluator()
            return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))
    except (ImportError, ValueError, RuntimeError):
        return {}


def _are_hours_used(search: Search, trials: list["FrozenTrial"]) -> bool:
    seconds = sum(trial.user_attrs.get(SECONDS, 0.0) for trial in trials)
    return search.hours is not None and seconds >= 3600 * search.hours


@contextmanager
def _asking_alone(folder: Path) -> Iterator[None]:
    with open(folder / "ask.lock", "w", encoding="utf-8") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield

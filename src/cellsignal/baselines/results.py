"""Keep the baselines of a run, and say whether the run beats them."""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from cellsignal.baselines.measuring import (
    CHANCE,
    TITLES,
    Problem,
    baseline_scores,
    open_problem,
)
from cellsignal.common.errors import InputError
from cellsignal.common.files import provenance, write_csv, write_json
from cellsignal.competitions import get_competition
from cellsignal.competitions.targets import Targets
from cellsignal.competitions.task import Task
from cellsignal.config import Config
from cellsignal.data.store import info_file

log = logging.getLogger(__name__)
FILE = "baselines.json"


@dataclass(frozen=True)
class Baseline:
    """One baseline of a run.

    Attributes:
        score, low, high: out of fold, with its 95 % interval over what folds do not split; NaN
            where it was not measured, and the interval NaN of chance.
        reason: why it was not measured, or "".
        key: hash of all that it was measured from.
        state: hash of store, folds, samples and channels (`Problem.state`).
        file: predictions file in the run folder, or "".
        run_score, difference, difference_low, difference_high: of the run on the same targets, and
            its paired difference run - baseline; NaN without predictions.
        verdict: whether the run beats it: the interval lies above 0.
    """

    name: str
    title: str
    score: float
    low: float
    high: float
    targets: int
    reason: str = ""
    key: str = ""
    state: str = ""
    file: str = ""
    run_score: float = np.nan
    difference: float = np.nan
    difference_low: float = np.nan
    difference_high: float = np.nan
    verdict: str = ""


def measure_baselines(
    config: Config,
    names: Sequence[str] = tuple(TITLES),
    *,
    nuclei: str | None = None,
    workers: int = 0,
    weights: Path | None = None,
) -> list[Baseline]:
    """Measure the baselines of a config's folds; those that are up to date are kept.

    Writes a predictions file for each into `<run folder>/baselines/`. Baselines that are not named
    stay as they were, if what they were measured from is unchanged.
    """
    from cellsignal.prediction.container import save_predictions

    competition = get_competition(config.competition)
    problem = open_problem(config, competition, nuclei)
    before = {item.name: item for item in read_baselines(config)}
    results = []
    for name in TITLES:
        key = problem.key(name, weights if name == "imagenet" else None)
        known = before.get(name)
        path = config.run_folder / "baselines" / f"{name}.npz"
        is_current = known is not None and known.key == key and not known.reason
        if is_current and (name == CHANCE or path.is_file()):
            results.append(known)
            continue
        if name not in names:
            continue
        log.info("baseline %s: %s", name, TITLES[name])
        if name == CHANCE:
            results.append(_chance(problem, key))
            continue
        try:
            scores = baseline_scores(problem, name, workers=workers, weights=weights)
        except InputError as error:
            nothing = (np.nan, np.nan, np.nan, 0)
            results.append(Baseline(name, TITLES[name], *nothing, str(error), key, problem.state))
            continue
        rows = np.flatnonzero(np.isfinite(scores).all(axis=1))
        samples = problem.samples.iloc[rows]
        labels = competition.task.known_labels(samples, problem.classes)
        view = {"identity": scores[rows].astype(np.float32)}
        part = np.full(len(rows), "oof")
        save_predictions(path, samples, part, view, _about(problem, name, key), labels)
        results.append(_scored(problem, name, key, path))
    return results


def _chance(problem: Problem, key: str) -> Baseline:
    valid = np.unique(np.concatenate([split.valid for split in problem.splits]))
    samples = problem.samples.iloc[valid].drop_duplicates("target_id")
    chance = problem.competition.task.chance(samples, problem.classes)
    return Baseline(
        CHANCE, TITLES[CHANCE], chance, np.nan, np.nan, len(samples), "", key, problem.state
    )


def _scored(problem: Problem, name: str, key: str, path: Path) -> Baseline:
    task = problem.competition.task
    targets = load_targets(path, task)
    figures = task.clustered_score(targets, clusters(problem, targets))
    file = f"baselines/{path.name}"
    return Baseline(
        name, TITLES[name], *figures, len(targets.target_id), "", key, problem.state, file
    )


def _about(problem: Problem, name: str, key: str) -> dict:
    """Return the facts of a baseline's predictions file; it can be scored like any other."""
    config = problem.config
    return provenance(
        {"folds": config.folds.file, "store": info_file(config.data.store)},
        classes=list(problem.store.source["classes"]),
        competition=problem.competition.id,
        run=f"baseline_{name}/seed{config.seed}",
        stage=f"baseline {name}",
        stage_index=0,
        fold=None,
        fold_group=problem.folds.group,
        seed=config.seed,
        protocol=config.protocol,
        settings={},
        data_root=str(config.data.root),
        submit=config.submit.model_dump(mode="json"),
        made_from={"key": key},
    )


def load_targets(path: Path, task: Task) -> Targets:
    """Read a baseline's predictions, one row a target."""
    from cellsignal.prediction.container import load_predictions
    from cellsignal.prediction.merge import merge

    return merge([load_predictions(path)], "oof", task)


def clusters(problem: Problem, targets: Targets) -> np.ndarray:
    """Return the unit of each target, (T,): the group that folds do not split."""
    rows = problem.samples.drop_duplicates("target_id").set_index("target_id")
    return rows[problem.folds.group].loc[targets.target_id].to_numpy(object)


# kept beside the run
# --------------------------------------------------------------------------------------------------


def read_baselines(config: Config) -> list[Baseline]:
    """Read a run's baselines; none where there are none, or the file is damaged."""
    path = config.run_folder / FILE
    try:
        items = json.loads(path.read_text(encoding="utf-8"))["baselines"]
        return [Baseline(**{k: np.nan if v is None else v for k, v in i.items()}) for i in items]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError):
        log.warning("%s: is damaged and is made anew", path)
        return []


def write_baselines(config: Config, results: Sequence[Baseline]) -> None:
    """Write `baselines.json` and `baselines.csv` into the run folder."""
    import pandas as pd

    items = [
        {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in asdict(item).items()}
        for item in results
    ]
    write_json(config.run_folder / FILE, provenance(baselines=items))
    frame = pd.DataFrame([asdict(item) for item in results]).drop(columns=["key", "state"])
    write_csv(config.run_folder / "baselines.csv", frame)

"""Say whether a run beats the baselines, by paired differences out of fold."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cellsignal.baselines.measuring import CHANCE, Problem, open_problem
from cellsignal.baselines.results import (
    Baseline,
    clusters,
    load_targets,
    measure_baselines,
    read_baselines,
    write_baselines,
)
from cellsignal.common.errors import InputError
from cellsignal.common.tables import aligned
from cellsignal.competitions import get_competition
from cellsignal.competitions.targets import Targets, subset
from cellsignal.config import Config
from cellsignal.evaluation.leaderboard import BASELINE, append_entry, out_of_fold_entry
from cellsignal.metrics.accuracy import Score

if TYPE_CHECKING:
    from cellsignal.prediction.entry import Entry

NOT_COMPARED = {
    **dict.fromkeys(("run_score", "difference", "difference_low", "difference_high"), np.nan),
    "verdict": "",
}
BEATS, BEATEN, UNCLEAR, UNKNOWN = "beats it", "is beaten", "not told apart", "no interval"


def compare(
    problem: Problem, baselines: Sequence[Baseline], targets: Targets, folder: Path
) -> list[Baseline]:
    """Return the baselines with the run's score, the paired difference and the verdict.

    Both are scored on the targets that both predict. The interval is over what folds do not split:
    experiments, compounds, plates.

    Args:
        targets: the run's out-of-fold predictions.
        folder: the run folder.
    """
    task, compared = problem.competition.task, []
    for item in baselines:
        if item.reason:
            compared.append(item)
            continue
        if item.name == CHANCE:
            run = _known(problem, targets)
            score, low, high = task.clustered_score(run, clusters(problem, run))
            figures = (score, score - item.score, low - item.score, high - item.score)
        else:
            run, other = _align(targets, load_targets(folder / item.file, task))
            cluster = clusters(problem, run)
            paired = task.compare_targets(run, other, cluster)
            figures = (paired.first, paired.difference, paired.low, paired.high)
        names = ("run_score", "difference", "difference_low", "difference_high")
        verdict = _verdict(*figures[2:])
        compared.append(replace(item, **dict(zip(names, figures, strict=True)), verdict=verdict))
    return compared


def _known(problem: Problem, targets: Targets) -> Targets:
    known = np.isin(targets.target_id, problem.samples.target_id.to_numpy(object).astype(str))
    return subset(targets, np.flatnonzero(known))


def _align(run: Targets, baseline: Targets) -> tuple[Targets, Targets]:
    """Return the targets that both predict, in one order.

    Raises:
        InputError: there are none.
    """
    place = pd.Index(baseline.target_id).get_indexer(run.target_id)
    rows = np.flatnonzero(place >= 0)
    if not len(rows):
        raise InputError("the run and its baselines predict no target in common")
    return subset(run, rows), subset(baseline, place[rows])


def _verdict(low: float, high: float) -> str:
    if np.isnan(low) or np.isnan(high):
        return UNKNOWN
    return BEATS if low > 0 else BEATEN if high < 0 else UNCLEAR


def baselines_text(baselines: Sequence[Baseline], group: str, what: str = "") -> str:
    """Write the baselines as a table, with the run's difference from each if it is known.

    Args:
        group: the unit of the intervals.
        what: the run.
    """
    is_compared = any(np.isfinite(item.run_score) for item in baselines)
    header = ["baseline", "score", f"95 % over {group}s"]
    header += ["run", "run - baseline", "paired 95 %", "the run"] if is_compared else []
    lines = [(*header, "knows")]
    order = sorted(baselines, key=lambda item: (bool(item.reason), item.score))
    for item in order:
        cells = [item.name, _number(item.score), _range(item.low, item.high)]
        if is_compared:
            cells += [_number(item.run_score), _number(item.difference, "+")]
            cells += [_range(item.difference_low, item.difference_high, "+"), item.verdict]
        knows = f"not measured: {item.reason}" if item.reason else item.title
        lines.append((*cells, knows))
    right = {1, 3, 4} if is_compared else {1}
    text = f"{aligned(lines, right=right)}\nout of fold; fitted on the training folds alone"
    return f"{text}; the run ({what}) before plate-layout steps" if is_compared and what else text


def _number(value: float, sign: str = "") -> str:
    return "" if np.isnan(value) else f"{value:{sign}.4f}"


def _range(low: float, high: float, sign: str = "") -> str:
    return "" if np.isnan(low) else f"{low:{sign}.3f} .. {high:{sign}.3f}"


def baselines_of_run(
    config: Config,
    names: Sequence[str],
    entry: "Entry | None",
    leaderboard: Path | None = None,
    **options,
) -> str:
    """Measure the named baselines, compare a run with all that there are, and write both.

    Args:
        entry: the run's predictions; None compares nothing.
        leaderboard: gets a row for each baseline.
        options: of `measure_baselines`.
    """
    baselines = measure_baselines(config, names, **options)
    competition = get_competition(config.competition)
    problem = open_problem(config, competition, options.get("nuclei"))
    if entry is not None:
        targets = entry.merge(entry.final(), "oof", pool=config.submit.pool)
        baselines = compare(problem, baselines, targets, config.run_folder)
    else:  # what was compared before may be gone
        baselines = [replace(item, **NOT_COMPARED) for item in baselines]
    write_baselines(config, baselines)
    if leaderboard is not None:
        _note(problem, baselines, leaderboard)
    return baselines_text(baselines, problem.folds.group, _name_of(entry))


def _name_of(entry: "Entry | None") -> str:
    if entry is None:
        return ""
    return entry.runs[0] if len(entry.runs) == 1 else f"{len(entry.runs)} runs merged"


def _note(problem: Problem, baselines: Sequence[Baseline], leaderboard: Path) -> None:
    """Append the measured baselines to the leaderboard."""
    config, competition = problem.config, problem.competition
    files = [config.run_folder / item.file for item in baselines if item.file]
    if not files:
        return
    truth = competition.task.truth_table(load_targets(files[0], competition.task))
    for item in baselines:
        if not item.reason:
            figure = Score(item.score, item.low, item.high, item.targets)
            name = f"{item.name}, folds of {config.name}"
            append_entry(
                leaderboard,
                out_of_fold_entry(competition, name, figure, item.key, truth, BASELINE),
            )


def kept_comparison(config: Config, entry: "Entry") -> str:
    """Compare a run with the baselines that were measured before, as text for `score`.

    Nothing is measured or written. Baselines of another store, fold table or list of excluded
    samples are not shown.
    """
    command = "`cellsignal baseline CONFIG` measures them"
    baselines = read_baselines(config)
    if not baselines:
        return f"baselines: not measured; {command}"
    try:
        problem = open_problem(config, get_competition(config.competition), None)
        current = [item for item in baselines if _is_current(problem, item, config)]
        if not current:
            return f"baselines: were measured from something else; {command} anew"
        targets = entry.merge(entry.final(), "oof", pool=config.submit.pool)
        compared = compare(problem, current, targets, config.run_folder)
    except InputError as error:
        return f"baselines: cannot be compared ({error})"
    return baselines_text(compared, problem.folds.group, _name_of(entry))


def _is_current(problem: Problem, item: Baseline, config: Config) -> bool:
    """Return whether a baseline is of the problem as it is now, and its file is there."""
    if item.reason or (item.file and not (config.run_folder / item.file).is_file()):
        return False
    return item.state == problem.state

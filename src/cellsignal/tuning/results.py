"""Print and write what a search found: its trials, the winner's config, and what it gains."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import yaml

from cellsignal.common.files import provenance, write_csv, write_json, write_text
from cellsignal.common.stopping import duration
from cellsignal.common.tables import aligned
from cellsignal.config import Config, load_config
from cellsignal.metrics.intervals import plural, range_text
from cellsignal.metrics.paired import Paired
from cellsignal.tuning.gain import gain_words, measure_gain, read_run
from cellsignal.tuning.journal import FAILED, SECONDS, best_trial, importances
from cellsignal.tuning.search import BASE, Search
from cellsignal.tuning.space import set_words, value_at
from cellsignal.tuning.trials import confirm_configs

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

WINNER, TRIALS, GAIN = "winner.yaml", "trials.csv", "gain.json"


@dataclass(frozen=True)
class Gain:
    """What the winner gains.

    Attributes:
        in_search: on the scores that it was chosen by; optimistic.
        again: measured again on other folds and seeds; None if it was not.
        by_seed: the difference of each of those seeds.
    """

    in_search: Paired
    again: Paired | None
    by_seed: list[float]
    group: str


def in_search_gain(search: Search, best: "FrozenTrial") -> tuple[Paired, str]:
    """Return the winner's gain on the folds that chose it, and the name of the fold group."""
    winner = search.trial_config(best.number, best.params, search.division.search)
    paired, _, group = measure_gain([(search.base_config(), winner)])
    return paired, group


def final_gain(search: Search, study: "Study") -> Gain:
    """Measure the winner's gain in the search and, where that was trained, again."""
    best = best_trial(study)
    in_search, group = in_search_gain(search, best)
    pairs = confirm_configs(search, study) if in_search.difference > 0 else []
    if not pairs:
        return Gain(in_search, None, [], group)
    again, by_seed, group = measure_gain(pairs)
    return Gain(in_search, again, by_seed, group)


# the trials
# --------------------------------------------------------------------------------------------------


def trials_frame(search: Search, study: "Study") -> pd.DataFrame:
    """Return the base and all trials, a row each.

    Returns:
        Columns trial, run, state, folds, score, low, high, hours, then the keys of the space.
    """
    base = search.base.model_dump(mode="json")
    folds = len(search.division.search)
    values = {key: value_at(base, key) for key in search.space}
    score, low, high = read_run(search.base_config()).score()
    fixed = {"trial": "base", "run": f"{search.name}_base", "state": "finished", "folds": folds}
    rows = [fixed | {"score": score, "low": low, "high": high, "hours": math.nan} | values]
    for trial in study.get_trials(deepcopy=False):
        rows.append(_row(search, trial) | trial.params)
    return pd.DataFrame(rows)


def _row(search: Search, trial: "FrozenTrial") -> dict[str, Any]:
    done, most = len(trial.intermediate_values), len(search.division.search)
    state = trial.state.name.lower()
    words = {"complete": "finished", "pruned": f"stopped after {done} of {most} folds"}
    low = high = math.nan
    if state == "complete":
        config = search.trial_config(trial.number, trial.params, search.division.search)
        _, low, high = read_run(config).score()
    return {
        "trial": str(trial.number),
        "run": search.trial_name(trial.number),
        "state": f"failed: {trial.user_attrs[FAILED]}"
        if FAILED in trial.user_attrs
        else words.get(state, state),
        "folds": done,
        "score": trial.intermediate_values[done] if done else math.nan,
        "low": low,
        "high": high,
        "hours": trial.user_attrs.get(SECONDS, math.nan) / 3600,
    }


def trials_text(search: Search, frame: pd.DataFrame) -> str:
    """Print the trials, the best first; those on fewer folds below those on more."""
    keys = list(search.space)
    titles = _short_titles(keys)
    lines = [("trial", "folds", "out of fold", "95 % interval", *titles, "state")]
    order = frame.sort_values(["folds", "score"], ascending=False, kind="stable")
    for row in order.to_dict("records"):
        score = "" if math.isnan(row["score"]) else f"{row['score']:.4f}"
        cells = [_cell(row[key]) for key in keys]
        interval = range_text(row["low"], row["high"])
        lines.append((row["trial"], str(row["folds"]), score, interval, *cells, row["state"]))
    return aligned(lines, right={1, 2, *range(4, 4 + len(keys))})


def _short_titles(keys: list[str]) -> list[str]:
    """Return the last part of each key, or the whole key where several end alike."""
    last = [key.rpartition(".")[2] for key in keys]
    return [name if last.count(name) == 1 else key for name, key in zip(last, keys, strict=True)]


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4g}"
    return str(value)


# the winner
# --------------------------------------------------------------------------------------------------


def write_results(search: Search, study: "Study", gain: Gain | None) -> str:
    """Write the tables, and the winner's config if it gains in the search; return the text."""
    frame = trials_frame(search, study)
    write_csv(search.folder / TRIALS, frame)
    parts = [f"{_title(search)}\n\n{trials_text(search, frame)}"]
    shares = importances(study)
    if shares:
        words = ", ".join(f"{key} {share:.2f}" for key, share in shares.items())
        parts.append(f"share of each key in the scores of the finished trials (PED-ANOVA): {words}")
    best = best_trial(study)
    if gain is None or best is None:
        parts.append("no trial has finished on all folds; more --trials go on from here")
        return "\n\n".join(parts)
    parts.append(gain_text(search, best, gain))
    write_json(search.folder / GAIN, _gain_facts(search, best, gain))
    path = search.folder / WINNER
    if gain.in_search.difference > 0:
        write_text(path, winner_yaml(search, best, gain))
        parts.append(f"winner: {path}")
    else:
        path.unlink(missing_ok=True)
    return "\n\n".join(parts)


def _title(search: Search) -> str:
    folds = ", ".join(map(str, search.division.search))
    return (
        f"search on folds {folds}, seed {search.base.seed}: out-of-fold scores, the best first; a "
        "row on fewer folds compares with others on as many"
    )


def gain_text(search: Search, best: "FrozenTrial", gain: Gain) -> str:
    """Say what the winner gains in the search, and what it gains where it was not chosen."""
    group, number = gain.group, best.number
    lines = [
        f"gain of trial {number} over the base",
        f"  in the search: {gain_words(gain.in_search, group)}; optimistic, as these scores chose "
        "it",
    ]
    if gain.in_search.difference <= 0:
        lines.append("  no trial beats the base, so there is nothing to measure again")
        return "\n".join(lines)
    if gain.again is None:
        lines.append("  not measured again (--confirm-seeds 0), so what it gains is not known")
        return "\n".join(lines)
    seeds = ", ".join(map(str, search.seeds()))
    lines.append(f"  measured again: {gain_words(gain.again, group)}")
    lines.append(f"    {_measured_on(search, group)}; seeds {seeds}")
    spread = f", SD {np.std(gain.by_seed, ddof=1):.4f}" if len(gain.by_seed) > 1 else ""
    each = ", ".join(f"{difference:+.4f}" for difference in gain.by_seed)
    lines.append(f"    by seed: {each}{spread}; the interval is over units, not over seeds")
    if not gain.again.low > 0:
        lines.append("    no gain is shown: the interval reaches 0, or there is none")
    return "\n".join(lines)


def _measured_on(search: Search, group: str) -> str:
    division = search.division
    if division.left_out:
        folds = ", ".join(map(str, division.left_out))
        return f"on {plural(group, division.units)} that the search never saw (fold {folds})"
    return (
        f"on the same {plural(group, division.units)} as the search, as there are too few to leave "
        "some out; folds of another draw. Still a little optimistic"
    )


def _gain_facts(search: Search, best: "FrozenTrial", gain: Gain) -> dict[str, Any]:
    again = None if gain.again is None else vars(gain.again)
    return {
        "trial": best.number,
        "values": dict(best.params),
        "in_search_optimistic": vars(gain.in_search),
        "measured_again": again,
        "by_seed": dict(zip(map(str, search.seeds()), gain.by_seed, strict=False)),
        "unit": gain.group,
        "units_left_out_of_the_search": bool(search.division.left_out),
        "about": provenance({"base": search.folder / BASE}),
    }


def winner_config(search: Search, best: "FrozenTrial") -> Config:
    """Return the base with the winner's values, on the base's own folds, under its own name."""
    return load_config(search.folder / BASE, [*set_words(best.params), f"name={search.name}_tuned"])


def winner_yaml(search: Search, best: "FrozenTrial", gain: Gain) -> str:
    """Write the winner's config, with what it changes and gains as comments."""
    lines = [f"The best of {search.trials} trials of `cellsignal tune`: trial {best.number}."]
    base = search.base.model_dump(mode="json")
    lines += [f"{key}: {value_at(base, key)} -> {_cell(best.params[key])}" for key in search.space]
    lines += gain_text(search, best, gain).splitlines()
    config = winner_config(search, best)
    body = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    return "".join(f"# {line}\n" for line in lines) + body


def time_text(study: "Study") -> str:
    """Say how many trials there are, and how long they trained."""
    trials = study.get_trials(deepcopy=False)
    seconds = sum(trial.user_attrs.get(SECONDS, 0.0) for trial in trials)
    return f"{len(trials)} trials, {duration(seconds)} of training in all"

"""Configs, runs and predictions files as the input of `submit`, `oof` and `score`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cellsignal.common.errors import InputError
from cellsignal.common.files import limited_name
from cellsignal.competitions import get_competition
from cellsignal.config import Config
from cellsignal.config.options import parse_pairs, read_configs
from cellsignal.evaluation.ladder import Step
from cellsignal.evaluation.leaderboard import LEADERBOARD
from cellsignal.evaluation.protocol import protocol_text
from cellsignal.prediction.container import load_predictions
from cellsignal.prediction.entry import Entry, open_entry, refuse_without_test
from cellsignal.prediction.freshness import config_predictions
from cellsignal.prediction.merge_options import choose_section, weights_text
from cellsignal.prediction.oof import out_of_fold_text
from cellsignal.prediction.protocol import score_protocol
from cellsignal.prediction.submit import make_submission

SECTION = "submit."


@dataclass(frozen=True)
class Sources:
    """Predictions files and how they are merged.

    Attributes:
        files: The predictions files.
        configs: Those that were named, one for each seed.
        sections: Name of a source -> its `submit` section; None where a file has none.
        changed: Keys of the section that `--set` changes.
    """

    files: list[Path]
    configs: list[Config]
    sections: dict[str, dict[str, Any] | None]
    changed: dict[str, Any]

    def root(self, given: Path | None) -> Path | None:
        """Return the folder of the raw data: the given one, else the first config's."""
        if given is None and self.configs:
            return self.configs[0].data.root
        return given


def read_sources(
    words: Sequence[Path | str], changes: Sequence[str] = (), seeds: Sequence[int] | None = None
) -> Sources:
    """Find the predictions files that configs, runs and .npz paths name.

    Args:
        words: A config or run names the predictions of all its seeds, or of `seeds`.
        changes: `--set` words. `submit.KEY` changes how all are merged, others change the configs.

    Raises:
        InputError: A config has no predictions, or they were made from something else than it says
        now; or a change that would do nothing.
    """
    section = [word for word in changes if word.startswith(SECTION)]
    changes = [word for word in changes if word not in section]
    sources = Sources([], [], {}, _parse_section(section))
    for word in words:
        if Path(word).suffix == ".npz":
            about = load_predictions(word).about
            sources.files.append(Path(word))
            sources.sections.setdefault(about["run"], about.get("submit"))
            continue
        configs = read_configs(str(word), changes, seeds)
        for config in configs if seeds else configs[:1]:
            sources.files.extend(config_predictions(config, all_seeds=not seeds))
        sources.configs.extend(configs)
        sources.sections[str(word)] = configs[0].submit.model_dump(mode="json")
    if changes and not sources.configs:
        raise InputError(
            f"--set {changes[0]}: would do nothing, as no config is named; "
            f"--set {SECTION}KEY=VALUE changes how predictions files are merged"
        )
    return sources


def _parse_section(words: Sequence[str]) -> dict[str, Any]:
    """Return the keys of the `submit` section that `--set submit.KEY=VALUE` words change."""
    changed = {}
    for key, text in parse_pairs(words, "--set").items():
        try:
            changed[key.removeprefix(SECTION)] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise InputError(f"--set {key}: {text!r} is not a YAML value") from None
    return changed


def submit_sources(
    sources: Sources,
    out: Path | None,
    *,
    weights: dict[str, float] | None = None,
    root: Path | None = None,
    changed: dict[str, Any] | None = None,
    leaderboard: Path = LEADERBOARD,
    force: bool = False,
) -> tuple[Path, list[Step], Entry]:
    """Merge predictions into a submission, and print how they are merged.

    A config is merged as its `submit` section says, a predictions file as that of the config it was
    made with.

    Args:
        out: The CSV; None: submissions/<runs>.csv.
        root: Folder of the raw data; None takes the first config's, else the one that the
            predictions were made on.
        changed: Keys of the `submit` section to set otherwise.
        leaderboard, force: A submission that stands there is replaced only with `force`.

    Returns:
        The CSV's path, the out-of-fold ladder, and what was merged.

    Raises:
        InputError: Predictions that do not belong together, or whose sections differ.
    """
    how, whose = choose_section(sources.sections, sources.changed | (changed or {}))
    entry = open_entry(sources.files, how, weights or {}, sources.root(root))
    refuse_without_test(entry.final(), entry.competition)
    if out is None:
        names = dict.fromkeys(run.partition("/")[0] for run in entry.runs)
        out = Path("submissions") / f"{limited_name('+'.join(names))}.csv"
    print(f"merged by {whose}")
    if len(entry.runs) > 1:
        print(weights_text(entry.weights))
    return out, make_submission(entry, out, leaderboard=leaderboard, force=force), entry


def out_of_fold_table(sources: Sources, root: Path | None = None) -> str:
    """Return the out-of-fold scores of every run, and of all merged, as text."""
    how, _ = choose_section(sources.sections, sources.changed, keys=("merge",))
    entry = open_entry(sources.files, how, root=sources.root(root))
    return out_of_fold_text(entry)


def protocol_table(config: Config, answers_file: Path) -> str:
    """Return the scores of a config's predictions by the parts of its protocol, as text."""
    competition = get_competition(config.competition)
    if config.protocol is None:
        raise InputError(f"protocol: {config.name} has none; `cellsignal competitions` lists them")
    files = config_predictions(config, all_seeds=False, stage_index=len(config.stages) - 1)
    published = dict(competition.protocol(config.protocol).parts)
    return protocol_text(score_protocol(files, competition.answers(answers_file)), published)

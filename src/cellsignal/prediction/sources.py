"""Configs, runs and predictions files as the input of `submit`, `oof` and `score`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from scipy.special import log_softmax

from cellsignal.common.errors import InputError
from cellsignal.common.files import limited_name
from cellsignal.competitions import get_competition
from cellsignal.config import Config
from cellsignal.config.options import parse_pairs, read_configs
from cellsignal.evaluation.ladder import Step
from cellsignal.evaluation.leaderboard import LEADERBOARD
from cellsignal.evaluation.protocol import protocol_scores, protocol_text, true_labels
from cellsignal.prediction.blend_file import apply_blend
from cellsignal.prediction.container import Predictions, load_predictions, read_about
from cellsignal.prediction.entry import Entry, open_entry, out_of_fold_text, refuse_without_test
from cellsignal.prediction.freshness import config_predictions
from cellsignal.prediction.merge import refuse_not_finite
from cellsignal.prediction.merge_options import choose_section, weights_text
from cellsignal.prediction.probabilities import out_of_fold_reliability
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
            about = read_about(word)
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
    probabilities: bool = False,
    blend: Path | None = None,
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
        probabilities: Write the rows' probabilities beside it.
        blend: A file of `cellsignal blend`, in place of weights.

    Returns:
        The CSV's path, the out-of-fold ladder, and what was merged.

    Raises:
        InputError: Predictions that do not belong together, or whose sections differ.
    """
    how, whose = choose_section(sources.sections, sources.changed | (changed or {}))
    entry = open_entry(sources.files, how, weights or {}, sources.root(root))
    refuse_without_test(entry.final(), entry.competition)
    names = dict.fromkeys(run.partition("/")[0] for run in entry.runs)
    if blend is not None:
        entry = apply_blend(entry, blend)
    if out is None:
        out = Path("submissions") / f"{limited_name('+'.join(names))}.csv"
    print(f"merged by {whose}")
    if len(entry.runs) > 1 or entry.temperatures:
        print(weights_text(entry.weights, entry.temperatures))
    options = {"leaderboard": leaderboard, "force": force, "probabilities": probabilities}
    return out, make_submission(entry, out, **options), entry


def out_of_fold_table(entry: Entry) -> str:
    """Return the out-of-fold scores of every run, and of all merged, and how reliable they are."""
    return f"{out_of_fold_text(entry)}\n\n{out_of_fold_reliability(entry)}".rstrip("\n")


def out_of_fold_entry(sources: Sources, root: Path | None = None) -> Entry:
    """Return the predictions of sources as they are merged for an out-of-fold score."""
    how, _ = choose_section(sources.sections, sources.changed, keys=("merge",))
    return open_entry(sources.files, how, root=sources.root(root))


def protocol_table(config: Config, answers_file: Path) -> str:
    """Return the scores of a config's predictions by the parts of its protocol, as text."""
    competition = get_competition(config.competition)
    if config.protocol is None:
        raise InputError(f"protocol: {config.name} has none; `cellsignal competitions` lists them")
    files = config_predictions(config, all_seeds=False, stage_index=len(config.stages) - 1)
    published = dict(competition.protocol(config.protocol).parts)
    return protocol_text(score_protocol(files, competition.answers(answers_file)), published)


# by the parts of a protocol
# --------------------------------------------------------------------------------------------------


def score_protocol(files: Sequence[Path], answers: pd.DataFrame) -> pd.DataFrame:
    """Return the accuracy of each part of the protocol (`evaluation.protocol.protocol_scores`).

    Args:
        files: predictions of the last stage of each model; several are averaged
            (log-probabilities).
        answers: `Competition.answers`.

    Raises:
        InputError: predictions of no protocol, of different ones, or of different samples, or
        scores that are not finite.
    """
    members = [load_predictions(path) for path in files]
    first = members[0]
    competition = get_competition(first.about["competition"])
    name = first.about.get("protocol")
    if name is None or not competition.protocol(name).parts:
        raise InputError(
            f"{first.path}: was not predicted for a protocol with parts; set `protocol` in the "
            "config"
        )
    for member in members:
        if member.about.get("protocol") != name or not np.array_equal(
            member.ids["sample_id"], first.ids["sample_id"]
        ):
            raise InputError(f"{member.path}: predicts other samples than {first.path}")
    scores = sum(_log_probabilities(member) for member in members)
    refuse_not_finite(scores, first.ids["target_id"])
    predicted = scores.argmax(1)
    n_treatments = len(first.classes) - sum(label.startswith("control_") for label in first.classes)
    true = true_labels(
        first.ids["target_id"], first.label, competition, answers, first.classes[:n_treatments]
    )
    parts = [part for part, _ in competition.protocol(name).parts if part != "train"]
    return protocol_scores(
        first.ids["part"], first.ids["experiment"], first.ids["target_id"], true, predicted, parts
    )


def _log_probabilities(member: Predictions) -> np.ndarray:
    """(N, K) mean over views."""
    return sum(
        log_softmax(member.logits(view).astype(np.float32), axis=1) for view in member.views
    ) / len(member.views)

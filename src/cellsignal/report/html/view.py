"""What there is of a run, at any time: read when asked for, or one line that says what makes it."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.files import is_worked_in
from cellsignal.competitions import get_competition
from cellsignal.competitions.base import Competition
from cellsignal.competitions.targets import Truth
from cellsignal.competitions.task import Task
from cellsignal.config import Config, load_config
from cellsignal.config.options import read_configs
from cellsignal.config.schema import Submit
from cellsignal.data.store import Store, has_store
from cellsignal.evaluation.ladder import Step
from cellsignal.prediction.entry import Entry, has_test, open_entry, with_part
from cellsignal.prediction.freshness import config_predictions
from cellsignal.prediction.steps import ladder
from cellsignal.report.html.outcomes import Outcome, make_outcome
from cellsignal.report.html.submission import read_submission_record
from cellsignal.report.run_report import training_logs


@dataclass
class RunView:
    """One run with its seeds, or a submission with the runs that it was merged from.

    Every part that may not be there yet raises `InputError`, whose text says what makes it.

    Attributes:
        word: as the user named it.
        configs: one for each seed, or for each run of a submission; may be empty for a submission
            whose runs are not here.
        answers_file: true test labels, if given.
        record: what the submission's .json says; None for a run.
    """

    word: str
    configs: list[Config]
    answers_file: Path | None = None
    record: dict[str, Any] | None = None

    @classmethod
    def open(cls, word: str, answers_file: Path | None = None) -> "RunView":
        """Open a run by its name, folder or config, or a submission (.csv).

        Raises:
            InputError: there is none.
        """
        if Path(word).suffix != ".csv":
            return cls(word, read_configs(word), answers_file)
        record = read_submission_record(Path(word))
        configs = []
        for run in record["runs"]:
            name, _, seed = run.partition("/")
            path = Path("runs") / name / seed / "config.yaml"
            configs += [load_config(path)] if path.is_file() else []
        return cls(word, configs, answers_file, record)

    @property
    def title(self) -> str:
        """The run's name, or the submission's."""
        return Path(self.word).stem if self.record is not None else self.configs[0].name

    @property
    def command(self) -> str:
        """How commands name the run."""
        names = [config.name for config in self.configs]
        return " ".join(dict.fromkeys(names)) or self.word

    @cached_property
    def competition(self) -> Competition:
        if self.record is not None:
            return get_competition(self.record["competition"])
        return get_competition(self.configs[0].competition)

    @property
    def task(self) -> Task:
        return self.competition.task

    @property
    def config(self) -> Config:
        """The first config."""
        if not self.configs:
            runs = ", ".join(self.record["runs"]) if self.record else self.word
            raise InputError(f"the folders of its runs are not in runs/: {runs}")
        return self.configs[0]

    @cached_property
    def folders(self) -> list[Path]:
        """The run folders that exist."""
        return [config.run_folder for config in self.configs if config.run_folder.is_dir()]

    @property
    def is_running(self) -> bool:
        """Whether a process works at it."""
        return any(is_worked_in(folder) for folder in self.folders)

    @cached_property
    def logs(self) -> pd.DataFrame:
        """The epochs of all trainings; columns of `training_logs` and seed.

        Raises:
            InputError: none has ended.
        """
        frames = []
        for config in self.configs:
            stages = [stage.name for stage in config.stages]
            if any(next(config.run_folder.glob(f"*/{s}/*/log.csv"), None) for s in stages):
                name = f"{config.name}/seed{config.seed}"
                frames.append(training_logs(config).assign(run=name))
        if not frames:
            raise InputError(f"no epoch has ended yet: `cellsignal train {self.command}`")
        return pd.concat(frames, ignore_index=True)

    @cached_property
    def store(self) -> Store:
        """The packed images.

        Raises:
            InputError: they are not here.
        """
        store = self.config.data.store
        if not has_store(store):
            raise InputError(f"{store}: is not here; `cellsignal prepare {self.command}` makes it")
        return Store.open(store)

    @cached_property
    def samples(self) -> pd.DataFrame:
        """The samples table: of the predictions' raw data, else of the store.

        Raises:
            InputError: neither is here.
        """
        return self._entry.samples if isinstance(self._entry, Entry) else self.store.samples

    # predictions

    @property
    def entry(self) -> Entry:
        """The predictions and how they are merged.

        Raises:
            InputError: there are none, or they were made from something else.
        """
        if isinstance(self._entry, InputError):
            raise self._entry
        return self._entry

    @cached_property
    def _entry(self) -> Entry | InputError:
        try:
            return self._open_record() if self.record is not None else self._open_runs()
        except InputError as error:
            return error

    def _open_runs(self) -> Entry:
        files: dict[Path, None] = {}
        for config in self.configs:
            if next((config.run_folder / "predictions").glob("*.npz"), None) is not None:
                files |= dict.fromkeys(config_predictions(config, all_seeds=False))
        if not files:
            raise InputError(f"no predictions yet: `cellsignal predict {self.command}`")
        return open_entry(list(files), self.config.submit, root=self.config.data.root)

    def _open_record(self) -> Entry:
        record = self.record or {}
        files = [Path(item["path"]) for item in record["inputs"].values()]
        predictions = [path for path in files if path.suffix == ".npz"]
        root = self.configs[0].data.root if self.configs else None
        return open_entry(predictions, Submit(**record["merge"]), dict(record["weights"]), root)

    @cached_property
    def truth(self) -> Truth | None:
        """The true test labels; None without answers, or without test predictions."""
        if self.answers_file is None or not has_test(self.entry.final()):
            return None
        answers = self.competition.answers(self.answers_file)
        return self.task.truth(answers, self.entry.classes)

    @property
    def parts(self) -> list[str]:
        """The parts that can be scored: "test" if answers are given, "oof" if predicted."""
        parts = ["test"] if self.truth is not None else []
        return parts + ["oof"] * bool(with_part(self.entry.final(), "oof"))

    @cached_property
    def outcomes(self) -> dict[str, Outcome]:
        """The merged predictions beside their truth, by part, the test set first.

        Raises:
            InputError: nothing that can be scored was predicted.
        """
        if not self.parts:
            raise InputError(self._why_nothing_to_score())
        return {part: make_outcome(self.entry, part, self.truth) for part in self.parts}

    @cached_property
    def ladders(self) -> dict[str, list[Step]]:
        """The score after each step, by part; empty where a protocol has parts of its own."""
        groups = self.competition.plate_groups(self.entry.samples)
        truths = {"test": self.truth, "oof": None}
        return {part: ladder(self.entry, part, groups, truths[part]) for part in self.parts}

    def _why_nothing_to_score(self) -> str:
        protocol = self.config.protocol
        if protocol is not None and self.competition.protocol(protocol).parts:
            command = f"cellsignal score {self.command} --answers CSV"
            return f"protocol {protocol}: its parts are scored by `{command}`"
        if has_test(self.entry.final()):
            return "only test wells are predicted: `--answers CSV` shows their score"
        return "no well is predicted out of fold, and there is no test set"

    @property
    def outcome(self) -> Outcome:
        """The outcome that most pictures show: of the test set with answers, else out of fold."""
        return next(iter(self.outcomes.values()))

    @property
    def has_one_label(self) -> bool:
        """Whether a prediction is right or wrong: one label each, as pictures of outcomes need."""
        return "outcome" in self.task.pictures

    @property
    def fold_group(self) -> str:
        """The samples column that no fold splits; intervals are over its groups."""
        if isinstance(self._entry, Entry):
            group = self._entry.members[0].about.get("fold_group")
            if group in self._entry.samples:
                return group
        return "experiment"

    @property
    def unit(self) -> str:
        """What is counted, in one word: well, or target of a submission."""
        wells = self.outcome.targets.well_id
        return "well" if len(set(wells)) == len(wells) else "target"

    @property
    def metric(self) -> str:
        """What the scores of the page are, such as "accuracy"."""
        return self.task.monitored.replace("_", " ")

    @cached_property
    def chance(self) -> float:
        """What guessing scores on the labelled samples."""
        from cellsignal.competitions.folds import labelled

        samples = self.entry.samples
        return float(self.task.chance(samples[labelled(samples)], len(self.entry.classes)))

    def samples_of(self, outcome: Outcome) -> pd.DataFrame:
        """Return the samples of an outcome's targets, one row a target, in its order."""
        samples = self.entry.samples.drop_duplicates("target_id").set_index("target_id")
        return samples.loc[np.asarray(outcome.targets.target_id)].reset_index()

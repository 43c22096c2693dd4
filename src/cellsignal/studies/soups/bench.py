"""Train, average and score the rows of one seed: plates, members and soups of their own."""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cellsignal.common.errors import InputError
from cellsignal.common.files import atomic_path, write_csv, write_text
from cellsignal.competitions import get_competition
from cellsignal.competitions.folds import make_folds
from cellsignal.config import Config
from cellsignal.data.pack import prepare
from cellsignal.prediction.entry import open_entry
from cellsignal.prediction.plate_layout.apply import predict_labels
from cellsignal.prediction.predict import checkpoint_path, predict
from cellsignal.prediction.soup_members import predicting
from cellsignal.prediction.soup_run import Method, make_soup, new_config, separate_runs
from cellsignal.prediction.steps import truth_of
from cellsignal.studies.soups.rows import (
    APART_ONE,
    CYCLES,
    EMA,
    LAST,
    MEMBERS,
    ONE,
    SWA,
    TUNED_ALONE,
    TUNED_MEAN,
    training,
)
from cellsignal.training.checkpoints import load_checkpoint
from cellsignal.training.plan import jobs_of
from cellsignal.training.run import train

log = logging.getLogger(__name__)
SPLITS = 3  # folds of the training experiments; one of them validates
# of the simulator; experiments are for each of four cell types
PLATES = {
    "classes": 48,
    "controls": 4,
    "sites": 1,
    "train_experiments": 3,
    "test_experiments": 3,
}


def measure(
    seed: int, epochs: int, work: Path, settings: Mapping[str, int] = PLATES
) -> dict[str, Any]:
    """Return what every row names rightly of a seed's test wells; what is done is left.

    Args:
        work: one folder for each seed and number of epochs is made there.
        settings: of the simulator.

    Returns:
        "rows": row -> {"plain", "assigned"}, each (W,) the share of the row's networks that are
        right at a well; and "units" (W,), "classes", "images", "refused", "seconds" (CPU time).
    """
    import torch

    folder = work / f"epochs{epochs}_seed{seed}"
    path = folder / "record.json"
    if path.is_file():
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["settings"] == dict(settings):
            return record
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    record = Study(folder, seed, epochs, settings).record()
    torch.set_num_threads(threads)
    write_text(path, json.dumps(record))
    return record


class Study:
    """The trainings of one seed; each is finished, resumed or left, and its CPU time kept."""

    def __init__(self, folder: Path, seed: int, epochs: int, settings: Mapping[str, int] = PLATES):
        self.folder, self.seed, self.epochs = folder, seed, epochs
        self.settings, self.competition = dict(settings), get_competition("rxrx1")
        self.clock = folder / "seconds.json"
        self.classes = 0

    def make_plates(self) -> None:
        """Simulate and pack the plates, and make their folds."""
        raw = self.folder / "raw"
        self.competition.simulate(raw, self.seed, **self.settings)
        prepare(self.competition, raw, self.folder / "store")
        samples = self.competition.samples(raw)
        groups = self.competition.plate_groups(samples)
        table = make_folds(samples, "experiment", SPLITS, self.seed, plate_groups=groups)
        write_csv(self.folder / "folds.csv", table)
        self.classes = len(self.competition.classes(raw))

    def timed(self, name: str, work: Any) -> Any:
        """Do a piece of work; its CPU time is added to what an earlier call kept."""
        start = time.process_time()
        result = work()
        kept = json.loads(self.clock.read_text("utf-8")) if self.clock.is_file() else {}
        kept[name] = kept.get(name, 0.0) + time.process_time() - start
        write_text(self.clock, json.dumps(kept))
        return result

    def train(self, name: str, number: int = 0, **more: Any) -> Config:
        """Train one run; its config's seed is the study's and the run's number."""
        seed = MEMBERS * self.seed + number
        config = training(name, self.folder, seed, more.pop("epochs", self.epochs), **more)
        self.timed(f"{name}/{number}", lambda: train(config))
        log.info("%s/seed%d of seed %d is trained", name, seed, self.seed)
        return config

    def soup(self, name: str, configs: Sequence[Config], method: Method, **options: bool) -> Config:
        """Average the weights of some runs; a soup that exists is left."""
        config = configs[0].model_copy(update={"name": name})
        if config.run_folder.exists():
            return config
        text, made = self.timed(name, lambda: make_soup(configs, name, method, **options))
        log.info("%s\n%s", name, text)
        return made

    def snapshots(self, config: Config, name: str) -> list[Config]:
        """Make each snapshot a run; they are left where they exist."""
        epochs = config.stages[-1].snapshot_epochs
        names = [f"{name}_e{epoch}" for epoch in epochs]
        made = [config.model_copy(update={"name": each}) for each in names]
        if not all(each.run_folder.exists() for each in made):
            return self.timed(name, lambda: separate_runs([config], name))
        return made

    def record(self) -> dict[str, Any]:
        """Do all that is not done, and return what `measure` says."""
        self.timed("plates", self.make_plates)
        scored = self.score(self.rows())
        seconds = sum(json.loads(self.clock.read_text("utf-8")).values())
        return scored | {
            "refused": self.refused,
            "classes": self.classes,
            "images": self.images,
            "settings": self.settings,
            "seconds": seconds,
        }

    def rows(self) -> dict[str, list[list[Config]]]:
        """Train everything: row -> the predictions that are its draws, each the mean of runs."""
        one = self.train("one")
        job = jobs_of(one)[0]
        self.images = {"train": len(job.train), "valid": len(job.valid)}
        cycled = self.train("cycles", cycles=CYCLES, snapshots="cycles")
        snapshots = self.snapshots(cycled, "snap")
        first = self.train("first", epochs=self.epochs // 2)
        weights = self._export(first)
        half = {"epochs": self.epochs - self.epochs // 2, "weights": weights}
        tuned = [self.train("tuned", number, **half) for number in range(MEMBERS)]
        apart = [one, *(self.train("one", number) for number in range(1, MEMBERS))]
        self.refused = self._refusal(apart)
        methods: tuple[Method, ...] = ("uniform", "greedy")
        soups = {
            f"cycles_{how}": self.soup(f"snap_{how}", [cycled], how, snapshots=True)
            for how in methods
        }
        soups |= {f"tuned_{how}": self.soup(f"tuned_{how}", tuned, how) for how in methods}
        soups["apart_uniform"] = self.soup("apart", apart, "uniform", any_start=True)
        alone = {ONE: one, LAST: cycled, "ema": self.train("ema", ema=EMA)}
        alone |= {"swa": self.train("swa", swa=SWA)} | soups
        return {name: [[config]] for name, config in alone.items()} | {
            "cycles_mean": [snapshots],
            TUNED_ALONE: [[config] for config in tuned],
            TUNED_MEAN: [tuned],
            APART_ONE: [[config] for config in apart],
            "apart_mean": [apart],
        }

    def _export(self, config: Config) -> Path:
        """Write the weights that a run predicts with as a file that others start from."""
        from safetensors.torch import save_file

        path = self.folder / "first.safetensors"
        if not path.is_file():
            state = load_checkpoint(checkpoint_path(config, jobs_of(config)[0]))
            weights = {name: value.contiguous() for name, value in predicting(state).items()}
            with atomic_path(path) as temporary:
                save_file(weights, temporary)
        return path

    def _refusal(self, apart: Sequence[Config]) -> str:
        """Return the line by which a soup of runs from different starts is refused."""
        new_config(apart[0], "refused")  # the name is free
        try:
            make_soup(apart, "refused", "uniform")
        except InputError as error:
            return str(error)
        raise AssertionError("a soup of runs from different starts was not refused")

    def score(self, rows: Mapping[str, Sequence[Sequence[Config]]]) -> dict[str, Any]:
        """Return "rows" and "units" of `measure`."""
        raw = self.folder / "raw"
        answers = self.competition.answers(self.folder / "raw.answers.csv")
        truth = self.competition.task.truth(answers, self.competition.classes(raw))
        groups = self.competition.plate_groups(self.competition.samples(raw))
        result: dict[str, dict[str, list[float]]] = {}
        units: list[str] = []
        for name, draws in rows.items():
            right: dict[str, list[np.ndarray]] = {"plain": [], "assigned": []}
            for configs in draws:
                files = self.timed("predict", lambda c=configs: [f for x in c for f in predict(x)])
                entry = open_entry(files, configs[0].submit, root=raw)
                targets = entry.merge(entry.final(), "test")
                labels = truth_of(entry, targets, truth).values
                right["plain"].append(targets.scores.argmax(1) == labels)
                right["assigned"].append(predict_labels(entry, targets, groups)[0] == labels)
                units = [f"{self.seed}/{experiment}" for experiment in targets.experiment]
            result[name] = {how: np.mean(each, 0).tolist() for how, each in right.items()}
            log.info("seed %d, %s: %.3f", self.seed, name, np.mean(result[name]["plain"]))
        return {"rows": result, "units": units}

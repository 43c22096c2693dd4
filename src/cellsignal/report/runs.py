"""The runs of a folder: how far each is, how good out of fold, and how two differ."""

import shutil
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.files import is_worked_in
from cellsignal.common.tables import aligned
from cellsignal.competitions import get_competition
from cellsignal.competitions.targets import Targets, subset
from cellsignal.competitions.task import Task
from cellsignal.config import Config, config_differences, load_config
from cellsignal.config.options import RUNS, read_configs, run_names
from cellsignal.data.folds import read_fold_rows
from cellsignal.data.store import Store, has_store
from cellsignal.metrics.intervals import interval_words, range_text
from cellsignal.metrics.paired import sign_flip_words
from cellsignal.prediction.container import load_predictions
from cellsignal.prediction.freshness import config_predictions
from cellsignal.prediction.merge import merge

SOUP = "soup.json"  # of `runs soup`, which writes a run whole
EMPTY, RUNNING, FINISHED = "empty", "running", "finished"


@dataclass(frozen=True)
class OutOfFold:
    """Merged out-of-fold predictions of a run's last stage.

    Attributes:
        task: What scores them.
        targets: The merged predictions.
        cluster: (T,) The fold group of each target; its experiment where the samples are not here.
        group: The name of the fold group.
    """

    task: Task
    targets: Targets
    cluster: np.ndarray
    group: str

    def score(self) -> tuple[float, float, float]:
        """Return the score and its 95 % interval over fold groups."""
        return self.task.clustered_score(self.targets, self.cluster)

    def kept(self, target_ids: np.ndarray) -> "OutOfFold":
        """Return the rows of these targets, in their order."""
        rows = pd.Index(self.targets.target_id).get_indexer(target_ids)
        return OutOfFold(self.task, subset(self.targets, rows), self.cluster[rows], self.group)


def list_runs(runs: Path = RUNS) -> str:
    """Return a table of the runs in a folder: one row for each seed."""
    lines = [("run", "state", "out of fold", "95 % interval", "last change", "size")]
    problems = []
    for name in run_names(runs):
        for folder in sorted((runs / name).glob("seed*")):
            if (folder / "config.yaml").is_file():
                row, problem = _row(name, folder)
                lines.append(row)
                problems += [problem] if problem else []
    if len(lines) == 1:
        return f"{runs}: no runs"
    return "\n".join([aligned(lines, right={2, 5}), *problems])


def _row(name: str, folder: Path) -> tuple[tuple[str, ...], str]:
    """Return the row of one seed, and why its config cannot be read, if so."""
    files = [path.stat() for path in folder.rglob("*") if path.is_file()]
    changed = datetime.fromtimestamp(max(file.st_mtime for file in files))
    end = (f"{changed:%Y-%m-%d %H:%M}", _size(sum(file.st_size for file in files)))
    title = f"{name}/{folder.name}"
    try:
        config = load_config(folder / "config.yaml")
    except InputError as error:
        return (title, "unreadable", "", "", *end), str(error)
    state = run_state(config, folder)
    try:
        value, low, high = read_out_of_fold([config]).score()
    except InputError:  # nothing predicted, or by another state of the run
        return (title, state, "", "", *end), ""
    return (title, state, f"{value:.4f}", _range(low, high), *end), ""


def run_state(config: Config, folder: Path) -> str:
    """Return the state of a run: running, empty, finished, or where it stopped."""
    if is_worked_in(folder):
        return RUNNING
    jobs = _expected_jobs(config, folder)
    if (folder / SOUP).is_file():
        return FINISHED  # its checkpoints were averaged, and no epoch was logged
    if not any((job / "log.csv").is_file() for job, _ in jobs):
        return EMPTY
    for job, epochs in jobs:
        done = _epochs_done(job)
        if done < epochs and not _ended_early(job):
            fold, stage, key = job.parts[-3:]
            model = stage if key == "all" else f"{stage} {key}"
            return f"stopped at {fold}, {model}, epoch {done}/{epochs}"
    return FINISHED


def _expected_jobs(config: Config, folder: Path) -> list[tuple[Path, int]]:
    """Return the folder and the epochs of every training that a config asks for."""
    if config.folds.use is not None:
        folds = [f"fold{fold}" for fold in config.folds.use]
    elif config.folds.file.is_file():
        numbers = read_fold_rows(config.folds.file).fold
        folds = [f"fold{fold}" for fold in sorted(set(numbers[numbers >= 0]))]
    else:
        folds = sorted(path.name for path in folder.glob("fold*"))
    if config.folds.full:
        folds.append("full")
    jobs = []
    for fold in folds:
        for stage in config.stages:
            keys = ["all"]
            if stage.per == "cell_type":
                keys = sorted({path.name for path in folder.glob(f"*/{stage.name}/*")}) or keys
            jobs += [(folder / fold / stage.name / key, stage.epochs) for key in keys]
    return jobs


def _epochs_done(job: Path) -> int:
    try:
        lines = (job / "log.csv").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return 0
    return len(lines) - 1


def _ended_early(job: Path) -> bool:
    """Return whether a training's checkpoint says that it is finished."""
    from cellsignal.training.checkpoints import has_checkpoint, load_last

    path = job / "last.pt"
    return has_checkpoint(path) and load_last(path)[0]["progress"]["finished"]


def read_out_of_fold(configs: list[Config]) -> OutOfFold:
    """Merge the out-of-fold predictions of a run's last stage, all given seeds together.

    Raises:
        InputError: There are none, or they were made from something else than the configs say.
    """
    files = []
    for config in configs:
        files += config_predictions(config, all_seeds=False, stage_index=len(config.stages) - 1)
    members = [load_predictions(path) for path in files]
    members = [member for member in members if (member.ids["part"] == "oof").any()]
    task = get_competition(config.competition).task
    targets = merge(members, "oof", task, config.submit.merge, pool=config.submit.pool)
    group = members[0].about.get("fold_group", "experiment")
    samples = _samples(config)
    if samples is None or group not in samples:
        return OutOfFold(task, targets, targets.experiment, "experiment")
    groups = samples.drop_duplicates("target_id").set_index("target_id")[group]
    return OutOfFold(task, targets, groups.loc[targets.target_id].to_numpy(object), group)


def _samples(config: Config) -> pd.DataFrame | None:
    """Return the samples of a config's store, or of its raw data; None if neither exists."""
    if has_store(config.data.store):
        return Store.open(config.data.store).samples
    try:
        return get_competition(config.competition).samples(config.data.root)
    except InputError:
        return None


def compare_runs(first: str, second: str) -> str:
    """Return the settings in which two runs differ, and the difference of their scores.

    The scores are those of the targets that both predicted out of fold; the interval of their
    paired difference is over fold groups.

    Args:
        first, second: Names of runs, their folders, or configs.

    Raises:
        InputError: No such run, no predictions, or no target in common.
    """
    configs = [read_configs(word) for word in (first, second)]
    differences = config_differences(*(of_run[0].model_dump(mode="json") for of_run in configs))
    a, b = (read_out_of_fold(of_run) for of_run in configs)
    common = np.intersect1d(a.targets.target_id, b.targets.target_id)
    if not len(common):
        raise InputError(f"{first} and {second}: predicted no target in common out of fold")
    sizes = f"{len(a.targets.target_id):,} and {len(b.targets.target_id):,}"
    a, b = a.kept(common), b.kept(common)
    if not np.array_equal(a.targets.label, b.targets.label):
        raise InputError(f"{first} and {second}: were predicted against different labels")
    lines = [("run", "out of fold", "95 % interval")]
    for word, run in ((first, a), (second, b)):
        value, low, high = run.score()
        lines.append((word, f"{value:.4f}", _range(low, high)))
    paired = a.task.compare_targets(b.targets, a.targets, a.cluster)
    ends = range_text(paired.low, paired.high, sign="+") or "none"
    lines.append((f"{second} - {first}", f"{paired.difference:+.4f}", ends))
    return "\n".join(
        [
            f"settings that differ ({first} -> {second}):",
            *[f"  {line}" for line in differences],
            "",
            aligned(lines, right={1}),
            "",
            f"on the {len(common):,} targets that both predicted out of fold (of {sizes}); "
            f"{interval_words(a.group, paired.units)}; {sign_flip_words(paired, a.group)}",
        ]
    )


def find_run_folder(name: str, runs: Path = RUNS) -> Path:
    """Return the folder of a run ("name"), or of one of its seeds ("name/seed0").

    Raises:
        InputError: There is no such run, or it is a link.
    """
    parts = Path(name).parts
    folder = runs / name
    is_run = len(parts) in (1, 2) and parts[0] in run_names(runs)
    if not is_run or (len(parts) == 2 and not (folder / "config.yaml").is_file()):
        raise InputError(f"{name}: no such run in {runs}; `cellsignal runs` lists them")
    if folder.is_symlink():
        raise InputError(f"{folder}: is a link to another place; remove it by hand")
    return folder


def delete_run(folder: Path) -> None:
    """Remove the folder of a run and nothing else.

    Raises:
        InputError: A process works at the run.
    """
    seeds = [folder] if (folder / "config.yaml").is_file() else sorted(folder.glob("seed*"))
    for seed in seeds:
        if is_worked_in(seed):
            raise InputError(f"{seed}: the run is going on; stop it first")
    gone = folder.with_name(f".{folder.name}.deleted")  # a stopped deletion leaves no half run
    shutil.rmtree(gone, ignore_errors=True)
    folder.rename(gone)
    shutil.rmtree(gone)


def folder_size(folder: Path) -> str:
    """Return the size of a folder's files, in words."""
    return _size(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))


def _size(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _range(low: float, high: float) -> str:
    return "too few groups" if np.isnan(low) else f"{low:.4f} .. {high:.4f}"

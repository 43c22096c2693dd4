"""Count the images that each training of a config reads, before or after there is data."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

from cellsignal.common.errors import InputError
from cellsignal.competitions import get_competition
from cellsignal.competitions.base import Competition
from cellsignal.competitions.folds import TEST
from cellsignal.config import Config
from cellsignal.config.stage import Stage
from cellsignal.data.folds import read_folds

if TYPE_CHECKING:
    from cellsignal.training.job import Job

USUAL_FOLDS = 5  # where there is no fold table yet: equal ones


@dataclass(frozen=True)
class JobCounts:
    """One training: the images that it reads, and what its network is built for.

    Attributes:
        train: training images.
        scored: images that each validation predicts.
        valid, test: held-out and test images that are predicted at the end.
        unlabelled: images that a stage without labels trains on.
        outputs: number of the network's outputs.
        channels: number of channels that the network reads.
        shape: shape of a stored image, (C, H, W).
    """

    fold: str
    stage: Stage
    train: float
    scored: float
    valid: float
    test: float
    unlabelled: float
    outputs: int
    channels: int
    cell_types: int
    shape: tuple[int, int, int]


@dataclass(frozen=True)
class Counts:
    """All trainings of a config.

    Attributes:
        images: in the store.
        note: source of the numbers; empty if they are counted in the data.
    """

    jobs: tuple[JobCounts, ...]
    images: int
    note: str = ""


def count_images(config: Config) -> Counts:
    """Count the images of a config's trainings, in the order in which they run.

    They are counted in the store's table, else in the raw data's tables, else taken from the
    competition's `published` numbers.

    Raises:
        InputError: the config or a table is wrong; a fold does not exist; the images have no
            published size and the config no `data.size`.
    """
    from cellsignal.data.store import has_store

    competition, data = get_competition(config.competition), config.data
    if has_store(data.store) or (data.root.is_dir() and any(data.root.iterdir())):
        return _count_tables(config, competition)
    return _count_published(config, competition)


def _count_tables(config: Config, competition: Competition) -> Counts:
    from cellsignal.training.plan import plan_jobs

    store = _tables(config, competition)
    folds = read_folds(config.folds.file, store.samples)
    jobs = plan_jobs(config, competition, store, store.classes, folds)
    return Counts(tuple(map(_of_job, jobs)), len(store.samples))


def _of_job(job: "Job") -> JobCounts:
    from cellsignal.training.job import fold_name, without_labels

    return JobCounts(
        fold=fold_name(job.fold),
        stage=job.stage,
        train=len(job.train),
        scored=len(job.scored),
        valid=len(job.valid),
        test=len(job.test),
        unlabelled=int(without_labels(job).sum()) if job.stage.self_supervised is not None else 0,
        outputs=job.outputs,
        channels=len(job.channels),
        cell_types=len(job.cell_types),
        shape=tuple(job.store.shape),
    )


def _tables(config: Config, competition: Competition) -> SimpleNamespace:
    """Return what `plan_jobs` reads from a store, made from the raw tables if there is none."""
    from cellsignal.data.store import Store, has_store

    data = config.data
    if has_store(data.store):
        store = Store.open(data.store)
        return SimpleNamespace(
            samples=store.samples,
            channels=store.channels,
            shape=store.shape,
            classes=tuple(store.source["classes"]),
        )
    samples = competition.samples(data.root)
    channels = competition.channels_of(data.root)
    shape = (data.size, data.size) if data.size else _shape(config, competition)
    return SimpleNamespace(
        samples=samples,
        channels=channels,
        shape=(len(channels), *shape),
        classes=tuple(competition.classes(data.root)),
    )


def _shape(config: Config, competition: Competition) -> tuple[int, int]:
    """Return (height, width) of the images: as published, unless the copy is simulated."""
    published, root = competition.image_shape, config.data.root
    if published is None or (root / "simulation.json").is_file():
        return competition.root_shape(root)
    return published


def _count_published(config: Config, competition: Competition) -> Counts:
    from cellsignal.training.job import fold_name

    if competition.published is None:
        raise InputError(
            f"data.root: {config.data.root} has no data, {config.data.store} is not a store, "
            f"and {competition.id} has no published counts"
        )
    competition.task.check_config(config)
    held_out, kept, note = _held_out_shares(config)
    jobs: list[JobCounts] = []
    wanted = list(held_out) if config.folds.use is None else list(config.folds.use)
    for fold in [*wanted, *([None] if config.folds.full else [])]:
        share = 0.0 if fold is None else held_out[fold]
        for stage in config.stages:
            job = _of_published(config, competition, stage, share, kept)
            parts = competition.published.cell_types if stage.per == "cell_type" else 1
            jobs += [_part(replace(job, fold=fold_name(fold)), parts)] * parts
    if not jobs:
        raise InputError(f"{config.name}: no fold to train, and folds.full is false")
    published = competition.published
    note = (
        f"{config.data.root} has no data and {config.data.store} is not a store: the counts are "
        f"of the {published.images:,} images of {competition.id} as published "
        f"({published.source}){note}."
    )
    return Counts(tuple(jobs), published.images, note)


def _of_published(
    config: Config, competition: Competition, stage: Stage, held_out: float, kept: float
) -> JobCounts:
    """Return one training of a stage on all cell types, from published numbers.

    Args:
        held_out: the fold's share of the labelled images.
        kept: the share that is kept for the test.
    """
    published, data = competition.published, config.data
    height_width = (data.size, data.size) if data.size else competition.image_shape
    if height_width is None:
        raise InputError(
            f"data.size: the images of {competition.id} differ in size; without the data give one"
        )
    chosen = published.sites if data.sites is None else set(data.sites) & set(published.sites)
    of_sites = len(chosen) / len(published.sites)
    trained = 1 - held_out - kept
    controls = {"ignore": 0.0, "train": published.train_controls * trained}
    controls["all"] = published.train_controls + published.test_controls
    train = (published.train * trained + controls[data.controls]) * of_sites
    valid = published.train * held_out * of_sites
    if (part := _protocol_part(config, competition)) is not None:
        train, valid = part * trained, part * held_out
    outputs = published.classes + (0 if data.controls == "ignore" else published.control_classes)
    labelled = stage.target == "label" and stage.self_supervised is None
    return JobCounts(
        fold="",
        stage=stage,
        train=train,
        scored=valid if labelled else 0,
        valid=valid,
        test=published.test * of_sites,
        unlabelled=published.unlabelled * trained if stage.self_supervised is not None else 0,
        outputs=outputs if stage.target == "label" else published.compounds,
        channels=len(competition.channels if data.channels is None else data.channels),
        cell_types=published.cell_types,
        shape=(len(competition.channels), *height_width),
    )


def _part(job: JobCounts, parts: int) -> JobCounts:
    """Return a training on 1 / `parts` of the images."""
    names = ("train", "scored", "valid", "test", "unlabelled")
    return replace(job, **{name: getattr(job, name) / parts for name in names})


def _protocol_part(config: Config, competition: Competition) -> int | None:
    """Return the number of images a protocol trains on; None if folds decide it."""
    if config.protocol is None:
        return None
    return dict(competition.protocol(config.protocol).parts or {}).get("train")


def _held_out_shares(config: Config) -> tuple[Mapping[int, float], float, str]:
    """Return the share of the images that each fold holds out, the share kept for the test, a note.

    The note says that there is no table.
    """
    from cellsignal.kaggle.job import read_table

    path, used = config.folds.file, config.folds.use
    if not path.is_file():
        number = max(USUAL_FOLDS, 1 + max(used or (0,)))
        shares = dict.fromkeys(range(number), 1 / number)
        return shares, 0.0, f"; there is no {path}: {number} equal folds"
    table = read_table(path)
    for fold in used or ():
        if fold not in table.folds:
            raise InputError(f"folds.use: {path} has the folds {list(table.folds)}, not {fold}")
    rows = table.rows
    sizes = rows["n"].astype(float) if "n" in rows else rows["fold"] * 0.0 + 1.0
    whole = sizes[~rows[table.group].duplicated()].sum()
    shares = {fold: float(sizes[rows.fold == fold].sum() / whole) for fold in table.folds}
    return shares, float(sizes[rows.fold == TEST].sum() / whole), ""

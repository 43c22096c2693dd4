"""What is audited: the samples, and the parts that are trained on and held out.

A part is a fold (train, validation), the test (all that trains, test treatments), what a fold table
keeps for the test, or a pair of a split table: what a notebook dealt, a row for every use of an
image, copies included.
"""

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.tables import read_table, refuse_rows
from cellsignal.competitions import get_competition
from cellsignal.competitions.base import Competition
from cellsignal.competitions.folds import labelled
from cellsignal.config.schema import Config
from cellsignal.data.exclusions import read_exclusions
from cellsignal.data.folds import FoldTable, read_folds
from cellsignal.data.store import Store, has_store

# a coarser unit holds the finer ones
LEVELS = {"sample_id": 0, "site": 0, "well_id": 1, "well": 1, "plate": 2, "experiment": 3}
LEVELS["cell_type"] = 4
SPLIT_PARTS = ("train", "valid", "test")
Kind = Literal["validation", "test", "selection", "published"]


@dataclass(frozen=True)
class Part:
    """One way of training and holding out.

    Attributes:
        name: such as "fold 0".
        kind: what is held out: "validation" or "test"; "selection" compares validation with test;
            "published" is a part that the field's own protocol scores.
        train, held: positions in the samples; repeated where an image is used several times.
    """

    name: str
    kind: Kind
    train: np.ndarray
    held: np.ndarray


@dataclass(frozen=True)
class Audited:
    """All that the checks look at.

    Attributes:
        competition, config: of the experiment.
        samples: the samples table; with a store its packed rows and their `row`.
        parts: what is held out.
        group: what the parts promise not to split; of a split table the competition's default.
        default_group: what the competition's folds hold out by default.
        store: None where there is none, for the reason `no_store`.
        folds: the fold table; None with a split table.
    """

    competition: Competition
    config: Config
    samples: pd.DataFrame
    parts: tuple[Part, ...]
    group: str
    default_group: str
    store: Store | None
    no_store: str
    folds: FoldTable | None

    @property
    def folds_file(self) -> Path:
        return self.config.folds.file

    @property
    def validations(self) -> list[Part]:
        """The parts that hold labelled rows out: validation, and a split table's test."""
        kinds = ("validation",) if self.folds else ("validation", "test")
        return [part for part in self.parts if part.kind in kinds]


def read_audited(config: Config, split: Path | None = None, answers: Path | None = None) -> Audited:
    """Read what a config trains on and holds out.

    The samples are the store's, as in training; without a store those of the raw tables.

    Args:
        split: a split table in place of the config's fold table: `sample_id` and `part` (train,
            valid or test), a row for every use of an image.
        answers: true test labels, which only the check of layouts looks at.

    Raises:
        InputError: no such data, a damaged store, or a table that does not fit the samples.
    """
    competition = get_competition(config.competition)
    store, no_store = _open_store(config, competition)
    samples = store.samples if store else competition.samples(config.data.root)
    samples = _add_answers(samples, competition, answers)
    used = np.ones(len(samples), bool)
    if config.data.exclude is not None:
        used = ~read_exclusions(config.data.exclude, samples)
    if config.data.sites is not None:
        kept = samples.site.isin(config.data.sites).to_numpy()
        samples, used = samples[kept].reset_index(drop=True), used[kept]
    # of a store whose raw files are elsewhere: what the class says
    root = config.data.root
    default = competition.fold_group(root) if root.is_dir() else competition.fold_groups[0]
    folds = None
    if split is None:
        if not config.folds.file.is_file():
            raise InputError(f"{config.folds.file}: there is no fold table; `cellsignal folds`")
        folds = read_folds(config.folds.file, samples)
        parts = _fold_parts(config, folds, samples, used)
        parts += _protocol_parts(config, competition, samples)
    else:
        parts = _split_parts(split, samples)
    return Audited(
        competition,
        config,
        samples,
        tuple(parts),
        folds.group if folds else default,
        default,
        store,
        no_store,
        folds,
    )


def _open_store(config: Config, competition: Competition) -> tuple[Store | None, str]:
    path = config.data.store
    if not has_store(path):
        return None, f"needs images: there is no store {path}; make it with `cellsignal prepare`"
    store = Store.open(path)
    if store.source.get("competition") != competition.id:
        raise InputError(
            f"{path}: is a store of {store.source.get('competition')!r}, the config is for "
            f"{competition.id!r}"
        )
    return store, ""


def _add_answers(
    samples: pd.DataFrame, competition: Competition, answers: Path | None
) -> pd.DataFrame:
    """Add a column `answer`: the true target of test rows as text, "" where it is not known."""
    if answers is None:
        return samples.assign(answer="")
    table = competition.answers(answers)
    if competition.target_column not in table.columns:
        raise InputError(
            f"--answers {answers}: only answers of one class say anything about layouts; those of "
            f"{competition.id} are of several"
        )
    truth = dict(zip(table[competition.id_column], table[competition.target_column], strict=True))
    target = samples.target_id.map(truth).where(samples.split == "test")
    if target.isna().all():
        raise InputError(f"{answers}: names no test sample of {competition.id}")
    return samples.assign(answer=target.map(lambda value: "" if pd.isna(value) else str(value)))


def _fold_parts(
    config: Config, folds: FoldTable, samples: pd.DataFrame, used: np.ndarray
) -> list[Part]:
    """Return the folds and the test; what `used` (N,) leaves out neither trains nor validates."""
    wanted = folds.folds if config.folds.use is None else config.folds.use
    parts = []
    for fold in wanted:
        masks = folds.training(samples, fold) & used, folds.validation(samples, fold) & used
        parts.append(Part(f"fold {fold}", "validation", *map(np.flatnonzero, masks)))
    train = folds.training(samples, None) & used
    kept = labelled(samples) & samples[folds.group].isin(folds.test).to_numpy()
    test = ((samples.split == "test") & (samples.role == "treatment")).to_numpy()
    for name, mask in (("kept for the test", kept), ("test", test)):
        if mask.any():
            parts.append(Part(name, "test", np.flatnonzero(train), np.flatnonzero(mask)))
    return parts


def _protocol_parts(config: Config, competition: Competition, samples: pd.DataFrame) -> list[Part]:
    """Return the parts of a protocol that says itself what trains and what is scored."""
    if config.protocol is None or not competition.protocol(config.protocol).parts:
        return []
    names = competition.protocol_parts(config.protocol, samples).to_numpy(object).astype(str)
    train = np.flatnonzero((names == "train") & labelled(samples))
    others = sorted(set(names) - {"train", ""})
    return [
        Part(f"{config.protocol} {name}", "published", train, np.flatnonzero(names == name))
        for name in others
    ]


def _split_parts(path: Path, samples: pd.DataFrame) -> list[Part]:
    """Read a split table; every pair of its parts is one part of the audit."""
    table = read_table(path, ["sample_id", "part"], any_row=True)
    refuse_rows(path, table, ~table.part.isin(SPLIT_PARTS), "part", f"is none of {SPLIT_PARTS}")
    position = pd.Series(np.arange(len(samples)), index=samples.sample_id)
    unknown = ~table.sample_id.isin(position.index)
    refuse_rows(path, table, unknown, "sample_id", "is unknown: no sample has it")
    rows = {
        part: position.loc[table.sample_id[table.part == part]].to_numpy() for part in SPLIT_PARTS
    }
    if not len(rows["train"]) or not (len(rows["valid"]) or len(rows["test"])):
        raise InputError(f"{path}: needs rows of the part train, and of valid or test")
    kinds: dict[tuple[str, str], Kind] = {
        ("train", "valid"): "validation",
        ("train", "test"): "test",
        ("valid", "test"): "selection",
    }
    return [
        Part(f"{first} and {second}", kinds[first, second], rows[first], rows[second])
        for first, second in itertools.combinations(SPLIT_PARTS, 2)
        if len(rows[first]) and len(rows[second])
    ]


def without_repeats(part: Part) -> Part:
    """Return a part in which each image is used once a side."""
    return replace(part, train=np.unique(part.train), held=np.unique(part.held))

"""What each part of the winning recipe is worth on simulated plates: one thing changed at a time,
several seeds, intervals over experiments.

Every model trains on one fold's training experiments. Its validation experiments are for choosing
(they chose what is in the final recipe), the test experiments, which no choice has looked at, for
belief. Both are experiments that no label of has been trained on.
"""

import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.competitions import get_competition
from cellsignal.competitions.base import Competition, PlateGroups
from cellsignal.competitions.targets import Truth
from cellsignal.config import Config, load_config
from cellsignal.data.views import DIHEDRAL
from cellsignal.metrics.accuracy import clustered_interval
from cellsignal.prediction.entry import Entry, open_entry
from cellsignal.prediction.merge import Part
from cellsignal.prediction.plate_layout.apply import predict_labels
from cellsignal.prediction.predict import predict
from cellsignal.prediction.steps import truth_of
from cellsignal.training.run import train

log = logging.getLogger(__name__)
SEEDS, ENSEMBLE_SEEDS = (0, 1, 2), (0, 1, 2, 3, 4)  # of every row; of the reference
PARTS: tuple[Part, ...] = ("oof", "test")
REFERENCE = "reference"

_CELL_TYPE = (
    "stages.1={name: cell_type, per: cell_type, init: previous, epochs: 4, batch_size: 24, "
    "optimizer: {name: adamw, lr: 5.0e-4, weight_decay: 0.05},"
    " schedule: {name: cosine}, label_smoothing: 0.1, amp: auto, validate_every: 4, augment: "
    "[{name: horizontal_flip}, {name: transpose},"
    " {name: rotate90}, {name: gain_bias, gain: 0.1, bias: 0.1}], batches: {unit: %s}}"
)


def _unit(batches: str, adapt: str) -> tuple[str, ...]:
    return (f"stages.0.batches.unit={batches}", f"predict.adapt={adapt}")


@dataclass(frozen=True)
class Variant:
    """One row: what differs from the reference, as `--set` words."""

    name: str
    title: str
    changes: tuple[str, ...] = ()


VARIANTS = {
    "unit of batch statistics, in training and at inference": (
        Variant("random", "random batches, running statistics", _unit("mixed", "none")),
        Variant("cell_type", "cell type", _unit("cell_type", "cell_type")),
        Variant("experiment", "experiment", _unit("experiment", "experiment")),
        Variant(REFERENCE, "plate (the reference)"),
        Variant(
            "random_adapted", "random in training, plate at inference", _unit("mixed", "plate")
        ),
    ),
    "normalisation of the images": (
        Variant("by_global", "global", ("normalization.by=global",)),
        Variant("by_experiment", "experiment", ("normalization.by=experiment",)),
        Variant("by_image", "image", ("normalization.by=image",)),
        Variant("by_controls", "control wells of the plate", ("normalization.wells=controls",)),
    ),
    "stages": (
        Variant(
            "long", "one stage of 14 epochs", ("stages.0.epochs=14", "stages.0.validate_every=14")
        ),
        Variant(
            "two_stage", "two stages, 10 + 4 epochs for each cell type", (_CELL_TYPE % "plate",)
        ),
    ),
    "losses and labels": (
        Variant(
            "arcface",
            "neck, ArcFace (m .5, s 30) beside cross-entropy",
            (
                "model.neck=256",
                "model.cosine_head=true",
                "stages.0.cross_entropy=0.8",
                "stages.0.margin={name: arcface, margin: 0.5, scale: 30, weight: 0.1}",
            ),
        ),
        Variant("cutmix", "CutMix on half of the batches", ("stages.0.mix={cutmix: 1.0, p: 0.5}",)),
        Variant("controls", "control wells of all experiments as classes", ("data.controls=all",)),
        Variant(
            "pseudo_labels",
            "pseudo-labels of test wells in the last four epochs",
            ("stages.0.pseudo_labels={start: 6}",),
        ),
    ),
    "averaging of the weights": (Variant("ema", "EMA, .99", ("stages.0.ema=0.99",)),),
}
BASELINE = Variant(
    "baseline",
    "plain two stages: random batches, running statistics",
    (*_unit("mixed", "none"), _CELL_TYPE % "mixed"),
)
# what the validation experiments spoke for (controls, the second stage); pseudo-labels, which only
# test wells can show, beforehand
FINAL = Variant(
    "final",
    "control wells as classes, two stages, pseudo-labels at the end of the first and in the second",
    (
        _CELL_TYPE % "plate",
        "data.controls=all",
        "stages.0.pseudo_labels={start: 6}",
        "stages.1.pseudo_labels={first: 0.7}",
    ),
)


@dataclass(frozen=True)
class Outcome:
    """One way of predicting, scored on the wells of one part.

    Attributes:
        right: (S, W) bool, seeds x wells.
        experiment: (W,) names.
    """

    right: np.ndarray
    experiment: np.ndarray

    @property
    def accuracy(self) -> float:
        return float(self.right.mean())

    @property
    def seeds_sd(self) -> float:
        return float(self.right.mean(1).std(ddof=1)) if len(self.right) > 1 else float("nan")

    def interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy over experiments; all seeds of a well stay together."""
        return clustered_interval(self.right.mean(0), self.experiment, seed=0)

    def gain(self, other: "Outcome") -> tuple[float, float, float]:
        """How much better than `other` on the same wells, with the 95 % interval over experiments."""
        assert (self.experiment == other.experiment).all()
        difference = self.right.mean(0) - other.right.mean(0)
        return float(difference.mean()), *clustered_interval(difference, self.experiment, seed=0)


class Runs:
    """The trained runs of the ablation, each scored in several ways.

    Args:
        config: file of the reference.
        answers: true labels of the test wells.
    """

    def __init__(self, config: Path, answers: Path):
        self.config, self.answers = config, answers

    @cached_property
    def competition(self) -> Competition:
        return get_competition(load_config(self.config).competition)

    @cached_property
    def samples(self) -> pd.DataFrame:
        return self.competition.samples(load_config(self.config).data.root)

    @cached_property
    def groups(self) -> PlateGroups | None:
        return self.competition.plate_groups(self.samples)

    @cached_property
    def truth(self) -> Truth:
        """The truth of the test wells."""
        answers = self.competition.answers(self.answers)
        classes = self.competition.classes(load_config(self.config).data.root)
        return self.competition.task.truth(answers, classes)

    def load(self, variant: Variant, seed: int, views: int = 1) -> Config:
        name = f"rxrx1_ablation_{variant.name}"
        return load_config(
            self.config, [*variant.changes, f"name={name}", f"seed={seed}", f"predict.tta={views}"]
        )

    def entry(self, variant: Variant, seeds: Sequence[int]) -> Entry:
        """The predictions of the variant's seeds."""
        configs = [self.load(variant, seed) for seed in seeds]
        files = [
            file
            for config in configs
            for file in sorted((config.run_folder / "predictions").glob("*.npz"))
        ]
        if len(files) < len(seeds):
            raise InputError(f"{configs[0].runs / configs[0].name}: not every seed is predicted")
        return open_entry(files, configs[0].submit, root=configs[0].data.root)

    def outcome(
        self,
        variant: Variant,
        part: Part,
        assignment: str = "none",
        seeds: Sequence[int] = SEEDS,
        together: int = 1,
        **options: Iterable,
    ) -> Outcome:
        """Score a variant.

        Args:
            together: so many seeds are merged into one ensemble.
            options: views and sites, as for `prediction.merge.merge`.
        """
        entry = self.entry(variant, seeds)
        how = entry.how.model_copy(update={"assignment": assignment, "repeats": "off"})
        entry = replace(entry, how=how)
        right = []
        for first in range(0, len(seeds) - together + 1, together):
            chosen = set(entry.runs[first : first + together])
            targets = entry.merge(
                [m for m in entry.final() if m.about["run"] in chosen], part, **options
            )
            labels = truth_of(entry, targets, None if part == "oof" else self.truth).values
            right.append(predict_labels(entry, targets, self.groups)[0] == labels)
        return Outcome(np.array(right), targets.experiment)


def train_and_predict(
    runs: Runs, wanted: Sequence[tuple[Variant, int, int]], processes: int
) -> None:
    """Train and predict (variant, seed, views), so many at a time; what is there already is left as
    it is.
    """
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        done = [
            pool.submit(_one, runs.load(variant, seed, views)) for variant, seed, views in wanted
        ]
        for number, job in enumerate(done, 1):
            job.result()
            log.info("%d of %d runs", number, len(done))


def _one(config: Config) -> None:
    import torch

    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    train(config)
    predict(config)


def all_variants() -> list[Variant]:
    """Every row of the table that takes training, each once."""
    return [*(variant for section in VARIANTS.values() for variant in section), BASELINE]


def wanted_runs() -> list[tuple[Variant, int, int]]:
    """(variant, seed, views) of all rows; those whose predicting is compared are predicted in every
    view.
    """
    compared = (REFERENCE, BASELINE.name, FINAL.name)
    rows = [
        (v, seed, 16 if v.name in compared else 1)
        for v in (*all_variants(), FINAL)
        for seed in SEEDS
    ]
    return rows + [(reference(), seed, 16) for seed in ENSEMBLE_SEEDS if seed not in SEEDS]


def reference() -> Variant:
    return next(variant for variant in all_variants() if variant.name == REFERENCE)


KINDS = ("none", "groups", "hungarian", "sinkhorn")
TITLES = {
    "none": "no assignment",
    "groups": "plate groups",
    "hungarian": "Hungarian",
    "sinkhorn": "Sinkhorn",
}
_ONE_VIEW, _DIHEDRAL = {"views": DIHEDRAL[:1]}, {"views": DIHEDRAL}


def table(runs: Runs) -> str:
    """All tables of the finished ablation."""
    return "\n\n".join([_training(runs), _predicting(runs), _final(runs)]) + "\n"


def _training(runs: Runs) -> str:
    lines = [
        "| what | validation | test | gain on test over the reference | test, Hungarian |",
        "|---|---|---|---|---|",
    ]
    base = runs.outcome(reference(), "test", **_ONE_VIEW)
    for section, variants in VARIANTS.items():
        lines.append(f"| **{section}** | | | | |")
        for variant in variants:
            valid, test = (runs.outcome(variant, part, **_ONE_VIEW) for part in ("oof", "test"))
            assigned = runs.outcome(variant, "test", "hungarian", **_ONE_VIEW)
            gain = "" if variant.name == REFERENCE else _gain(test, base)
            lines.append(
                f"| {variant.title} | {valid.accuracy:.3f} ({valid.seeds_sd:.3f}) | "
                f"{_figure(test)} | {gain} | {assigned.accuracy:.3f} |"
            )
    return "\n".join(lines)


def _predicting(runs: Runs) -> str:
    """Sites, views, ensembles and assignment, of the reference and of the final recipe."""
    rows: list[tuple[str, dict]] = [
        ("one site, one view", {**_ONE_VIEW, "sites": (1,)}),
        ("two sites, one view", _ONE_VIEW),
        ("two sites, 8 views", _DIHEDRAL),
        ("two sites, 16 views", {}),
    ]
    lines = [
        "| test wells | "
        + " | ".join(f"{name}, {TITLES[kind]}" for name in ("reference", "final") for kind in KINDS)
        + " |",
        "|---" * 9 + "|",
    ]
    for title, options in rows:
        lines.append(
            _line(
                title,
                [
                    runs.outcome(v, "test", kind, **options)
                    for v in (reference(), FINAL)
                    for kind in KINDS
                ],
            )
        )
    for number in (3, 5):
        seeds = ENSEMBLE_SEEDS[:number]
        trained = (reference(), FINAL) if number <= len(SEEDS) else (reference(), None)
        merged = [
            v and runs.outcome(v, "test", kind, seeds, number, **_DIHEDRAL)
            for v in trained
            for kind in KINDS
        ]
        lines.append(_line(f"two sites, 8 views, ensemble of {number}", merged))
    return "\n".join(lines)


def _final(runs: Runs) -> str:
    """What share of the baseline's error the final recipe takes away, predicted in the same way."""
    lines = [
        "| predicted with | plain two stages | final recipe | gain | share of the error that is "
        "gone |",
        "|---|---|---|---|---|",
    ]
    for title, options in (("one view", _ONE_VIEW), ("8 views", _DIHEDRAL)):
        for kind in ("none", "hungarian"):
            plain, final = (
                runs.outcome(variant, "test", kind, **options) for variant in (BASELINE, FINAL)
            )
            gone = (final.accuracy - plain.accuracy) / (1 - plain.accuracy)
            lines.append(
                f"| {title}, {TITLES[kind]} | {_figure(plain)} | {_figure(final)} | "
                f"{_gain(final, plain)} | {gone:.2f} |"
            )
    return "\n".join(lines)


def _line(title: str, outcomes: Iterable[Outcome | None]) -> str:
    return (
        f"| {title} | "
        + " | ".join("" if outcome is None else f"{outcome.accuracy:.3f}" for outcome in outcomes)
        + " |"
    )


def _figure(outcome: Outcome) -> str:
    low, high = outcome.interval()
    return f"{outcome.accuracy:.3f} [{low:.2f}, {high:.2f}]"


def _gain(outcome: Outcome, other: Outcome) -> str:
    gain, low, high = outcome.gain(other)
    return f"{gain:+.3f} [{low:+.3f}, {high:+.3f}]"

"""Measure what each part of the winning recipe is worth on simulated plates.

One thing is changed at a time, with several seeds and intervals over experiments. Every model
trains on one fold's training experiments. Its validation experiments are for choosing (they chose
what is in the final recipe), the test experiments, which no choice has looked at, for belief. No
label of either has been trained on. The page is docs/results/rxrx1_simulated.md.
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
from cellsignal.common.processes import end_with_parent
from cellsignal.competitions import get_competition
from cellsignal.competitions.base import Competition, PlateGroups
from cellsignal.competitions.targets import Truth
from cellsignal.config import Config, load_config
from cellsignal.data.views import DIHEDRAL
from cellsignal.prediction.entry import Entry, open_entry
from cellsignal.prediction.merge import Part
from cellsignal.prediction.plate_layout.apply import predict_labels
from cellsignal.prediction.predict import predict
from cellsignal.prediction.steps import truth_of
from cellsignal.studies.pages import head_lines, row_text
from cellsignal.studies.rxrx1_variants import (
    BASELINE,
    ENSEMBLE_SEEDS,
    FINAL,
    REFERENCE,
    SEEDS,
    VARIANTS,
    Variant,
    reference,
)
from cellsignal.studies.seeds import OverSeeds, mean_gain
from cellsignal.training.run import train

log = logging.getLogger(__name__)
ASSIGNMENTS = {
    "none": "no assignment",
    "groups": "plate groups",
    "hungarian": "Hungarian",
    "sinkhorn": "Sinkhorn",
}
ONE_VIEW, DIHEDRAL_VIEWS = {"views": DIHEDRAL[:1]}, {"views": DIHEDRAL}


@dataclass(frozen=True)
class Outcome(OverSeeds):
    """One way of predicting, scored on the wells of one part.

    Attributes:
        right: (S, W) bool, seeds x wells.
        unit: (W,) the experiment of each well.
    """

    right: np.ndarray
    unit: np.ndarray

    def gain(self, other: "Outcome") -> tuple[float, float, float]:
        """Return the gain over `other` on the same wells, with its 95 % interval."""
        assert (self.unit == other.unit).all()
        return mean_gain(self.right, other.right, self.unit)


class Runs:
    """The trained runs of the ablation, each scored in several ways.

    Args:
        config: file of the reference.
        answers: true labels of the test wells.
    """

    def __init__(self, config: Path, answers: Path):
        self.config, self.answers = config, answers

    @cached_property
    def root(self) -> Path:
        return load_config(self.config).data.root

    @cached_property
    def competition(self) -> Competition:
        return get_competition(load_config(self.config).competition)

    @cached_property
    def samples(self) -> pd.DataFrame:
        return self.competition.samples(self.root)

    @cached_property
    def groups(self) -> PlateGroups | None:
        return self.competition.plate_groups(self.samples)

    @cached_property
    def truth(self) -> Truth:
        """Return the truth of the test wells."""
        classes = self.competition.classes(self.root)
        return self.competition.task.truth(self.competition.answers(self.answers), classes)

    def load(self, variant: Variant, seed: int, views: int = 1) -> Config:
        """Return the config of a variant, a seed and a number of views."""
        more = (f"name=rxrx1_ablation_{variant.name}", f"seed={seed}", f"predict.tta={views}")
        return load_config(self.config, [*variant.changes, *more])

    def entry(self, variant: Variant, seeds: Sequence[int]) -> Entry:
        """Open the predictions of the variant's seeds."""
        configs = [self.load(variant, seed) for seed in seeds]
        files: list[Path] = []
        for config in configs:
            files += sorted((config.run_folder / "predictions").glob("*.npz"))
        first = configs[0]
        if len(files) < len(seeds):
            raise InputError(f"{first.runs / first.name}: not every seed is predicted")
        return open_entry(files, first.submit, root=first.data.root)

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
            runs = set(entry.runs[first : first + together])
            members = [member for member in entry.final() if member.about["run"] in runs]
            targets = entry.merge(members, part, **options)
            labels = truth_of(entry, targets, None if part == "oof" else self.truth).values
            right.append(predict_labels(entry, targets, self.groups)[0] == labels)
        return Outcome(np.array(right), targets.experiment)


def train_and_predict(
    runs: Runs, wanted: Sequence[tuple[Variant, int, int]], processes: int
) -> None:
    """Train and predict (variant, seed, views), several at a time; skip finished ones."""
    with ProcessPoolExecutor(processes, get_context("spawn"), end_with_parent) as pool:
        jobs = [pool.submit(_train_one, runs.load(*row)) for row in wanted]
        for number, job in enumerate(jobs, 1):
            job.result()
            log.info("%d of %d runs", number, len(jobs))


def _train_one(config: Config) -> None:
    import torch

    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    train(config)
    predict(config)


# the tables of the page
# --------------------------------------------------------------------------------------------------


def table(runs: Runs) -> str:
    """Write all tables of the finished ablation in Markdown."""
    parts = [_training_table(runs), _predicting_table(runs), _final_table(runs)]
    return "\n\n".join(parts) + "\n"


def _training_table(runs: Runs) -> str:
    header = ("what", "validation", "test", "gain on test over the reference", "test, Hungarian")
    lines = head_lines(header)
    base = runs.outcome(reference(), "test", **ONE_VIEW)
    for section, variants in VARIANTS.items():
        lines.append(f"| **{section}** | | | | |")
        for variant in variants:
            valid, test = (runs.outcome(variant, part, **ONE_VIEW) for part in ("oof", "test"))
            assigned = runs.outcome(variant, "test", "hungarian", **ONE_VIEW)
            gain = "" if variant.name == REFERENCE else gain_text(test, base)
            validation = f"{valid.accuracy:.3f} ({valid.seeds_sd:.3f})"
            figures = (validation, figure_text(test), gain, f"{assigned.accuracy:.3f}")
            lines.append(row_text((variant.title, *figures)))
    return "\n".join(lines)


def _predicting_table(runs: Runs) -> str:
    """Write the gains of sites, views, ensembles and assignment, for reference and final recipe."""
    recipes = {"reference": reference(), "final": FINAL}
    header = [f"{name}, {title}" for name in recipes for title in ASSIGNMENTS.values()]
    lines = head_lines(("test wells", *header))
    rows = {
        "one site, one view": {**ONE_VIEW, "sites": (1,)},
        "two sites, one view": ONE_VIEW,
        "two sites, 8 views": DIHEDRAL_VIEWS,
        "two sites, 16 views": {},
        "two sites, 8 views, ensemble of 3": {**DIHEDRAL_VIEWS, "together": 3},
        "two sites, 8 views, ensemble of 5": {**DIHEDRAL_VIEWS, "together": 5},
    }
    for title, options in rows.items():
        seeds = ENSEMBLE_SEEDS[: options["together"]] if "together" in options else SEEDS
        cells = []
        for variant in recipes.values():
            is_trained = variant is not FINAL or len(seeds) <= len(SEEDS)
            for kind in ASSIGNMENTS:
                text = ""
                if is_trained:
                    result = runs.outcome(variant, "test", kind, seeds=seeds, **options)
                    text = f"{result.accuracy:.3f}"
                cells.append(text)
        lines.append(row_text((title, *cells)))
    return "\n".join(lines)


def _final_table(runs: Runs) -> str:
    """Write the share of the baseline's error that the final recipe removes."""
    header = ("predicted with", "plain two stages", "final recipe", "gain")
    lines = head_lines((*header, "share of the error that is gone"))
    for title, options in (("one view", ONE_VIEW), ("8 views", DIHEDRAL_VIEWS)):
        for kind in ("none", "hungarian"):
            plain = runs.outcome(BASELINE, "test", kind, **options)
            final = runs.outcome(FINAL, "test", kind, **options)
            gone = (final.accuracy - plain.accuracy) / (1 - plain.accuracy)
            figures = (
                figure_text(plain),
                figure_text(final),
                gain_text(final, plain),
                f"{gone:.2f}",
            )
            lines.append(row_text((f"{title}, {ASSIGNMENTS[kind]}", *figures)))
    return "\n".join(lines)


def figure_text(outcome: Outcome) -> str:
    low, high = outcome.interval()
    return f"{outcome.accuracy:.3f} [{low:.2f}, {high:.2f}]"


def gain_text(outcome: Outcome, other: Outcome) -> str:
    gain, low, high = outcome.gain(other)
    return f"{gain:+.3f} [{low:+.3f}, {high:+.3f}]"

"""An entry: all predictions of one competition, and how they are merged.

Predictions that do not belong together, or to the data, are refused in one line.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError, InvalidSubmission
from cellsignal.competitions import get_competition
from cellsignal.competitions.base import Competition
from cellsignal.competitions.targets import Runs, Targets
from cellsignal.config.schema import Submit
from cellsignal.prediction.container import Predictions, load_predictions
from cellsignal.prediction.merge import Part, merge
from cellsignal.prediction.merge_options import resolve_weights

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """What a submission is made from.

    Attributes:
        root: the raw data.
        weights: run -> weight.
        how: the `submit` section.
        temperatures: run -> what its logits are divided by; 1 where there is none.
        blend: what `cellsignal blend` chose the weights by; None without a blend.
    """

    competition: Competition
    root: Path
    members: tuple[Predictions, ...]
    weights: dict[str, float]
    how: Submit
    temperatures: dict[str, float] = field(default_factory=dict)
    blend: dict[str, Any] | None = None

    @cached_property
    def samples(self) -> pd.DataFrame:
        """The samples table of the raw data."""
        return self.competition.samples(self.root)

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes that are predicted."""
        return self.members[0].classes

    @property
    def runs(self) -> list[str]:
        """The runs, such as "name/seed0", in the order of the files."""
        return list(dict.fromkeys(member.about["run"] for member in self.members))

    def final(self, run: str | None = None) -> list[Predictions]:
        """Return the members of each run's last stage (of one run, if named)."""
        last: dict[str, int] = {}
        for member in self.members:
            name, stage = member.about["run"], member.about["stage_index"]
            last[name] = max(stage, last.get(name, stage))
        return [
            member
            for member in self.members
            if member.about["stage_index"] == last[member.about["run"]]
            and run in (None, member.about["run"])
        ]

    def merge(self, members: Sequence[Predictions], part: Part, **options: Any) -> Targets:
        """Merge members as the `submit` section says; `options` as for `merge`."""
        members = with_part(members, part)
        runs = [member.about["run"] for member in members]
        weights = [self.weights.get(run, 1.0) for run in runs]
        if self.temperatures:
            options["temperatures"] = [self.temperatures[run] for run in runs]
        return merge(members, part, self.competition.task, self.how.merge, weights, **options)


def with_part(members: Iterable[Predictions], part: Part) -> list[Predictions]:
    """Return the members that predict any sample of a part."""
    return [member for member in members if (member.ids["part"] == part).any()]


def open_entry(
    files: Sequence[Path],
    how: Submit,
    weights: dict[str, float] | None = None,
    root: Path | None = None,
) -> Entry:
    """Load predictions files that belong together.

    Raises:
        InputError: none given, one twice, of different competitions, a file that is damaged, a
            weight of an unknown run, or predictions of samples that the root does not have.
    """
    if not files:
        raise InputError("no predictions files given")
    members = tuple(load_predictions(path) for path in files)
    refuse_doubles(members)
    ids = {member.about["competition"] for member in members}
    if len(ids) > 1:
        raise InputError(
            f"predictions of different competitions cannot be merged: {', '.join(sorted(ids))}"
        )
    runs = list(dict.fromkeys(member.about["run"] for member in members))
    weights = resolve_weights(weights or {}, runs)
    fold_groups = {str(member.about.get("fold_group")) for member in members}
    if len(fold_groups) > 1:
        log.warning(
            "out-of-fold scores mix runs whose folds hold out different things: %s",
            ", ".join(sorted(fold_groups)),
        )
    root = Path(root or members[0].about["data_root"])
    entry = Entry(get_competition(ids.pop()), root, members, weights, how)
    classes = entry.competition.classes(root)
    for member in members:
        refuse_other_classes(member, classes, root)
        refuse_other_data(member, entry.samples, root)
    return entry


def refuse_other_classes(member: Predictions, classes: tuple[str, ...], root: Path) -> None:
    """Refuse predictions of other classes; those of control wells may follow."""
    controls = member.classes[len(classes) :]
    all_controls = all(name.startswith("control_") for name in controls)
    if member.classes[: len(classes)] != classes or not all_controls:
        raise InputError(f"{member.path}: predicts other classes than {root} has")


def refuse_doubles(members: Sequence[Predictions]) -> None:
    """Refuse predictions that are given twice, which would count double in every mean.

    Raises:
        InputError: one file twice, or two files of the same run, stage and fold (a copy); names
            both.
    """
    paths: set[Path] = set()
    models: dict[tuple, Predictions] = {}
    for member in members:
        path, about = member.path.resolve(), member.about
        if path in paths:
            raise InputError(f"{member.path}: is given twice and would count twice")
        paths.add(path)
        if "fold" not in about:
            continue
        model = tuple(about.get(name) for name in ("run", "stage_index", "fold"))
        other = models.setdefault(model, member)
        if other is not member:
            fold = "all folds" if about["fold"] is None else f"fold {about['fold']}"
            raise InputError(
                f"{member.path}: holds the same predictions as {other.path} ({about['run']}, stage "
                f"{about.get('stage')!r}, {fold}) and would count twice; give one of them, or "
                "rename one of the runs in its config and predict again"
            )


def refuse_other_data(member: Predictions, samples: pd.DataFrame, root: Path) -> None:
    """Refuse predictions of samples that a data set does not have, or that are others there.

    Args:
        samples: the samples table of `root`.

    Raises:
        InputError: names the first sample that is unknown, or whose target, well, plate, cell type
            or label differs.
    """
    hint = (
        f"they were made on {member.about.get('data_root')}; give that folder as --root, or "
        "predict these data"
    )
    ids = member.ids
    place = pd.Index(samples.sample_id).get_indexer(ids["sample_id"])
    unknown = place < 0
    if unknown.any():
        first = int(unknown.argmax())
        raise InputError(
            f"{member.path}: predicts {unknown.sum()} samples that {root} has not, first "
            f"{str(ids['sample_id'][first])!r} of well {str(ids['well_id'][first])!r}: {hint}"
        )
    known = samples.iloc[place]
    label = known.label.fillna(-1).to_numpy(dtype=np.int64)
    differs = {
        name: known[name].astype(str).to_numpy() != ids[name]
        for name in ("target_id", "well_id", "experiment", "plate", "cell_type")
    }
    differs["label"] = (label >= 0) & (member.label >= 0) & (label != member.label)
    for name, wrong in differs.items():
        if wrong.any():
            first = str(ids["sample_id"][int(wrong.argmax())])
            raise InputError(
                f"{member.path}: sample {first!r} has another {name} in {root} ({wrong.sum()} such "
                f"samples): {hint}"
            )


def has_test(members: Iterable[Predictions]) -> bool:
    """Whether any of the predictions are of test samples."""
    return bool(with_part(members, "test"))


def refuse_without_test(members: Sequence[Predictions], competition: Competition) -> None:
    """Refuse predictions with nothing to submit.

    Raises:
        InputError: no test sample; names the verb that prints a score instead.
    """
    if has_test(members):
        return
    name = members[0].about.get("protocol")
    scored = "`cellsignal score` prints their out-of-fold score"
    if name and competition.protocol(name).parts:
        scored = f"`cellsignal score --answers` scores them by {name!r}"
    raise InputError(
        f"{members[0].path}: no test predictions, so there is nothing to submit; {scored}"
    )


def refuse_missing_ids(target_ids: Iterable[str], competition: Competition, root: Path) -> None:
    """Refuse predictions that lack ids of the sample submission.

    Raises:
        InvalidSubmission: names the first, and what to do where `prepare` left its image out.
    """
    expected = competition.sample_submission(root)[competition.id_column]
    missing = expected[~expected.astype(object).isin(set(np.asarray(target_ids).tolist()))]
    if len(missing):
        raise InvalidSubmission(
            f"submission: {len(missing)} ids missing, first {missing.iloc[0]!r}: "
            f"{len(expected) - len(missing)} of {len(expected)} are predicted; where "
            "`cellsignal prepare` left out a damaged or missing image, mend it, then prepare and "
            "predict again"
        )


# out of fold
# --------------------------------------------------------------------------------------------------


def out_of_fold_text(entry: Entry) -> str:
    """Print the out-of-fold scores of an entry's runs and of all of them merged.

    Two units: the target (what a submission names) and the well (its targets pooled). Wilson's
    interval takes units as independent; the clustered one resamples whole fold groups (experiments,
    compounds) and is the one to quote for new experiments or compounds.
    """
    samples = entry.samples.drop_duplicates("target_id").set_index("target_id")
    fold_group = entry.members[0].about["fold_group"]
    task = entry.competition.task
    return task.out_of_fold_text(merge_runs(entry), samples, fold_group, entry.classes)


def merge_runs(entry: Entry) -> Runs:
    """Merge each run and, if there are several, all of them; by target and by well."""
    members = {run: entry.final(run) for run in entry.runs}
    if len(members) > 1:
        members[f"all {len(members)} merged"] = entry.final()
    merged: Runs = {}
    for run, final in members.items():
        targets = entry.merge(final, "oof", pool="target")
        alone = len(np.unique(targets.well_id)) == len(targets.well_id)  # a target a well
        wells = targets if alone else entry.merge(final, "oof", pool="well")
        merged[run] = {"target": targets, "well": wells}
    return merged

"""Checks that predictions fit the data they are merged and submitted for; each refusal is one line."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError, InvalidSubmission
from cellsignal.competitions.base import Competition, PlateGroups
from cellsignal.config.schema import Submit
from cellsignal.prediction.container import Predictions


def refuse_doubles(members: Sequence[Predictions]) -> None:
    """Refuse predictions that are given twice, which would count double in every mean.

    Raises:
        InputError: One file twice, or two files of the same run, stage and fold (a copy). Names
        both.
    """
    seen: dict[object, Predictions] = {}
    for member in members:
        keys: list[object] = [member.path.resolve()]
        if "fold" in member.about:
            keys.append(tuple(member.about.get(name) for name in ("run", "stage_index", "fold")))
        for key in keys:
            other = seen.setdefault(key, member)
            if other is not member and isinstance(key, Path):
                raise InputError(f"{member.path}: is given twice and would count twice")
            if other is not member:
                fold = member.about.get("fold")
                what = f"{member.about['run']}, stage {member.about.get('stage')!r}, {'all folds' if fold is None else f'fold {fold}'}"
                raise InputError(
                    f"{member.path}: holds the same predictions as {other.path} ({what}) and "
                    "would count twice; "
                    "give one of them, or rename one of the runs in its config and predict again"
                )


def refuse_other_data(member: Predictions, samples: pd.DataFrame, root: Path) -> None:
    """Refuse predictions of samples that a data set does not have, or that are others there.

    Args:
        samples: The samples table of `root`.

    Raises:
        InputError: Names the first sample that is unknown, or whose target, well, plate, cell type
        or label differs.
    """
    ids = member.ids
    place = pd.Index(samples.sample_id).get_indexer(ids["sample_id"])
    unknown = place < 0
    if unknown.any():
        first = int(unknown.argmax())
        raise InputError(
            f"{member.path}: predicts {int(unknown.sum())} samples that {root} has not, first "
            f"{str(ids['sample_id'][first])!r} of well {str(ids['well_id'][first])!r}: "
            f"{_hint(member)}"
        )
    known = samples.iloc[place]
    for name in ("target_id", "well_id", "experiment", "plate", "cell_type"):
        _refuse_differing(member, known[name].astype(str).to_numpy() != ids[name], name, root)
    true = known.label.fillna(-1).to_numpy(dtype=np.int64)
    _refuse_differing(
        member, (true >= 0) & (member.label >= 0) & (true != member.label), "label", root
    )


def _refuse_differing(member: Predictions, wrong: np.ndarray, name: str, root: Path) -> None:
    if wrong.any():
        first = str(member.ids["sample_id"][int(wrong.argmax())])
        number = f"{int(wrong.sum())} such samples"
        raise InputError(
            f"{member.path}: sample {first!r} has another {name} in {root} ({number}): "
            f"{_hint(member)}"
        )


def _hint(member: Predictions) -> str:
    return f"they were made on {member.about.get('data_root')}; give that folder as --root, or predict these data"


def has_test(members: Iterable[Predictions]) -> bool:
    """Whether any of the predictions are of test samples."""
    return any((member.ids["part"] == "test").any() for member in members)


def refuse_without_test(members: Sequence[Predictions], competition: Competition) -> None:
    """Refuse predictions with nothing to submit.

    Raises:
        InputError: No test sample; names the verb that prints a score instead.
    """
    if has_test(members):
        return
    name = members[0].about.get("protocol")
    scored = "`cellsignal oof` prints their out-of-fold score"
    if name and competition.protocol(name).parts:
        scored = f"`cellsignal score` scores them by {name!r}"
    raise InputError(
        f"{members[0].path}: no test predictions, so there is nothing to submit; {scored}"
    )


def refuse_missing_ids(target_ids: Iterable[str], competition: Competition, root: Path) -> None:
    """Refuse predictions that lack ids of the sample submission.

    Raises:
        InvalidSubmission: Names the first, and what to do where `prepare` left its image out.
    """
    wanted = competition.sample_submission(root)[competition.id_column]
    missing = wanted[~wanted.isin(set(target_ids))]
    if len(missing):
        raise InvalidSubmission(
            f"submission: {len(missing)} ids missing, first {missing.iloc[0]!r}: "
            f"{len(wanted) - len(missing)} of {len(wanted)} are "
            "predicted; where `cellsignal prepare` left out a damaged or missing image, mend it, "
            "then prepare and predict again"
        )


def refuse_idle_options(how: Submit, groups: PlateGroups | None, competition: Competition) -> None:
    """Refuse keys of the `submit` section that would do nothing.

    Raises:
        InputError: Names the key.
    """
    if groups is None and (how.groups is not None or how.repeats == "use"):
        key = "groups" if how.groups is not None else "repeats: use"
        raise InputError(f"submit.{key}: the plates of {competition.id} hold no class groups")
    if how.groups is not None and how.assignment == "none":
        raise InputError("submit.groups: would do nothing with assignment: none")
    if how.temperature != Submit.model_fields["temperature"].default and (
        groups is None or how.assignment != "sinkhorn"
    ):
        raise InputError(
            "submit.temperature: would do nothing; only assignment: sinkhorn has one, where "
            "plates hold class groups"
        )

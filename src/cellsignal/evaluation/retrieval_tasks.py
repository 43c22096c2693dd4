"""Run the retrieval tasks on all parts of a data set, each beside its baselines."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.evaluation.baselines import baseline_profiles
from cellsignal.evaluation.matching import treatment_profiles
from cellsignal.evaluation.retrieval import (
    TASKS,
    Retrieval,
    Task,
    compound_gene_matching,
    controls_by_position,
    replicate_retrieval,
    target_matching,
)
from cellsignal.evaluation.retrieval_null import DEFAULT_NULL, Null

GENES = ("crispr", "orf")  # modalities of genes
# kind of profiles -> median profiles of treatments, and what is known of each
Medians = dict[str, tuple[np.ndarray, pd.DataFrame]]


@dataclass(frozen=True)
class Measured:
    """One figure of a data set.

    Attributes:
        where: the values of the columns it was measured within, and the modality.
        task: "replicates", "targets" or "compound_gene".
        profiles: what the profiles are of, the `label` of `measure`; a name of `baselines`, the
            same task with those profiles; or "controls by position".
        result: the figure, or why there is none.
    """

    where: str
    task: Task
    profiles: str
    result: Retrieval | InputError


def measure(
    x: np.ndarray,
    wells: pd.DataFrame,
    tasks: Sequence[Task] = TASKS,
    null: Null = DEFAULT_NULL,
    within: Sequence[str] = ("cell_type",),
    replicable: bool = True,
    label: str = "images",
) -> Iterator[Measured]:
    """Measure the tasks within each modality and each value of the columns `within`.

    Args:
        wells: W rows as in `replicate_retrieval`, with well_id, well, compound, targets and
            modality (None where unknown).
        replicable: give the other tasks the treatments whose replicates were retrieved (q < .05),
            as published; for the baseline the same ones.
        label: what the profiles are of, for the rows made from them.
    """
    kinds = {label: np.asarray(x), **baseline_profiles(x, wells)}
    for place, rows in _parts(wells, within):
        medians: dict[str | None, Medians] = {}
        for modality, chosen in _modalities(wells.iloc[rows]):
            part = wells.iloc[rows[chosen]].reset_index(drop=True)
            values = {kind: profiles[rows[chosen]] for kind, profiles in kinds.items()}
            where = place if modality is None else f"{place}, {modality}"
            retrieved = {
                kind: _attempt(replicate_retrieval, profiles, part, null)
                for kind, profiles in values.items()
            }
            if "replicates" in tasks:
                by_position = _attempt(controls_by_position, values[label], part, null)
                figures = retrieved | {"controls by position": by_position}
                yield from (Measured(where, "replicates", *figure) for figure in figures.items())
            kept = _kept_wells(part, retrieved[label] if replicable else None)
            if kept.any():
                medians[modality] = {
                    kind: _median_profiles(profiles[kept], part[kept])
                    for kind, profiles in values.items()
                }
            if "targets" in tasks:
                for kind in kinds:
                    result = _match_targets(medians, [modality], kind, null)
                    yield Measured(where, "targets", kind, result)
        if "compound_gene" in tasks:
            genes = [gene for gene in GENES if gene in set(wells.modality.iloc[rows])]
            for gene, kind in itertools.product(genes, kinds):
                result = _match_targets(medians, ["compound", gene], kind, null)
                yield Measured(f"{place}, compound and {gene}", "compound_gene", kind, result)


def _parts(wells: pd.DataFrame, within: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the parts that share their values of the columns `within`: name and rows."""
    if not within:
        yield "all wells", np.arange(len(wells))
        return
    for values, rows in wells.groupby(list(within)).indices.items():
        # pandas gives one column's value bare
        yield ", ".join(map(str, values if isinstance(values, tuple) else (values,))), rows


def _modalities(wells: pd.DataFrame) -> Iterator[tuple[str | None, np.ndarray]]:
    """Yield each modality with the rows of its wells and of their plates' negative controls.

    None and all rows where no modality is known.
    """
    control = (wells.role == "negative_control").to_numpy()
    plate = wells.groupby(["experiment", "plate"]).ngroup().to_numpy()
    known = wells.modality.where(~control)
    if known.isna().all():
        yield None, np.arange(len(wells))
    for modality in sorted(known.dropna().unique()):
        treated = (known == modality).to_numpy()
        yield modality, np.flatnonzero(treated | (control & np.isin(plate, plate[treated])))


def _kept_wells(wells: pd.DataFrame, retrieved: Retrieval | InputError | None) -> np.ndarray:
    """Treated wells; with `retrieved` only those of treatments that were."""
    kept = (wells.role != "negative_control").to_numpy() & wells.treatment.notna().to_numpy()
    if retrieved is None:
        return kept
    if isinstance(retrieved, InputError):
        return np.zeros_like(kept)
    treatments = retrieved.table.group[retrieved.table.retrieved]
    return kept & wells.treatment.isin(treatments).to_numpy()


def _median_profiles(x: np.ndarray, wells: pd.DataFrame) -> tuple[np.ndarray, pd.DataFrame]:
    profiles, table = treatment_profiles(x, wells)
    facts = wells.drop_duplicates("treatment")[["treatment", "targets", "modality"]]
    return profiles, table[["treatment"]].merge(facts, on="treatment")


def _match_targets(
    medians: dict[str | None, Medians], modalities: Sequence[str | None], kind: str, null: Null
) -> Retrieval | InputError:
    """Match targets within one modality, or between two."""
    if any(modality not in medians for modality in modalities):
        return InputError("no treatment whose replicates were retrieved")
    x = np.concatenate([medians[modality][kind][0] for modality in modalities])
    table = pd.concat([medians[modality][kind][1] for modality in modalities], ignore_index=True)
    targets = [genes if isinstance(genes, tuple | list) else () for genes in table.targets]
    if len(modalities) == 2:
        return _attempt(compound_gene_matching, x, targets, table.modality, null)
    return _attempt(target_matching, x, targets, null)


def _attempt(task: Callable[..., Retrieval], *arguments: Any) -> Retrieval | InputError:
    """The result of a task, or why it cannot be measured."""
    try:
        return task(*arguments)
    except InputError as error:
        return error

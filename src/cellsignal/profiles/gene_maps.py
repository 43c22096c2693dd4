"""Aggregate well profiles to one profile a gene, or a compound and concentration."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.evaluation.baselines import COUNT, POSITION, count_profiles, position_profiles
from cellsignal.profiles.names import Aggregate
from cellsignal.profiles.profile_steps import Profiles
from cellsignal.profiles.relation_tables import refuse_unknown

RANDOM, EXCHANGED = "random profiles", "names exchanged"
_COMPOUND = "compound"


@dataclass(frozen=True)
class GeneMap:
    """One profile a gene.

    Attributes:
        x: (G, D) float64.
        genes: G names, sorted.
        wells: (G,) int, how many wells each is made from.
    """

    x: np.ndarray
    genes: tuple[str, ...]
    wells: np.ndarray


@dataclass(frozen=True)
class MapOptions:
    """How a map of genes is made from wells.

    Attributes:
        aggregate: of the wells of a gene.
        dropped: genes that are left out.
        least_wells: fewest wells of a gene.
    """

    aggregate: Aggregate = "mean"
    dropped: Collection[str] = ()
    least_wells: int = 1


def gene_names(wells: pd.DataFrame) -> pd.Series:
    """Return the gene of each treated well, None for others.

    The column `gene`, where some well has one; else the treatment without a concentration, or the
    compound of a data set that names no treatments (RxRx1: the siRNA). Wells of
    a `modality` that begins with "compound" or "chemical" have no gene, nor have those whose `gene`
    names several, as of a compound with several targets.
    """
    treated = wells.role != "negative_control"
    if "modality" in wells:
        chemical = wells.modality.fillna("").astype(str).str.lower()
        treated &= ~chemical.str.startswith((_COMPOUND, "chemical"))
    if "gene" in wells and wells.gene.notna().any():
        names = wells.gene.where(~wells.gene.astype(str).str.contains("[|;]"), None)
    else:
        names = wells.treatment.where(wells.treatment.notna(), wells["compound"])
        names = names.map(lambda name: None if pd.isna(name) else str(name).rsplit("@", 1)[0])
    return names.astype(object).where(treated & names.notna(), None)


def make_gene_map(profiles: Profiles, how: MapOptions) -> GeneMap:
    """Aggregate the wells of each gene.

    Raises:
        InputError: no gene is left, or none of the dropped ones exists.
    """
    names = gene_names(profiles.wells)
    refuse_unknown(how.dropped, set(names.dropna()), "--drop-genes")
    names = names.where(~names.isin(set(how.dropped)), None)
    size = names.map(names.value_counts())
    keep = (names.notna() & (size >= how.least_wells)).to_numpy()
    if not keep.any():
        raise InputError(f"no gene has {how.least_wells} treated wells; see --columns gene=NAME")
    frame = pd.DataFrame(np.asarray(profiles.x, np.float64)[keep]).groupby(names[keep].to_numpy())
    made = frame.mean() if how.aggregate == "mean" else frame.median()
    return GeneMap(made.to_numpy(), tuple(map(str, made.index)), frame.size().to_numpy())


def baseline_wells(wells: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return profiles of wells that hold no phenotype: position, and the number of cells."""
    kinds = {POSITION: position_profiles(wells)}
    if "count" in wells and pd.to_numeric(wells["count"], errors="coerce").notna().all():
        kinds[COUNT] = count_profiles(wells)
    return kinds


def compound_doses(profiles: Profiles) -> tuple[np.ndarray, pd.DataFrame]:
    """Return the mean profile of each compound and concentration, and what they are.

    Returns:
        (N, D) float64, and N rows with compound and concentration ("" where none is known).

    Raises:
        InputError: no well is of a compound; the modality must say so.
    """
    wells = profiles.wells
    chemical = pd.Series("", wells.index)
    if "modality" in wells:
        chemical = wells.modality.fillna("").astype(str).str.lower()
    treated = (wells.role != "negative_control") & wells["compound"].notna()
    keep = (treated & chemical.str.startswith((_COMPOUND, "chemical"))).to_numpy()
    if not keep.any():
        raise InputError(
            "activity: no well is of a compound; a column of the modality, such as "
            "Metadata_Perturbation, must say compound (--columns modality=NAME)"
        )
    part = wells[keep]
    dosed = part.treatment.fillna("").str.rsplit("@", n=1)
    dose = dosed.map(lambda words: words[1] if len(words) == 2 else "")
    frame = pd.DataFrame(np.asarray(profiles.x, np.float64)[keep])
    grouped = frame.groupby([part["compound"].to_numpy(), dose.to_numpy()])
    made = grouped.mean()
    doses = made.index.to_frame(index=False, name=["compound", "concentration"])
    return made.to_numpy(), doses

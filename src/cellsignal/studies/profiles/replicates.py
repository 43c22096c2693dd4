"""Replicates, targets and position among CPJUMP1's four replicate compound plates."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from cellsignal.evaluation.baselines import position_profiles, shuffled_rows
from cellsignal.evaluation.matching import treatment_profiles
from cellsignal.evaluation.retrieval import (
    Retrieval,
    controls_by_position,
    replicate_retrieval,
    target_matching,
)
from cellsignal.evaluation.retrieval_null import Null, NullKind
from cellsignal.profiles.batch_effects import sphere
from cellsignal.profiles.position_effects import subtract_position
from cellsignal.profiles.profile_steps import Profiles
from cellsignal.studies.pages import table as markdown_table

POSITION_NOTE = (
    "{single} of {compounds} compounds stand in one position on all plates, their negatives (DMSO) "
    "in others. For these no comparison on these plates can tell the compound from its position: a "
    "step that takes the position out takes part of the compound with it, one that leaves it in "
    "counts the position as phenotype. What can be said: position alone would retrieve them all. "
    "Negative controls of one position retrieve each other in {controls} positions (mAP "
    "{controls_map:.3f}, of a random order {controls_random:.3f}), so there is position in the "
    "profiles. With row and column effects subtracted {controls_left} positions of controls do so, "
    "and {left} compounds. Of the {several} compounds in two positions (positive controls, among "
    "the strongest) {across} are retrieved across positions. What cannot be said is how many of "
    "the others would be: that needs plates with another layout."
)


def replicate_table(profiles: Profiles, null_size: int) -> str:
    """Return mAP and the fractions retrieved by both nulls, beside the baselines."""
    wells = profiles.wells
    rows = [("profiles", "compounds", "mAP", "random", "published null", "copairs' null")]
    for name, values in _kinds(profiles).items():
        published = _replicates(values, wells, null_size, "published")
        copairs = _replicates(values, wells, null_size, "copairs")
        figures = (f"{published.mean_average_precision:.3f}", f"{published.random:.3f}")
        shares = (_share(published), _share(copairs))
        rows.append((name, str(len(published.table)), *figures, *shares))
    return markdown_table(pd.DataFrame(rows[1:], columns=rows[0]))


def oracle_line(profiles: Profiles) -> str:
    """Say how far each compound's mAP is from scikit-learn's."""
    ours = replicate_retrieval(profiles.x, profiles.wells, Null(20, kind="published")).table
    oracle = sklearn_replicates(profiles.x, profiles.wells)
    difference = np.abs(ours.set_index("group").mean_average_precision - oracle)
    return (
        f"The mAP of each of the {len(oracle)} compounds against scikit-learn's "
        f"`average_precision_score`: the largest difference is {difference.max():.0e}."
    )


def sklearn_replicates(x: np.ndarray, wells: pd.DataFrame) -> pd.Series:
    """Return each treatment's mAP by scikit-learn, on cosines of float64."""
    from sklearn.metrics import average_precision_score
    from sklearn.metrics.pairwise import cosine_similarity

    cosine = cosine_similarity(x.astype(np.float64))
    control = (wells.role == "negative_control").to_numpy()
    treatment, plate = wells.treatment.to_numpy(object), wells.plate.to_numpy(object)
    scores: dict[str, list[float]] = {}
    for row in np.flatnonzero(~control):
        same = ~control & (treatment == treatment[row])
        same[row] = False
        ranked = np.flatnonzero(same | (control & (plate == plate[row])))
        score = average_precision_score(same[ranked], cosine[row, ranked])
        scores.setdefault(treatment[row], []).append(score)
    return pd.Series({name: float(np.mean(values)) for name, values in scores.items()})


def position_table(profiles: Profiles, null_size: int) -> str:
    """Return what is left of the figures when position effects are taken out, or controlled."""
    wells = profiles.wells
    treated = wells[wells.role != "negative_control"]
    places = treated.groupby("treatment").well.nunique()
    several = places.index[places > 1]
    kept = ((wells.role == "negative_control") | wells.treatment.isin(several)).to_numpy()
    header = ("profiles", "replicates retrieved", "controls by position")
    rows = [(*header, f"the {len(several)} compounds of two positions", "they, across positions")]
    shares = {}
    for name, x in _corrected(profiles):
        results = [
            _replicates(x, wells, null_size),
            controls_by_position(x, wells, Null(null_size)),
            _replicates(x[kept], wells[kept], null_size),
            replicate_retrieval(x[kept], wells[kept], Null(null_size), other_positions=True),
        ]
        cells = [f"{_share(result)}, mAP {result.mean_average_precision:.3f}" for result in results]
        rows.append((name, *cells))
        shares[name] = results
    _, by_position, _, across = shares["as published"]
    left, controls_left = shares["row and column effects of all wells subtracted"][:2]
    note = POSITION_NOTE.format(
        single=len(places) - len(several),
        compounds=len(places),
        controls=_share(by_position),
        controls_map=by_position.mean_average_precision,
        controls_random=by_position.random,
        controls_left=_share(controls_left),
        left=_share(left),
        several=len(several),
        across=_share(across),
    )
    return f"{markdown_table(pd.DataFrame(rows[1:], columns=rows[0]))}\n\n{note}"


def _corrected(profiles: Profiles) -> Iterator[tuple[str, np.ndarray]]:
    x, wells = profiles.x, profiles.wells
    yield "as published", x
    yield "row and column effects of all wells subtracted", subtract_position(x, wells, "all")
    of_controls = subtract_position(x, wells, "negative_controls")
    yield "row and column effects of the controls subtracted", of_controls
    yield "sphered on the controls", sphere(x, wells, "negative_controls")


def target_table(profiles: Profiles, null_size: int) -> str:
    """Return target matching among the compounds whose replicates were retrieved, as published."""
    wells = profiles.wells
    rows = [("profiles", "compounds", "targets", "mAP", "random", "retrieved")]
    null = Null(null_size, kind="published")
    retrieved = _replicates(profiles.x, wells, null_size, "published").table
    names = retrieved.group[retrieved.retrieved]
    kept = (wells.treatment.isin(names) & (wells.role != "negative_control")).to_numpy()
    targets = wells.drop_duplicates("treatment").set_index("treatment").targets
    for name, x in _kinds(profiles).items():
        medians, table = treatment_profiles(x[kept], wells[kept])
        result = target_matching(medians, list(targets[table.treatment]), null)
        figures = (f"{result.mean_average_precision:.3f}", f"{result.random:.3f}")
        share = f"{_share(result)} = {result.retrieved.value:.3f}"
        rows.append((name, str(len(table)), str(len(result.table)), *figures, share))
    return markdown_table(pd.DataFrame(rows[1:], columns=rows[0]))


def _kinds(profiles: Profiles) -> dict[str, np.ndarray]:
    """The profiles, and those of position and of shuffled labels."""
    return {
        "CellProfiler": profiles.x,
        "position only": position_profiles(profiles.wells),
        "shuffled labels, one draw": profiles.x[shuffled_rows(profiles.wells)],
    }


def _replicates(
    x: np.ndarray, wells: pd.DataFrame, null_size: int, kind: NullKind = "copairs"
) -> Retrieval:
    return replicate_retrieval(x, wells, Null(null_size, kind=kind))


def _share(result: Retrieval) -> str:
    return f"{result.retrieved.correct}/{result.retrieved.total}"

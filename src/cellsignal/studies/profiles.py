"""Measure the protocols on real CellProfiler profiles: docs/results/profiles.md.

CPJUMP1's four replicate compound plates (replicates and targets, and what position explains) and
BBBC021 (NSC and NSCB, as given and with every choice nested over held-out compounds).
"""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.evaluation.baselines import position_profiles, shuffled_mechanisms, shuffled_rows
from cellsignal.evaluation.matching import (
    nsc_similarity,
    nscb_similarity,
    single_batch_classes,
    treatment_profiles,
)
from cellsignal.evaluation.nested_matching import NestedMatch, match_nested
from cellsignal.evaluation.retrieval import (
    Retrieval,
    controls_by_position,
    replicate_retrieval,
    target_matching,
)
from cellsignal.evaluation.retrieval_null import NULL_SIZE, Null
from cellsignal.profiles.batch_effects import centre, sphere, tvn
from cellsignal.profiles.position_effects import subtract_position
from cellsignal.profiles.profile_steps import Profiles
from cellsignal.profiles.sources import load_tables

WEEK = "Week[0-9]+"  # the batch in the names of BBBC021's plates
SHUFFLES = 20
FIRST = "as given"
_CORRECTIONS = ("as published", "position from all", "position from controls", "sphered")


def profiles_page(
    plates: Sequence[Path],
    annotations: Path,
    bbbc021: Path,
    null_size: int = NULL_SIZE,
    shuffles: int = SHUFFLES,
) -> str:
    """Return the tables of the page.

    Args:
        plates: the profiles of CPJUMP1's four plates.
        annotations: JUMP-Target-1's compound metadata.
        bbbc021: the profiles of BBBC021.
        null_size: random orders behind a p value.
        shuffles: draws of shuffled mechanisms.
    """
    jump = load_tables(plates, annotations=annotations)
    screen = load_tables([bbbc021], batch_pattern=WEEK)
    parts = [
        "## CPJUMP1: replicates\n",
        replicate_table(jump, null_size),
        oracle_line(jump),
        "\n## CPJUMP1: position\n",
        position_table(jump, null_size),
        "\n## CPJUMP1: targets\n",
        target_table(jump, null_size),
        "\n## BBBC021: mechanisms\n",
        mechanism_table(screen, shuffles),
    ]
    return "\n".join(parts) + "\n"


# CPJUMP1
# --------------------------------------------------------------------------------------------------


def replicate_table(profiles: Profiles, null_size: int) -> str:
    """Return mAP and the fractions retrieved by both nulls, beside the baselines."""
    x, wells = profiles.x, profiles.wells
    kinds = {
        "CellProfiler": x,
        "position only": position_profiles(wells),
        "shuffled labels": x[shuffled_rows(wells)],
    }
    rows = [("profiles", "compounds", "mAP", "random", "published null", "copairs' null")]
    for name, values in kinds.items():
        nulls = [_replicates(values, wells, null_size, kind) for kind in ("published", "copairs")]
        first = nulls[0]
        figures = (f"{first.mean_average_precision:.3f}", f"{first.random:.3f}")
        rows.append((name, str(len(first.table)), *figures, *map(_share, nulls)))
    return _markdown(rows)


def oracle_line(profiles: Profiles) -> str:
    """Say how far each compound's mAP is from scikit-learn's."""
    ours = replicate_retrieval(profiles.x, profiles.wells, Null(20, kind="published")).table
    oracle = sklearn_replicates(profiles.x, profiles.wells)
    difference = np.abs(ours.set_index("group").mean_average_precision - oracle)
    return (
        f"\nThe mAP of each of the {len(oracle)} compounds against scikit-learn's "
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
    rows = [
        (
            "profiles",
            "replicates retrieved",
            "controls by position",
            f"the {len(several)} compounds of several positions",
            "they, across positions",
        )
    ]
    kept = ((wells.role == "negative_control") | wells.treatment.isin(several)).to_numpy()
    for name, x in _corrected(profiles):
        results = [
            _replicates(x, wells, null_size),
            controls_by_position(x, wells, Null(null_size)),
            _replicates(x[kept], wells[kept], null_size),
            replicate_retrieval(x[kept], wells[kept], Null(null_size), other_positions=True),
        ]
        cells = [f"{_share(result)}, mAP {result.mean_average_precision:.3f}" for result in results]
        rows.append((name, *cells))
    count = f"{len(places) - len(several)} of {len(places)} compounds"
    return _markdown(rows) + f"\n\n{count} stand in one position on all plates."


def _corrected(profiles: Profiles) -> Iterator[tuple[str, np.ndarray]]:
    x, wells = profiles.x, profiles.wells
    yield _CORRECTIONS[0], x
    yield _CORRECTIONS[1], subtract_position(x, wells, "all")
    yield _CORRECTIONS[2], subtract_position(x, wells, "negative_controls")
    yield _CORRECTIONS[3], sphere(x, wells, "negative_controls")


def target_table(profiles: Profiles, null_size: int) -> str:
    """Return target matching among the compounds whose replicates were retrieved, as published."""
    wells, rows = (
        profiles.wells,
        [("profiles", "compounds", "targets", "mAP", "random", "retrieved")],
    )
    null = Null(null_size, kind="published")
    retrieved = _replicates(profiles.x, wells, null_size, "published").table
    names = retrieved.group[retrieved.retrieved]
    kept = (wells.treatment.isin(names) & (wells.role != "negative_control")).to_numpy()
    kinds = {
        "CellProfiler": profiles.x,
        "position only": position_profiles(wells),
        "shuffled labels": profiles.x[shuffled_rows(wells)],
    }
    for name, x in kinds.items():
        medians, table = treatment_profiles(x[kept], wells[kept])
        targets = wells.drop_duplicates("treatment").set_index("treatment").targets
        result = target_matching(medians, list(targets[table.treatment]), null)
        figures = (f"{result.mean_average_precision:.3f}", f"{result.random:.3f}")
        rows.append((name, str(len(table)), str(len(result.table)), *figures, _share(result)))
    return _markdown(rows)


def _replicates(
    x: np.ndarray, wells: pd.DataFrame, null_size: int, kind: str = "copairs"
) -> Retrieval:
    return replicate_retrieval(x, wells, Null(null_size, kind=kind))


# BBBC021
# --------------------------------------------------------------------------------------------------


def mechanism_table(profiles: Profiles, shuffles: int = SHUFFLES) -> str:
    """Return NSC and NSCB as given, nested over compounds, and nested with shuffled mechanisms."""
    rows = [
        (
            "protocol",
            "as given",
            "nested choice",
            "95 % over treatments",
            "over compounds",
            "best way, chosen by the scored",
            "shuffled, nested",
            "chance",
        )
    ]
    chosen = []
    for protocol, measure in (("NSC", nsc_similarity), ("NSCB", nscb_similarity)):
        ways = {name: measure(x, profiles.wells) for name, x in _ways(profiles)}
        table = next(iter(ways.values()))[1]
        similarity = {name: way[0] for name, way in ways.items()}
        left_out = single_batch_classes(table) if protocol == "NSCB" else ()
        nested = match_nested(similarity, table, left_out)
        draws = [
            match_nested(similarity, shuffled_mechanisms(_as_wells(table), seed), left_out)
            for seed in range(shuffles)
        ]
        chance = _chance(similarity[FIRST], table, left_out)
        rows.append(_mechanism_row(protocol, nested, draws, chance))
        counts = nested.table.groupby("way")["compound"].nunique().sort_values(ascending=False)
        listed = "; ".join(f"{way} ({count})" for way, count in counts.items())
        chosen.append(f"- {protocol}: of {len(ways)} ways, by compounds: {listed}")
    return _markdown(rows) + "\n\nChosen:\n\n" + "\n".join(chosen)


def _as_wells(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(role="treatment")


def _chance(similarity: np.ndarray, table: pd.DataFrame, left_out: tuple[str, ...]) -> float:
    """Share that is right if the neighbour is drawn from all that are compared."""
    moa, compared = table.moa.to_numpy(object), np.isfinite(similarity)
    same = (compared & (moa[:, None] == moa)).sum(axis=1)
    return float((same / np.maximum(compared.sum(axis=1), 1))[~np.isin(moa, left_out)].mean())


def _mechanism_row(
    protocol: str, nested: NestedMatch, draws: list[NestedMatch], chance: float
) -> tuple[str, ...]:
    accuracy, total = nested.accuracy, nested.accuracy.total
    best = max(nested.each, key=lambda name: nested.each[name])
    shuffled = [draw.table.right.mean() for draw in draws]
    low, high = np.percentile(shuffled, [2.5, 97.5])
    return (
        protocol,
        f"{nested.each[FIRST]:.0f}/{total}",
        f"{accuracy.correct}/{total}",
        f"{accuracy.low:.3f} .. {accuracy.high:.3f}",
        f"{nested.cluster_low:.3f} .. {nested.cluster_high:.3f}",
        f"{nested.each[best]:.0f}/{total} ({best})",
        f"{np.mean(shuffled):.3f} ({len(draws)} draws, 95 % {low:.3f} .. {high:.3f})",
        f"{chance:.3f}",
    )


def _ways(profiles: Profiles) -> Iterator[tuple[str, np.ndarray]]:
    """Yield every way of making the profiles: steps, centring, and what a cosine is taken of."""
    for steps, centring, shape in itertools.product(_normalised(profiles), _CENTRED, _SHAPES):
        name, x = steps
        by, kind = _CENTRED[centring], _SHAPES[shape]
        if by is not None:
            x = centre(x, profiles.wells, by, "all")
        words = [word for word in (name, centring, shape) if word]
        yield ", ".join(words) or FIRST, kind(x)


_CENTRED = {"": None, "centred by plate": "plate", "centred by batch": "experiment"}
_SHAPES = {
    "": lambda x: x,
    "signed log": lambda x: np.sign(x) * np.log1p(np.abs(x)),
    "correlation": lambda x: x - x.mean(axis=1, keepdims=True),
}


def _normalised(profiles: Profiles) -> list[tuple[str, np.ndarray]]:
    x, wells = profiles.x, profiles.wells
    ways = [("", x), ("position", subtract_position(x, wells))]
    for strength in (0.1, 0.5, 2.0):
        for by in ("plate", "experiment"):
            arguments = (x, wells, by, "negative_controls", strength)
            ways.append((f"tvn {strength:g} by {by}", tvn(*arguments)))
    dropped = tvn(x, wells, "experiment", "negative_controls", 0.5, drop_variance=0.02)
    ways.append(("tvn 0.5 by experiment, 2 % of variance dropped", dropped))
    for strength in (0.01, 0.1, 1.0):
        ways.append(
            (f"sphered {strength:g}", sphere(x, wells, "negative_controls", "ZCA", strength))
        )
    return ways


def _share(result: Retrieval) -> str:
    return f"{result.retrieved.correct}/{result.retrieved.total}"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])

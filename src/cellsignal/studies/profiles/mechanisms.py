"""NSC and NSCB of BBBC021's CellProfiler profiles, as given and with every choice nested."""

import itertools
from collections.abc import Iterator

import numpy as np
import pandas as pd

from cellsignal.evaluation.baselines import position_profiles, shuffled_mechanisms
from cellsignal.evaluation.matching import (
    Matches,
    not_same_compound,
    not_same_compound_or_batch,
    nsc_similarity,
    nscb_similarity,
    single_batch_classes,
)
from cellsignal.evaluation.nested_matching import NestedMatch, match_nested
from cellsignal.metrics.intervals import range_text
from cellsignal.profiles.batch_effects import centre, sphere, tvn
from cellsignal.profiles.position_effects import subtract_position
from cellsignal.profiles.profile_steps import Profiles
from cellsignal.studies.pages import table as markdown_table

SHUFFLES = 20
FIRST = "as given"
PROTOCOLS = {
    "NSC": (nsc_similarity, not_same_compound, 96),
    "NSCB": (nscb_similarity, not_same_compound_or_batch, 80),
}
_CENTRED = {"": None, "centred by plate": "plate", "centred by batch": "experiment"}
_SHAPES = {
    "": lambda x: x,
    "signed log": lambda x: np.sign(x) * np.log1p(np.abs(x)),
    "correlation": lambda x: x - x.mean(axis=1, keepdims=True),
}


def mechanism_tables(profiles: Profiles, shuffles: int = SHUFFLES) -> str:
    """Return NSC and NSCB as given, nested over compounds, and by the baselines.

    Args:
        shuffles: draws of shuffled mechanisms.
    """
    rows = [("protocol", "profiles", "right", "share", "95 % over treatments", "over compounds")]
    lines = []
    ways = dict(_ways(profiles))
    for protocol, (measure, match, aim) in PROTOCOLS.items():
        pairs = {name: measure(x, profiles.wells) for name, x in ways.items()}
        table = pairs[FIRST][1]
        similarity = {name: pair[0] for name, pair in pairs.items()}
        left_out = single_batch_classes(table) if protocol == "NSCB" else ()
        nested = match_nested(similarity, table, left_out)
        draws = _shuffled(similarity, table, left_out, shuffles)
        given = match(profiles.x, profiles.wells)
        position = match(position_profiles(profiles.wells), profiles.wells)
        rows.append((protocol, FIRST, *_figures(given)))
        rows.append((protocol, "every choice nested over compounds", *_figures(nested)))
        rows.append((protocol, "position only", *_figures(position)))
        rows.append((protocol, f"shuffled, nested, {shuffles} draws", *_draw_figures(draws)))
        rows.append((protocol, "a random neighbour", "", f"{given.chance:.3f}", "", ""))
        lines.append(_choices(protocol, nested, aim))
    return "\n".join([markdown_table(pd.DataFrame(rows[1:], columns=rows[0])), "", *lines])


def _shuffled(
    similarity: dict[str, np.ndarray], table: pd.DataFrame, left_out: tuple[str, ...], draws: int
) -> list[float]:
    """The nested share with the mechanisms exchanged among compounds, of each draw."""
    wells = table.assign(role="treatment")
    return [
        match_nested(similarity, shuffled_mechanisms(wells, seed), left_out).table.right.mean()
        for seed in range(draws)
    ]


def _figures(match: Matches | NestedMatch) -> tuple[str, ...]:
    a = match.accuracy
    over = range_text(match.cluster_low, match.cluster_high, 3)
    return (
        f"{a.correct}/{a.total}",
        f"{a.value:.3f}",
        f"{a.low:.3f} .. {a.high:.3f}",
        over,
    )


def _draw_figures(shares: list[float]) -> tuple[str, ...]:
    low, high = np.percentile(shares, [2.5, 97.5])
    return "", f"{np.mean(shares):.3f}", f"{low:.3f} .. {high:.3f} (of a draw)", ""


def _choices(protocol: str, nested: NestedMatch, aim: int) -> str:
    """Say what was chosen, whether the aim is met, and what choosing by the scored would claim."""
    correct, total = nested.accuracy.correct, nested.accuracy.total
    counts = nested.table.groupby("way")["compound"].nunique().sort_values(ascending=False)
    chosen = "; ".join(f"{way} ({count})" for way, count in counts.items())
    best = max(nested.each, key=lambda name: nested.each[name])
    verdict = "is met" if correct >= aim else "is missed"
    return (
        f"- {protocol}: {aim}/{total}, the aim set beforehand, {verdict} ({correct}/{total}). "
        f"Chosen among {len(nested.each)} ways, with the number of compounds: {chosen}. "
        "The best way chosen by the scored treatments themselves is no result: "
        f"{nested.each[best]:.0f}/{total} ({best})."
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
        sphered = sphere(x, wells, "negative_controls", "ZCA", strength)
        ways.append((f"sphered {strength:g}", sphered))
    return ways

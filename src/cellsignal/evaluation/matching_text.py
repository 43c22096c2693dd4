"""Show the matches of NSC and NSCB as text."""

from collections.abc import Sequence

import pandas as pd

from cellsignal.common.tables import aligned
from cellsignal.evaluation.matching import Matches
from cellsignal.metrics.intervals import plural, range_text

NSCB_NOTE = (
    "NSCB: a treatment on many batches (taxol) is compared on its wells outside the other's "
    "batches; DeepProfiler's notebook has another rule for taxol, so its figures may differ"
)


def moa_table(matches: Sequence[Matches]) -> pd.DataFrame:
    """Count for each MoA how many treatments each protocol got right, as "right/all".

    The cell is empty where a protocol does not score the class.
    """
    counts = {}
    for match in matches:
        right = match.table.groupby("moa").right
        counts[match.protocol] = right.agg(lambda column: f"{int(column.sum())}/{len(column)}")
    return pd.DataFrame(counts).fillna("").rename_axis("moa").sort_index().reset_index()


def match_text(matches: Sequence[Matches], baselines: Sequence[Matches] = ()) -> str:
    """Show the protocols with their intervals, the MoAs, and each treatment that is wrong.

    Of `baselines` only the counts and the intervals.
    """
    over = f"95 % over {plural('compound', matches[0].table['compound'].nunique())}"
    header = ("protocol", "right", "accuracy", "Wilson 95 %", over, "chance")
    lines = [(*header, "not scored")]
    wrong = [("wrong under", "treatment", "MoA", "neighbour", "its MoA", "cosine")]
    notes = []
    for match in matches:
        lines.append(_figures(match))
        for row in match.table[~match.table.right].itertuples():
            neighbour = ("none to choose from", "", "")
            if row.candidates:
                neighbour = (row.neighbour, row.predicted, f"{row.similarity:.3f}")
            wrong.append((match.protocol, row.treatment, row.moa, *neighbour))
        tied = int((match.table.tied > 1).sum())
        if tied:
            notes.append(
                f"{match.protocol}: {tied} of {len(match.table)} treatments have several equally "
                "near neighbours; one was drawn"
            )
    lines += map(_figures, baselines)
    if any(match.protocol == "NSCB" for match in matches):
        notes.append(NSCB_NOTE)
    by_moa = moa_table(matches)
    moa_lines = [tuple(by_moa), *by_moa.itertuples(index=False, name=None)]
    parts = [aligned(lines, {1, 2, 5}), aligned(moa_lines, set(range(1, by_moa.shape[1])))]
    if len(wrong) > 1:
        parts.append(aligned(wrong, right={5}))
    if notes:
        parts.append("\n".join(notes))
    return "\n\n".join(parts)


def _figures(match: Matches) -> tuple[str, ...]:
    a = match.accuracy
    share = (f"{a.correct}/{a.total}", f"{a.value:.3f}", f"{a.low:.3f} .. {a.high:.3f}")
    over_compounds = range_text(match.cluster_low, match.cluster_high, 3)
    left_out = ", ".join(match.left_out)
    return (match.protocol, *share, over_compounds, f"{match.chance:.3f}", left_out)

"""Write the quality of plates for a terminal, and the list of what stands out."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cellsignal.common.tables import aligned
from cellsignal.quality.measuring import CELLS
from cellsignal.quality.tables import CORNERS, LARGEST_P, SMALLEST_EFFECT, Quality

SHOWN = 20  # plates, and wells, that are printed
EXCLUDE_COLUMNS = ("well_id", "experiment", "plate", "well", "reason")
_PLATE = ["experiment", "plate"]


def quality_text(quality: Quality, what: str, nuclei: str | None) -> str:
    """Write the plates, the controls, the rule, and what stands out.

    Args:
        what: was measured, in words.
        nuclei: the channel in which nuclei were counted.
    """
    wells, plates = quality.wells, quality.plates
    n_plates = len(plates.drop_duplicates(_PLATE))
    head = f"{int(wells.sites.sum()):,} sites of {len(wells):,} wells on {n_plates} plates; {what}"
    count = f"cells: nuclei counted in {nuclei!r} by a threshold, an estimate; mean of a well's "
    count += "sites"
    if nuclei is None:
        count = "cells: not counted, no channel is named like one of nuclei; --nuclei names it"
    parts = [f"{head}\n{count}", _plate_lines(quality), _control_lines(quality.controls)]
    return "\n\n".join(part for part in [*parts, quality.rule.text(), _standing(quality)] if part)


def exclusion_table(quality: Quality, kinds: Sequence[str]) -> pd.DataFrame:
    """Return the wells to leave out, `EXCLUDE_COLUMNS`: what `data.exclude` takes.

    Args:
        kinds: "wells": those that stand out; "plates": all wells of plates that do.
    """
    wells = quality.wells
    reason = wells.stands_out if "wells" in kinds else pd.Series("", index=wells.index)
    if "plates" in kinds:
        of_plate = standing_plates(quality.plates)
        names = pd.MultiIndex.from_frame(wells[_PLATE])
        plate = pd.Series(of_plate.reindex(names).fillna("").to_numpy(), index=wells.index)
        plate = plate.where(plate == "", "plate: " + plate)
        joined = (reason + "; " + plate).str.removeprefix("; ").str.removesuffix("; ")
        reason = joined.astype(object)
    table = wells.assign(reason=reason)[list(EXCLUDE_COLUMNS)]
    return table[table.reason != ""].reset_index(drop=True)


def standing_plates(plates: pd.DataFrame) -> pd.Series:
    """Return why each plate that stands out does, indexed by experiment and plate."""
    out = plates[plates.stands_out != ""]
    names = [
        f"{measure if channel == measure else f'{channel} {measure}'} {reason}"
        for channel, measure, reason in zip(out.channel, out.measure, out.stands_out, strict=True)
    ]
    index = [out[column] for column in _PLATE]
    return pd.Series(names, index=out.index, dtype=object).groupby(index).agg("; ".join)


def _plate_lines(quality: Quality) -> str:
    plates = quality.plates
    out = standing_plates(plates)
    wells_out = quality.wells[quality.wells.stands_out != ""].groupby(_PLATE).size()
    best = quality.controls.groupby(_PLATE).z_prime.max()
    header = ("experiment", "plate", "wells", "cells", "focus", "saturated", "background")
    lines = [(*header, "corner/centre", "row", "column", "Z'", "wells out", "")]
    names = sorted(plates.groupby(_PLATE).groups, key=lambda name: (name not in out.index, name))
    by_plate = dict(tuple(plates.groupby(_PLATE)))
    for name in names[:SHOWN]:
        rows = by_plate[name]
        by = rows.groupby("measure")["median"]
        figures = (
            _number(by.max().get(CELLS, np.nan), ".0f"),
            _number(by.min().get("focus_slope", np.nan), ".2f"),
            _number(by.max()["saturated"], ".4f"),
            _number(by.max()["background"], ".1f"),
            _number(by.min().get(CORNERS, np.nan), ".2f"),
            *(_largest(rows, kind) for kind in ("row", "column")),
            _number(best.get(name, np.nan), ".2f"),
            str(wells_out.get(name, 0)),
        )
        mark = "stands out" if name in out.index else ""
        lines.append((*map(str, name), str(rows.wells.iloc[0]), *figures, mark))
    text = aligned(lines, right=set(range(2, 12)))
    more = len(names) - SHOWN
    note = (
        f"{f'... and {more} more; ' if more > 0 else ''}focus: the lowest slope of a channel; "
        "saturated, background: the highest; corner/centre: the lowest;\n"
        f"row, column: the largest effect with p <= {LARGEST_P:g}, in SDs of the wells without it; "
        "Z': of the best readout, chosen on the plate itself"
    )
    return f"{text}\n{note}"


def _largest(rows: pd.DataFrame, kind: str) -> str:
    effects = rows[f"{kind}_effect"][rows[f"{kind}_p"] <= LARGEST_P + 1e-9]
    return _number(effects.max() if len(effects) else np.nan, ".1f")


def _number(value: float, form: str) -> str:
    return "" if pd.isna(value) else f"{value:{form}}"


def _control_lines(controls: pd.DataFrame) -> str:
    """Write the readouts with the best median Z' over plates, and why others have none."""
    if controls.empty:
        return "Z', SSMD: no plate has both positive and negative controls"
    pooled = controls[controls.positive == "all"]
    known = pooled[pooled.z_prime.notna()]
    lines = []
    if len(known):
        by = known.groupby(["channel", "measure"])
        table = by.agg(z=("z_prime", "median"), ssmd=("ssmd", "median"), n=("z_prime", "size"))
        rows = [("readout", "median Z'", "median SSMD", "plates")]
        for name, row in table.sort_values("z", ascending=False).head(5).iterrows():
            readout = name[0] if name[0] == name[1] else " ".join(name)
            rows.append((readout, f"{row.z:.2f}", _number(row.ssmd, ".2f"), str(int(row.n))))
        lines.append(aligned(rows, right={1, 2, 3}))
    reasons = pooled.reason[pooled.reason != ""].value_counts()
    lines += [
        f"Z' or SSMD has no value in {count} of {len(pooled)} readouts of plates: {reason}"
        for reason, count in reasons.head(3).items()
    ]
    return "\n".join(lines)


def _standing(quality: Quality) -> str:
    """List the plates and wells that stand out."""
    plates = standing_plates(quality.plates)
    out = quality.wells[quality.wells.stands_out != ""]
    lines = [
        f"row and column effects stand out from {SMALLEST_EFFECT:g} SD with p <= {LARGEST_P:g} "
        "(99 exchanges of the wells)",
        "",
        f"{len(plates)} plates stand out",
    ]
    lines += [f"  {' '.join(map(str, name))}: {_cut(why)}" for name, why in plates.items()][:SHOWN]
    lines.append(f"{len(out)} of {len(quality.wells)} wells stand out")
    out = out.reindex(out.worst_z.abs().sort_values(ascending=False).index)
    lines += [f"  {row.well_id} ({row.role}): {_cut(row.stands_out)}" for row in out.itertuples()][
        :SHOWN
    ]
    if len(out) > SHOWN:
        lines.append(f"  ... and {len(out) - SHOWN} more")
    return "\n".join(lines)


def _cut(text: str, parts: int = 3) -> str:
    words = text.split("; ")
    more = f"; and {len(words) - parts} more" if len(words) > parts else ""
    return "; ".join(words[:parts]) + more

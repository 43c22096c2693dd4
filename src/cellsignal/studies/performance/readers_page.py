"""The page of `cellsignal study readers`: what was measured, and who is beaten at how much disk."""

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from cellsignal.studies.pages import head_lines, machine, row_text
from cellsignal.studies.performance.packed import SITES, packed_plates
from cellsignal.studies.performance.readers import LIBRARIES, OURS, OURS_NEW, OWN, missing
from cellsignal.studies.performance.readers_bench import WORKERS, Plan, bench_readers

# column -> its name in the tables
MILLISECONDS = {
    "ordered": "whole",
    "random": "random sites",
    "half": "half crop",
    "quarter": "quarter crop",
    "cold": "cold",
}
RATES = {f"t{n}": f"{n} thread{'s' * (n > 1)}" for n in WORKERS}
RATES |= {f"p{n}": f"{n} process{'es' * (n > 1)}" for n in WORKERS}
LABELS = ("reader", "codec", "layout")
ABOUT = f"""The code is `cellsignal.studies.performance.readers`.

The same images in this project's stores and as zarr arrays of other codecs, read by several
libraries in turn, round by round; before that every reader had to return every pixel.
`{OURS}` reads into a buffer that is used again, as this project's loader does; `{OURS_NEW}` into a
new array for each site, as the others do: much of the time is then the system's, which makes its
pages. "{OWN}" is the very files that `{OURS}` reads. Crops lie at random places. "Cold" is after
the system was asked to forget the files' pages: the disk decides.

Milliseconds are medians for a site, sites a second medians over rounds; `disk` is relative to the
PNGs of that size."""
VERDICT = """The verdict sets each row of the others beside *one* codec of ours: of those that take
no more disk the one that reads whole sites fastest. Figures say how many times as fast ours is in
that way of reading; `new array`: whole sites into a new array each. A row is met if
every figure but `new array` is 1.00 or more."""


def readers_page(root: Path | None, sizes: Sequence[int], plan: Plan, command: str) -> str:
    """Measure on a data set's sites, or simulated ones.

    Args:
        root: RxRx1's folder, of which the first sites that are there are used; None simulates some.
        sizes: sides in pixels; empty: that of the files, and half of it. The time is shared by
            pixels.
        command: that made the page.

    Raises:
        InputError: no site of which all files are there.
    """
    cv2.setNumThreads(1)
    with packed_plates(root, SITES) as sample:
        sites = [
            tuple(str(sample.root / name) for name in names) for names in sample.store.samples.files
        ]
        side = sample.store.shape[1]
        sizes = sizes or (side, side // 2)
        kind = "simulated" if root is None else "real"
        parts = ["# Readers", ABOUT, f"    {command}"]
        parts.append(f"{machine()}. {len(sites)} {kind} sites of RxRx1, six channels.")
        total = sum(size**2 for size in sizes)
        for size in sizes:
            share = dataclasses.replace(plan, minutes=plan.minutes * size**2 / total)
            table = bench_readers(sites, None if size == side else size, share)
            parts.append(f"## {size} px\n\n{readers_text(table)}")
    return "\n\n".join(parts) + "\n"


def command_of(words: Sequence[str]) -> str:
    """Write the command of the page, without where it went."""
    return shlex.join(["cellsignal", "study", "readers", *words])


def readers_text(table: pd.DataFrame) -> str:
    """Write a table of `bench_readers` in Markdown, who is not here, and who is not beaten."""
    absent = [f"- {name}: {missing(name)}." for name in LIBRARIES if missing(name)]
    parts = [_measured(table), VERDICT, *_verdict(table), _threads(table), "\n".join(absent)]
    return "\n\n".join(filter(None, parts))


def _measured(table: pd.DataFrame) -> str:
    times = [name for name in MILLISECONDS if name in table]
    rates = [name for name in RATES if name in table]
    head = [*LABELS, "disk", *(f"{MILLISECONDS[name]}, ms" for name in times)]
    head += [*(["least, ms", "x cv2"] if times else []), *(f"{RATES[name]}, /s" for name in rates)]
    lines = head_lines(head)
    cv2_row = table[table.library == "cv2"].iloc[0]
    for row in table.to_dict("records"):
        cells = [row["library"], row["codec"], row["layout"], f"{row['disk']:.2f}"]
        cells += [f"{row[name]:.3g}" for name in times]
        if times:
            cells += [f"{row['least']:.3g}", f"{cv2_row['ordered'] / row['ordered']:.3g}"]
        lines.append(row_text([*cells, *(f"{row[name]:,.0f}" for name in rates)]))
    return "\n".join(lines)


def _verdict(table: pd.DataFrame) -> list[str]:
    """Return the table of ratios, and a line for each row that is not met."""
    ways = [name for name in (*MILLISECONDS, *RATES) if name in table]
    if not ways:
        return []
    names = MILLISECONDS | RATES
    new = ["new array"] if "ordered" in ways else []
    lines = head_lines(
        [*LABELS, "disk", "ours", "disk", *(names[way] for way in ways), *new, "met"]
    )
    others = table[~table.library.isin([OURS, OURS_NEW, "cv2"])]
    met, faster = 0, []
    for row in others.to_dict("records"):
        ours = _fitting(table, row["disk"])
        about = [row["library"], row["codec"], row["layout"], f"{row['disk']:.2f}"]
        if ours is None:
            lines.append(row_text([*about, "none", *[""] * (len(ways) + len(new) + 1), "no"]))
            continue
        ratios = {way: _ratio(ours, row, way) for way in ways}
        good = all(round(ratio, 2) >= 1 for ratio in ratios.values())
        fresh = _row(table, OURS_NEW, ours["codec"])
        cells = [*about, ours["codec"], f"{ours['disk']:.2f}"]
        cells += [f"{ratio:.2f}" for ratio in ratios.values()]
        cells += [f"{_ratio(fresh, row, 'ordered'):.2f}"] if new else []
        lines.append(row_text([*cells, "yes" if good else "**no**"]))
        met += good
        if not good:
            faster.append(_not_met(table, row, ours, {names[way]: ratios[way] for way in ways}))
    head = f"{met} of {len(others)} rows are met."
    return ["\n".join(lines), "\n".join([head, *([""] if faster else []), *faster])]


def _fitting(table: pd.DataFrame, disk: float) -> dict | None:
    """Return the row of ours that is fastest for whole sites, of those that take no more disk."""
    ours = table[(table.library == OURS) & (table.disk <= disk)]
    if ours.empty:
        return None
    first = "ordered" if "ordered" in table else next(name for name in RATES if name in table)
    best = np.argmin(ours[first]) if first == "ordered" else np.argmax(ours[first])
    return ours.iloc[best].to_dict()


def _row(table: pd.DataFrame, library: str, codec: str) -> dict:
    return table[(table.library == library) & (table.codec == codec)].iloc[0].to_dict()


def _ratio(ours: dict, theirs: dict, way: str) -> float:
    """Return how many times as fast ours is."""
    if way in MILLISECONDS:
        return theirs[way] / ours[way]
    return ours[way] / theirs[way]


def _not_met(table: pd.DataFrame, row: dict, ours: dict, ratios: dict[str, float]) -> str:
    """Say in which ways a row is faster, and what ours has for the least more disk."""
    name = ", ".join(filter(None, (row["library"], row["codec"], row["layout"])))
    slow = "; ".join(f"{way} {ratio:.2f}" for way, ratio in ratios.items() if round(ratio, 2) < 1)
    text = f"- {name} (disk {row['disk']:.3f}) against {ours['codec']} ({ours['disk']:.3f}): {slow}"
    larger = table[(table.library == OURS) & (table.disk > row["disk"])].sort_values("disk")
    if larger.empty:
        return f"{text}."
    first = "ordered" if "ordered" in table else next(way for way in RATES if way in table)
    other = larger.iloc[0].to_dict()
    more = 100 * (other["disk"] / row["disk"] - 1)
    return (
        f"{text}. With {more:.1f} % more disk ours is {other['codec']}: "
        f"{(MILLISECONDS | RATES)[first]} {_ratio(other, row, first):.2f}."
    )


def _threads(table: pd.DataFrame) -> str:
    if "t2" not in table:
        return ""
    ours = table[table.library == OURS].to_dict("records")
    ratios = ", ".join(f"{row['codec']} {row['t2'] / row['t1']:.2f}" for row in ours)
    others = table[table.library.isin(LIBRARIES)].assign(ratio=lambda t: t.t2 / t.t1)
    best = others.groupby("library", sort=False).ratio.max()
    theirs = ", ".join(f"{name} {ratio:.2f}" for name, ratio in best.items())
    text = f"Two threads read this many times what one reads: ours {ratios}"
    return f"{text}; the best of the others {theirs}." if theirs else f"{text}."

"""Say what a packing has packed and left out: a report, counts by reason, and a compressed list.

A store of a few images of a large data set leaves out most of its sites. So `store.json` counts
them by reason, and `left_out.csv.gz` beside it lists them, with the files, sites and wells that are
in no sample. Stores up to format 2 have the list in `store.json`, and those of `skipped` alone.
"""

import csv
import io
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.files import digest, write_json
from cellsignal.data import store_files as stored
from cellsignal.data.journal import Entry
from cellsignal.data.store_description import FORMAT, how_to_rewrite_table
from cellsignal.data.store_files import read_gzip, write_gzip

CANNOT_BE_USED = "an image that cannot be used: "
_COLUMNS = ("reason", "name", "message")
# (reason, name, message): a sample that was skipped; without a message, what is in no sample
Row = tuple[str, str, str]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PackReport:
    """What a store holds.

    Attributes:
        n_packed: sites in the store.
        skipped: (sample_id, why) of the sites that could not be read.
        flat: (sample_id, channel) of the packed channels in which all pixels are the same.
        reasons: the kind of each of `skipped`, in one or two words: "missing", "wrong size".
    """

    n_packed: int
    skipped: tuple[tuple[str, str], ...]
    flat: tuple[tuple[str, str], ...]
    reasons: tuple[str, ...] = ()

    def counts_text(self) -> str:
        """Return the skipped sites by reason, "3 missing, 1 truncated"; "" without one."""
        return ", ".join(f"{count} {why}" for why, count in Counter(self.reasons).most_common())


def report_entries(
    entries: dict[int, Entry], samples: pd.DataFrame, channels: Sequence[str]
) -> PackReport:
    """Return the report of a packing whose finished rows are `entries`."""
    ids, in_order = samples.sample_id, [entries[row] for row in sorted(entries)]
    packed = [entry for entry in in_order if entry["status"] == stored.PACKED]
    skipped = [entry for entry in in_order if entry["status"] == stored.SKIPPED]
    flat = [
        (ids[entry["row"]], name)
        for entry in packed
        for name, sd in zip(channels, entry["sd"], strict=True)
        if sd == 0
    ]
    messages = tuple((ids[entry["row"]], entry["message"]) for entry in skipped)
    reasons = tuple(entry["reason"] for entry in skipped)
    return PackReport(len(packed), messages, tuple(flat), reasons)


def list_left_out(report: PackReport, others: Sequence[tuple[str, str]]) -> list[Row]:
    """Return all that is not in a store: skipped samples, then (reason, name) of the others."""
    sites = [
        (CANNOT_BE_USED + why, sample_id, message)
        for why, (sample_id, message) in zip(report.reasons, report.skipped, strict=True)
    ]
    return sites + [(reason, name, "") for reason, name in others]


def write_left_out(out: Path, rows: Sequence[Row]) -> dict[str, Any]:
    """Write the list; return what `store.json` says of it."""
    text = _text(rows)
    write_gzip(out / stored.LEFT_OUT, text)
    return _describe(rows, text)


def describe_left_out(rows: Sequence[Row]) -> dict[str, Any]:
    """Return what `store.json` says of the list."""
    return _describe(rows, _text(rows))


def update_left_out(out: Path, info: dict[str, Any], rows: Sequence[Row], samples: str) -> None:
    """Bring the list of a complete store up to date, and a store of format 2 to today's format.

    A samples table that is lost or damaged is written anew.

    A store whose images are up to date may lie where nothing can be written: that is a warning.

    Args:
        info: what `store.json` says.
        rows: what is not in the store.
        samples: the samples table, as `store_files.samples_text` writes it.
    """
    described = _describe(rows, _text(rows))
    if all(info.get(key) == value for key, value in described.items()):
        try:
            stored.read_samples_text(out, info)
            if list(read_left_out(out, info)) == list(rows):
                return
        except InputError:
            pass  # lost or damaged: it is written anew
    kept = {key: value for key, value in info.items() if key != "skipped"}
    try:
        stored.write_samples(out, samples)
        current = {**kept, **write_left_out(out, rows), "format": FORMAT}
        write_json(out / stored.INFO, current)
        for old in (stored.OLD_SAMPLES, stored.OLD_LEFT_OUT):
            (out / old).unlink(missing_ok=True)
    except (InputError, OSError) as error:
        log.warning("%s: not brought up to date (%s)", out / stored.LEFT_OUT, error)


def read_left_out(path: Path, info: dict[str, Any]) -> tuple[Row, ...]:
    """Read what is not in a complete store.

    Raises:
        InputError: the list is not there, damaged, or not the one that `store.json` describes.
    """
    if "skipped" in info:  # format 2
        rows = ((item["sample_id"], item["message"]) for item in info["skipped"])
        return tuple((CANNOT_BE_USED.removesuffix(": "), *row) for row in rows)
    file = path / stored.LEFT_OUT
    try:
        text = read_gzip(file)
    except InputError as error:
        raise InputError(f"{error}; {how_to_rewrite_table(info)}") from None
    if digest(text) != info["left_out_sha256"]:
        raise InputError(
            f"{file}: is not the list that {stored.INFO} describes; {how_to_rewrite_table(info)}"
        )
    _, *rows = csv.reader(io.StringIO(text))
    return tuple(map(tuple, rows))


def skipped_samples(path: Path, info: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return (sample_id, why) of the sites of a complete store that could not be packed."""
    return tuple((name, why) for _, name, why in read_left_out(path, info) if why)


def skipped_entries(path: Path, info: dict[str, Any], rows: Mapping[str, int]) -> dict[int, Entry]:
    """Return the entries of a complete store's skipped rows.

    Args:
        rows: sample_id -> row.
    """
    return {
        rows[name]: {
            "row": rows[name],
            "status": stored.SKIPPED,
            "reason": reason.removeprefix(CANNOT_BE_USED),
            "message": message,
        }
        for reason, name, message in read_left_out(path, info)
        if message
    }


def _describe(rows: Sequence[Row], text: str) -> dict[str, Any]:
    counts = Counter(reason for reason, *_ in rows)
    return {"left_out": dict(counts), "left_out_sha256": digest(text)}


def _text(rows: Sequence[Row]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([_COLUMNS, *rows])
    return text.getvalue()

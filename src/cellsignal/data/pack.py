"""Pack image files into a store; each is read once, and a stopped packing resumes.

How a kill at any moment is survived:
- The store's description, `store.json`, is written first and says that it is unfinished.
- A worker writes a site's chunk to a temporary name and renames it; then it reports the row.
- The parent alone appends the row to the journal: one checksummed line. A torn line is dropped.
- A rerun keeps the journal's rows whose chunk lies there in its full length, and packs the others.
- When all rows are in, the journal is folded into the arrays, everything is flushed to the disk,
  and `store.json` is replaced by one that says complete. A kill before that means folding again.

A signal or the end of the time budget stops it where all that is done is in the journal. What a
site becomes depends on its files alone, so the store is the same as of an undisturbed packing.
"""

import functools
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from cellsignal import __version__
from cellsignal.common.errors import ImageError, InputError
from cellsignal.common.files import digest, refuse_unwritable, write_json
from cellsignal.common.stopping import Stop
from cellsignal.competitions.base import Competition
from cellsignal.data import renewal
from cellsignal.data import store_files as stored
from cellsignal.data.codec import Layout, layout_of
from cellsignal.data.filling import ADVICE, Making, finish_rows, is_whole, read_entries
from cellsignal.data.journal import JOURNAL
from cellsignal.data.pack_place import check_place, create_folder, locked, refuse_other_store
from cellsignal.data.pack_report import PackReport
from cellsignal.data.renewal import Stamp, stamp_nothing, stamp_source
from cellsignal.data.shard_check import calibration_folder, report_shards
from cellsignal.data.sites import Read, read_site
from cellsignal.data.store_description import FORMAT, is_sharded

log = logging.getLogger(__name__)


def prepare(
    competition: Competition,
    root: Path | str,
    out: Path | str,
    *,
    samples: pd.DataFrame | None = None,
    size: int | None = None,
    bad_site: Literal["skip", "refuse"] = "skip",
    workers: int = 0,
    codec: Literal["auto", "zstd", "lz4", "raw"] = "auto",
) -> PackReport:
    """Pack a competition's samples into a store, or bring a store up to date.

    What is measured of whole plates is kept in the store's folder `calibration`. See `pack`.

    Args:
        samples: rows of the samples table; None packs all.
    """
    root, out = Path(root).absolute(), Path(out).absolute()
    samples = competition.samples(root) if samples is None else samples
    classes = competition.require_classes(root)
    with refuse_unwritable(out, ADVICE):
        check_place(out)
    with calibration_folder(out) as folder:
        competition = competition.calibrate(root, folder, workers)
        shape = competition.root_shape(root)
        return pack(
            samples,
            functools.partial(competition.read, root, shape=shape),
            out,
            channels=competition.channels_of(root),
            size=size,
            bad_site=bad_site,
            workers=workers,
            source={"competition": competition.id, "root": str(root), "classes": list(classes)},
            shape=shape,
            codec=codec,
            stamp=functools.partial(stamp_source, competition, root),
            made_from={
                "reading": competition.reading,
                "calibration": competition.calibration.hashes if competition.calibration else {},
            },
            left_out=competition.left_out(root),
        )


def pack(
    samples: pd.DataFrame,
    read: Read,
    out: Path | str,
    *,
    channels: tuple[str, ...],
    size: int | None = None,
    bad_site: Literal["skip", "refuse"] = "skip",
    workers: int = 0,
    source: dict[str, Any],
    shape: tuple[int, int] | None = None,
    codec: Literal["auto", "zstd", "lz4", "raw"] = "auto",
    stamp: Stamp = stamp_nothing,
    made_from: dict[str, Any] | None = None,
    left_out: Sequence[tuple[str, str]] = (),
) -> PackReport:
    """Pack samples into a store, resume an unfinished one, or bring a complete one up to date.

    Sites skipped earlier are tried again. Where packed sites are out of date a new store is made
    in the old one's folder and takes its place when it is whole (see `renewal`).

    Args:
        read: from a sample's files to (C, H, W) uint8; must pickle where workers > 0.
        out: absent, empty, or a store of the same source, channels, size and codec; or a link.
        size: resize to size x size pixels (area average, bilinear up); None keeps the size.
        bad_site: a site that cannot be read is left out, or ends the packing.
        source: what the samples come from; must equal the store's, but for `classes`.
        shape: (height, width) of the images; None takes that of the first readable one.
        codec: "auto" is raw up to 256 x 256 pixels, zstd above; lz4 is faster (see `codec`).
        stamp: from a sample's files and plate to the state of its source (see `renewal`).
        made_from: what else decides the pixels, by name; stamps must change with it.
        left_out: (reason, name) of what is in no sample; listed with the skipped sites.

    Raises:
        ImageError: a bad site, with bad_site="refuse"; what is packed is kept.
        InputError: `out` is something else, the disk is full, no site is readable, another process
            packs into `out`, or packed sites would be lost.
        Interrupted: stopped by a signal or the time budget; what is packed is kept.
    """
    out = Path(out).absolute()
    text = stored.samples_text(samples)
    samples = stored.parse_samples(text, "samples to pack")
    if samples.empty:
        raise InputError(f"{out}: there are no samples to pack")
    shape, joined = _begun(out, shape if size is None else (size, size))
    shape = shape or _first_shape(samples, read, bad_site)
    layout = layout_of(codec, (len(channels), *shape), joined)
    info = _describe(source, channels, layout, size, len(samples), text, made_from or {})
    making = Making(info, layout, text, samples, read, stamp, bad_site, workers, left_out)
    return _pack_locked(out, making)


def _describe(
    source: dict[str, Any],
    channels: tuple[str, ...],
    layout: Layout,
    size: int | None,
    n_samples: int,
    samples_text: str,
    made_from: dict[str, Any],
) -> dict[str, Any]:
    """Return the description of a store that is not complete."""
    return {
        "format": FORMAT,
        "cellsignal": __version__,
        "source": dict(source),
        "channels": list(channels),
        "shape": list(layout.shape[1:]),
        "codec": layout.codec,
        "joined": layout.joined,
        "size": size,
        "n": n_samples,
        "samples_sha256": digest(samples_text),
        "made_from": {"packing": renewal.PACKING, **made_from},
        "complete": False,
    }


def _pack_locked(out: Path, making: Making) -> PackReport:
    """Pack into a folder that no other process packs into meanwhile."""
    with refuse_unwritable(out, ADVICE):
        check_place(out)
        create_folder(out)
        with locked(out), Stop() as stop:
            try:
                return _bring_up_to_date(out, making, stop)
            finally:
                # also where the worker processes died of the signal
                stop.raise_if_signalled(str(out))


def _bring_up_to_date(out: Path, making: Making, stop: Stop) -> PackReport:
    """Pack missing sites in place; make the store anew if packed ones have changed."""
    info, samples = making.info, making.samples
    renewal.finish(out)
    if not (out / stored.INFO).exists():
        _create(out, making)
    previous = stored.read_info(out)
    refuse_other_store(out, previous, info)
    if is_sharded(previous):
        return report_shards(out, previous, making)
    if not previous["complete"] and not (out / JOURNAL).exists():
        _create(out, making)  # nothing is packed yet; what is there may be half-made
        previous = info
    entries = {
        row: entry
        for row, entry in read_entries(out, previous).items()
        if entry["status"] == stored.PACKED and is_whole(out, entry)
    }
    plan = renewal.compare(out, previous, entries, info, samples, making.stamp)
    if plan.reasons and (
        previous["complete"] or previous["samples_sha256"] != info["samples_sha256"]
    ):
        log.warning("%s: %s", out, plan.text(len(samples)))
        following = out / stored.NEXT
        if not renewal.can_resume(following, info):
            shutil.rmtree(following, ignore_errors=True)
            following.mkdir()
            _create(following, making)
            renewal.take_over(out, following, plan.kept)
        fresh = {r: e for r, e in read_entries(following, info).items() if is_whole(following, e)}
        fresh = renewal.compare(following, info, fresh, info, samples, making.stamp).kept
        report = finish_rows(following, making, fresh, stop)
        renewal.finish(out)
        return report
    shutil.rmtree(out / stored.NEXT, ignore_errors=True)
    return finish_rows(out, making, plan.kept, stop)


def _begun(out: Path, shape: tuple[int, int] | None) -> tuple[tuple[int, int] | None, bool]:
    """Return (height, width) if known, and `joined`: a store goes on as it was begun."""
    info = stored.read_info(out) if (out / stored.INFO).is_file() else {"joined": True}
    return shape or info.get("shape"), bool(info.get("joined"))


def _first_shape(samples: pd.DataFrame, read: Read, bad_site: str) -> tuple[int, int]:
    first = None
    for files in samples.files:
        try:
            return read_site(read, files).shape[1:]
        except ImageError as error:
            if bad_site == "refuse":
                raise
            first = first or error
    raise InputError(f"none of the {len(samples)} sites can be read; the first: {first}")


def _create(out: Path, making: Making) -> None:
    """Make the empty store in an empty folder, whatever file system that is on.

    Its description is first, so that a folder half-made is known as ours.
    """
    write_json(out / stored.INFO, making.info)
    stored.create_arrays(out, making.info["n"], making.layout)
    stored.write_samples(out, making.text)

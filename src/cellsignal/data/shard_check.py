"""Hold a store of shards to its source's state, as `prepare` does it: nothing is packed there."""

import contextlib
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cellsignal.common.errors import InputError
from cellsignal.config.load import change_of
from cellsignal.data import renewal
from cellsignal.data import store_files as stored
from cellsignal.data.filling import Making, read_entries
from cellsignal.data.pack_report import PackReport, skipped_entries
from cellsignal.data.shard_files import SHARDS, read_shard_table
from cellsignal.data.store_description import is_sharded


@contextlib.contextmanager
def calibration_folder(out: Path) -> Iterator[Path]:
    """Yield where a store's plates are measured: there; of shards, which stay, in a copy."""
    folder = out / stored.CALIBRATION
    if not (out / stored.INFO).is_file() or not is_sharded(stored.read_info(out)):
        yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / stored.CALIBRATION
        if folder.is_dir():
            shutil.copytree(folder, copy)
        yield copy


def report_shards(out: Path, previous: dict[str, Any], making: Making) -> PackReport:
    """Return what a store of shards holds, if it is what would be packed now.

    Sites that could not be packed are not tried again: that is for the store with a file a site.

    Args:
        previous: what its `store.json` says.
        making: the store that would be made.

    Raises:
        InputError: it is unfinished, a shard is not there or is cut, or images or samples have
        changed.
    """
    again = f"run `cellsignal prepare` with --shards {out}"
    if not previous["complete"]:
        raise InputError(f"{out}: its shards are not all written; {again} to go on")
    refuse_cut_shards(out, previous)
    stored.read_samples_text(out, previous)  # refused where it is lost or damaged
    entries = read_entries(out, previous)
    plan = renewal.compare(out, previous, entries, making.info, making.samples, making.stamp)
    # what an early version made has no word on its image files
    is_early = "made_from" not in previous and len(plan.kept) == len(entries)
    same_samples = previous["samples_sha256"] == making.info["samples_sha256"]
    if plan.reasons and not (is_early and same_samples):
        source = _options_of_source(previous)
        raise InputError(
            f"{out}: its shards are out of date ({'; '.join(plan.reasons)}); run `cellsignal "
            f"prepare` for the store that they were made from ({source}), then "
            f"the same with --shards {out}"
        )
    rows = {name: row for row, name in enumerate(making.samples.sample_id)}
    return making.report(entries | skipped_entries(out, previous, rows))


def refuse_shards(store: Path) -> None:
    """Raise `InputError` if there is a store of shards, which is not packed in parts."""
    if (store / stored.INFO).is_file() and is_sharded(info := stored.read_info(store)):
        raise InputError(
            f"{store}: is made of shards; parts are packed for the store that they were made from "
            f"({_options_of_source(info)})"
        )


def _options_of_source(info: dict[str, Any]) -> str:
    """Return the options by which a command reads the store that shards were made from."""
    return shlex.join(["--set", change_of("data.store", info["shards"]["made_from"])])


def refuse_cut_shards(out: Path, info: dict[str, Any]) -> None:
    """Raise `InputError` if a shard is not there in its full size; no shard is read."""
    for name, size in read_shard_table(out, info)[["file", "bytes"]].itertuples(index=False):
        file = out / SHARDS / name
        try:
            found = os.stat(file).st_size
        except FileNotFoundError:
            found = None
        if found != size:
            why = "is not there" if found is None else f"has {found} bytes, {size} were written"
            raise InputError(
                f"{file}: {why}; run `cellsignal prepare CONFIG --shards {out}` to write it anew"
            )

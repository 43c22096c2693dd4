"""Keep the tables and arrays of a remote store in a local folder, and read them there.

`store.json` is fetched each time that a store is opened; the rest once, into a folder named by the
URL and by what `store.json` says, so a store that was packed anew is another folder. The hashes in
`store.json` check each reading; a copy that was damaged is fetched anew.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import zarr

from cellsignal.common.errors import InputError
from cellsignal.common.files import digest
from cellsignal.common.places import RemoteFolder
from cellsignal.data.pack_report import read_left_out
from cellsignal.data.shard_files import TABLE, Shards, read_shards
from cellsignal.data.store_description import is_sharded
from cellsignal.data.store_files import (
    ARRAYS,
    IMAGES,
    INFO,
    LEFT_OUT,
    OLD_SAMPLES,
    SAMPLES,
    SHARD_ARRAYS,
    read_arrays,
    read_info,
    read_samples,
)
from cellsignal.data.transfer import Transfer

TABLES = "tables"
Result = TypeVar("Result")
Tables = tuple[dict[str, np.ndarray], pd.DataFrame, Shards | None]


def cache_folder() -> Path:
    """Return the folder of local copies: CELLSIGNAL_CACHE, or `cellsignal` where caches lie."""
    given = os.environ.get("CELLSIGNAL_CACHE")
    if given:
        return Path(given).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cellsignal"


def key_of(place: RemoteFolder, info: dict[str, Any]) -> str:
    """Return the name of the local copies of a store: it changes when the store does."""
    return f"{place.name}-{digest([place.url, info])[:20]}"


def read_remote_info(place: RemoteFolder) -> dict[str, Any] | None:
    """Return what a remote `store.json` says now; None if there is none.

    Raises:
        InputError: it cannot be fetched, or is something else.
    """
    with _new_folder() as folder:
        return _fetch_info(Transfer(place), folder)


def fetch_tables(
    place: RemoteFolder,
) -> tuple[dict[str, Any], dict[str, np.ndarray], pd.DataFrame, Shards | None, Path]:
    """Return info, arrays, samples and places of the sites of a remote store.

    The last is the local folder that holds them now.

    Raises:
        InputError: there is no store, its packing is unfinished, a file cannot be fetched or is not
        what `store.json` describes.
    """
    transfer = Transfer(place)
    with _new_folder() as temporary:
        info = _fetch_info(transfer, temporary)
        if info is None:
            raise InputError(
                f"{place}: there is no store (no {INFO} there); pack one locally with `cellsignal "
                "prepare` and copy its folder there"
            )
        if not info["complete"]:
            raise InputError(
                f"{place}: packing is unfinished; finish it where it was begun and copy the store "
                "anew"
            )
        folder = cache_folder() / TABLES / key_of(place, info)
        if folder.is_dir():
            with contextlib.suppress(InputError):
                return info, *_read(folder, info), folder
            shutil.rmtree(folder, ignore_errors=True)  # a copy that was damaged since
        _fetch(transfer, temporary)
        tables = _named(place, temporary, lambda: _read(temporary, info))
        # another process may have been faster; both copies are whole
        with contextlib.suppress(OSError):
            os.rename(temporary, folder)
    return info, *tables, folder


def _fetch_info(transfer: Transfer, folder: Path) -> dict[str, Any] | None:
    try:
        transfer.save(INFO, str(folder / INFO))
    except FileNotFoundError:
        return None
    return _named(transfer.place, folder, lambda: read_info(folder))


def _read(folder: Path, info: dict[str, Any]) -> Tables:
    arrays = read_arrays(folder, info)
    read_left_out(folder, info)  # what was fetched of it is held to its hash, too
    return arrays, read_samples(folder, info), read_shards(folder, info, arrays)


def _fetch(transfer: Transfer, folder: Path) -> None:
    """Fetch the files of a store but its images and `store.json`; zarr leaves out zero chunks."""
    info = read_info(folder)
    tables = (OLD_SAMPLES,) if info["format"] == 2 else (SAMPLES, LEFT_OUT)
    images = TABLE if is_sharded(info) else f"{IMAGES}/zarr.json"
    for name in (*tables, "zarr.json", images):
        try:
            _save(transfer, name, folder)
        except FileNotFoundError:
            raise InputError(
                f"{transfer.place}/{name}: is not there; copy the whole folder of the store"
            ) from None
    for name in (*ARRAYS, "stamp", *(SHARD_ARRAYS if is_sharded(info) else ())):
        with contextlib.suppress(FileNotFoundError):
            _save(transfer, f"{name}/zarr.json", folder)
            array = zarr.open_array(folder / name, mode="r")
            chunk = array.metadata.encode_chunk_key((0,) * array.ndim)
            _save(transfer, f"{name}/{chunk}", folder)


def _save(transfer: Transfer, name: str, folder: Path) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    transfer.save(name, str(folder / name))


@contextlib.contextmanager
def _new_folder() -> Iterator[Path]:
    """Make a temporary folder where the tables are kept; remove it, if it is still there."""
    tables = cache_folder() / TABLES
    try:
        tables.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".new-", dir=tables))
    except OSError as error:
        raise InputError(
            f"{tables}: cannot be written ({error.strerror}); name a folder for local copies of "
            "remote stores in CELLSIGNAL_CACHE"
        ) from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _named(place: RemoteFolder, folder: Path, read: Callable[[], Result]) -> Result:
    """Call `read`; its errors then name the URL in place of the local copy."""
    try:
        return read()
    except InputError as error:
        raise InputError(str(error).replace(str(folder), str(place))) from None

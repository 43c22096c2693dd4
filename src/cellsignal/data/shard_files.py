"""Find a site in a store of shards: few large files in place of a file a site.

The sites' files lie in a shard as they are, one after another, without anything between. A store of
shards has all that `store_files` describes but `images/`, which zarr would show as black, and

    shards/     the files, `<experiment>_<plate>_<hash>`: other bytes have another name, so that no
                reader mixes the two
    shards.csv.gz   the shards by number: file, sites, bytes, sha256, and `key`, the hash of
                what a shard is made of: ids, checksums of the pixels, lengths
    shard       (N,) uint32, number of the shard that holds a row's site
    offset      (N,) uint64, where in the shard its file begins, bytes
    length      (N,) uint32, bytes of its file; 0 where nothing is packed

`store.json` says format 5, which earlier versions refuse, and under `shards` the hash of their
table, how many there are, the limit of their size and the store that they were made from.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.files import digest
from cellsignal.common.tables import parse_integers, read_table
from cellsignal.data.store_description import how_to_renew, is_sharded
from cellsignal.data.store_files import read_gzip

SHARDS, TABLE = "shards", "shards.csv.gz"
COLUMNS = ("file", "sites", "bytes", "sha256", "key")


@dataclass(frozen=True, eq=False)
class Shards:
    """Where the sites of a store are.

    Attributes:
        files: the shards' names in the store's folder, by number.
        shard, offset, length: (N,) by row.
    """

    files: tuple[str, ...]
    shard: np.ndarray
    offset: np.ndarray
    length: np.ndarray

    def place(self, row: int) -> tuple[str, int, int]:
        """Return the shard of a row's site, and offset and length of its file there, in bytes.

        Raises:
            InputError: nothing is packed in that row.
        """
        if not 0 <= row < len(self.length) or not self.length[row]:
            raise InputError(f"row {row} holds no image (no shard has it)")
        file = f"{SHARDS}/{self.files[self.shard[row]]}"
        return file, int(self.offset[row]), int(self.length[row])


def read_shards(path: Path, info: dict[str, Any], arrays: dict[str, np.ndarray]) -> Shards | None:
    """Return where the sites are; None of a store that has a file a site.

    Args:
        arrays: of `store_files.read_arrays`.

    Raises:
        InputError: the shards' table is damaged, or does not fit the arrays.
    """
    if not is_sharded(info):
        return None
    table = read_shard_table(path, info)
    packed = arrays["length"] > 0
    ends = arrays["offset"] + arrays["length"]
    numbers = arrays["shard"][packed]
    if (
        numbers.max(initial=0) >= len(table)
        or (ends[packed] > table.bytes.to_numpy(np.uint64)[numbers]).any()
    ):
        raise InputError(f"{path / TABLE}: does not fit the arrays beside it; {how_to_renew(info)}")
    return Shards(tuple(table.file), *(arrays[name] for name in ("shard", "offset", "length")))


def read_shard_table(path: Path, info: dict[str, Any]) -> pd.DataFrame:
    """Read the table of the shards.

    Raises:
        InputError: it is not there, damaged, or not the one that `store.json` describes.
    """
    try:
        text = read_gzip(path / TABLE)
    except InputError as error:
        raise InputError(f"{error}; {how_to_renew(info)}") from None
    if digest(text) != info["shards"]["table_sha256"]:
        raise InputError(
            f"{path / TABLE}: is not the table that store.json describes; {how_to_renew(info)}"
        )
    table = read_table(path / TABLE, COLUMNS)
    numbers = {name: parse_integers(path / TABLE, table, name, 1) for name in ("sites", "bytes")}
    return table.assign(**numbers).reset_index(drop=True)

"""Read and write the files of a store.

Every site of a data set is decoded once, into one folder that any zarr v3 reader opens.

    images/     (N, C, H, W) uint8, one file a site (`images/c.<row>.0.0.0`), compressed or raw
    mean, sd    (N, C) float32, grey levels: each stored channel's mean and population SD; NaN where
                nothing is packed
    checksum    (N,) uint32, crc32 of the raw pixels
    status      (N,) uint8: 0 pending, 1 packed, 2 skipped
    stamp       (N,) uint64: state of a packed row's source files; absent in older stores
    samples.csv.gz  the samples table, row by row as in the arrays (`files` as a JSON list)
    left_out.csv.gz what is not in the store, and why (see `pack_report`)
    store.json  what it was made from, how much was left out by reason, and whether it is complete
    journal     only while packing: one line for each finished row (see `journal`)
    calibration/ what a competition has measured of whole plates (`Competition.calibrate`)
    .next/      only while a complete store is being renewed

Format 2, which is still read, had the table as `samples.csv` and the list in `store.json`. Format 4
is a store of shards, which has no `images/` (see `shard_files`).
"""

import contextlib
import gzip
import io
import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from cellsignal.common.errors import InputError
from cellsignal.common.files import atomic_path, digest
from cellsignal.competitions.samples import ADDED, COLUMNS, check_samples
from cellsignal.data.codec import LZ4, Layout, RowDelta, encode, layout_of
from cellsignal.data.store_description import (
    check_description,
    how_to_renew,
    how_to_rewrite_table,
    is_sharded,
)

PENDING, PACKED, SKIPPED = 0, 1, 2
IMAGES, SAMPLES, INFO = "images", "samples.csv.gz", "store.json"
LEFT_OUT = "left_out.csv.gz"
OLD_SAMPLES, OLD_LEFT_OUT = "samples.csv", "left_out.csv"  # of format 2
CALIBRATION, NEXT = "calibration", ".next"
ARRAYS = ("mean", "sd", "checksum", "status")
SHARD_ARRAYS = ("shard", "offset", "length")


def chunk_path(path: Path | str, row: int) -> str:
    """Return the file of one site."""
    return f"{path}/{IMAGES}/c.{row}.0.0.0"


def layout_in(info: dict[str, Any]) -> Layout:
    """Return the layout of a store's images from its `store.json`."""
    shape, joined = (len(info["channels"]), *info["shape"]), bool(info.get("joined"))
    return layout_of(info["codec"], shape, joined)


def write_chunk(path: Path | str, row: int, image: np.ndarray, layout: Layout) -> int:
    """Write one site, (C, H, W) uint8, whole or not at all; return the file's bytes."""
    data = encode(image, layout)
    temporary = Path(f"{path}/{IMAGES}/.c.{row}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, chunk_path(path, row))
    finally:
        temporary.unlink(missing_ok=True)
    return len(data)


def create_arrays(path: Path, n: int, layout: Layout) -> None:
    """Make the zarr group with an empty image array; an existing one is removed.

    Black sites get chunks too, so that a lost one is seen.
    """
    zarr.open_group(path, mode="a", zarr_format=3).create_array(
        IMAGES,
        overwrite=True,
        shape=(n, *layout.shape),
        dtype="uint8",
        fill_value=0,
        chunk_key_encoding={"name": "default", "separator": "."},  # one file a site, no folders
        dimension_names=("site", "channel", "y", "x"),
        config={"write_empty_chunks": True},
        **array_options(layout),
    )


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> str:
    """Write the small arrays; return their hash."""
    group = zarr.open_group(path, mode="r+")
    for name, values in arrays.items():
        group.create_array(name, data=values, chunks=values.shape, overwrite=True)
    return hash_arrays(arrays)


def read_arrays(path: Path, info: dict[str, Any]) -> dict[str, np.ndarray]:
    """Read the small arrays of a complete store; raise if their hash differs.

    Raises:
        InputError: one is missing or damaged, or the image array is not as this package writes it.
    """
    layout = layout_in(info)
    try:
        group = zarr.open_group(path, mode="r")
        names = [*ARRAYS, "stamp"] if "stamp" in group else [*ARRAYS]
        names += SHARD_ARRAYS if is_sharded(info) else ()
        arrays = {name: np.asarray(group[name][:]) for name in names}
        as_written = is_sharded(info) or _is_as_written(group[IMAGES], info["n"], layout)
    except (KeyError, OSError, ValueError, TypeError, RuntimeError) as error:
        why = str(error) or type(error).__name__
        raise InputError(
            f"{path}: the store's arrays are damaged ({why}); {how_to_renew(info)}"
        ) from None
    if not as_written or hash_arrays(arrays) != info["arrays_digest"]:
        raise InputError(
            f"{path}: the store's arrays are not those that {INFO} describes; {how_to_renew(info)}"
        )
    return arrays


def read_info(path: Path) -> dict[str, Any]:
    """Read `store.json`.

    Raises:
        InputError: no store there, or not one of this package's.
    """
    file = path / INFO
    try:
        info = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        if path.exists() and (path.is_file() or any(path.iterdir())):
            raise InputError(f"{path}: is not a store (it has no {INFO})") from None
        raise InputError(f"{path}: there is no store; make it with `cellsignal prepare`") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read as a store's description ({error})") from None
    check_description(info, file)
    return info


def write_gzip(path: Path | str, text: str) -> None:
    """Write `text` to `path` atomically, as compressed UTF-8; equal texts are equal bytes."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(gzip.compress(text.encode("utf-8"), 6, mtime=0))


def read_gzip(path: Path | str) -> str:
    """Read what `write_gzip` wrote; raise `InputError` if it is damaged or not there."""
    try:
        return gzip.decompress(Path(path).read_bytes()).decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read ({why})") from None


def samples_text(samples: pd.DataFrame) -> str:
    """Write a samples table as the store's CSV, without columns that a competition left out."""
    used = [
        name
        for name in COLUMNS
        if name not in ADDED or (name in samples.columns and samples[name].notna().any())
    ]
    texts = {name: samples[name].map(_json_list) for name in ("files", "labels") if name in used}
    return samples[used].assign(**texts).to_csv(index=False, lineterminator="\n")


def _json_list(values: tuple | None) -> str | None:
    return None if values is None else json.dumps(list(values), ensure_ascii=False)


def parse_samples(text: str, source: Path | str) -> pd.DataFrame:
    """Parse what `samples_text` wrote, and check it."""
    try:
        frame = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False, na_values=[""])
        frame["files"] = frame.files.map(lambda names: tuple(json.loads(names)))
        if "labels" in frame.columns:
            frame["labels"] = [
                None if pd.isna(text) else tuple(json.loads(text)) for text in frame["labels"]
            ]
    except (ValueError, AttributeError, TypeError) as error:
        raise InputError(f"{source}: is not a samples table ({error})") from None
    frame["label"] = pd.to_numeric(frame.label).astype("Int64")
    return check_samples(frame, source)


def write_samples(path: Path, text: str) -> None:
    """Write the store's samples table, unless it lies there already, whole."""
    with contextlib.suppress(InputError):
        if read_gzip(path / SAMPLES) == text:
            return
    write_gzip(path / SAMPLES, text)


def read_samples(path: Path, info: dict[str, Any]) -> pd.DataFrame:
    """Read the store's whole samples table; raise if its hash differs."""
    return parse_samples(*read_samples_text(path, info))


def read_samples_text(path: Path, info: dict[str, Any]) -> tuple[str, Path]:
    """Return the text of the store's samples table, and its file; raise if its hash differs."""
    file = path / SAMPLES
    if file.exists() or not (path / OLD_SAMPLES).exists():
        try:
            text = read_gzip(file)
        except InputError as error:
            raise InputError(f"{error}; {how_to_rewrite_table(info)}") from None
    else:
        file = path / OLD_SAMPLES
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{file}: cannot be read ({error})") from None
    if digest(text) != info["samples_sha256"]:
        raise InputError(
            f"{file}: is not the table this store was packed from (its hash differs); "
            f"{how_to_rewrite_table(info)}"
        )
    return text, file


def hash_arrays(arrays: dict[str, np.ndarray]) -> str:
    """Return the hash that `store.json` keeps of the small arrays."""
    return digest(
        {
            name: [str(a.dtype), a.shape, zlib.crc32(np.ascontiguousarray(a))]
            for name, a in arrays.items()
        }
    )


# as zarr sees it
# --------------------------------------------------------------------------------------------------


def array_options(layout: Layout) -> dict[str, Any]:
    """Return chunks and codecs of the images' zarr array, for `Group.create_array`."""
    site = (1, *layout.shape)
    if layout.codec == "raw":
        return {"chunks": site, "filters": None, "compressors": None}
    blosc = BloscCodec(**LZ4, shuffle="noshuffle", typesize=1)
    return {
        "chunks": (1, layout.shape[0] // layout.frames, layout.band, layout.shape[2]),
        "shards": site,
        "filters": [RowDelta(layout.period)] if layout.codec == "zstd" else None,
        "compressors": [ZstdCodec(level=1) if layout.codec == "zstd" else blosc, Crc32cCodec()],
    }


def _is_as_written(images: zarr.Array, n: int, layout: Layout) -> bool:
    if images.shape != (n, *layout.shape) or images.dtype != np.uint8:
        return False
    one_file_a_site = images.metadata.encode_chunk_key((0, 0, 0, 0)) == "c.0.0.0.0"
    return one_file_a_site and is_laid_out(images, layout)


def is_laid_out(images: zarr.Array, layout: Layout) -> bool:
    """Return whether a zarr array's chunks and codecs are those of `layout`."""
    options = array_options(layout)
    if images.chunks != options["chunks"] or images.shards != options.get("shards"):
        return False
    codecs = images.metadata.codecs[0].codecs if images.shards else images.metadata.codecs
    named = [codec.to_dict()["name"] for codec in codecs]
    if layout.codec == "raw":
        return named == ["bytes"]
    filters = [RowDelta(layout.period)] if layout.codec == "zstd" else []
    compressor = "zstd" if layout.codec == "zstd" else "blosc"
    return [*codecs[:-3]] == filters and named[-3:] == ["bytes", compressor, "crc32c"]

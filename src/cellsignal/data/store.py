"""The store: every site of a data set, decoded once, in one folder that any zarr v3 reader opens.

    images/     (N, C, H, W) uint8, one file a site (`images/c.<row>.0.0.0`), compressed or raw (see `codec`)
    mean, sd    (N, C) float32, grey levels: each stored channel's mean and population SD; NaN where nothing is packed
    checksum    (N,) uint32, crc32 of the raw pixels
    status      (N,) uint8: 0 pending, 1 packed, 2 skipped
    stamp       (N,) uint64: which state of its source files a packed row shows (see `stamps`); absent in older stores
    samples.csv the samples table, row by row as in the arrays (`files` as a JSON list)
    store.json  what it was made from, what was skipped and why, and whether it is complete
    journal     only while packing: one line for each finished row (see `pack`)
    calibration/ what a competition has measured of whole plates to read their images
    (`Competition.calibrate`)
    .next/      only while a complete store is being renewed (see `renewal`)

`Store.read` reads a site's file straight into the caller's buffer, without zarr: faster, in parts
where parts are asked for, and free of zarr's background thread, which a forked worker would lack.
Damage on disk is an error when read, never a wrong picture: compressed pixels carry their own
checksum, and a raw row is held to `checksum` the first time that it is read.
"""

import functools
import hashlib
import io
import json
import mmap
import os
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from tqdm import tqdm

from cellsignal.common.errors import InputError
from cellsignal.common.files import digest
from cellsignal.competitions.samples import ADDED, COLUMNS, check_samples
from cellsignal.data.codec import Layout, array_options, encode, is_laid_out, layout_of, read_file
from cellsignal.data.journal import read_journal

FORMAT = 2
PENDING, PACKED, SKIPPED = 0, 1, 2
IMAGES, SAMPLES, INFO = "images", "samples.csv", "store.json"
CALIBRATION, NEXT = "calibration", ".next"
ARRAYS = ("mean", "sd", "checksum", "status")
REPAIR = "delete that file and run `cellsignal prepare` again to pack the site anew"
_INFO_KEYS = {
    "cellsignal",
    "source",
    "channels",
    "shape",
    "codec",
    "size",
    "n",
    "samples_sha256",
    "complete",
}


@dataclass(frozen=True, eq=False)
class Store:
    """A complete store, opened for reading. Holds no open file: safe to fork and to pickle into
    DataLoader workers.

    Attributes:
        path: its folder, absolute.
        samples: the samples table of the packed rows, plus the int column `row`, their index in the
        arrays. mean, sd: (N, C) float32 by row, grey levels of the stored pixels; NaN in skipped
        rows. checksum: (N,) uint32 by row, crc32 of the raw pixels. info: what `store.json` says.
    """

    path: Path
    samples: pd.DataFrame
    mean: np.ndarray
    sd: np.ndarray
    checksum: np.ndarray
    info: dict[str, Any]
    _layout: Layout = field(init=False, repr=False)
    # (N,) bool: raw rows known to be whole; threads and forked workers share it
    _seen: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_layout", layout_of(self.info["codec"], self.shape))
        object.__setattr__(
            self, "_seen", np.frombuffer(mmap.mmap(-1, len(self.checksum)), np.bool_)
        )

    def __reduce__(self) -> tuple:
        return Store, (self.path, self.samples, self.mean, self.sd, self.checksum, self.info)

    @classmethod
    def open(cls, path: Path | str) -> "Store":
        """Open a complete store.

        Raises:
            InputError: there is none, its packing is unfinished, it is damaged, or something else
            made it.
        """
        path = Path(path).absolute()
        info = read_info(path)
        if not info["complete"]:
            packed = sum(entry["status"] != PENDING for entry in read_journal(path)[0].values())
            raise InputError(
                f"{path}: packing is unfinished, {info['n'] - packed} of {info['n']} sites are "
                "missing; "
                "run `cellsignal prepare` with the same config to go on"
            )
        arrays = read_arrays(path, info)
        samples = read_samples(path, info)
        samples["row"] = np.arange(len(samples))
        samples = samples[arrays["status"] == PACKED].reset_index(drop=True)
        return cls(path, samples, arrays["mean"], arrays["sd"], arrays["checksum"], info)

    @property
    def channels(self) -> tuple[str, ...]:
        """The channels' names."""
        return tuple(self.info["channels"])

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        return (len(self.info["channels"]), *self.info["shape"])

    @property
    def source(self) -> dict[str, Any]:
        """What it was packed from: competition, root."""
        return self.info["source"]

    @functools.cached_property
    def content_hash(self) -> str:
        """The SHA-256, as hex, of what can be read here: channels, shape, sample ids and each
        image's checksum, by row.

        Stores of the same images have the same hash, wherever they lie and however they are
        compressed; one image more, fewer or other changes it. Labels and other columns of `samples`
        are not in it (`info["samples_sha256"]` is of the whole table).
        """
        value = hashlib.sha256(json.dumps([self.channels, self.shape]).encode())
        value.update(json.dumps(self.samples.sample_id.to_list()).encode())
        value.update(self.checksum[self.samples.row.to_numpy()].astype("<u4").tobytes())
        return value.hexdigest()

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]:
        """(sample_id, why) of the sites that could not be packed."""
        return tuple((item["sample_id"], item["message"]) for item in self.info["skipped"])

    @property
    def images(self) -> zarr.Array:
        """All images as a read-only zarr array (N, C, H, W) uint8; skipped rows are zeros. For one
        site use `read`.
        """
        return zarr.open_array(self.path / IMAGES, mode="r")

    def read(
        self, row: int, out: np.ndarray | None = None, rows: tuple[int, int] | None = None
    ) -> np.ndarray:
        """One site, (C, H, W) uint8; into `out` (C-contiguous, a slice of a batch buffer, say)
        where given.

        Args:
            rows: (top, bottom): only the image's rows top to bottom - 1 are needed. What the other
            rows then hold is left open.

        Raises:
            InputError: nothing is packed in that row, or its file is damaged.
        """
        if out is None:
            out = np.empty(self.shape, np.uint8)
        elif out.shape != self.shape or out.dtype != np.uint8 or not out.flags.c_contiguous:
            raise ValueError(
                f"out must be C-contiguous {self.shape} uint8, not {out.shape} {out.dtype}"
            )
        if rows is not None and not 0 <= rows[0] < rows[1] <= self.shape[1]:
            raise ValueError(f"rows must be some of 0 to {self.shape[1]}, not {rows}")
        known = self._layout.codec == "zstd" or (0 <= row < len(self._seen) and self._seen[row])
        self._fill(row, out, rows if known else None)
        if not known:
            if zlib.crc32(out) != int(self.checksum[row]):
                raise InputError(self._other_pixels(row))
            self._seen[row] = True
        return out

    def _fill(self, row: int, out: np.ndarray, rows: tuple[int, int] | None = None) -> None:
        file = chunk_path(self.path, row)
        try:
            read_file(file, self._layout, out, rows)
        except FileNotFoundError:
            raise InputError(
                f"{self.path}: row {row} holds no image ({file} is not there)"
            ) from None
        except ValueError as error:
            raise InputError(f"{file}: row {row} is damaged ({error}); {REPAIR}") from None

    def check(self, rows: np.ndarray | None = None) -> list[tuple[int, str]]:
        """Read rows (None: all packed ones) and compare the pixels with their checksums.

        Returns:
            (row, what is wrong) of every damaged row.
        """
        rows = self.samples.row.to_numpy() if rows is None else np.asarray(rows)
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            found = list(
                tqdm(
                    pool.map(self._damage, rows.tolist()),
                    total=len(rows),
                    desc="checking",
                    unit="site",
                    disable=None,
                )
            )
        return [
            (row, message) for row, message in zip(rows.tolist(), found, strict=True) if message
        ]

    def _damage(self, row: int) -> str | None:
        image = np.empty(self.shape, np.uint8)
        try:
            self._fill(row, image)
        except InputError as error:
            return str(error)
        return None if zlib.crc32(image) == int(self.checksum[row]) else self._other_pixels(row)

    def _other_pixels(self, row: int) -> str:
        return (
            f"{chunk_path(self.path, row)}: row {row} holds other pixels than were packed; {REPAIR}"
        )


def chunk_path(path: Path | str, row: int) -> str:
    """The file of one site."""
    return f"{path}/{IMAGES}/c.{row}.0.0.0"


def write_chunk(path: Path | str, row: int, image: np.ndarray, codec: str) -> int:
    """Write one site, (C, H, W) uint8, whole or not at all; returns the file's size in bytes."""
    data = encode(image, layout_of(codec, image.shape))
    temporary = Path(f"{path}/{IMAGES}/.c.{row}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, chunk_path(path, row))
    finally:
        temporary.unlink(missing_ok=True)
    return len(data)


def create_arrays(path: Path, n: int, layout: Layout) -> None:
    """Make the zarr group with its image array, still without chunks. Black sites get theirs too: a
    loss is seen.

    An image array that is there is made anew.
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
    """Write the small arrays; returns their hash."""
    group = zarr.open_group(path, mode="r+")
    for name, values in arrays.items():
        group.create_array(name, data=values, chunks=values.shape, overwrite=True)
    return _hash(arrays)


def read_arrays(path: Path, info: dict[str, Any]) -> dict[str, np.ndarray]:
    """The small arrays of a complete store, held to their hash.

    Raises:
        InputError: one is missing or damaged, or the image array is not as this package writes it.
    """
    layout = layout_of(info["codec"], (len(info["channels"]), *info["shape"]))
    try:
        group = zarr.open_group(path, mode="r")
        names = [*ARRAYS, *(["stamp"] if "stamp" in group else [])]
        arrays = {name: np.asarray(group[name][:]) for name in names}
        images = group[IMAGES]
        as_written = (
            images.shape == (info["n"], *layout.shape)
            and images.dtype == np.uint8
            and is_laid_out(images, layout)
        )
        as_written &= images.metadata.encode_chunk_key((0, 0, 0, 0)) == "c.0.0.0.0"
    except (KeyError, OSError, ValueError, TypeError, RuntimeError) as error:
        raise InputError(
            f"{path}: the store's arrays are damaged ({str(error) or type(error).__name__}); pack "
            "it anew"
        ) from None
    if not as_written or _hash(arrays) != info["arrays_digest"]:
        raise InputError(
            f"{path}: the store's arrays are not those that {INFO} describes; pack it anew"
        )
    return arrays


def read_info(path: Path) -> dict[str, Any]:
    """The content of `store.json`.

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
    if isinstance(info, dict) and info.get("format", FORMAT) != FORMAT:
        raise InputError(
            f"{file}: store format {info['format']}, this version reads {FORMAT}; pack it anew"
        )
    if not isinstance(info, dict) or {"format", *_INFO_KEYS} - set(info):
        raise InputError(f"{file}: is not the description of a cellsignal store")
    return info


def samples_text(samples: pd.DataFrame) -> str:
    """A samples table as the CSV kept in the store, without the columns that a competition has left
    out.
    """
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
    """The inverse of `samples_text`, checked by `check_samples`."""
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


def read_samples(path: Path, info: dict[str, Any]) -> pd.DataFrame:
    """The store's samples table, all rows, held to its hash."""
    file = path / SAMPLES
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read ({error})") from None
    if digest(text) != info["samples_sha256"]:
        raise InputError(
            f"{file}: is not the table this store was packed from (its hash differs); pack it anew"
        )
    return parse_samples(text, file)


def _hash(arrays: dict[str, np.ndarray]) -> str:
    return digest(
        {
            name: [str(a.dtype), a.shape, zlib.crc32(np.ascontiguousarray(a))]
            for name, a in arrays.items()
        }
    )

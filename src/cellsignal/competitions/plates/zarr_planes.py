"""Read single planes of zarr arrays, of version 2 or 3, none of whose chunks may be missing.

A plane stands in a samples table as the folder of its array, and behind "#zarr:" how a stack
becomes one plane, the index of the plane, and which chunks hold it:
`P1.zarr/A/1/0/0#zarr:max:0,1,*:/:0-0,1-1,0-4,0-1,0-1`. Zarr reads a chunk that is no file as black;
here it is a missing file.
"""

import functools
import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cellsignal.common.errors import ImageError, InputError

_MARK = "#zarr:"
_DEPTHS = {"|u1": 8, "<u1": 8, "<u2": 16, ">u2": 16, "uint8": 8, "uint16": 16}
# codecs of numbers alone: none that makes objects (pickle, json) is run
_NUMCODECS = ("blosc", "zstd", "zlib", "gzip", "lz4", "bz2", "lzma", "shuffle", "delta")
_CODECS = ("bytes", "blosc", "zstd", "gzip", "crc32c", "transpose")
_CODECS += tuple(f"numcodecs.{name}" for name in _NUMCODECS)
_NO_CHUNK = np.iinfo(np.uint64).max  # where a shard's index names no chunk


@dataclass(frozen=True)
class Plane:
    """One channel of a field.

    Attributes:
        array: folder of the array, relative to the root.
        how: "max" or "mean" of all z planes; "" of one.
        index: of each axis before y and x; "*" for all z planes.
        key: what stands before and between the numbers of a chunk's name: "/", ".", "c/".
        chunks: first and last number of the plane's chunks, of each axis.
    """

    array: str
    how: str
    index: tuple[str, ...]
    key: str
    chunks: tuple[tuple[int, int], ...]

    def entry(self) -> str:
        ranges = ",".join(f"{first}-{last}" for first, last in self.chunks)
        return f"{self.array}{_MARK}{self.how}:{','.join(self.index)}:{self.key}:{ranges}"

    def files(self) -> tuple[str, ...]:
        """Return the paths of its chunks."""
        start, separator = self.key[:-1], self.key[-1]
        prefix = f"{self.array}/{start}{separator if start else ''}"
        return tuple(
            prefix + separator.join(map(str, chunk))
            for chunk in itertools.product(*(range(a, b + 1) for a, b in self.chunks))
        )


@dataclass(frozen=True)
class ArrayFacts:
    """What the metadata of an array say.

    Attributes:
        bits: of a pixel.
        chunks: shape of what one file holds: a chunk, or a shard.
        inner: shape of the chunks of a shard; None where a file is a chunk.
        index_checksum, index_at_end: of a shard's index of chunks: whether a checksum follows it,
            and whether it stands at the end of the file.
    """

    shape: tuple[int, ...]
    bits: int
    chunks: tuple[int, ...]
    key: str
    inner: tuple[int, ...] | None = None
    index_checksum: bool = False
    index_at_end: bool = True


def is_plane(entry: str) -> bool:
    return _MARK in entry


def parse_plane(entry: str) -> Plane:
    array, _, text = entry.partition(_MARK)
    how, index, key, ranges = text.split(":")
    chunks = [tuple(map(int, part.split("-"))) for part in ranges.split(",")]
    return Plane(array, how, tuple(filter(None, index.split(","))), key, tuple(chunks))


def make_plane(array: str, facts: ArrayFacts, index: Sequence[int]) -> Plane:
    """Return the plane of an array at an index of the axes before y and x."""
    first = [(number // size,) * 2 for number, size in zip(index, facts.chunks, strict=False)]
    sides = zip(facts.shape[-2:], facts.chunks[-2:], strict=True)
    last = [(0, -(-side // size) - 1) for side, size in sides]
    return Plane(array, "", tuple(map(str, index)), facts.key, (*first, *last))


def stack_entry(entries: Sequence[str], how: str) -> str:
    """Return the entry of a whole stack, from those of its z planes in order."""
    first, last = parse_plane(entries[0]), parse_plane(entries[-1])
    index = [a if a == b else "*" for a, b in zip(first.index, last.index, strict=True)]
    chunks = [(a[0], b[1]) for a, b in zip(first.chunks, last.chunks, strict=True)]
    return replace(first, how=how, index=tuple(index), chunks=tuple(chunks)).entry()


def read_json(path: Path) -> dict[str, Any] | None:
    """Return what a JSON file holds; None where there is no such file.

    Raises:
        InputError: it is not JSON, or no object.
    """
    try:
        changed_at = path.stat().st_mtime_ns
    except OSError:
        return None
    return _parse_json(path, changed_at)


@functools.lru_cache(maxsize=65536)
def _parse_json(path: Path, changed_at: int) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is not JSON ({error})") from None
    if not isinstance(tree, dict):
        raise InputError(f"{path}: holds no object of JSON")
    return tree


def read_facts(folder: Path) -> ArrayFacts | None:
    """Read the metadata of an array; None where the folder holds no array.

    Raises:
        InputError: damaged metadata, pixels that are not uint8 or uint16, or a codec that is not
            read (one of objects, such as pickle, or an unknown one).
    """
    path = folder / "zarr.json"
    tree = read_json(path)
    if tree is None:
        path = folder / ".zarray"
        tree = read_json(path)
    if tree is None or tree.get("node_type") == "group":
        return None
    try:
        facts = _parse_v3(path, tree) if path.name == "zarr.json" else _parse_v2(path, tree)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        why = f"{type(error).__name__}: {error}"
        raise InputError(f"{path}: is no metadata of an array ({why})") from None
    if len(facts.chunks) != len(facts.shape) or min(*facts.chunks, *facts.shape) < 1:
        raise InputError(f"{path}: shape {facts.shape} and chunks {facts.chunks} do not fit")
    return facts


def _parse_v2(path: Path, tree: dict[str, Any]) -> ArrayFacts:
    codecs = [tree.get("compressor"), *(tree.get("filters") or [])]
    _check_codecs(path, [codec["id"] for codec in codecs if codec], _NUMCODECS)
    bits = _bits(path, tree["dtype"])
    key = tree.get("dimension_separator", ".")
    return ArrayFacts(tuple(tree["shape"]), bits, tuple(tree["chunks"]), key)


def _parse_v3(path: Path, tree: dict[str, Any]) -> ArrayFacts:
    codecs = [codec["name"] for codec in tree["codecs"]]
    is_sharded = codecs == ["sharding_indexed"]  # whose index is looked into; elsewhere it is not
    _check_codecs(path, codecs, ("sharding_indexed",) if is_sharded else _CODECS)
    grid, encoding = tree["chunk_grid"], tree["chunk_key_encoding"]
    if grid["name"] != "regular" or encoding["name"] not in ("default", "v2"):
        detail = f"chunk_grid {grid['name']!r}, chunk_key_encoding {encoding['name']!r}"
        raise InputError(f"{path}: {detail}: are not read")
    is_default = encoding["name"] == "default"
    separator = encoding.get("configuration", {}).get("separator", "/" if is_default else ".")
    key = f"c{separator}" if is_default else separator
    shape, chunks = tuple(tree["shape"]), tuple(grid["configuration"]["chunk_shape"])
    facts = ArrayFacts(shape, _bits(path, tree["data_type"]), chunks, key)
    if not is_sharded:
        return facts
    shard = tree["codecs"][0]["configuration"]
    _check_codecs(path, [codec["name"] for codec in shard["codecs"]], _CODECS)
    names = [codec["name"] for codec in shard["index_codecs"]]
    if names not in (["bytes"], ["bytes", "crc32c"]):
        raise InputError(f"{path}: shards with an index coded by {', '.join(names)}: are not read")
    at_end = shard.get("index_location", "end") == "end"
    inner = tuple(shard["chunk_shape"])
    return replace(facts, inner=inner, index_checksum=len(names) == 2, index_at_end=at_end)


def _check_codecs(path: Path, names: list[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise InputError(f"{path}: codec {name!r} is not read; known: {', '.join(known)}")


def _bits(path: Path, dtype: Any) -> int:
    if not isinstance(dtype, str) or dtype not in _DEPTHS:
        raise InputError(f"{path}: pixels of type {dtype!r}, uint8 or uint16 expected")
    return _DEPTHS[dtype]


def read_plane(
    root: Path, entry: str, bits: int, shape: tuple[int, int] | None = None
) -> np.ndarray:
    """Read a plane (H, W), or the z planes of a stack (Z, H, W), as they are.

    Raises:
        ImageError: a chunk is missing or damaged, or another size or depth than expected.
    """
    import zarr

    plane = parse_plane(entry)
    folder = root / plane.array
    facts = read_facts(folder)
    if facts is None:
        raise ImageError(folder, "missing", "no such array")
    if facts.bits != bits:
        detail = f"pixels of type uint{facts.bits}, uint{bits} expected"
        raise ImageError(folder, "wrong_depth", detail)
    height, width = facts.shape[-2:]
    if shape is not None and (height, width) != tuple(shape):
        size = f"{width}x{height} pixels, {shape[1]}x{shape[0]} expected"
        raise ImageError(folder, "wrong_size", size)
    for name in plane.files():
        if not (root / name).is_file():
            raise ImageError(root / name, "missing", "no such chunk; it would be read as black")
    index = tuple(slice(None) if part == "*" else int(part) for part in plane.index)
    try:
        if facts.inner is not None:
            _refuse_holes(root, plane, facts, index)
        return np.asarray(zarr.open_array(folder, mode="r")[index], np.dtype(f"uint{bits}"))
    except ImageError:
        raise
    except Exception as error:  # from damaged bytes the decoders raise anything
        why = " ".join(str(error).split())[:100] or type(error).__name__
        first = plane.files()[0]
        raise ImageError(root / first, "corrupt", f"cannot be decoded ({why})") from None


def _refuse_holes(
    root: Path, plane: Plane, facts: ArrayFacts, index: tuple[int | slice, ...]
) -> None:
    """Refuse shards whose index says that a chunk of the plane is not there."""
    grid = tuple(a // b for a, b in zip(facts.chunks, facts.inner, strict=True))
    size = 16 * int(np.prod(grid))
    end = size + 4 * facts.index_checksum
    numbers = itertools.product(*(range(a, b + 1) for a, b in plane.chunks))
    for shard, name in zip(numbers, plane.files(), strict=True):
        with open(root / name, "rb") as file:
            if facts.index_at_end:
                file.seek(-end, os.SEEK_END)
            text = file.read(size)
        offsets = np.frombuffer(text, "<u8").reshape(*grid, 2)[..., 0]
        part = []
        for axis, number in enumerate(shard):
            start = number * facts.chunks[axis]
            wanted = index[axis] if axis < len(index) else slice(None)
            if isinstance(wanted, int):
                part.append((wanted - start) // facts.inner[axis])
            else:  # chunks beyond the array's edge need not be there
                inside = min(facts.chunks[axis], facts.shape[axis] - start)
                part.append(slice(0, -(-inside // facts.inner[axis])))
        if (offsets[tuple(part)] == _NO_CHUNK).any():
            detail = "the shard lacks a chunk of the plane; it would be read as black"
            raise ImageError(root / name, "missing", detail)

"""Stamps: one number for the state of all that decides a packed image, so that a later change is
noticed cheaply.

A stamp is of the source files' sizes and times of change, the calibration of the image's plate, and
the version of the code. Nothing is read for it: a rerun over a complete store asks the file system
alone.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from cellsignal.competitions.base import Competition
from cellsignal.competitions.samples import path_of
from cellsignal.data.sites import Stamp

PACKING = 1  # raise it when a site's files become other pixels by `sites`: resizing, for example
UNKNOWN = 0  # a source file is not there, or the store is older than stamps
_THREADS = 8


def stamp_source(competition: Competition, root: Path, files: tuple[str, ...], plate: str) -> int:
    """The stamp of one sample of a competition; UNKNOWN where a file is not there.

    Args:
        competition: As `Competition.calibrate` has given it back, where it calibrates.
        files: Of the samples table.
        plate: Of the samples table.
    """
    states = []
    for name in competition.image_files(files):
        try:
            state = os.stat(root / path_of(name))
        except OSError:
            return UNKNOWN
        states.append((state.st_size, state.st_mtime_ns))
    calibration = competition.calibration.hashes.get(plate) if competition.calibration else None
    return make_stamp([competition.id, competition.reading, calibration, states])


def make_stamp(value: object = None) -> int:
    """The stamp of a JSON-able value: from 1 to 2**64 - 1."""
    text = json.dumps([PACKING, value]).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") or 1


def stamp_nothing(files: tuple[str, ...], plate: str) -> int:
    """The stamp of samples whose source is not watched: only the version of the code is in it."""
    return make_stamp()


def stamp_rows(stamp: Stamp, files: Sequence[tuple[str, ...]], plates: Sequence[str]) -> np.ndarray:
    """The stamps of many samples, (N,) uint64; several at a time, for disks that answer slowly."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return np.fromiter(pool.map(stamp, files, plates), np.uint64, len(files))

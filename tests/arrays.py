"""An array in place of a store, for tests of what reads from one."""

import threading

import numpy as np

from cellsignal.common.errors import InputError


class Arrays:
    """What a dataset needs of a store. Rows of an image that were not asked for are garbage, as a
    store may leave them.

    `reads` and `readers` note who read what; `broken` rows are damaged.
    """

    def __init__(self, images: np.ndarray, broken: set[int] = frozenset()):
        self.images = images
        self.shape = images.shape[1:]
        self.broken = broken
        self.readers = set()
        self.reads = []

    def read(self, row, out=None, rows=None):
        self.readers.add(threading.current_thread().name)
        self.reads.append(row)
        if row in self.broken:
            raise InputError(f"row {row} is damaged")
        out = np.empty(self.shape, np.uint8) if out is None else out
        top, bottom = rows or (0, self.shape[1])
        out[...] = 77
        out[:, top:bottom] = self.images[row][:, top:bottom]
        return out

    def threads(self, workers):
        return workers

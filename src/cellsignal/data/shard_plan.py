"""Deal a store's sites out to shards: one a plate, of a size that suits disks and object storage.

A plate larger than the limit is cut into several. Plates follow each other into one shard while all
of it is under an eighth of the limit: a data set of many small plates, or one in which all is one
plate, becomes files of a sensible size, too.
"""

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cellsignal.common.files import digest

MOST_MB = 512  # a plate of RxRx1 is 280 MB at 512 pixels
SMALL = 8  # plates are put together up to this part of the limit
LONGEST_LABEL = 60  # characters


@dataclass(frozen=True, eq=False)
class ShardPlan:
    """One shard to be written.

    Attributes:
        rows: (n,) int, of the store it is made from, in the order in which they lie in the shard.
        lengths: (n,) int, bytes of the sites' files.
        label: for people, of letters that any file system and URL takes.
        key: hash of all that decides its bytes; a shard of the same key needs no writing.
    """

    rows: np.ndarray
    lengths: np.ndarray
    label: str
    key: str

    @property
    def size(self) -> int:
        """Its bytes."""
        return int(self.lengths.sum())

    @property
    def offsets(self) -> np.ndarray:
        """(n,) int, where each site's file begins."""
        return np.cumsum(self.lengths) - self.lengths


def plan_shards(
    samples: pd.DataFrame, lengths: np.ndarray, checksum: np.ndarray, most: int
) -> list[ShardPlan]:
    """Deal packed sites out to shards.

    Args:
        samples: of the packed rows, with the column `row`.
        lengths: (N,) int by row, bytes of the sites' files.
        checksum: (N,) by row, of the pixels.
        most: bytes of a shard; a single site may have more.
    """
    plates = samples.groupby(["experiment", "plate"], sort=False).ngroup().to_numpy()
    order = np.argsort(plates, kind="stable")
    rows, plates = samples.row.to_numpy()[order], plates[order]
    starts = np.flatnonzero(np.diff(plates, prepend=-1))
    groups: list[list[np.ndarray]] = []
    open_bytes = most  # of the last group, while more plates may follow into it
    for positions in np.split(np.arange(len(rows)), starts[1:]):
        size = int(lengths[rows[positions]].sum())
        if size > most:
            groups += [[part] for part in _cut(positions, lengths[rows[positions]], most)]
            open_bytes = most
        elif open_bytes + size <= most // SMALL:
            groups[-1].append(positions)
            open_bytes += size
        else:
            groups.append([positions])
            open_bytes = size
    ids = samples.sample_id.to_numpy()[order]
    names = samples[["experiment", "plate"]].astype(str).to_numpy()[order]
    plans = []
    for group in groups:
        positions = np.concatenate(group)
        label = _label("_".join(names[positions[0]]))
        mine = rows[positions]
        content = [ids[positions].tolist(), checksum[mine].tolist(), lengths[mine].tolist()]
        plans.append(ShardPlan(mine, lengths[mine], label, digest([label, *content])))
    return plans


def _cut(positions: np.ndarray, lengths: np.ndarray, most: int) -> list[np.ndarray]:
    """Cut a plate into parts of up to `most` bytes, in their order, each of one site at least."""
    ends, parts, first = np.cumsum(lengths), [], 0
    while first < len(positions):
        before = int(ends[first - 1]) if first else 0
        last = max(int(np.searchsorted(ends, before + most, side="right")), first + 1)
        parts.append(positions[first:last])
        first = last
    return parts


def _label(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:LONGEST_LABEL] or "plate"

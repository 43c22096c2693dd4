"""Pack the sites that speed is measured on into a temporary store."""

import contextlib
import functools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from cellsignal.common.errors import InputError
from cellsignal.competitions import get_competition
from cellsignal.data.pack import pack
from cellsignal.data.store import Store
from cellsignal.studies.performance.feeding import Plates

SITES = 96  # at most; more did not change the figures


@contextlib.contextmanager
def packed_plates(
    root: Path | None, limit: int = SITES, codec: Literal["auto", "zstd", "lz4", "raw"] = "auto"
) -> Iterator[Plates]:
    """Pack the first sites whose files all exist into a temporary store.

    Args:
        root: RxRx1's folder; None simulates sites.

    Raises:
        InputError: there is none.
    """
    competition = get_competition("rxrx1")
    with tempfile.TemporaryDirectory(prefix="cellsignal_speed_") as folder:
        if root is None:
            root = Path(folder) / "raw"
            competition.simulate(
                root, 0, size=512, classes=4, controls=1, train_experiments=1, test_experiments=1
            )
        root = root.absolute()
        samples = competition.samples(root)
        whole = samples.files.map(lambda names: all((root / name).is_file() for name in names))
        samples = samples[whole].head(limit).reset_index(drop=True)
        if samples.empty:
            raise InputError(f"{root}: has no site of which all files are there")
        shape = competition.root_shape(root)
        source = {
            "competition": competition.id,
            "root": str(root),
            "classes": list(competition.classes(root)),
        }
        pack(
            samples,
            functools.partial(competition.read, root, shape=shape),
            Path(folder) / "store",
            channels=competition.channels,
            workers=os.cpu_count() or 1,
            source=source,
            shape=shape,
            codec=codec,
        )
        yield Plates(Store.open(Path(folder) / "store"), root)

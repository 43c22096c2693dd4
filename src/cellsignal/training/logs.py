"""The record of a job's epochs: `log.csv` (rewritten whole, so that a resumed run has each epoch
once) and TensorBoard.
"""

from pathlib import Path
from typing import Any

import pandas as pd
from torch.utils.tensorboard import SummaryWriter

from cellsignal.common.files import write_csv


class EpochLog:
    """Use as a context; `add` one row an epoch. `history` is the checkpoint's list of rows, shared
    and not copied.

    Of several processes one writes; in the others nothing happens.
    """

    def __init__(self, folder: Path, history: list[dict[str, Any]], writes: bool = True):
        self.folder, self.history = folder, history
        self.board = (
            SummaryWriter(str(folder / "tensorboard"), purge_step=len(history) + 1)
            if writes
            else None
        )

    def __enter__(self) -> "EpochLog":
        return self

    def __exit__(self, *_: object) -> None:
        if self.board is not None:
            self.board.close()

    def add(self, row: dict[str, Any]) -> None:
        if self.board is None:
            return
        write_csv(self.folder / "log.csv", pd.DataFrame(self.history))
        for name, value in row.items():
            if name != "epoch" and value is not None:
                self.board.add_scalar(name, value, row["epoch"])

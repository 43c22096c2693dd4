"""A program for torchrun, started by test_distributed.py: two processes train, are stopped by a
signal that one of them gets, go on, and predict.
"""

import json
import os
import signal
import sys
from pathlib import Path

from cellsignal.common.errors import Interrupted
from cellsignal.config import load_config
from cellsignal.prediction.predict import predict
from cellsignal.training.ranks import this_process
from cellsignal.training.run import train
from cellsignal.training.trainer import Trainer


def main(folder: Path) -> None:
    us = this_process()
    whole, broken = (load_config(folder / f"{name}.yaml") for name in ("whole", "broken"))
    train(whole)
    predict(whole)
    update, steps, stops = Trainer._update, [], 0

    def interrupting(self, share):
        update(self, share)
        steps.append(self.progress["updates"])
        if us.rank == 1 and len(steps) in (3, 21):
            os.kill(os.getpid(), signal.SIGTERM)

    Trainer._update = interrupting
    for _ in range(5):
        try:
            train(broken)
            break
        except Interrupted as stopped:
            assert stopped.status == 128 + signal.SIGTERM
            stops += 1
    (folder / f"rank{us.rank}.json").write_text(json.dumps({"stops": stops, "steps": steps}))
    us.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

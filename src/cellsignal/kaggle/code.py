"""The submission kernel of a code competition: `python -m cellsignal.kaggle.code CONFIG`.

It predicts whatever test images it is shown, with weights that other kernels trained: CONFIG's run
folder holds the checkpoints, its root the competition's files. The images that are scored may be
new there, so the test images are packed here and the training store is not needed.
"""

import logging
import re
import sys
from pathlib import Path

import numpy as np

from cellsignal.common.errors import InputError, Interrupted
from cellsignal.common.places import local_folder
from cellsignal.common.stopping import Stop
from cellsignal.competitions import get_competition
from cellsignal.competitions.base import Competition
from cellsignal.config import Config, load_config
from cellsignal.data.folds import FoldTable
from cellsignal.data.pack import prepare
from cellsignal.data.store import Store
from cellsignal.kaggle.job import read_table
from cellsignal.prediction import predict as prediction
from cellsignal.prediction.sources import read_sources, submit_sources
from cellsignal.training.checkpoints import load_checkpoint
from cellsignal.training.job import FULL, Job

log = logging.getLogger(__name__)
SUBMISSION = Path("submission.csv")


def pack_test(config: Config) -> Store:
    """Pack the test split alone, with its controls: plates are standardised by all their wells."""
    competition, data = get_competition(config.competition), config.data
    root = data.root.absolute()
    samples = competition.samples(root)
    test = samples[samples.split == "test"].reset_index(drop=True)
    if test.empty:
        raise InputError(f"{root}: has no test images")
    if config.model.cell_type_vector and set(test.cell_type) != set(samples.cell_type):
        raise InputError(
            f"model.cell_type_vector: the test images of {root} are not of all the cell types "
            "that were trained"
        )
    prepare(
        competition,
        root,
        local_folder(data.store),
        samples=test,
        size=data.size,
        bad_site=data.bad_site,
        workers=data.workers,
        codec=data.codec,
    )
    return Store.open(data.store)


def predict_test(config: Config, store: Store) -> list[Path]:
    """Predict the test treatments by the last stage of every fold that has a checkpoint.

    Returns:
        The predictions files.

    Raises:
        InputError: no checkpoint, one that is unfinished, damaged or of another competition or
            config, or a cell type that none is for.
        Interrupted: stopped by a signal or by the time budget.
    """
    competition, table = get_competition(config.competition), read_table(config.folds.file)
    folders = sorted(
        path
        for path in config.run_folder.glob("*")
        if path.name == FULL or re.fullmatch(r"fold\d+", path.name)
    )
    files = []
    with Stop() as stop:
        for folder in folders:
            jobs = _jobs(config, competition, store, table, folder)
            if jobs:
                files.append(prediction.predict_stage(config, jobs, stop))
    if not files:
        raise InputError(
            f"{config.run_folder}: holds no checkpoint of stage {config.stages[-1].name!r}"
        )
    return files


def _jobs(
    config: Config, competition: Competition, store: Store, folds: FoldTable, folder: Path
) -> list[Job]:
    """Return the last stage's models of a fold, as jobs with nothing to train or to validate."""
    index, samples = len(config.stages) - 1, store.samples
    fold = None if folder.name == FULL else int(folder.name.removeprefix("fold"))
    none = np.empty(0, np.int64)
    test = np.flatnonzero((samples.role == "treatment").to_numpy())
    jobs = []
    for checkpoint in sorted((folder / config.stages[index].name).glob("*/last.pt")):
        outputs = load_checkpoint(checkpoint)["outputs"]
        jobs.append(
            Job(
                config,
                competition,
                store,
                tuple(store.source["classes"]),
                folds,
                index,
                checkpoint.parent.name,
                fold,
                none,
                none,
                test,
                outputs,
            )
        )
    return jobs


def submit(config_file: Path) -> Path:
    """Pack, predict and merge; return the submission, in the current folder."""
    config = load_config(config_file)
    files = predict_test(config, pack_test(config))
    out, _, _ = submit_sources(read_sources([config_file]), SUBMISSION, root=config.data.root)
    log.info("%s: from %d models", out, len(files))
    return out


def main(config_file: Path) -> int:
    """`submit`, with the exit statuses of the command line."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        submit(config_file)
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except Interrupted as error:
        print(str(error), file=sys.stderr)
        return error.status
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

"""Hand-made features of clips and classical classifiers on a config's tracks: what a network must
beat.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.competitions import get_competition
from cellsignal.competitions.folds import labelled
from cellsignal.config import Config
from cellsignal.data.folds import read_folds
from cellsignal.data.store import Store
from cellsignal.profiles.ipp import ipp_table, ipp_text
from cellsignal.profiles.ipp_features import read_features


def baseline(config: Config, answers_file: Path | None) -> str:
    """Train on the training tracks, test on the queries whose truth the answers tell; without
    answers on the drugs that fold 0 holds out.

    Returns:
        The table, as text: each classifier on the features of every time point, and on their means
        over time.

    Raises:
        InputError: the competition's samples are no clips, or the store lacks a track.
    """
    competition = get_competition(config.competition)
    if competition.frames == 1:
        raise InputError(
            f"baseline: the samples of {config.competition} are stills; features over time need "
            "clips"
        )
    store = Store.open(config.data.store)
    samples = store.samples
    classes = competition.classes(config.data.root)
    label = samples.label.to_numpy(dtype=np.int64, na_value=-1).copy()
    drug = samples["compound"].to_numpy(object).copy()
    if answers_file is None:
        folds = read_folds(config.folds.file, samples)
        train = folds.training(samples, folds.folds[0])
        test = folds.validation(samples, folds.folds[0])
    else:
        answers = competition.answers(answers_file).set_index(competition.id_column)
        asked = samples.target_id.isin(answers.index).to_numpy()
        names = answers.loc[samples.target_id[asked]]
        label[asked] = [classes.index(moa) for moa in names.moa]
        drug[asked] = names["compound"].to_numpy(object)
        train, test = labelled(samples), asked
    used = np.flatnonzero(train | test)
    features = read_features(
        samples.row.to_numpy()[used], store.read, competition.frames, config.data.workers
    )
    table: pd.DataFrame = ipp_table(
        features, label[used], drug[used], train[used], test[used], classes, times=("each", "mean")
    )
    return ipp_text(table)

"""The split of WILDS' RxRx1: the same images, another question, so that figures of either field can
be set side by side.

Source: Koh et al., WILDS: A Benchmark of in-the-Wild Distribution Shifts, ICML 2021,
arXiv:2012.07421, split "official".
"""

import numpy as np
import pandas as pd

from cellsignal.competitions.base import Protocol

TRAIN, ID_TEST, OOD_VALIDATION, OOD_TEST = "train", "id_test", "ood_validation", "ood_test"

PROTOCOL = Protocol(
    id="wilds",
    title="WILDS RxRx1",
    group="experiment",
    note="Channels 1, 2 and 3 at 256 px. Trained on site 1 of the train experiments; in-distribution test: their site 2; "
    "OOD validation: the public leaderboard's experiments; OOD test: the other test experiments.",
    by_site=True,
    controls_are_classes=True,
    parts=((TRAIN, 40_612), (ID_TEST, 40_612), (OOD_VALIDATION, 9_854), (OOD_TEST, 34_432)),
)


def parts(samples: pd.DataFrame, public: set[str]) -> pd.Series:
    """The part of each sample, treatments and controls alike; "" for a training site that is
    neither 1 nor 2.

    Args:
        samples: a samples table.
        public: the test experiments of Kaggle's public leaderboard, which WILDS validates on.
    """
    train = samples.split == "train"
    chosen = [
        train & (samples.site == 1),
        train & (samples.site == 2),
        ~train & samples.experiment.isin(public),
        ~train,
    ]
    return pd.Series(
        np.select(chosen, (TRAIN, ID_TEST, OOD_VALIDATION, OOD_TEST), default=""),
        index=samples.index,
        dtype=object,
    )

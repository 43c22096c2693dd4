"""Score predictions by the parts of a protocol.

Samples are scored one by one, with all views and models of a run together.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import log_softmax

from cellsignal.common.errors import InputError
from cellsignal.competitions import get_competition
from cellsignal.evaluation.protocol import protocol_scores, true_labels
from cellsignal.prediction.container import Predictions, load_predictions
from cellsignal.prediction.merge import refuse_not_finite


def score_protocol(files: Sequence[Path], answers: pd.DataFrame) -> pd.DataFrame:
    """Return the accuracy of each part of the protocol (`evaluation.protocol.protocol_scores`).

    Args:
        files: predictions of the last stage of each model; several are averaged
            (log-probabilities).
        answers: `Competition.answers`.

    Raises:
        InputError: predictions of no protocol, of different ones, or of different samples, or
        scores that are not finite.
    """
    members = [load_predictions(path) for path in files]
    first = members[0]
    competition = get_competition(first.about["competition"])
    name = first.about.get("protocol")
    if name is None or not competition.protocol(name).parts:
        raise InputError(
            f"{first.path}: was not predicted for a protocol with parts; set `protocol` in the "
            "config"
        )
    for member in members:
        if member.about.get("protocol") != name or not np.array_equal(
            member.ids["sample_id"], first.ids["sample_id"]
        ):
            raise InputError(f"{member.path}: predicts other samples than {first.path}")
    scores = sum(_log_probabilities(member) for member in members)
    refuse_not_finite(scores, first.ids["target_id"])
    predicted = scores.argmax(1)
    n_treatments = len(first.classes) - sum(label.startswith("control_") for label in first.classes)
    true = true_labels(
        first.ids["target_id"], first.label, competition, answers, first.classes[:n_treatments]
    )
    parts = [part for part, _ in competition.protocol(name).parts if part != "train"]
    return protocol_scores(
        first.ids["part"], first.ids["experiment"], first.ids["target_id"], true, predicted, parts
    )


def _log_probabilities(member: Predictions) -> np.ndarray:
    """(N, K) mean over views."""
    return sum(
        log_softmax(member.logits(view).astype(np.float32), axis=1) for view in member.views
    ) / len(member.views)

"""What a job's validation says: a loss by sample and the competition's score by target."""

import numpy as np
import pandas as pd
from scipy.special import log_expit, log_softmax

from cellsignal.competitions.multilabel import macro_average_precision
from cellsignal.competitions.samples import label_matrix
from cellsignal.training.forward import by_target
from cellsignal.training.job import Job


def loss_and_score(job: Job, logits: np.ndarray, samples: pd.DataFrame) -> tuple[float, float]:
    """Cross-entropy by sample, and accuracy by target (of its samples' summed log-probabilities); for multi-label competitions binary
    cross-entropy, and macro average precision of the targets' mean logits.

    Args:
        logits: (n, job.outputs) of the n rows of `samples`.

    Raises:
        InputError: no class of a multi-label competition has both a positive and a negative among the samples.
    """
    target_id = samples.target_id.to_numpy().astype(str)
    if job.competition.multilabel:
        truth = label_matrix(samples, job.outputs).astype(float)
        loss = -(truth * log_expit(logits) + (1 - truth) * log_expit(-logits)).mean()
        targets, merged, first = by_target(logits, target_id)
        mean = merged / np.bincount(np.searchsorted(targets, target_id))[:, None]
        return float(loss), macro_average_precision(truth[first], mean)
    scores = log_softmax(logits[:, : len(job.classes)], axis=1)
    labels = samples.label.to_numpy(dtype=np.int64, na_value=-1)
    _, merged, first = by_target(scores, target_id)
    return float(-scores[np.arange(len(labels)), labels].mean()), float((merged.argmax(1) == labels[first]).mean())

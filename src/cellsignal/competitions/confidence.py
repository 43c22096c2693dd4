"""Say how sure predictions are, from calibrated probabilities."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

_ROWS = 4096  # looked at at a time
YES = 0.5  # a class at least as probable is predicted, where several may be true


def label_confidences(
    probability: np.ndarray, labels: np.ndarray, classes: Sequence[str]
) -> pd.DataFrame:
    """Return how sure each predicted label is.

    Args:
        probability: (T, K), calibrated.
        labels: (T,) int, the predicted ones, of `classes`.

    Returns:
        Columns predicted, probability (of that class), margin (over the likeliest other class:
        negative where a plate's assignment gave the well another than its likeliest) and runner_up
        (that other class).
    """
    names, rows = np.asarray(classes, dtype=object), np.arange(len(probability))
    own = probability[rows, labels]
    second, margin = np.empty(len(rows), np.int64), np.empty(len(rows))
    for start in range(0, len(rows), _ROWS):  # a copy of all would be as large again
        part = slice(start, start + _ROWS)
        others = np.array(probability[part], dtype=float)
        place = np.arange(len(others))
        others[place, labels[part]] = -1
        second[part] = others.argmax(axis=1)
        margin[part] = own[part] - others[place, second[part]]
    return pd.DataFrame(
        {
            "predicted": names[labels],
            "probability": own,
            "margin": margin,
            "runner_up": names[second],
        }
    )


def class_confidences(probability: np.ndarray, classes: Sequence[str]) -> pd.DataFrame:
    """Return how sure each class of each row is, where several may be true.

    Returns:
        Columns predicted (the classes of a probability of at least .5, with "|" between),
        confidence (of the class that is least sure: the larger of its probability and the rest),
        then a column of probabilities for each class.
    """
    names = list(classes)
    predicted = ["|".join(np.asarray(names)[row]) for row in probability >= YES]
    confidence = np.maximum(probability, 1 - probability).min(axis=1)
    frame = pd.DataFrame({"predicted": predicted, "confidence": confidence})
    return frame.join(pd.DataFrame(probability, columns=names))

"""Members of blends with known errors, for the tests of blends."""

import numpy as np

from cellsignal.evaluation.blend_members import Members


def make_members(seed=0, signal=(2.0, 2.0), scale=None, targets=400, classes=6, units=8, **options):
    """Logits of `signal` for the true class plus normal noise, times `scale`."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, targets)
    scale = [1.0] * len(signal) if scale is None else scale
    scores = [
        (strength * np.eye(classes)[label] + rng.normal(size=(targets, classes))) * size
        for strength, size in zip(signal, scale, strict=True)
    ]
    facts = {
        "names": tuple("abcdefghijklmnopqrstuvwxyz"[: len(signal)]),
        "scores": np.array(scores),
        "truth": label,
        "unit": np.sort(rng.integers(0, units, targets)),
        "equal": np.full(len(signal), 1 / len(signal)),
        "loss": "cross_entropy",
        "metric": "accuracy",
    }
    return Members(**facts | options)


def several_classes(seed=0, signal=(2.0, 2.0), targets=300, classes=4, units=30, unknown=0.1):
    """The same where several classes may be true, and some are not known."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((targets, classes)) < 0.3).astype(float)
    scores = [strength * truth + rng.normal(size=truth.shape) for strength in signal]
    truth[rng.random(truth.shape) < unknown] = np.nan
    return Members(
        names=tuple("abcdefgh"[: len(signal)]),
        scores=np.array(scores),
        truth=truth,
        unit=rng.integers(0, units, targets),
        equal=np.full(len(signal), 1 / len(signal)),
        loss="binary_cross_entropy",
        metric="average_precision",
    )

"""Classify clips by hand-made features over time, as a baseline for 3-D networks.

The IPP baseline of the MitoReID paper (Li et al., Nat Comput Sci 2024): the features of
`image_features.clip_features` at every time point, z-scored, given to a random forest, a linear
support vector machine and a multi-layer perceptron. The paper's LSTM and 1-D ResNet of the same
features are not here.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.tables import aligned
from cellsignal.competitions import get_competition
from cellsignal.competitions.folds import labelled
from cellsignal.config import Config
from cellsignal.data.folds import read_folds
from cellsignal.data.store import Store
from cellsignal.metrics.accuracy import Accuracy
from cellsignal.metrics.average_precision import average_precision_table
from cellsignal.metrics.intervals import mean_interval
from cellsignal.profiles.image_features import read_features

CLASSIFIERS = ("random forest", "linear SVM", "MLP")
# the row of guessing: always the most frequent class of the training tracks
LARGEST = "largest class"
COLUMNS = (
    *("classifier", "time", "accuracy", "correct", "n", "low", "high", "drug_low", "drug_high"),
    *("auc", "auc_low", "auc_high", "classes_tested", "drugs", "shared_drugs", "train"),
)
Time = Literal["each", "mean"]
_FAR = 10.0  # standard deviations beyond which a feature says no more


def baseline(config: Config, answers_file: Path | None) -> str:
    """Score each classifier on a config's tracks, as text.

    Trains on the training tracks and tests on the queries whose truth the answers tell; without
    answers on the drugs that fold 0 holds out. Features are of every time point, and their means
    over time.

    Raises:
        InputError: the competition's samples are not clips, or the store lacks a track.
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
        train, test = labelled(samples), samples.target_id.isin(answers.index).to_numpy()
        truth = answers.loc[samples.target_id[test]]
        label[test] = [classes.index(moa) for moa in truth.moa]
        drug[test] = truth["compound"].to_numpy(object)
    used = np.flatnonzero(train | test)
    rows = samples.row.to_numpy()[used]
    features = read_features(rows, store.read, competition.frames, config.data.workers)
    tracks = (label[used], drug[used], train[used], test[used])
    return ipp_text(ipp_table(features, *tracks, classes, times=("each", "mean")))


def standardised(features: np.ndarray, train: np.ndarray, time: Time = "each") -> np.ndarray:
    """Standardise by mean and SD of the training tracks alone, clipped to +-10.

    A feature that does not vary over them is 0 everywhere.

    Returns:
        (N, T, F) -> (N, T * F), time point t at t * F to (t + 1) * F; or (N, F) of means over time.
    """
    values = np.asarray(features, np.float64)
    x = values.reshape(len(values), -1) if time == "each" else values.mean(axis=1)
    mean, sd = x[train].mean(0), x[train].std(0)
    varies = sd > 1e-6 * np.maximum(1.0, np.abs(mean))
    return np.where(varies, ((x - mean) / np.where(varies, sd, 1.0)).clip(-_FAR, _FAR), 0.0)


def classifier_scores(
    name: str, x: np.ndarray, label: np.ndarray, query: np.ndarray, n_classes: int, seed: int = 0
) -> np.ndarray:
    """Fit one of `CLASSIFIERS` and score queries.

    Random forest: 300 trees, classes balanced. Linear SVM: one against the rest, C = .001
    (neighbouring time points say nearly the same), classes balanced. MLP: 128 hidden units, L2 of
    1, 100 epochs of Adam at most.

    Args:
        x: (N, D) z-scores of the training tracks.
        label: (N,) int in [0, n_classes).
        query: (Q, D).

    Returns:
        (Q, n_classes) float64, higher is likelier: probabilities, of the SVM signed distances. A
        class without a training track has the lowest score of all.

    Raises:
        InputError: the training tracks are of one class, or no such classifier.
    """
    if len(np.unique(label)) < 2:
        raise InputError(f"{name}: the {len(label)} training tracks are all of one class")
    model = _classifier(name, seed)
    with warnings.catch_warnings():
        # the limit of epochs is part of the recipe
        warnings.filterwarnings("ignore", message=".*(converge|Maximum iterations)")
        model.fit(x, label)
    if hasattr(model, "predict_proba"):
        scores = model.predict_proba(query)
    else:
        scores = model.decision_function(query)
        scores = np.c_[-scores, scores] if scores.ndim == 1 else scores
    out = np.full((len(query), n_classes), scores.min() if scores.size else 0.0)
    out[:, model.classes_] = scores
    return out


def _classifier(name: str, seed: int):
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.neural_network import MLPClassifier
    from sklearn.svm import LinearSVC

    match name:
        case "random forest":
            return RandomForestClassifier(300, class_weight="balanced_subsample", random_state=seed)
        case "linear SVM":
            return LinearSVC(C=1e-3, class_weight="balanced", random_state=seed)
        case "MLP":
            return MLPClassifier((128,), alpha=1.0, max_iter=100, random_state=seed)
    raise InputError(f"no classifier is called {name!r}; there are {', '.join(CLASSIFIERS)}")


def ipp_table(
    features: np.ndarray,
    label: np.ndarray,
    drug: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    classes: Sequence[str],
    classifiers: Sequence[str] = CLASSIFIERS,
    times: Sequence[Time] = ("each",),
    seed: int = 0,
) -> pd.DataFrame:
    """Fit on the training tracks and score the test tracks, beside naming the largest class.

    Args:
        features: (N, T, F) of all tracks, `read_features`.
        label, drug: (N,) int and text, known for training and test tracks alike.
        train, test: (N,) bool; the published parts, or folds of whole drugs.
        classes: the K names.
        times: "each" (features at every time point) and "mean" (their means over time).

    Returns:
        Columns `COLUMNS`. accuracy has Wilson's interval (low, high) and one over drugs; auc is one
        against the rest, macro over the classes that the test tracks hold (classes_tested),
        interval over drugs: NaN where too few drugs allow one. shared_drugs are test
        drugs that also trained.

    Raises:
        InputError: an empty part, a track in both, a track without label or drug, one class.
    """
    label, drug = np.asarray(label), np.asarray(drug, dtype=object)
    train, test = np.asarray(train, bool), np.asarray(test, bool)
    _check_parts(label, drug, train, test, len(classes))
    train_label, truth = label[train].astype(int), label[test].astype(int)
    guess = np.zeros((int(test.sum()), len(classes)))
    guess[:, np.bincount(train_label).argmax()] = 1
    scores = {(LARGEST, ""): guess}
    for time in times:
        x = standardised(features, train, time)
        for name in classifiers:
            data = (x[train], train_label, x[test], len(classes))
            scores[name, time] = classifier_scores(name, *data, seed)
    drugs = drug[test]
    parts = (len(set(drugs) & set(drug[train])), int(train.sum()))
    rows = [
        (*key, *score_row(values, truth, drugs, classes), *parts) for key, values in scores.items()
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _check_parts(
    label: np.ndarray, drug: np.ndarray, train: np.ndarray, test: np.ndarray, n_classes: int
) -> None:
    what = "hand-made features"
    if not train.any() or not test.any():
        raise InputError(
            f"{what}: {train.sum()} training and {test.sum()} test tracks; both are needed"
        )
    if (train & test).any():
        raise InputError(f"{what}: {(train & test).sum()} tracks are in training and test alike")
    used = train | test
    for name, values in (("label", label), ("drug", drug)):
        missing = int(pd.isna(values[used]).sum())
        if missing:
            raise InputError(f"{what}: {missing} training or test tracks have no {name}")
    assert label[used].min() >= 0 and label[used].max() < n_classes, "a label outside the classes"


def score_row(
    scores: np.ndarray,
    truth: np.ndarray,
    drugs: np.ndarray,
    classes: Sequence[str],
) -> tuple:
    """Return accuracy and macro AUC of (Q, K) scores: `COLUMNS` from accuracy to drugs."""
    right = scores.argmax(1) == truth
    share = Accuracy.of(int(right.sum()), len(right))
    one_hot = np.eye(len(classes))[truth]
    table = average_precision_table(one_hot, scores, classes, drugs)
    macro, tested = table.iloc[0], int(table.roc_auc[1:].notna().sum())
    return (
        *(share.value, share.correct, share.total, share.low, share.high),
        *mean_interval(right, drugs),
        *(macro.roc_auc, macro.roc_auc_low, macro.roc_auc_high),
        tested,
        len(set(drugs)),
    )


def ipp_text(table: pd.DataFrame) -> str:
    """Format the table for a terminal."""
    header = ("classifier", "features", "accuracy", "right", "Wilson 95 %", "over drugs 95 %")
    lines = [(*header, "macro AUC", "over drugs 95 %")]
    words = {"": "", "each": "each time point", "mean": "mean over time"}
    for row in table.itertuples():
        share = (f"{row.accuracy:.4f}", f"{row.correct:,}/{row.n:,}")
        intervals = (_range(row.low, row.high), _range(row.drug_low, row.drug_high))
        auc = "" if np.isnan(row.auc) else f"{row.auc:.4f}"
        auc_cells = (auc, _range(row.auc_low, row.auc_high))
        lines.append((row.classifier, words[row.time], *share, *intervals, *auc_cells))
    first = table.iloc[0]
    shared = "none of them trained on"
    if first.shared_drugs:
        shared = f"{first.shared_drugs} of them trained on too"
    last = (
        f"{first.train:,} training tracks; test tracks of {first.drugs} drugs, {shared}; AUC over "
        f"{first.classes_tested} classes"
    )
    return f"{aligned(lines, right={2, 3, 6})}\n{last}"


def _range(low: float, high: float) -> str:
    return "" if np.isnan(low) else f"{low:.3f} .. {high:.3f}"

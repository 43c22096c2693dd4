"""Classify wells by their embeddings: class centres, nearest wells, or a linear classifier.

Classification fits on the training wells of an embeddings file's fold alone, and writes an ordinary
predictions file.
"""

import functools
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp

from cellsignal.common.errors import InputError
from cellsignal.common.files import provenance, sha256
from cellsignal.common.ties import CHORD_TOLERANCE
from cellsignal.competitions import get_competition
from cellsignal.config import Config
from cellsignal.evaluation.matching import average
from cellsignal.prediction.container import save_predictions
from cellsignal.prediction.embeddings import Embeddings, embed, load_embeddings
from cellsignal.prediction.freshness import MADE_FROM
from cellsignal.profiles.batch_effects import Normalisation, Reference, Unit, normalise

Metric = Literal["cosine", "euclidean"]
_QUERIES = 256  # wells whose distances are in memory at a time
_CLASSIFIED = ("oof", "test")  # parts whose wells are classified


@dataclass(frozen=True)
class Classification:
    """How embeddings become scores; see the functions below and `profiles.batch_effects`.

    `by` and `reference` are ignored with normalise "none", `k` but with "knn", `metric` with
    "linear".
    """

    method: Literal["centre", "knn", "linear"] = "centre"
    metric: Metric = "cosine"
    k: int = 5
    normalise: Normalisation = "centre"
    by: Unit = "plate"
    reference: Reference | None = None


def classify(config: Config, how: Classification) -> list[Path]:
    """Classify the out-of-fold and test wells of every fold by its training wells.

    Embeds first where that is still to do. Writes `<run
    folder>/predictions_embeddings/<fold>_<stage>_<method>.npz`, predictions files with the one view
    "embedding" and a run of their own, `<name>_<method>/seed<k>`, so that they can be submitted
    alone or merged with the softmax's.

    Raises:
        InputError: see `embed`; a plate or experiment with too few reference wells; less than k
            training wells.
    """
    get_competition(config.competition).task.require_one_label("classify")
    paths = []
    for source in embed(config):
        embeddings = load_embeddings(source)
        targets, scores = classify_wells(embeddings, how)
        path = config.run_folder / "predictions_embeddings" / f"{source.stem}_{how.method}.npz"
        same = "competition classes seed stage stage_index fold fold_group data_root"
        about = provenance(
            {str(source): source},
            **{name: embeddings.about[name] for name in same.split()},
            run=f"{config.name}_{how.method}/seed{config.seed}",
            settings=embeddings.about["settings"] | asdict(how),
            submit=config.submit.model_dump(mode="json"),
            **{MADE_FROM: {"embeddings": sha256(source), "how": asdict(how)}},
        )
        save_predictions(path, targets, targets.part.to_numpy(), {"embedding": scores}, about)
        paths.append(path)
    return paths


def classify_wells(embeddings: Embeddings, how: Classification) -> tuple[pd.DataFrame, np.ndarray]:
    """Score the out-of-fold and test wells of one fold by the fold's training treatments.

    Each model's space is taken by itself, the sites of a well are averaged first. A label is read
    of training wells alone; normalisation may see all wells, but no label.

    Returns:
        One row of the samples for each target, and (T, K) float32 log-probabilities; targets of a
        well share its scores.
    """
    samples, n_classes = embeddings.samples, len(embeddings.about["classes"])
    tables, scores = [], []
    for _, rows in samples.groupby("model", sort=True).indices.items():
        targets = samples.iloc[rows]
        targets = targets[targets.part.isin(_CLASSIFIED)].drop_duplicates("target_id")
        # a fold table may split the images of a well: then each part is averaged by itself
        x, wells = average(embeddings.values[rows], samples.iloc[rows], ("well_id", "part"))
        x = normalise(x, wells, how.normalise, how.by, how.reference)
        if not len(targets):
            continue
        train = (wells.part == "train").to_numpy()
        query = wells.part.isin(_CLASSIFIED).to_numpy()
        data = (x[train], wells.label.to_numpy()[train], x[query], n_classes)
        well_scores = scores_of(how.method, how.metric, how.k)(*data)
        places = pd.MultiIndex.from_frame(wells.loc[query, ["well_id", "part"]])
        tables.append(targets)
        wanted = pd.MultiIndex.from_frame(targets[["well_id", "part"]])
        scores.append(well_scores[places.get_indexer(wanted)])
    if not tables:
        raise InputError(f"{embeddings.path}: has neither out-of-fold nor test wells to classify")
    return pd.concat(tables, ignore_index=True), np.concatenate(scores)


def scores_of(method: str, metric: Metric, k: int) -> Callable[..., np.ndarray]:
    """Return the function of training wells, labels, queries and classes that scores queries."""
    if method == "linear":
        return linear_scores
    if method == "knn":
        return functools.partial(neighbour_scores, metric=metric, k=k)
    return functools.partial(centre_scores, metric=metric)


def centre_scores(
    x: np.ndarray, label: np.ndarray, query: np.ndarray, n_classes: int, metric: Metric = "cosine"
) -> np.ndarray:
    """Score by the nearest class centre: log softmax(-t d^2), d the distance to a class's mean.

    t is the one under which training wells are most likely, each scored with its own class's centre
    made without it: the scores are as sharp as the training wells of a class agree. Where no class
    has two wells, t lets the other classes at their mean distance share a probability of 1 / K when
    the query is at a class's centre.

    Args:
        x: (N, D) training wells.
        label: (N,) int below `n_classes`.
        query: (M, D).
        metric: cosine first scales all vectors, and the centres, to length one: d^2 is then 2 - 2
            cos.

    Returns:
        (M, n_classes) float32; a class without a training well is as unlikely as the least likely
        other.
    """
    x, query = _scale(x, metric), _scale(query, metric)
    classes, code, size = np.unique(label, return_inverse=True, return_counts=True)
    total = np.zeros((len(classes), x.shape[1]), np.float32)
    np.add.at(total, code, x)
    centres = _scale(total / size[:, None], metric)
    several = size[code] > 1
    without = _scale((total[code] - x)[several] / (size[code][several] - 1)[:, None], metric)
    to_centres = _squared_distances(x[several], centres)
    to_own_centre = np.square(x[several] - without).sum(1)
    to_centres[np.arange(len(to_centres)), code[several]] = to_own_centre
    distance = _squared_distances(query, centres)
    scores = -_sharpness(to_centres, code[several], distance) * distance
    return _fill_classes(scores, classes, n_classes)


def neighbour_scores(
    x: np.ndarray,
    label: np.ndarray,
    query: np.ndarray,
    n_classes: int,
    metric: Metric = "cosine",
    k: int = 5,
) -> np.ndarray:
    """Score by the k nearest training wells, each voting with 1 / distance.

    The score is log((k v + 1 / K) / (k + 1)), v the class's share of the votes, K the number of
    classes: a prior of one well spread over all classes keeps the logarithm finite. Wells that are
    equally far at the k-th place share the places that are left, so that no order of the table
    decides which of them votes. Arguments and result as in `centre_scores`.

    Raises:
        InputError: less than k training wells.
    """
    if len(x) < k:
        raise InputError(f"k: {k} neighbours asked for, {len(x)} training wells there")
    x, query = (np.asarray(_scale(values, metric), np.float64) for values in (x, query))
    # what float32 cannot separate; unit vectors have length one
    tolerance = CHORD_TOLERANCE * max(1.0, float(np.abs(x).max(initial=0)))
    member = np.zeros((len(x), n_classes))
    member[np.arange(len(x)), label] = 1
    votes = np.empty((len(query), n_classes))
    for start in range(0, len(query), _QUERIES):
        part = slice(start, start + _QUERIES)
        distance = np.sqrt(_squared_distances(query[part], x))
        votes[part] = _vote_weights(distance, k, tolerance) @ member
    return np.log((k * votes + 1 / n_classes) / (k + 1)).astype(np.float32)


def linear_scores(
    x: np.ndarray, label: np.ndarray, query: np.ndarray, n_classes: int, strength: float = 1.0
) -> np.ndarray:
    """Score by a logistic regression (scikit-learn's, classes balanced, L2).

    Features are standardised over the training wells; those that do not vary are left out. Where
    there are more features than wells the regression happens in the span of the wells, which
    changes nothing.

    Args:
        strength: C, the inverse of the L2 penalty. The others and the result as in `centre_scores`.

    Raises:
        InputError: the training wells are of one class.
    """
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(label)) < 2:
        raise InputError("linear: the training wells are all of one class")
    x, query = np.asarray(x, np.float64), np.asarray(query, np.float64)
    mean, sd = x.mean(0), x.std(0)
    x, query = ((values - mean)[:, sd > 0] / sd[sd > 0] for values in (x, query))
    if x.shape[1] > len(x):
        axes = np.linalg.svd(x, full_matrices=False)[2].T
        x, query = x @ axes, query @ axes
    model = LogisticRegression(C=strength, class_weight="balanced", max_iter=2000).fit(x, label)
    return _fill_classes(model.predict_log_proba(query), model.classes_, n_classes)


def _fill_classes(scores: np.ndarray, classes: np.ndarray, n_classes: int) -> np.ndarray:
    """Log-probabilities of all classes; one without a score is as unlikely as the least likely."""
    out = np.repeat(scores.min(1, keepdims=True), n_classes, axis=1)
    out[:, classes] = scores
    return log_softmax(out, axis=1).astype(np.float32)


def _vote_weights(distance: np.ndarray, k: int, tolerance: float) -> np.ndarray:
    """(Q, N) weights of the k nearest wells, 1 / distance, adding up to 1 in each row.

    Wells tied at the k-th place share what is left of k.
    """
    last = np.partition(distance, k - 1, axis=1)[:, k - 1 : k]
    nearer, tied = distance < last - tolerance, np.abs(distance - last) <= tolerance
    places = (k - nearer.sum(axis=1, keepdims=True)) / tied.sum(axis=1, keepdims=True)
    chosen = np.where(nearer, 1.0, np.where(tied, places, 0.0))
    exact = (distance <= tolerance) & (chosen > 0)
    by_distance = chosen / np.maximum(distance, tolerance)
    weight = np.where(exact.any(axis=1, keepdims=True), exact * chosen, by_distance)
    return weight / weight.sum(axis=1, keepdims=True)


def _scale(x: np.ndarray, metric: Metric) -> np.ndarray:
    """float32; of length one for cosine."""
    x = np.asarray(x, np.float32)
    if metric == "cosine":
        x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return x


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(A, B) squared Euclidean distances.

    What all have in common is taken out first: the difference of large squares would round it away.
    """
    a, b = a - b.mean(0), b - b.mean(0)
    return np.maximum(np.square(a).sum(1)[:, None] + np.square(b).sum(1) - 2 * a @ b.T, 0)


def _sharpness(squared: np.ndarray, code: np.ndarray, queries: np.ndarray) -> float:
    """Return the t that makes each row's own class most likely in softmax(-t squared)."""
    if not len(squared):
        return 2 * np.log(queries.shape[1]) / max(queries.mean(), 1e-30)
    least = -np.log(max(squared.mean(), 1e-30))

    def surprise(log_t: float) -> float:
        scores = -np.exp(log_t) * squared
        return float((logsumexp(scores, axis=1) - scores[np.arange(len(code)), code]).mean())

    best = minimize_scalar(surprise, bounds=(least - 4, least + 8), method="bounded")
    return float(np.exp(best.x))

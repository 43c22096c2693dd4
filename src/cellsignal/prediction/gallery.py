"""Rank a gallery of labelled tracks with the embeddings of a run.

Every fold's network has a space of its own: distances are averaged over the folds, embeddings
never.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.competitions.base import Competition
from cellsignal.config import Config
from cellsignal.evaluation.reid import cosine_distances
from cellsignal.prediction.embeddings import Embeddings
from cellsignal.prediction.entry import open_entry
from cellsignal.prediction.predict import predict
from cellsignal.training.job import Job
from cellsignal.training.self_supervised import images_without_labels


@dataclass(frozen=True)
class Space:
    """Distances of some samples to a gallery, averaged over the embeddings files of a run.

    Attributes:
        distance: (Q, G) cosine distances.
        query, gallery: (Q, D) and (G, D) embeddings of the first file, for pictures.
    """

    distance: np.ndarray
    query: np.ndarray
    gallery: np.ndarray


def distances(files: Sequence[Embeddings], query: list[str], gallery: list[str]) -> Space:
    """Measure how far samples are from those of a gallery, both given by sample id.

    Raises:
        InputError: a sample that a file lacks.
    """
    spaces = [(_rows_of(file, query), _rows_of(file, gallery)) for file in files]
    mean = sum(cosine_distances(*space) for space in spaces) / len(spaces)
    return Space(mean, *spaces[0])


def _rows_of(file: Embeddings, sample_ids: list[str]) -> np.ndarray:
    rows = pd.Index(file.samples.sample_id).get_indexer(sample_ids)
    missing = np.array(sample_ids, object)[rows < 0]
    if len(missing):
        raise InputError(
            f"{file.path}: lacks the embeddings of {len(missing)} samples, first {missing[0]!r}; "
            "embed again"
        )
    return file.values[rows].astype(np.float32)


def scoring_tables(
    competition: Competition, answers: pd.DataFrame, query: list[str], gallery: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return queries and gallery as `evaluation.reid` takes them.

    Columns target_id, label (the mechanism's name), compound, library.
    """
    id_column = competition.id_column
    queries = answers.set_index(id_column).loc[query].reset_index()
    names = {"moa": "label", "experiment": "library", id_column: "target_id"}
    tracks = gallery.drop(columns="label").rename(columns={"moa": "label", "drug": "compound"})
    return queries.rename(columns=names), tracks


def seen_compounds(jobs: Sequence[Job], query: Mapping[str, str]) -> dict[str, set[str]]:
    """Return the compounds, negative controls apart, that each stage trained on or validated with.

    Args:
        query: query -> its compound, which the samples table hides: a stage may train on the images
            of queries.

    Returns:
        Stage -> compounds of its images, used with or without their labels.
    """
    seen: dict[str, set[str]] = {}
    for job in jobs:
        images = np.concatenate([job.train, job.valid, _unlabelled_images(job)]).astype(int)
        rows = job.store.samples.iloc[np.unique(images)]
        rows = rows[rows.role != "negative_control"]
        compounds = rows["compound"].fillna(rows.target_id.map(query)).dropna()
        seen.setdefault(job.stage.name, set()).update(compounds)
    return seen


def _unlabelled_images(job: Job) -> np.ndarray | list[int]:
    """Positions of the samples that a stage trains on without their labels."""
    stage = job.stage
    if stage.self_supervised is not None:
        return images_without_labels(job)
    teacher = stage.mean_teacher
    uses_test = teacher is not None and teacher.unlabelled == "test"
    return job.test if uses_test or stage.pseudo_labels is not None else []


def class_scores(
    config: Config, competition: Competition, query: pd.DataFrame
) -> tuple[np.ndarray, np.ndarray]:
    """Return scores of the queries, merged as a submission merges them, and their labels.

    Args:
        query: Q rows with target_id and label, the mechanism's name.

    Returns:
        (Q, K) scores and (Q,) int labels.

    Raises:
        InputError: a query's mechanism is not a class.
    """
    classes = competition.classes(config.data.root)
    label = pd.Index(classes).get_indexer(query.label)
    if (label < 0).any():
        row = query.iloc[int(label.argmin())]
        raise InputError(
            f"answers: {row.label!r} of {row.target_id!r} is not one of the {len(classes)} "
            "mechanisms"
        )
    entry = open_entry(predict(config), config.submit, root=config.data.root)
    targets = entry.merge(entry.final(), "test", pool=config.submit.pool)
    return targets.scores[pd.Index(targets.target_id).get_indexer(query.target_id)], label

"""From the embeddings of a run to rankings of a gallery: a submission, its figures where the truth is known, pictures, and names for unseen compounds.

Every fold's network has a space of its own: distances are averaged over the folds, embeddings never.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.competitions import get_competition
from cellsignal.competitions.base import Competition
from cellsignal.config import Config
from cellsignal.data.store import Store
from cellsignal.errors import InputError
from cellsignal.evaluation.reid import cosine_distances, nearest, reid, reid_table, reid_text
from cellsignal.evaluation.reid_plots import clip_frames, cmc_curves, nearest_tracks_picture, reid_tsne
from cellsignal.evaluation.unseen import predict_unseen
from cellsignal.files import provenance, write_csv, write_json
from cellsignal.prediction.embeddings import Embeddings, load_embeddings

NEAREST = 5  # tracks in the picture of a query


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


def distances(files: list[Embeddings], asked: list[str], gallery: list[str]) -> Space:
    """How far the samples `asked` are from those of the gallery (sample ids).

    Raises:
        InputError: a sample that a file lacks.
    """
    found = []
    for file in files:
        place = pd.Index(file.samples.sample_id)
        rows = [place.get_indexer(names) for names in (asked, gallery)]
        lost = [name for names, at in zip((asked, gallery), rows, strict=True) for name, row in zip(names, at, strict=True) if row < 0]
        if lost:
            raise InputError(f"{file.path}: lacks the embeddings of {len(lost)} samples, first {lost[0]!r}; embed again")
        found.append(tuple(file.values[at].astype(np.float32) for at in rows))
    mean = sum(cosine_distances(*pair) for pair in found) / len(found)
    return Space(mean, *found[0])


def rank(config: Config, files: list[Path], answers_file: Path | None, out: Path) -> str:
    """Rank the gallery for every query, write the submission, and say how good it is where the answers are given.

    Args:
        files: embeddings of the run, one a fold.
        answers_file: the competition's answers; without them nothing is scored.

    Returns:
        The tables and what was written, as text.

    Raises:
        InputError: the competition does not ask for rankings, or an embeddings file does not fit.
    """
    competition, root = get_competition(config.competition), config.data.root
    if not competition.ranked:
        raise InputError(f"rank: {config.competition} does not ask for rankings; use submit")
    embedded = [load_embeddings(path) for path in files]
    gallery, asked = competition.gallery(root), competition.sample_submission(root)[competition.id_column].tolist()
    space = distances(embedded, asked, gallery.target_id.tolist())
    submission = competition.format_rankings(asked, nearest(space.distance), root)
    competition.validate_submission(submission, competition.sample_submission(root), competition.classes(root))
    write_csv(out, submission)
    made_from = {str(path): path for path in files}
    write_json(out.with_suffix(".json"), provenance(made_from, competition=competition.id, rows=len(submission), run=embedded[0].about["run"]))
    parts = [f"submission: {out}"]
    if answers_file is not None:
        parts.insert(0, _scored(config, competition, competition.answers(answers_file), asked, gallery, space))
    unseen = _unseen(config, competition, embedded, gallery)
    return "\n\n".join([*parts, *([unseen] if unseen else [])])


def _scored(
    config: Config, competition: Competition, answers: pd.DataFrame, asked: list[str], gallery: pd.DataFrame, space: Space
) -> str:
    """Figures by both protocols, and the pictures."""
    known = answers.set_index(competition.id_column).loc[asked].reset_index()
    query = known.rename(columns={"moa": "label", "experiment": "library"})
    tracks = gallery.drop(columns="label").rename(columns={"moa": "label", "drug": "compound"})
    found = {name: reid(space.distance, query, tracks, name) for name in ("published", "strict")}
    folder = config.run_folder / "report"
    cmc_curves(folder / "cmc.png", found, title=f"{config.name}: cumulative match characteristic")
    names = sorted(set(query.label) | set(tracks.label))
    codes = [pd.Categorical(labels, names).codes.astype(int) for labels in (query.label, tracks.label)]
    reid_tsne(folder / "reid_tsne.png", space.query, codes[0], space.gallery, codes[1], names, title=f"{config.name}: query and gallery (t-SNE)")
    _picture(folder / "nearest.png", config, competition, asked[0], query.label[0], tracks, nearest(space.distance[:1], NEAREST)[0])
    pictures = [folder / name for name in ("cmc.png", "reid_tsne.png", "nearest.png")]
    return f"{reid_text(reid_table({config.name: list(found.values())}))}\n\n" + "\n".join(f"picture: {path}" for path in pictures)


def _picture(
    path: Path, config: Config, competition: Competition, query: str, truth: str, gallery: pd.DataFrame, near: np.ndarray
) -> None:
    store = Store.open(config.data.store)
    row = dict(zip(store.samples.sample_id, store.samples.row, strict=True))
    rows = gallery.iloc[near]
    clips = [clip_frames(store.read(int(row[name])), competition.frames) for name in (query, *rows.target_id)]
    captions = [f"query: {truth}", *(f"{label} ({drug})" for label, drug in zip(rows.label, rows["compound"], strict=True))]
    nearest_tracks_picture(path, clips[0], clips[1:], captions, matches=[label == truth for label in rows.label], title=f"{config.name}: {query}")


def _unseen(config: Config, competition: Competition, embedded: list[Embeddings], gallery: pd.DataFrame) -> str:
    """The mechanisms of compounds that have none: a CSV of tracks and one of compounds under the run's folder."""
    samples = competition.samples(config.data.root)
    known = set(gallery.target_id)
    mask = (samples.role == "reference") & (samples.split == "test") & ~samples.sample_id.isin(known) & samples["compound"].notna()
    unseen = samples[mask][["sample_id", "compound"]].reset_index(drop=True)
    if unseen.empty:
        return ""
    space = distances(embedded, unseen.sample_id.tolist(), gallery.target_id.tolist())
    names = (*competition.classes(config.data.root), "DMSO")
    tracks = gallery.rename(columns={"target_id": "sample_id", "drug": "compound"})
    found = predict_unseen(space.distance, unseen, tracks, names)
    folder = config.run_folder / "unseen"
    write_csv(folder / "tracks.csv", found.tracks)
    write_csv(folder / "compounds.csv", found.compounds)
    return f"unseen compounds: {len(found.compounds)} in {folder / 'compounds.csv'}, their {len(found.tracks)} tracks in {folder / 'tracks.csv'}"

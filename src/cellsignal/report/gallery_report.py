"""Rank a competition's gallery: the submission, its figures, pictures, and unseen compounds."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.files import limited_name, provenance, write_csv, write_json, write_text
from cellsignal.common.ties import duplicates_notes
from cellsignal.competitions import get_competition
from cellsignal.competitions.base import Competition
from cellsignal.config import Config
from cellsignal.data.store import Store
from cellsignal.evaluation.leaderboard import LEADERBOARD
from cellsignal.evaluation.reid import NEW_DRUGS, ReId, classified, nearest, reid, reid_new_drugs
from cellsignal.evaluation.reid_table import reid_table, reid_text, seen_text
from cellsignal.evaluation.standing import check_replacing, runs_of
from cellsignal.evaluation.unseen import (
    Unseen,
    nearest_first,
    predict_unseen,
    typical_track,
    unseen_right,
    unseen_text,
)
from cellsignal.prediction.embeddings import Embeddings, load_embeddings
from cellsignal.prediction.gallery import (
    Space,
    class_scores,
    distances,
    scoring_tables,
    seen_compounds,
)
from cellsignal.report.embedding_plots import reid_tsne
from cellsignal.report.reid_plots import clip_frames, cmc_curves, nearest_tracks_picture, roc_curves
from cellsignal.training.plan import jobs_of


def rank(
    config: Config,
    files: list[Path],
    answers_file: Path | None,
    out: Path,
    *,
    neighbours: int = 5,
    pictures: int = 8,
) -> str:
    """Rank the gallery for every query, write the submission, score it, name unseen compounds.

    Args:
        files: embeddings of the run, one a fold.
        answers_file: the competition's answers; without them nothing is scored.
        neighbours: nearest tracks in a picture.
        pictures: unseen compounds that get one, those nearest to the gallery first.

    Returns:
        The tables and what was written, as text.

    Raises:
        InputError: the competition does not ask for rankings, or an embeddings file does not fit.
    """
    competition, root = get_competition(config.competition), config.data.root
    competition.task.require_ranking("rank")
    embeddings = [load_embeddings(path) for path in files]
    sample = competition.sample_submission(root)
    ranking = _Ranking(
        config,
        competition,
        embeddings,
        query=sample[competition.id_column].tolist(),
        gallery=competition.gallery(root),
        neighbours=neighbours,
    )
    space = ranking.measure(ranking.query)
    submission = competition.task.format_rankings(ranking.query, nearest(space.distance), root)
    competition.task.check_submission(submission, sample, competition.classes(root))
    _write_submission(competition, submission, out, files, embeddings[0].about["run"])
    parts, truth = [f"submission: {out}"], {}
    if answers_file is not None:
        truth = competition.compound_answers(answers_file)
        parts.insert(0, _score(ranking, space, competition.answers(answers_file)))
    unseen = _name_unseen(ranking, truth, pictures)
    return "\n\n".join([*parts, *([unseen] if unseen else [])])


def _write_submission(
    competition: Competition, submission: pd.DataFrame, out: Path, files: list[Path], run: str
) -> None:
    text = submission.to_csv(index=False)
    check_replacing(LEADERBOARD, competition.id, out, text, force=runs_of(out) == [run])
    write_text(out, text)
    inputs = {str(path): path for path in files}
    facts = {"competition": competition.id, "rows": len(submission), "runs": [run]}
    write_json(out.with_suffix(".json"), provenance(inputs, **facts))


@dataclass(frozen=True)
class _Ranking:
    """What all parts of the report share.

    Attributes:
        embeddings: of the run, one a fold.
        query: ids of the queries.
        gallery: one row a track: target_id, label, moa, drug, library.
        neighbours: nearest tracks in a picture.
    """

    config: Config
    competition: Competition
    embeddings: list[Embeddings]
    query: list[str]
    gallery: pd.DataFrame
    neighbours: int

    def measure(self, sample_ids: list[str]) -> Space:
        """Measure the distances of samples to the gallery."""
        return distances(self.embeddings, sample_ids, self.gallery.target_id.tolist())

    def draw_nearest(
        self,
        path: Path,
        track: str,
        caption: str,
        distance: np.ndarray,
        rows: np.ndarray,
        matches: list[bool] | None = None,
    ) -> None:
        """Draw a track and those of some rows of the gallery; `distance` is (G,), the track's."""
        store = Store.open(self.config.data.store)
        store_row = dict(zip(store.samples.sample_id, store.samples.row, strict=True))
        tracks = self.gallery.iloc[rows]
        clips = [
            clip_frames(store.read(int(store_row[name])), self.competition.frames)
            for name in (track, *tracks.target_id)
        ]
        captions = [
            f"{moa}, drug {drug}, {far:.3f}"
            for moa, drug, far in zip(tracks.moa, tracks.drug, distance[rows], strict=True)
        ]
        title = f"{self.config.name}: nearest tracks, cosine distance"
        nearest_tracks_picture(
            path, clips[0], clips[1:], [caption, *captions], matches=matches, title=title
        )


def _score(ranking: _Ranking, space: Space, answers: pd.DataFrame) -> str:
    """Figures by every protocol, and the pictures."""
    config, competition = ranking.config, ranking.competition
    query, gallery = scoring_tables(competition, answers, ranking.query, ranking.gallery)
    jobs = jobs_of(config)
    seen = seen_compounds(jobs, dict(zip(query.target_id, query["compound"], strict=True)))
    figures, notes = _score_protocols(space.distance, query, gallery, seen)
    notes += duplicates_notes(space.gallery, "gallery tracks")
    pictures = _draw(ranking, space, query, gallery, figures)
    rows = list(figures.values())
    last = jobs[-1]
    if last.class_space == "label" and last.stage.self_supervised is None:
        scores, label = class_scores(config, competition, query)
        rows.append(classified(scores, query.assign(label=label)))
        if len(set(label)) > 1:
            pictures.append(config.run_folder / "report" / "roc.png")
            title = f"{config.name}: ROC, each mechanism against the rest"
            roc_curves(pictures[-1], scores, label, title=title)
    else:
        notes.append(
            f"Stage {last.stage.name} predicts no mechanism: it has neither accuracy nor AUC."
        )
    table = reid_text(reid_table({config.name: rows}))
    return "\n".join([table, "", *notes, *(f"picture: {path}" for path in pictures)])


def _score_protocols(
    distance: np.ndarray, query: pd.DataFrame, gallery: pd.DataFrame, seen: dict[str, set[str]]
) -> tuple[dict[str, ReId], list[str]]:
    """Return metrics by protocol, and notes on them and on missing ones."""
    figures = {"published": reid(distance, query, gallery, "published")}
    notes = [seen_text(seen, query)]
    try:
        figures["strict"] = reid(distance, query, gallery, "strict")
        new = reid_new_drugs(distance, query, gallery, set().union(*seen.values()))
        if new is not None:
            figures[NEW_DRUGS] = new
    except InputError as error:  # no match is left: the tables themselves have just been scored
        notes.append(f"Left out: {error}.")
    return figures, notes


def _draw(
    ranking: _Ranking,
    space: Space,
    query: pd.DataFrame,
    gallery: pd.DataFrame,
    figures: dict[str, ReId],
) -> list[Path]:
    """Draw the CMC curves, the t-SNE, and the first query with its nearest tracks."""
    folder = ranking.config.run_folder / "report"
    pictures = [folder / name for name in ("cmc.png", "reid_tsne.png", "nearest.png")]
    title = f"{ranking.config.name}: "
    cmc_curves(pictures[0], figures, title=f"{title}cumulative match characteristic")
    names = sorted(set(query.label) | set(gallery.label))
    query_code, gallery_code = (pd.Index(names).get_indexer(t.label) for t in (query, gallery))
    reid_tsne(
        pictures[1],
        space.query,
        query_code,
        space.gallery,
        gallery_code,
        names,
        title=f"{title}query and gallery (t-SNE)",
    )
    first = query.iloc[0]
    # which the published protocol leaves out
    left_out = (gallery["compound"] == first["compound"]) & (gallery.library == first.library)
    distance = np.where(left_out, np.inf, space.distance[:1])
    near = nearest(distance, ranking.neighbours)[0][: (~left_out).sum()]
    caption = f"query {ranking.query[0]}: {first.label}, drug {first['compound']}"
    matches = (gallery.label.iloc[near] == first.label).tolist()
    ranking.draw_nearest(pictures[2], ranking.query[0], caption, space.distance[0], near, matches)
    return pictures


def _name_unseen(ranking: _Ranking, truth: dict[str, str], pictures: int) -> str:
    """List the predicted mechanisms of unlabelled compounds; "" if there are none.

    Writes a CSV of tracks, one of compounds, and pictures under the run's folder.
    """
    unseen, notes = _unseen_tracks(ranking)
    if unseen.empty:
        return "\n".join(notes)
    distance = ranking.measure(unseen.sample_id.tolist()).distance
    names = (*ranking.competition.classes(ranking.config.data.root), "DMSO")
    gallery = ranking.gallery.rename(columns={"target_id": "sample_id", "drug": "compound"})
    named = predict_unseen(distance, unseen, gallery, names)
    folder = ranking.config.run_folder / "unseen"
    write_csv(folder / "tracks.csv", named.tracks)
    write_csv(folder / "compounds.csv", named.compounds)
    drawn = _draw_unseen(ranking, folder, named, distance, pictures)
    lines = [
        f"unseen compounds: {len(named.compounds)} in {folder / 'compounds.csv'}, their "
        f"{len(named.tracks)} tracks in {folder / 'tracks.csv'}"
    ]
    if drawn:
        lines.append(f"pictures of {drawn} of them in {folder}")
    lines += [*notes, "", unseen_text(named.compounds, truth)]
    right = unseen_right(named.compounds, truth)
    if right is not None:
        lines.append(
            f"compounds named right: {right.format()}, 95 % Wilson interval; {len(names) - 1} "
            "mechanisms and DMSO"
        )
    return "\n".join(lines)


def _unseen_tracks(ranking: _Ranking) -> tuple[pd.DataFrame, list[str]]:
    """Columns sample_id and compound of reference tracks without an answer; notes."""
    gallery = ranking.gallery
    samples = ranking.competition.samples(ranking.config.data.root)
    candidates = samples[
        (samples.role == "reference")
        & (samples.split == "test")
        & ~samples.sample_id.isin(set(gallery.target_id))
        & samples["compound"].notna()
    ]
    known = candidates["compound"].isin(set(gallery.drug))
    left_out = sorted(candidates["compound"][known].unique())
    notes = []
    if left_out:
        notes.append(
            f"left out: {len(left_out)} compounds without an answer that are in the gallery, "
            f"first {left_out[0]!r}"
        )
    return candidates[~known][["sample_id", "compound"]].reset_index(drop=True), notes


def _draw_unseen(
    ranking: _Ranking, folder: Path, named: Unseen, distance: np.ndarray, pictures: int
) -> int:
    """Draw a typical track of each of the first compounds; return how many were drawn."""
    compounds = nearest_first(named.compounds)[:pictures]
    for row in compounds.itertuples():
        track = typical_track(named.tracks, row.compound, row.moa_id)
        name = named.tracks.sample_id[track]
        near = nearest(distance[track : track + 1], ranking.neighbours)[0]
        votes = f"{row.votes} of {row.tracks} tracks"
        caption = f"compound {row.compound}: {row.moa} ({votes}); track {name}"
        path = folder / f"{limited_name(row.compound)}.png"
        ranking.draw_nearest(path, name, caption, distance[track], near)
    return len(compounds)

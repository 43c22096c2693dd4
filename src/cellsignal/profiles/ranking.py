"""From the embeddings of a run to rankings of a gallery: a submission, its figures where the truth
is known, pictures, and names for unseen compounds.

Every fold's network has a space of its own: distances are averaged over the folds, embeddings
never.
"""

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
from cellsignal.evaluation.reid import (
    NEW_DRUGS,
    ReId,
    classified,
    cosine_distances,
    nearest,
    reid,
    reid_new_drugs,
    reid_table,
    reid_text,
    seen_text,
)
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
from cellsignal.prediction.predict import predict
from cellsignal.prediction.submit import open_entry
from cellsignal.report.reid_plots import (
    clip_frames,
    cmc_curves,
    nearest_tracks_picture,
    reid_tsne,
    roc_curves,
)
from cellsignal.training.job import Job
from cellsignal.training.run import jobs_of
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


def distances(files: list[Embeddings], asked: list[str], gallery: list[str]) -> Space:
    """How far the samples `asked` are from those of the gallery (sample ids).

    Raises:
        InputError: a sample that a file lacks.
    """
    found = []
    for file in files:
        place = pd.Index(file.samples.sample_id)
        rows = [place.get_indexer(names) for names in (asked, gallery)]
        lost = [
            name
            for names, at in zip((asked, gallery), rows, strict=True)
            for name, row in zip(names, at, strict=True)
            if row < 0
        ]
        if lost:
            raise InputError(
                f"{file.path}: lacks the embeddings of {len(lost)} samples, first {lost[0]!r}; "
                "embed again"
            )
        found.append(tuple(file.values[at].astype(np.float32) for at in rows))
    mean = sum(cosine_distances(*pair) for pair in found) / len(found)
    return Space(mean, *found[0])


def rank(
    config: Config,
    files: list[Path],
    answers_file: Path | None,
    out: Path,
    *,
    neighbours: int = 5,
    pictures: int = 8,
) -> str:
    """Rank the gallery for every query, write the submission, say how good it is where the answers
    are given, and name unseen compounds.

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
    if not competition.ranked:
        raise InputError(f"rank: {config.competition} does not ask for rankings; use submit")
    embedded = [load_embeddings(path) for path in files]
    gallery = competition.gallery(root)
    asked = competition.sample_submission(root)[competition.id_column].tolist()
    space = distances(embedded, asked, gallery.target_id.tolist())
    submission = competition.format_rankings(asked, nearest(space.distance), root)
    competition.validate_submission(
        submission, competition.sample_submission(root), competition.classes(root)
    )
    run, text = embedded[0].about["run"], submission.to_csv(index=False)
    check_replacing(LEADERBOARD, competition.id, out, text, force=runs_of(out) == [run])
    write_text(out, text)
    made_from = {str(path): path for path in files}
    write_json(
        out.with_suffix(".json"),
        provenance(made_from, competition=competition.id, rows=len(submission), runs=[run]),
    )
    parts, truth = [f"submission: {out}"], {}
    if answers_file is not None:
        truth = competition.compound_answers(answers_file)
        parts.insert(
            0,
            _scored(
                config,
                competition,
                competition.answers(answers_file),
                asked,
                gallery,
                space,
                neighbours,
            ),
        )
    unseen = _unseen(config, competition, embedded, gallery, truth, neighbours, pictures)
    return "\n\n".join([*parts, *([unseen] if unseen else [])])


def _scored(
    config: Config,
    competition: Competition,
    answers: pd.DataFrame,
    asked: list[str],
    gallery: pd.DataFrame,
    space: Space,
    neighbours: int,
) -> str:
    """Figures by every protocol, and the pictures."""
    query, tracks = told(competition, answers, asked, gallery)
    jobs, title = jobs_of(config), f"{config.name}: "
    seen = seen_compounds(jobs, dict(zip(query.target_id, query["compound"], strict=True)))
    found, notes = _by_protocol(space.distance, query, tracks, seen)
    notes += duplicates_notes(space.gallery, "gallery tracks")
    folder = config.run_folder / "report"
    pictures = [folder / name for name in ("cmc.png", "reid_tsne.png", "nearest.png")]
    cmc_curves(pictures[0], found, title=f"{title}cumulative match characteristic")
    names = sorted(set(query.label) | set(tracks.label))
    codes = [pd.Index(names).get_indexer(labels) for labels in (query.label, tracks.label)]
    reid_tsne(
        pictures[1],
        space.query,
        codes[0],
        space.gallery,
        codes[1],
        names,
        title=f"{title}query and gallery (t-SNE)",
    )
    # which the published protocol leaves out
    own = (tracks["compound"] == query["compound"][0]) & (tracks.library == query.library[0])
    near = nearest(np.where(own, np.inf, space.distance[:1]), neighbours)[0][: (~own).sum()]
    caption = f"query {asked[0]}: {query.label[0]}, drug {query['compound'][0]}"
    matches = (tracks.label.iloc[near] == query.label[0]).tolist()
    _picture(
        pictures[2],
        config,
        competition,
        asked[0],
        caption,
        tracks,
        near,
        space.distance[0],
        matches=matches,
    )
    rows = list(found.values())
    if jobs[-1].told_apart == "label" and jobs[-1].stage.self_supervised is None:
        scores, label = class_scores(config, competition, query)
        rows.append(classified(scores, query.assign(label=label)))
        if len(set(label)) > 1:
            pictures.append(folder / "roc.png")
            roc_curves(
                pictures[-1], scores, label, title=f"{title}ROC, each mechanism against the rest"
            )
    else:
        notes.append(
            f"Stage {jobs[-1].stage.name} predicts no mechanism: it has neither accuracy nor AUC."
        )
    return "\n".join(
        [
            reid_text(reid_table({config.name: rows})),
            "",
            *notes,
            *(f"picture: {path}" for path in pictures),
        ]
    )


def told(
    competition: Competition, answers: pd.DataFrame, asked: list[str], gallery: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Queries and gallery as `evaluation.reid` takes them: columns target_id, label (the
    mechanism's name), compound, library.
    """
    query = answers.set_index(competition.id_column).loc[asked].reset_index()
    tracks = gallery.drop(columns="label").rename(columns={"moa": "label", "drug": "compound"})
    return query.rename(
        columns={"moa": "label", "experiment": "library", competition.id_column: "target_id"}
    ), tracks


def _by_protocol(
    distance: np.ndarray, query: pd.DataFrame, tracks: pd.DataFrame, seen: dict[str, set[str]]
) -> tuple[dict[str, ReId], list[str]]:
    """Figures by protocol, and lines on what they are worth and why one is missing."""
    found = {"published": reid(distance, query, tracks, "published")}
    notes = [seen_text(seen, query)]
    try:
        found["strict"] = reid(distance, query, tracks, "strict")
        new = reid_new_drugs(distance, query, tracks, set().union(*seen.values()))
        found |= {} if new is None else {NEW_DRUGS: new}
    except InputError as error:  # what is wrong with the tables the published one has told
        notes.append(f"Left out: {error}.")
    return found, notes


def seen_compounds(jobs: list[Job], asked: dict[str, str]) -> dict[str, set[str]]:
    """Stage -> the compounds, but for negative controls, of all images that it trained on, with or
    without their labels, or validated with.

    Args:
        asked: query -> its compound, which the samples table hides: a stage may train on the images
        of queries.
    """
    found: dict[str, set[str]] = {}
    for job in jobs:
        stage, samples = job.stage, job.store.samples
        uses_test = stage.pseudo_labels is not None or (
            stage.mean_teacher is not None and stage.mean_teacher.unlabelled == "test"
        )
        more = (
            images_without_labels(job)
            if stage.self_supervised is not None
            else job.test
            if uses_test
            else []
        )
        rows = samples.iloc[np.union1d(np.concatenate([job.train, job.valid]), more).astype(int)]
        compound = rows["compound"].fillna(rows.target_id.map(asked))[
            rows.role != "negative_control"
        ]
        found.setdefault(stage.name, set()).update(compound.dropna())
    return found


def class_scores(
    config: Config, competition: Competition, query: pd.DataFrame
) -> tuple[np.ndarray, np.ndarray]:
    """(Q, K) scores of the queries, merged as a submission merges them, and (Q,) int labels.

    Raises:
        InputError: a query's mechanism is no class.
    """
    classes = list(competition.classes(config.data.root))
    label = pd.Index(classes).get_indexer(query.label)
    if (label < 0).any():
        raise InputError(
            f"answers: {query.label[int(label.argmin())]!r} of "
            f"{query.target_id[int(label.argmin())]!r} is none of the {len(classes)} mechanisms"
        )
    entry = open_entry(predict(config), config.submit, root=config.data.root)
    targets = entry.merge(entry.final(), "test", pool=config.submit.pool)
    return targets.scores[pd.Index(targets.target_id).get_indexer(query.target_id)], label


def _picture(
    path: Path,
    config: Config,
    competition: Competition,
    query: str,
    caption: str,
    gallery: pd.DataFrame,
    near: np.ndarray,
    distance: np.ndarray,
    matches: list[bool] | None = None,
) -> None:
    """A track and those of the gallery rows `near`; `gallery` has target_id, label (text) and
    compound, `distance` (G,) the query's distances.
    """
    store = Store.open(config.data.store)
    row = dict(zip(store.samples.sample_id, store.samples.row, strict=True))
    rows = gallery.iloc[near]
    clips = [
        clip_frames(store.read(int(row[name])), competition.frames)
        for name in (query, *rows.target_id)
    ]
    captions = [
        f"{moa}, drug {drug}, {far:.3f}"
        for moa, drug, far in zip(rows.label, rows["compound"], distance[near], strict=True)
    ]
    nearest_tracks_picture(
        path,
        clips[0],
        clips[1:],
        [caption, *captions],
        matches=matches,
        title=f"{config.name}: nearest tracks, cosine distance",
    )


def _unseen(
    config: Config,
    competition: Competition,
    embedded: list[Embeddings],
    gallery: pd.DataFrame,
    truth: dict[str, str],
    neighbours: int,
    pictures: int,
) -> str:
    """The mechanisms of compounds that have none: a CSV of tracks, one of compounds and pictures
    under the run's folder. "" where there are none.
    """
    samples = competition.samples(config.data.root)
    mask = (
        (samples.role == "reference")
        & (samples.split == "test")
        & ~samples.sample_id.isin(set(gallery.target_id))
        & samples["compound"].notna()
    )
    known = mask & samples["compound"].isin(set(gallery.drug))
    unseen = samples[mask & ~known][["sample_id", "compound"]].reset_index(drop=True)
    left_out = sorted(samples["compound"][known].unique())
    notes = (
        [
            f"left out: {len(left_out)} compounds without an answer that are in the gallery, "
            f"first {left_out[0]!r}"
        ]
        if left_out
        else []
    )
    if unseen.empty:
        return "\n".join(notes)
    space = distances(embedded, unseen.sample_id.tolist(), gallery.target_id.tolist())
    names = (*competition.classes(config.data.root), "DMSO")
    tracks = gallery.rename(columns={"target_id": "sample_id", "drug": "compound"})
    found = predict_unseen(space.distance, unseen, tracks, names)
    folder = config.run_folder / "unseen"
    write_csv(folder / "tracks.csv", found.tracks)
    write_csv(folder / "compounds.csv", found.compounds)
    drawn = _unseen_pictures(
        folder, config, competition, found, gallery, space.distance, neighbours, pictures
    )
    lines = [
        f"unseen compounds: {len(found.compounds)} in {folder / 'compounds.csv'}, their "
        f"{len(found.tracks)} tracks in {folder / 'tracks.csv'}"
    ]
    lines += [f"pictures of {drawn} of them in {folder}"] if drawn else []
    right = unseen_right(found.compounds, truth)
    told = (
        []
        if right is None
        else [
            f"compounds named right: {right.format()}, 95 % Wilson interval; {len(names) - 1} "
            "mechanisms and DMSO"
        ]
    )
    return "\n".join([*lines, *notes, "", unseen_text(found.compounds, truth), *told])


def _unseen_pictures(
    folder: Path,
    config: Config,
    competition: Competition,
    found: Unseen,
    gallery: pd.DataFrame,
    distance: np.ndarray,
    neighbours: int,
    pictures: int,
) -> int:
    """<compound>.png of a typical track of each compound, the first `pictures` of them; how many
    were drawn.
    """
    tracks = gallery.drop(columns="label").rename(columns={"moa": "label", "drug": "compound"})
    chosen = nearest_first(found.compounds)[:pictures]
    for one in chosen.itertuples():
        at = typical_track(found.tracks, one.compound, one.moa_id)
        name, near = found.tracks.sample_id[at], nearest(distance[at : at + 1], neighbours)[0]
        caption = (
            f"compound {one.compound}: {one.moa} ({one.votes} of {one.tracks} tracks); track {name}"
        )
        _picture(
            folder / f"{limited_name(one.compound)}.png",
            config,
            competition,
            name,
            caption,
            tracks,
            near,
            distance[at],
        )
    return len(chosen)

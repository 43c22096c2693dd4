"""MitoReID as a competition: rank the gallery's cell tracks by how likely they share the query's
mechanism of action (MoA).

Input: tracks of single cells, 16 frames of three stains (w1 nuclei; w2, w3 mitochondria) as colour
JPEG, each cell cropped to a size of its own. A track is one image of 48 planes, stain by stain
(`channels`). Label: one of the MoAs of `annotation.xlsx`. Layout: see `tracks` and `annotation`. A
submission is CSV: query_id, ranking (the ids of the whole gallery, best first, spaces between).

The parts of the release in the samples table (`part_of` gives a row's part):
- `train`, a drug with a chosen MoA: split train, role treatment, labelled. These train, and
  development folds are dealt from them.
- `train`, a drug without: role reference, no label. It may serve drug-identity or self-supervised
  pretraining, by its `compound`.
- `gallery`: role reference, split train, no label in the table, so that nothing trains on it;
  `gallery(root)` has the labels.
- `query`, a drug with a chosen MoA: role treatment, split test. These are asked. The folder names
  the drug, for so does the release;
  the table does not. `query`, another drug: role reference, split test.
- `nc` (natural compounds) and `novel` (drugs outside the list): role reference, split test,
  compound known, no answer.
- DMSO: role negative_control; in `train` with the label after the classes (so `data.controls:
  train` makes it one), else without.
  DMSO is in the gallery, where it matches nothing, and is not asked; the published figures count
  DMSO queries.

Licence: none is stated with the images; the authors' code is under its own. Source: Li et al., Nat
Comput Sci (2024).
"""

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError, InvalidSubmission
from cellsignal.common.tables import read_table
from cellsignal.competitions.base import Competition, Protocol, check_submission_ids, register
from cellsignal.competitions.mitoreid.annotation import CONTROL, FILE, Annotation, read_annotation
from cellsignal.competitions.mitoreid.folds_table import new_drugs
from cellsignal.competitions.mitoreid.tracks import FRAMES, NOVEL, STAINS, list_tracks, read_track
from cellsignal.competitions.published import Published
from cellsignal.competitions.samples import check_samples, path_of
from cellsignal.metrics.ranking import match_masks, order_by_class, ranking_score

CELL_TYPE = "cell"  # one line; the release does not name it
SHAPE = (128, 128)  # to which the authors scale every track before they crop 112
ANSWER_COLUMNS = ("id", "part", "library", "drug", "moa")


@register
class MitoReID(Competition):
    """See the module's docstring."""

    id = "mitoreid"
    title = "MitoReID: mechanism of action from time-lapse mitochondria, by ranking"
    channels = tuple(f"{stain} t{t:02d}" for stain in STAINS for t in range(1, FRAMES + 1))
    frames = FRAMES
    ranked = True
    image_shape = None
    published = Published(
        train=35_631 - 114,
        test=114,
        unlabelled=35_631 - 114,
        classes=37,
        control_classes=1,
        compounds=1_069,
        source="35,631 tracks of which 114 are asked; how many of the others train is not stated, so all of them: at most",
    )
    id_column = "query_id"
    target_column = "ranking"
    fold_groups = ("compound", "well_id")
    metric = "mAP"
    licence = "not stated"
    citation = (
        "Li et al., Deep learning large-scale drug discovery and repurposing, Nat Comput Sci (2024)"
    )
    homepage = "https://github.com/liweim/MitoReID"
    quick_simulation: ClassVar = {"new_drugs": 1}
    tiny_simulation: ClassVar = {
        "moas": 3,
        "drugs_per_moa": 2,
        "libraries": 2,
        "train": 2,
        "query": 1,
        "gallery": 1,
        "controls": 2,
        "novel_drugs": 1,
        "natural": 1,
        "size": 32,
    }

    def samples(self, root: Path) -> pd.DataFrame:
        root = Path(root)
        tracks, known = _annotated_tracks(root)
        label = tracks.drug.map(known.label)
        control = tracks.drug == CONTROL
        train = tracks.part == "train"
        query = tracks.part == "query"
        asked = query & label.notna()
        frame = pd.DataFrame(
            {
                "sample_id": tracks.sample_id,
                "target_id": tracks.sample_id,
                "well_id": tracks.sample_id,
                "experiment": tracks.library,
                "plate": tracks.library,
                "well": tracks.drug.where(~asked, "query"),
                "site": 1,
                "cell_type": CELL_TYPE,
                "label": label.where(~control, len(known.moas)).where(train),
                "role": np.select(
                    [control, label.notna() & (train | query)],
                    ["negative_control", "treatment"],
                    "reference",
                ),
                "compound": tracks.drug.where(~asked, None),
                "treatment": tracks.drug.where(~asked, None),
                "split": np.where(train | ((tracks.part == "gallery") & ~control), "train", "test"),
                "files": [(f"{path}/1.jpg",) for path in tracks.path],
            }
        )
        return check_samples(frame, root)

    def classes(self, root: Path) -> tuple[str, ...]:
        return read_annotation(Path(root) / FILE).moas

    def read(
        self, root: Path, files: tuple[str, ...], shape: tuple[int, int] | None = None
    ) -> np.ndarray:
        """One track, (48, H, W) uint8; the file of its first frame stands for all. Scaled to
        `shape` if of its proportions.
        """
        return read_track(
            (Path(root) / path_of(files[0])).parent, None if shape is None else tuple(shape)
        )

    def image_files(self, files: tuple[str, ...]) -> tuple[str, ...]:
        folder = path_of(files[0]).rpartition("/")[0]
        return tuple(f"{folder}/{t}.jpg" for t in range(1, FRAMES + 1))

    def root_shape(self, root: Path) -> tuple[int, int]:
        """128 x 128, to which tracks are scaled; a simulated copy's own size (it says so in
        `simulation.json`).
        """
        return super().root_shape(root) if (Path(root) / "simulation.json").is_file() else SHAPE

    def gallery(self, root: Path) -> pd.DataFrame:
        """The tracks to rank, in the order of the sample submission: columns target_id, library,
        drug, moa, label (DMSO: K).
        """
        tracks, known = _annotated_tracks(Path(root))
        return _with_moa(tracks[tracks.part == "gallery"], known).rename(
            columns={"sample_id": "target_id"}
        )

    def pretraining(self, samples: pd.DataFrame) -> np.ndarray:
        """The release's `train` alone: nothing of the gallery, not even its images."""
        return (part_of(samples) == "train").to_numpy()

    def named_folds(self, name: str, samples: pd.DataFrame) -> pd.DataFrame:
        """`new_drugs`: one drug in four kept for the test (`folds_table`)."""
        return new_drugs(samples) if name == "new_drugs" else super().named_folds(name, samples)

    def sample_submission(self, root: Path) -> pd.DataFrame:
        """Every query with the gallery in the order of its ids."""
        tracks, known = _annotated_tracks(Path(root))
        asked = tracks.sample_id[(tracks.part == "query") & tracks.drug.isin(known.label)]
        text = " ".join(self.gallery(root).target_id)
        return pd.DataFrame(
            {self.id_column: asked.to_numpy(), self.target_column: text}, dtype=object
        )

    def answers(self, path: Path) -> pd.DataFrame:
        """The true lists.

        Args:
            path: CSV as `published_answers` makes it; rows of other parts than query and gallery
            are left out.

        Returns:
            Columns query_id, ranking (a best one: its matches first), matches and left_out (gallery
            ids, spaces between), leaderboard (private), experiment and plate (the library),
            compound, moa; a row a query.

        Raises:
            InputError: no such file, a missing column, an empty cell, an id twice, no query or no
            gallery.
        """
        frame = _read_answers(Path(path))
        query, gallery = (
            frame[frame.part == part].reset_index(drop=True) for part in ("query", "gallery")
        )
        if query.empty or gallery.empty:
            raise InputError(f"{path}: no row of part {'query' if query.empty else 'gallery'!r}")
        matches, left_out = match_masks(query, gallery)
        ids = gallery.id.to_numpy(object)
        return pd.DataFrame(
            {
                self.id_column: query.id,
                self.target_column: [
                    " ".join(ids[np.argsort(~match, kind="stable")]) for match in matches
                ],
                "matches": [" ".join(ids[match]) for match in matches],
                "left_out": [" ".join(ids[out]) for out in left_out],
                "leaderboard": "private",
                "experiment": query.library,
                "plate": query.library,
                "compound": query.drug,
                "moa": query.moa,
            }
        )

    def published_answers(self, root: Path) -> pd.DataFrame:
        return published_answers(root)

    def compound_answers(self, path: Path) -> dict[str, str]:
        """The rows of part `compound`, which a simulated copy's answers have."""
        frame = _read_answers(Path(path))
        return dict(frame[frame.part == "compound"][["drug", "moa"]].itertuples(index=False))

    def format_scores(
        self, target_ids: Iterable[str], scores: np.ndarray, root: Path
    ) -> pd.DataFrame:
        """A classifier's scores (T, K) as rankings: the gallery by the score of its class, ties in
        the gallery's order, DMSO last.

        Raises:
            InvalidSubmission: a query has no scores, or scores no query.
        """
        return self.format_rankings(
            target_ids, order_by_class(scores, self.gallery(root).label.to_numpy()), root
        )

    def format_rankings(
        self, target_ids: Iterable[str], order: np.ndarray, root: Path
    ) -> pd.DataFrame:
        """Rankings as the submission writes them, in the order of the sample submission.

        Args:
            target_ids: T ids, in any order.
            order: (T, G) int, places in `gallery(root)`, best first: a stable argsort of distances.

        Raises:
            InvalidSubmission: a query has no ranking, or a ranking no query.
        """
        ids, sample = self.gallery(root).target_id.to_numpy(object), self.sample_submission(root)
        texts = [" ".join(ids[places]) for places in np.asarray(order)]
        found = pd.DataFrame(
            {self.id_column: list(target_ids), self.target_column: texts}, dtype=object
        )
        check_submission_ids(found, sample, self.id_column)
        return found.set_index(self.id_column).loc[sample[self.id_column]].reset_index()

    def format_submission(
        self, target_ids: Iterable[str], labels: Iterable[int], root: Path
    ) -> pd.DataFrame:
        """Predicted classes as rankings: the gallery's tracks of that class first."""
        return self.format_scores(
            target_ids, np.eye(len(self.classes(root)))[np.asarray(list(labels), dtype=int)], root
        )

    def validate_submission(
        self, submission: pd.DataFrame, sample: pd.DataFrame, classes: tuple[str, ...]
    ) -> None:
        """Refuse what the competition would refuse, naming the query.

        Raises:
            InvalidSubmission: columns, ids (missing, extra, doubled, order), or a ranking that is
            not the whole gallery once.
        """
        for column in (self.id_column, self.target_column):
            if column not in submission.columns:
                raise InvalidSubmission(
                    f"submission: no column {column!r}; it has {list(submission.columns)}"
                )
        check_submission_ids(submission, sample, self.id_column)
        wrong = np.flatnonzero(
            submission[self.id_column].to_numpy() != sample[self.id_column].to_numpy()
        )
        if len(wrong):
            row, ids = wrong[0], submission[self.id_column]
            raise InvalidSubmission(
                "submission: ids are not in the sample submission's order, first at row "
                f"{row + 2}: {ids.iloc[row]!r}"
            )
        self._check_rankings(submission, sample[self.target_column].iloc[0].split())

    def score(self, submission: pd.DataFrame, answers: pd.DataFrame) -> float:
        """Mean average precision over the queries with a match; same library and same drug left out
        of each list.

        Raises:
            InvalidSubmission: ids that are missing or unknown, or a ranking that is not the whole
            gallery once.
        """
        check_submission_ids(submission, answers, self.id_column)
        self._check_rankings(submission, answers[self.target_column].iloc[0].split())
        rankings = submission.set_index(self.id_column)[self.target_column].loc[
            answers[self.id_column]
        ]
        return ranking_score(rankings.tolist(), answers.matches.tolist(), answers.left_out.tolist())

    def _check_rankings(self, submission: pd.DataFrame, gallery: list[str]) -> None:
        wanted = set(gallery)
        for query, ranking in zip(
            submission[self.id_column], submission[self.target_column], strict=True
        ):
            found = str(ranking).split()
            unknown = next((name for name in found if name not in wanted), None)
            if unknown is not None:
                raise InvalidSubmission(
                    f"submission: ranking of {query!r}: {unknown!r} is no gallery track"
                )
            if len(found) != len(gallery) or len(set(found)) != len(gallery):
                doubled = next((name for name in found if found.count(name) > 1), None)
                why = (
                    f"{doubled!r} stands there twice"
                    if doubled
                    else f"{min(wanted - set(found))!r} is missing"
                )
                raise InvalidSubmission(
                    f"submission: ranking of {query!r} has {len(found)} of {len(gallery)} gallery "
                    f"tracks: {why}"
                )

    def protocols(self) -> tuple[Protocol, ...]:
        return (
            Protocol(
                "drug",
                "drug held out",
                "compound",
                "Development drugs are seen by no stage; a match must come from another drug.",
            ),
            Protocol(
                "track",
                "tracks split at random (Li 2024)",
                "well_id",
                "Cells of one well train and are asked, and the same drug of another library is a "
                "match, so it flatters.",
            ),
        )

    def simulate(self, out: Path, seed: int, **size: int) -> None:
        from cellsignal.competitions.mitoreid.simulate import simulate_mitoreid

        simulate_mitoreid(out, seed, **size)


def part_of(samples: pd.DataFrame) -> pd.Series:
    """The part of the release that each row of a samples table is from: train, query, gallery, nc
    or novel.
    """
    return samples.files.map(
        lambda files: NOVEL if files[0].startswith(f"{NOVEL}/") else files[0].split("/")[1]
    ).rename("part")


def published_answers(root: Path) -> pd.DataFrame:
    """The answers that the release itself tells by its folders and annotation, for `answers`:
    columns `ANSWER_COLUMNS`.

    Queries of drugs without a chosen MoA and DMSO queries are left out; so are gallery tracks of
    drugs without one.
    """
    tracks, known = _annotated_tracks(Path(root))
    query = _with_moa(tracks[(tracks.part == "query") & (tracks.drug != CONTROL)], known).assign(
        part="query"
    )
    gallery = _with_moa(tracks[tracks.part == "gallery"], known).assign(part="gallery")
    return pd.concat([query, gallery], ignore_index=True).rename(columns={"sample_id": "id"})[
        list(ANSWER_COLUMNS)
    ]


def _annotated_tracks(root: Path) -> tuple[pd.DataFrame, Annotation]:
    """Every track, and the annotation that knows its drug."""
    known = read_annotation(root / FILE)
    tracks = list_tracks(root)
    bare = ~tracks.drug.map(known.knows).astype(bool)
    if bare.any():
        raise InputError(
            f"{root / FILE}: has no row for drug {tracks.drug[bare].iloc[0]!r} of "
            f"{tracks.path[bare].iloc[0]} "
            f"({tracks.drug[bare].nunique()} such drugs)"
        )
    return tracks, known


def _with_moa(tracks: pd.DataFrame, known: Annotation) -> pd.DataFrame:
    """The tracks that have a class or are DMSO: columns sample_id, library, drug, moa, label."""
    label = tracks.drug.map(known.label | {CONTROL: len(known.moas)})
    kept = tracks[label.notna()].assign(label=label.dropna().astype(int)).reset_index(drop=True)
    names = (*known.moas, "DMSO")
    return kept.assign(moa=[names[number] for number in kept.label])[
        ["sample_id", "library", "drug", "moa", "label"]
    ]


def _read_answers(path: Path) -> pd.DataFrame:
    return read_table(path, ANSWER_COLUMNS, unique="id").reset_index(drop=True)

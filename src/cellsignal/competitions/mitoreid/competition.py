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

from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.tables import read_table
from cellsignal.competitions.base import Competition, Protocol, register
from cellsignal.competitions.mitoreid.annotation import CONTROL, FILE, Annotation, read_annotation
from cellsignal.competitions.mitoreid.folds_table import new_drugs
from cellsignal.competitions.mitoreid.tracks import FRAMES, NOVEL, STAINS, list_tracks, read_track
from cellsignal.competitions.published import Published
from cellsignal.competitions.ranking import Ranking
from cellsignal.competitions.samples import check_samples, path_of
from cellsignal.metrics.ranking import match_masks

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
    task_class = Ranking
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

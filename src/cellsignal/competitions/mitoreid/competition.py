"""MitoReID as a competition: rank the gallery's cell tracks by a query's mechanism of action."""

from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.competitions.base import Competition, register
from cellsignal.competitions.mitoreid import metadata
from cellsignal.competitions.mitoreid.images import FILES, FRAMES, STAINS, read_track
from cellsignal.competitions.mitoreid.metadata import CONTROL, FILE
from cellsignal.competitions.mitoreid.release import find_release, unpack_release
from cellsignal.competitions.published import Protocol, Published
from cellsignal.competitions.ranking import Ranking
from cellsignal.competitions.sample_files import path_of
from cellsignal.competitions.samples import check_samples
from cellsignal.config.options import read_choices
from cellsignal.metrics.ranking import match_masks

CELL_TYPE = "cell"  # one line; the release does not name it
SHAPE = (128, 128)  # to which the authors scale every track before they crop 112


@register
class MitoReID(Competition):
    """Which mechanism of action do the mitochondria of a filmed cell tell of? A ranking.

    Input: tracks of single cells, 16 frames of three stains (w1 nuclei; w2, w3 mitochondria) as
    colour JPEG, each cell cropped to a size of its own. A track is one image of 48 planes, stain by
    stain.
    Label: one of the mechanisms of action (MoAs) of `annotation.xlsx`. A submission is CSV:
    query_id, ranking (the ids of the whole gallery, best first, spaces between).
    Metadata: drug and library of a track; see `metadata` for the layout under the root.
    Licence: none is stated with the images; the authors' code is under its own.
    Paper: Li et al., Nat Comput Sci (2024).

    The parts of the release in the samples table (`metadata.part_of` gives a row's part):

    - `train`, a drug with a chosen MoA: split train, role treatment, labelled. These train, and
      development folds are dealt from them.
    - `train`, another drug: role reference, no label. It may serve drug-identity or self-supervised
      pretraining, by its `compound`.
    - `gallery`: role reference, split train, no label in the table, so that nothing trains on it;
      `gallery(root)` has the labels.
    - `query`, a drug with a chosen MoA: role treatment, split test. These are asked. The release's
      folder names the drug; the table does not. `query`, another drug: role reference, split test.
    - `nc` (natural compounds) and `novel` (drugs outside the list): role reference, split test,
      compound known, no answer.
    - DMSO: role negative_control; in `train` with the label after the classes (so `data.controls:
      train` makes it one), else without. DMSO is in the gallery, where it matches nothing, and is
      not asked; the published figures count DMSO queries.
    """

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
        source=(
            "35,631 tracks of which 114 are asked; how many of the others train is not stated, so "
            "all of them: at most"
        ),
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
        tracks, annotation = metadata.read_tracks(root)
        label = tracks.drug.map(annotation.label)
        is_control = tracks.drug == CONTROL
        is_train = tracks.part == "train"
        is_query = tracks.part == "query"
        is_gallery = tracks.part == "gallery"
        is_asked = is_query & label.notna()
        is_treatment = label.notna() & (is_train | is_query)
        roles = ["negative_control", "treatment"]
        drug = tracks.drug.where(~is_asked, None)
        frame = pd.DataFrame(
            {
                "sample_id": tracks.sample_id,
                "target_id": tracks.sample_id,
                "well_id": tracks.sample_id,
                "experiment": tracks.library,
                "plate": tracks.library,
                "well": drug.fillna("query"),
                "site": 1,
                "cell_type": CELL_TYPE,
                "label": label.where(~is_control, len(annotation.moas)).where(is_train),
                "role": np.select([is_control, is_treatment], roles, "reference"),
                "compound": drug,
                "treatment": drug,
                "split": np.where(is_train | (is_gallery & ~is_control), "train", "test"),
                "files": [(f"{path}/{FILES[0]}",) for path in tracks.path],
            }
        )
        return check_samples(frame, root)

    def classes(self, root: Path) -> tuple[str, ...]:
        return metadata.read_annotation(find_release(root) / FILE).moas

    def read(
        self, root: Path, files: tuple[str, ...], shape: tuple[int, int] | None = None
    ) -> np.ndarray:
        """Read one track, (48, H, W) uint8, scaled to `shape`; its first file stands for all."""
        folder = (Path(root) / path_of(files[0])).parent
        return read_track(folder, None if shape is None else tuple(shape))

    def image_files(self, files: tuple[str, ...]) -> tuple[str, ...]:
        folder = path_of(files[0]).rpartition("/")[0]
        return tuple(f"{folder}/{file}" for file in FILES)

    def root_shape(self, root: Path) -> tuple[int, int]:
        """Return 128 x 128, to which tracks are scaled, or the size of a simulated copy."""
        is_simulated = (find_release(root) / "simulation.json").is_file()
        return super().root_shape(root) if is_simulated else SHAPE

    def gallery(self, root: Path) -> pd.DataFrame:
        """Return the tracks to rank, in the order of the sample submission.

        Returns:
            Columns target_id, library, drug, moa, label (DMSO: K).
        """
        tracks, annotation = metadata.read_tracks(Path(root))
        gallery = metadata.add_labels(tracks[tracks.part == "gallery"], annotation)
        return gallery.rename(columns={"sample_id": "target_id"})

    def pretraining(self, samples: pd.DataFrame) -> np.ndarray:
        """Return the release's `train` alone: nothing of the gallery, not even its images."""
        return (metadata.part_of(samples) == "train").to_numpy()

    def named_folds(self, name: str, samples: pd.DataFrame) -> pd.DataFrame:
        """Return `new_drugs`: one drug in four is kept for the test."""
        if name == "new_drugs":
            return metadata.new_drugs(samples)
        return super().named_folds(name, samples)

    def sample_submission(self, root: Path) -> pd.DataFrame:
        """Return every query with the gallery in the order of its ids."""
        tracks, annotation = metadata.read_tracks(Path(root))
        is_asked = (tracks.part == "query") & tracks.drug.isin(annotation.label)
        ranking = " ".join(self.gallery(root).target_id)
        columns = {self.id_column: tracks.sample_id[is_asked].to_numpy()}
        return pd.DataFrame(columns | {self.target_column: ranking}, dtype=object)

    def answers(self, path: Path) -> pd.DataFrame:
        """Read the true lists.

        Args:
            path: CSV as `published_answers` makes it; rows of other parts than query and gallery
                are left out.

        Returns:
            A row a query: query_id, ranking (a best one: its matches first), matches and left_out
            (gallery ids, spaces between), leaderboard (private), experiment and plate (the
            library), compound, moa.

        Raises:
            InputError: no such file, a missing column, an empty cell, an id twice, no query or no
                gallery.
        """
        table = metadata.read_answers(Path(path))
        query = table[table.part == "query"].reset_index(drop=True)
        gallery = table[table.part == "gallery"].reset_index(drop=True)
        for part, rows in {"query": query, "gallery": gallery}.items():
            if rows.empty:
                raise InputError(f"{path}: no row of part {part!r}")
        matches, left_out = match_masks(query, gallery)
        ids = gallery.id.to_numpy(object)
        best = [ids[np.argsort(~match, kind="stable")] for match in matches]
        return pd.DataFrame(
            {
                self.id_column: query.id,
                self.target_column: [" ".join(ranking) for ranking in best],
                "matches": [" ".join(ids[match]) for match in matches],
                "left_out": [" ".join(ids[mask]) for mask in left_out],
                "leaderboard": "private",
                "experiment": query.library,
                "plate": query.library,
                "compound": query.drug,
                "moa": query.moa,
            }
        )

    def published_answers(self, root: Path) -> pd.DataFrame:
        return metadata.published_answers(root)

    def compound_answers(self, path: Path) -> dict[str, str]:
        """Read the rows of part `compound`, which a simulated copy's answers have."""
        table = metadata.read_answers(Path(path))
        compounds = table[table.part == "compound"]
        return dict(zip(compounds.drug, compounds.moa, strict=True))

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
                "match, so it is optimistic.",
            ),
        )

    def download(self, out: Path, **choices: str) -> None:
        """Unpack the authors' Mito.zip, which is not fetched: it lies on Google Drive.

        Choices: zip (its path; `Mito.zip` in `out` otherwise).
        """
        chosen = read_choices(self.id, choices, {"zip": Path})
        unpack_release(Path(out), chosen.get("zip"))

    def simulate(self, out: Path, seed: int, **size: int) -> None:
        from cellsignal.competitions.mitoreid.simulate import simulate_mitoreid

        simulate_mitoreid(out, seed, **size)

"""idr0088 as two competitions: is a compound an agonist of a G protein-coupled receptor, and which
of all mechanisms has it?

Input: fields of 1,176 compounds at .3, 1, 3 and 9 uM in 15 reporter lines (3 cell lines x 5 pairs
of tagged proteins), three channels: nuclei/cytoplasm and two proteins, which ones depends on the
line. Label: the mechanisms of action (MoA) of the compound, as `moa.csv` reads them. Layout under
the root: the annotation (`annotation.FILE`) and what `download` writes: `images.csv` (plate, well,
field, image_id, file_ch1, file_ch2, file_ch3) and 8-bit gray PNGs.

Wells of compounds without a known MoA are the test wells: they are never negatives. Nobody has
published their answers; a simulated copy's answers file has them.

Licence: CC BY-NC 4.0. Source: Cox et al., Sci Rep 10:13262 (2020); Image Data Resource, idr0088,
screen 2651.
"""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.tables import read_table, refuse_rows
from cellsignal.competitions.base import Protocol, register
from cellsignal.competitions.choices import flag, numbers, read_choices, texts
from cellsignal.competitions.idr0088 import annotation as table
from cellsignal.competitions.idr0088.folds_table import FOLDS, deal_compounds
from cellsignal.competitions.idr0088.moa import gpcr_classes, labels_of, moa_classes, read_moa_table
from cellsignal.competitions.multilabel import MultilabelCompetition
from cellsignal.competitions.published import Published
from cellsignal.competitions.samples import check_samples, origins
from cellsignal.images import read_png8

IMAGES = "images.csv"
IMAGE_COLUMNS = ("plate", "well", "field", "image_id", "file_ch1", "file_ch2", "file_ch3")
CONTROL = "DMSO"
_FILE = re.compile(
    r"(?:(?:^|/)images/(?P<plate>[^/]+)/|^|/)(?P<well>[A-P]\d{1,2})_f(?P<site>\d+)_ch(?P<channel>\d+)\.\w+$"
)

ClassRule = Callable[[Iterable[tuple[str, ...] | None]], dict[str, frozenset[str]]]


class Idr0088(MultilabelCompetition):
    """What the two tasks share: everything but the classes. Not registered."""

    channels = ("ch1", "ch2", "ch3")  # `channel_meaning` says what they show
    image_shape = (1050, 1250)
    id_column = "well_id"
    fold_groups = ("compound", "well_id")
    licence = "CC BY-NC 4.0"
    citation = "Cox et al., Sci Rep 10:13262 (2020); Image Data Resource idr0088"
    homepage = "https://idr.openmicroscopy.org/webclient/?show=screen-2651"
    quick_simulation: ClassVar = {"batches": 1, "test_compounds_per_moa": 2}
    tiny_simulation: ClassVar = {
        "lines": 2,
        "compounds_per_moa": 3,
        "test_compounds_per_moa": 1,
        "doses": 1,
        "replicates": 1,
        "batches": 1,
        "controls": 4,
        "size": 32,
    }
    rule: ClassVar[ClassRule]  # the MoAs of all compounds -> class -> the MoAs that are it

    def known_compounds(self, annotation: Path) -> tuple[pd.DataFrame, tuple[str, ...]]:
        """The compounds with a known MoA, and the classes; from the annotation alone, no images
        needed.

        Returns:
            Columns compound (InChIKey), name, moa ("; " between them), labels (tuple of class
            numbers, () for none), n (wells).
        """
        found, classes = self._compounds(annotation)
        known = found[found["labels"].notna()].reset_index(drop=True)
        return known.assign(moa=known.moa.map("; ".join))[
            ["compound", "name", "moa", "labels", "n"]
        ], tuple(classes)

    def class_members(self, root: Path) -> dict[str, frozenset[str]]:
        """Each class, in order, and the mechanisms that are it."""
        return self._compounds(table.find_annotation(root))[1]

    def _compounds(self, annotation: Path) -> tuple[pd.DataFrame, dict[str, frozenset[str]]]:
        """All compounds, with `moa` (tuple) and `labels` (tuple), None where the MoA is not known;
        the classes.
        """
        found, moas_of = table.compounds(table.read_annotation(annotation)), read_moa_table().moas
        moas = [moas_of(raw, annotation) for raw in found.raw]
        classes = type(self).rule(moas)
        if not classes:
            raise InputError(f"{annotation}: no MoA has compounds enough to be a class")
        labels = [labels_of(one, classes) for one in moas]
        objects = {"moa": pd.Series(moas, dtype=object), "labels": pd.Series(labels, dtype=object)}
        return found.assign(**objects), classes

    def classes(self, root: Path) -> tuple[str, ...]:
        return tuple(self.class_members(root))

    def channel_meaning(self, root: Path) -> pd.DataFrame:
        """Columns reporter_line (the samples' cell_type), channel, shows."""
        return table.channel_meaning(table.read_annotation(table.find_annotation(root)))

    def samples(self, root: Path) -> pd.DataFrame:
        """Fields of the wells that have images. Wells of a compound with known MoA and control
        wells are `train`, others `test`.
        """
        root = Path(root)
        path = table.find_annotation(root)
        images, wells = read_images(root / IMAGES), table.read_annotation(path)
        well_id = images.plate + "_" + images.well
        wells = wells[wells.plate.isin(images.plate.unique())]
        at = pd.Index(wells.plate.astype(object) + "_" + wells.well.astype(object)).get_indexer(
            well_id
        )
        refuse_rows(root / IMAGES, images, at < 0, "well", f"of its plate is not in {path.name}")
        origin = origins(IMAGES, images)
        images, well_id = images.reset_index(drop=True), well_id.reset_index(drop=True)
        wells = wells.iloc[at].reset_index(drop=True)
        labels = wells.inchikey.astype(object).map(
            self._compounds(path)[0].set_index("compound")["labels"]
        )
        known = labels.notna()
        key = wells.inchikey.astype(object).where(~wells.control, CONTROL)
        dose = wells.concentration.map("@{:g}".format).where(~wells.control, "")
        shown = known | wells.control
        frame = pd.DataFrame(
            {
                "sample_id": well_id + "_f" + images.field,
                "target_id": well_id,
                "well_id": well_id,
                "experiment": wells.experiment.astype(object),
                "plate": images.plate,
                "well": images.well,
                "site": images.field.astype(int),
                "cell_type": wells.reporter_line.astype(object),
                "label": None,
                "labels": labels.where(known, None),
                "role": np.where(wells.control, "negative_control", "treatment"),
                "compound": key.where(shown, None),
                "treatment": (key + dose).where(shown, None),
                "split": np.where(shown, "train", "test"),
                "files": list(
                    images[["file_ch1", "file_ch2", "file_ch3"]].itertuples(index=False, name=None)
                ),
                "origin": origin.to_numpy(),
            }
        )
        return check_samples(frame, root, self.channels, self.stated)

    def stated(self, name: str) -> dict[str, str]:
        """By `images/1013608248/L8_f1_ch2.png`."""
        match = _FILE.search(name)
        if match is None:
            return {}
        facts = {key: text for key, text in match.groupdict().items() if text}
        return facts | {"channel": f"ch{int(match['channel'])}", "site": str(int(match["site"]))}

    def read(
        self, root: Path, files: tuple[str, ...], shape: tuple[int, int] | None = None
    ) -> np.ndarray:
        planes = []
        for name in files:
            planes.append(read_png8(Path(root) / name, shape))
            shape = planes[0].shape
        return np.stack(planes)

    def sample_submission(self, root: Path) -> pd.DataFrame:
        samples = self.samples(root)
        return self.placeholders(samples.target_id[samples.split == "test"].unique(), root)

    def treatments(self, root: Path) -> pd.DataFrame:
        """The compounds with known MoA at each of their concentrations, and the control."""
        path = table.find_annotation(root)
        known, _ = self.known_compounds(path)
        pairs = (
            table.read_annotation(path)[["inchikey", "concentration"]]
            .drop_duplicates()
            .astype({"inchikey": object})
        )
        frame = known.merge(pairs, left_on="compound", right_on="inchikey").sort_values(
            ["compound", "concentration"]
        )
        frame = frame.assign(
            treatment=frame["compound"] + frame.concentration.map("@{:g}".format), role="treatment"
        )
        control = pd.DataFrame(
            {
                "treatment": [CONTROL],
                "compound": [CONTROL],
                "role": ["negative_control"],
                "moa": [None],
            }
        )
        both = pd.concat(
            [frame[list(control.columns)].astype(object), control.astype(object)], ignore_index=True
        )
        return both.assign(modality="compound")

    def named_folds(self, name: str, samples: pd.DataFrame) -> pd.DataFrame:
        """`compound`: the compounds of these samples with known MoA, dealt whole to five folds,
        evenly in every class.
        """
        if name != "compound":
            raise InputError(f"{self.id}: has the fold table 'compound', not {name!r}")
        known = samples[
            samples["labels"].notna() & (samples.split == "train") & (samples.role == "treatment")
        ]
        grouped = known.drop_duplicates("target_id").groupby("compound", sort=True)
        dealt = grouped["labels"].first().to_frame().assign(n=grouped.size()).reset_index()
        return deal_compounds(
            dealt,
            1 + max((label for labels in dealt["labels"] for label in labels), default=-1),
            FOLDS,
        )

    def protocols(self) -> tuple[Protocol, ...]:
        return (
            Protocol(
                "compound",
                "compound held out",
                "compound",
                "Doses, replicates, batches and reporter lines of a compound stay together (Cox "
                "2020).",
            ),
            Protocol(
                "well",
                "well held out",
                "well_id",
                "Doses, replicates and reporter lines of a compound are on both sides, so it "
                "flatters.",
            ),
        )

    def download(self, out: Path, **choices: str) -> None:
        """Everything is over a million planes; choose by plates, wells, fields (numbers), limit
        (images), size (pixels), raw (true, false).
        """
        from cellsignal.competitions.idr0088.download import download

        kinds = {
            "plates": texts,
            "wells": texts,
            "fields": numbers,
            "limit": int,
            "size": int,
            "raw": flag,
        }
        download(Path(out), **read_choices(self.id, choices, kinds))

    def simulate(self, out: Path, seed: int, **size: int) -> None:
        from cellsignal.competitions.idr0088.simulate import simulate_idr0088

        simulate_idr0088(out, seed, competition=self.id, **size)


def _published(classes: int) -> Published:
    """The wells of the annotation table, two fields each: as many as make up the 5.4 TB of 16-bit
    planes.
    """
    fields = 2
    known, controls, unknown = 243_207, 33_568, 40_655  # wells; 317,430 in all
    return Published(
        train=fields * known,
        test=fields * unknown,
        unlabelled=fields * (known + controls),
        classes=classes,
        compounds=1_005,
        cell_types=15,
        sites=(1, 2),
        source="the wells of the annotation table, two fields each (5.4 TB of 16-bit planes)",
    )


@register
class Idr0088Gpcr(Idr0088):
    """One question of every well: is its compound an agonist of a G protein-coupled receptor?"""

    id = "idr0088_gpcr"
    title = "idr0088: GPCR agonists against the rest, unseen compounds"
    published = _published(classes=1)
    rule = staticmethod(gpcr_classes)


@register
class Idr0088Moa(Idr0088):
    """Every mechanism that three compounds or more have, any number of them a compound."""

    id = "idr0088_moa"
    title = "idr0088: mechanisms of action of unseen compounds, several each"
    published = _published(classes=132)
    rule = staticmethod(moa_classes)


def read_images(path: Path) -> pd.DataFrame:
    """Read `images.csv`: which fields have images, and their three files relative to the root.

    Raises:
        InputError: no such file, another set of columns, an empty cell, a field that is no number
        from 1, a field twice, or a file
            outside the root; names the row.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; `cellsignal download` writes it")
    frame = read_table(path, IMAGE_COLUMNS, any_row=True)
    frame["well"] = table.plain_wells(frame.well)
    refuse_rows(
        path, frame, ~frame.field.str.fullmatch(r"[1-9]\d{0,3}"), "field", "is no number from 1"
    )
    doubled = frame.duplicated(["plate", "well", "field"])
    refuse_rows(path, frame, doubled, "field", "of this well stands there twice")
    outside = r"/|[A-Za-z]:|\\|(?:.*/)?\.\.(?:/|$)"
    for column in IMAGE_COLUMNS[4:]:
        refuse_rows(path, frame, frame[column].str.match(outside), column, "lies outside the root")
    return frame

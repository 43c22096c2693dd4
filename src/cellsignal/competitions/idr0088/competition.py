"""idr0088 as two competitions: which mechanisms of action has the compound of a well?"""

from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.tables import refuse_rows
from cellsignal.competitions.base import Competition, register
from cellsignal.competitions.idr0088 import bootcamp, images, metadata, moa
from cellsignal.competitions.multi_label import MultiLabel
from cellsignal.competitions.published import Protocol, Published
from cellsignal.competitions.sample_files import origins
from cellsignal.competitions.samples import check_samples
from cellsignal.config.options import flag, numbers, read_choices, texts

CONTROL = "DMSO"


class Idr0088(Competition):
    """What the two tasks share: everything but the classes. Not registered.

    Input: fields of 1,176 compounds at .3, 1, 3 and 9 uM in 15 reporter lines (3 cell lines x 5
    pairs of tagged proteins). Three channels: nuclei/cytoplasm and two proteins, which depend on
    the line. `images.csv` and the 8-bit gray PNGs are as `download` writes them. Or the pictures
    and the CSV of the bootcamp project: see `bootcamp`.
    Label: the mechanisms of action (MoA) of the compound, as `moa.csv` reads them.
    Metadata: the annotation (see `metadata`): plate, well, line, compound, dose.
    Licence: CC BY-NC 4.0.
    Paper: Cox et al., Sci Rep 10:13262 (2020); Image Data Resource, idr0088, screen 2651.

    Wells of compounds without a known MoA are the test wells; they are never negatives. Nobody has
    published their answers; a simulated copy's answers file has them.
    """

    channels = ("ch1", "ch2", "ch3")  # `channel_meaning` says what they show
    image_shape = (1050, 1250)
    task_class = MultiLabel
    id_column = "well_id"
    target_column = "labels"
    metric = "macro average precision"
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
    rule: ClassVar[moa.ClassRule]  # makes the classes of the MoAs of all compounds
    asked_group: ClassVar[str | None] = None  # the one class among the bootcamp project's groups

    def known_compounds(self, annotation: Path) -> tuple[pd.DataFrame, tuple[str, ...]]:
        """Return the compounds with a known MoA, and the classes; no images are needed.

        Returns:
            Columns compound (InChIKey), name, moa ("; " between them), labels (tuple of class
            numbers, () for none), n (wells).
        """
        table, classes = moa.label_compounds(annotation, type(self).rule)
        known = table[table["labels"].notna()].reset_index(drop=True)
        known["moa"] = known.moa.map("; ".join)
        return known[["compound", "name", "moa", "labels", "n"]], tuple(classes)

    def classes(self, root: Path) -> tuple[str, ...]:
        if bootcamp.is_bootcamp(root):
            return tuple(bootcamp.label_drugs(root, self.asked_group)[2])
        return tuple(moa.label_compounds(metadata.find_annotation(root), type(self).rule)[1])

    def channel_meaning(self, root: Path) -> pd.DataFrame:
        """Return columns reporter_line (the samples' cell_type), channel, shows."""
        return metadata.channel_meaning(metadata.read_annotation(metadata.find_annotation(root)))

    def samples(self, root: Path) -> pd.DataFrame:
        """Return the fields of the wells that have images.

        Wells of a compound with known MoA and control wells are `train`, others `test`.
        """
        root = Path(root)
        if bootcamp.is_bootcamp(root):
            frame = bootcamp.make_samples(root, self.asked_group)
            return check_samples(frame, root, self.channels, self.stated)
        path = metadata.find_annotation(root)
        fields = images.read_images(root / images.IMAGES)
        annotation = metadata.read_annotation(path)
        well_id = fields.plate + "_" + fields.well
        wells = annotation[annotation.plate.isin(fields.plate.unique())]
        names = wells.plate.astype(object) + "_" + wells.well.astype(object)
        rows = pd.Index(names).get_indexer(well_id)
        why = f"of its plate is not in {path.name}"
        refuse_rows(root / images.IMAGES, fields, rows < 0, "well", why)
        wells = wells.iloc[rows].set_axis(fields.index)
        compounds, _ = moa.label_compounds(path, type(self).rule)
        keys = wells.inchikey.astype(object)
        labels = keys.map(compounds.set_index("compound")["labels"])
        is_shown = labels.notna() | wells.control
        key = keys.where(~wells.control, CONTROL)
        dose = wells.concentration.map("@{:g}".format).where(~wells.control, "")
        files = fields[list(images.FILE_COLUMNS)].itertuples(index=False, name=None)
        frame = pd.DataFrame(
            {
                "sample_id": well_id + "_f" + fields.field,
                "target_id": well_id,
                "well_id": well_id,
                "experiment": wells.experiment.astype(object),
                "plate": fields.plate,
                "well": fields.well,
                "site": fields.field.astype(int),
                "cell_type": wells.reporter_line.astype(object),
                "label": None,
                "labels": labels.where(labels.notna(), None),
                "role": np.where(wells.control, "negative_control", "treatment"),
                "compound": key.where(is_shown, None),
                "treatment": (key + dose).where(is_shown, None),
                "split": np.where(is_shown, "train", "test"),
                "files": list(files),
                "origin": origins(images.IMAGES, fields),
            }
        )
        return check_samples(frame, root, self.channels, self.stated)

    def stated(self, name: str) -> dict[str, str]:
        return images.stated(name) or bootcamp.stated(name)

    def read(
        self, root: Path, files: tuple[str, ...], shape: tuple[int, int] | None = None
    ) -> np.ndarray:
        if len(files) == 1:
            return bootcamp.read_picture(Path(root) / files[0], shape)
        return images.read_planes(Path(root), files, shape)

    def sample_submission(self, root: Path) -> pd.DataFrame:
        samples = self.samples(root)
        test_ids = samples.target_id[samples.split == "test"].unique()
        return self.task.placeholders(test_ids, self.classes(root))

    def answers(self, path: Path) -> pd.DataFrame:
        return self.task.read_answers(path)

    def treatments(self, root: Path) -> pd.DataFrame:
        """Return the compounds with known MoA at each of their concentrations, and the control.

        The bootcamp project's table tells no concentrations.
        """
        columns = ["treatment", "compound", "role", "moa"]
        control = pd.DataFrame([[CONTROL, CONTROL, "negative_control", None]], columns=columns)
        if bootcamp.is_bootcamp(root):
            known = bootcamp.label_drugs(root, self.asked_group)[1].dropna(subset="labels")
            frame = known.assign(
                treatment=known["compound"], role="treatment", moa=known.moa.map("; ".join)
            )
            parts = [frame[columns].astype(object), control.astype(object)]
            return pd.concat(parts, ignore_index=True).assign(modality="compound")
        path = metadata.find_annotation(root)
        known, _ = self.known_compounds(path)
        doses = metadata.read_annotation(path)[["inchikey", "concentration"]].drop_duplicates()
        doses = doses.astype({"inchikey": object})
        frame = known.merge(doses, left_on="compound", right_on="inchikey")
        frame = frame.sort_values(["compound", "concentration"]).assign(role="treatment")
        frame["treatment"] = frame["compound"] + frame.concentration.map("@{:g}".format)
        parts = [frame[columns].astype(object), control.astype(object)]
        return pd.concat(parts, ignore_index=True).assign(modality="compound")

    def named_folds(self, name: str, samples: pd.DataFrame) -> pd.DataFrame:
        """Return `compound`: the compounds of these samples with known MoA, dealt to five folds.

        Each compound is dealt whole, and evenly in every class.
        """
        if name != "compound":
            raise InputError(f"{self.id}: has the fold table 'compound', not {name!r}")
        is_training = (samples.split == "train") & (samples.role == "treatment")
        wells = samples[is_training & samples["labels"].notna()].drop_duplicates("target_id")
        groups = wells.groupby("compound", sort=True)
        compounds = groups["labels"].first().to_frame().assign(n=groups.size()).reset_index()
        classes = 1 + max(compounds["labels"].explode().dropna(), default=-1)
        return moa.deal_compounds(compounds, int(classes), moa.FOLDS)

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
                "Doses, replicates and reporter lines of a compound are in both parts, so it "
                "is optimistic.",
            ),
        )

    def download(self, out: Path, **choices: str) -> None:
        """Fetch images from the Image Data Resource; everything is over a million planes.

        Choices: plates, wells, fields (numbers), limit (images), size (pixels), raw (true, false).
        """
        from cellsignal.competitions.idr0088.download import download

        kinds = {"plates": texts, "wells": texts, "fields": numbers}
        kinds |= {"limit": int, "size": int, "raw": flag}
        download(Path(out), **read_choices(self.id, choices, kinds))

    def simulate(self, out: Path, seed: int, **size: int) -> None:
        from cellsignal.competitions.idr0088.simulate import simulate_idr0088

        simulate_idr0088(out, seed, competition=self.id, **size)


def _published(classes: int) -> Published:
    """Count the wells of the annotation, two fields each: they make up 5.4 TB of planes."""
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
    rule = staticmethod(moa.gpcr_classes)
    asked_group = moa.GPCR_AGONIST


@register
class Idr0088Moa(Idr0088):
    """Every mechanism that three compounds or more have, any number of them a compound."""

    id = "idr0088_moa"
    title = "idr0088: mechanisms of action of unseen compounds, several each"
    published = _published(classes=132)
    rule = staticmethod(moa.moa_classes)

"""CPJUMP1 as a competition: which compound, guide or ORF did a well get?"""

import logging
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.competitions.base import Competition, register
from cellsignal.competitions.calibration import find_calibration
from cellsignal.competitions.cpjump1 import metadata
from cellsignal.competitions.cpjump1.images import join_fields, measure_plates, read_field
from cellsignal.competitions.published import Protocol, Published
from cellsignal.competitions.samples import check_samples
from cellsignal.config.options import numbers, read_choices, texts

log = logging.getLogger(__name__)

_POSITION = (
    "Replicates stand in one position on every plate: compare with a classifier that sees the "
    "position alone."
)


@register
class Cpjump1(Competition):
    """The same genes hit by compounds, CRISPR guides and ORFs, in Cell Painting.

    Input: five fluorescent 16-bit planes of a field (AGP, DNA, ER, Mito, RNA), 1080x1080, nine
    fields a well, 384 wells a plate.
    Label: the perturbation: `pert_iname` of a compound, `gene (crispr)`, `gene (orf)`.
    Metadata: two cell lines, two times, three modalities, replicate plates of one layout each; see
    `metadata` for the layout under the root.
    Licence: CC0 1.0.
    Paper: Chandrasekaran et al., Nature Methods 21:1114 (2024); data set cpg0000-jump-pilot of the
    Cell Painting Gallery.

    Replicate plates share one layout, so a well's position gives its label away, and plates do have
    position effects. Read any score by `plate` or `well_id` beside that of a classifier that sees
    the position alone. Simulated test plates have another layout.
    """

    id = "cpjump1"
    title = "CPJUMP1: compounds, CRISPR and ORF in Cell Painting"
    channels = metadata.CHANNELS
    image_shape = (1080, 1080)
    published = Published(
        train=126_570,
        train_controls=60_364,
        unlabelled=186_934,
        classes=516,
        control_classes=107,
        compounds=516,
        cell_types=2,
        sites=tuple(range(1, 10)),
        source=(
            "the 51 plates of 2020_11_04_CPJUMP1 in experiment-metadata.tsv, eight planes a field, "
            "dealt by the JUMP-Target-1 platemaps"
        ),
    )
    id_column = "well_id"
    target_column = "perturbation"
    fold_groups = ("plate", "well_id")
    default_folds = "replicates"
    metric = "accuracy"
    licence = "CC0 1.0"
    citation = (
        "Chandrasekaran et al., Three million images and morphological profiles of cells, "
        "Nature Methods 21:1114 (2024); cpg0000-jump-pilot"
    )
    homepage = "https://github.com/jump-cellpainting/2024_Chandrasekaran_NatureMethods"
    quick_simulation: ClassVar = {"cell_types": 1}
    tiny_simulation: ClassVar = {
        "genes": 4,
        "compounds_per_gene": 2,
        "controls": 2,
        "plates": 2,
        "crispr_plates": 2,
        "test_plates": 1,
        "cell_types": 1,
        "sites": 1,
        "size": 32,
    }

    def samples(self, root: Path) -> pd.DataFrame:
        """Return one row a field with a file on disk.

        A log line counts the rows without a file and the files without a row; both are left out.
        """
        root = Path(root)
        table = _read_fields(root)
        is_known = table.split == "train"
        well_id = table.plate + "_" + table.well
        frame = pd.DataFrame(
            {
                "sample_id": well_id + "_s" + table.site.astype(str),
                "target_id": well_id,
                "well_id": well_id,
                "experiment": table.experiment,
                "plate": table.plate,
                "well": table.well,
                "site": table.site,
                "cell_type": table.cell_type,
                "label": _labels(table).where(is_known),
                "role": table.role,
                "compound": table["compound"].where(is_known, None),
                "treatment": table.treatment.where(is_known, None),
                "split": table.split,
                "files": table.files,
                "origin": table.origin,
            }
        )
        return check_samples(frame, root)

    def classes(self, root: Path) -> tuple[str, ...]:
        """Return the perturbations of the treated wells with a known layout that have an image."""
        return _class_names(_read_fields(Path(root)))

    def measure_plates(self, root: Path, folder: Path, workers: int) -> dict[str, str]:
        rows = join_fields(root).rows
        plates = {plate: part.files.to_list() for plate, part in rows.groupby("plate")}
        return measure_plates(root, folder, plates, workers)

    def read(
        self, root: Path, files: tuple[str, ...], shape: tuple[int, int] | None = None
    ) -> np.ndarray:
        plate = Path(files[0]).parts[-3].split("__")[0]
        return read_field(root, files, find_calibration(self.calibration, self.id, plate), shape)

    stated = staticmethod(metadata.stated)

    def sample_submission(self, root: Path) -> pd.DataFrame:
        samples, classes = self.samples(root), self.classes(root)
        hidden = samples.well_id[(samples.split == "test") & (samples.role == "treatment")]
        columns = {self.id_column: sorted(hidden.unique()), self.target_column: classes[0]}
        return pd.DataFrame(columns, dtype=object)

    def answers(self, path: Path) -> pd.DataFrame:
        """Read a CSV with well_id (`<plate>_<well>`), perturbation and, if known, cell_type.

        Every row is `private`.
        """
        return metadata.read_answers(Path(path), self.id_column, self.target_column)

    def treatments(self, root: Path) -> pd.DataFrame:
        columns = ["treatment", "compound", "role", "targets", "modality"]
        wells = metadata.read_known_wells(Path(root)).sort_values(
            ["batch", "platemap", "modality"], kind="stable"
        )
        table = wells[columns].drop_duplicates(["treatment", "modality"])
        table["compound"] = table["compound"].astype(object).where(table["compound"].notna(), None)
        return table.sort_values(["modality", "treatment"], ignore_index=True)

    def profile_wells(self, root: Path) -> pd.DataFrame:
        """Return the wells of the samples, and those of all plates with a platemap.

        The latter need have no images.
        """
        columns = [
            "well_id",
            "experiment",
            "plate",
            "well",
            "role",
            "compound",
            "treatment",
            "cell_type",
        ]
        known = metadata.read_known_wells(Path(root))
        known = known.assign(well_id=known.plate + "_" + known.well)[columns]
        # a plate that was imaged again stands in a batch of its own, with the same layout
        known = known.drop_duplicates("well_id", ignore_index=True)
        if not (Path(root) / metadata.LOAD_DATA).is_dir():
            return known
        wells = super().profile_wells(root)
        return pd.concat([wells, known[~known.well_id.isin(wells.well_id)]], ignore_index=True)

    def named_folds(self, name: str, samples: pd.DataFrame) -> pd.DataFrame:
        """Return `replicates`: fold k holds out the k-th plate (by barcode) of each experiment.

        A plate without a replicate is never held out.
        """
        if name != "replicates":
            raise InputError(f"{self.id}: has the fold table 'replicates', not {name!r}")
        is_labelled = (samples.split == "train") & (samples.role == "treatment")
        wells = samples[is_labelled].drop_duplicates("target_id")
        rows = wells.groupby(["experiment", "plate", "cell_type"]).size().rename("n").reset_index()
        plates = rows.groupby("experiment").plate
        rows["fold"] = plates.cumcount().where(plates.transform("size") > 1, -1)
        columns = ["fold", "plate", "cell_type", "experiment", "n"]
        return rows[columns].sort_values(["fold", "plate"], ignore_index=True)

    def protocols(self) -> tuple[Protocol, ...]:
        note = f"The plate itself is in training, so it is optimistic. {_POSITION}"
        return (
            Protocol("plate", "replicate plates held out", "plate", _POSITION),
            Protocol("well", "wells held out", "well_id", note),
        )

    def download(self, out: Path, **choices: str) -> None:
        """Fetch all metadata (2 MB) and the first field of every well of plate BR00116991.

        These are 1,920 planes, up to 4.5 GB. Other choices: plates, channels, wells, sites
        (numbers, or all), batch.
        """
        from cellsignal.competitions.cpjump1.download import download

        kinds = {"plates": texts, "channels": texts, "wells": texts, "sites": numbers, "batch": str}
        download(Path(out), **read_choices(self.id, choices, kinds))

    def simulate(self, out: Path, seed: int, **size: int) -> None:
        from cellsignal.competitions.cpjump1.simulate import simulate_cpjump1

        simulate_cpjump1(Path(out), seed, **size)


def _read_fields(root: Path) -> pd.DataFrame:
    """Return every field on disk, with its plate and its well's treatment.

    Columns: those of `join_fields`, `read_plates` and `read_layout`, experiment, split, and name
    (of the class).
    """
    fields = join_fields(root)
    lists = {
        "rows of load_data.csv without a file were left out": fields.without_file,
        "files have no row": fields.without_row,
    }
    for what, names in lists.items():
        if names:
            log.warning("%s: %d %s, first %s", root, len(names), what, names[0])
    if fields.rows.empty and not fields.without_file:
        folder = root / metadata.LOAD_DATA
        raise InputError(f"{folder}: every load_data.csv has its header alone, no row")
    if fields.rows.empty:
        raise InputError(
            f"{root}: none of the {len(fields.without_file)} fields in load_data.csv is on disk, "
            f"first {fields.without_file[0]}"
        )
    plates = metadata.read_plates(root)
    table = fields.rows.join(plates, on=["batch", "plate"])
    unknown = table[table.modality.isna()]
    if len(unknown):
        raise InputError(
            f"{root}: plate {unknown.plate.iloc[0]} of batch {unknown.batch.iloc[0]} has images "
            "and no row in the experiment metadata"
        )
    imaged = plates[plates.index.isin(pd.MultiIndex.from_frame(table[["batch", "plate"]]))]
    table = _join_layouts(root, table, metadata.read_layouts(root, imaged))
    table["split"] = np.where(table.treatment == metadata.HIDDEN, "test", "train").astype(object)
    suffix = table.modality.map({"compound": "", "crispr": " (crispr)", "orf": " (orf)"})
    table["name"] = table["compound"].fillna("") + suffix
    times = table.cell_type + "_" + table.time + "h_" + table.modality
    table["experiment"] = table.batch + "_" + times
    return table.sort_values(["plate", "well", "site"], ignore_index=True)


def _join_layouts(root: Path, fields: pd.DataFrame, layouts: pd.DataFrame) -> pd.DataFrame:
    """Add each well's treatment; wells of plates without a platemap are hidden."""
    if layouts.empty:
        return fields.assign(treatment=metadata.HIDDEN, compound=None, role="treatment")
    platemaps = layouts.drop_duplicates(["batch", "plate"])[["batch", "plate", "platemap"]]
    columns = ["batch", "plate", "well", "treatment", "compound", "role"]
    table = fields.merge(platemaps, on=["batch", "plate"], how="left")
    table = table.merge(layouts[columns], on=["batch", "plate", "well"], how="left")
    lacking = table[table.treatment.isna() & table.platemap.notna()]
    if len(lacking):
        row = lacking.iloc[0]
        raise InputError(
            f"{root}: platemap {row.platemap} of plate {row.plate} lacks the well {row.well}"
        )
    return table.fillna({"treatment": metadata.HIDDEN, "role": "treatment"})


def _class_names(table: pd.DataFrame) -> tuple[str, ...]:
    is_class = (table.split == "train") & (table.role == "treatment")
    return tuple(sorted(table.name[is_class].unique()))


def _labels(table: pd.DataFrame) -> pd.Series:
    """Return class numbers; beyond the classes each positive control, then all negative ones."""
    classes = _class_names(table)
    positive = sorted(table.name[table.role == "positive_control"].unique())
    class_of = {name: number for number, name in enumerate(classes)}
    control_of = {name: number for number, name in enumerate(positive, len(classes))}
    labels = table.name.map(class_of)
    labels = labels.where(table.role != "positive_control", table.name.map(control_of))
    return labels.where(table.role != "negative_control", len(classes) + len(positive))

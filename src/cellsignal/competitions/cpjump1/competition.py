"""CPJUMP1 as a competition: which compound, guide or ORF did a well get?

Input: five fluorescent 16-bit planes of a field (AGP, DNA, ER, Mito, RNA), 1080x1080, nine fields a
well, 384 wells a plate. Label: the perturbation (`pert_iname` of a compound; `gene (crispr)`, `gene
(orf)`). Metadata: two cell lines, times, three modalities that hit the same genes, replicate plates
of one layout each. The layout under the root is the bucket's own (see `metadata`).

Replicate plates share one layout, so a well's place on the plate gives its label away, and plates
do have position effects: any score by `plate` or `well_id` must stand beside that of a classifier
that sees the position alone. Simulated test plates have another layout.

Licence: CC0 1.0. Source: Chandrasekaran et al., Nature Methods 21:1114 (2024), data set
cpg0000-jump-pilot of the Cell Painting Gallery.
"""

import logging
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.tables import normalise_wells, read_table, refuse_rows
from cellsignal.competitions.base import Competition, Protocol, register
from cellsignal.competitions.calibration import find_calibration
from cellsignal.competitions.choices import numbers, read_choices, texts
from cellsignal.competitions.cpjump1.metadata import (
    CHANNELS,
    HIDDEN,
    LOAD_DATA,
    PLATEMAPS,
    join_fields,
    read_layout,
    read_platemaps,
    read_plates,
    stated,
)
from cellsignal.competitions.cpjump1.planes import measure_plates, read_field
from cellsignal.competitions.published import Published
from cellsignal.competitions.samples import check_samples

log = logging.getLogger(__name__)


@register
class Cpjump1(Competition):
    """See the module's docstring."""

    id = "cpjump1"
    title = "CPJUMP1: compounds, CRISPR and ORF in Cell Painting"
    channels = CHANNELS
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
        source="the 51 plates of 2020_11_04_CPJUMP1 in experiment-metadata.tsv, eight planes a field, dealt by the JUMP-Target-1 platemaps",
    )
    id_column = "well_id"
    target_column = "perturbation"
    fold_groups = ("plate", "well_id")
    default_folds = "replicates"
    metric = "accuracy"
    licence = "CC0 1.0"
    citation = "Chandrasekaran et al., Three million images and morphological profiles of cells, Nature Methods 21:1114 (2024); cpg0000-jump-pilot"
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
        """One row a field with a file on disk. Rows of load_data.csv without any are left out, and
        files without a row are no samples: a log line names them.
        """
        root = Path(root)
        table = _fields_with_layout(root)
        names = _class_names(table)
        index = {name: label for label, name in enumerate(names)}
        index |= {
            (role, name): len(names) + label
            for label, (role, name) in enumerate(_control_names(table))
        }
        known = table.split == "train"
        keys = [
            name if role == "treatment" else (role, name if role == "positive_control" else "")
            for name, role in zip(table.name, table.role, strict=True)
        ]
        well = table.plate + "_" + table.well
        frame = pd.DataFrame(
            {
                "sample_id": well + "_s" + table.site.astype(str),
                "target_id": well,
                "well_id": well,
                "experiment": table.batch
                + "_"
                + table.cell_type
                + "_"
                + table.time
                + "h_"
                + table.modality,
                "plate": table.plate,
                "well": table.well,
                "site": table.site,
                "cell_type": table.cell_type,
                "label": [
                    index[key] if inside else None for key, inside in zip(keys, known, strict=True)
                ],
                "role": table.role,
                "compound": table["compound"].where(known, None),
                "treatment": table.treatment.where(known, None),
                "split": table.split,
                "files": table.files,
                "origin": table.origin,
            }
        )
        return check_samples(frame, root)

    def classes(self, root: Path) -> tuple[str, ...]:
        """The perturbations of the treated wells with a known layout that have an image."""
        return _class_names(_fields_with_layout(Path(root)))

    def measure_plates(self, root: Path, folder: Path, workers: int) -> dict[str, str]:
        rows = join_fields(root).rows
        plates = {plate: part.files.to_list() for plate, part in rows.groupby("plate")}
        return measure_plates(root, folder, plates, workers)

    def read(
        self, root: Path, files: tuple[str, ...], shape: tuple[int, int] | None = None
    ) -> np.ndarray:
        plate = Path(files[0]).parts[-3].split("__")[0]
        return read_field(root, files, find_calibration(self.calibration, self.id, plate), shape)

    def stated(self, name: str) -> dict[str, str]:
        return stated(name)

    def sample_submission(self, root: Path) -> pd.DataFrame:
        samples, classes = self.samples(root), self.classes(root)
        hidden = samples.well_id[(samples.split == "test") & (samples.role == "treatment")]
        return pd.DataFrame(
            {self.id_column: sorted(hidden.unique()), self.target_column: classes[0]}, dtype=object
        )

    def answers(self, path: Path) -> pd.DataFrame:
        """CSV with well_id (`<plate>_<well>`) and perturbation, and cell_type where known. Every
        row is `private`.
        """
        return read_answers(Path(path), self.id_column, self.target_column)

    def treatments(self, root: Path) -> pd.DataFrame:
        root = Path(root)
        plates, parts = read_plates(root), []
        for batch in sorted(
            {batch for batch, _ in plates.index if (root / PLATEMAPS / batch).is_dir()}
        ):
            maps = read_platemaps(root, batch)
            used = {
                (maps[plate], plates.modality[batch, plate])
                for b, plate in plates.index
                if b == batch and plate in maps
            }
            parts += [read_layout(root, batch, *pair) for pair in sorted(used)]
        if not parts:
            raise InputError(f"{root}: no platemap of a plate in the experiment metadata")
        table = pd.concat(parts, ignore_index=True)
        columns = ["treatment", "compound", "role", "targets", "modality"]
        table = table[table.treatment != HIDDEN][columns].drop_duplicates(["treatment", "modality"])
        table["compound"] = table["compound"].astype(object).where(table["compound"].notna(), None)
        return table.sort_values(["modality", "treatment"], ignore_index=True)

    def profile_wells(self, root: Path) -> pd.DataFrame:
        """The wells of the samples and those of all plates with a platemap, whether or not their
        images are there.
        """
        from cellsignal.competitions.cpjump1.wells import layout_wells

        known = layout_wells(Path(root))
        if not (Path(root) / LOAD_DATA).is_dir():
            return known
        wells = super().profile_wells(root)
        return pd.concat([wells, known[~known.well_id.isin(set(wells.well_id))]], ignore_index=True)

    def named_folds(self, name: str, samples: pd.DataFrame) -> pd.DataFrame:
        """`replicates`: fold k holds out the k-th plate (by barcode) of each experiment; a plate
        without a replicate is never held out.
        """
        if name != "replicates":
            raise InputError(f"{self.id}: has the fold table 'replicates', not {name!r}")
        inside = samples[
            (samples.split == "train") & (samples.role == "treatment")
        ].drop_duplicates("target_id")
        rows = inside.groupby(["experiment", "plate", "cell_type"]).size().rename("n").reset_index()
        grouped = rows.groupby("experiment").plate
        rows["fold"] = grouped.cumcount().where(grouped.transform("size") > 1, -1)
        return rows[["fold", "plate", "cell_type", "experiment", "n"]].sort_values(
            ["fold", "plate"], ignore_index=True
        )

    def protocols(self) -> tuple[Protocol, ...]:
        position = "Replicates stand in one position on every plate: compare with a classifier that sees the position alone."
        return (
            Protocol("plate", "replicate plates held out", "plate", position),
            Protocol(
                "well",
                "wells held out",
                "well_id",
                f"The plate itself is in training, so it flatters. {position}",
            ),
        )

    def download(self, out: Path, **choices: str) -> None:
        """All metadata (2 MB) and the first field of every well of plate BR00116991: 1,920 planes,
        up to 4.5 GB; or what is chosen by plates, channels, wells, sites (numbers, or all), batch.
        """
        from cellsignal.competitions.cpjump1.download import download

        kinds = {"plates": texts, "channels": texts, "wells": texts, "sites": numbers, "batch": str}
        download(Path(out), **read_choices(self.id, choices, kinds))

    def simulate(self, out: Path, seed: int, **size: int) -> None:
        from cellsignal.competitions.cpjump1.simulate import simulate_cpjump1

        simulate_cpjump1(Path(out), seed, **size)


def read_answers(path: Path, id_column: str, target_column: str) -> pd.DataFrame:
    """The answers of wells named `<plate>_<well>`, with plate, and cell_type where the file has it.

    Raises:
        InputError: an id that is empty, doubled or no such name, or an empty target; names the row.
    """
    frame = read_table(path, (id_column, target_column))
    if frame.empty:
        raise InputError(f"{path}: holds a header and no rows")
    place = frame[id_column].str.rpartition("_")
    ids = frame[id_column].where(place[0] == "", place[0] + "_" + normalise_wells(place[2]))
    refuse_rows(
        path, frame, ~ids.str.fullmatch(r".+_[A-P]\d\d"), id_column, "is not <plate>_<well>"
    )
    refuse_rows(path, frame, ids.duplicated(), id_column, "stands twice")
    if "cell_type" in frame:
        refuse_rows(path, frame, frame.cell_type == "", "cell_type", "is empty")
    frame = frame.assign(**{id_column: ids}).reset_index(drop=True)
    more = {"cell_type": frame.cell_type} if "cell_type" in frame else {}
    return frame[[id_column, target_column]].assign(
        leaderboard="private", plate=place[0].to_numpy(), **more
    )


def _fields_with_layout(root: Path) -> pd.DataFrame:
    """Every field on disk: the columns of `metadata.join_fields`, what its plate is and what its
    well got, `name` (of its class) and split.
    """
    fields = join_fields(root)
    for found, what in (
        (fields.without_file, "rows of load_data.csv without a file were left out"),
        (fields.without_row, "files have no row"),
    ):
        if found:
            log.warning("%s: %d %s, first %s", root, len(found), what, found[0])
    if fields.rows.empty and not fields.without_file:
        raise InputError(f"{root / LOAD_DATA}: every load_data.csv has its header alone, no row")
    if fields.rows.empty:
        raise InputError(
            f"{root}: none of the {len(fields.without_file)} fields in load_data.csv is on disk, "
            f"first {fields.without_file[0]}"
        )
    plates = read_plates(root)
    table = fields.rows.join(plates, on=["batch", "plate"])
    bare = table.modality.isna()
    if bare.any():
        raise InputError(
            f"{root}: plate {table.plate[bare].iloc[0]} of batch {table.batch[bare].iloc[0]} has "
            "images and no row in the experiment metadata"
        )
    maps = {
        (batch, plate): name
        for batch in table.batch.unique()
        for plate, name in read_platemaps(root, batch).items()
    }
    table["platemap"] = [maps.get(pair, "") for pair in zip(table.batch, table.plate, strict=True)]
    groups = table.groupby(["batch", "platemap", "modality"], sort=False)
    table = pd.concat(
        [_with_layout(root, rows, *key) for key, rows in groups], ignore_index=True
    ).sort_values(["plate", "well", "site"], ignore_index=True)
    table["split"] = np.where(table.treatment == HIDDEN, "test", "train").astype(object)
    suffix = table.modality.map({"compound": "", "crispr": " (crispr)", "orf": " (orf)"})
    return table.assign(name=table["compound"].fillna("") + suffix)


def _with_layout(
    root: Path, rows: pd.DataFrame, batch: str, platemap: str, modality: str
) -> pd.DataFrame:
    """The fields of all plates of one layout with what their wells got; all hidden where there is
    no platemap.
    """
    if not platemap:
        return rows.assign(
            treatment=HIDDEN, compound=None, role="treatment", targets=[()] * len(rows)
        )
    joined = rows.merge(
        read_layout(root, batch, platemap, modality).drop(columns="modality"),
        on="well",
        how="left",
        validate="many_to_one",
    )
    if joined.treatment.isna().any():
        lacking = joined[joined.treatment.isna()].iloc[0]
        raise InputError(
            f"{root}: platemap {platemap} of plate {lacking.plate} lacks the well {lacking.well}"
        )
    return joined


def _class_names(table: pd.DataFrame) -> tuple[str, ...]:
    return tuple(
        sorted(table.name[(table.split == "train") & (table.role == "treatment")].unique())
    )


def _control_names(table: pd.DataFrame) -> list[tuple[str, str]]:
    """What labels beyond the classes stand for: each positive control, then the negative ones
    together.
    """
    positive = sorted(table.name[table.role == "positive_control"].unique())
    return [*(("positive_control", name) for name in positive), ("negative_control", "")]

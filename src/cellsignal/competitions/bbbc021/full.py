"""BBBC021 as published, as a competition: 55 plates of 16-bit TIFFs, twelve mechanisms of action.

Layout under the root as on the host: `BBBC021_v1_image.csv`, `BBBC021_v1_moa.csv`,
`Week*/Week*_*/*.tif`, three files a field. What becomes of the 113 compounds' wells:

- The 103 annotated treatments (compound and dose) train. DMSO wells are the negative controls.
- Wells of compounds without any annotation are the test wells: nobody knows their MoA, so a
  submission of the real data set can be made but not scored; folds over the annotated compounds
  measure it. A simulated copy's answers know them.
- Other doses of an annotated compound (mostly too low to do anything) are in neither, nor are the
  16 wells whose compound is written UNKNOWN. The field leaves both out. They still take part in
  their plate's illumination.
"""

from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from cellsignal.common.tables import read_table
from cellsignal.competitions.base import Competition, register
from cellsignal.competitions.bbbc021 import planes
from cellsignal.competitions.bbbc021.competition import CELL_TYPE, CITATION, HOMEPAGE
from cellsignal.competitions.bbbc021.download import download
from cellsignal.competitions.bbbc021.metadata import (
    CHANNELS,
    CONTROL,
    UNKNOWN,
    read_annotated,
    read_fields,
    stated,
)
from cellsignal.competitions.bbbc021.simulate_full import simulate_bbbc021_full
from cellsignal.competitions.calibration import find_calibration
from cellsignal.competitions.folds import NEVER, labelled
from cellsignal.competitions.published import Protocol, Published
from cellsignal.competitions.samples import check_samples
from cellsignal.config.options import read_choices, texts

LEAVE_ONE_COMPOUND_OUT = "leave_one_compound_out"


@register
class Bbbc021Full(Competition):
    """Name the mechanism of action (MoA) of unseen compounds, on the whole screen.

    Input: crops of fields of MCF7 cells, three stains (actin, tubulin, DNA); see `planes` for how
    they are made. Label: one of twelve MoAs; 103 treatments of 38 compounds have one. Metadata:
    week, plate, well, compound, dose. Licence: CC BY 3.0. Paper: Caie et al., Mol Cancer Ther
    9:1913 (2010); Ljosa, Sokolnicki & Carpenter, Nature Methods 9:637 (2012), BBBC021v1;
    annotation: Ljosa et al., J Biomol Screen 18:1321 (2013).
    """

    id = "bbbc021_full"
    title = "BBBC021 in full: mechanism of action of unseen compounds, twelve classes"
    channels = tuple(CHANNELS)
    image_shape = (512, 640)  # a crop: a quarter of the published 1024 x 1280 field
    published = Published(
        train=10_112,
        test=27_904,
        unlabelled=15_392,
        classes=12,
        compounds=38,
        sites=tuple(range(1, 17)),
        source="BBBC021_v1_image.csv and _moa.csv, four crops a field, empty crops counted",
    )
    id_column = "well_id"
    target_column = "moa"
    fold_groups = ("compound", "well_id")
    metric = "accuracy"
    licence = "CC BY 3.0"
    citation = CITATION
    homepage = HOMEPAGE
    quick_simulation: ClassVar = {"replicates": 2, "sites": 2}
    tiny_simulation: ClassVar = {
        "classes": 4,
        "compounds_per_class": 2,
        "test_compounds_per_class": 3,
        "replicates": 1,
        "sites": 2,
        "weeks": 2,
        "controls": 1,
        "size": 64,
    }

    def samples(self, root: Path) -> pd.DataFrame:
        fields, moa = _used_fields(root)
        label_of = {name: label for label, name in enumerate(sorted(moa.moa.unique()))}
        crops = fields.loc[fields.index.repeat(len(planes.CROPS))].reset_index(drop=True)
        crop = pd.Series(np.tile(planes.CROPS, len(fields)))
        files = zip(*(crops[name] for name in CHANNELS), crop, strict=True)
        frame = pd.DataFrame(
            {
                "sample_id": crops.well_id
                + "_s"
                + crops.field.astype(str)
                + "_c"
                + crop.astype(str),
                "target_id": crops.well_id,
                "well_id": crops.well_id,
                "experiment": crops.experiment,
                "plate": crops.plate,
                "well": crops.well,
                "site": len(planes.CROPS) * (crops.field - 1) + crop,
                "cell_type": CELL_TYPE,
                "label": crops.moa.map(label_of),
                "role": np.where(crops.control, "negative_control", "treatment"),
                "compound": crops.compound.where(~crops.new, None),
                "treatment": crops.treatment.where(~crops.new, None),
                "split": np.where(crops.new, "test", "train"),
                "files": [planes.crop_names(names, number) for *names, number in files],
                "origin": crops.origin,
            }
        )
        return check_samples(frame, root)

    def classes(self, root: Path) -> tuple[str, ...]:
        return tuple(sorted(read_annotated(root)[1].moa.unique()))

    def measure_plates(self, root: Path, folder: Path, workers: int) -> dict[str, str]:
        """Measure every plate's illumination and DMSO statistics (see `planes`)."""
        height, width = self.root_shape(root)
        field_shape = (2 * height, 2 * width)
        return planes.measure_plates(root, folder, read_fields(root), field_shape, workers)

    def stated(self, name: str) -> dict[str, str]:
        return stated(name)

    def read(
        self, root: Path, files: tuple[str, ...], shape: tuple[int, int] | None = None
    ) -> np.ndarray:
        measured = find_calibration(self.calibration, self.id, Path(files[0]).parent.name)
        return planes.read_crop(root, files, measured, shape)

    def root_shape(self, root: Path) -> tuple[int, int]:
        """Return a crop's published shape, or half of most fields' of a simulated copy."""
        if not (Path(root) / "simulation.json").is_file():
            return self.image_shape
        height, width = super().root_shape(root)
        return height // 2, width // 2

    def sample_submission(self, root: Path) -> pd.DataFrame:
        """Return the test wells, sorted, with the first class; no such file is published."""
        fields, moa = _used_fields(root)
        wells = sorted(fields.well_id[fields.new].unique())
        return pd.DataFrame({self.id_column: wells, self.target_column: moa.moa.min()})

    def answers(self, path: Path) -> pd.DataFrame:
        """Read a CSV with well_id and moa, and plate, experiment, compound if known.

        Every row is `private`.
        """
        columns = [self.id_column, self.target_column]
        frame = read_table(path, columns, unique=self.id_column).reset_index(drop=True)
        known = [name for name in ("experiment", "plate", "compound") if name in frame]
        return frame[[*columns, *known]].assign(leaderboard="private")

    def treatments(self, root: Path) -> pd.DataFrame:
        """Return the annotated treatments and DMSO; `moa` is None for DMSO."""
        fields, moa = read_annotated(root)
        names = ["treatment", "compound"]
        rows = moa[[*names, "moa"]].assign(role="treatment")
        control = fields.loc[fields.compound == CONTROL, names].drop_duplicates()
        control = control.assign(role="negative_control", moa=None)
        both = pd.concat([rows, control], ignore_index=True).assign(modality="compound")
        return both[[*names, "role", "moa", "modality"]]

    def named_folds(self, name: str, samples: pd.DataFrame) -> pd.DataFrame:
        """`leave_one_compound_out`: a fold for each annotated compound, in alphabetical order.

        The only compound of its class is never held out.
        """
        if name != LEAVE_ONE_COMPOUND_OUT:
            return super().named_folds(name, samples)
        train = samples[labelled(samples)].drop_duplicates("target_id")
        rows = train.groupby("compound", as_index=False).agg(
            cell_type=("cell_type", "first"), label=("label", "first"), n=("label", "size")
        )
        shared = rows.label.duplicated(keep=False)
        rows["fold"] = np.where(shared, shared.cumsum() - 1, NEVER)
        columns = ["fold", "compound", "cell_type", "label", "n"]
        return rows[columns].sort_values(["fold", "compound"], ignore_index=True)

    def protocols(self) -> tuple[Protocol, ...]:
        return (
            Protocol(
                LEAVE_ONE_COMPOUND_OUT,
                "leave one compound out (Kensert et al. 2019)",
                "compound",
                "A network for each compound held out; the median over a well's images, then over "
                "a treatment's wells; right treatments "
                "of 103. Published: ResNet50 100, InceptionV3 100, Inception-ResNet-v2 98.",
            ),
            Protocol(
                "nsc",
                "not same compound (Ljosa et al. 2013)",
                "compound",
                "Profiles: the mean over a well, the median over a treatment's wells; its MoA is "
                "its nearest neighbour's by cosine among "
                "other compounds; right treatments of 103.",
            ),
            Protocol(
                "nscb",
                "not same compound or batch (Ando et al. 2017)",
                "compound",
                "As nsc, the neighbour from another week too; without Kinase inhibitors and "
                "Cholesterol-lowering, which stand in one week "
                "each: 92 treatments.",
            ),
        )

    def download(self, out: Path, **choices: str) -> None:
        """Download all 55 plates (104 GB unpacked), or the `plates` that are named."""
        download(Path(out), **read_choices(self.id, choices, {"plates": texts}))

    def simulate(self, out: Path, seed: int, **size: int) -> None:
        simulate_bbbc021_full(out, seed, **size)


def _used_fields(root: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the fields that become samples, and the annotated treatments.

    The fields have the columns `control`, and `new`: of a test compound.
    """
    fields, moa = read_annotated(root)
    control = fields.compound == CONTROL
    new = ~fields.compound.isin({*moa.compound, CONTROL, UNKNOWN})
    used = fields.moa.notna() | control | new
    return fields.assign(control=control, new=new)[used], moa

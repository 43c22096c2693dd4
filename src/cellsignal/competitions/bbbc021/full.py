"""BBBC021 as published, twelve mechanisms of action (MoA): 55 plates of 16-bit TIFFs, 103 annotated
treatments of 38 compounds.

Input: crops of fields of MCF7 cells, three stains (actin, tubulin, DNA); see `planes` for how they
are made. Label: one of twelve MoAs. Layout under the root as on the host: `BBBC021_v1_image.csv`,
`BBBC021_v1_moa.csv`, `Week*/Week*_*/*.tif`, three files a field.

What becomes of the 113 compounds' wells:
- The 103 annotated treatments (compound and dose) train. DMSO wells are the negative controls.
- Wells of compounds without any annotation are the test wells: their MoA is known to nobody, so a
  submission of the real data set can be
  made but not scored; folds over the annotated compounds measure it. A simulated copy's answers
  know them.
- Other doses of an annotated compound (mostly too low to do anything) are in neither: they are no
  new compound, and they have no label. So
  are the 16 wells whose compound is written UNKNOWN. The field leaves both out. They still take
  part in their plate's illumination.

Licence: CC BY 3.0. Source: Caie et al., Mol Cancer Ther 9:1913 (2010); Ljosa, Sokolnicki &
Carpenter, Nature Methods 9:637 (2012), BBBC021v1; annotation: Ljosa et al., J Biomol Screen 18:1321
(2013).
"""

import contextlib
from collections import Counter
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from cellsignal.common.errors import ImageError, InputError
from cellsignal.common.tables import read_table
from cellsignal.competitions.base import SHAPE_SAMPLES, Competition, Protocol, register
from cellsignal.competitions.bbbc021 import planes
from cellsignal.competitions.bbbc021.metadata import (
    CHANNELS,
    CONTROL,
    UNKNOWN,
    read_annotated,
    read_fields,
    stated,
)
from cellsignal.competitions.calibration import find_calibration
from cellsignal.competitions.choices import read_choices, texts
from cellsignal.competitions.folds import NEVER, labelled
from cellsignal.competitions.published import Published
from cellsignal.competitions.samples import check_samples
from cellsignal.images import image_size

CELL_TYPE = "MCF7"
LEAVE_ONE_COMPOUND_OUT = "leave_one_compound_out"


@register
class Bbbc021Full(Competition):
    """See the module's docstring."""

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
    citation = "Caie et al., Mol Cancer Ther 9:1913 (2010); Ljosa et al., Nat Methods 9:637 (2012); BBBC021v1"
    homepage = "https://bbbc.broadinstitute.org/BBBC021"
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
        index = {name: label for label, name in enumerate(sorted(moa.moa.unique()))}
        crops = fields.loc[fields.index.repeat(len(planes.CROPS))].reset_index(drop=True)
        crop = np.tile(planes.CROPS, len(fields))
        files = zip(*(crops[name] for name in CHANNELS), strict=True)
        frame = pd.DataFrame(
            {
                "sample_id": crops.well_id
                + "_s"
                + crops.field.astype(str)
                + "_c"
                + pd.Series(crop).astype(str),
                "target_id": crops.well_id,
                "well_id": crops.well_id,
                "experiment": crops.experiment,
                "plate": crops.plate,
                "well": crops.well,
                "site": len(planes.CROPS) * (crops.field - 1) + crop,
                "cell_type": CELL_TYPE,
                "label": crops.moa.map(index),
                "role": np.where(crops.control, "negative_control", "treatment"),
                "compound": crops.compound.where(~crops.new, None),
                "treatment": crops.treatment.where(~crops.new, None),
                "split": np.where(crops.new, "test", "train"),
                "files": [
                    planes.crop_names(names, number)
                    for names, number in zip(files, crop, strict=True)
                ],
                "origin": crops.origin,
            }
        )
        return check_samples(frame, root)

    def classes(self, root: Path) -> tuple[str, ...]:
        return tuple(sorted(read_annotated(root)[1].moa.unique()))

    def measure_plates(self, root: Path, folder: Path, workers: int) -> dict[str, str]:
        """Every plate's illumination and DMSO statistics (see `planes`).

        A plate of which no image is there is passed over; an image that cannot be read is left out,
        and logged.
        """
        height, width = self.root_shape(root)
        return planes.measure_plates(
            root, folder, read_fields(root), (2 * height, 2 * width), workers
        )

    def stated(self, name: str) -> dict[str, str]:
        return stated(name)

    def read(
        self, root: Path, files: tuple[str, ...], shape: tuple[int, int] | None = None
    ) -> np.ndarray:
        measured = find_calibration(self.calibration, self.id, Path(files[0]).parent.name)
        return planes.read_crop(root, files, measured, shape)

    def root_shape(self, root: Path) -> tuple[int, int]:
        """A crop's (height, width): as published, or half of most fields' in a simulated copy
        (which has a `simulation.json`).
        """
        if not (Path(root) / "simulation.json").is_file():
            return self.image_shape
        found = Counter()
        for name in read_fields(root).dna.sample(frac=1, random_state=0):
            with contextlib.suppress(ImageError):
                found[image_size(Path(root) / name)] += 1
            if found.total() >= SHAPE_SAMPLES:
                break
        if not found:
            raise InputError(f"{root}: no readable image of the fields in the metadata")
        height, width = found.most_common(1)[0][0]
        return height // 2, width // 2

    def sample_submission(self, root: Path) -> pd.DataFrame:
        """The wells of compounds without an annotation, sorted, with the first class as
        placeholder. No such file is published.
        """
        fields, moa = _used_fields(root)
        return pd.DataFrame(
            {
                self.id_column: sorted(fields.well_id[fields.new].unique()),
                self.target_column: moa.moa.min(),
            }
        )

    def answers(self, path: Path) -> pd.DataFrame:
        """CSV with well_id and moa, and plate, experiment, compound where known. There is no public
        part: every row is `private`.
        """
        frame = read_table(
            path, (self.id_column, self.target_column), unique=self.id_column
        ).reset_index(drop=True)
        known = [name for name in ("experiment", "plate", "compound") if name in frame]
        return frame[[self.id_column, self.target_column, *known]].assign(leaderboard="private")

    def treatments(self, root: Path) -> pd.DataFrame:
        """The annotated treatments and DMSO; `moa` is None for DMSO."""
        fields, moa = read_annotated(root)
        rows = moa[["treatment", "compound", "moa"]].assign(role="treatment")
        control = fields.loc[
            fields.compound == CONTROL, ["treatment", "compound"]
        ].drop_duplicates()
        both = pd.concat(
            [rows, control.assign(role="negative_control", moa=None)], ignore_index=True
        )
        return both.assign(modality="compound")[
            ["treatment", "compound", "role", "moa", "modality"]
        ]

    def named_folds(self, name: str, samples: pd.DataFrame) -> pd.DataFrame:
        """`leave_one_compound_out`: a fold for each annotated compound (38), in alphabetical order.
        The only compound of its class is never held out.
        """
        if name != LEAVE_ONE_COMPOUND_OUT:
            return super().named_folds(name, samples)
        train = samples[labelled(samples)].drop_duplicates("target_id")
        rows = (
            train.groupby("compound")
            .agg(cell_type=("cell_type", "first"), label=("label", "first"), n=("label", "size"))
            .reset_index()
        )
        shared = rows.label.duplicated(keep=False)
        rows["fold"] = np.where(shared, shared.cumsum() - 1, NEVER)
        return rows[["fold", "compound", "cell_type", "label", "n"]].sort_values(
            ["fold", "compound"], ignore_index=True
        )

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
        """All 55 plates (104 GB unpacked), or the `plates` that are named."""
        from cellsignal.competitions.bbbc021.download import download

        download(Path(out), **read_choices(self.id, choices, {"plates": texts}))

    def simulate(self, out: Path, seed: int, **size: int) -> None:
        from cellsignal.competitions.bbbc021.simulate_full import simulate_bbbc021_full

        simulate_bbbc021_full(out, seed, **size)


def _used_fields(root: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The fields that become samples, with `control` and `new` (of a test compound), and the
    annotated treatments.
    """
    fields, moa = read_annotated(root)
    control = fields.compound == CONTROL
    new = ~fields.compound.isin({*moa.compound, CONTROL, UNKNOWN})
    return fields.assign(control=control, new=new)[fields.moa.notna() | control | new], moa

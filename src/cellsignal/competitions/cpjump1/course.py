"""The course project on one CPJUMP1 plate: the 50 most frequent names of plate BR00116991, by their
RNA channel.

Input: RNA planes, 16-bit TIFF, 1080x1080, up to nine a well, A549 cells after 24 h. Label:
`Metadata_pert_iname`; DMSO (64 wells) is a class, as in the course, and so a treatment here. Layout
under the root: `images/r##c##f##*.tiff`, `metadata.csv` (FileName_OrigRNA in any case,
Metadata_pert_iname, Metadata_Well, Metadata_Plate) and, where labels are hidden, `test.csv` with
the same columns but the name.

Files and rows are joined by the key r..c..f.. in their names. 284 of the plate's 303 names have one
well: such a class can be learnt and never tested by well (fold -1), and its label is the well's
position.

Licence: CC0 1.0. Source: as `competition`.
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
from cellsignal.competitions.choices import read_choices, texts
from cellsignal.competitions.cpjump1.competition import read_answers
from cellsignal.competitions.cpjump1.metadata import CHANNELS, keys_of, stated
from cellsignal.competitions.cpjump1.planes import measure_plates, read_field
from cellsignal.competitions.published import Published
from cellsignal.competitions.samples import check_samples, origins
from cellsignal.competitions.stated import Places, refuse_misstated

log = logging.getLogger(__name__)

N_CLASSES = 50
SOLVENT = "DMSO"  # what a well without a name got
_COLUMNS = ("FileName_OrigRNA", "Metadata_Well", "Metadata_Plate")
_NAME = "Metadata_pert_iname"
_CALIBRATION = "plate"


@register
class Cpjump1Course(Competition):
    """See the module's docstring."""

    id = "cpjump1_course"
    title = "CPJUMP1, the course project: 50 compounds of one plate by their RNA channel"
    channels = ("rna",)
    image_shape = (1080, 1080)
    published = Published(
        train=131 * 9,
        unlabelled=131 * 9,
        classes=N_CLASSES,
        compounds=N_CLASSES,
        sites=tuple(range(1, 10)),
        source="plate BR00116991: 64 wells of DMSO, 36 of the 18 other names with several wells, 31 of names with one; nine fields each",
    )
    id_column = "well_id"
    target_column = "pert_iname"
    fold_groups = ("well_id",)
    metric = "accuracy"
    licence = "CC0 1.0"
    citation = "Chandrasekaran et al., Three million images and morphological profiles of cells, Nature Methods 21:1114 (2024); plate BR00116991"
    homepage = "https://github.com/jump-cellpainting/2024_Chandrasekaran_NatureMethods"
    tiny_simulation: ClassVar = {
        "compounds": 8,
        "wells": 3,
        "singles": 1,
        "controls": 4,
        "sites": 2,
        "size": 32,
    }

    def samples(self, root: Path) -> pd.DataFrame:
        """One row an image of a class. Rows without a file, files without a row and rows of other
        classes are left out; a log line counts them.
        """
        root = Path(root)
        table = _joined(root)
        classes = _most_frequent(table)
        index = {name: label for label, name in enumerate(sorted(classes))}
        known = table.split == "train"
        table = table[~known | table.name.isin(index)].reset_index(drop=True)
        known = table.split == "train"
        well = table.plate + "_" + table.well
        frame = pd.DataFrame(
            {
                "sample_id": well + "_s" + table.site.astype(str),
                "target_id": well,
                "well_id": well,
                "experiment": table.plate,
                "plate": table.plate,
                "well": table.well,
                "site": table.site,
                "cell_type": "A549",
                "label": table.name.where(known, None).map(index),
                "role": "treatment",
                "compound": table.name.where(known, None),
                "treatment": table.name.where(known, None),
                "split": table.split,
                "files": table.files,
                "origin": table.origin,
            }
        )
        return check_samples(frame, root, self)

    def classes(self, root: Path) -> tuple[str, ...]:
        """The 50 names with most images (of equals the first in the alphabet), or all where there
        are fewer; in the order of the alphabet.
        """
        return tuple(sorted(_most_frequent(_joined(Path(root)))))

    def measure_plates(self, root: Path, folder: Path, workers: int) -> dict[str, str]:
        rows = _joined(root)
        hashes = measure_plates(root, folder, {_CALIBRATION: rows.files.to_list()}, workers)
        return dict.fromkeys(rows.plate.unique(), hashes[_CALIBRATION])

    def read(
        self, root: Path, files: tuple[str, ...], shape: tuple[int, int] | None = None
    ) -> np.ndarray:
        return read_field(
            root, files, find_calibration(self.calibration, self.id, _CALIBRATION), shape
        )

    def stated(self, name: str) -> dict[str, str]:
        return _stated(name)

    def sample_submission(self, root: Path) -> pd.DataFrame:
        samples, classes = self.samples(root), self.classes(root)
        return pd.DataFrame(
            {
                self.id_column: sorted(samples.well_id[samples.split == "test"].unique()),
                self.target_column: classes[0],
            },
            dtype=object,
        )

    def answers(self, path: Path) -> pd.DataFrame:
        """CSV with well_id (`<plate>_<well>`) and pert_iname. Every row is `private`."""
        return read_answers(Path(path), self.id_column, self.target_column)

    def protocols(self) -> tuple[Protocol, ...]:
        note = (
            "Fields of a well stay together. A class with one well is never held out; the others "
            "share the plate, and their positions tell something. "
            "The course's own split is by image, after oversampling: `cellsignal study "
            "oversampling CONFIG` shows what that does."
        )
        return (Protocol("well", "wells held out", "well_id", note),)

    def download(self, out: Path, **choices: str) -> None:
        """The RNA planes of plate BR00116991 (3,456, up to 8.1 GB), or of another `plate`, all or
        some `wells`, and a metadata.csv made of its tables. See `download.download_course`.
        """
        from cellsignal.competitions.cpjump1.download import download_course

        download_course(
            Path(out),
            **read_choices(self.id, choices, {"plate": str, "wells": texts, "batch": str}),
        )

    def simulate(self, out: Path, seed: int, **size: int) -> None:
        from cellsignal.competitions.cpjump1.simulate import simulate_course

        simulate_course(Path(out), seed, **size)


def _joined(root: Path) -> pd.DataFrame:
    """Rows and files that share a key: columns plate, well, site, name, split, files; sorted by
    key.
    """
    parts = [_read_rows(root / "metadata.csv", "train")]
    if (root / "test.csv").is_file():
        parts.append(_read_rows(root / "test.csv", "test"))
    rows = pd.concat(parts, ignore_index=True)
    doubled = rows.key.duplicated()
    Places(root, rows).refuse(doubled, lambda row: f"another row has the key {rows.key[row]}, too")
    if rows.plate.nunique() > 1:
        raise InputError(
            f"{root / 'metadata.csv'}: plates {', '.join(sorted(rows.plate.unique())[:3])}; this "
            "competition has one plate"
        )
    files = _files(root)
    bare, orphans = rows.key[~rows.key.isin(set(files))], sorted(set(files) - set(rows.key))
    if len(bare):
        log.warning(
            "%s: %d rows without a file were left out, first %s", root, len(bare), bare.iloc[0]
        )
    if orphans:
        log.warning(
            "%s: %d files without a row were left out, first %s",
            root,
            len(orphans),
            files[orphans[0]],
        )
    rows = rows[rows.key.isin(set(files))].sort_values("key", ignore_index=True)
    if rows.empty:
        raise InputError(
            f"{root}: none of the rows of metadata.csv has a file in {root / 'images'}, first "
            f"{bare.iloc[0] if len(bare) else 'none'}"
        )
    return rows.assign(files=[(files[key],) for key in rows.key])


def _read_rows(path: Path, split: str) -> pd.DataFrame:
    columns = (*_COLUMNS, *([_NAME] if split == "train" else []))
    frame = read_table(path, columns, filled=_COLUMNS, any_row=split == "train")
    keys, wells = keys_of(frame.FileName_OrigRNA), normalise_wells(frame.Metadata_Well)
    refuse_rows(path, frame, keys.isna(), "FileName_OrigRNA", "holds no key r..c..f..")
    origin = origins(path.name, frame)
    files = [(name,) for name in frame.FileName_OrigRNA]
    stating = pd.DataFrame({"well": wells, "files": files, "origin": origin})
    refuse_misstated(stating, Places(path.parent, stating), Cpjump1Course.channels, _stated)
    name = frame[_NAME].replace("", SOLVENT) if split == "train" else ""
    rows = {
        "key": keys,
        "plate": frame.Metadata_Plate,
        "well": wells,
        "site": keys.str[7:9].astype(int),
        "name": name,
    }
    return pd.DataFrame({**rows, "split": split, "origin": origin})


def _stated(name: str) -> dict[str, str]:
    """`metadata.stated`, with the one channel as this competition calls it."""
    facts = stated(name)
    if facts.get("channel") in CHANNELS:
        facts["channel"] = facts["channel"].lower()
    return facts


def _files(root: Path) -> dict[str, str]:
    """Key -> path relative to the root, for every file in `images/` that has one."""
    folder = root / "images"
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    names = pd.Series(
        sorted(path.name for path in folder.iterdir() if path.suffix.lower() in (".tif", ".tiff")),
        dtype=object,
    )
    keys = keys_of(names) if len(names) else names
    doubled = keys.notna() & keys.duplicated(keep=False)
    if doubled.any():
        first, second = names[doubled & (keys == keys[doubled].iloc[0])].iloc[:2]
        raise InputError(
            f"{folder}: {first} and {second} have the same key; keep one channel and one plane"
        )
    return {
        key: f"images/{name}" for key, name in zip(keys, names, strict=True) if isinstance(key, str)
    }


def _most_frequent(table: pd.DataFrame) -> list[str]:
    counts = table.name[table.split == "train"].value_counts()
    return sorted(counts.index, key=lambda name: (-counts[name], name))[:N_CLASSES]

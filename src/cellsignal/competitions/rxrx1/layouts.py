"""Recognise by what lies in a folder which of RxRx1's three published archives it is.

1. Kaggle: `train.csv`, `train_controls.csv`, `test.csv`, `test_controls.csv`; one gray PNG a
   channel in `train/HUVEC-01/Plate1/B03_s1_w1.png` and `test/...`.
2. rxrx.ai (two zips, metadata and images): `rxrx1/metadata.csv`, one row a site; the same PNGs in
   `rxrx1/images/HUVEC-01/Plate1/B03_s1_w1.png`, train and test together.
3. WILDS: `rxrx1_v1.0/metadata.csv` with the same columns; one RGB PNG a site, 256x256, of channels
   1, 2 and 3: `rxrx1_v1.0/images/HUVEC-01/Plate1/B03_s1.png`.

The root is that folder, or the one above it.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cellsignal.common.errors import InputError
from cellsignal.common.files import describe_folder
from cellsignal.common.tables import read_table

KAGGLE, RXRX_AI, WILDS = "Kaggle", "rxrx.ai", "WILDS"
KAGGLE_FILES = ("train.csv", "train_controls.csv", "test.csv", "test_controls.csv")
SITE_FILE = "metadata.csv"
CHANNELS = 6
WILDS_CHANNELS = 3  # the first ones, as red, green and blue

_FOLDERS = ("rxrx1", "rxrx1_v1.0", "recursion-cellular-image-classification")
_KAGGLE_TREE, _TREE = ("train", "test"), ("images",)
_PNG = re.compile(r"[A-P]\d\d_s\d+(_w\d)?\.png")


@dataclass(frozen=True)
class Layout:
    """How an archive lies on the disk.

    Attributes:
        name: KAGGLE, RXRX_AI or WILDS.
        folder: the folder of its tables.
        prefix: what its files' paths relative to the root begin with: "" or such as "rxrx1/".
    """

    name: str
    folder: Path
    prefix: str

    @property
    def channels(self) -> int:
        """How many of the six channels its images have."""
        return WILDS_CHANNELS if self.name == WILDS else CHANNELS

    @cached_property
    def _endings(self) -> list[str]:
        if self.name == WILDS:
            return [".png"]
        return [f"_w{channel}.png" for channel in range(1, CHANNELS + 1)]

    def image_names(self, stem: str) -> tuple[str, ...]:
        """Return the files of a site from their common beginning, such as `.../B03_s1`."""
        return tuple([stem + ending for ending in self._endings])


def find_layout(root: Path | str) -> Layout:
    """Return the layout of the archive in `root` or in a folder of it that bears its usual name.

    Kaggle's tables come first where there are both. No image is opened.

    Raises:
        InputError: no table of an archive, two archives, or images that lie as another archive's
        do.
    """
    root = Path(root)
    folder = _find_tables(root)
    prefix = "" if folder == root else f"{folder.name}/"
    table = next((name for name in KAGGLE_FILES if (folder / name).is_file()), None)
    if table is not None:
        _check_tree(folder, table, _KAGGLE_TREE, _TREE)
        return Layout(KAGGLE, folder, prefix)
    _check_tree(folder, SITE_FILE, _TREE, _KAGGLE_TREE)
    return Layout(WILDS if _is_wilds(folder) else RXRX_AI, folder, prefix)


def _find_tables(root: Path) -> Path:
    def has_table(folder: Path) -> bool:
        return any((folder / name).is_file() for name in (*KAGGLE_FILES, SITE_FILE))

    if has_table(root):
        return root
    folders = [root / name for name in _FOLDERS if has_table(root / name)]
    if len(folders) > 1:
        raise InputError(
            f"{root}: {folders[0].name} and {folders[1].name} are two archives; give one of them "
            "as the root"
        )
    if not folders:
        raise InputError(
            f"{root}: no RxRx1 metadata here: neither {KAGGLE_FILES[0]} nor {SITE_FILE}; "
            f"{describe_folder(root)}"
        )
    return folders[0]


def _check_tree(folder: Path, table: str, wanted: tuple[str, ...], other: tuple[str, ...]) -> None:
    """Refuse a folder that has none of the wanted image folders but one of another archive."""
    if any((folder / name).is_dir() for name in wanted):
        return
    misplaced = next((name for name in other if (folder / name).is_dir()), None)
    if misplaced is not None:
        raise InputError(
            f"{folder / table}: its images lie in {' and '.join(f'{name}/' for name in wanted)}, "
            f"which are not there; {misplaced}/ belongs to another archive's tables "
            f"({', '.join(KAGGLE_FILES) if wanted == _TREE else SITE_FILE})"
        )


def _is_wilds(folder: Path) -> bool:
    """Whether the images are RGB, by the first one's name; without any, by the table's splits."""
    names = (path.name for path in folder.glob("images/*/Plate*/*.png"))
    first = next((match for match in map(_PNG.fullmatch, names) if match), None)
    if first is not None:
        return first[1] is None
    table = read_table(folder / SITE_FILE)
    return "dataset" in table.columns and bool(table.dataset.isin(["val", "id_test"]).any())

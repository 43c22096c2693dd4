"""Read the lab's archive of the six-class subset as it lies: a folder of PNGs for each mechanism.

`bbbc021v1_subset/<mechanism>/bbbc021v1_<n>.png`, in the root, one folder below it (as GitHub's
archive of the repository unpacks), or itself the root. There is no table: compound, plate and
address are not known. Consecutive numbers of a folder, in fours, are the sites of one well.
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.files import describe_folder

FOLDER = "bbbc021v1_subset"
SITES = 4  # of a well
# folder -> mechanism and published number of images. The lab calls Aurora kinase inhibitors kinase
# inhibitors: the whole screen has 144 images of the first and 40 of the second.
MECHANISMS: dict[str, tuple[str, int]] = {
    "Cholesterol_lowering": ("Cholesterol-lowering", 72),
    "DNA_damage": ("DNA damage", 108),
    "DNA_replication": ("DNA replication", 96),
    "Eg5_inhibitors": ("Eg5 inhibitors", 144),
    "Kinase_inhibitors": ("Aurora kinase inhibitors", 144),
    "Protein_synthesis": ("Protein synthesis", 96),
}
IMAGES = sum(count for _, count in MECHANISMS.values())
_FILE = re.compile(r"bbbc021v1_(\d{1,9})\.png")


def find_archive(root: Path) -> Path | None:
    """Return the folder that holds the mechanisms' folders; None if there is none.

    Raises:
        InputError: two folders below the root hold one.
    """
    root = Path(root)
    if root.name == FOLDER and (root / next(iter(MECHANISMS))).is_dir():
        return root
    if (root / FOLDER).is_dir():
        return root / FOLDER
    folders = sorted(path for path in root.glob(f"*/{FOLDER}") if path.is_dir())
    if len(folders) > 1:
        raise InputError(f"{root}: {folders[0]} and {folders[1]} are two archives; keep one")
    return folders[0] if folders else None


def read_archive(root: Path, folder: Path) -> tuple[pd.DataFrame, tuple[tuple[str, str], ...]]:
    """List the images of an archive; none is opened.

    Args:
        root: what the files' paths are relative to.
        folder: of `find_archive`.

    Returns:
        One row an image: image_id, well_id, site (1 to 4), moa, files, origin; and (reason, name)
        of the files that are no image of the archive.

    Raises:
        InputError: a mechanism's folder is missing or empty, a number occurs twice, or numbers in a
            row are no multiple of four, so that an image is missing.
    """
    missing = [name for name in MECHANISMS if not (folder / name).is_dir()]
    if missing:
        raise InputError(f"{folder}: no folder {', '.join(missing)}; {describe_folder(folder)}")
    rows, left_out = [], []
    for name, (moa, _) in MECHANISMS.items():
        numbers, others = _list_numbers(folder / name)
        left_out += others
        for place, (number, file) in enumerate(sorted(numbers.items())):
            row = {
                "image_id": f"{name}_{number}",
                "well_id": f"{name}_well_{place // SITES + 1:02d}",
                "site": place % SITES + 1,
                "moa": moa,
                "files": (file.relative_to(root).as_posix(),),
                "origin": f"{folder.name}/{name}/{file.name}",
            }
            rows.append(row)
    return pd.DataFrame(rows), tuple(left_out)


def _list_numbers(folder: Path) -> tuple[dict[int, Path], list[tuple[str, str]]]:
    """Return number -> file of one mechanism, and what is no image of the archive."""
    numbers: dict[int, Path] = {}
    others = []
    for path in sorted(folder.iterdir()):
        match = _FILE.fullmatch(path.name)
        if match is None:
            if not path.name.startswith("."):
                others.append(("not bbbc021v1_<number>.png", str(path)))
            continue
        number = int(match[1])
        if number in numbers:
            raise InputError(f"{folder}: {numbers[number].name} and {path.name} are one number")
        numbers[number] = path
    if not numbers:
        raise InputError(f"{folder}: no bbbc021v1_<number>.png; {describe_folder(folder)}")
    _check_runs(folder, np.array(sorted(numbers)))
    return numbers, others


def _check_runs(folder: Path, numbers: np.ndarray) -> None:
    """Refuse numbers in a row that are no multiple of four: wells would mix from there on."""
    for run in np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1):
        if len(run) % SITES:
            raise InputError(
                f"{folder}: images {run[0]} to {run[-1]} are {len(run)} in a row, no multiple of "
                f"{SITES}; an image beside them is missing: restore it, or remove its whole well"
            )

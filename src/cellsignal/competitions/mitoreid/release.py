"""Find MitoReID's release in a folder, and unpack the authors' `Mito.zip`.

The zip lies on Google Drive, which a browser or the authors' script fetches. It unpacks to
`Mito/l1`, `Mito/l2`, `Mito/l3`, `Mito/novel` and `Mito/annotation.xlsx`. The root is `Mito` or the
folder above it.
"""

import logging
import re
import zipfile
from pathlib import Path

from cellsignal.common.errors import InputError
from cellsignal.fetch.archives import file_sizes, unzip

log = logging.getLogger(__name__)

ANNOTATION = "annotation.xlsx"
ZIP = "Mito.zip"
PAGE = "https://github.com/liweim/MitoReID"
_LIBRARY = re.compile(r"l\d+")
_MEMBER = re.compile(r"(?:[^/]+/)?l\d+/train/[^/]+/[^/]+/[^/]+")


def libraries_in(folder: Path) -> list[str]:
    """Return the library folders (l1, l2, ...) of a folder, sorted."""
    try:
        names = [path.name for path in folder.iterdir() if path.is_dir()]
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror})") from None
    return sorted(name for name in names if _LIBRARY.fullmatch(name))


def find_release(root: Path | str) -> Path:
    """Return the folder of the libraries: `root`, or the one folder in it that has them.

    `root` is returned, too, where there is none; who reads it says what is missing.

    Raises:
        InputError: two folders in `root` hold a release.
    """
    root = Path(root)
    if not root.is_dir() or (root / ANNOTATION).is_file() or libraries_in(root):
        return root
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    folders = [path for path in folders if path.name[0] not in "._" and libraries_in(path)]
    if len(folders) > 1:
        raise InputError(f"{root}: {folders[0]} and {folders[1]} are two releases; keep one")
    return folders[0] if folders else root


def unpack_release(out: Path, archive: Path | None = None) -> Path:
    """Unpack `Mito.zip` into `out`; files that are there whole are skipped.

    Args:
        archive: the zip; None takes `out/Mito.zip`.

    Returns:
        The folder of the libraries.

    Raises:
        InputError: no zip, a damaged one, one that holds something else or a path outside `out`
        (nothing is unpacked then), or too little disk.
    """
    archive = out / ZIP if archive is None else archive
    if not archive.is_file():
        raise InputError(
            f"{archive}: no such file; fetch it as {PAGE} says, then `cellsignal download mitoreid "
            f"--out {out} --set zip={ZIP}`"
        )
    if zipfile.is_zipfile(archive):
        _check_members(archive)
    number = unzip(archive, out)
    folder = find_release(out)
    log.info("%s: %d files written, libraries %s", folder, number, ", ".join(libraries_in(folder)))
    return folder


def _check_members(archive: Path) -> None:
    """Refuse a zip without the annotation or without tracks to train on."""
    names = list(file_sizes(archive))
    if not any(name.rpartition("/")[2] == ANNOTATION for name in names):
        raise InputError(f"{archive}: holds no {ANNOTATION}; nothing was unpacked")
    if not any(map(_MEMBER.fullmatch, names)):
        raise InputError(
            f"{archive}: holds no track such as l1/train/1/1_0/1.jpg; nothing was unpacked"
        )

"""Download the lab's archive: the whole repository of the course as one zip from GitHub.

The zip is fetched (and resumed, where the server allows) in `.download/`, unpacked as it is, and
removed. No checksum is published: its size and SHA-256 are written to `downloads.json` beside it.
"""

import contextlib
import logging
from pathlib import Path

from cellsignal.common.errors import InputError
from cellsignal.common.files import describe_folder
from cellsignal.competitions.bbbc021.download import STAGING, note_download, read_record
from cellsignal.competitions.bbbc021.lab_archive import (
    FOLDER,
    IMAGES,
    find_archive,
    read_archive,
)
from cellsignal.fetch import Fetcher
from cellsignal.fetch.archives import is_damaged, unzip

log = logging.getLogger(__name__)

REPOSITORY = "https://github.com/pharmbio/StatPred_2019"
URL = f"{REPOSITORY}/archive/HEAD.zip"
NAME = "StatPred_2019.zip"


def download_lab_archive(out: Path, *, url: str = URL, fetcher: Fetcher | None = None) -> None:
    """Fetch and unpack the archive, unless it is there whole; resumes what was stopped.

    Raises:
        InputError: no connection, a damaged archive, one with a path outside `out` or without the
            images, an image missing in an archive that is there, or a full disk.
    """
    archive = out / STAGING / NAME
    is_stopped = archive.is_file() or archive.with_name(f"{NAME}.part").is_file()
    folder = find_archive(out)
    if folder is not None and not is_stopped:
        log.info("%s: is there already; nothing is fetched", folder)
        _check_count(out, folder)
        return
    with contextlib.nullcontext(fetcher) if fetcher else Fetcher() as fetch:
        if not archive.is_file():
            fetch.file(url, archive)
    _unpack(url, archive, out)
    folder = find_archive(out)
    if folder is None:
        archive.unlink()
        raise InputError(f"{url}: holds no folder {FOLDER}; {describe_folder(out)}")
    note_download(out, read_record(out), NAME, url, archive)
    archive.unlink()
    _check_count(out, folder)


def _unpack(url: str, archive: Path, out: Path) -> None:
    try:
        unzip(archive, out)
    except InputError:
        if is_damaged(archive):
            archive.unlink()
            raise InputError(
                f"{url}: came damaged and was removed; run the same command again"
            ) from None
        raise


def _check_count(out: Path, folder: Path) -> None:
    images, _ = read_archive(out, folder)
    if len(images) == IMAGES:
        log.info("%s: complete, %d images", folder, IMAGES)
    else:
        log.warning("%s: has %d images, %d are published", folder, len(images), IMAGES)

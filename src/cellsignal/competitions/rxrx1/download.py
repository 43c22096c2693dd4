"""Download RxRx1 from Kaggle, file by file, so that 46 GB survive a broken connection.

Downloads go to `.download/` under the target, where Kaggle's own client resumes what it began.
Finished ones are listed there and not fetched again while all their files are there. Archives are
unpacked and then removed. Kaggle lists a competition either as archives and CSVs or as single
images; it locks out who asks for 750,000 images one at a time, so the archive of the whole
competition is taken then.
"""

import contextlib
import logging
import os
import sys
import zipfile
from pathlib import Path

from cellsignal.common.errors import InputError
from cellsignal.competitions.rxrx1.layouts import KAGGLE_FILES
from cellsignal.competitions.rxrx1.metadata import image_files, read_sites
from cellsignal.fetch.archives import file_sizes, unzip
from cellsignal.fetch.finished import FinishedDownloads
from cellsignal.fetch.kaggle import CREDENTIALS, kaggle_client, redact

log = logging.getLogger(__name__)

SLUG = "recursion-cellular-image-classification"
PAGE = "https://www.kaggle.com/competitions/" + SLUG
STAGING = ".download"
_IMAGE_FOLDERS = ("train", "test")
_REFUSALS = {  # HTTP status -> what to do
    401: CREDENTIALS,
    403: f"Kaggle refuses; accept the rules at {PAGE}/rules with the account of your credentials",
    404: f"Kaggle has no such file; see {PAGE}/data",
    429: "Kaggle refuses so many requests; wait some minutes and run the same command again, it "
    "resumes",
}


def download(out: Path) -> None:
    """Download the CSVs, `train/` and `test/` into `out`; resumes what was interrupted.

    Raises:
        InputError: no credentials, rules not accepted, no connection, a damaged or malicious
        archive, or a full disk.
    """
    api = _signed_in()
    staging = out / STAGING
    staging.mkdir(parents=True, exist_ok=True)
    finished = FinishedDownloads(staging, out)
    with _plain_errors():
        listed = list_files(api)
    single_images = any(name.endswith(".png") for name in listed)
    if single_images:  # the listing of so many files is cut short, so the CSVs may not be on it
        wanted = {name: listed.get(name, 0) for name in (*KAGGLE_FILES, "sample_submission.csv")}
    else:
        wanted = listed
    # tables first: they name the images
    for name in sorted(wanted, key=lambda name: name.endswith(".zip")):
        _fetch(api, name, wanted[name], out, finished)
    if single_images and _must_fetch(finished, SLUG, 0, out):
        log.info("fetching all images as one archive (46 GB)")
        with _plain_errors():
            api.competition_download_files(SLUG, path=str(staging), quiet=not sys.stderr.isatty())
        finished.add(SLUG, 0, _unpack(staging / f"{SLUG}.zip", out))
    log.info("%s: complete", out)


def _signed_in():
    """Return Kaggle's client, with its own retries.

    Raises:
        InputError: no valid credentials (says where to get them and where to put them), or no
        connection.
    """
    try:
        return kaggle_client(retries=True)
    except InputError as error:
        raise InputError(f"rxrx1: {error}") from None
    except OSError as error:
        raise InputError(f"rxrx1: Kaggle could not be asked ({redact(str(error))})") from None


def list_files(api) -> dict[str, int]:
    """Return the competition's files and their bytes, up to the first page with an image."""
    sizes: dict[str, int] = {}
    token = None
    while True:
        page = api.competition_list_files(SLUG, page_token=token, page_size=200)
        new = {file.name: int(file.total_bytes or 0) for file in page.files}
        sizes |= new
        token = page.next_page_token
        if not token or not new or any(name.endswith(".png") for name in new):
            return sizes


def _must_fetch(finished: FinishedDownloads, name: str, size: int, out: Path) -> bool:
    """Return whether a download is unfinished or some of its files are gone; log the reason.

    An archive that an earlier version listed without its files is done where every image that the
    metadata name is there.
    """
    why = finished.why_missing(name, size)
    folder, old_size = name.removesuffix(".zip"), finished.old_size(name)
    same = old_size is not None and (old_size == size or name == SLUG)
    if same and folder in (SLUG, *_IMAGE_FOLDERS):
        sizes, missing = _named_images(out, folder)
        if sizes and missing is None:
            finished.add(name, size, sizes)
            return False
        why = f"{missing} is gone" if missing else why
    if why and name in finished:
        log.warning("%s: was fetched before, but %s; it is fetched again", name, why)
    return why is not None


def _named_images(out: Path, folder: str) -> tuple[dict[str, int], str | None]:
    """Return the bytes of the images that the metadata name, and the first that is missing.

    Args:
        folder: of `_IMAGE_FOLDERS`; SLUG takes all images.
    """
    try:
        files = image_files(out, read_sites(out))
    except InputError:  # which `verify` says better
        return {}, None
    sizes = {}
    for name in (name for names in files for name in names):
        if folder == SLUG or name.startswith(f"{folder}/"):
            try:
                sizes[name] = os.stat(out / name).st_size
            except OSError:
                return sizes, name
    return sizes, None


def _fetch(api, name: str, size: int, out: Path, finished: FinishedDownloads) -> None:
    """Fetch a listed file, unless it is complete; unpack an archive."""
    final, staging = out / name, out / STAGING
    is_archive = name.endswith(".zip")
    if not final.resolve().is_relative_to(out.resolve()):
        raise InputError(f"rxrx1: Kaggle lists {name!r}, which would land outside {out}")
    if not is_archive and size and final.is_file() and final.stat().st_size == size:
        return
    if not _must_fetch(finished, name, size, out):
        return
    log.info("fetching %s", name)
    folder = (staging / name).parent
    with _plain_errors():
        api.competition_download_file(SLUG, name, path=str(folder), quiet=not sys.stderr.isatty())
    plain, zipped = staging / name, staging / f"{name}.zip"  # Kaggle sends some CSVs zipped
    if is_archive:
        finished.add(name, size, _unpack(plain, out))
        return
    if zipped.is_file():
        unzip(zipped, final.parent)
        zipped.unlink()
    elif plain.is_file():
        final.parent.mkdir(parents=True, exist_ok=True)
        os.replace(plain, final)
    if not final.is_file():
        raise InputError(
            f"rxrx1: Kaggle was asked for {name} and sent something else; see {folder}"
        )
    finished.add(name, size, {name: final.stat().st_size})


def _unpack(archive: Path, out: Path) -> dict[str, int]:
    """Unpack an image archive to its place and remove it.

    `train.zip` may hold its files with or without the folder `train/`.

    Returns:
        Path relative to `out` -> bytes of every file that it holds.
    """
    folder = Path()
    names = file_sizes(archive) if zipfile.is_zipfile(archive) else {}
    bare = not all(name.startswith(f"{archive.stem}/") for name in names)
    if archive.stem in _IMAGE_FOLDERS and bare:
        folder = Path(archive.stem)
    unzip(archive, out / folder)
    sizes = {(folder / name).as_posix(): size for name, size in file_sizes(archive).items()}
    archive.unlink()
    return sizes


@contextlib.contextmanager
def _plain_errors():
    """Turn Kaggle's and the network's errors into one line that says what to do."""
    import requests

    try:
        yield
    except requests.exceptions.HTTPError as error:
        status = error.response.status_code if error.response is not None else None
        unknown = f"Kaggle answered {status}; run the same command again, it resumes"
        raise InputError(f"rxrx1: {_REFUSALS.get(status, unknown)}") from None
    except (requests.exceptions.RequestException, ValueError, OSError) as error:
        raise InputError(
            f"rxrx1: download broke off ({' '.join(str(error).split())}); run the same command "
            "again, it resumes"
        ) from None
    except SystemExit:
        raise InputError(f"rxrx1: {CREDENTIALS}") from None

"""Fetching RxRx1 from Kaggle, file by file, so that 46 GB survive a broken line.

Downloads go to `.download/` under the target, where Kaggle's own client resumes what it began; what
is finished is noted in `.download/done.json` and not fetched again while all the files that it made
are there. Archives are unpacked and then removed. Kaggle lists a competition either as archives and
CSVs or as single images; asking for 750,000 images one at a time gets a caller locked out, so then
the whole-competition archive is taken.
"""

import contextlib
import logging
import os
import shutil
import stat
import sys
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from cellsignal.common.errors import InputError
from cellsignal.competitions.rxrx1.metadata import KAGGLE_FILES
from cellsignal.fetch.finished import FinishedDownloads
from cellsignal.fetch.kaggle import CREDENTIALS, kaggle_client, redact

log = logging.getLogger(__name__)

SLUG = "recursion-cellular-image-classification"
PAGE = "https://www.kaggle.com/competitions/" + SLUG
STAGING = ".download"
_IMAGE_FOLDERS = ("train", "test")


def download(out: Path) -> None:
    """Fetch the competition into `out`: the CSVs, `train/` and `test/`. Safe to call again after
    any interruption.

    Raises:
        InputError: no credentials, rules not accepted, no connection, a damaged or malicious
        archive, or a full disk.
    """
    api = _signed_in()
    staging = out / STAGING
    staging.mkdir(parents=True, exist_ok=True)
    finished = FinishedDownloads(staging, out)
    with _explained():
        listed = list_files(api)
    single_images = any(name.endswith(".png") for name in listed)
    wanted = {name: size for name, size in listed.items() if not name.endswith(".png")}
    if single_images:  # the listing of so many files is cut short, so the CSVs may not be on it
        wanted = {name: listed.get(name, 0) for name in (*KAGGLE_FILES, "sample_submission.csv")}
    # tables first: they name the images
    for name in sorted(wanted, key=lambda name: name.endswith(".zip")):
        _fetch(api, name, wanted[name], out, finished)
    if single_images and _must_fetch(finished, SLUG, 0, out):
        log.info("fetching all images as one archive (46 GB)")
        with _explained():
            api.competition_download_files(SLUG, path=str(staging), quiet=not sys.stderr.isatty())
        finished.add(SLUG, 0, _unpack(staging / f"{SLUG}.zip", out))
    log.info("%s: complete", out)


def _signed_in():
    """Kaggle's client, with its own retries.

    Raises:
        InputError: there are no valid credentials (where to get them and where to put them is
        said), or no connection.
    """
    try:
        return kaggle_client(retries=True)
    except InputError as error:
        raise InputError(f"rxrx1: {error}") from None
    except OSError as error:
        raise InputError(f"rxrx1: Kaggle could not be asked ({redact(str(error))})") from None


def list_files(api) -> dict[str, int]:
    """The competition's files and their sizes in bytes, page after page; stops at the first page
    that holds a single image.
    """
    found: dict[str, int] = {}
    token = None
    while True:
        page = api.competition_list_files(SLUG, page_token=token, page_size=200)
        new = {file.name: int(file.total_bytes or 0) for file in page.files}
        found |= new
        token = page.next_page_token
        if not token or not new or any(name.endswith(".png") for name in new):
            return found


def unzip(archive: Path, out: Path) -> int:
    """Unpack `archive` into `out`; files that are there already with their full size are left
    alone.

    Each file is written beside its place and renamed when whole and its checksum right, so that a
    broken run is simply run again.

    Returns:
        How many files were written.

    Raises:
        InputError: not a zip, a damaged member, a member that would land outside `out` (absolute,
        `..`, a link, or
            through a link in `out`), or too little disk. Names are all checked before anything is
            written.
    """
    out.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(archive) as bundle:
            members = [
                (member, _target(member, archive, out))
                for member in bundle.infolist()
                if not member.is_dir()
            ]
            missing = [
                (member, path)
                for member, path in members
                if not (path.is_file() and path.stat().st_size == member.file_size)
            ]
            needed = sum(member.file_size for member, _ in missing)
            free = shutil.disk_usage(out).free
            if needed > free:
                raise InputError(
                    f"{archive}: unpacking needs {needed / 1e9:.1f} GB, {out} has "
                    f"{free / 1e9:.1f} GB free"
                )
            for member, path in tqdm(missing, desc=archive.name, unit="file", disable=None):
                _extract(bundle, member, path, archive)
    except FileNotFoundError:
        raise InputError(f"{archive}: no such file") from None
    except zipfile.BadZipFile as error:
        raise InputError(
            f"{archive}: is damaged or not a zip file ({error}); remove it and download again"
        ) from None
    return len(missing)


def _target(member: zipfile.ZipInfo, archive: Path, out: Path) -> Path:
    """Where a member goes, or a refusal."""
    # as written in the archive: ZipFile itself rewrites separators and cuts at a NUL
    name = member.orig_filename
    path = PurePosixPath(name)
    mode = member.external_attr >> 16
    kind = stat.S_IFMT(mode)
    if (
        path.is_absolute()
        or ".." in path.parts
        or "\\" in name
        or ":" in name
        or "\0" in name
        or not path.parts
    ):
        raise InputError(
            f"{archive}: member {name!r} would land outside the target; nothing was unpacked"
        )
    if kind not in (0, stat.S_IFREG):
        raise InputError(
            f"{archive}: member {name!r} is a link or special file; nothing was unpacked"
        )
    target = out.joinpath(*path.parts)
    if not target.resolve().is_relative_to(out.resolve()):
        raise InputError(
            f"{archive}: member {name!r} would go through a link out of {out}; nothing was unpacked"
        )
    return target


def _extract(bundle: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path, archive: Path) -> None:
    temporary = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with bundle.open(member) as source, open(temporary, "wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
        os.replace(temporary, path)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise InputError(
            f"{archive}: member {member.filename!r} is damaged ({error}); remove the archive and "
            "download again"
        ) from None
    except OSError as error:
        raise InputError(f"{path}: could not be written ({error.strerror or error})") from None
    finally:
        temporary.unlink(missing_ok=True)


def _must_fetch(finished: FinishedDownloads, name: str, size: int, out: Path) -> bool:
    """Whether a download is not done, or some of what it made is gone; says what.

    An archive that an earlier version noted without a list of its files is done where every image
    that the metadata name is there; these are then its list.
    """
    why = finished.why_missing(name, size)
    folder, old_size = name.removesuffix(".zip"), finished.old_size(name)
    same = old_size is not None and (old_size == size or name == SLUG)
    if same and folder in (SLUG, *_IMAGE_FOLDERS):
        files, gone = _named_images(out, folder)
        if files and gone is None:
            finished.add(name, size, files)
            return False
        why = f"{gone} is gone" if gone else why
    if why and name in finished:
        log.warning("%s: was fetched before, but %s; it is fetched again", name, why)
    return why is not None


def _named_images(out: Path, folder: str) -> tuple[dict[str, int], str | None]:
    """The images that the metadata name in a folder (SLUG: in all), with their bytes, and the first
    that is not there.
    """
    from cellsignal.competitions.rxrx1.competition import RxRx1

    try:
        samples = RxRx1().samples(out)
    except InputError:  # which `verify` says better
        return {}, None
    names = [
        name
        for files in samples.files
        for name in files
        if folder == SLUG or name.startswith(f"{folder}/")
    ]
    sizes = {}
    for name in names:
        try:
            sizes[name] = os.stat(out / name).st_size
        except OSError:
            return sizes, name
    return sizes, None


def _fetch(api, name: str, size: int, out: Path, finished: FinishedDownloads) -> None:
    """One listed file, unless it is there: an archive is unpacked, anything else moved to its
    place.
    """
    final, staging = out / name, out / STAGING
    archived = name.endswith(".zip")
    if not final.resolve().is_relative_to(out.resolve()):
        raise InputError(f"rxrx1: Kaggle lists {name!r}, which would land outside {out}")
    if not archived and size and final.is_file() and final.stat().st_size == size:
        return
    if not _must_fetch(finished, name, size, out):
        return
    log.info("fetching %s", name)
    folder = (staging / name).parent
    with _explained():
        api.competition_download_file(SLUG, name, path=str(folder), quiet=not sys.stderr.isatty())
    plain, zipped = staging / name, staging / f"{name}.zip"  # Kaggle sends some CSVs zipped
    if archived:
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
    """Unpack an image archive to its place and remove it. `train.zip` may hold its files with or
    without the folder `train/`.

    Returns:
        Path relative to `out` -> bytes of every file that it holds.
    """
    target = out
    if archive.stem in _IMAGE_FOLDERS and archive.is_file() and zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as bundle:
            if not all(name.startswith(f"{archive.stem}/") for name in bundle.namelist()):
                target = out / archive.stem
    unzip(archive, target)
    with zipfile.ZipFile(archive) as bundle:
        members = [member for member in bundle.infolist() if not member.is_dir()]
    files = {
        (target / member.filename).relative_to(out).as_posix(): member.file_size
        for member in members
    }
    archive.unlink()
    return files


@contextlib.contextmanager
def _explained():
    """Kaggle's and the network's errors as one line that says what to do."""
    import requests

    try:
        yield
    except requests.exceptions.HTTPError as error:
        status = error.response.status_code if error.response is not None else None
        reasons = {
            401: CREDENTIALS,
            403: f"Kaggle refuses; accept the rules at {PAGE}/rules with the account of your credentials",
            404: f"Kaggle has no such file; see {PAGE}/data",
            429: "Kaggle refuses so many requests; wait some minutes and run the same command again, it resumes",
        }
        raise InputError(
            "rxrx1: "
            f"{reasons.get(status, f'Kaggle answered {status}; run the same command again, it resumes')}"
        ) from None
    except (requests.exceptions.RequestException, ValueError, OSError) as error:
        raise InputError(
            f"rxrx1: download broke off ({' '.join(str(error).split())}); run the same command "
            "again, it resumes"
        ) from None
    except SystemExit:
        raise InputError(f"rxrx1: {CREDENTIALS}") from None

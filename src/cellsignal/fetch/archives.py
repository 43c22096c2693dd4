"""Unpack zip archives from elsewhere: checked names, whole files, resumable."""

import os
import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from cellsignal.common.errors import InputError

_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError)


def unzip(archive: Path, out: Path) -> int:
    """Unpack an archive; skip files that exist with their full size.

    Each file is written beside its place and renamed when whole and its checksum right, so a
    stopped run is simply run again.

    Returns:
        How many files were written.

    Raises:
        InputError: not a zip, a damaged member, a member that would land outside `out` (absolute,
        `..`, a link, or through a link in `out`), or too little disk. Names are all checked before
        anything is written.
    """
    out.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(archive) as bundle:
            missing = []
            for member in _files(bundle):
                path = _checked_target(member, archive, out)
                if not (path.is_file() and path.stat().st_size == member.file_size):
                    missing.append((member, path))
            _check_space(archive, out, sum(member.file_size for member, _ in missing))
            for member, path in tqdm(missing, desc=archive.name, unit="file", disable=None):
                _extract(bundle, member, path, archive)
    except FileNotFoundError:
        raise InputError(f"{archive}: no such file") from None
    except zipfile.BadZipFile as error:
        raise InputError(
            f"{archive}: is damaged or not a zip file ({error}); remove it and download again"
        ) from None
    return len(missing)


def file_sizes(archive: Path) -> dict[str, int]:
    """Return the name and the unpacked bytes of every file in an archive."""
    with zipfile.ZipFile(archive) as bundle:
        return {member.filename: member.file_size for member in _files(bundle)}


def is_damaged(archive: Path) -> bool:
    """Return whether an archive is not a zip, or a checksum in it is wrong."""
    try:
        with zipfile.ZipFile(archive) as bundle:
            return bundle.testzip() is not None
    except _DAMAGE:
        return True


def _files(bundle: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    return [member for member in bundle.infolist() if not member.is_dir()]


def _checked_target(member: zipfile.ZipInfo, archive: Path, out: Path) -> Path:
    # as written in the archive: ZipFile itself rewrites separators and cuts at a NUL
    name = member.orig_filename
    path = PurePosixPath(name)
    odd = any(character in name for character in "\\:\0")
    if path.is_absolute() or ".." in path.parts or odd or not path.parts:
        raise InputError(
            f"{archive}: member {name!r} would land outside the target; nothing was unpacked"
        )
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
        raise InputError(
            f"{archive}: member {name!r} is a link or special file; nothing was unpacked"
        )
    target = out.joinpath(*path.parts)
    if not target.resolve().is_relative_to(out.resolve()):
        raise InputError(
            f"{archive}: member {name!r} would go through a link out of {out}; nothing was unpacked"
        )
    return target


def _check_space(archive: Path, out: Path, needed: int) -> None:
    free = shutil.disk_usage(out).free
    if needed > free:
        raise InputError(
            f"{archive}: unpacking needs {needed / 1e9:.1f} GB, {out} has {free / 1e9:.1f} GB free"
        )


def _extract(bundle: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path, archive: Path) -> None:
    temporary = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with bundle.open(member) as source, open(temporary, "wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
        os.replace(temporary, path)
    except _DAMAGE as error:
        raise InputError(
            f"{archive}: member {member.filename!r} is damaged ({error}); remove the archive and "
            "download again"
        ) from None
    except OSError as error:
        raise InputError(f"{path}: could not be written ({error.strerror or error})") from None
    finally:
        temporary.unlink(missing_ok=True)

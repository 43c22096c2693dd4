"""Download BBBC021 from the Broad Institute, plate by plate.

A plate is one zip of 720 TIFFs; it is fetched (and resumed) in `.download/`, unpacked with the CRC
of every file checked, compared with the file names of the image table, and removed. The host
publishes no checksums, so the first download cannot be held to any: its size, its CRCs and its file
names are checked, and its SHA-256 is written to `downloads.json`, which later downloads of the same
file are held to. A folder that holds all files of a plate, each of the size that it had when it was
unpacked, is left alone.
"""

import contextlib
import json
import logging
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cellsignal.common.errors import InputError
from cellsignal.common.files import sha256, write_json
from cellsignal.competitions.bbbc021.metadata import CHANNELS, IMAGE_CSV, MOA_CSV, read_annotated
from cellsignal.fetch import Fetcher
from cellsignal.fetch.archives import is_damaged, unzip

log = logging.getLogger(__name__)

HOST = "https://data.broadinstitute.org/bbbc/BBBC021"
RECORD = "downloads.json"
STAGING = ".download"


def download(
    out: Path,
    plates: Sequence[str] | None = None,
    *,
    host: str = HOST,
    fetcher: Fetcher | None = None,
) -> None:
    """Download both tables and the images of all plates, or of some; resumes what was stopped.

    Args:
        plates: names as in the image table ("Week4_27481"); None is all 55: 104 GB unpacked.
        host: the folder that holds the files.

    Raises:
        InputError: no connection, a damaged or malicious archive, one that lacks a file of the
        image table or differs from an earlier download, an unknown plate, or a full disk.
    """
    out = Path(out)
    record = read_record(out)
    with contextlib.nullcontext(fetcher) if fetcher else Fetcher() as fetch:
        for name in (IMAGE_CSV, MOA_CSV):
            url = f"{host}/{name}"
            path = fetch.file(url, out / name, sha256=record.get(name, {}).get("sha256"))
            if name not in record:
                note_download(out, record, name, url, path)
        fields, _ = read_annotated(out)
        known = list(dict.fromkeys(fields.plate))
        unknown = sorted(set(plates or ()) - set(known))
        if unknown:
            raise InputError(
                f"plates: {unknown[0]!r} is not one of the {len(known)} plates, {known[0]} .. "
                f"{known[-1]}"
            )
        wanted = [plate for plate in known if plates is None or plate in plates]
        for plate in tqdm(wanted, desc="download", unit="plate", disable=None):
            rows = fields[fields.plate == plate]
            names = [name for channel in CHANNELS for name in rows[channel]]
            _fetch_plate(fetch, out, record, host, rows.experiment.iloc[0], plate, names)
    log.info("%s: complete (%d of %d plates)", out, len(wanted), len(known))


def archive_name(plate: str) -> str:
    """Return the name of a plate's zip at the host."""
    return f"BBBC021_v1_images_{plate}.zip"


def _fetch_plate(
    fetch: Fetcher,
    out: Path,
    record: dict[str, Any],
    host: str,
    week: str,
    plate: str,
    names: list[str],
) -> None:
    """Fetch and unpack one plate's files, unless they are complete."""
    name = archive_name(plate)
    archive, url = out / STAGING / name, f"{host}/{name}"
    if not _missing(out, names, record.get(name, {}).get("files", {})):
        archive.unlink(missing_ok=True)  # a kill can leave it behind
        return
    fetch.file(url, archive, sha256=record.get(name, {}).get("sha256"))
    try:
        unzip(archive, _target(archive, out, week, plate))
    except InputError:
        if is_damaged(archive):
            archive.unlink()
            raise InputError(
                f"{url}: came damaged and was removed; run the same command again"
            ) from None
        raise
    missing = _missing(out, names)
    if missing:
        raise InputError(
            f"{archive}: lacks {len(missing)} of the {len(names)} files that {IMAGE_CSV} names, "
            f"first {missing[0]}"
        )
    sizes = {file: (out / file).stat().st_size for file in names}
    note_download(out, record, name, url, archive, files=sizes)
    archive.unlink()


def _target(archive: Path, out: Path, week: str, plate: str) -> Path:
    """Return the folder to unpack an archive in, so that its TIFFs are in <week>/<plate>/."""
    try:
        with zipfile.ZipFile(archive) as bundle:
            images = [name for name in bundle.namelist() if name.lower().endswith(".tif")]
    except zipfile.BadZipFile:
        images = []  # `unzip` says what is wrong with it
    if images and all(name.startswith(f"{week}/{plate}/") for name in images):
        return out
    if images and all(name.startswith(f"{plate}/") for name in images):
        return out / week
    return out / week / plate


def _missing(out: Path, names: list[str], sizes: Mapping[str, int] | None = None) -> list[str]:
    """Return the files that are missing or have the wrong size."""
    return [name for name in names if not _is_there(out / name, (sizes or {}).get(name))]


def _is_there(path: Path, size: int | None) -> bool:
    try:
        state = path.stat()
    except OSError:
        return False
    return path.is_file() and (state.st_size == size if size is not None else state.st_size > 0)


def note_download(
    out: Path, record: dict[str, Any], name: str, url: str, path: Path, **more: Any
) -> None:
    """Note a download's address, size and SHA-256 in `downloads.json`."""
    record[name] = {"url": url, "bytes": path.stat().st_size, "sha256": sha256(path), **more}
    write_json(out / RECORD, record)


def read_record(out: Path) -> dict[str, Any]:
    """Return what earlier downloads have noted in a folder."""
    try:
        record = json.loads((out / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        record = None
    if not isinstance(record, dict) or not all(isinstance(part, dict) for part in record.values()):
        raise InputError(
            f"{out / RECORD}: is not a record of downloads; remove it to take what comes as it is"
        )
    return record

"""A download that grows as `<path>.part` beside its file, so that the next call can resume it."""

import errno
import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from tqdm import tqdm

from cellsignal.common.files import write_text
from cellsignal.fetch.http import TemporaryError, describe_failure

CHUNK = 1 << 15  # bytes; the chunk in which a connection breaks is lost


class PartFile:
    """The bytes of `path` received so far; `<path>.part.tag` holds their version."""

    def __init__(self, path: Path):
        self.final_path = path
        self.path = path.with_name(path.name + ".part")
        self._tag = path.with_name(path.name + ".part.tag")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    @property
    def version(self) -> str:
        """Return the ETag or date of the server's file; "" if unknown."""
        return self._tag.read_text(encoding="utf-8") if self._tag.is_file() else ""

    def start(self, version: str) -> None:
        """Begin with the first byte of a version of the server's file."""
        self.remove()
        write_text(self._tag, version)

    def require_space(self, size: int) -> None:
        """Raise an OSError if the disk has no room for `size` more bytes."""
        if size > shutil.disk_usage(self.path.parent).free:
            raise OSError(errno.ENOSPC, f"{size / 1e9:.1f} GB to come and no room for them")

    def append(self, response, start: int, total: int | None) -> None:
        """Append the body of a response that begins with byte `start`.

        Raises:
            TemporaryError: the connection broke; what came before is saved.
        """
        import requests

        saved = 0
        bar = tqdm(
            total=total,
            initial=start,
            desc=self.path.stem,
            unit="B",
            unit_scale=True,
            leave=False,
            delay=2,
            disable=None,
        )
        with bar, open(self.path, "ab" if start else "wb") as file:
            try:
                for chunk in response.iter_content(CHUNK):
                    file.write(chunk)
                    saved += len(chunk)
                    bar.update(len(chunk))
            except requests.exceptions.RequestException as error:
                raise TemporaryError(describe_failure(error), saved_bytes=saved) from None
        if total is not None and start + saved != total:
            raise TemporaryError(f"{start + saved} of {total} bytes came", saved_bytes=saved)

    def finish(self) -> None:
        """Rename the part to its file."""
        with open(self.path, "rb") as written:
            os.fsync(written.fileno())
        os.replace(self.path, self.final_path)
        self.remove()

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self._tag.unlink(missing_ok=True)


def find_fault(path: Path, size: int | None, hashes: Mapping[str, str | None]) -> str | None:
    """Return how a file differs from its expected size and hashes; None if it does not."""
    actual_size = path.stat().st_size
    if size is not None and actual_size != size:
        return f"has {actual_size} bytes, {size} expected"
    for name, expected in hashes.items():
        if expected is not None:
            with open(path, "rb") as file:
                actual = hashlib.file_digest(file, name).hexdigest()
            if actual != expected.lower():
                return f"its {name} is {actual}, {expected.lower()} expected"
    return None

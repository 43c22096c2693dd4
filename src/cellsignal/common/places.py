"""Where a store lies: a local folder, or a folder on object storage or a web server."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from cellsignal.common.errors import InputError

CACHE_GIB = 20.0
REQUESTS = 32
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(://|::)")
_URL_AS_PATH = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


@dataclass(frozen=True)
class RemoteFolder:
    """A folder that fsspec reads, named by its URL: `s3://bucket/store.zarr`.

    It is no `os.PathLike`: `Path` would turn `s3://` into `s3:/`.

    Attributes:
        url: the URL without a slash at its end.
        cache_gib: the local disk that copies of its sites may take, GiB.
        requests: how many requests wait for their answers side by side, at most.
    """

    url: str
    cache_gib: float = CACHE_GIB
    requests: int = REQUESTS

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> "RemoteFolder":
        return RemoteFolder(f"{self.url}/{name}", self.cache_gib, self.requests)

    def without_cache(self) -> "RemoteFolder":
        """Return the same folder, of whose sites no copies are kept or read."""
        return RemoteFolder(self.url, 0.0, self.requests)

    @property
    def name(self) -> str:
        """The last part of the URL."""
        return self.url.rpartition("/")[2]

    @property
    def protocol(self) -> str:
        """What comes before `://`, such as s3 or https, in lower case."""
        return re.split(r"::|://", self.url, maxsplit=1)[0].lower()


Place = Path | RemoteFolder


def local_folder(place: Place) -> Path:
    """Return a place where something can be packed.

    Raises:
        InputError: it is remote.
    """
    if isinstance(place, RemoteFolder):
        raise InputError(
            f"data.store: {place} is read only; pack into a local folder (--set "
            f"data.store=stores/{place.name}), then copy it with the provider's tool: "
            f"`{_copy_command(place)}`"
        )
    return place


def refuse_urls(options: Mapping[str, object]) -> None:
    """Refuse URLs among the options of a command that take local paths.

    `Path` makes `s3:/bucket` of `s3://bucket`, a local folder that would be written into.

    Args:
        options: by name; those that are paths, or lists of them, are looked at.

    Raises:
        InputError: names the option and the URL.
    """
    for name, value in options.items():
        for path in value if isinstance(value, list | tuple) else [value]:
            if isinstance(path, Path) and (match := _URL_AS_PATH.match(str(path))):
                slashes = "//" if match[0] == "file:/" else "/"
                url = f"{match[0]}{slashes}{str(path)[match.end() :]}"
                raise InputError(
                    f"{name.replace('_', '-')} {url}: takes a local path, no URL (URLs are read by "
                    "data.store and verify --store); write it locally and copy it with the "
                    "provider's tool"
                )


def _copy_command(place: RemoteFolder) -> str:
    local = f"stores/{place.name}"
    if place.protocol in ("gs", "gcs"):
        return f"gcloud storage rsync -r {local} {place}"
    if place.protocol in ("az", "abfs", "adl"):
        return f"azcopy sync {local} <URL of the container>"
    if place.protocol in ("s3", "s3a"):
        return f"aws s3 sync {local} {place}"
    return f"rclone copy {local} <remote>"


def as_place(place: Place | str) -> Place:
    """Return the `Path` of a local folder (also of `file://`), or the `RemoteFolder` of a URL.

    Raises:
        InputError: a URL that holds a password or a query: it would be written into every log.
    """
    if not isinstance(place, str):
        return place
    if _URL.match(place) is None:
        return Path(place)
    if place.startswith("file://"):
        return Path(place.removeprefix("file://"))
    parts = urlsplit(place)
    if "@" in parts.netloc:
        shown = place.replace(parts.netloc, "***@" + parts.netloc.rpartition("@")[2])
        raise InputError(
            f"{shown}: no user or password in a URL; give them as the provider's tools read them "
            "(environment variables, a profile)"
        )
    if parts.query or parts.fragment:
        shown = place.partition("?")[0].partition("#")[0]
        raise InputError(f"{shown}: the URL of a store ends without ?... and #...")
    return RemoteFolder(place.rstrip("/"))

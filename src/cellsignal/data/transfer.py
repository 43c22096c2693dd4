"""Fetch files, or parts of them, from object storage through fsspec, and try again where it helps.

Temporary failures are tried again with growing waits: no answer in time, a connection that was
cut, an answer that ended early, the statuses 408, 429 and 5xx. Any other failure is raised at once,
in one line that names the URL. fsspec's thread does not live on in a forked process, so every
process opens its own connections.
"""

import asyncio
import logging
import os
import random
import sys
import time
from collections.abc import Callable
from typing import Any

from cellsignal.common.errors import InputError
from cellsignal.common.places import RemoteFolder

log = logging.getLogger(__name__)

TRIES = 8
FIRST_WAIT, LONGEST_WAIT = 0.25, 16.0  # seconds; doubled from try to try: 32 s in all
CONNECT_SECONDS, SILENT_SECONDS = 15, 60
TEMPORARY = (408, 429)  # and 500 to 599
REACH = {
    "s3": "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; for a public bucket "
    "FSSPEC_S3_ANON=true",
    "gs": "run `gcloud auth application-default login`, or set FSSPEC_GS_TOKEN=anon for a public "
    "bucket",
}
REACH["s3a"], REACH["gcs"] = REACH["s3"], REACH["gs"]
# exceptions of packages that are imported where a protocol needs them: module -> names
_FAILURES = {
    "aiohttp": ("ClientError",),
    "botocore.exceptions": ("BotoCoreError", "ClientError"),
    "gcsfs.retry": ("HttpError",),
    "google.auth.exceptions": ("GoogleAuthError",),
    "azure.core.exceptions": ("AzureError",),
}
_NO_CREDENTIALS = (
    "NoCredentialsError",
    "PartialCredentialsError",
    "CredentialRetrievalError",
    "ProfileNotFound",
    "DefaultCredentialsError",
    "TokenRetrievalError",
    "UnauthorizedSSOTokenError",
)
_random = random.Random()  # never the one that a training draws from


class ShortFile(ValueError):
    """A file is shorter than the range that was asked for."""


class _Truncated(OSError):
    pass


class Transfer:
    """Reads the files below a `RemoteFolder`. Any thread may use it, and a forked process, too."""

    def __init__(self, place: RemoteFolder):
        self.place = place
        self._opened: tuple[int, Any, str] | None = None
        self._warned = False

    def __reduce__(self) -> tuple:
        return Transfer, (self.place,)

    def fetch(self, name: str, start: int = 0, length: int | None = None, what: str = "") -> bytes:
        """Return a file's bytes from `start` on, by one request.

        Args:
            start: negative: so many bytes from its end (then without `length`).
            what: such as "row 5", for messages.

        Raises:
            FileNotFoundError: there is no such file.
            ShortFile: it ends before `start + length`, also when asked again.
            InputError: no access, no answer, or a server that does not serve ranges.
        """
        end = None if length is None else start + length
        wanted = -start if start < 0 else length

        def read() -> bytes:
            filesystem, root = self._filesystem()
            data = filesystem.cat_file(f"{root}/{name}", start=start, end=end)
            if wanted is not None and len(data) < wanted:
                raise _Truncated(f"{len(data)} of {wanted} bytes came")
            return data

        data = self._with_retries(read, name, what)
        if wanted is not None and len(data) > wanted:
            raise InputError(
                f"{self.place}/{name}: the server does not serve ranges of bytes ({wanted} asked "
                f"for, {len(data)} came); copy the store to a disk or to object storage"
            )
        return data

    def save(self, name: str, to: str) -> None:
        """Copy a whole file to the local path `to`.

        Raises:
            FileNotFoundError: there is no such file.
            InputError: no access, no answer.
        """

        def copy() -> None:
            filesystem, root = self._filesystem()
            filesystem.get_file(f"{root}/{name}", to)

        self._with_retries(copy, name, "")

    def _filesystem(self) -> tuple[Any, str]:
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), *_open(self.place))
        return self._opened[1:]

    def _with_retries(self, act: Callable[[], Any], name: str, what: str) -> Any:
        where = f"{self.place}/{name}: {what}{': ' if what else ''}"
        wait, truncated = FIRST_WAIT, 0
        for attempt in range(1, TRIES + 1):
            try:
                return act()
            except FileNotFoundError:
                raise
            except _failures() as error:
                reason = _error_text(error)
                status = _status_of(error)
                if status == 416:
                    raise ShortFile(f"it is shorter than its index says ({reason})") from None
                if _is_lasting(error, status):
                    raise InputError(f"{where}{_advise(self.place, error, reason)}") from None
                truncated += isinstance(error, _Truncated)
                if truncated == 3:
                    raise ShortFile(reason) from None
            if attempt == TRIES:
                break
            if not self._warned:
                self._warned = True
                log.warning("%s%s; trying again, which is logged once", where, reason)
            time.sleep(wait * _random.uniform(0.5, 1))
            wait = min(2 * wait, LONGEST_WAIT)
        raise InputError(f"{where}failed {TRIES} times; the last time: {reason}")


def _open(place: RemoteFolder) -> tuple[Any, str]:
    """Return the filesystem of a URL and the URL's path in it.

    Raises:
        InputError: a package is missing, or nothing knows such URLs.
    """
    try:
        import fsspec
    except ImportError:
        raise InputError(
            f"{place}: needs the package fsspec; install the extra remote "
            '(pip install -e ".[remote]")'
        ) from None
    try:
        filesystem, root = fsspec.core.url_to_fs(
            place.url, skip_instance_cache=True, use_listings_cache=False, **_options(place)
        )
    except ImportError as error:
        package = str(error.__cause__.name if isinstance(error.__cause__, ImportError) else error)
        raise InputError(
            f"{place}: needs the package {package}; pip install {package} (the extra remote brings "
            "what s3:// and https:// need)"
        ) from None
    except ValueError as error:
        raise InputError(f"{place}: cannot be read as a URL ({error})") from None
    if "s3" in place.protocol:
        filesystem.retries = 1  # the tries are counted here
    return filesystem, root.rstrip("/")


def _options(place: RemoteFolder) -> dict[str, Any]:
    """Return timeouts, and room for all requests; what the user's own fsspec settings say wins."""
    from fsspec.config import conf

    if place.protocol in ("s3", "s3a"):
        ours = {
            "connect_timeout": CONNECT_SECONDS,
            "read_timeout": SILENT_SECONDS,
            "retries": {"mode": "standard", "total_max_attempts": 1},
            "max_pool_connections": max(10, place.requests),
        }
        return {"config_kwargs": ours | conf.get(place.protocol, {}).get("config_kwargs", {})}
    if place.protocol in ("http", "https"):
        try:
            from aiohttp import ClientTimeout
        except ImportError:
            return {}  # fsspec then says what is missing
        timeout = ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENT_SECONDS)
        given = conf.get(place.protocol, {}).get("client_kwargs", {})
        return {"client_kwargs": {"timeout": timeout} | given}
    return {}


def _failures() -> tuple[type[Exception], ...]:
    """Return the exceptions by which the packages that are in use say that a request failed."""
    classes: list[type[Exception]] = [OSError, EOFError, asyncio.TimeoutError]
    for module, names in _FAILURES.items():
        if module in sys.modules:
            classes += [getattr(sys.modules[module], name) for name in names]
    return tuple(classes)


def _status_of(error: BaseException) -> int | None:
    """Return the HTTP status of the answer that an exception tells of.

    s3fs makes an `OSError` of botocore's exception, which is then its cause. aiohttp's exceptions
    of connections that broke have causes with numbers that no server sent.
    """
    cause: BaseException | None = error
    while cause is not None:
        answer = getattr(cause, "response", None)
        if isinstance(answer, dict):
            return answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
        cause = cause.__cause__
    status = getattr(error, "status", None) or getattr(error, "code", None)
    return int(status) if isinstance(status, int | str) and str(status).isdigit() else None


def _is_lasting(error: Exception, status: int | None) -> bool:
    if isinstance(error, PermissionError) or type(error).__name__ in _NO_CREDENTIALS:
        return True
    return status is not None and 400 <= status < 500 and status not in TEMPORARY


def _advise(place: RemoteFolder, error: Exception, reason: str) -> str:
    reach = REACH.get(place.protocol, "give access as the provider's tools read it")
    if type(error).__name__ in _NO_CREDENTIALS:
        return f"no credentials ({reason}); {reach}"
    if isinstance(error, PermissionError) or _status_of(error) in (401, 403):
        return f"no access ({reason}; some servers say so of what is not there, too); {reach}"
    return f"cannot be fetched ({reason})"


def _error_text(error: Exception) -> str:
    """Return one line about a failure: many have no text of their own."""
    status, text = _status_of(error), " ".join(str(error).split())
    text = text if len(text) <= 200 else text[:197] + "..."
    text = text or type(error).__name__
    return text if status is None or str(status) in text else f"status {status}: {text}"

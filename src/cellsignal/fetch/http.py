"""Read URLs, statuses, headers and errors of HTTP for the fetcher."""

import email.utils
import re
import time
from collections.abc import Iterator
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from cellsignal.common.errors import InputError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
TEMPORARY_STATUSES = (408, 425, 429, 500, 502, 503, 504)
_SECRET = re.compile(r"token|key|sig|pass|secret|credential|auth", re.I)


class TemporaryError(Exception):
    """A failure that is worth another try.

    Attributes:
        wait: seconds to wait, if the server says so.
        saved_bytes: bytes that were saved before the failure.
    """

    def __init__(self, reason: str, wait: float | None = None, saved_bytes: int = 0):
        self.wait = wait
        self.saved_bytes = saved_bytes
        super().__init__(reason)


def redact_url(url: str) -> str:
    """Write a URL for a message, without user, password and parameters that look like secrets."""
    try:
        scheme, host, path, query, _ = urlsplit(url)
    except ValueError:
        return "a URL that cannot be read"
    pairs = [pair for pair in query.split("&") if pair]
    visible = [pair for pair in pairs if not _SECRET.search(pair.partition("=")[0])]
    names = [name for name, _ in parse_qsl(query, keep_blank_values=True)]
    hidden = [f"{name}=***" for name in names if _SECRET.search(name)]
    return urlunsplit((scheme, host.rpartition("@")[2], path, "&".join(visible + hidden), ""))


def check_url(url: str) -> None:
    """Refuse any URL but https, and http of this machine."""
    try:
        scheme, host = urlsplit(url).scheme, urlsplit(url).hostname
    except ValueError:
        scheme, host = "", None
    if not host or scheme not in ("http", "https") or (scheme == "http" and host not in LOOPBACK):
        raise InputError(f"{redact_url(url)}: only https is fetched (http from this machine alone)")


def host_of(url: str) -> str:
    """Return the host and port of a URL."""
    return urlsplit(url).netloc.rpartition("@")[2]


def check_status(response, url: str, *expected: int) -> None:
    """Refuse a response with any other status than the expected ones."""
    if response.status_code not in expected:
        answer = f"{response.status_code} {response.reason}"
        raise InputError(f"{redact_url(url)}: the server answers {answer}")


def iterate_causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and its causes.

    requests and urllib3 keep the cause in arguments as often as in `__cause__`.
    """
    seen, open_items = set(), [error]
    while open_items:
        item = open_items.pop()
        if isinstance(item, BaseException) and id(item) not in seen:
            seen.add(id(item))
            yield item
            open_items += [item.__cause__, item.__context__]
            open_items += [getattr(item, "reason", None), *item.args]


def describe_failure(error: BaseException) -> str:
    """Say why no answer came, without the URL."""
    import requests
    import urllib3

    timeouts = (TimeoutError, requests.exceptions.Timeout, urllib3.exceptions.ReadTimeoutError)
    causes = list(iterate_causes(error))
    if any(isinstance(cause, timeouts) for cause in causes):
        return "no answer in time"
    reasons = [cause.strerror for cause in causes if isinstance(cause, OSError) and cause.strerror]
    return f"no connection ({reasons[-1]})" if reasons else "the connection broke off"


def retry_after(response) -> float | None:
    """Return the seconds that `Retry-After` asks for: a number or a date (RFC 9110, 10.2.3)."""
    text = response.headers.get("Retry-After", "")
    try:
        return max(float(text), 0.0)
    except ValueError:
        pass
    try:
        return max(email.utils.parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
    except ValueError:
        return None


def body_range(response) -> tuple[int, int | None]:
    """Return the first byte in a response, and the length of the whole file if known."""
    if response.status_code == 206:
        text = response.headers.get("Content-Range", "")
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", text)
        if match is None:
            raise TemporaryError("a part without a readable Content-Range")
        return int(match[1]), None if match[2] == "*" else int(match[2])
    length = response.headers.get("Content-Length", "")
    is_known = length.isdigit() and "Content-Encoding" not in response.headers
    return 0, int(length) if is_known else None


def file_version(response) -> str:
    """Return the value for `If-Range`: a strong ETag, else the date of the last change."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified", "")

"""What URLs, statuses, headers and errors say, for the fetcher: what may be asked, what may be
shown, what may pass.
"""

import email.utils
import re
import time
from collections.abc import Iterator
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from cellsignal.common.errors import InputError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PASSING = (408, 425, 429, 500, 502, 503, 504)  # statuses that may be another one in a moment
_SECRET = re.compile(r"token|key|sig|pass|secret|credential|auth", re.I)


class Passing(Exception):
    """A failure worth another try: after `wait` seconds if the server says so; `gained` bytes were
    saved before it.
    """

    def __init__(self, reason: str, wait: float | None = None, gained: int = 0):
        self.wait, self.gained = wait, gained
        super().__init__(reason)


def shown(url: str) -> str:
    """A URL for a message: without user and password, and with the values of parameters that look
    like secrets left out.
    """
    try:
        scheme, host, path, query, _ = urlsplit(url)
    except ValueError:
        return "a URL that cannot be read"
    hidden = [
        f"{key}=***" for key, _ in parse_qsl(query, keep_blank_values=True) if _SECRET.search(key)
    ]
    kept = "&".join(p for p in query.split("&") if p and not _SECRET.search(p.partition("=")[0]))
    return urlunsplit(
        (scheme, host.rpartition("@")[2], path, "&".join(filter(None, [kept, *hidden])), "")
    )


def check_url(url: str) -> None:
    try:
        scheme, host = urlsplit(url).scheme, urlsplit(url).hostname
    except ValueError:
        scheme, host = "", None
    if not host or scheme not in ("http", "https") or (scheme == "http" and host not in LOOPBACK):
        raise InputError(f"{shown(url)}: only https is fetched (http from this machine alone)")


def host_of(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def expect(response, url: str, *statuses: int) -> None:
    if response.status_code not in statuses:
        raise InputError(
            f"{shown(url)}: the server answers {response.status_code} {response.reason}"
        )


def causes(error: BaseException) -> Iterator[BaseException]:
    """An exception and all it was made from: requests and urllib3 hide the cause in arguments as
    often as in `__cause__`.
    """
    seen, left = set(), [error]
    while left:
        one = left.pop()
        if isinstance(one, BaseException) and id(one) not in seen:
            seen.add(id(one))
            yield one
            left += [one.__cause__, one.__context__, getattr(one, "reason", None), *one.args]


def reason(error: BaseException) -> str:
    """Why no answer came, in words without the URL."""
    import requests

    if isinstance(error, requests.exceptions.Timeout) or any(
        "timed out" in str(cause) for cause in causes(error)
    ):
        return "no answer in time"
    said = [
        cause.strerror for cause in causes(error) if isinstance(cause, OSError) and cause.strerror
    ]
    return f"no connection ({said[-1]})" if said else "the connection broke off"


def retry_after(response) -> float | None:
    """Seconds that `Retry-After` asks for: a number or a date (RFC 9110, 10.2.3)."""
    text = response.headers.get("Retry-After", "")
    try:
        return max(float(text), 0.0)
    except ValueError:
        pass
    try:
        return max(email.utils.parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
    except ValueError:
        return None


def extent(response) -> tuple[int, int | None]:
    """The first byte that a response holds, and the length of the whole file where it is said."""
    if response.status_code == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if found is None:
            raise Passing("a part without a readable Content-Range")
        return int(found[1]), None if found[2] == "*" else int(found[2])
    length = response.headers.get("Content-Length", "")
    return 0, int(
        length
    ) if length.isdigit() and "Content-Encoding" not in response.headers else None


def validator(response) -> str:
    """What `If-Range` takes: a strong ETag, else the date of the last change."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified", "")

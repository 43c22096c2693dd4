"""Downloads over HTTP that a public host need not mind and a broken line cannot spoil:
rate-limited, retried, resumed, checked.

https only (http for this machine alone), certificates always checked. Whatever goes wrong is one
line that names the URL, without the passwords and tokens that may be in it. The retries are a loop
of our own: urllib3's end with the headers, and what breaks is bodies.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import random
import shutil
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode, urljoin, urlsplit

from tqdm import tqdm

from cellsignal import __version__
from cellsignal.common.errors import InputError
from cellsignal.common.files import write_text
from cellsignal.fetch import wire
from cellsignal.fetch.wire import Passing, shown

log = logging.getLogger(__name__)
Result = TypeVar("Result")

REDIRECTS = 5
LONGEST_BACKOFF_S, LONGEST_RETRY_AFTER_S = 60.0, 600.0
CHUNK = 1 << 15  # bytes; of the chunk in which a line breaks, nothing is kept
WORTH = 1 << 20  # bytes: an attempt that brought so many counts as the first


@dataclass(frozen=True)
class Politeness:
    """How a host is treated.

    Attributes:
        per_second: requests a second to one host, at most.
        attempts: how often one request is tried.
        backoff_s: seconds before the second try, doubled for each further one, times .5 to 1.5 at
        random; a `Retry-After` goes before. timeout_s: seconds to wait for a connection, and for
        the next bytes.
    """

    per_second: float = 5.0
    attempts: int = 6
    backoff_s: float = 1.0
    timeout_s: float = 30.0


class Fetcher:
    """One HTTP session. Threads may share it; together they keep to the rate.

    Args:
        politeness: rate, retries, timeouts.
        headers: sent to the host that is asked, never on to another one that it redirects to.
    """

    def __init__(
        self, politeness: Politeness | None = None, headers: Mapping[str, str] | None = None
    ):
        import requests

        self.politeness = politeness or Politeness()
        self._headers = dict(headers or {})
        self._session = requests.Session()
        self._session.headers["User-Agent"] = f"cellsignal/{__version__}"
        self._lock = threading.Lock()
        # host -> when it may be asked again, monotonic seconds
        self._free_at: dict[str, float] = {}

    def __enter__(self) -> "Fetcher":
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def bytes(self, url: str, params: Mapping[str, Any] | None = None) -> bytes:
        """The body of a GET; `params` are appended to the URL.

        Raises:
            InputError: a URL that is not https, a status other than 200, or no whole answer after
            all attempts.
        """
        url = (
            url
            if params is None
            else f"{url}{'&' if urlsplit(url).query else '?'}{urlencode(params)}"
        )

        def once() -> bytes:
            with self._open(url) as response:
                wire.expect(response, url, 200)
                return response.content

        return self._tried(url, once)

    def json(self, url: str, params: Mapping[str, Any] | None = None) -> Any:
        """The body of a GET, parsed.

        Raises:
            InputError: as `bytes`, or the answer is not JSON.
        """
        body = self.bytes(url, params)
        try:
            return json.loads(body)
        except ValueError:
            raise InputError(
                f"{shown(url)}: the answer is not JSON, it starts {body[:40]!r}"
            ) from None

    def exists(self, url: str) -> bool:
        """Whether the server has it, by a HEAD: 200 is yes, 404 and 410 are no.

        Raises:
            InputError: any other status, or no answer after all attempts.
        """

        def once() -> bool:
            with self._open(url, method="HEAD") as response:
                wire.expect(response, url, 200, 404, 410)
                return response.status_code == 200

        return self._tried(url, once)

    def file(
        self,
        url: str,
        path: Path | str,
        *,
        size: int | None = None,
        md5: str | None = None,
        sha256: str | None = None,
    ) -> Path:
        """Fetch a file to `path`, unless it is there with the size and checksums given.

        It grows as `<path>.part`, which an interruption leaves and the next call continues (HTTP
        Range) where it is known that the server's file is still the same: by its ETag or date, kept
        in `<path>.part.tag`, or by a checksum.

        Args:
            size: bytes.
            md5, sha256: hex.

        Raises:
            InputError: as `bytes`; another size or checksum than given (the part is removed); no
            room on the disk (the part is kept).
        """
        path, hashes = Path(path), {"md5": md5, "sha256": sha256}
        part = path.with_name(path.name + ".part")
        if path.is_file() and _wrong(path, size, hashes) is None:
            return path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            while True:
                resumed = part.is_file()
                self._tried(url, lambda: self._append(url, part, size, any(hashes.values())))
                wrong = _wrong(part, size, hashes)
                if wrong is None:
                    break
                _drop(part)
                if not resumed:  # one more try where bytes of an earlier call may be to blame
                    raise InputError(f"{shown(url)}: {wrong}; nothing was kept")
            with open(part, "rb") as written:
                os.fsync(written.fileno())
            os.replace(part, path)
            _drop(part)
        except OSError as error:
            raise InputError(
                f"{path}: could not be written ({error.strerror or error}); {part.name} is kept"
            ) from None
        return path

    def _append(self, url: str, part: Path, size: int | None, checked: bool) -> None:
        """Bring `part` to the length of the server's file."""
        tag = _tag_of(part)
        same = tag.read_text(encoding="utf-8") if tag.is_file() else ""
        if not (same or checked) or (
            size is not None and part.is_file() and part.stat().st_size > size
        ):
            _drop(part)
        have = part.stat().st_size if part.is_file() else 0
        if have and have == size:
            return
        wanted = {"Range": f"bytes={have}-"} | ({"If-Range": same} if same else {}) if have else {}
        # so that lengths are of the file
        with self._open(url, {"Accept-Encoding": "identity", **wanted}) as response:
            if have and response.status_code == 416:
                if response.headers.get("Content-Range", "").endswith(f"/{have}"):
                    return
                _drop(part)
                raise Passing("the server's file is shorter than what came earlier")
            wire.expect(response, url, 200, 206)
            start, total = wire.extent(response)
            if start not in (0, have):
                _drop(part)
                raise Passing(f"asked from byte {have}, sent from byte {start}")
            if None not in (size, total) and total != size:
                raise InputError(f"{shown(url)}: has {total} bytes there, {size} expected")
            if total is not None and total - start > shutil.disk_usage(part.parent).free:
                raise OSError(
                    errno.ENOSPC, f"{(total - start) / 1e9:.1f} GB to come and no room for them"
                )
            if start == 0:
                _drop(part)
                write_text(tag, wire.validator(response))
            _pour(response, part, start, total)

    def _tried(self, url: str, once: Callable[[], Result]) -> Result:
        """`once()`, again after each passing failure, with growing waits."""
        import requests

        failures = 0
        while True:
            try:
                return once()
            except requests.exceptions.RequestException as error:
                failure = Passing(wire.reason(error))
            except Passing as error:
                failure = error
            failures = 1 if failure.gained >= WORTH else failures + 1
            if failures >= self.politeness.attempts:
                raise InputError(
                    f"{shown(url)}: {failure} (tried {failures}x); the same command again goes on "
                    "from here"
                )
            wait = min(
                self.politeness.backoff_s * 2 ** (failures - 1), LONGEST_BACKOFF_S
            ) * random.uniform(0.5, 1.5)
            if failure.wait is not None:
                wait = failure.wait
                if wait > LONGEST_RETRY_AFTER_S:
                    raise InputError(
                        f"{shown(url)}: {failure}; the server asks to come back in {wait:.0f} s"
                    )
                with self._lock:  # no thread asks this host before
                    self._free_at[wire.host_of(url)] = time.monotonic() + wait
            log.info("%s: %s; again in %.1f s", shown(url), failure, wait)
            time.sleep(wait)

    @contextlib.contextmanager
    def _open(
        self, url: str, headers: Mapping[str, str] | None = None, method: str = "GET"
    ) -> Iterator[Any]:
        """The response to one request, its body unread. Redirects are followed here, to see where
        each one leads.

        Raises:
            Passing: a status that may pass; requests' exceptions for the rest that may.
            InputError: a URL that is not https, a bad certificate, too many redirects.
        """
        import requests

        first = url
        for _ in range(REDIRECTS + 1):
            wire.check_url(url)
            self._turn(wire.host_of(url))
            own = self._headers if wire.host_of(url) == wire.host_of(first) else {}
            direct = (
                {"no_proxy": ",".join(wire.LOOPBACK)}
                if urlsplit(url).hostname in wire.LOOPBACK
                else None
            )
            asked = {
                "headers": {**own, **(headers or {})},
                "timeout": self.politeness.timeout_s,
                "proxies": direct,
            }
            try:
                response = self._session.request(
                    method, url, stream=True, allow_redirects=False, **asked
                )
            except (requests.exceptions.InvalidURL, UnicodeError):
                raise InputError(f"{shown(url)}: is no URL that can be asked") from None
            except requests.exceptions.SSLError as error:
                if any(
                    isinstance(cause, ssl.SSLCertVerificationError) for cause in wire.causes(error)
                ):
                    raise InputError(f"{shown(url)}: its certificate cannot be verified") from None
                raise
            with response:
                if not response.is_redirect:
                    if response.status_code in wire.PASSING:
                        raise Passing(
                            f"{response.status_code} {response.reason}", wire.retry_after(response)
                        )
                    yield response
                    return
            before, url = url, urljoin(url, response.headers["location"])
            if urlsplit(before).scheme == "https" and urlsplit(url).scheme != "https":
                raise InputError(f"{shown(first)}: redirects to {shown(url)}, which is not https")
        raise InputError(f"{shown(first)}: more than {REDIRECTS} redirects")

    def _turn(self, host: str) -> None:
        """Wait until `host` may be asked."""
        with self._lock:
            now = time.monotonic()
            slot = max(now, self._free_at.get(host, now))
            self._free_at[host] = slot + 1 / self.politeness.per_second
        if slot > now:
            time.sleep(slot - now)


def _pour(response, part: Path, start: int, total: int | None) -> None:
    """Append a body to `part`; what came before a break is saved."""
    import requests

    gained = 0
    bar = tqdm(
        total=total,
        initial=start,
        desc=part.stem,
        unit="B",
        unit_scale=True,
        leave=False,
        delay=2,
        disable=None,
    )
    with bar, open(part, "ab" if start else "wb") as sink:
        try:
            for chunk in response.iter_content(CHUNK):
                sink.write(chunk)
                gained += len(chunk)
                bar.update(len(chunk))
        except requests.exceptions.RequestException as error:
            raise Passing(wire.reason(error), gained=gained) from None
    if total is not None and start + gained != total:
        raise Passing(f"{start + gained} of {total} bytes came", gained=gained)


def _wrong(path: Path, size: int | None, hashes: Mapping[str, str | None]) -> str | None:
    """What is not as expected of a file, or None."""
    if size is not None and path.stat().st_size != size:
        return f"has {path.stat().st_size} bytes, {size} expected"
    for name, expected in hashes.items():
        if expected is not None:
            with open(path, "rb") as file:
                found = hashlib.file_digest(file, name).hexdigest()
            if found != expected.lower():
                return f"its {name} is {found}, {expected.lower()} expected"
    return None


def _tag_of(part: Path) -> Path:
    return part.with_name(part.name + ".tag")


def _drop(part: Path) -> None:
    part.unlink(missing_ok=True)
    _tag_of(part).unlink(missing_ok=True)

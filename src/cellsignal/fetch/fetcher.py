"""Downloads over HTTP: rate-limited, retried, resumed and checked.

Only https is fetched (http from this machine alone), and certificates are always checked. Every
failure is one line that names the URL without its passwords and tokens. The retries are a loop of
our own, because urllib3 retries the headers only and it is bodies that break off.
"""

import contextlib
import json
import logging
import random
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode, urljoin, urlsplit

from cellsignal import __version__
from cellsignal.common.errors import InputError
from cellsignal.fetch import http
from cellsignal.fetch.http import TemporaryError, redact_url
from cellsignal.fetch.part_file import PartFile, find_fault

log = logging.getLogger(__name__)
Result = TypeVar("Result")

MAX_REDIRECTS = 5
MAX_BACKOFF_S, MAX_RETRY_AFTER_S = 60.0, 600.0
PROGRESS = 1 << 20  # bytes; an attempt that saved this much resets the count of attempts


@dataclass(frozen=True)
class Politeness:
    """How a host is treated.

    Attributes:
        per_second: most requests a second to one host.
        attempts: how often one request is tried.
        backoff_s: seconds before the second try. Doubled for each further try and multiplied by
            0.5 to 1.5 at random. A `Retry-After` header replaces it.
        timeout_s: seconds to wait for a connection, and for the next bytes.
    """

    per_second: float = 5.0
    attempts: int = 6
    backoff_s: float = 1.0
    timeout_s: float = 30.0


class Fetcher:
    """One HTTP session. Threads may share it and keep to the rate together.

    Args:
        headers: sent to the host that is asked, never to another host that it redirects to.
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
        self._free_at: dict[str, float] = {}  # host -> monotonic seconds of its next request

    def __enter__(self) -> "Fetcher":
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def bytes(self, url: str, params: Mapping[str, Any] | None = None) -> bytes:
        """Fetch the body of a GET; `params` are appended to the URL.

        Raises:
            InputError: a URL that is not https, a status other than 200, or no whole answer after
                all attempts.
        """
        if params is not None:
            url += f"{'&' if urlsplit(url).query else '?'}{urlencode(params)}"

        def fetch_body() -> bytes:
            with self._open(url) as response:
                http.check_status(response, url, 200)
                return response.content

        return self._retry(url, fetch_body)

    def json(self, url: str, params: Mapping[str, Any] | None = None) -> Any:
        """Fetch the body of a GET as JSON.

        Raises:
            InputError: as `bytes`, or the answer is not JSON.
        """
        body = self.bytes(url, params)
        try:
            return json.loads(body)
        except ValueError:
            start = f"it starts {body[:40]!r}"
            raise InputError(f"{redact_url(url)}: the answer is not JSON, {start}") from None

    def file(
        self,
        url: str,
        path: Path | str,
        *,
        size: int | None = None,
        md5: str | None = None,
        sha256: str | None = None,
    ) -> Path:
        """Fetch a file to `path`, unless it exists with the given size and checksums.

        The file grows as `<path>.part`. The next call resumes an interrupted one (HTTP Range) if
        the server's file is known to be the same: by its ETag or date in `<path>.part.tag`, or by
        a checksum.

        Args:
            size: bytes.
            md5, sha256: hex.

        Raises:
            InputError: as `bytes`; another size or checksum than given (the part is removed); no
                room on the disk (the part is kept).
        """
        path, hashes = Path(path), {"md5": md5, "sha256": sha256}
        if path.is_file() and find_fault(path, size, hashes) is None:
            return path
        part = PartFile(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fetch_part(url, part, size, hashes)
            part.finish()
        except OSError as error:
            reason = error.strerror or error
            raise InputError(
                f"{path}: could not be written ({reason}); {part.path.name} is kept"
            ) from None
        return path

    def _fetch_part(
        self, url: str, part: PartFile, size: int | None, hashes: Mapping[str, str | None]
    ) -> None:
        """Fetch all of `part`; start anew if the bytes of an earlier call are wrong."""
        has_checksum = any(hashes.values())
        while True:
            is_resumed = part.path.is_file()
            self._retry(url, lambda: self._append(url, part, size, has_checksum))
            fault = find_fault(part.path, size, hashes)
            if fault is None:
                return
            part.remove()
            if not is_resumed:
                raise InputError(f"{redact_url(url)}: {fault}; nothing was kept")

    def _append(self, url: str, part: PartFile, size: int | None, has_checksum: bool) -> None:
        """Bring `part` to the length of the server's file."""
        if not (part.version or has_checksum) or (size is not None and part.size > size):
            part.remove()
        have = part.size
        if have and have == size:
            return
        headers = {"Accept-Encoding": "identity"}  # so that lengths are those of the file
        if have:
            headers["Range"] = f"bytes={have}-"
        if have and part.version:
            headers["If-Range"] = part.version
        with self._open(url, headers) as response:
            if have and response.status_code == 416:
                if response.headers.get("Content-Range", "").endswith(f"/{have}"):
                    return
                part.remove()
                raise TemporaryError("the server's file is shorter than what came earlier")
            http.check_status(response, url, 200, 206)
            start, total = http.body_range(response)
            if start not in (0, have):
                part.remove()
                raise TemporaryError(f"asked from byte {have}, sent from byte {start}")
            if None not in (size, total) and total != size:
                raise InputError(f"{redact_url(url)}: has {total} bytes there, {size} expected")
            if total is not None:
                part.require_space(total - start)
            if start == 0:
                part.start(http.file_version(response))
            part.append(response, start, total)

    def _retry(self, url: str, request: Callable[[], Result]) -> Result:
        """Call `request` again after each temporary failure, with growing waits."""
        import requests

        failures = 0
        while True:
            try:
                return request()
            except requests.exceptions.RequestException as error:
                failure = TemporaryError(http.describe_failure(error))
            except TemporaryError as error:
                failure = error
            failures = 1 if failure.saved_bytes >= PROGRESS else failures + 1
            if failures >= self.politeness.attempts:
                raise InputError(
                    f"{redact_url(url)}: {failure} (tried {failures}x); the same command again "
                    "goes on from here"
                )
            wait = self._wait_before_retry(url, failure, failures)
            log.info("%s: %s; again in %.1f s", redact_url(url), failure, wait)
            time.sleep(wait)

    def _wait_before_retry(self, url: str, failure: TemporaryError, failures: int) -> float:
        """Return the seconds to wait; a server that names them gets no request before."""
        if failure.wait is None:
            backoff = min(self.politeness.backoff_s * 2 ** (failures - 1), MAX_BACKOFF_S)
            return backoff * random.uniform(0.5, 1.5)
        if failure.wait > MAX_RETRY_AFTER_S:
            later = f"the server asks to come back in {failure.wait:.0f} s"
            raise InputError(f"{redact_url(url)}: {failure}; {later}")
        with self._lock:
            self._free_at[http.host_of(url)] = time.monotonic() + failure.wait
        return failure.wait

    @contextlib.contextmanager
    def _open(self, url: str, headers: Mapping[str, str] | None = None) -> Iterator[Any]:
        """Send a GET, follow https redirects; return the response with its body unread.

        Raises:
            TemporaryError: a status that may be another one in a moment.
            InputError: a URL that is not https, a bad certificate, too many redirects.
            requests.exceptions.RequestException: any other failure.
        """
        first_url = url
        for _ in range(MAX_REDIRECTS + 1):
            http.check_url(url)
            is_same_host = http.host_of(url) == http.host_of(first_url)
            own_headers = self._headers if is_same_host else {}
            with self._send(url, {**own_headers, **(headers or {})}) as response:
                if not response.is_redirect:
                    if response.status_code in http.TEMPORARY_STATUSES:
                        status = f"{response.status_code} {response.reason}"
                        raise TemporaryError(status, http.retry_after(response))
                    yield response
                    return
            source, url = url, urljoin(url, response.headers["location"])
            if urlsplit(source).scheme == "https" and urlsplit(url).scheme != "https":
                target = f"redirects to {redact_url(url)}, which is not https"
                raise InputError(f"{redact_url(first_url)}: {target}")
        raise InputError(f"{redact_url(first_url)}: more than {MAX_REDIRECTS} redirects")

    def _send(self, url: str, headers: Mapping[str, str]) -> Any:
        """Wait until the host may be asked again, then send one request."""
        import requests

        self._wait_for_turn(http.host_of(url))
        is_local = urlsplit(url).hostname in http.LOOPBACK
        try:
            return self._session.request(
                "GET",
                url,
                stream=True,
                allow_redirects=False,
                headers=headers,
                timeout=self.politeness.timeout_s,
                proxies={"no_proxy": ",".join(http.LOOPBACK)} if is_local else None,
            )
        except (requests.exceptions.InvalidURL, UnicodeError):
            raise InputError(f"{redact_url(url)}: is not a URL that can be asked") from None
        except requests.exceptions.SSLError as error:
            causes = http.iterate_causes(error)
            if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
                message = "its certificate cannot be verified"
                raise InputError(f"{redact_url(url)}: {message}") from None
            raise

    def _wait_for_turn(self, host: str) -> None:
        with self._lock:
            now = time.monotonic()
            slot = max(now, self._free_at.get(host, now))
            self._free_at[host] = slot + 1 / self.politeness.per_second
        if slot > now:
            time.sleep(slot - now)

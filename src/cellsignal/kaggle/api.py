"""What is asked of Kaggle for kernels and data sets, through its own client: retried while that may
help, then one line.

A push whose answer was lost is never given twice: the number of versions, noted before, tells
whether it arrived.
"""

import logging
import random
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cellsignal.common.errors import InputError
from cellsignal.fetch import http
from cellsignal.fetch.http import TemporaryError
from cellsignal.fetch.kaggle import CREDENTIALS, kaggle_client, quiet, redact

log = logging.getLogger(__name__)
Result = TypeVar("Result")

ATTEMPTS = 6
BACKOFF_S, LONGEST_BACKOFF_S, LONGEST_RETRY_AFTER_S = 2.0, 60.0, 600.0
PAGE = 200  # files of an output that are listed at once


class Refused(InputError):
    """Kaggle's answer is a status that will stay; `status` is its number."""

    def __init__(self, message: str, status: int):
        self.status = status
        super().__init__(message)


@dataclass(frozen=True)
class Session:
    """A kernel's last run: "queued", "running", "complete", "error", ... in Kaggle's words, and why
    it failed.
    """

    state: str
    failure: str = ""

    @property
    def ended(self) -> bool:
        return self.state in ("complete", "error", "cancel_requested", "cancel_acknowledged")


@dataclass(frozen=True)
class Output:
    """What a kernel's last run left: file name -> URL, as the server names them, and its log."""

    files: dict[str, str]
    log: str


class Kaggle:
    """A signed-in user's kernels and data sets. Slugs are `user/name`.

    Every method raises InputError, one line without secrets: at once for what will stay (wrong
    credentials, no such kernel), after `ATTEMPTS` tries for what may pass (429, 5xx, a cut
    connection, no answer in time).
    """

    def __init__(self) -> None:
        self._api = tried("signing in to Kaggle", kaggle_client)
        self.user: str = self._api.get_config_value("username") or ""
        if not self.user:
            raise InputError(CREDENTIALS)

    def versions(self, slug: str) -> int:
        """How many versions the kernel has; 0 where Kaggle knows none (it answers 403 for a name
        that nobody has).
        """
        from kagglesdk.kernels.types.kernels_api_service import ApiGetKernelRequest

        request = _request(ApiGetKernelRequest, slug, "user_name", "kernel_slug")
        found = self._unless_missing(
            f"kernel {slug}", lambda client: client.kernels.kernels_api_client.get_kernel(request)
        )
        return found.metadata.current_version_number or 1 if found and found.metadata else 0

    def dataset_versions(self, slug: str) -> int:
        """How many versions the data set has; 0 where Kaggle knows none."""
        from kagglesdk.datasets.types.dataset_api_service import ApiGetDatasetRequest

        request = _request(ApiGetDatasetRequest, slug, "owner_slug", "dataset_slug")
        found = self._unless_missing(
            f"data set {slug}",
            lambda client: client.datasets.dataset_api_client.get_dataset(request),
        )
        return found.current_version_number or 1 if found else 0

    def push_kernel(self, folder: Path, slug: str, before: int) -> str:
        """Save and run the kernel in `folder`; `before` is `versions(slug)` from before the first
        attempt. Returns its page's URL.
        """
        said = _given_once(
            f"pushing {slug}",
            lambda: self._quietly(lambda: self._api.kernels_push(str(folder))),
            lambda: self.versions(slug) > before,
        )
        if said is None:  # it arrived, its answer did not
            return f"https://www.kaggle.com/code/{slug}"
        if said.error:
            raise InputError(f"pushing {slug}: Kaggle says: {redact(said.error)}")
        refused = [
            *said.invalid_dataset_sources,
            *said.invalid_competition_sources,
            *said.invalid_kernel_sources,
            *said.invalid_model_sources,
        ]
        if refused:
            raise InputError(
                f"pushing {slug}: Kaggle does not attach {', '.join(refused)}: no such thing, not "
                "yours, or its rules are not accepted"
            )
        name = said.ref.strip("/").rpartition("/")[2]
        if name and name.lower() != slug.rpartition("/")[2].lower():
            raise InputError(
                f"pushing {slug}: Kaggle made it {redact(said.ref)}, which the next kernel of the "
                "chain would not find"
            )
        return redact(said.url) or f"https://www.kaggle.com/code/{slug}"

    def push_dataset(self, folder: Path, slug: str) -> str:
        """Upload `folder` (`dataset-metadata.json` in it) as a new private data set, or as a new
        version of it. Returns its page's URL.
        """
        before = self.dataset_versions(slug)

        def push() -> Any:
            if before:
                return self._api.dataset_create_version(str(folder), "cellsignal", quiet=True)
            return self._api.dataset_create_new(str(folder), quiet=True)

        said = _given_once(
            f"pushing {slug}",
            lambda: self._quietly(push),
            lambda: self.dataset_versions(slug) > before,
        )
        if said is not None and (said.error or (said.status or "ok").lower() != "ok"):
            raise InputError(f"pushing {slug}: Kaggle says: {redact(said.error or said.status)}")
        return f"https://www.kaggle.com/datasets/{slug}"

    def session(self, slug: str) -> Session:
        """The state of the kernel's last run."""
        said = self._asked(f"status of {slug}", lambda: self._api.kernels_status(slug))
        return Session(said.status.name.lower(), redact(said.failure_message))

    def dataset_state(self, slug: str) -> str:
        """ "ready" when kernels can attach it; "failed"; else a word for how far Kaggle is."""
        return self._asked(f"status of {slug}", lambda: self._api.dataset_status(slug))

    def output(self, slug: str) -> Output:
        """The files and the log of the kernel's last run."""
        from kagglesdk.kernels.types.kernels_api_service import ApiListKernelSessionOutputRequest

        files: dict[str, str] = {}
        request = _request(ApiListKernelSessionOutputRequest, slug, "user_name", "kernel_slug")
        request.page_size = PAGE
        while True:
            page = self._sdk(
                f"output of {slug}",
                lambda client: client.kernels.kernels_api_client.list_kernel_session_output(
                    request
                ),
            )
            new = {file.file_name: file.url for file in page.files if file.file_name not in files}
            files |= new
            if not page.next_page_token or not new:
                return Output(files, page.log or "")
            request.page_token = page.next_page_token

    def _unless_missing(self, what: str, ask: Callable[[Any], Any]) -> Any:
        try:
            return self._sdk(what, ask)
        except Refused as error:
            if error.status in (403, 404):
                return None
            raise

    def _sdk(self, what: str, ask: Callable[[Any], Any]) -> Any:
        """The answer to a request that the client has no method for, or one that reports less."""

        def once() -> Any:
            with self._api.build_kaggle_client() as client:
                return ask(client)

        return self._asked(what, once)

    def _asked(self, what: str, once: Callable[[], Result]) -> Result:
        return tried(what, lambda: self._quietly(once))

    @staticmethod
    def _quietly(once: Callable[[], Result]) -> Result:
        with quiet():
            return once()


def tried(what: str, once: Callable[[], Result]) -> Result:
    """`once()`, again after each failure that may pass, with growing waits or as long as
    `Retry-After` says.

    Raises:
        InputError: it did not pass (one line); `Refused` where Kaggle's status says that it never
        will.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return once()
        except Exception as error:
            failure = _passing(what, error)
        _pause(what, failure, attempt)
    raise AssertionError("unreachable")


def _given_once(
    what: str, give: Callable[[], Result], arrived: Callable[[], bool]
) -> Result | None:
    """As `tried`, for what must not be done twice: `arrived` is asked before each further attempt.
    None: it arrived, its answer is lost.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return give()
        except Exception as error:
            failure = _passing(what, error)
        if failure.wait is None and arrived():  # what was told to wait was not taken
            return None
        _pause(what, failure, attempt)
    raise AssertionError("unreachable")


def _pause(what: str, failure: TemporaryError, attempt: int) -> None:
    if attempt == ATTEMPTS:
        raise InputError(
            f"{what}: {failure} (tried {attempt}x); the same command goes on from here"
        )
    wait = min(BACKOFF_S * 2 ** (attempt - 1), LONGEST_BACKOFF_S) * random.uniform(0.5, 1.5)
    if failure.wait is not None:
        wait = failure.wait
        if wait > LONGEST_RETRY_AFTER_S:
            raise InputError(f"{what}: {failure}; Kaggle asks to come back in {wait:.0f} s")
    log.info("%s: %s; again in %.1f s", what, failure, wait)
    time.sleep(wait)


def _passing(what: str, error: Exception) -> TemporaryError:
    """What may pass of an error of the client's; the rest is raised as one line.

    The client wraps errors in others and hides the first in their context, so all that an error was
    made from is looked at.
    """
    import requests

    if isinstance(error, TemporaryError):
        return error
    if isinstance(error, InputError):
        raise error
    answers = [
        cause.response
        for cause in http.iterate_causes(error)
        if isinstance(cause, requests.exceptions.HTTPError) and cause.response is not None
    ]
    if answers:
        status = answers[0].status_code
        if status in http.TEMPORARY_STATUSES or status >= 500:
            return TemporaryError(
                f"Kaggle answers {status} {answers[0].reason}", http.retry_after(answers[0])
            )
        said = redact(str(error))[:200]
        lines = {
            401: CREDENTIALS,
            403: f"Kaggle refuses it to these credentials ({said}): no such thing, not yours, or a token without the right; else {CREDENTIALS}",
            404: "Kaggle has no such thing",
        }
        raise Refused(
            f"{what}: {lines.get(status, f'Kaggle answers {status} ({said})')}", status
        ) from None
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in http.iterate_causes(error)):
        raise InputError(f"{what}: Kaggle's certificate cannot be verified") from None
    if isinstance(error, requests.exceptions.JSONDecodeError):
        return TemporaryError("the answer is not what Kaggle sends")
    if isinstance(error, requests.exceptions.RequestException | OSError):
        return TemporaryError(redact(http.describe_failure(error)))
    # the client's own checks of the metadata
    if isinstance(error, ValueError | KeyError | TypeError):
        raise InputError(f"{what}: {redact(str(error)) or type(error).__name__}") from None
    raise error


def _request(kind: type, slug: str, owner: str, name: str) -> Any:
    """A request about `user/name`, whose fields have other names in each service."""
    request = kind()
    user, _, own = slug.partition("/")
    setattr(request, owner, user)
    setattr(request, name, own)
    return request

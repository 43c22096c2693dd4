"""Requests to Kaggle about kernels and data sets, through its own client.

They are retried while that may help, then refused in one line. A push whose answer was lost is
never given twice: the number of versions, noted before, shows whether it arrived.
"""

import logging
import random
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

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
    """Kaggle answers with a status that will stay; `status` is its number."""

    def __init__(self, message: str, status: int):
        self.status = status
        super().__init__(message)


@dataclass(frozen=True)
class Session:
    """A kernel's last run: its state in Kaggle's words ("queued", "running"), and why it failed."""

    state: str
    failure: str = ""

    @property
    def ended(self) -> bool:
        return self.state in ("complete", "error", "cancel_requested", "cancel_acknowledged")


class Output(NamedTuple):
    """The files (name -> URL) and the log that a kernel's last run left."""

    files: dict[str, str]
    log: str


class Kaggle:
    """A signed-in user's kernels and data sets. Slugs are `user/name`.

    Every method raises InputError, one line without secrets: at once for what will stay, after
    `ATTEMPTS` tries for what may pass (429, 5xx, a cut connection, no answer in time).
    """

    def __init__(self) -> None:
        self._api = tried("signing in to Kaggle", kaggle_client)
        self.user: str = self._api.get_config_value("username") or ""
        if not self.user:
            raise InputError(CREDENTIALS)

    def versions(self, slug: str) -> int:
        """Return the kernel's number of versions; 0 if Kaggle has no such kernel."""
        from kagglesdk.kernels.types.kernels_api_service import ApiGetKernelRequest

        request = _request(ApiGetKernelRequest, slug, "user_name", "kernel_slug")
        kernel = self._unless_missing(
            f"kernel {slug}", lambda client: client.kernels.kernels_api_client.get_kernel(request)
        )
        if not kernel or not kernel.metadata:
            return 0
        return kernel.metadata.current_version_number or 1

    def dataset_versions(self, slug: str) -> int:
        """Return the data set's number of versions; 0 if Kaggle has no such data set."""
        from kagglesdk.datasets.types.dataset_api_service import ApiGetDatasetRequest

        request = _request(ApiGetDatasetRequest, slug, "owner_slug", "dataset_slug")
        dataset = self._unless_missing(
            f"data set {slug}",
            lambda client: client.datasets.dataset_api_client.get_dataset(request),
        )
        return dataset.current_version_number or 1 if dataset else 0

    def push_kernel(self, folder: Path, slug: str, before: int) -> str:
        """Run the kernel in `folder`, which had `before` versions; return its page's URL."""
        answer = _push_once(
            f"pushing {slug}",
            lambda: self._quietly(lambda: self._api.kernels_push(str(folder))),
            lambda: self.versions(slug) > before,
        )
        page = f"https://www.kaggle.com/code/{slug}"
        if answer is None:  # it arrived, its answer did not
            return page
        if answer.error:
            raise InputError(f"pushing {slug}: Kaggle says: {redact(answer.error)}")
        refused = [
            *answer.invalid_dataset_sources,
            *answer.invalid_competition_sources,
            *answer.invalid_kernel_sources,
            *answer.invalid_model_sources,
        ]
        if refused:
            raise InputError(
                f"pushing {slug}: Kaggle does not attach {', '.join(refused)}: no such thing, not "
                "yours, or its rules are not accepted"
            )
        name = answer.ref.strip("/").rpartition("/")[2]
        if name and name.lower() != slug.rpartition("/")[2].lower():
            raise InputError(
                f"pushing {slug}: Kaggle made it {redact(answer.ref)}, which the next kernel of "
                "the chain would not find"
            )
        return redact(answer.url) or page

    def push_dataset(self, folder: Path, slug: str) -> str:
        """Upload `folder` as a private data set or a new version of it; return its page's URL."""
        before = self.dataset_versions(slug)

        def push() -> Any:
            if before:
                return self._api.dataset_create_version(str(folder), "cellsignal", quiet=True)
            return self._api.dataset_create_new(str(folder), quiet=True)

        answer = _push_once(
            f"pushing {slug}",
            lambda: self._quietly(push),
            lambda: self.dataset_versions(slug) > before,
        )
        if answer is not None and (answer.error or (answer.status or "ok").lower() != "ok"):
            message = redact(answer.error or answer.status)
            raise InputError(f"pushing {slug}: Kaggle says: {message}")
        return f"https://www.kaggle.com/datasets/{slug}"

    def session(self, slug: str) -> Session:
        """Return the state of the kernel's last run."""
        answer = self._ask(f"status of {slug}", lambda: self._api.kernels_status(slug))
        return Session(answer.status.name.lower(), redact(answer.failure_message))

    def dataset_state(self, slug: str) -> str:
        """Return "ready" when kernels can attach it, "failed", or how far Kaggle is."""
        return self._ask(f"status of {slug}", lambda: self._api.dataset_status(slug))

    def output(self, slug: str) -> Output:
        """Return the files and the log of the kernel's last run."""
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
        """Return the answer; None if Kaggle has no such thing or another user owns it."""
        try:
            return self._sdk(what, ask)
        except Refused as error:
            if error.status in (403, 404):
                return None
            raise

    def _sdk(self, what: str, ask: Callable[[Any], Any]) -> Any:
        """Answer a request that the client has no method for, or one that reports less."""

        def ask_once() -> Any:
            with self._api.build_kaggle_client() as client:
                return ask(client)

        return self._ask(what, ask_once)

    def _ask(self, what: str, ask_once: Callable[[], Result]) -> Result:
        return tried(what, lambda: self._quietly(ask_once))

    @staticmethod
    def _quietly(ask_once: Callable[[], Result]) -> Result:
        with quiet():
            return ask_once()


def tried(what: str, ask_once: Callable[[], Result]) -> Result:
    """Call `ask_once` until it succeeds or fails for good.

    Between two attempts it waits ever longer, or as long as `Retry-After` says.

    Raises:
        InputError: it failed `ATTEMPTS` times; `Refused` where Kaggle's status will stay.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return ask_once()
        except Exception as error:
            failure = _temporary(what, error)
        _pause(what, failure, attempt)
    raise AssertionError("unreachable")


def _push_once(
    what: str, push: Callable[[], Result], has_arrived: Callable[[], bool]
) -> Result | None:
    """Push until Kaggle has it; ask before each new try, so that nothing is pushed twice.

    Returns:
        The answer; None where the push arrived and its answer was lost.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return push()
        except Exception as error:
            failure = _temporary(what, error)
        if failure.wait is None and has_arrived():  # what was told to wait was not taken
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


def _temporary(what: str, error: Exception) -> TemporaryError:
    """Return an error of the client that may go away; raise any other in one line.

    The client wraps errors in others and hides the first, so all its causes are looked at.
    """
    import requests

    if isinstance(error, TemporaryError):
        return error
    if isinstance(error, InputError):
        raise error
    causes = list(http.iterate_causes(error))
    for cause in causes:
        if isinstance(cause, requests.exceptions.HTTPError) and cause.response is not None:
            return _temporary_status(what, cause.response, error)
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
        raise InputError(f"{what}: Kaggle's certificate cannot be verified") from None
    if isinstance(error, requests.exceptions.JSONDecodeError):
        return TemporaryError("the answer is not what Kaggle sends")
    if isinstance(error, requests.exceptions.RequestException | OSError):
        return TemporaryError(redact(http.describe_failure(error)))
    # the client's own checks of the metadata
    if isinstance(error, ValueError | KeyError | TypeError):
        raise InputError(f"{what}: {redact(str(error)) or type(error).__name__}") from None
    raise error


def _temporary_status(what: str, answer: Any, error: Exception) -> TemporaryError:
    """Return a status that may pass, or raise one that will stay."""
    status = answer.status_code
    if status in http.TEMPORARY_STATUSES or status >= 500:
        message = f"Kaggle answers {status} {answer.reason}"
        return TemporaryError(message, http.retry_after(answer))
    text = redact(str(error))[:200]
    messages = {
        401: CREDENTIALS,
        403: f"Kaggle refuses it to these credentials ({text}): no such thing, not yours, or a "
        f"token without the right; else {CREDENTIALS}",
        404: "Kaggle has no such thing",
    }
    message = messages.get(status, f"Kaggle answers {status} ({text})")
    raise Refused(f"{what}: {message}", status) from None


def _request(kind: type, slug: str, owner: str, name: str) -> Any:
    """Return a request about `user/name`, whose fields differ between the services."""
    request = kind()
    user, _, kernel = slug.partition("/")
    setattr(request, owner, user)
    setattr(request, name, kernel)
    return request

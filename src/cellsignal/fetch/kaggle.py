"""Kaggle's own client, made fit for unattended work, and what keeps its credentials out of every
message.

Importing the client signs in, prints, and may end the process; its requests wait for ever, its
retries print to stderr, a file whose upload failed is left out without a word, and VERBOSE in the
environment makes it print the key. Here are the few overrides that end all that.
"""

import base64
import contextlib
import io
import json
import logging
import os
import re
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

from cellsignal.common.errors import InputError
from cellsignal.fetch import wire

log = logging.getLogger(__name__)

CREDENTIALS = (
    "no valid Kaggle credentials: make a token at https://www.kaggle.com/settings (section API) "
    "and set "
    "KAGGLE_API_TOKEN to it, or set KAGGLE_USERNAME and KAGGLE_KEY, or save it as "
    "~/.kaggle/access_token (a token) or "
    "~/.kaggle/kaggle.json (user name and key)"
)
TIMEOUT_S = 120.0  # to connect, and for the next bytes
_VARIABLES = ("KAGGLE_KEY", "KAGGLE_API_TOKEN", "KAGGLE_TOKEN", "KAGGLE_IAP_TOKEN")
_KEYS = ("key", "token", "access_token", "refresh_token")
_URL = re.compile(r"https?://[^\s'\"<>)]+")
_HEADER = re.compile(r"\b(Basic|Bearer)\s+[\w+/=.~-]{6,}", re.I)
_lock = threading.Lock()


def kaggle_client(retries: bool = False):
    """The client (a `KaggleApi`), signed in. Warns of credentials that others can read, as Kaggle's
    own command does.

    Args:
        retries: leave the client its own, where nobody else tries again.

    Raises:
        InputError: there are no valid credentials; says where to get them and where to put them.
        requests.exceptions.RequestException: Kaggle could not be asked; worth another try.
    """
    warn_of_modes()
    with quiet(), contextlib.suppress(SystemExit):
        from kaggle.api.kaggle_api_extended import KaggleApi

        api = _quiet_class(KaggleApi, retries)()
        api.args = [word for word in KaggleApi.args if word not in ("-v", "--verbose")]
        try:
            api.authenticate()
        except OSError as error:
            if getattr(error, "response", None) is None or error.response.status_code not in (
                400,
                401,
                403,
            ):
                raise
            raise InputError(CREDENTIALS) from None
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{CREDENTIALS} ({redact(str(error))})") from None
        return api
    raise InputError(CREDENTIALS)


def _quiet_class(base: type, retries: bool) -> type:
    """`base` with timeouts, without retries of its own unless asked for, and with failed uploads as
    errors.
    """
    from requests.adapters import HTTPAdapter

    class Adapter(HTTPAdapter):
        def send(self, request, **options):
            return super().send(
                request, **(options | {"timeout": options.get("timeout") or TIMEOUT_S})
            )

    class Client(base):
        MAX_UPLOAD_RESUME_ATTEMPTS = 2  # each of them tries eleven times

        def build_kaggle_client(self):
            client = super().build_kaggle_client()
            session = client.http_client()._init_session() or client.http_client()._session
            for scheme in ("https://", "http://"):
                session.mount(scheme, Adapter())
            return client

        def with_retry(self, function, *arguments, **options):
            return super().with_retry(function, *arguments, **options) if retries else function

        def _upload_file(self, file_name, *arguments, **options):
            uploaded = super()._upload_file(file_name, *arguments, **options)
            if uploaded is None:
                raise wire.Passing(f"the upload of {file_name} failed")
            return uploaded

    return Client


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What the client prints is dropped; files that it notes its uploads in are for the user alone.
    One thread at a time.
    """
    with (
        _lock,
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        before = os.umask(0o077)
        try:
            yield
        finally:
            os.umask(before)


def redact(text: str) -> str:
    """`text` on one line without any of this user's Kaggle secrets, authorisation headers, or
    secrets in URLs.
    """
    for secret in sorted(_secrets(), key=len, reverse=True):
        text = text.replace(secret, "***")
    text = _HEADER.sub(r"\1 ***", text)
    return " ".join(_URL.sub(lambda found: wire.shown(found[0]), text).split())


def warn_of_modes() -> None:
    """One warning for each file of credentials that group or others may read (the modes Kaggle's
    client looks at).
    """
    for path in _files():
        with contextlib.suppress(OSError):
            if os.name != "nt" and path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
                log.warning(
                    "%s: your Kaggle credentials can be read by other users of this machine; run "
                    "chmod 600 %s",
                    path,
                    path,
                )


def stored_user() -> str | None:
    """Return the user name that this machine's credentials give, without asking Kaggle; None where
    none does.
    """
    if os.environ.get("KAGGLE_USERNAME"):
        return os.environ["KAGGLE_USERNAME"]
    for path in _files():
        if path.suffix == ".json":
            with contextlib.suppress(OSError, ValueError):
                content = json.loads(path.read_text(encoding="utf-8"))
                if isinstance(content, dict) and content.get("username"):
                    return str(content["username"])
    return None


def _files() -> list[Path]:
    """Where the client looks for credentials: those files that exist."""
    home = Path.home() / ".kaggle"
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "kaggle"
    own = os.environ.get("KAGGLE_CONFIG_DIR")
    folders = [home, config, *([Path(own)] if own else [])]
    names = ("kaggle.json", "access_token", "access_token.txt", "credentials.json")
    found = [folder / name for folder in folders for name in names]
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_API_V1_TOKEN"):
        found.append(Path(os.environ.get(name) or "/nowhere"))
    return list(dict.fromkeys(path for path in found if _is_file(path)))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a token that is no name of a file
        return False


def _secrets() -> set[str]:
    """Every key and token within the client's reach, also as a Basic header carries them."""
    found = {os.environ.get(name, "") for name in _VARIABLES}
    users = {os.environ.get("KAGGLE_USERNAME", "")}
    for path in _files():
        with contextlib.suppress(OSError, ValueError):
            text = path.read_text(encoding="utf-8").strip()
            if path.suffix == ".json":
                content = json.loads(text)
                if isinstance(content, dict):
                    found |= {str(content[key]) for key in _KEYS if content.get(key)}
                    users.add(str(content.get("username", "")))
            else:
                found.add(text)
    found = {secret for secret in found if len(secret) >= 4}
    pairs = {
        base64.b64encode(f"{user}:{secret}".encode()).decode() for user in users for secret in found
    }
    return found | pairs

"""Sign in to Kaggle with its own client, and keep the credentials out of every message.

The client signs in and prints at import and may end the process. Its requests have no timeout, its
retries print to stderr, a failed upload raises no error, and VERBOSE in the environment makes it
print the key. The overrides here change that.
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
from cellsignal.fetch.http import TemporaryError, redact_url

log = logging.getLogger(__name__)

CREDENTIALS = (
    "no valid Kaggle credentials: make a token at https://www.kaggle.com/settings (section API) "
    "and set KAGGLE_API_TOKEN to it, or set KAGGLE_USERNAME and KAGGLE_KEY, or save it as "
    "~/.kaggle/access_token (a token) or ~/.kaggle/kaggle.json (user name and key)"
)
TIMEOUT_S = 120.0  # to connect, and for the next bytes
_VARIABLES = ("KAGGLE_KEY", "KAGGLE_API_TOKEN", "KAGGLE_TOKEN", "KAGGLE_IAP_TOKEN")
_KEYS = ("key", "token", "access_token", "refresh_token")
_URL = re.compile(r"https?://[^\s'\"<>)]+")
_HEADER = re.compile(r"\b(Basic|Bearer)\s+[\w+/=.~-]{6,}", re.I)
_lock = threading.Lock()


def kaggle_client(retries: bool = False):
    """Return Kaggle's client (a `KaggleApi`), signed in.

    Warns of credentials that others can read, as Kaggle's own command does.

    Args:
        retries: whether the client itself tries again.

    Raises:
        InputError: there are no valid credentials; says where to get and where to put them.
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
            response = getattr(error, "response", None)
            if response is None or response.status_code not in (400, 401, 403):
                raise
            raise InputError(CREDENTIALS) from None
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{CREDENTIALS} ({redact(str(error))})") from None
        return api
    raise InputError(CREDENTIALS)


def _quiet_class(base: type, retries: bool) -> type:
    """Add timeouts, and errors for failed uploads, to a client class.

    `retries` keeps the client's retries.
    """
    from requests.adapters import HTTPAdapter

    class Adapter(HTTPAdapter):
        def send(self, request, **options):
            options["timeout"] = options.get("timeout") or TIMEOUT_S
            return super().send(request, **options)

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

        def _upload_blob(self, full_path, *arguments, **options):
            token = super()._upload_blob(full_path, *arguments, **options)
            if token is None:
                raise TemporaryError(f"the upload of {Path(full_path).name} failed")
            return token

    return Client


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide the client's output, and make its files readable for the user only.

    One thread at a time.
    """
    output = io.StringIO()
    with _lock, contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        umask = os.umask(0o077)
        try:
            yield
        finally:
            os.umask(umask)


def redact(text: str) -> str:
    """Remove Kaggle secrets, authorisation headers and secrets in URLs from a text.

    The result is one line.
    """
    for secret in sorted(_secrets(), key=len, reverse=True):
        text = text.replace(secret, "***")
    text = _HEADER.sub(r"\1 ***", text)
    return " ".join(_URL.sub(lambda match: redact_url(match[0]), text).split())


def warn_of_modes() -> None:
    """Log a warning for each file of credentials that other users may read."""
    if os.name == "nt":
        return
    for path in _credential_files():
        with contextlib.suppress(OSError):
            if path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
                log.warning(
                    "%s: your Kaggle credentials can be read by other users of this machine; run "
                    "chmod 600 %s",
                    path,
                    path,
                )


def stored_user() -> str | None:
    """Return the user name that this machine's credentials give, without asking Kaggle."""
    if os.environ.get("KAGGLE_USERNAME"):
        return os.environ["KAGGLE_USERNAME"]
    for path in _credential_files():
        if path.suffix == ".json" and (user := _read_json(path).get("username")):
            return str(user)
    return None


def _credential_files() -> list[Path]:
    """List the files that the client reads credentials from."""
    folders = [
        Path.home() / ".kaggle",
        Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "kaggle",
    ]
    if os.environ.get("KAGGLE_CONFIG_DIR"):
        folders.append(Path(os.environ["KAGGLE_CONFIG_DIR"]))
    names = ("kaggle.json", "access_token", "access_token.txt", "credentials.json")
    paths = [folder / name for folder in folders for name in names]
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_API_V1_TOKEN"):
        if os.environ.get(name):
            paths.append(Path(os.environ[name]))
    return [path for path in dict.fromkeys(paths) if _is_file(path)]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a token that is not a name of a file
        return False


def _read_json(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _secrets() -> set[str]:
    """Return every key and token the client can read, also as a Basic header carries them."""
    secrets = {os.environ.get(name, "") for name in _VARIABLES}
    users = {os.environ.get("KAGGLE_USERNAME", "")}
    for path in _credential_files():
        if path.suffix == ".json":
            content = _read_json(path)
            secrets |= {str(content[key]) for key in _KEYS if content.get(key)}
            users.add(str(content.get("username", "")))
        else:
            with contextlib.suppress(OSError, ValueError):
                secrets.add(path.read_text(encoding="utf-8").strip())
    secrets = {secret for secret in secrets if len(secret) >= 4}
    pairs = [f"{user}:{secret}" for user in users for secret in secrets]
    return secrets | {base64.b64encode(pair.encode()).decode() for pair in pairs}

"""Ask the metadata service of a rented machine whether it is about to be taken away.

Environment:
    CELLSIGNAL_PREEMPTION: aws or gcp; whose service `Stop` asks. A notice acts as SIGTERM.
    CELLSIGNAL_METADATA_URL: another address of that service.
"""

import logging
import os
import threading
from collections.abc import Callable
from http.client import HTTPException
from urllib import error as url_errors
from urllib import request

log = logging.getLogger(__name__)
PREEMPTION, METADATA_URL = "CELLSIGNAL_PREEMPTION", "CELLSIGNAL_METADATA_URL"
_POLL_S, _TIMEOUT_S = 5.0, 2.0


class _NoRedirect(request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


def _ask_service(url: str, headers: dict[str, str], method: str = "GET") -> str:
    """Return a metadata service's answer, at most 64 KiB, without a proxy or redirects."""
    opener = request.build_opener(request.ProxyHandler({}), _NoRedirect)
    question = request.Request(url, headers=headers, method=method)
    with opener.open(question, timeout=_TIMEOUT_S) as answer:
        return answer.read(1 << 16).decode("utf-8", "replace")


def _aws_notice(base: str) -> bool:
    """Return whether AWS will take this spot machine back within two minutes.

    `instance-action` answers with other than 404 then:
    https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html;
    IMDSv2 needs a token first.
    """
    lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    token = _ask_service(f"{base}/latest/api/token", lifetime, "PUT").strip()
    url = f"{base}/latest/meta-data/spot/instance-action"
    try:
        return bool(_ask_service(url, {"X-aws-ec2-metadata-token": token}))
    except url_errors.HTTPError as answer:
        if answer.code == 404:
            return False
        raise


def _gcp_notice(base: str) -> bool:
    """Return whether a preemption comes in thirty seconds.

    https://cloud.google.com/compute/docs/instances/create-use-preemptible
    """
    url = f"{base}/computeMetadata/v1/instance/preempted"
    return _ask_service(url, {"Metadata-Flavor": "Google"}).strip() == "TRUE"


NOTICES: dict[str, tuple[str, Callable[[str], bool]]] = {
    "aws": ("http://169.254.169.254", _aws_notice),
    "gcp": ("http://metadata.google.internal", _gcp_notice),
}


def wait_for_notice(cloud: str, ended: threading.Event) -> bool:
    """Wait for a preemption notice (True), or until `ended` is set (False).

    The first failure is logged, the others are passed over.
    """
    base, has_notice = NOTICES[cloud]
    base = os.environ.get(METADATA_URL, base).rstrip("/")
    is_logged = False
    while not ended.is_set():
        try:
            if has_notice(base):
                return True
        except (OSError, ValueError, HTTPException) as error:  # urllib's own errors are OSErrors
            if not is_logged:
                problem = f"{base} does not answer ({error}); asking on"
                log.warning("preemption notices of %s: %s", cloud, problem)
                is_logged = True
        ended.wait(_POLL_S)
    return False

"""The fetcher against a server on this machine that misbehaves as real ones do: each test scripts
what it answers, and counts what it was asked.
"""

import email.utils
import hashlib
import http.server
import os
import random
import shutil
import ssl
import subprocess
import threading
import time
import types

import pytest

from cellsignal import __version__
from cellsignal.common.errors import InputError
from cellsignal.fetch import Fetcher, Politeness, fetcher, part_file, redact_url

# cut at whole chunks: of a chunk in which the line breaks nothing is kept
DATA = random.Random(0).randbytes(300_000)
QUICK = Politeness(per_second=10_000, attempts=4, backoff_s=0.001, timeout_s=5)


class Server:
    """`script` is what is answered, one function a request; the last one answers all further ones.
    `asked` is what came.
    """

    def __init__(self):
        self.script, self.asked = [], []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # headers and body are two writes

            def do_GET(self):
                outer.asked.append(
                    types.SimpleNamespace(
                        method=self.command,
                        path=self.path,
                        headers=dict(self.headers),
                        at=time.monotonic(),
                    )
                )
                (outer.script.pop(0) if len(outer.script) > 1 else outer.script[0])(self)

            def log_message(self, *args):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.http.handle_error = lambda *args: None  # lines that break are what is tested
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def server():
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


def answer(body=b"", status=200, cut=None, **headers):
    """A whole answer; with `cut`, one that breaks off after so many bytes of its body."""

    def send(handler):
        handler.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            handler.send_header(name.replace("_", "-"), str(value))
        handler.end_headers()
        handler.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            handler.close_connection = True

    return send


def ranged(data=DATA, tag='"v1"', cut=None):
    """A file server with ranges: `If-Range` with another tag, or no Range, gets the whole."""

    def send(handler):
        wanted = handler.headers.get("Range", "")
        if not wanted or handler.headers.get("If-Range", tag) != tag:
            return answer(data, cut=cut, ETag=tag)(handler)
        start = int(wanted.removeprefix("bytes=").rstrip("-"))
        if start >= len(data):
            return answer(b"", 416, Content_Range=f"bytes */{len(data)}")(handler)
        part = data[start:]
        return answer(
            part, 206, cut, ETag=tag, Content_Range=f"bytes {start}-{len(data) - 1}/{len(data)}"
        )(handler)

    return send


@pytest.fixture
def waits(monkeypatch):
    """The waits asked for, none of them waited."""
    slept = []
    monkeypatch.setattr(fetcher.time, "sleep", slept.append)
    return slept


# ---- asking


def test_it_says_who_it_is_and_sends_parameters(server):
    server.script = [answer(b'{"a": [1]}')]
    with Fetcher(QUICK) as f:
        assert f.json(server.url + "/x?k=v", {"c": "1|2", "m": "g"}) == {"a": [1]}
    assert server.asked[0].path == "/x?k=v&c=1%7C2&m=g"
    assert server.asked[0].headers["User-Agent"] == f"cellsignal/{__version__}"


def test_passing_failures_pass(server, waits):
    server.script = [
        answer(status=503),
        answer(status=502),
        answer(b"x" * 1000, cut=400),
        answer(b"fine"),
    ]
    with Fetcher(Politeness(10_000, attempts=4, backoff_s=1.0)) as f:
        assert f.bytes(server.url) == b"fine"
    backoffs = [wait for wait in waits if wait > 0.1]
    assert len(backoffs) == 3
    for wait, mean in zip(backoffs, (1, 2, 4), strict=True):
        assert 0.5 * mean <= wait <= 1.5 * mean


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_goes_before_the_back_off(server, waits, status):
    later = email.utils.formatdate(time.time() + 120, usegmt=True)
    server.script = [
        answer(status=status, Retry_After="7"),
        answer(status=status, Retry_After=later),
        answer(b"fine"),
    ]
    with Fetcher(QUICK) as f:
        assert f.bytes(server.url) == b"fine"
    long = [wait for wait in waits if wait > 1]
    assert long[0] == 7 and any(115 < wait <= 120 for wait in long)


def test_other_requests_to_a_host_that_asked_for_time_wait_too(server, waits):
    server.script = [answer(status=429, Retry_After="7"), answer(b"fine")]
    with Fetcher(QUICK) as f:
        f.bytes(server.url + "/a")
        del waits[:]
        f.bytes(server.url + "/b")  # no time has passed: nothing was waited
    assert 6 < max(waits) <= 7.1


def test_a_server_that_asks_for_hours_is_left_alone(server, waits):
    server.script = [answer(status=429, Retry_After="7200")]
    with (
        Fetcher(QUICK) as f,
        pytest.raises(InputError, match=r"/x: 429 .*asks to come back in 7200 s"),
    ):
        f.bytes(server.url + "/x")
    assert len(server.asked) == 1


def test_it_gives_up_after_its_attempts(server):
    server.script = [answer(status=500)]
    with (
        Fetcher(QUICK) as f,
        pytest.raises(InputError, match=r"/x: 500 Internal Server Error \(tried 4x\)"),
    ):
        f.bytes(server.url + "/x")
    assert len(server.asked) == 4


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_what_will_not_pass_is_asked_once(server, status):
    server.script = [answer(status=status)]
    with Fetcher(QUICK) as f, pytest.raises(InputError, match=f"/x: the server answers {status}"):
        f.bytes(server.url + "/x")
    assert len(server.asked) == 1


def test_no_connection_and_no_answer_in_time(server):
    release = threading.Event()
    server.script = [lambda handler: release.wait(5)]
    with Fetcher(Politeness(10_000, attempts=2, backoff_s=0.001, timeout_s=0.05)) as f:
        with pytest.raises(InputError, match=r"no answer in time \(tried 2x\)"):
            f.bytes(server.url)
        release.set()
        with pytest.raises(InputError, match=r"127.0.0.1:1/: no connection \(.*refused\)"):
            f.bytes("http://127.0.0.1:1/")


def test_an_answer_that_is_no_json(server):
    server.script = [answer(b"<html>Service down")]
    with (
        Fetcher(QUICK) as f,
        pytest.raises(
            InputError, match=r"/x: the answer is not JSON, it starts b'<html>Service down'"
        ),
    ):
        f.json(server.url + "/x")


def test_threads_together_keep_to_the_rate(server):
    server.script = [answer(b"x")]
    with Fetcher(Politeness(per_second=50)) as f:
        threads = [threading.Thread(target=f.bytes, args=(server.url,)) for _ in range(8)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    times = sorted(asked.at for asked in server.asked)
    assert len(times) == 8 and times[-1] - times[0] > 0.8 * 7 / 50


# ---- safety


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/x",
        "ftp://example.org/x",
        "file:///etc/passwd",
        "example.org",
        "https://",
        "http://127.0.0.1.evil.org/",
        "https://[bad",
    ],
)
def test_only_https_is_fetched(url, monkeypatch, tmp_path):
    with Fetcher(QUICK) as f:
        monkeypatch.setattr(f._session, "request", lambda *args, **more: pytest.fail("asked"))
        for ask in (f.bytes, f.json, lambda url: f.file(url, tmp_path / "x")):
            with pytest.raises(InputError, match="only https is fetched"):
                ask(url)


def test_certificates_are_verified(server, tmp_path):
    """A self-signed certificate is refused, at once and in one line."""
    key, certificate = self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.http.socket = context.wrap_socket(server.http.socket, server_side=True)
    with Fetcher(QUICK) as f, pytest.raises(InputError, match="its certificate cannot be verified"):
        f.bytes(server.url.replace("http", "https"))
    assert server.asked == []


def self_signed(folder):
    if not shutil.which("openssl"):
        pytest.skip("no openssl to make a certificate with")
    files = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-subj",
            "/CN=127.0.0.1",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-days",
            "1",
            "-keyout",
            files[0],
            "-out",
            files[1],
        ],
        check=True,
        capture_output=True,
    )
    return files


def test_redirects_are_followed_and_end(server):
    server.script = [answer(status=302, Location="/b"), answer(b"there")]
    with Fetcher(QUICK) as f:
        assert f.bytes(server.url + "/a") == b"there"
        assert [asked.path for asked in server.asked] == ["/a", "/b"]
        server.script = [answer(status=302, Location="/a")]
        with pytest.raises(InputError, match="more than 5 redirects"):
            f.bytes(server.url + "/a")
        server.script = [answer(status=302, Location="http://example.org/evil")]
        with pytest.raises(InputError, match=r"example.org/evil: only https is fetched"):
            f.bytes(server.url + "/a")


def test_https_is_never_left_for_http(monkeypatch):
    class Redirect:
        is_redirect = True
        status_code = 302
        headers = types.MappingProxyType({"location": "http://127.0.0.1:9/x"})

        def __enter__(self):
            return self

        def __exit__(self, *args):
            pass

    with Fetcher(QUICK) as f:
        monkeypatch.setattr(f._session, "request", lambda *args, **more: Redirect())
        with pytest.raises(
            InputError,
            match=r"https://example.org/a: redirects to http://127.0.0.1:9/x, which is not https",
        ):
            f.bytes("https://example.org/a")


def test_own_headers_stay_with_the_host_they_are_for(server):
    other = Server()
    other.script = [answer(b"there")]
    server.script = [answer(status=302, Location=other.url + "/b")]
    with Fetcher(QUICK, headers={"Authorization": "Bearer secret"}) as f:
        assert f.bytes(server.url + "/a") == b"there"
    assert server.asked[0].headers["Authorization"] == "Bearer secret"
    assert "Authorization" not in other.asked[0].headers
    other.http.shutdown()
    other.http.server_close()


def test_secrets_are_never_shown(server):
    assert (
        redact_url("https://me:pw@host:8/a?id=5&X-Amz-Signature=abc&c=1|2")
        == "https://host:8/a?id=5&c=1|2&X-Amz-Signature=***"
    )
    server.script = [answer(status=404)]
    for url in (
        server.url.replace("//", "//me:hunter2@") + "/a?token=hunter2",
        "https://me:hunter2@127.0.0.1:1/?api_key=hunter2",
    ):
        with Fetcher(QUICK) as f, pytest.raises(InputError) as caught:
            f.bytes(url)
        assert "hunter2" not in str(caught.value) and "127.0.0.1" in str(caught.value)


# ---- files


def sums(data=DATA):
    return {
        "size": len(data),
        "md5": hashlib.md5(data).hexdigest(),
        "sha256": hashlib.sha256(data).hexdigest().upper(),
    }


def test_a_file_is_fetched_once(server, tmp_path):
    server.script = [ranged()]
    path = tmp_path / "deep" / "x.bin"
    with Fetcher(QUICK) as f:
        assert f.file(server.url, path, **sums()) == path
        f.file(server.url, path, **sums())
        f.file(server.url, path)
        assert len(server.asked) == 1 and path.read_bytes() == DATA
        path.write_bytes(bytes([DATA[0] ^ 1]) + DATA[1:])  # another one of the same size
        f.file(server.url, path, **sums())
    assert len(server.asked) == 2 and path.read_bytes() == DATA
    assert [p.name for p in path.parent.iterdir()] == ["x.bin"]


def test_a_broken_line_is_continued(server, tmp_path):
    server.script = [ranged(cut=98_304), ranged(cut=65_536), ranged()]
    with Fetcher(QUICK) as f:
        f.file(server.url, tmp_path / "x", **sums())
    assert (tmp_path / "x").read_bytes() == DATA
    assert [asked.headers.get("Range") for asked in server.asked] == [
        None,
        "bytes=98304-",
        "bytes=163840-",
    ]
    assert server.asked[1].headers["If-Range"] == '"v1"'


def test_a_line_that_breaks_often_but_brings_much_is_not_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetcher, "PROGRESS", 65_536)
    server.script = [ranged(cut=65_536)] * 4 + [ranged()]
    with Fetcher(Politeness(10_000, attempts=2, backoff_s=0.001)) as f:
        f.file(server.url, tmp_path / "x", **sums())
    assert len(server.asked) == 5 and (tmp_path / "x").read_bytes() == DATA


def test_another_call_goes_on_where_one_was_stopped(server, tmp_path):
    server.script = [ranged(cut=98_304)]
    with (
        Fetcher(Politeness(10_000, attempts=1)) as f,
        pytest.raises(InputError, match="goes on from here"),
    ):
        f.file(server.url, tmp_path / "x")
    assert not (tmp_path / "x").exists() and (tmp_path / "x.part").read_bytes() == DATA[:98_304]
    server.script = [ranged()]
    with Fetcher(QUICK) as f:
        f.file(server.url, tmp_path / "x")
    assert server.asked[-1].headers["Range"] == "bytes=98304-"
    assert (tmp_path / "x").read_bytes() == DATA and [p.name for p in tmp_path.iterdir()] == ["x"]


def test_a_file_that_changed_meanwhile_starts_anew(server, tmp_path):
    server.script = [ranged(cut=98_304), ranged(DATA[::-1], tag='"v2"')]
    with Fetcher(QUICK) as f:
        f.file(server.url, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == DATA[::-1]


@pytest.mark.parametrize("checked", [True, False])
def test_a_server_without_ranges_or_tags_starts_anew(server, tmp_path, checked):
    server.script = [answer(DATA, cut=98_304), answer(DATA)]
    with Fetcher(QUICK) as f:
        f.file(server.url, tmp_path / "x", **(sums() if checked else {}))
    assert (tmp_path / "x").read_bytes() == DATA
    # without tag and checksum, old bytes cannot be trusted
    assert ("Range" in server.asked[1].headers) == checked


def test_a_server_that_sends_less_than_was_asked_is_asked_on(server, tmp_path):
    """It may (RFC 9110, 15.3.7), and each such answer is whole."""

    def piece(handler):
        start = int(handler.headers["Range"].removeprefix("bytes=").rstrip("-"))
        part = DATA[start : start + 98_304]
        answer(
            part,
            206,
            ETag='"v1"',
            Content_Range=f"bytes {start}-{start + len(part) - 1}/{len(DATA)}",
        )(handler)

    server.script = [ranged(cut=98_304), piece, piece, piece]
    with Fetcher(Politeness(10_000, attempts=5, backoff_s=0.001)) as f:
        f.file(server.url, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == DATA


def test_a_part_that_was_whole_already(server, tmp_path):
    """Killed between the last byte and the rename."""
    (tmp_path / "x.part").write_bytes(DATA)
    (tmp_path / "x.part.tag").write_text('"v1"')
    server.script = [ranged()]
    with Fetcher(QUICK) as f:
        f.file(server.url, tmp_path / "x")
    assert [asked.headers["Range"] for asked in server.asked] == [f"bytes={len(DATA)}-"]
    assert (tmp_path / "x").read_bytes() == DATA


def test_a_part_that_is_too_long_starts_anew(server, tmp_path):
    (tmp_path / "x.part").write_bytes(DATA + b"more")
    (tmp_path / "x.part.tag").write_text('"v1"')
    server.script = [ranged()]
    with Fetcher(QUICK) as f:
        f.file(server.url, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == DATA


def test_a_spoilt_part_gets_one_more_try(server, tmp_path):
    (tmp_path / "x.part").write_bytes(b"?" * 1000)
    server.script = [ranged()]
    with Fetcher(QUICK) as f:
        f.file(server.url, tmp_path / "x", **sums())
    assert (tmp_path / "x").read_bytes() == DATA
    assert [asked.headers.get("Range") for asked in server.asked] == ["bytes=1000-", None]


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"sha256": "0" * 64}, "its sha256 is"),
        ({"md5": "0" * 32}, "its md5 is"),
        ({"size": 5}, "has 300000 bytes there, 5 expected"),
    ],
)
def test_another_file_than_expected_is_refused(server, tmp_path, wrong, said):
    server.script = [ranged()]
    (tmp_path / "x").write_bytes(b"old")
    with Fetcher(QUICK) as f, pytest.raises(InputError, match=f"/x: {said}"):
        f.file(server.url + "/x", tmp_path / "x", **wrong)
    assert (tmp_path / "x").read_bytes() == b"old" and not (tmp_path / "x.part").exists()


def test_a_full_disk_is_one_line(server, tmp_path, monkeypatch):
    usage = part_file.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(part_file.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    server.script = [ranged()]
    with (
        Fetcher(QUICK) as f,
        pytest.raises(InputError, match=r"x: could not be written \(.*no room"),
    ):
        f.file(server.url, tmp_path / "x")
    monkeypatch.undo()
    full = OSError(28, os.strerror(28))
    monkeypatch.setattr(part_file.PartFile, "append", lambda *args: (_ for _ in ()).throw(full))
    with (
        Fetcher(QUICK) as f,
        pytest.raises(
            InputError, match=r"x: could not be written \(No space left on device\); x.part is kept"
        ),
    ):
        f.file(server.url, tmp_path / "x")

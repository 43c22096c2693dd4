"""A web server of a folder that serves ranges of bytes, counts, and fails when it is told to."""

import re
import socket
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def is_of_sites(path: str) -> bool:
    return "/images/c." in path or "/shards/" in path


class RangeServer(ThreadingHTTPServer):
    """Serves `root` on a free port of this machine.

    Attributes:
        calls: (path, range header, bytes sent) of each request.
        plan: what comes of the next requests to images: a status is answered, "cut" closes the
            connection in the middle, "short" leaves out the end of a range and says so, "whole"
            ignores the range.
        delay: seconds before each answer.
    """

    daemon_threads = True

    def __init__(self, root: Path, port: int = 0):
        super().__init__(("127.0.0.1", port), _Handler)
        self.root, self.delay = root, 0.0
        self.calls: list[tuple[str, str | None, int]] = []
        self.plan: list[int | str] = []
        self.connections: list[socket.socket] = []

    def process_request(self, request, client_address):
        self.connections.append(request)
        super().process_request(request, client_address)

    def server_close(self):
        """Close the connections, too, which would be served on."""
        super().server_close()
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def taken(self) -> list[tuple[str | None, int]]:
        """(range, bytes) of the requests for sites since the last call."""
        calls = [(asked, size) for path, asked, size in self.calls if is_of_sites(path)]
        self.calls.clear()
        return calls

    def handle_error(self, *_):
        """A client that hangs up is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for an acknowledgement

    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        step = server.plan.pop(0) if is_of_sites(self.path) and server.plan else "ok"
        time.sleep(server.delay)
        file = server.root / self.path.lstrip("/")
        if isinstance(step, int) or not file.is_file():
            server.calls.append((self.path, asked, 0))
            self.send_response(step if isinstance(step, int) else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data = file.read_bytes()
        body = data if asked is None or step == "whole" else _part(data, asked)
        body = body[: len(body) // 2] if step == "short" else body
        self.send_response(200 if asked is None or step == "whole" else 206)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        server.calls.append((self.path, asked, len(body)))
        self.wfile.write(body[: len(body) // 2] if step == "cut" else body)
        if step == "cut":
            self.close_connection = True

    def log_message(self, *_):
        pass


def _part(data: bytes, asked: str) -> bytes:
    first, last = re.fullmatch(r"bytes=(\d*)-(\d*)", asked).groups()
    if not first:
        return data[-int(last) :]
    return data[int(first) : int(last) + 1 if last else None]


@contextmanager
def serving(root: Path, port: int = 0):
    """Serve a folder within the block."""
    server = RangeServer(root, port)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

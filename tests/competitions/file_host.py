"""A host of files on this machine whose lines can break, and zips to put on it."""

import hashlib
import http.server
import io
import threading
import zipfile


class Host:
    """Serves `files`; a name in `cut` breaks off so many times after that many bytes. `asked` is
    (name, first byte) of each GET.
    """

    def __init__(self):
        self.files, self.cut, self.asked = {}, {}, []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"

            def log_message(self, *args):
                pass

            def do_GET(self):
                name = self.path.rpartition("/")[2]
                body = outer.files.get(name)
                start = int(self.headers.get("Range", "bytes=0-")[6:-1])
                outer.asked.append((name, start))
                if body is None:
                    self.send_error(404)
                    return
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(body) - start))
                self.send_header("ETag", f'"{hashlib.md5(body).hexdigest()}"')
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
                self.end_headers()
                times, after = outer.cut.get(name, (0, None))
                outer.cut[name] = (times - 1, after)
                self.wfile.write(body[start : after if times > 0 else None])

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.handle_error = lambda *args: None  # lines that break are what is tested
        self.url = f"http://127.0.0.1:{self.http.server_port}/BBBC021"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def zips_asked(self):
        return [name for name, _ in self.asked if name.endswith(".zip")]


def zipped(members, method=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as bundle:
        for name, content in members.items():
            bundle.writestr(name, content)
    return buffer.getvalue()

"""A server on this machine that speaks the shape of Kaggle's API, for Kaggle's real client:
kernels, their output, data sets, uploads.

It can be told to misbehave (`trouble`), and to run what is pushed, in a process whose folders are
laid out as Kaggle lays them out (`executes`). As a program it gives the rest of its words to a
function of the package while the client talks to the server: `fake_kaggle.py URL module:function
words`.
"""

import base64
import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cellsignal.kaggle import api

USER, KEY = "somebody", "SECRETKEY0123456789abcdef"
TOKEN = "KGAT_FAKETOKEN987654321zyx"


@dataclass
class Run:
    """One version of a kernel: what was pushed, and what came of it. It is "running" for so many
    questions.
    """

    asked: dict[str, Any]
    files: dict[str, bytes] = field(default_factory=dict)
    log: str = ""
    state: str = "COMPLETE"
    failure: str = ""
    running_for: int = 1
    folder: Path | None = None  # of a run that is executed


@dataclass
class Trouble:
    """What happens to the next request of a kind: a `status` with `headers`, "cut" before it is
    done or "lost" after, or "slow" (nothing comes).
    """

    kind: int | str
    headers: dict[str, str] = field(default_factory=dict)


class FakeKaggle:
    """The server. `requests` is a list of (request, body); `troubles` maps a request to those still
    to come; `always` to one that stays.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict]] = []
        self.troubles: dict[str, list[Trouble]] = defaultdict(list)
        self.always: dict[str, Trouble] = {}
        self.kernels: dict[str, list[Run]] = defaultdict(list)
        self.datasets: dict[str, list[dict[str, bytes]]] = defaultdict(list)
        self.dataset_states: list[str] = []  # said before "READY"
        self.uploads: dict[str, tuple[str, bytearray, int]] = {}
        self.outcome: Callable[[str, dict, int], Run] = lambda slug, asked, version: Run(asked)
        self.says: dict[str, Any] = {}  # more fields of the answer to a push
        self.cut_files: dict[str, int] = {}
        self.page = 3
        self.missing_status = 403  # what Kaggle answers for a kernel that nobody has
        self._lock = threading.RLock()
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def trouble(self, request: str, *kinds: int | str, **headers: str) -> None:
        self.troubles[request] += [
            Trouble(kind, {name.replace("_", "-"): value for name, value in headers.items()})
            for kind in kinds
        ]

    def count(self, request: str) -> int:
        return sum(name == request for name, _ in self.requests)

    def pushed(self) -> list[str]:
        """The kernels in the order of their pushes."""
        return [body["slug"] for name, body in self.requests if name == "SaveKernel#done"]

    # what is answered
    # ----------------------------------------------------------------------------------------------

    def answer(self, name: str, body: dict) -> tuple[int, dict]:
        with self._lock:
            return getattr(
                self, f"_{name}", lambda body: (404, {"code": 404, "message": f"no {name}"})
            )(body)

    def _IntrospectToken(self, body):
        active = body.get("token") == TOKEN
        return 200, {"active": active, "username": USER if active else ""}

    def _SaveKernel(self, body):
        slug = body["slug"]
        run = self.outcome(slug, body, len(self.kernels[slug]) + 1)
        self.kernels[slug].append(run)
        self.requests.append(("SaveKernel#done", body))
        answer = {
            "ref": f"/code/{slug}",
            "url": f"https://www.kaggle.com/code/{slug}",
            "versionNumber": len(self.kernels[slug]),
            "kernelId": 7,
        }
        return 200, answer | self.says

    def _kernel(self, body) -> list[Run]:
        return self.kernels.get(f"{body.get('userName')}/{body.get('kernelSlug')}", [])

    def _missing(self):
        return self.missing_status, {
            "code": self.missing_status,
            "message": "Permission 'kernels.get' was denied",
        }

    def _GetKernel(self, body):
        runs = self._kernel(body)
        if not runs:
            return self._missing()
        return 200, {
            "metadata": {"id": 7, "currentVersionNumber": len(runs)},
            "blob": {"source": runs[-1].asked["text"]},
        }

    def _GetKernelSessionStatus(self, body):
        runs = self._kernel(body)
        if not runs:
            return self._missing()
        run = runs[-1]
        if run.folder is not None:
            return 200, {"status": run.state, "failureMessage": run.failure or None}
        run.running_for -= 1
        if run.running_for >= 0:
            return 200, {"status": "RUNNING" if run.running_for else "QUEUED"}
        return 200, {"status": run.state, "failureMessage": run.failure or None}

    def _ListKernelSessionOutput(self, body):
        runs = self._kernel(body)
        if not runs:
            return self._missing()
        run, slug = runs[-1], f"{body['userName']}/{body['kernelSlug']}"
        names = sorted(self.files_of(run))
        at = int(body.get("pageToken") or 0)
        url = f"{self.url}/files/{slug}/{len(runs)}"
        page = {
            "files": [
                {"fileName": name, "url": f"{url}/{names.index(name)}?X-Goog-Signature=signed"}
                for name in names[at : at + self.page]
            ]
        }
        return 200, page | {"log": run.log} | (
            {"nextPageToken": str(at + self.page)} if at + self.page < len(names) else {}
        )

    @staticmethod
    def files_of(run: Run) -> dict[str, Any]:
        if run.folder is None:
            return run.files
        return {
            path.relative_to(run.folder).as_posix(): path
            for path in run.folder.rglob("*")
            if path.is_file()
        }

    def file(self, path: str) -> bytes:
        user, name, version, at = path.split("/")
        files = self.files_of(self.kernels[f"{user}/{name}"][int(version) - 1])
        found = files[sorted(files)[int(at)]]
        return found.read_bytes() if isinstance(found, Path) else found

    def _GetDataset(self, body):
        versions = self.datasets.get(f"{body['ownerSlug']}/{body['datasetSlug']}")
        return (
            (200, {"currentVersionNumber": len(versions)})
            if versions
            else (404, {"code": 404, "message": "Not found"})
        )

    def _GetDatasetStatus(self, body):
        versions = self.datasets.get(f"{body['ownerSlug']}/{body['datasetSlug']}")
        if not versions:
            return 404, {"code": 404, "message": "Not found"}
        return 200, {"status": self.dataset_states.pop(0) if self.dataset_states else "READY"}

    def _CreateDataset(self, body):
        return self._version(f"{body['ownerSlug']}/{body['slug']}", body)

    def _CreateDatasetVersion(self, body):
        return self._version(f"{body['ownerSlug']}/{body['datasetSlug']}", body["body"])

    def _version(self, slug, body):
        self.datasets[slug].append(
            {
                self.uploads[file["token"]][0]: bytes(self.uploads[file["token"]][1])
                for file in body.get("files", [])
            }
        )
        return 200, {
            "ref": f"/{slug}",
            "url": f"https://www.kaggle.com/datasets/{slug}",
            "status": "ok",
        }

    def _StartBlobUpload(self, body):
        token = f"upload{len(self.uploads)}"
        self.uploads[token] = (body["name"], bytearray(), body["contentLength"])
        return 200, {"token": token, "createUrl": f"{self.url}/upload/{token}"}


def _handler(fake: FakeKaggle) -> type:
    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_POST(self):
            body = json.loads(
                self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}"
            )
            name = self.path.rpartition("/")[2]
            with fake._lock:
                fake.requests.append((name, body))
                trouble = fake.always.get(name) or (
                    fake.troubles[name].pop(0) if fake.troubles[name] else None
                )
            kind = trouble.kind if trouble else None
            if isinstance(kind, int):
                # a server that gives the secret back
                said = {"code": kind, "message": f"no: {self.headers['Authorization']}"}
                return self.send(kind, said, trouble.headers)
            if kind == "cut":
                return self.cut()
            if kind == "slow":
                time.sleep(3)
                return self.cut()
            if name != "IntrospectToken" and not self.signed_in():
                return self.send(
                    401,
                    {"code": 401, "message": f"Unauthenticated: {self.headers['Authorization']}"},
                )
            answer = fake.answer(name, body)
            return self.cut() if kind == "lost" else self.send(*answer)

        def signed_in(self) -> bool:
            basic = base64.b64encode(f"{USER}:{KEY}".encode()).decode()
            return self.headers["Authorization"] in (f"Basic {basic}", f"Bearer {TOKEN}")

        def send(self, status, body, headers=None):
            content = json.dumps(body).encode()
            self.send_response(status)
            for name, value in {
                "Content-Type": "application/json",
                "Content-Length": str(len(content)),
                **(headers or {}),
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def cut(self):
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True

        def do_GET(self):
            assert self.headers["Authorization"] is None, (
                "files are fetched by signed URLs; the key must not go there"
            )
            path = self.path.partition("?")[0].removeprefix("/files/")
            with fake._lock:
                fake.requests.append(("GET", {"path": path, "range": self.headers["Range"]}))
                content = fake.file(path)
                cut = fake.cut_files.get(path, 0)
                fake.cut_files[path] = max(cut - 1, 0)
            start = int((self.headers["Range"] or "bytes=0-")[6:-1])
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.send_header("ETag", f'"{hash(content)}"')
            if start:
                self.send_header(
                    "Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}"
                )
            self.end_headers()
            part = content[start:]
            self.wfile.write(part[: len(part) // 2] if cut else part)

        def do_PUT(self):
            token = self.path.rpartition("/")[2]
            with fake._lock:
                name, content, length = fake.uploads[token]
                fake.requests.append(
                    ("PUT", {"name": name, "range": self.headers["Content-Range"]})
                )
                trouble = fake.always.get("PUT") or (
                    fake.troubles["PUT"].pop(0) if fake.troubles["PUT"] else None
                )
            size = int(self.headers["Content-Length"])
            if trouble and trouble.kind == "cut":  # half of it comes
                content += self.rfile.read(size // 2)
                return self.cut()
            if not (self.headers["Content-Range"] or "").startswith("bytes */"):
                start = (
                    int(self.headers["Content-Range"].split()[1].split("-")[0])
                    if self.headers["Content-Range"]
                    else 0
                )
                del content[start:]
                content += self.rfile.read(size)
            if trouble and isinstance(trouble.kind, int):
                return self.send(trouble.kind, {"message": "no"})
            if len(content) == length:
                return self.send(200, {})
            self.send_response(308)
            if content:
                self.send_header("Range", f"bytes=0-{len(content) - 1}")
            self.send_header("Content-Length", "0")
            return self.end_headers()

    return Handler


# running what is pushed
# --------------------------------------------------------------------------------------------------


def executes(
    fake: FakeKaggle,
    folder: Path,
    inputs: dict[str, Path],
    environment: Callable[[str], dict[str, str]] = lambda slug: {},
) -> None:
    """Run every script that is pushed. `inputs`: what Kaggle has of competitions and data sets, by
    the last part of their slugs.

    Kaggle keeps the output of a run that ends well, and shows what is attached under /kaggle/input,
    read only.
    """

    def outcome(slug: str, asked: dict, version: int) -> Run:
        place = folder / slug.partition("/")[2] / str(version)
        working = place / "working"
        working.mkdir(parents=True)
        (place / "script.py").write_text(asked["text"], encoding="utf-8")
        attached = {name: inputs[name] for name in asked.get("competitionDataSources", [])}
        attached |= {
            name.split("/")[1]: inputs[name.split("/")[1]]
            for name in asked.get("datasetDataSources", [])
        }
        attached |= {
            name.split("/")[1]: fake.kernels[name][-1].folder
            for name in asked.get("kernelDataSources", [])
        }
        (place / "input").mkdir()
        for name, source in attached.items():
            shutil.copytree(source, place / "input" / name)
        run = Run(asked, state="RUNNING", folder=working)
        threading.Thread(target=_execute, args=(run, place, environment(slug)), daemon=True).start()
        return run

    fake.outcome = outcome


def _execute(run: Run, place: Path, more: dict[str, str]) -> None:
    hidden = ("KAGGLE_", "PYTHONPATH", "CELLSIGNAL_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    environment |= {
        "CELLSIGNAL_KAGGLE_INPUT": str(place / "input"),
        "CELLSIGNAL_KAGGLE_WORKING": str(run.folder),
    }
    done = subprocess.run(
        [sys.executable, str(place / "script.py")],
        cwd=run.folder,
        env=environment | more,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    run.log = json.dumps(
        [
            {"stream_name": "stdout", "time": n, "data": line}
            for n, line in enumerate(done.stdout.splitlines(keepends=True))
        ]
    )
    run.failure = "" if done.returncode == 0 else f"the script ended with status {done.returncode}"
    run.state = "COMPLETE" if done.returncode == 0 else "ERROR"


# Kaggle's client in this process
# --------------------------------------------------------------------------------------------------


@pytest.fixture
def client_home(tmp_path, monkeypatch):
    """The real client with a home of its own, no credentials, and no waiting between tries."""
    home = tmp_path / "home"
    (home / ".kaggle").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    for name in [name for name in os.environ if name.startswith("KAGGLE_")]:
        monkeypatch.delenv(name)
    extended = pytest.importorskip("kaggle.api.kaggle_api_extended")
    monkeypatch.setattr(extended.KaggleApi, "config_dir", str(home / ".kaggle"))
    monkeypatch.setattr(extended.KaggleApi, "config", str(home / ".kaggle" / "kaggle.json"))
    monkeypatch.setattr(extended.KaggleApi, "config_values", {})
    monkeypatch.setattr(extended.KaggleApi, "args", [])
    monkeypatch.setattr(extended.tempfile, "tempdir", str(home))  # where it notes its uploads
    monkeypatch.setattr(api, "BACKOFF_S", 0.01)
    return home


@pytest.fixture
def fake(client_home, monkeypatch):
    """A server, and a user who is signed in to it."""
    from kagglesdk import kaggle_env

    served = FakeKaggle()
    monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.LOCAL, served.url)
    point_client_at(served.url)
    monkeypatch.setenv("KAGGLE_USERNAME", USER)
    monkeypatch.setenv("KAGGLE_KEY", KEY)
    yield served
    served.close()


def point_client_at(url: str) -> None:
    """Kaggle's client asks `url` from now on. It takes its server from a table of its own alone, so
    that no variable can send the key elsewhere.
    """
    from kaggle.api.kaggle_api_extended import KaggleApi
    from kagglesdk import kaggle_env

    kaggle_env._env_to_endpoint[kaggle_env.KaggleEnv.LOCAL] = url
    KaggleApi.args = ["--local"]


if __name__ == "__main__":
    import importlib

    point_client_at(sys.argv[1])
    module, _, function = sys.argv[2].partition(":")
    sys.exit(getattr(importlib.import_module(module), function)(sys.argv[3:]))

"""The download survives breaks and refuses what would harm: Kaggle's real client against a server
on this machine.
"""

import http.server
import io
import json
import shutil
import threading
import zipfile

import pytest

from cellsignal.common.errors import InputError
from cellsignal.competitions.rxrx1 import RxRx1
from cellsignal.competitions.rxrx1 import download as module
from cellsignal.competitions.rxrx1.download import SLUG, download

CSVS = ("train.csv", "train_controls.csv", "test.csv", "test_controls.csv", "sample_submission.csv")


def zipped(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, content in members.items():
            bundle.writestr(name, content)
    return buffer.getvalue()


class Kaggle:
    """A server with Kaggle's three routes. `cut` files break off half-way so many times."""

    def __init__(self):
        self.files, self.listed, self.cut, self.status, self.log = {}, None, {}, {}, []
        self.everything = b""
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"

            def log_message(self, *args):
                pass

            def do_POST(self):
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
                verb = self.path.rsplit("/", 1)[-1]
                outer.log.append((verb, asked.get("fileName")))
                if verb in outer.status:
                    self.answer(
                        outer.status[verb], b'{"code": %d, "message": "no"}' % outer.status[verb]
                    )
                elif verb == "ListDataFiles":
                    self.answer(200, json.dumps(outer.page(asked.get("pageToken"))).encode())
                else:
                    self.send_response(302)
                    name = asked.get("fileName") or "archive.zip"
                    self.send_header("Location", f"/files/{name}")
                    self.end_headers()

            def do_GET(self):
                name = self.path.removeprefix("/files/")
                body = outer.everything if name == "archive.zip" else outer.files[name]
                start = int(self.headers.get("Range", "bytes=0-")[6:-1])
                outer.log.append(("GET", name, start))
                self.send_response(206 if start else 200)
                for key, value in (
                    ("Content-Type", "application/octet-stream"),
                    ("Content-Length", str(len(body) - start)),
                    ("Accept-Ranges", "bytes"),
                    ("ETag", '"1"'),
                    ("Last-Modified", "Thu, 27 Jun 2019 00:00:00 GMT"),
                ):
                    self.send_header(key, value)
                self.end_headers()
                part = body[start:]
                if outer.cut.get(name):
                    outer.cut[name] -= 1
                    part = part[: len(part) // 2]
                self.wfile.write(part)

            def answer(self, status, body):
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def page(self, token):
        names = sorted(self.listed or self.files)
        at = int(token or 0)
        page = {
            "files": [
                {"name": n, "totalBytes": len(self.files.get(n, b""))} for n in names[at : at + 3]
            ]
        }
        return page | ({"nextPageToken": str(at + 3)} if at + 3 < len(names) else {})

    def fetched(self):
        return [entry[1] for entry in self.log if entry[0] == "DownloadDataFile"]


@pytest.fixture
def client(tmp_path, monkeypatch):
    """The real client, with a home of its own and no credentials."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(home))
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_TOKEN", "KAGGLE_KERNEL_RUN_TYPE"):
        monkeypatch.delenv(name, raising=False)
    extended = pytest.importorskip("kaggle.api.kaggle_api_extended")
    monkeypatch.setattr(extended.KaggleApi, "config_dir", str(home))
    monkeypatch.setattr(extended.KaggleApi, "config", str(home / "kaggle.json"))
    monkeypatch.setattr(extended.KaggleApi, "config_values", {})
    monkeypatch.setattr(extended.KaggleApi, "args", ["--local"])
    return extended


@pytest.fixture
def kaggle(client, monkeypatch):
    from kagglesdk import kaggle_env

    served = Kaggle()
    monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.LOCAL, served.url)
    monkeypatch.setenv("KAGGLE_USERNAME", "somebody")
    monkeypatch.setenv("KAGGLE_KEY", "secret")
    monkeypatch.setattr(client.time, "sleep", lambda seconds: None)
    served.files = {name: f"id_code\n{name}\n".encode() * 400 for name in CSVS}
    yield served
    served.server.shutdown()
    served.server.server_close()


def test_csvs_and_archives_arrive_in_their_places(kaggle, tmp_path):
    plain = kaggle.files["train.csv"]
    kaggle.files["train.zip"] = zipped({"HEPG2-01/Plate1/B02_s1_w1.png": b"train image"})
    kaggle.files["test.zip"] = zipped({"test/HEPG2-08/Plate1/B02_s1_w1.png": b"test image"})
    out = tmp_path / "rxrx1"
    RxRx1().download(out)
    assert (out / "train.csv").read_bytes() == plain
    assert (out / "train/HEPG2-01/Plate1/B02_s1_w1.png").read_bytes() == b"train image"
    assert (out / "test/HEPG2-08/Plate1/B02_s1_w1.png").read_bytes() == b"test image"
    assert sorted(kaggle.fetched()) == sorted(kaggle.files)
    kept = {p.name for p in (out / ".download").rglob("*") if p.is_file()}
    assert kept == {"done.json", *(f"{name}.json.gz" for name in kaggle.files)}, (
        "no archive is left"
    )
    kaggle.log.clear()
    download(out)
    assert kaggle.fetched() == []
    (out / "test.csv").unlink()
    (out / "train_controls.csv").write_bytes(b"short")
    (out / ".download/done.json").unlink()
    kaggle.files.pop("train.zip"), kaggle.files.pop("test.zip")
    download(out)
    assert sorted(kaggle.fetched()) == ["test.csv", "train_controls.csv"]


@pytest.mark.parametrize("harm", ["folder gone", "file gone", "file cut", "list gone", "old note"])
@pytest.mark.slow
def test_done_counts_only_while_its_files_are_there(kaggle, tmp_path, caplog, harm):
    kaggle.files["train.zip"] = zipped(
        {f"A/Plate1/B0{n}_s1_w1.png": b"train image" for n in range(2, 6)}
    )
    kaggle.files["test.zip"] = zipped({"test/B/Plate1/B02_s1_w1.png": b"test image"})
    out = tmp_path / "out"
    download(out)
    image, notes = out / "train/A/Plate1/B03_s1_w1.png", out / ".download/done.json"
    if harm == "folder gone":
        shutil.rmtree(out / "train")
    elif harm == "file gone":
        image.unlink()
    elif harm == "file cut":
        image.write_bytes(b"train")
    elif harm == "list gone":
        (out / ".download/lists/train.zip.json.gz").unlink()
    else:
        notes.write_text(
            json.dumps(
                json.loads(notes.read_text()) | {"train.zip": len(kaggle.files["train.zip"])}
            )
        )
    kaggle.log.clear()
    download(out)
    assert kaggle.fetched() == ["train.zip"] and image.read_bytes() == b"train image"
    assert "train.zip: was fetched before, but" in caplog.text
    kaggle.log.clear()
    download(out)
    assert kaggle.fetched() == []


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("gone", [False, True])
@pytest.mark.slow
def test_an_old_note_counts_where_all_images_of_the_metadata_are_there(
    kaggle, tmp_path, simulated, caplog, whole, gone
):
    """Earlier versions noted the size of an archive alone."""
    root, out = simulated("rxrx1"), tmp_path / "out"
    kaggle.files = {name: (root / name).read_bytes() for name in CSVS}
    folders = {
        folder: {
            p.relative_to(root).as_posix(): p.read_bytes() for p in (root / folder).rglob("*.png")
        }
        for folder in ("train", "test")
    }
    if whole:
        kaggle.everything = zipped({**folders["train"], **folders["test"], **kaggle.files})
        kaggle.listed = ["a.png", "zzz.csv"]
        note, asked = {SLUG: 1}, [None]
    else:
        kaggle.files |= {f"{folder}.zip": zipped(images) for folder, images in folders.items()}
        note = {name: len(kaggle.files[name]) for name in ("train.zip", "test.zip")}
        asked = ["train.zip"]
    shutil.copytree(root, out)
    (out / ".download").mkdir()
    (out / ".download/done.json").write_text(json.dumps(note))
    image = out / min(folders["train"])
    if gone:
        image.unlink()
    download(out)
    archives = [
        entry for entry in kaggle.log if entry[0].startswith("Download") and entry[1] not in CSVS
    ]
    assert [name for _, name in archives] == (asked if gone else [])
    assert image.is_file() and (f"{min(folders['train'])} is gone" in caplog.text) == gone
    (out / max(folders["test"])).unlink()  # the files have a list now
    download(out)
    assert (out / max(folders["test"])).is_file()


def test_an_archive_of_everything_is_fetched_again_when_an_image_is_gone(kaggle, tmp_path):
    images = {f"train/A/Plate1/B0{n}_s1_w1.png": b"%d" % n for n in range(2, 8)}
    kaggle.listed, kaggle.everything = [*images, "zzz.csv"], zipped({**images, **kaggle.files})
    download(tmp_path / "out")
    (tmp_path / "out" / next(iter(images))).unlink()
    download(tmp_path / "out")
    assert all(
        (tmp_path / "out" / name).read_bytes() == content for name, content in images.items()
    )


def test_a_broken_line_is_taken_up_where_it_broke(kaggle, tmp_path):
    """Within a run the client tries again by itself; after it gave up, the next run goes on with
    the bytes on disk.
    """
    kaggle.files["train.csv"] = bytes(range(256)) * 4096 * 8  # the client writes in pieces of 1 MiB
    kaggle.cut = {"train.csv": 6}
    with pytest.raises(InputError, match=r"download broke off .*it resumes"):
        download(tmp_path / "out")
    assert not (tmp_path / "out/train.csv").exists()
    starts = [entry[2] for entry in kaggle.log if entry[:2] == ("GET", "train.csv")]
    assert starts[0] == 0 and 0 < starts[1] <= starts[-1]
    kaggle.log.clear()
    download(tmp_path / "out")
    assert (tmp_path / "out/train.csv").read_bytes() == kaggle.files["train.csv"]
    assert (
        [entry[2] for entry in kaggle.log if entry[:2] == ("GET", "train.csv")][-1]
        >= starts[-1]
        > 0
    )


def test_a_csv_that_comes_zipped_is_unpacked(kaggle, tmp_path, monkeypatch):
    api = module._signed_in()
    body = kaggle.files["train.csv"]

    def zipped_instead(slug, name, path, quiet):
        (tmp_path / "out/.download").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"out/.download/{name}.zip").write_bytes(zipped({name: kaggle.files[name]}))

    monkeypatch.setattr(api, "competition_download_file", zipped_instead)
    monkeypatch.setattr(module, "_signed_in", lambda: api)
    download(tmp_path / "out")
    assert (tmp_path / "out/train.csv").read_bytes() == body
    assert not (tmp_path / "out/.download/train.csv.zip").exists()


def test_single_images_on_the_list_mean_one_archive(kaggle, tmp_path):
    images = {f"train/HEPG2-01/Plate1/B0{w}_s1_w1.png": b"%d" % w for w in range(2, 8)}
    kaggle.listed = [*images, "zzz.csv"]
    kaggle.everything = zipped({**images, **kaggle.files})
    out = tmp_path / "out"
    download(out)
    assert all((out / name).read_bytes() == content for name, content in images.items())
    assert sorted(kaggle.fetched()) == sorted(CSVS)  # no image on its own
    assert not (out / f".download/{SLUG}.zip").exists()
    kaggle.log.clear()
    download(out)
    assert not [entry for entry in kaggle.log if entry[0] == "GET"]


@pytest.mark.parametrize(
    "status, message",
    [
        (401, "kaggle.com/settings"),
        (403, "accept the rules at"),
        (429, "wait"),
        (500, "answered 500"),
    ],
)
def test_what_kaggle_refuses_is_one_line(kaggle, tmp_path, status, message):
    kaggle.status["ListDataFiles"] = status
    with pytest.raises(InputError, match=message) as caught:
        download(tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_no_connection_is_one_line(kaggle, tmp_path):
    kaggle.server.shutdown()
    kaggle.server.server_close()
    with pytest.raises(InputError, match=r"download broke off .*it resumes"):
        download(tmp_path / "out")


def test_missing_credentials_are_one_line_that_says_where(client, tmp_path, capsys, monkeypatch):
    with pytest.raises(InputError) as caught:
        RxRx1().download(tmp_path / "out")
    text = str(caught.value)
    for word in (
        "https://www.kaggle.com/settings",
        "KAGGLE_API_TOKEN",
        "KAGGLE_USERNAME",
        "~/.kaggle/kaggle.json",
    ):
        assert word in text
    assert "\n" not in text
    assert capsys.readouterr() == ("", "")  # Kaggle's own page of help is not printed beside it
    assert not (tmp_path / "out").exists()


def test_a_listed_name_outside_the_target_is_refused(kaggle, tmp_path):
    kaggle.files["../evil.csv"] = b"x"
    with pytest.raises(InputError, match="outside"):
        download(tmp_path / "out")
    assert not (tmp_path / "evil.csv").exists()

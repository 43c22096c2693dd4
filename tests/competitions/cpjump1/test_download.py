"""Fetching from a server on this machine that answers as S3 does: listings in pages, ranges, 503,
and a plane that is not what was listed.
"""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import numpy as np
import pandas as pd
import pytest

from cellsignal.common.errors import InputError
from cellsignal.competitions.base import answers_path
from cellsignal.competitions.cpjump1 import Cpjump1, Cpjump1Course
from cellsignal.competitions.cpjump1.download import Sources, download, download_course, list_bucket
from cellsignal.fetch import Fetcher, Politeness

PREFIX, BATCH, PLATE = "cpg/source_4", "2020_11_04_CPJUMP1", "BR90000001"
SMALL = {
    "genes": 2,
    "compounds_per_gene": 1,
    "controls": 2,
    "plates": 2,
    "crispr_plates": 1,
    "test_plates": 0,
    "cell_types": 1,
    "sites": 2,
    "size": 16,
}
PAGE = 7
TAG = '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'


class Bucket:
    """What the server holds (key -> bytes), what it was asked for, and how it misbehaves."""

    def __init__(self, objects: dict[str, bytes]):
        self.objects, self.asked, self.busy, self.cut, self.listing = objects, [], 0, set(), None

    def page(self, query: dict[str, list[str]]) -> bytes:
        keys = [key for key in sorted(self.objects) if key.startswith(query["prefix"][0])]
        start = int(query.get("continuation-token", ["0"])[0].removeprefix("token+/="))
        more = start + PAGE < len(keys)
        body = f"{TAG}<Name>b</Name><IsTruncated>{str(more).lower()}</IsTruncated>"
        if more:
            body += f"<NextContinuationToken>token+/={start + PAGE}</NextContinuationToken>"
        for number, key in enumerate(keys[start : start + PAGE]):
            md5 = hashlib.md5(self.objects[key]).hexdigest()
            tag = f"{md5}-2" if number == 3 else md5  # an upload in parts: its ETag is not an MD5
            body += f"<Contents><Key>{escape(key)}</Key><ETag>&quot;{tag}&quot;</ETag><Size>{len(self.objects[key])}</Size></Contents>"
        return f"{body}</ListBucketResult>".encode()


def handler(bucket: Bucket) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            url = urlsplit(self.path)
            key, span = unquote(url.path).lstrip("/"), self.headers.get("Range")
            bucket.asked.append((key, span))
            if bucket.busy:
                bucket.busy -= 1
                return self.answer(503, b"<Error><Code>SlowDown</Code></Error>")
            if not key:
                return self.answer(200, bucket.listing or bucket.page(parse_qs(url.query)))
            if key not in bucket.objects:
                return self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
            data = bucket.objects[key]
            start = int(span.removeprefix("bytes=").rstrip("-")) if span else 0
            more = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if span else {}
            self.answer(
                206 if span else 200,
                data[start:],
                {"ETag": f'"{hashlib.md5(data).hexdigest()}"', **more},
                cut=key in bucket.cut,
            )

        def answer(self, status, body, more=(), cut=False):
            self.send_response(status)
            for name, value in dict(more).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if cut else body)
            if cut:
                self.close_connection = True
                bucket.cut.clear()

        def log_message(self, *_):
            pass

    return Handler


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("source") / "root"
    Cpjump1().simulate(root, 0, **SMALL)
    return root


@pytest.fixture
def server(source):
    """The simulated copy as bucket and repositories."""
    maps = source / "workspace/metadata/platemaps" / BATCH
    external = source / "workspace/metadata/external_metadata"
    objects = {
        f"{PREFIX}/{p.relative_to(source).as_posix()}": p.read_bytes()
        for p in source.rglob("*")
        if p.suffix in (".tiff", ".csv")
    }
    objects["pub/benchmark/output/experiment-metadata.tsv"] = (
        source / "experiment-metadata.tsv"
    ).read_bytes()
    objects[f"pub/metadata/platemaps/{BATCH}/barcode_platemap.csv"] = (
        maps / "barcode_platemap.csv"
    ).read_bytes()
    objects |= {
        f"target/{path.name}": path.read_bytes()
        for folder in (maps / "platemap", external)
        for path in folder.iterdir()
    }
    for kind in ("platemap", "metadata"):  # the copy has no ORF
        objects[f"target/JUMP-Target-1_orf_{kind}.tsv"] = objects[
            f"target/JUMP-Target-1_crispr_{kind}.tsv"
        ]
    bucket = Bucket(objects)
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler(bucket))
    threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
    base = f"http://127.0.0.1:{http.server_address[1]}"
    yield bucket, {"sources": Sources(base, PREFIX, f"{base}/target", f"{base}/pub")}
    http.shutdown()
    http.server_close()


@pytest.fixture
def quick() -> Fetcher:
    return Fetcher(Politeness(per_second=5000, attempts=3, backoff_s=0.001, timeout_s=5))


def planes(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*.tiff")}


def test_a_listing_is_read_to_its_last_page(server, quick):
    bucket, at = server
    found = list(list_bucket(at["sources"].bucket, f"{PREFIX}/images/", quick))
    images = sorted(key for key in bucket.objects if key.endswith(".tiff"))
    assert [entry.key for entry in found] == images and len(images) > 3 * PAGE
    assert all(entry.size == len(bucket.objects[entry.key]) for entry in found)
    assert {entry.md5 for entry in found} == {None} | {
        hashlib.md5(bucket.objects[e.key]).hexdigest() for e in found if e.md5
    }
    assert len([1 for key, _ in bucket.asked if key == ""]) == -(-len(images) // PAGE)


def test_a_whole_plate_is_a_root(server, source, quick, tmp_path):
    download(
        tmp_path, ("BR90000001", "BR90000002", "BR90000003"), sites=None, fetcher=quick, **server[1]
    )
    assert planes(tmp_path) == planes(source)
    pd.testing.assert_frame_equal(Cpjump1().samples(tmp_path), Cpjump1().samples(source))
    assert not answers_path(tmp_path).exists()


def test_only_what_is_asked_for_and_nothing_twice(server, source, quick, tmp_path):
    bucket, at = server
    wells = sorted(Cpjump1().samples(source).query("plate == @PLATE").well.unique())[:3]
    asked = {"channels": ("DNA", "RNA"), "wells": wells, "sites": (2,), "fetcher": quick, **at}
    download(tmp_path, (PLATE,), **asked)
    got = planes(tmp_path)
    assert len(got) == 2 * 3 and all(
        PLATE in name and "f02p01" in name and ("-ch5" in name or "-ch3" in name) for name in got
    )
    bucket.asked.clear()
    download(tmp_path, (PLATE,), **asked)
    assert {key for key, _ in bucket.asked} == {""}, "the listing alone"


def test_it_resumes_in_the_middle_of_a_plane_and_waits_where_the_server_is_busy(
    server, source, quick, tmp_path
):
    bucket, at = server
    key = sorted(key for key in bucket.objects if PLATE in key and "f01p01-ch3" in key)[0]
    # longer than what is written at once
    bucket.objects[key] = np.random.default_rng(0).bytes(1 << 20)
    bucket.busy, bucket.cut = 2, {key}
    download(tmp_path, (PLATE,), channels=("RNA",), fetcher=quick, **at)
    path = tmp_path / key.removeprefix(f"{PREFIX}/")
    assert path.read_bytes() == bucket.objects[key] and not list(tmp_path.rglob("*.part"))
    spans = [span for asked, span in bucket.asked if asked == key]
    assert spans == [None, f"bytes={len(bucket.objects[key]) // 2}-"]


def test_a_plane_that_is_not_what_was_listed_is_refused(server, quick, tmp_path):
    bucket, at = server
    key = sorted(key for key in bucket.objects if PLATE in key and "f01p01-ch3" in key)[0]
    listed = {
        entry.key: entry for entry in list_bucket(at["sources"].bucket, f"{PREFIX}/images/", quick)
    }
    key = next(k for k in sorted(listed) if PLATE in k and "f01p01-ch3" in k and listed[k].md5)
    bucket.listing = bucket.page({"prefix": [key]})
    bucket.objects[key] = b"\0" * len(bucket.objects[key])
    with pytest.raises(InputError, match=Path(key).name):
        download(tmp_path, (PLATE,), channels=("RNA",), fetcher=quick, **at)
    assert not planes(tmp_path)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"plates": ("BR1",)}, "404"),
        ({"channels": ("DAPI",)}, "unknown channel 'DAPI'; there are AGP, DNA, ER, Mito, RNA"),
        ({"wells": ("P24",)}, "has no plane of well 'P24'"),
        ({"sites": (7,)}, "has no plane of site 7"),
    ],
)
def test_what_the_bucket_does_not_have_is_named(server, quick, tmp_path, asked, words):
    with pytest.raises(InputError, match=words):
        download(tmp_path, **{"plates": (PLATE,), "fetcher": quick, **server[1], **asked})


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"<html>", "is not XML"),
        (b"<Error><Code>AccessDenied</Code></Error>", "is a Error, a ListBucketResult expected"),
        (f"{TAG}<IsTruncated>true</IsTruncated></ListBucketResult>".encode(), "names no next page"),
        (
            f"{TAG}<Contents><Key>a/../../b</Key><Size>1</Size></Contents></ListBucketResult>".encode(),
            "entry of the listing is damaged",
        ),
    ],
)
def test_answers_that_are_no_listing(server, quick, body, words):
    server[0].listing = body
    with pytest.raises(InputError, match=words):
        list(list_bucket(server[1]["sources"].bucket, PREFIX, quick))


def test_the_course_plate_is_joined_from_the_published_tables(server, source, quick, tmp_path):
    download_course(tmp_path, PLATE, fetcher=quick, **server[1])
    samples = Cpjump1Course().samples(tmp_path)
    theirs = Cpjump1().samples(source).query("plate == @PLATE").set_index("sample_id")
    assert set(samples.sample_id) == set(theirs.index) and "DMSO" in Cpjump1Course().classes(
        tmp_path
    )
    assert all(
        theirs["compound"][row.sample_id] == row.treatment and "-ch3" in row.files[0]
        for row in samples.itertuples()
    )

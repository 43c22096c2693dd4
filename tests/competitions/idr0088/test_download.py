"""The download of idr0088 against a server on this machine that answers in the shapes of OMERO.web
(paging, grid, annotations, image data, JPEGs).
"""

import http.server
import io
import json
import threading
import types
import zipfile
from collections import Counter
from urllib.parse import parse_qs, urlsplit

import cv2
import numpy as np
import pandas as pd
import pytest

from cellsignal.common.errors import InputError
from cellsignal.competitions.idr0088 import api
from cellsignal.competitions.idr0088 import download as module
from cellsignal.competitions.idr0088 import images as images_module
from cellsignal.competitions.idr0088.download import WINDOWS, download
from cellsignal.competitions.idr0088.metadata import COLUMNS, FILE
from cellsignal.fetch import Fetcher, Politeness
from cellsignal.images import read_png8

HEIGHT, WIDTH = 21, 25
LINE = "A549-ACTB-RAB5A"
PLATES = {"1013608248": 9001, "110000251230": 9002, "110000251231": 9003}
WELLS = {"B3": (1, 2), "B12": (1, 11), "L8": (11, 7)}  # address -> row and column from 0


def counts(image_id: int, channel: int) -> np.ndarray:
    """(H, W) uint16: what the microscope saw: a slope, so that the JPEG is near it."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return (200 * channel + 40 * (image_id % 10) + 60 * y + 45 * x).astype(np.uint16)


def seen(image_id: int, channel: int, window=None) -> np.ndarray:
    """(H, W) float: the plane between the ends of its window, 0 to 255."""
    low, high = window or WINDOWS[channel - 1]
    return np.clip((counts(image_id, channel).astype(float) - low) * 255 / (high - low), 0, 255)


def image_of(plate_id: int, well: str, field: int) -> int:
    return plate_id * 1000 + list(WELLS).index(well) * 10 + field


def table() -> bytes:
    rows = []
    for plate in PLATES:
        for well in WELLS:
            row = {
                "Plate": plate,
                "Well": well,
                "Comment [Cell Line with Markers]": LINE,
                "Control Type": "Negative Control",
            }
            told = {
                "Characteristics [Cell Line]": "A549",
                "Channels": "Ch1 (blue): Nuclei/Cytoplasm, Ch2 (green): ACTB, Ch3 (red): RAB5A",
            }
            rows.append(
                {
                    **dict.fromkeys(COLUMNS, ""),
                    **row,
                    **told,
                    "Compound Name": "DMSO",
                    "Plate Location": "run1/plate",
                }
            )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bundle:
        bundle.writestr(FILE.removesuffix(".zip"), pd.DataFrame(rows).to_csv(index=False))
    return buffer.getvalue()


class Idr:
    """`asked` counts paths; `broken[path]` is a list of (status, headers, body or cut) that come
    before the true answer.
    """

    page_limit = 2  # plates a page, whatever is asked

    def __init__(self):
        self.asked, self.queries, self.broken, self.line = Counter(), [], {}, LINE
        self.lock = threading.Lock()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # headers and body are two writes

            def do_GET(self):
                url = urlsplit(self.path)
                query = {key: values[0] for key, values in parse_qs(url.query).items()}
                with outer.lock:
                    outer.asked[url.path] += 1
                    outer.queries.append((url.path, query))
                    trouble = outer.broken.get(url.path, [])
                    status, headers, change = trouble.pop(0) if trouble else (200, {}, None)
                body = outer.answer(url.path, query)
                if body is None:
                    status, body = 404, b""
                sent = change(body) if callable(change) else body
                self.send_response(status)
                for name, value in {
                    "Content-Length": len(body if change is cut else sent),
                    **headers,
                }.items():
                    self.send_header(name, str(value))
                self.end_headers()
                self.wfile.write(sent)
                self.close_connection = change is cut

            def log_message(self, *args):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.http.handle_error = lambda *args: None  # lines that break are what is tested
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, path: str, query: dict[str, str]) -> bytes | None:
        parts = path.strip("/").split("/")
        if parts == ["table.zip"]:
            return table()
        if parts == ["api", "v0", "m", "screens", "2651", "plates"]:
            return self.plates(int(query.get("offset", 0)), int(query.get("limit", 200)))
        if parts[:2] == ["webgateway", "plate"]:
            return self.grid(int(parts[2]), int(parts[3]))
        if parts == ["webclient", "api", "annotations"] and query["type"] == "map":
            groups = [
                [["Organism", "Homo sapiens"]],
                [["Cell Line with Markers", self.line]],
                [["Compound Name", "a"], ["Compound Name", "b"]],
            ]
            said = [
                {"id": 1, "class": "MapAnnotationI", "ns": "x", "values": values}
                for values in groups
            ]
            return json.dumps({"annotations": said, "experimenters": []}).encode()
        if parts[:2] == ["webgateway", "imgData"]:
            size = {"width": WIDTH, "height": HEIGHT, "z": 1, "t": 1, "c": 3}
            channels = [
                {
                    "label": "ACTB",
                    "window": {"min": 0, "max": 65535, "start": 27, "end": 4319},
                    "active": True,
                }
            ] * 3
            return json.dumps(
                {
                    "id": int(parts[2]),
                    "size": size,
                    "meta": {"pixelsType": "uint16"},
                    "channels": channels,
                }
            ).encode()
        if parts[:2] == ["webgateway", "render_image"] and parts[3:] == ["0", "0"]:
            return self.rendered(int(parts[2]), query)
        if parts[:3] == ["webgateway", "render_ome_tiff", "i"]:
            import tifffile

            buffer = io.BytesIO()
            tifffile.imwrite(
                buffer,
                np.stack([counts(int(parts[3]), c) for c in (1, 2, 3)]),
                ome=True,
                metadata={"axes": "CYX"},
            )
            return buffer.getvalue()
        return None

    def plates(self, offset: int, limit: int) -> bytes:
        page = list(PLATES.items())[offset : offset + min(limit, self.page_limit)]
        kind = "http://www.openmicroscopy.org/Schemas/OME/2016-06#Plate"
        data = [
            {"@id": number, "@type": kind, "Name": name, "Rows": 16, "Columns": 24}
            for name, number in page
        ]
        return json.dumps(
            {
                "data": data,
                "meta": {
                    "offset": offset,
                    "limit": limit,
                    "maxLimit": 500,
                    "totalCount": len(PLATES),
                },
            }
        ).encode()

    def grid(self, plate_id: int, field: int) -> bytes:
        grid: list[list] = [[None] * 24 for _ in range(16)]
        for well, (row, column) in WELLS.items():
            if field < 2:
                image = image_of(plate_id, well, field + 1)
                cell = {
                    "type": "Image",
                    "id": image,
                    "name": f"{well} [Field {field + 1}]",
                    "wellId": image // 10,
                    "field": field,
                }
                grid[row][column] = {**cell, "thumb_url": f"/webgateway/render_thumbnail/{image}/"}
        return json.dumps(
            {"grid": grid, "rowlabels": list("ABCDEFGHIJKLMNOP"), "collabels": list(range(1, 25))}
        ).encode()

    def rendered(self, image_id: int, query: dict[str, str]) -> bytes:
        """As `_split_channel_info` of OMERO.web reads `c`: one active channel with its window, the
        others off.
        """
        assert query["m"] == "g" and 0 < float(query["q"]) <= 1
        active = [one for one in query["c"].split(",") if not one.startswith("-")]
        assert len(active) == 1 and len(query["c"].split(",")) == 3
        channel, rest = active[0].split("|")
        window, colour = rest.split("$")
        assert colour == "FFFFFF"
        plane = np.rint(seen(image_id, int(channel), tuple(map(float, window.split(":"))))).astype(
            np.uint8
        )
        return cv2.imencode(".jpg", cv2.merge([plane] * 3), [cv2.IMWRITE_JPEG_QUALITY, 100])[
            1
        ].tobytes()


def cut(body: bytes) -> bytes:
    """Half a body under the Content-Length of the whole: the line broke."""
    return body[: len(body) // 2]


@pytest.fixture
def idr():
    idr = Idr()
    yield idr
    idr.http.shutdown()
    idr.http.server_close()


@pytest.fixture
def fetch(idr, tmp_path):
    """`download` from that server into one folder, quickly."""

    def run(**more):
        with Fetcher(Politeness(10_000, attempts=3, backoff_s=0.001, timeout_s=5)) as fetcher:
            download(
                tmp_path,
                **{
                    "base": idr.url,
                    "annotation_url": idr.url + "/table.zip",
                    "fetcher": fetcher,
                    **more,
                },
            )
        return pd.read_csv(tmp_path / "images.csv", dtype=str)

    return run


def planes_asked(idr) -> int:
    return sum(n for path, n in idr.asked.items() if "/render_image/" in path)


def test_everything_arrives_once(idr, fetch, tmp_path):
    images = fetch(fields=(1, 2))
    assert list(images.columns) == [
        "plate",
        "well",
        "field",
        "image_id",
        "file_ch1",
        "file_ch2",
        "file_ch3",
    ]
    expected = [
        (p, w, str(f), str(image_of(PLATES[p], w, f)))
        for p in sorted(PLATES)
        for w in WELLS
        for f in (1, 2)
    ]
    # plates as text, wells by row and column
    assert list(images.iloc[:, :4].itertuples(index=False, name=None)) == expected
    assert images.file_ch2[0] == "images/1013608248/B3_f1_ch2.png"
    for row in images.itertuples():
        for channel in (1, 2, 3):
            plane = read_png8(tmp_path / row[4 + channel], (HEIGHT, WIDTH))
            # what a JPEG of this quality loses
            assert np.abs(plane - seen(int(row.image_id), channel)).max() <= 3, (row, channel)
    asked = sum(idr.asked.values())
    assert planes_asked(idr) == 3 * len(images)
    assert idr.asked["/api/v0/m/screens/2651/plates/"] == 2  # two pages
    # nothing is asked twice
    assert fetch(fields=(1, 2)).equals(images) and sum(idr.asked.values()) == asked
    assert (
        not [p for p in tmp_path.rglob("*") if p.name.endswith((".part", ".tmp", ".tag"))]
        and not (tmp_path / "failed.csv").exists()
    )


def test_a_choice_of_plates_wells_and_number(idr, fetch, tmp_path):
    images = fetch(plates=["110000251231"], wells=["L08", "1013608248_B3", "110000251231_b12"])
    assert images[["plate", "well"]].to_numpy().tolist() == [
        ["110000251231", "B12"],
        ["110000251231", "L8"],
    ]
    assert len(fetch(limit=1)) == 3  # one more, of the first plate; the others stay listed
    assert fetch(plates=["1013608248"], wells=["L8"], fields=[2]).field.tolist().count("2") == 1
    before = sum(idr.asked.values())
    for more, said in (
        ({"plates": ["7"]}, "has no plate '7'"),
        ({"wells": ["L0"]}, "'L0' is not a well address"),
        ({"wells": ["8L"]}, "'8L' is not a well address"),
        ({"wells": ["A1"], "plates": ["1013608248"]}, "no image of the chosen"),
        ({"fields": [0]}, "one below 1"),
        ({"size": 0}, "another way|below 1"),
        ({"size": 5}, "made in another way"),
        ({"raw": True}, "made in another way"),
        ({"windows": ((0, 1), (0, 1), (5, 5))}, "a lower and a higher"),
    ):
        with pytest.raises(InputError, match=said):
            fetch(**more)
    assert sum(idr.asked.values()) == before  # all told from what was known


def test_passing_troubles_pass(idr, fetch):
    image = image_of(9001, "B3", 1)
    plane = f"/webgateway/render_image/{image}/0/0/"
    idr.broken = {
        "/api/v0/m/screens/2651/plates/": [(503, {}, None), (503, {}, None)],
        "/webgateway/plate/9001/0/": [(429, {"Retry-After": "0"}, None), (200, {}, cut)],
        plane: [(200, {}, cut), (500, {}, None)],
    }
    assert len(fetch(plates=["1013608248"])) == 3
    assert (
        idr.asked["/api/v0/m/screens/2651/plates/"] == 4
        and idr.asked["/webgateway/plate/9001/0/"] == 3
    )
    assert idr.asked[plane] == 5  # three channels and two troubles


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda body: body[: len(body) // 2], "no whole JPEG came"),  # whole by HTTP's lights
        (lambda body: b"<html>Error</html>", "no whole JPEG came"),
        (
            lambda body: cv2.imencode(".jpg", np.zeros((5, 5), np.uint8))[1].tobytes(),
            f"5x5 pixels, {WIDTH}x{HEIGHT} expected",
        ),
    ],
    ids=["half", "html", "small"],
)
def test_an_image_that_cannot_be_had_is_listed_and_tried_again(idr, fetch, tmp_path, change, said):
    image = image_of(9001, "B12", 1)
    idr.broken = {f"/webgateway/render_image/{image}/0/0/": [(200, {}, change)] * 3}
    with pytest.raises(InputError, match=r"failed\.csv: lists 1 images"):
        fetch(plates=["1013608248"])
    failed = pd.read_csv(tmp_path / "failed.csv", dtype=str)
    assert failed.iloc[0, :4].tolist() == ["1013608248", "B12", "1", str(image)]
    assert (
        said in failed.reason[0]
        and f"{idr.url}/webgateway/render_image/{image}/" in failed.reason[0]
    )
    assert pd.read_csv(tmp_path / "images.csv").well.tolist() == ["B3", "L8"]
    idr.broken = {}  # how many of the three planes were asked for depends on the threads
    before = planes_asked(idr)
    assert fetch(plates=["1013608248"]).well.tolist() == ["B3", "B12", "L8"]
    assert planes_asked(idr) == before + 3 and not (tmp_path / "failed.csv").exists()


def test_many_failures_in_a_row_end_it(idr, fetch, monkeypatch):
    monkeypatch.setattr(module, "FAILURES", 2)
    idr.rendered = lambda image_id, query: None  # 404
    with pytest.raises(InputError, match=r"2 images in a row failed, the last so: .* answers 404"):
        fetch()
    assert planes_asked(idr) <= 6


def test_damaged_files_are_fetched_again_and_no_others(idr, fetch, tmp_path):
    images = fetch()
    before = planes_asked(idr)
    short, gone = tmp_path / images.file_ch1[0], tmp_path / images.file_ch3[4]
    whole = short.read_bytes()
    short.write_bytes(whole[:-20])
    gone.unlink()
    assert fetch().equals(images)
    assert planes_asked(idr) == before + 2 and short.read_bytes() == whole and gone.is_file()


def test_stopped_and_started_again(idr, fetch, tmp_path, monkeypatch):
    """Ctrl-C in the middle of a plate: what is there is listed, and the next call asks only for the
    rest.
    """
    true, calls = images_module.write_png, []

    def stop(path, plane):
        calls.append(path)
        if len(calls) == 5:
            raise KeyboardInterrupt
        true(path, plane)

    monkeypatch.setattr(images_module, "write_png", stop)
    with pytest.raises(KeyboardInterrupt):
        fetch()
    listed = pd.read_csv(tmp_path / "images.csv")
    assert listed.well.tolist() == ["B3"]
    monkeypatch.setattr(images_module, "write_png", true)
    there = len(list(tmp_path.rglob("*.png")))
    before = planes_asked(idr)
    assert len(fetch()) == 9
    assert planes_asked(idr) - before == 27 - there and there >= 3


def test_raw_planes_keep_all_but_rounding(idr, fetch, tmp_path):
    windows = ((100.0, 2900.0), (150.0, 3000.0), (600.0, 2800.0))
    images = fetch(raw=True, windows=windows, limit=2)
    for row in images.itertuples():
        for channel in (1, 2, 3):
            plane = read_png8(tmp_path / row[4 + channel], (HEIGHT, WIDTH))
            assert (
                np.abs(plane - seen(int(row.image_id), channel, windows[channel - 1])).max()
                <= 0.501
            )
    assert planes_asked(idr) == 0
    assert json.loads((tmp_path / "windows.json").read_text()) == {
        "windows": {f"ch{c}": list(window) for c, window in enumerate(windows, 1)},
        "longer_side": None,
        "planes": "16-bit OME-TIFF",
    }


def test_a_server_that_exports_no_tiff_says_so(idr, fetch):
    true = idr.answer
    idr.answer = lambda path, query: None if "ome_tiff" in path else true(path, query)
    with pytest.raises(InputError, match=r"lists 1 images"):
        fetch(raw=True, limit=1)


def test_planes_are_reduced_by_area(idr, fetch, tmp_path):
    images = fetch(raw=True, size=5, limit=1)
    plane = read_png8(tmp_path / images.file_ch1[0])
    assert plane.shape == (4, 5)  # 21x25: the longer side is 5
    exact = seen(int(images.image_id[0]), 1)
    assert plane[:, 2].mean() == pytest.approx(exact[:, 10:15].mean(), abs=1)


def test_a_plate_of_other_cells_is_refused(idr, fetch):
    idr.line = "HepG2-ACTB-RAB5A"
    with pytest.raises(
        InputError,
        match="plate 1013608248: IDR says its cells are 'HepG2-ACTB-RAB5A', the annotation table 'A549-ACTB-RAB5A'",
    ):
        fetch()
    assert planes_asked(idr) == 0


# ---- the API alone


@pytest.fixture
def session(idr, tmp_path):
    with Fetcher(Politeness(10_000, attempts=2, backoff_s=0.001)) as fetcher:
        yield api.Idr(fetcher, tmp_path / "cache", idr.url)


def test_the_api_reads_what_omero_web_writes(idr, session):
    assert api.Idr.list_plates(session) == PLATES
    images = api.Idr.list_images(session, 9002, 2)
    assert {well: image.id for well, image in images.items()} == {
        well: image_of(9002, well, 2) for well in WELLS
    }
    assert api.Idr.list_images(session, 9002, 3) == {}
    assert api.Idr.read_annotations(session, 5) == {
        "Organism": "Homo sapiens",
        "Cell Line with Markers": LINE,
        "Compound Name": "a; b",
    }
    info = api.Idr.read_image_info(session, 17)
    assert (info.size.width, info.size.height, info.size.channels, info.meta.type) == (
        WIDTH,
        HEIGHT,
        3,
        "uint16",
    )
    api.Idr.fetch_rendered_plane(session, 17, 2, 3, (1.5, 6193), (HEIGHT, WIDTH))
    assert idr.queries[-1] == (
        "/webgateway/render_image/17/0/0/",
        {"c": "2|1.5:6193$FFFFFF,-1,-3", "m": "g", "q": "1.0"},
    )


@pytest.mark.parametrize(
    "ask, path, body, said",
    [
        (
            api.Idr.list_plates,
            "/api/v0/m/screens/2651/plates/",
            {"message": "Forbidden"},
            "data: Field required",
        ),
        (
            api.Idr.list_plates,
            "/api/v0/m/screens/2651/plates/",
            {"data": [{"@id": "x", "Name": "n"}], "meta": {"totalCount": 1}},
            r"data.0.@id",
        ),
        (
            api.Idr.list_plates,
            "/api/v0/m/screens/2651/plates/",
            {"data": [], "meta": {"totalCount": 9}},
            "end after 0 of 9",
        ),
        (api.Idr.list_plates, "/api/v0/m/screens/2651/plates/", [], "the answer: Input should be"),
        (
            lambda s: api.Idr.list_images(s, 1, 1),
            "/webgateway/plate/1/0/",
            {"grid": [[]], "rowlabels": ["A"], "collabels": [1]},
            "labels",
        ),
        (
            lambda s: api.Idr.list_images(s, 1, 1),
            "/webgateway/plate/1/0/",
            {"grid": [[{"id": 5}]], "rowlabels": ["A"], "collabels": [1]},
            "grid.0.0.wellId",
        ),
        (
            lambda s: api.Idr.read_image_info(s, 3),
            "/webgateway/imgData/3/",
            {"Exception": "no pixels"},
            "size: Field required",
        ),
        (
            lambda s: api.Idr.read_annotations(s, 3),
            "/webclient/api/annotations/",
            {"annotations": [{"values": "text"}]},
            "annotations.0.values",
        ),
    ],
)
def test_an_answer_of_another_shape_names_url_and_key_and_is_not_kept(
    idr, session, ask, path, body, said
):
    true = idr.answer
    idr.answer = lambda asked, query: (
        json.dumps(body).encode() if asked == path else true(asked, query)
    )
    with pytest.raises(InputError, match=said) as caught:
        ask(session)
    assert f"{idr.url}{path}" in str(caught.value) and "\n" not in str(caught.value)
    idr.answer = true
    if path != "/webgateway/plate/1/0/":
        ask(session)


def test_a_damaged_cache_is_asked_anew(idr, session):
    api.Idr.read_image_info(session, 3)
    kept = next(session.cache.rglob("image_3.json"))
    for damage in ("", "{", '{"size": {}}'):
        kept.write_text(damage)
        assert api.Idr.read_image_info(session, 3).size.width == WIDTH
    assert idr.asked["/webgateway/imgData/3/"] == 4
    assert types.SimpleNamespace(**json.loads(kept.read_text())).id == 3

"""A URL stays a URL; a path stays a path; no password is written anywhere."""

import pickle
from pathlib import Path

import pytest

from cellsignal.common.errors import InputError
from cellsignal.common.places import RemoteFolder, as_place, local_folder, refuse_urls


@pytest.mark.parametrize(
    "url",
    ["s3://bucket/a/rxrx1.zarr", "https://host:8000/rxrx1.zarr", "memory://store", "S3://b/x"],
)
def test_a_url_survives(url):
    place = as_place(url + "/")
    assert isinstance(place, RemoteFolder) and str(place) == url == f"{place}"
    assert str(place / "store.json") == url + "/store.json"
    assert place.name == url.rpartition("/")[2] and place.protocol == url.partition(":")[0].lower()
    assert pickle.loads(pickle.dumps(place)) == place == as_place(place)
    with pytest.raises(TypeError):
        Path(place)


@pytest.mark.parametrize("path", ["stores/a.zarr", "/abs/a.zarr", "a:b/c", "./s3:/x", "C:/x"])
def test_a_path_stays_a_path(path):
    assert as_place(path) == Path(path)
    assert local_folder(as_place(path)) == Path(path)


def test_a_file_url_is_a_path():
    assert as_place("file:///data/x.zarr") == Path("/data/x.zarr")


@pytest.mark.parametrize("url", ["https://me:secret@host/x.zarr", "s3://secret:more@b/x"])
def test_a_password_in_a_url_is_refused_and_not_repeated(url):
    with pytest.raises(InputError, match="no user or password in a URL") as caught:
        as_place(url)
    assert "secret" not in str(caught.value) and "more" not in str(caught.value).partition(":")[0]


@pytest.mark.parametrize("url", ["https://h/x.zarr?sig=secret", "https://h/x.zarr#secret"])
def test_a_signed_url_is_refused_and_its_signature_not_repeated(url):
    with pytest.raises(InputError, match=r"https://h/x\.zarr: ") as caught:
        as_place(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "command"),
    [
        ("s3://b/a/x.zarr", "aws s3 sync stores/x.zarr s3://b/a/x.zarr"),
        ("gs://b/x.zarr", "gcloud storage rsync -r stores/x.zarr gs://b/x.zarr"),
        ("https://h/x.zarr", "rclone copy stores/x.zarr"),
        ("az://c/x.zarr", "azcopy sync stores/x.zarr"),
    ],
)
def test_packing_into_a_url_is_refused_with_the_command_that_copies(url, command):
    with pytest.raises(InputError, match="read only") as caught:
        local_folder(as_place(url))
    assert command in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("given", ["s3://b/x", "https://h/x/y", "file:///a/x", "gs://b"])
def test_a_url_is_no_local_path(given):
    for value in (Path(given), [Path("a"), Path(given)]):
        with pytest.raises(InputError, match=f"^shard-out {given}: takes a local path"):
            refuse_urls({"plain": given, "shard_out": value})


def test_local_paths_are_no_urls():
    given = [Path("a/b"), Path("/s3:/b"), Path("a:b/c"), Path("C:/x"), Path("./x:/y")]
    refuse_urls({"out": Path("x"), "inputs": given, "number": 3, "none": None})

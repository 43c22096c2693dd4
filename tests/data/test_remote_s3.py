"""Stores in a bucket of moto's S3 server on this machine, through s3fs: the calls that a run makes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from remote_store import check_forks, pack_in_bands, read_in_bands
from tiny_store import set_band

from cellsignal.common.errors import InputError
from cellsignal.common.places import RemoteFolder
from cellsignal.config.augment import RandomCrop
from cellsignal.data.dataset import SiteDataset
from cellsignal.data.draws import Recipe
from cellsignal.data.feed import feed
from cellsignal.data.sharding import write_shards
from cellsignal.data.store import Store, has_store

moto = pytest.importorskip("moto.server")
boto3 = pytest.importorskip("boto3")
pytest.importorskip("s3fs")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module", params=["zstd", "raw", "shards"])
def bucket(request, tmp_path_factory):
    """(images, local folder) of a store that is also s3://plates/<kind>.zarr; the environment
    says where the server is.
    """
    folder, name = tmp_path_factory.mktemp("s3"), f"{request.param}.zarr"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        if request.param == "shards":
            images = pack_in_bands(folder, "zstd", "site.zarr")
            set_band(patch, 4)
            write_shards(folder / "site.zarr", folder / name, 3e-3)
        else:
            images = pack_in_bands(folder, request.param, name)
        server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
        server.start()
        host, port = server.get_host_and_port()
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        client = boto3.client("s3")
        client.create_bucket(Bucket="plates")
        for file in (folder / name).rglob("*"):
            if file.is_file():
                key = f"{name}/{file.relative_to(folder / name)}"
                client.put_object(Bucket="plates", Key=key, Body=file.read_bytes())
        yield images, folder / name
        server.stop()


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    read_in_bands(monkeypatch, tmp_path / "cache", 0.01)


@pytest.fixture
def calls(monkeypatch):
    """(key, range) of each GetObject that s3fs makes, and names of any other call."""
    import s3fs

    seen, whole = [], s3fs.S3FileSystem._call_s3

    async def counted(self, method, *args, **more):
        name = Path(more["Key"]).name if method == "get_object" else method
        seen.append((name, more.get("Range")))
        return await whole(self, method, *args, **more)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", counted)
    return seen


def place(local: Path, cache_gib=0.0):
    return RemoteFolder(f"s3://plates/{local.name}", cache_gib, 8)


def file_of(local: Path, row: int) -> tuple[str, int, int]:
    """(file, offset, length) of a site in the store's folder."""
    if (shards := Store.open(local).shards) is not None:
        return shards.place(row)
    return f"images/c.{row}.0.0.0", 0, (local / f"images/c.{row}.0.0.0").stat().st_size


def range_of(local: Path, row: int) -> tuple[str, str]:
    """(name, range) of the request for a whole site."""
    file, start, length = file_of(local, row)
    end = "" if file.startswith("images/") else start + length - 1
    return Path(file).name, f"bytes={start}-{end}"


def test_pixels_are_those_of_the_local_store_for_one_call_a_site(bucket, calls):
    images, local = bucket
    store = Store.open(place(local))
    assert store.content_hash == Store.open(local).content_hash
    assert has_store(place(local))
    calls.clear()
    for row in range(12):
        np.testing.assert_array_equal(store.read(row), images[row])
    assert calls == [range_of(local, row) for row in range(12)]
    calls.clear()
    np.testing.assert_array_equal(store.read(3, rows=(5, 7))[:, 5:7], images[3][:, 5:7])
    ((name, asked),) = calls
    first, last = map(int, asked.removeprefix("bytes=").split("-"))
    file, start, length = file_of(local, 3)
    assert name == Path(file).name and start <= first < last < start + length
    assert last - first + 1 < length


def test_the_cache_serves_what_was_fetched(bucket, calls):
    images, local = bucket
    for _ in range(2):
        store = Store.open(place(local, cache_gib=1.0))
        np.testing.assert_array_equal(store.read(6), images[6])
    assert [call for call in calls if call[0] == range_of(local, 6)[0]] == [range_of(local, 6)]


def test_batches_are_those_of_the_local_store(bucket):
    _, local = bucket
    recipe = Recipe((RandomCrop(name="random_crop", size=9),), 3, (16, 20))
    keys = [[(0, int(i)) for i in part] for part in np.arange(12).reshape(3, 4)]
    got = []
    for store in (Store.open(local), Store.open(place(local))):
        ones = np.ones((12, 3))
        dataset = SiteDataset(store, np.arange(12), ones, ones, recipe, 5)
        batches = feed(dataset, keys, 2, torch.device("cpu"))
        got.append(torch.cat([batch.images.clone() for batch in batches]))
    assert torch.equal(*got)


def test_forked_processes_open_their_own_connections(bucket):
    images, local = bucket
    check_forks(Store.open(place(local)), images, (1, 2))


def test_failures_are_one_line(bucket, monkeypatch, calls):
    _, local = bucket
    store = Store.open(place(local))
    with pytest.raises(InputError, match=r"s3://nobucket/x\.zarr: there is no store"):
        Store.open(RemoteFolder("s3://nobucket/x.zarr"))
    with pytest.raises(InputError, match=r"s3://plates/x\.zarr: there is no store"):
        Store.open(RemoteFolder("s3://plates/x.zarr"))
    client = boto3.client("s3")
    file, start, length = file_of(local, 5)
    key, data = f"{local.name}/{file}", (local / file).read_bytes()
    client.delete_object(Bucket="plates", Key=key)
    calls.clear()
    with pytest.raises(InputError, match="row 5 holds no image"):
        store.read(5)
    assert len(calls) == 1
    client.put_object(Bucket="plates", Key=key, Body=data[: start + length // 2])
    with pytest.raises(InputError, match=rf"s3://plates/{key}: row 5 is damaged"):
        store.read(5)
    client.put_object(Bucket="plates", Key=key, Body=data)
    store.read(5)


@pytest.mark.parametrize(
    ("code", "status", "times"),
    [("AccessDenied", 403, 1), ("InvalidAccessKeyId", 403, 1), ("SlowDown", 503, 8)],
)
def test_what_the_server_refuses(bucket, monkeypatch, code, status, times):
    import s3fs
    from botocore.exceptions import ClientError

    _, local = bucket
    store, count = Store.open(place(local)), []

    async def refused(self, method, *args, **more):
        count.append(method)
        answer = {"Error": {"Code": code, "Message": "as told"}}
        answer["ResponseMetadata"] = {"HTTPStatusCode": status}
        raise s3fs.core.translate_boto_error(ClientError(answer, "GetObject"))

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", refused)
    what = "no access" if status == 403 else "failed 8 times; the last time: "
    with pytest.raises(InputError, match=rf"s3://plates/{local.name}/.*: row 4: {what}.*as told"):
        store.read(4)
    assert len(count) == times


def test_without_credentials_the_line_says_what_to_set(bucket, monkeypatch, tmp_path):
    _, local = bucket
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    with pytest.raises(InputError, match=r"no credentials .*AWS_PROFILE") as caught:
        Store.open(place(local))
    assert "\n" not in str(caught.value)


def test_no_server_is_given_up(bucket, monkeypatch):
    _, local = bucket
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"store\.json: failed 8 times; the last time: "):
        Store.open(place(local))

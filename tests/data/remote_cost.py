"""Measure what reading a site costs the reader's CPU: local, over HTTP, from S3, from the cache.

    PYTHONPATH=src python tests/data/remote_cost.py      # needs the extra `remote` and moto[server]

Servers are other processes, so their CPU does not count; waiting does not, either.
"""

import logging
import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from range_server import RangeServer
from tiny_store import TinyCompetition, tiny_samples

from cellsignal.common.places import Place, RemoteFolder
from cellsignal.data.pack import prepare
from cellsignal.data.store import Store
from cellsignal.data.store_files import samples_text

WEB_PORT, S3_PORT = 18767, 18766
READS = 192


class Large(TinyCompetition):
    image_shape = (512, 512)


def make_store(folder: Path) -> Path:
    """Pack 24 sites of smooth noise, 3 x 512 x 512: 479 kB each, as RxRx1's six channels are."""
    samples, rng = tiny_samples(12), np.random.default_rng(0)
    (folder / "raw/images").mkdir(parents=True)
    for name in (name for files in samples.files for name in files):
        image = cv2.GaussianBlur(rng.normal(size=(512, 512)), (0, 0), 4)
        image = 60 + 20 * image / image.std() + rng.normal(size=image.shape, scale=2.5)
        cv2.imwrite(str(folder / "raw" / name), image.clip(0, 255).astype(np.uint8))
    (folder / "raw/samples.csv").write_text(samples_text(samples))
    prepare(Large(), folder / "raw", folder / "x.zarr", codec="zstd")
    return folder / "x.zarr"


def serve_web(folder: Path) -> None:
    RangeServer(folder, WEB_PORT).serve_forever()


def serve_s3() -> None:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    ThreadedMotoServer(ip_address="127.0.0.1", port=S3_PORT).start()
    time.sleep(3600)


def upload(store: Path) -> None:
    import boto3

    client = boto3.client("s3")
    client.create_bucket(Bucket="bench")
    for file in (file for file in store.rglob("*") if file.is_file()):
        key = str(file.relative_to(store.parent))
        client.put_object(Bucket="bench", Key=key, Body=file.read_bytes())


def cpu_of_a_site(place: Place, rows: tuple[int, int] | None) -> float:
    """Return milliseconds of this process's CPU, 8 threads, after a first reading of all sites."""
    store = Store.open(place)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda row: store.read(row % 24, rows=rows), range(24)))
        start = time.process_time()
        list(pool.map(lambda row: store.read(row % 24, rows=rows), range(READS)))
        return 1000 * (time.process_time() - start) / READS


def main() -> None:
    os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    os.environ |= {"AWS_DEFAULT_REGION": "us-east-1"}
    os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{S3_PORT}"
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CELLSIGNAL_CACHE"] = f"{folder}/cache"
        store, context = make_store(Path(folder)), multiprocessing.get_context("spawn")
        jobs = ((serve_web, (Path(folder),)), (serve_s3, ()))
        servers = [context.Process(target=job, args=args, daemon=True) for job, args in jobs]
        for server in servers:
            server.start()
        time.sleep(10)
        upload(store)
        web = f"http://127.0.0.1:{WEB_PORT}/x.zarr"
        print("| read | whole site, ms CPU | half of its rows, ms CPU |\n|---|---|---|")
        for name, place in {
            "local store": store,
            "HTTP": RemoteFolder(web, 0.0),
            "S3 (s3fs)": RemoteFolder("s3://bench/x.zarr", 0.0),
            "local cache": RemoteFolder(web, 1.0),
        }.items():
            figures = [cpu_of_a_site(place, rows) for rows in (None, (10, 200))]
            print(f"| {name} | {figures[0]:.2f} | {figures[1]:.2f} |", flush=True)
        for server in servers:
            server.terminate()


if __name__ == "__main__":
    main()

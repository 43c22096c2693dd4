"""Fetch chosen planes of CPJUMP1 from the public bucket, anonymously over HTTPS.

The bucket is listed by S3's ListObjectsV2 (XML, 1,000 keys a page). A plane counts as there when
its size is right and, if the listing's ETag is an MD5 (uploads in one part), its checksum. Run a
broken download again to resume it. The tables come from the publication's and JUMP-Target's
repositories and from the bucket.

More than the default: `download(out, plates=["BR00116991", "BR00116992"], sites=range(1, 10))`. A
plate has 384 wells, 9 fields (some 16) and 5 channels: 17,280 planes of up to 2.33 MB.
"""

import logging
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pandas as pd
from tqdm import tqdm

from cellsignal.common.errors import InputError
from cellsignal.common.files import write_csv
from cellsignal.common.tables import normalise_wells, read_table
from cellsignal.competitions.cpjump1.metadata import (
    CHANNEL_NUMBERS,
    CHANNELS,
    EXPERIMENTS,
    EXTERNAL,
    LOAD_DATA,
    PLATEMAPS,
    keys_of,
    read_layout,
    wells_of,
)
from cellsignal.fetch import Fetcher, Politeness

log = logging.getLogger(__name__)

BATCH, PLATE, SITES = "2020_11_04_CPJUMP1", "BR00116991", (1,)
MAPS = tuple(f"JUMP-Target-1_{modality}" for modality in ("compound", "crispr", "orf"))
_THREADS = 8
_POLITE = Politeness(per_second=20.0)  # S3 slows down at thousands a second


@dataclass(frozen=True)
class Sources:
    """Base URLs, without a slash at the end."""

    bucket: str = "https://cellpainting-gallery.s3.amazonaws.com"
    prefix: str = "cpg0000-jump-pilot/source_4"
    target: str = "https://raw.githubusercontent.com/jump-cellpainting/JUMP-Target/master"
    publication: str = (
        "https://raw.githubusercontent.com/jump-cellpainting/2024_Chandrasekaran_NatureMethods/main"
    )

    def url(self, key: str) -> str:
        return f"{self.bucket}/{quote(key)}"


@dataclass(frozen=True)
class BucketObject:
    """An object of the bucket. `md5` is None for uploads in several parts."""

    key: str
    size: int
    md5: str | None


def download(
    out: Path,
    plates: Sequence[str] = (PLATE,),
    channels: Collection[str] = CHANNELS,
    wells: Collection[str] | None = None,
    sites: Collection[int] | None = SITES,
    *,
    batch: str = BATCH,
    sources: Sources | None = None,
    fetcher: Fetcher | None = None,
) -> None:
    """Fetch the tables and chosen planes into `out`, laid out as in the bucket.

    Args:
        plates: barcodes.
        channels: of `metadata.CHANNELS`; a field is usable with all of them.
        wells: addresses (`B02`); None for all.
        sites: field numbers; None for all.

    Raises:
        InputError: an unknown channel, a plate or plane that the bucket does not have, no
            connection, a wrong checksum, a full disk.
    """
    sources = sources or Sources()
    with fetcher or Fetcher(_POLITE) as session:
        _fetch_tables(out, plates, batch, sources, session)
        for plate in plates:
            planes = _list_planes(plate, channels, wells, sites, batch, sources, session)
            _fetch_planes(
                planes,
                lambda key: out / key.removeprefix(f"{sources.prefix}/"),
                plate,
                sources,
                session,
            )


def download_course(
    out: Path,
    plate: str = PLATE,
    wells: Collection[str] | None = None,
    *,
    batch: str = BATCH,
    sources: Sources | None = None,
    fetcher: Fetcher | None = None,
) -> None:
    """Fetch the course's RNA planes into `out/images`, and make `out/metadata.csv` of the tables.

    Raises:
        InputError: as `download`.
    """
    sources = sources or Sources()
    tables = out / ".tables"
    with fetcher or Fetcher(_POLITE) as session:
        _fetch_tables(tables, (plate,), batch, sources, session)
        planes = _list_planes(plate, ("RNA",), wells, None, batch, sources, session)
        _fetch_planes(
            planes, lambda key: out / "images" / key.rpartition("/")[2], plate, sources, session
        )
    columns = ("FileName_OrigRNA", "Metadata_Well", "Metadata_Plate")
    rows = read_table(tables / LOAD_DATA / batch / plate / "load_data.csv", columns)
    rows["Metadata_Well"] = normalise_wells(rows.Metadata_Well)
    layout = read_layout(tables, batch, f"{MAPS[0]}_platemap", "compound")
    rows["Metadata_pert_iname"] = rows.Metadata_Well.map(layout.set_index("well")["compound"])
    lacking = rows.Metadata_Well[rows.Metadata_pert_iname.isna()]
    if len(lacking):
        raise InputError(f"{tables}: the platemap lacks the well {lacking.iloc[0]}")
    columns = ["FileName_OrigRNA", "Metadata_pert_iname", "Metadata_Well", "Metadata_Plate"]
    write_csv(out / "metadata.csv", rows[columns])


def _fetch_tables(
    out: Path, plates: Sequence[str], batch: str, sources: Sources, fetcher: Fetcher
) -> None:
    """Fetch the tables that are not there yet."""
    platemap = f"{batch}/barcode_platemap.csv"
    url_of = {
        EXPERIMENTS: f"{sources.publication}/benchmark/output/experiment-metadata.tsv",
        f"{PLATEMAPS}/{platemap}": f"{sources.publication}/metadata/platemaps/{platemap}",
    }
    for name in MAPS:
        path = f"{PLATEMAPS}/{batch}/platemap/{name}_platemap.tsv"
        url_of[path] = f"{sources.target}/{name}_platemap.tsv"
        url_of[f"{EXTERNAL}/{name}_metadata.tsv"] = f"{sources.target}/{name}_metadata.tsv"
    for plate in plates:
        path = f"{LOAD_DATA}/{batch}/{plate}/load_data.csv"
        url_of[path] = sources.url(f"{sources.prefix}/{path}")
    for path, url in url_of.items():
        if not (out / path).is_file():
            fetcher.file(url, out / path)


def _list_planes(
    plate: str,
    channels: Collection[str],
    wells: Collection[str] | None,
    sites: Collection[int] | None,
    batch: str,
    sources: Sources,
    fetcher: Fetcher,
) -> list[BucketObject]:
    """List the chosen planes of a plate, by key.

    Raises:
        InputError: an unknown channel, no such plate, or a well, site or channel without a plane.
    """
    unknown = sorted(set(channels) - set(CHANNEL_NUMBERS))
    if unknown:
        names = ", ".join(CHANNELS)
        raise InputError(f"cpjump1: unknown channel {unknown[0]!r}; there are {names}")
    prefix = f"{sources.prefix}/images/{batch}/images/{plate}__"
    objects = {item.key: item for item in list_bucket(sources.bucket, prefix, fetcher)}
    keys = pd.Series(sorted(key for key in objects if "/Images/" in key), dtype=str)
    names = keys.str.rpartition("/")[2] if len(keys) else keys
    channel = names.str.extract(r"-ch(\d)sk", expand=False)
    table = pd.DataFrame({"object": keys, "key": keys_of(names), "channel": channel}).dropna()
    url = f"{sources.bucket}/{prefix}"
    if table.empty:
        raise InputError(f"{url}: the bucket has no image of plate {plate} in batch {batch}")
    table["well"] = wells_of(table.key)
    table["site"] = table.key.str[7:9].astype(int)
    table["channel"] = table.channel.astype(int)
    numbers = [CHANNEL_NUMBERS[channel] for channel in channels]
    table = table[table.channel.isin(numbers)]
    for column, chosen in {"well": wells, "site": sites, "channel": numbers}.items():
        if chosen is None:
            continue
        missing = sorted(set(chosen) - set(table[column]))
        if missing:
            raise InputError(f"{url}: plate {plate} has no plane of {column} {missing[0]!r}")
        table = table[table[column].isin(set(chosen))]
    return [objects[key] for key in table.object]


def list_bucket(bucket: str, prefix: str, fetcher: Fetcher) -> Iterator[BucketObject]:
    """List every object whose key starts with `prefix`, page after page (S3 ListObjectsV2).

    Raises:
        InputError: no connection, or an answer that is not a listing.
    """
    params = {"list-type": 2, "prefix": prefix}
    while True:
        body = fetcher.bytes(f"{bucket}/", params)
        objects, token = _parse_listing(body, f"{bucket}/?prefix={prefix}")
        yield from objects
        if token is None:
            return
        params["continuation-token"] = token


def _parse_listing(body: bytes, url: str) -> tuple[list[BucketObject], str | None]:
    """Return the objects of a page, and the token of the next one."""
    try:
        tree = ElementTree.fromstring(body)
    except ElementTree.ParseError as error:
        raise InputError(f"{url}: the answer is not XML ({error})") from None
    namespace = tree.tag.removesuffix("ListBucketResult")
    if namespace == tree.tag:
        raise InputError(f"{url}: the answer is a {tree.tag}, a ListBucketResult expected")
    objects = []
    for entry in tree.iter(f"{namespace}Contents"):
        key, size, tag = (
            entry.findtext(f"{namespace}{name}", "") for name in ("Key", "Size", "ETag")
        )
        if not key or not size.isdigit() or ".." in key.split("/"):
            values = f"key {key!r}, size {size!r}"
            raise InputError(f"{url}: an entry of the listing is damaged: {values}")
        tag = tag.strip('"')
        is_md5 = len(tag) == 32 and "-" not in tag
        objects.append(BucketObject(key, int(size), tag if is_md5 else None))
    token = tree.findtext(f"{namespace}NextContinuationToken")
    if tree.findtext(f"{namespace}IsTruncated") == "true" and not token:
        raise InputError(f"{url}: the listing is cut short and names no next page")
    return objects, token or None


def _fetch_planes(
    planes: list[BucketObject],
    path_of: Callable[[str], Path],
    plate: str,
    sources: Sources,
    fetcher: Fetcher,
) -> None:
    def fetch(plane: BucketObject) -> None:
        url, path = sources.url(plane.key), path_of(plane.key)
        fetcher.file(url, path, size=plane.size, md5=plane.md5)

    bar = tqdm(total=len(planes), desc=plate, unit="plane", disable=None)
    with ThreadPoolExecutor(_THREADS) as pool, bar:
        try:
            for _ in pool.map(fetch, planes):
                bar.update()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    gigabytes = sum(plane.size for plane in planes) / 1e9
    log.info("%s: %d planes, %.1f GB", plate, len(planes), gigabytes)

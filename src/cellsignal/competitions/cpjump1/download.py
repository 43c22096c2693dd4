"""Fetching CPJUMP1 by plate from the public bucket, anonymously over HTTPS, and only the planes
that are asked for.

The bucket is listed by S3's own ListObjectsV2 (XML, 1,000 keys a page). A plane is there when its
size is right and, where the listing's ETag is an MD5 (uploads in one part), its checksum; a broken
run is simply run again. Tables come from the publication's and JUMP-Target's repositories and the
bucket.

For more than the default: `download(out, plates=["BR00116991", "BR00116992"], wells=None,
sites=range(1, 10))`. A plate has 384 wells, 9 fields (some 16) and 5 channels: 17,280 planes of up
to 2.33 MB.
"""

import logging
import xml.etree.ElementTree as ElementTree
from collections.abc import Collection, Iterator, Sequence
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
    """Where things come from: base URLs, without a slash at the end."""

    bucket: str = "https://cellpainting-gallery.s3.amazonaws.com"
    prefix: str = "cpg0000-jump-pilot/source_4"
    target: str = "https://raw.githubusercontent.com/jump-cellpainting/JUMP-Target/master"
    publication: str = (
        "https://raw.githubusercontent.com/jump-cellpainting/2024_Chandrasekaran_NatureMethods/main"
    )


@dataclass(frozen=True)
class Listed:
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
    """Fetch the tables and some planes of some plates into `out`, laid out as in the bucket. Safe
    to call again after any interruption.

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
        download_metadata(out, plates, batch=batch, sources=sources, fetcher=session)
        for plate in plates:
            planes = list_planes(
                plate, channels, wells, sites, batch=batch, sources=sources, fetcher=session
            )
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
    """The course project's data set: RNA planes of one plate in `out/images`, and
    `out/metadata.csv` joined from the published tables.

    Raises:
        InputError: as `download`.
    """
    sources = sources or Sources()
    tables = out / ".tables"
    with fetcher or Fetcher(_POLITE) as session:
        download_metadata(tables, (plate,), batch=batch, sources=sources, fetcher=session)
        planes = list_planes(
            plate, ("RNA",), wells, None, batch=batch, sources=sources, fetcher=session
        )
        _fetch_planes(
            planes, lambda key: out / "images" / key.rsplit("/", 1)[1], plate, sources, session
        )
    rows = read_table(
        tables / LOAD_DATA / batch / plate / "load_data.csv",
        ("FileName_OrigRNA", "Metadata_Well", "Metadata_Plate"),
    )
    rows["Metadata_Well"] = normalise_wells(rows.Metadata_Well)
    layout = read_layout(tables, batch, f"{MAPS[0]}_platemap", "compound")
    rows = rows.merge(
        layout[["well", "compound"]], left_on="Metadata_Well", right_on="well", how="left"
    ).rename(columns={"compound": "Metadata_pert_iname"})
    if rows.Metadata_pert_iname.isna().any():
        raise InputError(
            f"{tables}: the platemap lacks the well "
            f"{rows.well[rows.Metadata_pert_iname.isna()].iloc[0]}"
        )
    write_csv(
        out / "metadata.csv",
        rows[["FileName_OrigRNA", "Metadata_pert_iname", "Metadata_Well", "Metadata_Plate"]],
    )


def download_metadata(
    out: Path, plates: Sequence[str], *, batch: str, sources: Sources, fetcher: Fetcher
) -> None:
    """The table of plates, platemaps, what is in them, and each plate's load_data.csv. What is
    there is kept.

    Raises:
        InputError: a table cannot be had.
    """
    wanted = {
        EXPERIMENTS: f"{sources.publication}/benchmark/output/experiment-metadata.tsv",
        f"{PLATEMAPS}/{batch}/barcode_platemap.csv": f"{sources.publication}/metadata/platemaps/{batch}/barcode_platemap.csv",
    }
    for name in MAPS:
        wanted[f"{PLATEMAPS}/{batch}/platemap/{name}_platemap.tsv"] = (
            f"{sources.target}/{name}_platemap.tsv"
        )
        wanted[f"{EXTERNAL}/{name}_metadata.tsv"] = f"{sources.target}/{name}_metadata.tsv"
    for plate in plates:
        path = f"{LOAD_DATA}/{batch}/{plate}/load_data.csv"
        wanted[path] = f"{sources.bucket}/{quote(f'{sources.prefix}/{path}')}"
    for path, url in wanted.items():
        if not (out / path).is_file():
            fetcher.file(url, out / path)


def list_planes(
    plate: str,
    channels: Collection[str],
    wells: Collection[str] | None,
    sites: Collection[int] | None,
    *,
    batch: str,
    sources: Sources,
    fetcher: Fetcher,
) -> list[Listed]:
    """The planes of a plate in the bucket that are asked for, by key.

    Raises:
        InputError: an unknown channel, no such plate, or no such plane; names the first well, site
        and channel that is missing.
    """
    unknown = sorted(set(channels) - set(CHANNEL_NUMBERS))
    if unknown:
        raise InputError(
            f"cpjump1: unknown channel {unknown[0]!r}; there are {', '.join(CHANNELS)}"
        )
    prefix = f"{sources.prefix}/images/{batch}/images/{plate}__"
    objects = {
        found.key: found
        for found in list_bucket(sources.bucket, prefix, fetcher)
        if "/Images/" in found.key
    }
    keys = pd.Series(sorted(objects), dtype=object)
    names = keys.str.rsplit("/", n=1).str[-1] if len(keys) else keys
    frame = pd.DataFrame(
        {"object": keys, "key": keys_of(names), "channel": names.str.extract(r"-ch(\d)sk")[0]}
        if len(keys)
        else {"key": []}
    ).dropna()
    if frame.empty:
        raise InputError(
            f"{sources.bucket}/{prefix}: the bucket has no image of plate {plate} in batch {batch}"
        )
    frame = frame.assign(
        well=wells_of(frame.key),
        site=frame.key.str[7:9].astype(int),
        channel=frame.channel.astype(int),
    )
    numbers = {CHANNEL_NUMBERS[channel]: channel for channel in channels}
    chosen = frame[frame.channel.isin(numbers)]
    for column, asked in (("well", wells), ("site", sites), ("channel", numbers)):
        if asked is not None:
            absent = sorted(set(asked) - set(chosen[column]))
            if absent:
                raise InputError(
                    f"{sources.bucket}/{prefix}: plate {plate} has no plane of {column} "
                    f"{absent[0]!r}"
                )
            chosen = chosen[chosen[column].isin(set(asked))]
    return [objects[key] for key in chosen.object]


def list_bucket(bucket: str, prefix: str, fetcher: Fetcher) -> Iterator[Listed]:
    """Every object whose key starts with `prefix`, page after page (S3 ListObjectsV2).

    Raises:
        InputError: no connection, or an answer that is no listing.
    """
    token = None
    while True:
        more = {} if token is None else {"continuation-token": token}
        page = _parse_listing(
            fetcher.bytes(f"{bucket}/", {"list-type": 2, "prefix": prefix, **more}),
            f"{bucket}/?prefix={prefix}",
        )
        yield from page[0]
        token = page[1]
        if token is None:
            return


def _parse_listing(body: bytes, url: str) -> tuple[list[Listed], str | None]:
    """The objects of a page, and the token of the next one."""
    try:
        tree = ElementTree.fromstring(body)
    except ElementTree.ParseError as error:
        raise InputError(f"{url}: the answer is no XML ({error})") from None
    space = tree.tag.removesuffix("ListBucketResult")
    if space == tree.tag:
        raise InputError(f"{url}: the answer is a {tree.tag}, a ListBucketResult expected")
    found = []
    for entry in tree.iter(f"{space}Contents"):
        key, size, tag = (entry.findtext(f"{space}{name}", "") for name in ("Key", "Size", "ETag"))
        tag = tag.strip('"')
        if not key or not size.isdigit() or ".." in key.split("/"):
            raise InputError(
                f"{url}: an entry of the listing is damaged: key {key!r}, size {size!r}"
            )
        found.append(Listed(key, int(size), tag if len(tag) == 32 and "-" not in tag else None))
    token = tree.findtext(f"{space}NextContinuationToken")
    if tree.findtext(f"{space}IsTruncated") == "true" and not token:
        raise InputError(f"{url}: the listing is cut short and names no next page")
    return found, token or None


def _fetch_planes(
    planes: list[Listed], place, plate: str, sources: Sources, fetcher: Fetcher
) -> None:
    def fetch(plane: Listed) -> None:
        fetcher.file(
            f"{sources.bucket}/{quote(plane.key)}", place(plane.key), size=plane.size, md5=plane.md5
        )

    with (
        ThreadPoolExecutor(_THREADS) as pool,
        tqdm(total=len(planes), desc=plate, unit="plane", disable=None) as bar,
    ):
        try:
            for _ in pool.map(fetch, planes):
                bar.update()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    log.info(
        "%s: %d planes, %.1f GB", plate, len(planes), sum(plane.size for plane in planes) / 1e9
    )

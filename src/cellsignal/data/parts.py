"""Pack a store in parts, each by a process or machine of its own, and merge them without copying.

A part is the sites of some whole plates, packed as a store of its own beside the final one: a
packing that is killed or loses its machine is started again with the same words and goes on, and
no other part is touched. Merging gives every site's file a second name in the final store (a hard
link; where the file system has none the file is renamed) and folds the parts' small arrays into
one. The store that comes of it has the bytes of one packed at once.
"""

import logging
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.files import changed_inputs, digest, write_json
from cellsignal.competitions.base import Competition
from cellsignal.data import store_files as stored
from cellsignal.data.filling import ADVICE, complete, read_entries
from cellsignal.data.journal import Entry
from cellsignal.data.pack import prepare
from cellsignal.data.pack_report import PackReport, report_entries, skipped_entries
from cellsignal.data.shard_check import refuse_shards
from cellsignal.data.store_description import FORMAT

log = logging.getLogger(__name__)
MERGED = "merged"  # the folder in which the final store grows
# what all parts and the final store agree in
_COMMON = (
    "format",
    "cellsignal",
    "source",
    "channels",
    "shape",
    "codec",
    "joined",
    "size",
    "made_from",
)


@dataclass(frozen=True)
class Part:
    """Part `number` (from 1) of `total`."""

    number: int
    total: int

    def __str__(self) -> str:
        return f"{self.number}/{self.total}"

    @classmethod
    def parse(cls, word: str) -> "Part":
        """Read "3/51".

        Raises:
            InputError: it is not two numbers, the first from 1 to the second.
        """
        match = re.fullmatch(r"(\d{1,18})/(\d{1,18})", word)
        part = cls(*map(int, match.groups())) if match else cls(0, 0)
        if not 1 <= part.number <= part.total:
            raise InputError(f"--part {word}: write K/N, part K of N, K from 1 to N")
        return part


@dataclass(frozen=True)
class Packing:
    """How a store is packed: the arguments of `pack.prepare` that a config decides."""

    size: int | None = None
    bad_site: Literal["skip", "refuse"] = "skip"
    workers: int = 0
    codec: Literal["auto", "zstd", "lz4", "raw"] = "auto"

    def prepare(self, competition: Competition, root: Path, out: Path, **more: Any) -> PackReport:
        """Call `pack.prepare`."""
        options = {"size": self.size, "bad_site": self.bad_site}
        options |= {"workers": self.workers, "codec": self.codec}
        return prepare(competition, root, out, **options, **more)


def parts_folder(out: Path) -> Path:
    """Return the folder of a store's parts, beside it."""
    out = Path(out).absolute()
    return out.with_name(f"{out.name}.parts")


def part_folder(out: Path, part: Part) -> Path:
    """Return the folder of one part's store."""
    return parts_folder(out) / f"{part.number}-of-{part.total}"


def following_part(out: Path, word: str) -> str:
    """Return the option of `prepare` to give after a part ("3/51"): the next part, or the merging.

    A part that is begun may be at work in another process, so the first is named that is not.
    Merging names the parts that have not ended.
    """
    total = Part.parse(word).total
    for number in range(1, total + 1):
        part = Part(number, total)
        if not part_folder(out, part).exists():
            return f"--part {part}"
    return f"--merge {total}"


def positions_of(samples: pd.DataFrame, part: Part) -> np.ndarray:
    """Return the positions of a part's samples: whole plates, every `total`th in the table's order.

    Raises:
        InputError: there are fewer plates than parts.
    """
    plates = samples.groupby(["experiment", "plate"], sort=False).ngroup().to_numpy()
    number = int(plates.max(initial=-1)) + 1
    if part.total > number:
        raise InputError(f"{part.total} parts: there are only {number} plates to deal out")
    return np.flatnonzero(plates % part.total == part.number - 1)


def prepare_part(
    competition: Competition, root: Path, out: Path, part: Part, packing: Packing
) -> PackReport:
    """Pack one part of a competition's samples, or bring it up to date.

    What a competition measures of whole plates (`Competition.calibrate`) is measured for all plates
    in every part.

    Returns:
        Of the part; `n_packed` is 0 where none of its sites can be read.

    Raises:
        InputError: as `pack.prepare`; more parts than plates.
    """
    refuse_shards(Path(out))
    samples = competition.samples(Path(root).absolute())
    mine = samples.iloc[positions_of(samples, part)].reset_index(drop=True)
    folder = part_folder(out, part)
    try:
        return packing.prepare(competition, root, folder, samples=mine)
    except InputError:
        entries = _entries(folder, len(mine))
        if entries is None or any(e["status"] == stored.PACKED for e in entries.values()):
            raise
        # a plate of which nothing can be read: the other parts make a store all the same
        return report_entries(entries, mine, ())


def merge_parts(
    competition: Competition, root: Path, out: Path, total: int, packing: Packing
) -> PackReport:
    """Merge the parts into the store, remove them, and bring the store up to date.

    It can be killed at any moment and called again. A store that is there already is only brought
    up to date.

    Raises:
        InputError: parts are missing or unfinished (it names them), or were packed from other
            samples or by other settings; the place of the store is taken.
    """
    root, out = Path(root).absolute(), Path(out).absolute().resolve()
    refuse_shards(out)
    if not (out / stored.INFO).is_file():
        samples = competition.samples(root)
        text = stored.samples_text(samples)
        samples = stored.parse_samples(text, "samples to pack")
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise InputError(f"{out}: is neither empty nor a store; merge into another folder")
        info, entries = _gather(out, samples, text, total)
        staging = parts_folder(out) / MERGED
        _link_all(staging, out, samples, text, info, entries, total)
        complete(staging, info, text, entries, samples)
        if out.exists():
            out.rmdir()
        staging.rename(out)
    elif not stored.read_info(out)["complete"]:
        raise InputError(
            f"{out}: holds a store that was begun without parts; finish it by `cellsignal prepare` "
            "or delete it"
        )
    shutil.rmtree(parts_folder(out), ignore_errors=True)
    return packing.prepare(competition, root, out)


def _entries(folder: Path, n: int) -> dict[int, Entry] | None:
    """Return the entries of all `n` rows of a part; None while it is not finished."""
    if not (folder / stored.INFO).is_file():
        return None
    info = stored.read_info(folder)
    entries = read_entries(folder, info)
    if info["complete"]:
        rows = {name: row for row, name in enumerate(stored.read_samples(folder, info).sample_id)}
        entries |= skipped_entries(folder, info, rows)
    return entries if len(entries) == n else None


def _gather(
    out: Path, samples: pd.DataFrame, text: str, total: int
) -> tuple[dict[str, Any], dict[int, Entry]]:
    """Return the final store's description, and its entries by the rows of its table."""
    gathered: dict[int, Entry] = {}
    common, unfinished = None, []
    for number in range(1, total + 1):
        part = Part(number, total)
        positions, folder = positions_of(samples, part), part_folder(out, part)
        entries = _entries(folder, len(positions))
        if entries is None:
            unfinished.append(number)
            continue
        info = stored.read_info(folder)
        mine = samples.iloc[positions].reset_index(drop=True)
        if info["samples_sha256"] != digest(stored.samples_text(mine)):
            raise InputError(f"{folder}: was packed from other samples than there are now; {_REDO}")
        about = {key: info.get(key, False if key == "joined" else None) for key in _COMMON}
        common = common or about
        if changed := changed_inputs(common, about):
            raise InputError(f"{folder}: differs from part 1 in {changed[0]}; {_REDO}")
        for row, entry in entries.items():
            gathered[int(positions[row])] = entry | {"row": int(positions[row])}
    if unfinished:
        shown = ", ".join(map(str, unfinished[:10])) + (" ..." if len(unfinished) > 10 else "")
        raise InputError(
            f"{parts_folder(out)}: {len(unfinished)} of {total} parts are not packed ({shown}); "
            f"run `cellsignal prepare CONFIG --part K/{total}` for each"
        )
    more = {
        "format": FORMAT,
        "n": len(samples),
        "samples_sha256": digest(text),
        "complete": False,
    }
    return {**common, **more}, gathered


_REDO = "delete that folder and pack the part again"


def _link_all(
    staging: Path,
    out: Path,
    samples: pd.DataFrame,
    text: str,
    info: dict[str, Any],
    entries: dict[int, Entry],
    total: int,
) -> None:
    """Make the final store's folder with the files of all packed sites; may have been begun."""
    layout = stored.layout_in(info)
    begun, keys = staging / stored.INFO, (*_COMMON, "samples_sha256")
    before = stored.read_info(staging) if begun.is_file() else {}
    if any(before.get(key) != info[key] for key in keys):
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        stored.create_arrays(staging, len(samples), layout)
        stored.write_samples(staging, text)
    write_json(begun, info)  # also where it was complete, and killed before its renaming
    for number in range(1, total + 1):
        part = Part(number, total)
        folder = part_folder(out, part)
        for row, position in enumerate(positions_of(samples, part).tolist()):
            if entries[position]["status"] == stored.PACKED:
                _give_name(stored.chunk_path(folder, row), stored.chunk_path(staging, position))
    _calibration(part_folder(out, Part(1, total)), staging)


def _give_name(source: str, target: str) -> None:
    """Give a site's file its name in the final store; it may have it already."""
    if os.path.exists(target):
        if not os.path.exists(source) or os.path.samefile(source, target):
            return
        os.unlink(target)  # the part was packed again since
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise InputError(
            f"{source}: is gone; run `cellsignal prepare` with --part of this folder again"
        ) from None
    except OSError:  # no hard links here
        try:
            os.replace(source, target)
        except OSError as error:
            raise InputError(f"{target}: cannot be written ({error.strerror}); {ADVICE}") from error


def _calibration(folder: Path, staging: Path) -> None:
    """Copy what was measured of plates (small files), so that it is not measured again."""
    source = folder / stored.CALIBRATION
    if source.is_dir():
        shutil.copytree(source, staging / stored.CALIBRATION, dirs_exist_ok=True)

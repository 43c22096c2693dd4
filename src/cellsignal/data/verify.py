"""List every fault of a data folder in one run, before training starts.

`verify` reads every image that a competition's samples name, each channel on its own where a site
is bad, and looks for images that no sample names. It stops at nothing: the list is complete.
"""

import functools
import hashlib
import os
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.errors import ImageError
from cellsignal.competitions.base import Competition
from cellsignal.competitions.pairing import images_without_row
from cellsignal.competitions.sample_files import Places, path_of, refuse_misstated
from cellsignal.data.sites import channel_statistics, in_processes, read_site

ADVICE = "; prepare will leave its site out: export or download it again"
WARNINGS = ("empty", "flat", "identical", "image_without_row")  # usable, but look at it


@dataclass(frozen=True)
class Problem:
    """One fault.

    Attributes:
        kind: an error: "missing" (a channel's file), "row_without_images" (all files of a sample),
            "identical_channels" (two channels of a sample with the same bytes), "truncated",
            "corrupt", "wrong_size", "wrong_depth", "wrong_channels", "wrong_format",
            "not_calibrated"; or a warning: "empty"
            (too few cells, packing leaves it out), "flat" (a channel of one grey level),
            "identical" (two files with the same bytes; of one clip's frames only if all are the
            same: a cell may stand still), "image_without_row" (no sample names it).
        path: the file, relative to `Competition.images_folder`.
        detail: what is wrong with it.
        sample_id: the sample it belongs to; None where there is none.
    """

    kind: str
    path: str
    detail: str
    sample_id: str | None = None

    @property
    def is_error(self) -> bool:
        """Whether the image cannot be used; else it is a warning."""
        return self.kind not in WARNINGS


def verify(competition: Competition, root: Path | str, workers: int = 0) -> list[Problem]:
    """Read everything under `root` and list every problem, errors first, sorted by kind and path.

    Nothing is written under `root`: what must be measured of whole plates first is forgotten at the
    end.

    Args:
        workers: processes to read with; 0 reads in this one.

    Raises:
        InputError: the metadata itself cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="cellsignal-") as folder:
        return _list_problems(competition, root, workers, Path(folder))


def _list_problems(
    competition: Competition, root: Path | str, workers: int, calibration: Path
) -> list[Problem]:
    root = Path(root).absolute()
    samples = competition.samples(root)
    competition.require_classes(root)
    competition.sample_submission(root)  # held to the test set, where it is a file
    channels = competition.channels_of(root)
    refuse_misstated(samples, Places(root, samples), channels, competition.stated)
    competition = competition.calibrate(root, calibration, workers)
    places = root, competition.images_folder(root)
    check = functools.partial(_check_site, competition, *places, competition.root_shape(root))
    sites = list(zip(samples.sample_id, samples.files, strict=True))
    problems: list[Problem] = []
    first_with: dict[bytes, tuple[str, str]] = {}
    for of_site, hashes in in_processes(check, sites, workers, "verifying"):
        problems += of_site + _find_copies(hashes, first_with, competition.frames > 1)
    problems += _list_images_without_row(competition, root, samples)
    return sorted(
        set(problems), key=lambda p: (not p.is_error, p.kind, p.path, p.sample_id or "", p.detail)
    )


def _list_images_without_row(
    competition: Competition, root: Path, samples: pd.DataFrame
) -> list[Problem]:
    """List images that no sample names: those of a well or plate together, with the reason."""
    folder = competition.images_folder(root)
    names = images_without_row(folder, samples, competition.image_files)
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, (group, why) in zip(names, competition.explain_images(root, names), strict=True):
        groups.setdefault((group, why) if group else ("", why, name), []).append(name)
    problems = []
    for (group, why, *_), paths in groups.items():
        of_group = f"{_plural(len(paths), 'image')} of {group}: " if group else ""
        problems.append(Problem("image_without_row", min(paths), of_group + why))
    return problems


def _find_copies(
    hashes: list[tuple[str, str, bytes]], first_with: dict[bytes, tuple[str, str]], clips: bool
) -> list[Problem]:
    """List a site's files that have the bytes of another, and note the new ones in `first_with`.

    Frames of one clip may be alike: a cell may stand still. Not all of them.
    """
    problems = []
    for path, sample_id, content in hashes:
        first, owner = first_with.setdefault(content, (path, sample_id))
        if path_of(first) != path_of(path) and not (clips and owner == sample_id):
            kind = "identical_channels" if owner == sample_id else "identical"
            problems.append(Problem(kind, path, f"has the same bytes as {first}", sample_id))
    if clips and len(hashes) > 1 and len({content for *_, content in hashes}) == 1:
        path, sample_id, _ = hashes[0]
        detail = f"all {len(hashes)} frames have the same bytes"
        problems.append(Problem("identical", path, detail, sample_id))
    return problems


def format_problems(problems: list[Problem]) -> str:
    """Write a count of errors and warnings, then each kind with its number and its lines."""
    errors = sum(problem.is_error for problem in problems)
    lines = [f"{_plural(errors, 'error')}, {_plural(len(problems) - errors, 'warning')}"]
    counts = Counter((not problem.is_error, problem.kind) for problem in problems)
    for (is_warning, kind), count in sorted(counts.items()):
        lines.append(f"{'warning' if is_warning else 'error'} {kind}: {count}")
        for problem in problems:
            if problem.kind == kind:
                lines.append(
                    f"  {problem.path}: {problem.detail}"
                    + (ADVICE if kind in ("truncated", "corrupt") else "")
                    + (f" [{problem.sample_id}]" if problem.sample_id else "")
                )
    return "\n".join(lines)


def _check_site(
    competition: Competition,
    root: Path,
    folder: Path,
    shape: tuple[int, int] | None,
    site: tuple[str, tuple[str, ...]],
) -> tuple[list[Problem], list[tuple[str, str, bytes]]]:
    """Check one sample.

    Returns:
        Its problems, and (path, sample_id, hash of the bytes) of its files that hold a picture.
    """
    sample_id, files = site
    frames = competition.image_files(files)
    read = functools.partial(read_site, functools.partial(competition.read, root, shape=shape))
    is_clip = frames != files  # files that stand for more
    missing = [name for name in frames if not _is_file(folder / path_of(name))]
    if len(missing) == len(frames):
        what = "frames" if is_clip else "files"
        detail = f"none of its {len(frames)} {what} is there"
        if len(frames) == 1:
            detail = "its file is not there"
        return [Problem("row_without_images", files[0], detail, sample_id)], []
    detail = "no such image file"
    if is_clip:
        detail += f"; {len(missing)} of {len(frames)} frames are missing"
    problems = [Problem("missing", name, detail, sample_id) for name in missing]
    if not is_clip:
        return _check_channels(competition, root, folder, read, sample_id, files, problems)
    return (problems, []) if missing else _check_clip(competition, root, folder, read, site, frames)


def _check_channels(
    competition: Competition,
    root: Path,
    folder: Path,
    read: Callable[[tuple[str, ...]], np.ndarray],
    sample_id: str,
    files: tuple[str, ...],
    missing: list[Problem],
) -> tuple[list[Problem], list[tuple[str, str, bytes]]]:
    """Read all files of a sample together; if that fails, each by itself."""
    problems = list(missing)
    present = [name for name in files if name not in {problem.path for problem in missing}]
    images: dict[tuple[str, ...], np.ndarray] = {}
    of_all: ImageError | None = None
    if not missing:
        try:
            images[files] = read(files)
        except ImageError as error:
            of_all = error
    # one file in every channel's place shows each file's own fault
    for name in present if not images else ():
        alone = (name,) * len(files)
        try:
            images[alone] = read(alone)
        except ImageError as error:
            problems.append(_problem_of(error, folder, sample_id, name))
    if of_all is not None and not problems:  # each file is sound alone, but they do not go together
        problems.append(_problem_of(of_all, folder, sample_id))
    flat: set[str] = set()
    for names, image in images.items():
        for channel in np.flatnonzero(channel_statistics(image)[1] == 0):
            name = names[channel] if len(files) > 1 else files[0]
            number = files.index(name) if len(files) > 1 else channel
            title = competition.channels_of(root)[number]
            detail = f"every pixel of channel {title} is {image[channel, 0, 0]}"
            problems.append(Problem("flat", name, detail, sample_id))
            flat.add(name)
    sound = {name for names in images for name in names} - flat
    return problems, _hash_files(folder, [name for name in files if name in sound], sample_id)


def _check_clip(
    competition: Competition,
    root: Path,
    folder: Path,
    read: Callable[[tuple[str, ...]], np.ndarray],
    site: tuple[str, tuple[str, ...]],
    frames: tuple[str, ...],
) -> tuple[list[Problem], list[tuple[str, str, bytes]]]:
    """Read a clip, or planes of several files, of which the first fault is listed."""
    sample_id, files = site
    try:
        clip = read(files)
    except ImageError as error:
        return [_problem_of(error, folder, sample_id)], []
    problems = []
    channels = competition.channels_of(root)
    for plane in np.flatnonzero(channel_statistics(clip)[1] == 0):
        detail = f"every pixel of channel {channels[plane]} is {clip[plane, 0, 0]}"
        name = frames[plane % competition.frames]
        if competition.frames == 1:
            name = competition.image_files((files[plane],))[0]
        problems.append(Problem("flat", name, detail, sample_id))
    flat = {problem.path for problem in problems}
    if competition.frames > 1:
        return problems, _hash_files(
            folder, [name for name in frames if name not in flat], sample_id
        )
    # parts of a plane may be alike (chunks of black, planes of a stack): not a whole plane
    planes = [competition.image_files((entry,)) for entry in files]
    whole = [_hash_plane(folder, names, sample_id) for names in planes if names[0] not in flat]
    return problems, whole


def _problem_of(
    error: ImageError, folder: Path, sample_id: str, path: str | None = None
) -> Problem:
    if path is None:
        path = os.path.relpath(error.path, folder) if os.path.isabs(error.path) else error.path
    return Problem(error.kind, path, error.detail, sample_id)


def _hash_files(folder: Path, names: list[str], sample_id: str) -> list[tuple[str, str, bytes]]:
    return [
        (
            name,
            sample_id,
            hashlib.blake2b((folder / path_of(name)).read_bytes(), digest_size=16).digest(),
        )
        for name in names
    ]


def _hash_plane(folder: Path, names: tuple[str, ...], sample_id: str) -> tuple[str, str, bytes]:
    """Hash the files of one plane together; it is called as its first file."""
    contents = [content for _, _, content in _hash_files(folder, list(names), sample_id)]
    content = hashlib.blake2b(b"".join(contents), digest_size=16).digest()
    return names[0], sample_id, content


def _is_file(path: Path) -> bool:
    """Whether there is a file; false for a name that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")

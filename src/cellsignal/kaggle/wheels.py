"""The libraries that Kaggle's image lacks: a data set of wheels that kernels install from.

The top of this module needs the standard library alone, as a kernel reads it before anything is
installed.
"""

import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cellsignal.common.errors import InputError
from cellsignal.common.files import write_json

PYTHONS = ("3.11", "3.12")  # of Kaggle's images
PIP = (sys.executable, "-m", "pip")
QUIET = ("--quiet", "--no-deps", "--disable-pip-version-check", "--only-binary=:all:")
PLATFORMS = (*(f"manylinux_2_{minor}_x86_64" for minor in (17, 24, 27, 28)), "manylinux2014_x86_64")


@dataclass(frozen=True)
class Wheel:
    """A library that training, prediction or submission imports.

    Attributes:
        least: the first version that will do.
        why: what it is for.
    """

    module: str
    name: str
    least: str
    version: str
    why: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


# What was known of Kaggle's Python image when this was written; it changes. What a kernel finds
# there it does not install.
WHEELS = (
    Wheel("zarr", "zarr", "3.1", "3.1.6", "stores; the image has none, or version 2"),
    Wheel("donfig", "donfig", "0.8", "0.8.1.post1", "zarr needs it"),
    Wheel("numcodecs", "numcodecs", "0.14", "0.16.6", "zarr needs it"),
    Wheel("google_crc32c", "google-crc32c", "1.5", "1.9.0", "zarr needs it"),
    Wheel("zstandard", "zstandard", "0.22", "0.25.0", "compressed stores"),
    Wheel("pytorch_metric_learning", "pytorch-metric-learning", "2.5", "2.9.0", "metric losses"),
    Wheel("iterstrat", "iterative-stratification", "0.1.9", "0.1.9", "fold tables"),
    Wheel("imagecodecs", "imagecodecs", "2024.6", "2026.3.6", "packing of compressed TIFF files"),
)


def missing(wheels: Sequence[Wheel] = WHEELS) -> list[Wheel]:
    """Return those that this Python does not have, or has in too old a version."""
    return [wheel for wheel in wheels if not _is_installed(wheel)]


def _is_installed(wheel: Wheel) -> bool:
    if importlib.util.find_spec(wheel.module) is None:
        return False
    try:
        installed = importlib.metadata.version(wheel.name)
    except importlib.metadata.PackageNotFoundError:
        return True  # there, but not by pip: it will have its reasons
    return _numbers(installed) >= _numbers(wheel.least)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(word) for word in re.findall(r"\d+", version.partition("+")[0])[:3])


def install(wheels: Sequence[Wheel], source: Path, target: Path) -> None:
    """Install wheels from a folder into another, without network, beside what the image has.

    Raises:
        InputError: pip could not: a wheel is not in the folder, or is for another Python.
    """
    words = [*PIP, "install", *QUIET, "--no-index", "--find-links", str(source)]
    words += ["--target", str(target), *(f"{wheel.name}>={wheel.least}" for wheel in wheels)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        names = ", ".join(wheel.name for wheel in wheels)
        raise InputError(
            f"{source}: cannot install {names} ({_last_line(done.stderr, '')}); make the dataset "
            "anew by `cellsignal kaggle wheels`"
        )


def _last_line(output: str, start: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip().startswith(start)]
    return next((line for line in reversed(lines) if line), "no word from pip")


def lacking(
    folder: Path, pythons: Sequence[str] = PYTHONS, wheels: Sequence[Wheel] = WHEELS
) -> list[str]:
    """Return the packages missing in a folder of wheels, such as "zarr 3.1.6 (Python 3.11)"."""
    files = [path.name for path in folder.glob("*.whl")]
    names = []
    for wheel in wheels:
        without = [
            python for python in pythons if not any(_serves(file, wheel, python) for file in files)
        ]
        if len(without) == len(pythons):
            names.append(str(wheel))
        elif without:
            names.append(f"{wheel} (Python {', '.join(without)})")
    return names


def _serves(file: str, wheel: Wheel, python: str) -> bool:
    """Return whether a wheel's file is of the library, new enough, and for this Python."""
    name, version, *tags = (*file.removesuffix(".whl").split("-"), "", "")
    if re.sub("[-_.]+", "-", name).lower() != wheel.name.lower():
        return False
    if _numbers(version) < _numbers(wheel.least):
        return False
    fitting = ("py3", "abi3", f"cp{python.replace('.', '')}")
    return any(word in tag for tag in tags for word in fitting)


def describe_wheels(dataset: str | None, folder: Path) -> str:
    """Write a line on the wheels that a job's kernels need, and where they come from.

    Args:
        dataset: the job's `wheels`, owner/slug.
        folder: where `build_wheels` makes the data set on this machine.

    Raises:
        InputError: the folder holds that data set, and wheels are missing in it.
    """
    names = ", ".join(map(str, WHEELS))
    if dataset is None:
        return (
            f"wheels: the job attaches none, and Kaggle's image is not known to have {names}: "
            "make them by `cellsignal kaggle wheels OWNER/SLUG`, push them, and name the data set "
            "as `wheels` in the job"
        )
    push = f"`cellsignal kaggle push {folder}`"
    make = f"make it by `cellsignal kaggle wheels {dataset} --out {folder}`"
    if _dataset_of(folder) != dataset:
        return (
            f"wheels: {dataset} is not in {folder}, so it was not checked; on Kaggle it has to "
            f"hold {names}: {make}, then {push}"
        )
    if missing_wheels := lacking(folder):
        raise InputError(
            f"{folder}: the data set {dataset} lacks {', '.join(missing_wheels)}; {make}"
        )
    return f"wheels: {folder} holds all of {dataset}; if it is not on Kaggle yet: {push}"


def _dataset_of(folder: Path) -> str | None:
    """Return the id of the data set in a folder; None if it cannot be read."""
    try:
        return json.loads((folder / "dataset-metadata.json").read_text(encoding="utf-8"))["id"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def build_wheels(
    out: Path, dataset: str, pythons: Sequence[str] = PYTHONS, wheels: Sequence[Wheel] = WHEELS
) -> list[Path]:
    """Make the folder of the data set: wheels by `pip download`, and dataset-metadata.json.

    Args:
        dataset: owner/slug.

    Returns:
        The wheels.

    Raises:
        InputError: a wrong name, or a wheel that the package index does not give.
    """
    from cellsignal.kaggle.job import SLUG, refuse_placeholder

    owner, _, slug = dataset.partition("/")
    named = re.fullmatch(r"[A-Za-z0-9_-]+", owner) and re.fullmatch(SLUG, slug)
    if not named or not 6 <= len(slug) <= 50:
        raise InputError(f"{dataset}: a dataset is OWNER/SLUG, the slug 6 to 50 of a-z, 0-9 and -")
    refuse_placeholder(dataset)
    out.mkdir(parents=True, exist_ok=True)
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    for python in pythons:
        words = [*PIP, "download", *QUIET, "--python-version", python, *platforms]
        words += ["--dest", str(out), *(f"{wheel.name}=={wheel.version}" for wheel in wheels)]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            last = _last_line(done.stderr, "ERROR")
            raise InputError(f"wheels for Python {python}: {last}")
    metadata = {"title": slug.replace("-", " "), "id": dataset, "licenses": [{"name": "other"}]}
    write_json(out / "dataset-metadata.json", metadata)
    return sorted(out.glob("*.whl"))

"""What Kaggle's image lacks, kept in one place: a dataset of wheels that kernels without internet
install from.

The module's top needs the standard library alone: it is read in a kernel before anything is
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


@dataclass(frozen=True)
class Wheel:
    """A library that training, prediction or submission imports. `least`: the first version that
    will do.
    """

    module: str
    name: str
    least: str
    version: str
    why: str


# What was known of Kaggle's Python image when this was written; it changes. What a kernel finds
# there it does not install.
WHEELS = (
    Wheel("zarr", "zarr", "3.1", "3.1.6", "stores; the image has none, or version 2"),
    Wheel("donfig", "donfig", "0.8", "0.8.1.post1", "zarr needs it"),
    Wheel("numcodecs", "numcodecs", "0.14", "0.16.6", "zarr needs it"),
    Wheel("google_crc32c", "google-crc32c", "1.5", "1.9.0", "zarr needs it"),
    Wheel("zstandard", "zstandard", "0.22", "0.25.0", "compressed stores"),
    Wheel(
        "pytorch_metric_learning",
        "pytorch-metric-learning",
        "2.5",
        "2.9.0",
        "margin and triplet losses",
    ),
    Wheel("iterstrat", "iterative-stratification", "0.1.9", "0.1.9", "fold tables"),
    Wheel("imagecodecs", "imagecodecs", "2024.6", "2026.3.6", "packing of compressed TIFF files"),
)
PYTHONS = ("3.11", "3.12")  # of Kaggle's images


def missing(wheels: Sequence[Wheel] = WHEELS) -> list[Wheel]:
    """Those that this Python does not have, or has in too old a version."""
    found = []
    for wheel in wheels:
        if importlib.util.find_spec(wheel.module) is None:
            found.append(wheel)
            continue
        try:
            installed = importlib.metadata.version(wheel.name)
        except importlib.metadata.PackageNotFoundError:
            continue  # there, but not by pip: it will have its reasons
        if _numbers(installed) < _numbers(wheel.least):
            found.append(wheel)
    return found


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(word) for word in re.findall(r"\d+", version.partition("+")[0])[:3])


def install(wheels: Sequence[Wheel], source: Path, target: Path) -> None:
    """Install wheels from a folder into a folder of their own, without any network and without
    touching what the image has.

    Raises:
        InputError: pip could not: a wheel is not in the folder, or is for another Python.
    """
    words = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--disable-pip-version-check",
        "--only-binary=:all:",
    ]
    words += [
        "--find-links",
        str(source),
        "--target",
        str(target),
        *(f"{wheel.name}>={wheel.least}" for wheel in wheels),
    ]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        last = [line for line in done.stderr.splitlines() if line.strip()][-1:] or [
            "no word from pip"
        ]
        names = ", ".join(wheel.name for wheel in wheels)
        raise InputError(
            f"{source}: cannot install {names} ({last[0].strip()}); make the dataset anew by "
            "`cellsignal kaggle wheels`"
        )


def lacking(
    folder: Path, pythons: Sequence[str] = PYTHONS, wheels: Sequence[Wheel] = WHEELS
) -> list[str]:
    """Name what a folder of wheels does not hold: "zarr 3.1.6", with the Python where it is one of
    several.
    """
    names = []
    for wheel in wheels:
        without = [
            python
            for python in pythons
            if not any(_serves(path.name, wheel, python) for path in folder.glob("*.whl"))
        ]
        if without:
            names.append(
                f"{wheel.name} {wheel.version}"
                + (f" (Python {', '.join(without)})" if len(without) < len(pythons) else "")
            )
    return names


def _serves(file: str, wheel: Wheel, python: str) -> bool:
    """Whether a wheel's file is of the library, new enough, and for this Python."""
    name, version, *tags = (*file.removesuffix(".whl").split("-"), "", "")
    if re.sub("[-_.]+", "-", name).lower() != wheel.name.lower() or _numbers(version) < _numbers(
        wheel.least
    ):
        return False
    return any(
        "py3" in tag or "abi3" in tag or f"cp{python.replace('.', '')}" in tag for tag in tags
    )


def describe_wheels(dataset: str | None, folder: Path) -> str:
    """Say in a line what a job's kernels need that Kaggle's image lacks, and how it comes there.

    Args:
        dataset: the job's `wheels`, owner/slug.
        folder: where `build_wheels` makes the data set on this machine.

    Raises:
        InputError: the folder holds that data set, and wheels are missing in it.
    """
    names = ", ".join(f"{wheel.name} {wheel.version}" for wheel in WHEELS)
    if dataset is None:
        return (
            f"wheels: the job attaches none, and Kaggle's image is not known to have {names}: "
            "make them by `cellsignal kaggle wheels OWNER/SLUG`, push them, and name the data set "
            "as `wheels` in the job"
        )
    push = f"`cellsignal kaggle push {folder}`"
    if _dataset_of(folder) != dataset:
        return (
            f"wheels: {dataset} is not in {folder}, so it was not checked; on Kaggle it has to "
            f"hold {names}: "
            f"make it by `cellsignal kaggle wheels {dataset} --out {folder}`, then {push}"
        )
    if missing_wheels := lacking(folder):
        raise InputError(
            f"{folder}: the data set {dataset} lacks {', '.join(missing_wheels)}; "
            f"make it by `cellsignal kaggle wheels {dataset} --out {folder}`"
        )
    return f"wheels: {folder} holds all of {dataset}; if it is not on Kaggle yet: {push}"


def _dataset_of(folder: Path) -> str | None:
    """The id of the data set in a folder, None where there is none that can be read."""
    try:
        return json.loads((folder / "dataset-metadata.json").read_text(encoding="utf-8"))["id"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def build_wheels(
    out: Path, dataset: str, pythons: Sequence[str] = PYTHONS, wheels: Sequence[Wheel] = WHEELS
) -> list[Path]:
    """Make the folder of the dataset: the wheels, by `pip download`, for each Python, and
    `dataset-metadata.json` for `kaggle datasets create -p`.

    Args:
        dataset: owner/slug.

    Returns:
        The wheels.

    Raises:
        InputError: a wrong name, or a wheel that the package index does not give.
    """
    from cellsignal.kaggle.owner import refuse_placeholder

    owner, _, slug = dataset.partition("/")
    if (
        not re.fullmatch(r"[A-Za-z0-9_-]+", owner)
        or not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", slug)
        or not 6 <= len(slug) <= 50
    ):
        raise InputError(f"{dataset}: a dataset is OWNER/SLUG, the slug 6 to 50 of a-z, 0-9 and -")
    refuse_placeholder(dataset)
    out.mkdir(parents=True, exist_ok=True)
    for python in pythons:
        words = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--disable-pip-version-check",
            "--only-binary=:all:",
        ]
        words += ["--python-version", python]
        words += [
            word
            for version in (17, 24, 27, 28)
            for word in ("--platform", f"manylinux_2_{version}_x86_64")
        ]
        words += [
            "--platform",
            "manylinux2014_x86_64",
            "--dest",
            str(out),
            *(f"{wheel.name}=={wheel.version}" for wheel in wheels),
        ]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            last = [line for line in done.stderr.splitlines() if line.startswith("ERROR")][-1:] or [
                "no word from pip"
            ]
            raise InputError(f"wheels for Python {python}: {last[0].strip()}")
    metadata = {"title": slug.replace("-", " "), "id": dataset, "licenses": [{"name": "other"}]}
    write_json(out / "dataset-metadata.json", metadata)
    return sorted(out.glob("*.whl"))

"""Which packages are there, and those that a folder of wheels adds.

A wheel is used only where the package is missing or too old, so that a GPU image's own torch and
what was built against it stay as they are.
"""

import importlib.metadata
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

# module -> (distribution, oldest version that works), in what `cellsignal run` and `export` import
NEEDED = {
    "torch": ("torch", "2.6"),
    "numpy": ("numpy", "2.0"),
    "accelerate": ("accelerate", "1.0"),
    "cv2": ("opencv-python-headless", "4.10"),
    "google_crc32c": ("google-crc32c", "1.5"),
    "iterstrat": ("iterative-stratification", "0.1.9"),
    "matplotlib": ("matplotlib", "3.9"),
    "numcodecs": ("numcodecs", "0.14"),
    "onnx": ("onnx", "1.17"),
    "onnxruntime": ("onnxruntime", "1.20"),
    "onnxscript": ("onnxscript", "0.3"),
    "pandas": ("pandas", "2.2"),
    "psutil": ("psutil", "5.9"),
    "pydantic": ("pydantic", "2.9"),
    "pytorch_metric_learning": ("pytorch-metric-learning", "2.5"),
    "safetensors": ("safetensors", "0.5"),
    "scipy": ("scipy", "1.13"),
    "skimage": ("scikit-image", "0.24"),
    "sklearn": ("scikit-learn", "1.5"),
    "tensorboard": ("tensorboard", "2.17"),
    "threadpoolctl": ("threadpoolctl", "3.1"),
    "timm": ("timm", "1.0.20"),
    "torchvision": ("torchvision", "0.21"),
    "tqdm": ("tqdm", "4.66"),
    "yaml": ("PyYAML", "6.0"),
    "zarr": ("zarr", "3.1"),
    "zstandard": ("zstandard", "0.22"),
}


def missing_modules() -> list[str]:
    """List the modules of `NEEDED` that cannot be found, without importing any."""
    importlib.invalidate_caches()
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


def versions() -> dict[str, str]:
    """Return distribution -> version of what is there of `NEEDED`."""
    found = {}
    for name, _ in NEEDED.values():
        version = version_of(name)
        if version is not None:
            found[name] = version
    return found


def version_of(distribution: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def is_older(version: str, oldest: str) -> bool:
    """Return whether a version comes before another, by its leading numbers."""
    return _numbers(version) < _numbers(oldest)


def _numbers(version: str) -> tuple[int, ...]:
    head = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, head.group().split("."))) if head else ()


def wheels_to_use(folder: Path) -> list[Path]:
    """Choose the wheels of a folder whose package is not installed, or is too old."""
    oldest = {canonical_name(name): version for name, version in NEEDED.values()}
    chosen = []
    for wheel in sorted(folder.glob("*.whl")):
        name = canonical_name(wheel.name.split("-")[0])
        version = version_of(name)
        if version is None or is_older(version, oldest.get(name, "0")):
            chosen.append(wheel)
    return chosen


def canonical_name(name: str) -> str:
    """Return a distribution's name as indexes write it: lower case, with hyphens."""
    return re.sub(r"[-_.]+", "-", name).lower()


def install_wheels(folder: Path, target: Path) -> tuple[list[str], list[str]]:
    """Install the wheels that are needed into `target`, without an index or dependencies.

    All at once; where that fails one by one, so that a wheel of another Python is left out alone.

    Returns:
        Names of the wheels that were installed, and "name: reason" of those that were not.
    """
    wheels = wheels_to_use(folder)
    if not wheels or _pip(wheels, target) is None:
        return [wheel.name for wheel in wheels], []
    done, failed = [], []
    for wheel in wheels:
        reason = _pip([wheel], target)
        if reason is None:
            done.append(wheel.name)
        else:
            failed.append(f"{wheel.name}: {reason}")
    return done, failed


def _pip(wheels: list[Path], target: Path) -> str | None:
    """Install; return None, or the last line of what pip said."""
    options = ("--quiet", "--no-index", "--no-deps", "--no-compile", "--disable-pip-version-check")
    command = [sys.executable, "-m", "pip", "install", *options, "--upgrade", "--target", target]
    try:
        result = subprocess.run(
            [*map(str, command), *map(str, wheels)], capture_output=True, text=True, timeout=120
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if result.returncode == 0:
        return None
    lines = [line for line in result.stderr.splitlines() if line.startswith("ERROR")]
    return (lines or result.stderr.splitlines() or ["pip failed"])[-1]

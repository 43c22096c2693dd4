"""Collect the wheels that a GPU image lacks, on a machine that reaches a package index.

`python -m cellsignal.studies.gpu_check.wheels --out wheels [--have image.txt]` takes what
`cellsignal run` and `export` import and all that this needs in turn, in the versions that are
installed here, for another Python on Linux x86-64. Never torch, nor what comes with it.
"""

import argparse
import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from cellsignal.common.errors import InputError
from cellsignal.studies.gpu_check.packages import NEEDED, canonical_name, is_older, version_of

# a GPU image has its own, built for its driver
OF_TORCH = re.compile(r"(torch|torchvision|torchaudio|triton|nvidia-.*|cuda-.*)$")
# what packages of the extra `onnx` need, where they are not installed here and cannot be asked
_OF_ONNX = ("flatbuffers", "ml-dtypes", "onnx-ir", "protobuf")
_LINUX = (*(f"2_{minor}" for minor in (39, 35, 34, 31, 28, 27, 24, 17, 12, 5)), "2014", "1")


def names_to_collect(have: dict[str, str]) -> list[str]:
    """List the distributions whose wheels are needed, with what they need in turn, sorted.

    Args:
        have: distribution -> version of those that the image has.
    """
    oldest = {canonical_name(name): version for name, version in NEEDED.values()}
    waiting, chosen = [*oldest, *_OF_ONNX], set()
    while waiting:
        name = canonical_name(waiting.pop())
        enough = name in have and not is_older(have[name], oldest.get(name, "0"))
        if name in chosen or enough or OF_TORCH.match(name):
            continue
        chosen.add(name)
        waiting += needs_of(name)
    return sorted(chosen)


def needs_of(name: str) -> list[str]:
    """List what an installed distribution needs on Linux, without extras; none if it is not."""
    from packaging.requirements import Requirement

    try:
        lines = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    there = {"extra": "", "sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"}
    wanted = [Requirement(line) for line in lines]
    return [each.name for each in wanted if each.marker is None or each.marker.evaluate(there)]


def read_have(path: Path) -> dict[str, str]:
    """Read the output of `pip list --format=freeze`, or names alone: name -> version.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    have = {}
    for line in lines:
        name, _, version = line.partition("==")
        if name.strip() and not name.startswith(("#", "-")):
            have[canonical_name(name.split("@")[0].strip())] = version.strip() or "999999"
    return have


def collect(names: Iterable[str], out: Path, python: str) -> list[str]:
    """Download the wheels, all at once or, where that fails, one by one.

    Returns:
        "name: reason" of those for which there is none.
    """
    wanted = []
    for name in names:
        version = version_of(name)
        wanted.append(name if version is None else f"{name}=={version}")
    if not wanted or _download(wanted, out, python) is None:
        return []
    reasons = {name: _download([name], out, python) for name in wanted}
    return [f"{name}: {reason}" for name, reason in reasons.items() if reason]


def _download(wanted: list[str], out: Path, python: str) -> str | None:
    platforms = [word for tag in _LINUX for word in ("--platform", f"manylinux{_tag(tag)}_x86_64")]
    options = ["--no-deps", "--only-binary=:all:", "--implementation", "cp", "--quiet"]
    options += ["--disable-pip-version-check", "--python-version", python, *platforms]
    command = [sys.executable, "-m", "pip", "download", *options, "-d", str(out), *wanted]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode == 0:
        return None
    lines = [line for line in result.stderr.splitlines() if line.startswith("ERROR")]
    return (lines or ["pip failed"])[-1]


def _tag(tag: str) -> str:
    return f"_{tag}" if "_" in tag else tag


def main(argv: Sequence[str] | None = None) -> int:
    """Collect the wheels and print their size; return 1 if some are not to be had."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("wheels"), help="folder")
    text = "file: what the image has (`pip list --format=freeze` there)"
    parser.add_argument("--have", type=Path, help=text)
    parser.add_argument("--python", default="3.12", help="version of the image's Python")
    arguments = parser.parse_args(argv)
    try:
        have = read_have(arguments.have) if arguments.have else {}
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    names = names_to_collect(have)
    arguments.out.mkdir(parents=True, exist_ok=True)
    lacking = collect(names, arguments.out, arguments.python)
    wheels = list(arguments.out.glob("*.whl"))
    size = sum(wheel.stat().st_size for wheel in wheels) / 2**20
    print(f"{arguments.out}: {len(wheels)} wheels, {size:.0f} MiB")
    for line in lacking:
        print(f"not collected: {line}")
    return int(bool(lacking))


if __name__ == "__main__":
    sys.exit(main())

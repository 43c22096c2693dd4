"""Check that the pins resolve, to wheels alone, on each Python version: `make check-pins`.

It asks the package index about every pinned package and installs nothing. That the tests pass there
it does not say: they are run on the version of `.venv`.
"""

import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
VERSIONS = ("3.11", "3.12", "3.13")
SECONDS = 300  # of one version


def resolve(version: str, *options: str) -> str:
    """Return "" if the pins resolve on a Python version, else uv's error in one line."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--python-version", version]
    command += ["--only-binary", ":all:", "--no-header", *options, "tests/requirements.txt"]
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    if done.returncode:
        return " ".join(done.stderr.split())
    packages = len(re.findall(r"^\S+==", done.stdout, re.M))
    return "" if packages > 50 else f"only {packages} packages: {' '.join(done.stderr.split())}"


def main() -> int:
    """Print a line for each version; return 1 if one does not resolve."""
    errors = {version: resolve(version, *sys.argv[1:]) for version in VERSIONS}
    for version, error in errors.items():
        print(f"Python {version}: {error or 'resolves'}")
    return int(any(errors.values()))


if __name__ == "__main__":
    sys.exit(main())

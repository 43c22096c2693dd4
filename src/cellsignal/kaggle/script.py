"""A kernel's whole script: unpacks the package in it and starts `cellsignal.kaggle.runner`.

It needs a bare Python alone. `build` puts the package (a tar, xz, base64) and what this kernel does
(JSON) in the place of the two words between at-signs.
"""

import base64
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path, PurePosixPath

SPEC = r"""@spec@"""
PACKAGE = """@package@"""


def unpack(data: bytes, sha256: str, folder: Path) -> None:
    """Unpack a tar (xz) into an empty folder; nothing is written unless every member is safe.

    Raises:
        ValueError: the bytes are not those of `sha256`; a name that is absolute, has .. or comes
            twice; a link or device.
    """
    digest = hashlib.sha256(data).hexdigest()
    if digest != sha256:
        raise ValueError(f"the package in this script is damaged: SHA-256 {digest}, not {sha256}")
    files: dict[PurePosixPath, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:xz") as archive:
        for member in archive:
            name = PurePosixPath(member.name)
            if not member.isfile():
                raise ValueError(f"the package holds {member.name!r}, which is not a plain file")
            outside = not name.parts or name.is_absolute() or ".." in name.parts
            if outside or "\\" in member.name or ":" in member.name or name in files:
                raise ValueError(
                    f"the package holds {member.name!r}, which would lie outside of its folder or "
                    "twice in it"
                )
            files[name] = archive.extractfile(member).read()
    for name, content in files.items():
        path = folder.joinpath(*name.parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def main() -> int:
    """Start the runner and return its exit status; a signal is handed on to it."""
    started = time.time()
    spec = json.loads(SPEC)
    scratch = Path(tempfile.mkdtemp(prefix="cellsignal-"))  # not in the output
    try:
        unpack(base64.b64decode(PACKAGE), spec["package"], scratch / "package")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    (scratch / "spec.json").write_text(SPEC, encoding="utf-8")
    environment = {
        "CELLSIGNAL_DEADLINE": str(started + 3600 * spec["max_hours"]),
        **os.environ,
        "CELLSIGNAL_KERNEL_STARTED": str(started),
        "PYTHONPATH": os.pathsep.join([str(scratch / "package" / "src"), str(scratch / "wheels")]),
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
    }
    command = [sys.executable, "-m", "cellsignal.kaggle.runner", str(scratch)]
    runner = subprocess.Popen(command, env=environment)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: runner.send_signal(number))
    status = runner.wait()
    shutil.rmtree(scratch, ignore_errors=True)
    return status if status >= 0 else 128 - status


if __name__ == "__main__" and (status := main()):
    sys.exit(status)

"""What the end-to-end tests share: small simulated competitions, a tiny config, the command line
called in this process.
"""

import contextlib
import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cellsignal.cli import main
from cellsignal.competitions.base import answers_path


@dataclass(frozen=True)
class Workspace:
    """A working folder with `config.yaml` (paths relative to it) and what the commands made of it;
    raw data in `root`.
    """

    competition: str
    folder: Path
    root: Path

    @property
    def answers(self) -> Path:
        return answers_path(self.root)

    @property
    def run_folder(self) -> Path:
        return self.folder / "runs" / "tiny" / "seed0"

    def copy(self, to: Path) -> "Workspace":
        """The same state in another folder. Checkpoints and images are hard links: never write into
        them (see `replace`).
        """
        shutil.copytree(
            self.folder,
            to,
            copy_function=lambda old, new: (os.link if _is_large(old) else shutil.copy2)(old, new),
        )
        return Workspace(self.competition, to, self.root)


def _is_large(path: str) -> bool:
    return path.endswith(".pt") or "/images/c." in path


def tiny_config(competition: str, root: Path) -> dict[str, Any]:
    """Two stages of a small network on 32 px, trained in seconds."""
    first = {
        "name": "all",
        "epochs": 2,
        "batch_size": 16,
        "optimizer": {"name": "adamw", "lr": 2e-3},
        "augment": [{"name": "rotate90"}],
    }
    second = {
        "name": "cell_type",
        "per": "cell_type",
        "init": "previous",
        "epochs": 1,
        "batch_size": 8,
    }
    return {
        "name": "tiny",
        "competition": competition,
        "data": {"root": str(root), "store": "store", "size": 32, "workers": 0},
        "folds": {"file": "folds.csv", "use": [0]},
        "model": {"backbone": "test_resnet"},
        "stages": [first, second],
        "predict": {"tta": 2},
    }


def write_config(folder: Path, competition: str, root: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(tiny_config(competition, root) | changes))
    return path


def cellsignal(*words: Any, cwd: Path) -> int:
    """One command, run in `cwd`; its exit status."""
    with contextlib.chdir(cwd):
        return main(["-q", *map(str, words)])


def error_line(capsys, *words: Any, cwd: Path) -> str:
    """Run a command that must be refused: status 2 and one line on stderr, which is given back
    without "error: ".
    """
    capsys.readouterr()
    status = cellsignal(*words, cwd=cwd)
    out, err = capsys.readouterr()
    assert status == 2, (status, out, err)
    assert err.startswith("error: ") and err.endswith("\n") and err.count("\n") == 1, err
    assert "Traceback" not in out + err
    return err.removeprefix("error: ").strip()


def replace(path: Path, content: bytes | str) -> None:
    """Put other content in the place of a file that may be a hard link, leaving the other names of
    it alone.
    """
    path.unlink()
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def contents(*paths: Path) -> dict[str, str]:
    """Every file at or under the paths, by name and content: equal before and after means that
    nothing was lost or added.

    Checkpoints are large: they are told by inode, size and time, which any rewriting changes.
    """
    files = sorted(
        f for path in paths for f in ([path] if path.is_file() else path.rglob("*")) if f.is_file()
    )
    return {str(file): _identity(file) for file in files}


def _identity(file: Path) -> str:
    if file.suffix == ".pt":
        status = file.stat()
        return f"{status.st_ino} {status.st_size} {status.st_mtime_ns}"
    return hashlib.blake2b(file.read_bytes()).hexdigest()

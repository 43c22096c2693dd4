"""Commands that write once, killed at each of their renames: nothing half-written, and rerun as new."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import Workspace, cellsignal

pytestmark = pytest.mark.torture

# the command line after a number: SIGKILL in place of that rename
PROGRAM = """
import os, signal, sys
from cellsignal.cli import main

left, replace = int(sys.argv.pop(1)), os.replace

def replace_or_die(*places, **words):
    global left
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    replace(*places, **words)

os.replace = os.rename = replace_or_die
sys.exit(main(sys.argv[1:]))
"""
DATE = re.compile(r"\b20\d\d-\d\d-\d\d")
COMMANDS = {
    "blend": [
        "blend",
        "tiny",
        "other",
        "--parts",
        "3",
        "--file",
        "made/blend.json",
        "--out",
        "made/b.csv",
    ],
    "export": ["export", "other", "--out", "made"],
}


@pytest.fixture(scope="module")
def two_runs(trained, tmp_path_factory) -> Workspace:
    space = trained("rxrx1").copy(tmp_path_factory.mktemp("killed") / "space")
    stage = "stages=[{name: all, epochs: 1, batch_size: 16}]"
    for verb in ("train", "predict"):
        words = [verb, "config.yaml", "--set", "name=other", "--set", stage]
        assert cellsignal(*words, cwd=space.folder) == 0
    return space


def run(folder: Path, words: list[str], renames: int) -> int:
    command = [sys.executable, "-c", PROGRAM, str(renames), *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


def read(path: Path):
    """Return what a file says, without when it was made and the hashes of files that say so."""
    if path.suffix == ".json":
        return json.loads(path.read_text(), object_hook=_without_times)
    if path.suffix == ".md":
        lines = path.read_text().splitlines()
        return [line for line in lines if not DATE.search(line)]
    if path.suffix == ".pt2":
        program = torch.export.load(path)
        return {name: np.asarray(value).tobytes() for name, value in program.state_dict.items()}
    return path.read_bytes()


def _without_times(facts: dict) -> dict:
    return {k: v for k, v in facts.items() if k not in ("written_at", "sha256", "git_commit")}


def made_files(folder: Path) -> dict[str, Path]:
    made = folder / "made"
    return {str(path.relative_to(made)): path for path in made.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_killed_at_any_rename_leaves_whole_files_and_runs_again(name, two_runs, tmp_path):
    words = COMMANDS[name]
    whole = two_runs.copy(tmp_path / "whole").folder
    assert run(whole, words, 1000) == 0
    expected = {file: read(path) for file, path in made_files(whole).items()}
    assert expected
    for renames in range(100):
        folder = two_runs.copy(tmp_path / f"killed{renames}").folder
        if run(folder, words, renames) == 0:
            break
        left = {file: path for file, path in made_files(folder).items() if file in expected}
        assert len(left) < len(expected)
        assert {file: read(path) for file, path in left.items()} == {
            file: expected[file] for file in left
        }
        assert run(folder, words, 1000) == 0
        assert {file: read(path) for file, path in made_files(folder).items()} == expected
    assert 0 < renames < 100

"""Shared fixtures: real data where it is at hand, and one small simulated RxRx1 for all tests that
only need plates.
"""

import fcntl
import functools
import gc
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

# before torch is imported: several test processes share the cores
os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real files (RxRx1 CSVs and control images, BBBC021 subset); the test is skipped
    where there is none.
    """
    folder = Path(os.environ.get("CELLSIGNAL_REAL_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "rxrx1" / "train.csv").is_file():
        pytest.skip(f"no real data in {folder}; set CELLSIGNAL_REAL_DATA")
    return folder


def pytest_collection_finish():
    """All tests and modules stay to the end: the garbage collector need not look at them again."""
    gc.collect()
    gc.freeze()


def make_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that the first test process to ask for it makes; others wait, and read it.

    Without this every worker of pytest-xdist trains what all of them look at.
    """
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # of all workers
    folder = base / "shared" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = folder.with_name(f"{folder.name}.made")
    with open(folder.with_name(f"{folder.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            made.touch()
    return folder


@pytest.fixture(scope="session")
def simulated(tmp_path_factory):
    """competition id -> the root of its small simulated copy, made when first asked for. Read only:
    link or copy to change.
    """
    from cellsignal.competitions import get_competition

    @functools.cache
    def root_of(competition_id: str) -> Path:
        competition = get_competition(competition_id)

        def make(folder: Path) -> None:
            competition.simulate(folder / competition_id, 0, **competition.tiny_simulation)

        return make_once(tmp_path_factory, f"simulated/{competition_id}", make) / competition_id

    return root_of


@pytest.fixture(scope="session")
def prepared(tmp_path_factory, simulated):
    """competition id -> a workspace with store and fold table. Read only: work in a copy."""
    from helpers import Workspace, cellsignal, write_config

    @functools.cache
    def workspace_of(competition_id: str) -> Workspace:
        root = simulated(competition_id)
        folds = ["folds", competition_id, "--root", root, "--splits", 2, "--out", "folds.csv"]

        def make(folder: Path) -> None:
            config = write_config(folder, competition_id, root)
            for words in (["prepare", config], folds):
                assert cellsignal(*words, cwd=folder) == 0

        folder = make_once(tmp_path_factory, f"prepared/{competition_id}", make)
        return Workspace(competition_id, folder, root)

    return workspace_of


@pytest.fixture(scope="session")
def trained(tmp_path_factory, prepared):
    """competition id -> a workspace that is trained and predicted. Read only: work in a copy."""
    from helpers import Workspace, cellsignal

    @functools.cache
    def workspace_of(competition_id: str) -> Workspace:
        space = prepared(competition_id)

        def make(folder: Path) -> None:
            folder.rmdir()
            space.copy(folder)
            for verb in ("train", "predict"):
                assert cellsignal(verb, "config.yaml", cwd=folder) == 0

        folder = make_once(tmp_path_factory, f"trained/{competition_id}", make)
        return Workspace(competition_id, folder, space.root)

    return workspace_of


@pytest.fixture(scope="session")
def plates(tmp_path_factory) -> Path:
    """A tiny simulated RxRx1 with its store and fold table (see `tiny`). Read only."""
    from tiny import make_plates

    return make_once(tmp_path_factory, "plates", make_plates)

"""Shared fixtures: real data where it is at hand, and one small simulated RxRx1 for all tests that
only need plates.
"""

import functools
import os
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


@pytest.fixture(scope="session")
def simulated(tmp_path_factory):
    """competition id -> the root of its small simulated copy, made when first asked for. Read only:
    link or copy to change.
    """
    from cellsignal.competitions import get_competition

    @functools.cache
    def root_of(competition_id: str) -> Path:
        root = tmp_path_factory.mktemp("simulated") / competition_id
        competition = get_competition(competition_id)
        competition.simulate(root, 0, **competition.tiny_simulation)
        return root

    return root_of


@pytest.fixture(scope="session")
def prepared(tmp_path_factory, simulated):
    """competition id -> a workspace with store and fold table. Read only: work in a copy."""
    from helpers import Workspace, cellsignal, write_config

    @functools.cache
    def workspace_of(competition_id: str) -> Workspace:
        root = simulated(competition_id)
        space = Workspace(
            competition_id, tmp_path_factory.mktemp("prepared") / competition_id, root
        )
        config = write_config(space.folder, competition_id, root)
        assert cellsignal("prepare", config, cwd=space.folder) == 0
        assert (
            cellsignal(
                "folds",
                competition_id,
                "--root",
                root,
                "--splits",
                2,
                "--out",
                "folds.csv",
                cwd=space.folder,
            )
            == 0
        )
        return space

    return workspace_of


@pytest.fixture(scope="session")
def trained(tmp_path_factory, prepared):
    """competition id -> a workspace that is trained and predicted. Read only: work in a copy."""
    from helpers import Workspace, cellsignal

    @functools.cache
    def workspace_of(competition_id: str) -> Workspace:
        space = prepared(competition_id).copy(tmp_path_factory.mktemp("trained") / competition_id)
        for verb in ("train", "predict"):
            assert cellsignal(verb, "config.yaml", cwd=space.folder) == 0
        return space

    return workspace_of


@pytest.fixture(scope="session")
def plates(tmp_path_factory) -> Path:
    """A tiny simulated RxRx1 with its store and fold table (see `tiny`). Read only."""
    from tiny import make_plates

    return make_plates(tmp_path_factory.mktemp("plates"))

"""Shared fixtures: real data where it is at hand, and one small simulated RxRx1 for all tests that only need plates."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real files (RxRx1 CSVs and control images, BBBC021 subset); the test is skipped where there is none."""
    folder = Path(os.environ.get("CELLSIGNAL_REAL_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "rxrx1" / "train.csv").is_file():
        pytest.skip(f"no real data in {folder}; set CELLSIGNAL_REAL_DATA")
    return folder

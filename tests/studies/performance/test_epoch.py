"""Epochs fed from a store beside the same steps from memory: what is timed, and how long."""

import numpy as np
import pytest
from helpers import cellsignal, error_line

from cellsignal.competitions import get_competition
from cellsignal.studies.performance import epoch
from cellsignal.studies.performance.epoch import FEWEST, bench_fed
from cellsignal.studies.performance.packed import packed_plates

pytestmark = pytest.mark.slow
SIZE = {"size": 96, "classes": 4, "controls": 1, "train_experiments": 1, "test_experiments": 1}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("epoch") / "raw"
    get_competition("rxrx1").simulate(root, 0, **SIZE)
    return root


def test_fed_and_in_memory_make_the_same_steps(root, monkeypatch):
    trained = []

    def record(stepper, batches, *others):
        images = [batch.clone() for batch in batches]
        trained.append(images)
        return train_steps(stepper, iter(images), *others)

    train_steps = epoch.train_steps
    monkeypatch.setattr(epoch, "train_steps", record)
    with packed_plates(root, 5, "zstd") as sample:  # 4 does not divide 5, nor 15
        table = bench_fed(sample, ("test_resnet",), (48,), 4, 1, steps=3, rounds=2)
    warm, *turns = trained
    assert len(warm) == 3 and [len(images) for images in turns] == [3] * 4
    held = warm[0]
    assert held.shape == (4, 6, 48, 48)
    for memory, fed in zip(turns[::2], turns[1::2], strict=True):
        assert all(image.equal(held) for image in memory)
        assert fed[0].equal(held) and not fed[1].equal(held)
        assert all(image.shape == held.shape for image in fed)
        assert all(image.stride() == held.stride() for image in fed)
    assert table.ratio[0] == pytest.approx(table.fed[0] / table.in_memory[0])
    assert 0 <= table.waiting[0] <= 1 and table["size"][0] == 48


def test_epochs_last_as_long_as_asked_but_have_some_steps(root):
    with packed_plates(root, 8, "zstd") as sample:
        dataset = sample.dataset(epoch.recipe_of(48, 96))
        pair = epoch._Pair(sample, dataset, "test_resnet", 1, 4)
        assert pair.count_steps(0.0) == FEWEST
        assert pair.count_steps(60.0) > 2 * FEWEST


def test_the_command_has_a_row_for_each_store_and_size(root, tmp_path):
    words = ["--root", str(root), "--backbone", "test_resnet", "--sizes", "32"]
    words += ["--seconds", "1", "--rounds", "1", "--workers", "1", "--out", "epoch.md"]
    assert cellsignal("study", "epoch", *words, cwd=tmp_path) == 0
    lines = (tmp_path / "epoch.md").read_text().splitlines()
    rows = [line.split(" | ") for line in lines if line.startswith("| ")][2:]
    names = ("zstd", "zstd, kept in memory by `cache_gib`", "lz4", "raw")
    assert [row[0] for row in rows] == [f"| {name}" for name in names]
    assert [row[2] for row in rows] == ["32"] * 4
    assert all(np.isfinite(float(row[6])) and float(row[6]) > 0 for row in rows)


def test_a_network_that_is_not_known_is_one_line(root, tmp_path, capsys):
    words = ("--root", str(root), "--backbone", "none")
    assert "none" in error_line(capsys, "study", "epoch", *words, cwd=tmp_path)

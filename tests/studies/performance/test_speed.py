"""What the speed benchmark says of a machine, and that it measures what it says: batch sizes that
fit, epochs, batches, and the table of promises.
"""

import numpy as np
import pytest
from helpers import cellsignal, write_config
from hypothesis import given
from hypothesis import strategies as st

from cellsignal.competitions import get_competition
from cellsignal.config import load_config
from cellsignal.data.pack import prepare
from cellsignal.data.store import Store
from cellsignal.studies.performance import feeding
from cellsignal.studies.performance.batch_size import (
    GRAIN,
    batch_size_text,
    bench_batch_size,
    search,
)
from cellsignal.studies.performance.feeding import (
    CROPS,
    FIRST_PLACE,
    Plates,
    PngSites,
    bench_batches,
    bench_epoch,
)

pytestmark = pytest.mark.slow


@given(fits=st.integers(0, 700), most=st.integers(GRAIN, 600))
def test_the_search_finds_the_largest_batch_that_fits(fits, most):
    tried = search(lambda size: {"fits": size <= fits}, most)
    found = max((size for size, result in tried.items() if result["fits"]), default=0)
    doubled = GRAIN * 2 ** int(np.log2(most / GRAIN))
    if fits >= doubled:
        assert found == doubled  # what was asked for was reached by doubling
    else:
        assert found <= fits < found + GRAIN and found % GRAIN == 0
    assert all(size <= most for size in tried)


def test_batch_sizes_of_a_config(prepared, tmp_path, monkeypatch):
    space = prepared("rxrx1").copy(tmp_path / "space")
    monkeypatch.chdir(space.folder)
    config = load_config(write_config(space.folder, "rxrx1", space.root))
    tried = bench_batch_size(config, most=16, steps=1)
    assert list(tried.stage.unique()) == [stage.name for stage in config.stages] and set(
        tried.batch
    ) == {8, 16}
    assert tried.fits.all() and (tried.images_per_s > 0).all()
    assert "up to 16 fits; from" in batch_size_text(tried)
    assert not (space.folder / "runs").exists() or not list((space.folder / "runs").rglob("*.pt"))


@pytest.fixture(scope="module")
def plates(tmp_path_factory):
    folder, competition = tmp_path_factory.mktemp("speed"), get_competition("rxrx1")
    size = {"size": 128, "classes": 4, "controls": 1, "train_experiments": 1, "test_experiments": 1}
    competition.simulate(folder / "raw", 0, **size)
    prepare(competition, folder / "raw", folder / "store")
    store = Store.open(folder / "store")
    few = object.__new__(Store)
    few.__dict__.update(store.__dict__ | {"samples": store.samples.head(8)})
    return Plates(few, folder / "raw")


def test_the_png_way_sees_the_pixels_that_the_store_holds(plates):
    plain = PngSites(plates, ())
    shift, scale = plates.standardisation()
    expected = (plates.store.read(3).astype(np.float32) - shift[3][:, None, None]) / scale[3][
        :, None, None
    ]
    np.testing.assert_allclose(plain[(0, 3)], expected, atol=1e-5)
    assert (
        PngSites(plates, FIRST_PLACE)[(0, 0)].shape
        == (6, 128, 128)
        == PngSites(plates, CROPS)[(0, 0)].shape
    )


def test_batches_and_epochs_are_measured(plates):
    batches = bench_batches(plates, workers=1, batch=4, rounds=1)
    assert batches.ratio[0] == 1 and (batches.sites_per_s > 0).all() and len(batches) == 3
    epochs = bench_epoch(plates, "test_resnet", workers=1, batch=4, rounds=1)
    assert list(epochs.way) == ["PNGs, CPU transforms", "store"] and epochs.ratio[
        1
    ] == pytest.approx(epochs.sites_per_s[1] / epochs.sites_per_s[0])


def test_the_median_turn_counts_and_the_first_does_not():
    seconds = {"a": iter([100.0, 1.0, 3.0, 2.0]), "b": iter([100.0, 4.0, 4.0, 8.0])}
    table = feeding._rates({"a": "a", "b": "b"}, lambda way, epoch: next(seconds[way]), 40, 3)
    assert table.way.tolist() == ["a", "b"] and table.sites_per_s.tolist() == [20.0, 10.0]
    assert table.ratio.tolist() == [1.0, 0.5]


def test_profile(prepared, tmp_path, capsys):
    space = prepared("rxrx1").copy(tmp_path / "space")
    config = write_config(space.folder, "rxrx1", space.root)
    assert cellsignal("study", "profile", config, "--rows", 3, cwd=space.folder) == 0
    out = capsys.readouterr().out
    assert "images/s, waiting for data" in out and "Self CPU" in out
    assert not (space.folder / "runs").exists()

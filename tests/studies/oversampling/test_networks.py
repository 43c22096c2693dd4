"""The same audit with a real network: what is trained is what the order says, and copies across the
split are worth what they are worth.
"""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from tiny import make_config

from cellsignal.common.errors import InputError
from cellsignal.data.store import Store
from cellsignal.prediction.predict import predictor_of
from cellsignal.studies.oversampling import networks as bench
from cellsignal.studies.oversampling.audit import oversampling_text
from cellsignal.studies.oversampling.deals import deal_all, top_classes
from cellsignal.training.checkpoints import load_checkpoint

pytestmark = pytest.mark.slow

EPOCHS = 6
STAGE = {
    "name": "all",
    "epochs": 99,
    "batch_size": 16,
    "optimizer": {"lr": 5e-3, "weight_decay": 0.0},
    "schedule": {"name": "onecycle"},
    "pseudo_labels": {},
    "early_stopping": 5,
}


@pytest.fixture(scope="module")
def store(plates):
    """As the course's plate: twelve wells of one class, three classes of one well, two sites each."""
    store = Store.open(plates / "store")
    samples = store.samples[store.samples.split == "train"]
    wells = samples.well_id.drop_duplicates().to_numpy()[:15]
    label = dict(zip(wells, [5] * 12 + [0, 2, 7], strict=True))
    samples = samples[samples.well_id.isin(wells)]
    return replace(
        store,
        samples=samples.assign(
            label=pd.array(samples.well_id.map(label), "Int64"), experiment="E", plate="1"
        ),
    )


@pytest.fixture(scope="module")
def config(plates, tmp_path_factory):
    return make_config(
        plates,
        tmp_path_factory.mktemp("oversampling"),
        [STAGE],
        normalization={"by": "global"},
        data={"channels": [1, 4]},
    )


def audit(store, config, **how):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench.Store, "open", lambda path: store)
        return bench.bench_oversampling(config, **how)


@pytest.fixture(scope="module")
def found(store, config):
    return audit(store, config, epochs=EPOCHS, orders=("before", "after"))


def checkpoints(config):
    return {
        path.parts[-6]: path for path in (config.runs / "oversampling").glob("*/*/*/*/*/last.pt")
    }


def test_a_network_is_right_on_noise_where_copies_cross_the_split(found):
    assert [(a.order, a.data) for a in found] == [
        (order, data) for order in ("before", "after") for data in ("images", "noise", "position")
    ]
    before, after = found[1], found[4]
    assert before.copies > 0.7 and before.balanced.value > 0.9
    assert after.copies == 0 and after.balanced.value < 0.6
    assert found[0].classifier == f"test_resnet, {EPOCHS} epochs"
    assert f"not honest, {before.copies:.0%} of the validation images" in oversampling_text(found)


def test_it_trained_on_the_deals_rows_and_is_scored_by_image(store, config, found):
    """A checkpoint read again and asked about the deal's images, one by one."""
    samples = top_classes(store.samples, 50)
    # 0, 2, 5, 7 become 0 .. 3
    samples = samples.assign(label=pd.array(pd.factorize(samples.label, sort=True)[0], "Int64"))
    deal, _ = deal_all(samples, config.seed)[:2]
    (name,) = [name for name in checkpoints(config) if name.startswith("tiny_before_images")]
    state = load_checkpoint(checkpoints(config)[name])
    stage = bench._stage(config, EPOCHS)
    job = bench._job(
        config, stage, replace(store, samples=samples), tuple(state["classes"]), deal, "images"
    )
    assert (
        job.config.name == name and state["outputs"] == 4 and state["progress"]["epoch"] == EPOCHS
    )
    assert state["progress"]["history"][0]["valid_accuracy"] is None
    predict = predictor_of(job, state)
    one_by_one = [predict(np.array([at]), ("identity",))["identity"].argmax() for at in deal.valid]
    truth = samples.label.to_numpy(dtype=int)[deal.valid]
    assert np.mean(one_by_one == truth) == pytest.approx(found[0].accuracy.value)


def test_a_second_call_trains_nothing_and_finds_the_same(store, config, found):
    times = {name: path.stat().st_mtime_ns for name, path in checkpoints(config).items()}
    assert (
        len(times) == 4 and audit(store, config, epochs=EPOCHS, orders=("before", "after")) == found
    )
    assert {name: path.stat().st_mtime_ns for name, path in checkpoints(config).items()} == times


def test_another_recipe_never_takes_what_an_earlier_one_trained(store, config):
    samples = top_classes(store.samples, 50)
    deal = deal_all(samples, 0)[0]
    slower = config.model_copy(
        update={"stages": (config.stages[0].model_copy(update={"batch_size": 4}),)}
    )
    jobs = [
        bench._job(c, bench._stage(c, epochs), store, ("a", "b", "c", "d"), d, "images")
        for c, epochs, d in (
            (config, 1, deal),
            (config, 2, deal),
            (slower, 1, deal),
            (config, 1, replace(deal, train=deal.train[::-1])),
        )
    ]
    assert len({job.folder for job in jobs}) == 4


def test_noise_is_the_same_whenever_it_is_read_and_standardised_as_it_is(store):
    noise = bench.NoiseStore(store, 3)
    out = np.empty(noise.shape, np.uint8)
    assert noise.read(5, out=out, rows=(0, 4)) is out
    np.testing.assert_array_equal(out, noise.read(5))
    many = np.stack([noise.read(row) for row in range(40)])
    assert not np.array_equal(many[0], many[1]) and not np.array_equal(
        many[0], bench.NoiseStore(store, 4).read(0)
    )
    assert many.mean() == pytest.approx(noise.mean[0, 0], rel=0.01) and many.std() == pytest.approx(
        noise.sd[0, 0], rel=0.01
    )


def test_an_unknown_order_is_refused_before_anything_is_trained(config):
    with pytest.raises(
        InputError, match="no order 'during'; there are before, after, by well, by plate"
    ):
        bench.bench_oversampling(config, orders=("during",))

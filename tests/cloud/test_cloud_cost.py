"""The cost of a config against counts made by hand: on a store of simulated plates, and on the real tables with the recipes' published numbers of images."""

import re
from pathlib import Path

import pandas as pd
import pytest
from tiny import make_config, stage

from cellsignal.cloud.cost import cost_of, cost_text, costs_text
from cellsignal.cloud.gpus import GPUS
from cellsignal.config import load_config
from cellsignal.errors import InputError
from cellsignal.models.backbones import build_model
from cellsignal.models.cost import forward_flops
from cellsignal.training.run import jobs_of

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parent.parent.parent
GPU = {gpu.name: gpu for gpu in GPUS}


def test_every_operation_of_two_stages_is_counted(plates, tmp_path):
    stages = [stage(epochs=3, validate_every=2, amp="auto"), stage("cell_type", per="cell_type", init="previous", epochs=1, batch_size=4)]
    made = make_config(plates, tmp_path, stages, predict={"tta": 4, "adapt": "plate"})
    cost, jobs = cost_of(made), jobs_of(made)
    forward = forward_flops(build_model(made.model, 6, jobs[0].outputs, 24, 4, initial_weights=False), 6, 24)
    first, others = jobs[0], jobs[1:]
    assert len(others) == 4 == len(cost.jobs) - 1
    assert cost.jobs[0].training == pytest.approx(3 * len(first.train) * 3 * forward)
    assert cost.jobs[0].validation == pytest.approx(2 * len(first.valid) * 2 * forward)  # after epochs 2 and 3; a pass for the plates' statistics
    assert sum(job.training for job in cost.jobs[1:]) == pytest.approx(sum(len(job.train) for job in others) * 3 * forward)
    assert cost.prediction == pytest.approx(2 * (len(first.valid) + len(first.test)) * 5 * forward)  # two stages, four views and the statistics
    assert [job.half for job in cost.jobs] == [True, False, False, False, False]


def test_teachers_pseudo_labels_checkpointing_and_frozen_networks(plates, tmp_path):
    plain = stage(epochs=2, amp="auto", validate_every=2)

    def training(*, model=None, **more) -> tuple[float, float]:
        made = make_config(plates, tmp_path, [plain | more], model={"backbone": "test_resnet"} | (model or {}))
        [job] = cost_of(made).jobs
        return job.images, job.training

    [job] = jobs_of(make_config(plates, tmp_path, [plain]))
    n, test = len(job.train), len(job.test)
    images, whole = training()
    forward = whole / 6 / n
    assert images == 2 * n
    assert training(gradient_checkpointing=True)[1] == pytest.approx(8 * n * forward)
    teacher = {"ema": 0.9, "mean_teacher": {"unlabelled": "test"}}
    assert training(**teacher) == pytest.approx((2 * (n + test), 2 * (n + test) * 4 * forward))
    pseudo = {"pseudo_labels": {"start": 1, "first": 0.4}}  # one epoch of them: all
    assert training(**pseudo) == pytest.approx((2 * n + test, (2 * n + test) * 3 * forward + test * forward))
    assert training(model={"frozen": True})[1] == pytest.approx(2 * n * forward, rel=0.02)


WILDS = pytest.param("wilds_erm", 90 * 40_612, 0, 32, marks=pytest.mark.slow)


@pytest.mark.parametrize(("name", "full", "held_out", "gflop"), [("one_hour", 60 * 85_716, 60, 33), WILDS])
def test_the_recipes_numbers_of_images(name, full, held_out, gflop, real_data, monkeypatch):
    """From the real tables alone: all 73,030 treatment sites and 12,686 controls, less fold 0's by the fold table's own count; WILDS' published part."""
    monkeypatch.chdir(REPOSITORY)
    cost = cost_of(load_config(f"configs/rxrx1/{name}.yaml", [f"data.root={real_data}/rxrx1", "data.store=none"]))
    table = pd.read_csv("folds/rxrx1.csv")
    fold = held_out * (85_716 - 2 * table.n[table.fold == 0].sum())  # two sites a well
    assert sum(job.images for job in cost.jobs) == full + fold
    assert cost.per_image / 1e9 == pytest.approx(gflop, rel=0.05)


def rows(text: str) -> dict[str, list[str]]:
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")]
    return {row[0]: row[1:] for row in cells[1:]}


def test_the_table_says_what_was_assumed_and_takes_measurements(plates, tmp_path):
    made = make_config(plates, tmp_path, [stage(epochs=5000, amp="auto", validate_every=5000)], predict={"tta": 1})
    cost = cost_of(made)
    text = cost_text("tiny", cost, utilisation=0.25)
    assert "NOT MEASURED" in text and "CHECK BEFORE YOU RENT" in text and "25% of the vendor's peak is an assumption" in text
    found = rows(text)
    assert set(found) == set(GPU)
    flops = sum(job.training + job.validation for job in cost.jobs) + cost.prediction
    for name, gpu in GPU.items():
        hours = flops / (gpu.half * 1e12 * 0.25) / 3600
        assert cost.seconds(gpu, 0.25) / 3600 == pytest.approx(hours)
        shown = float(re.match(r"[\d.,e-]+", found[name][2])[0].replace(",", ""))
        assert shown == pytest.approx(hours, rel=0.06) and float(found[name][3].replace(",", "")) == pytest.approx(hours * gpu.usd, rel=0.06)
    images = sum(job.images for job in cost.jobs)
    measured = rows(cost_text("tiny", cost, measured={"L4": 2000}))["L4"]
    assert measured[1] == "2,000" and float(measured[2]) == pytest.approx(images / 2000 / 3600, rel=0.06) and measured[5].endswith("of the peak, measured")


def test_several_configs_are_rows_of_one_table(plates, tmp_path):
    costs = {name: cost_of(make_config(plates, tmp_path, [stage(epochs=epochs, amp="auto")])) for name, epochs in (("short", 10_000), ("long", 30_000))}
    text = costs_text(costs, utilisation=0.5)
    found = rows(text)
    assert list(found) == ["short", "long"] and "NOT MEASURED: 50%" in text
    for name, row in found.items():
        assert row[0] == "1"
        for (gpu, seconds), cell in zip(((gpu, costs[name].seconds(gpu, 0.5)) for gpu in GPUS), row[3:], strict=True):
            hours, usd = (float(word) for word in re.fullmatch(r"(\S+) h, (\S+) USD", cell).groups())
            assert hours == pytest.approx(seconds / 3600, rel=0.06) and usd == pytest.approx(seconds / 3600 * gpu.usd, rel=0.06)


def test_float32_is_slower_than_half(plates, tmp_path):
    half, single = (cost_of(make_config(plates, tmp_path, [stage(amp=amp)])) for amp in ("auto", "off"))
    assert single.seconds(GPU["T4"], 0.2) / half.seconds(GPU["T4"], 0.2) == pytest.approx(65 / 8.1)


def test_what_cannot_be_is_refused(plates, tmp_path):
    made = make_config(plates, tmp_path)
    with pytest.raises(InputError, match="--measured K80: there are T4"):
        cost_text("tiny", cost_of(made), measured={"K80": 3})
    with pytest.raises(InputError, match="of the peak of a T4"):
        cost_text("tiny", cost_of(made), measured={"T4": 1e12})
    with pytest.raises(InputError, match="no such folder, nor a store"):
        cost_of(make_config(plates, tmp_path, data={"root": tmp_path / "none", "store": tmp_path / "none.zarr"}))

"""The cost of a config against counts made by hand: on a store of simulated plates, on the real
tables, and on published counts alone.
"""

import re
from argparse import Namespace
from pathlib import Path

import pandas as pd
import pytest
from tiny import make_config, stage

from cellsignal.cloud import commands as verb
from cellsignal.cloud.cost import cost_of
from cellsignal.cloud.cost_table import cost_text, costs_text
from cellsignal.cloud.machines import (
    FORWARD_LAYER_S,
    GPUS,
    IMAGE_S,
    LAYER_S,
    STEP_S,
    ZSTD_BYTES_PER_S,
    choose_gpus,
    count_layers,
    measure_host,
    read_seconds,
)
from cellsignal.common.errors import InputError
from cellsignal.competitions import get_competition
from cellsignal.config import load_config
from cellsignal.models.backbones import build_model
from cellsignal.models.cost import forward_flops
from cellsignal.training.plan import jobs_of

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parent.parent.parent
GPU = {gpu.name: gpu for gpu in GPUS}


def test_every_operation_of_two_stages_is_counted(plates, tmp_path):
    stages = [
        stage(epochs=3, validate_every=2, amp="auto"),
        stage("cell_type", per="cell_type", init="previous", epochs=1, batch_size=4),
    ]
    made = make_config(plates, tmp_path, stages, predict={"tta": 4, "adapt": "plate"})
    cost, jobs = cost_of(made), jobs_of(made)
    forward = forward_flops(
        build_model(made.model, 6, jobs[0].outputs, 24, 4, initial_weights=False), 6, 24
    )
    first, others = jobs[0], jobs[1:]
    assert len(others) == 4 == len(cost.jobs) - 1
    assert cost.jobs[0].training.flops == pytest.approx(3 * len(first.train) * 3 * forward)
    # after epochs 2 and 3; a pass for the plates' statistics
    assert cost.jobs[0].validation.flops == pytest.approx(2 * len(first.valid) * 2 * forward)
    assert sum(job.training.flops for job in cost.jobs[1:]) == pytest.approx(
        sum(len(job.train) for job in others) * 3 * forward
    )
    # two stages, four views and the statistics
    assert cost.prediction.flops == pytest.approx(
        2 * (len(first.valid) + len(first.test)) * 5 * forward
    )
    assert [job.training.half for job in cost.jobs] == [True, False, False, False, False]


def test_teachers_pseudo_labels_checkpointing_and_frozen_networks(plates, tmp_path):
    plain = stage(epochs=2, amp="auto", validate_every=2)

    def training(*, model=None, **more) -> tuple[float, float]:
        made = make_config(
            plates, tmp_path, [plain | more], model={"backbone": "test_resnet"} | (model or {})
        )
        [job] = cost_of(made).jobs
        return job.images, job.training.flops

    [job] = jobs_of(make_config(plates, tmp_path, [plain]))
    n, test = len(job.train), len(job.test)
    images, whole = training()
    forward = whole / 6 / n
    assert images == 2 * n
    assert training(gradient_checkpointing=True)[1] == pytest.approx(8 * n * forward)
    teacher = {"ema": 0.9, "mean_teacher": {"unlabelled": "test"}}
    assert training(**teacher) == pytest.approx((2 * (n + test), 2 * (n + test) * 4 * forward))
    pseudo = {"pseudo_labels": {"start": 1, "first": 0.4}}  # one epoch of them: all
    assert training(**pseudo) == pytest.approx(
        (2 * n + test, (2 * n + test) * 3 * forward + test * forward)
    )
    assert training(model={"frozen": True})[1] == pytest.approx(2 * n * forward, rel=0.02)


WILDS = pytest.param("wilds_erm", 90 * 40_612, 0, 32, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("name", "full", "held_out", "gflop"), [("one_hour", 60 * 85_716, 60, 33), WILDS]
)
def test_the_recipes_numbers_of_images(name, full, held_out, gflop, real_data, monkeypatch):
    """From the real tables alone: all 73,030 treatment sites and 12,686 controls, less fold 0's by
    the fold table's own count; WILDS' published part.
    """
    monkeypatch.chdir(REPOSITORY)
    cost = cost_of(
        load_config(
            f"configs/rxrx1/{name}.yaml", [f"data.root={real_data}/rxrx1", "data.store=none"]
        )
    )
    table = pd.read_csv("folds/rxrx1.csv")
    fold = held_out * (85_716 - 2 * table.n[table.fold == 0].sum())  # two sites a well
    assert sum(job.images for job in cost.jobs) == full + fold
    assert cost.per_image / 1e9 == pytest.approx(gflop, rel=0.05)


def rows(text: str) -> dict[str, list[str]]:
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| ")
    ]
    return {row[0]: row[1:] for row in cells[1:]}


def number(cell: str) -> float:
    return float(re.match(r"[\d.,e-]+", cell)[0].replace(",", ""))


def test_the_table_says_what_was_assumed_and_takes_measurements(plates, tmp_path):
    made = make_config(
        plates,
        tmp_path,
        [stage(epochs=500_000, amp="auto", validate_every=500_000)],
        predict={"tta": 1},
    )
    cost = cost_of(made)
    text = cost_text("tiny", cost, utilisation=0.25)
    assert (
        "NOT MEASURED" in text
        and "CHECK BEFORE YOU RENT" in text
        and "25% of the vendor's peak is an assumption" in text
    )
    found = rows(text)
    assert set(found) == set(GPU)
    for name, gpu in GPU.items():
        hours = cost.seconds(gpu, 0.25) / 3600
        assert number(found[name][1]) == pytest.approx(cost.images_per_s(gpu, 0.25), rel=0.06)
        assert number(found[name][3]) == pytest.approx(hours, rel=0.06)
        assert number(found[name][4]) == pytest.approx(hours * gpu.usd, rel=0.06)
    images = sum(job.images for job in cost.jobs)
    measured = rows(cost_text("tiny", cost, measured={"l4": 2000}))["L4"]
    assert measured[1] == "2,000" and float(measured[3]) == pytest.approx(
        images / 2000 / 3600, rel=0.06
    )
    assert measured[6].endswith("of the peak, measured")


def test_hours_shorter_than_a_start_are_not_told_apart(plates, tmp_path):
    cost = cost_of(make_config(plates, tmp_path, [stage(epochs=1, amp="auto")]))
    assert {row[3] for row in rows(cost_text("tiny", cost)).values()} == {"<0.01 [<0.01 to <0.01]"}


def test_a_tiny_network_is_bound_by_reading_and_launching_not_by_arithmetic(plates, tmp_path):
    made = make_config(
        plates,
        tmp_path,
        [stage(epochs=5000, amp="auto", batch_size=8, validate_every=5000)],
        predict={"tta": 1},
    )
    cost, [job] = cost_of(made), jobs_of(made)
    model = build_model(made.model, 6, job.outputs, 24, 4, initial_weights=False)
    step = STEP_S + count_layers(model) * LAYER_S
    for gpu in GPUS:
        rate = cost.images_per_s(gpu, 0.2)
        assert rate <= 1.0001 * gpu.count * 8 / step
        assert rate <= 1.0001 / IMAGE_S * max(1, min(gpu.cores, made.data.workers * gpu.count))
        assert cost.seconds(gpu, 0.2) >= 5000 * len(job.train) / rate
    h100 = GPU["H100"]
    assert cost.bound(h100, 0.2) == "launching"
    assert cost.images_per_s(h100, 0.2) == pytest.approx(8 / step)
    # what was claimed before
    assert cost.peak_images_per_s(h100) > 100 * cost.images_per_s(h100, 0.2)
    prediction = len(job.valid) + len(job.test)
    launches = prediction / made.predict.batch_size * count_layers(model) * FORWARD_LAYER_S
    assert cost.prediction.launch_s == pytest.approx(launches)


def test_reading_is_bound_by_the_machines_cores_and_the_configs_workers(monkeypatch):
    """RxRx1 at 512 px from a zstd store: 296 sites/s a core, whatever the GPU."""
    monkeypatch.chdir(REPOSITORY)
    overrides = [
        "data.root=none",
        "data.store=none",
        "data.size=512",
        "model.backbone=resnet10t",
        "model.pretrained=false",
    ]

    def rate(gpu, workers):
        config = load_config("configs/rxrx1/one_hour.yaml", [*overrides, f"data.workers={workers}"])
        return cost_of(config).images_per_s(gpu, 0.2)

    h100 = GPU["H100"]
    assert rate(h100, 2) == pytest.approx(2 * 296) and rate(h100, 0) == pytest.approx(296)
    (four,) = choose_gpus(["H100"], cores=4)
    assert rate(four, 12) == pytest.approx(4 * 296)


def test_reading_costs_an_image_its_bytes_and_at_least_the_least():
    site = 6 * 512 * 512
    assert (
        read_seconds(site, "zstd")
        == pytest.approx(site / ZSTD_BYTES_PER_S)
        == pytest.approx(1 / 296)
    )
    assert read_seconds(site, "raw") == pytest.approx(1 / 705)
    assert (
        read_seconds(3 * 32 * 32, "raw") == IMAGE_S == read_seconds(3 * 32 * 32, "zstd", "memory")
    )
    assert read_seconds(site, "zstd", "memory") < read_seconds(site, "raw")
    assert read_seconds(site, "zstd", "device") == 0
    assert read_seconds(site, "raw") < read_seconds(site, "lz4") < read_seconds(site, "zstd") / 2


def test_layers_are_what_is_launched():
    from torch import nn

    inner = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Identity(), nn.Dropout(), nn.BatchNorm2d(4), nn.ReLU()
    )
    assert count_layers(nn.Sequential(inner, nn.Flatten(), nn.Linear(4, 2))) == 5


def test_the_hosts_figures_can_be_measured_again():
    """Only what holds on any machine: a step has a cost, a layer more of it in training than in a
    forward pass alone.
    """
    measured = measure_host(few=1, many=40, steps=20)
    assert set(measured) == {"STEP_S", "LAYER_S", "FORWARD_LAYER_S"}
    assert measured["LAYER_S"] > measured["FORWARD_LAYER_S"] > 0


RXRX1 = [
    "wilds_erm",
    "one_hour",
    "capstone_resnet50",
    "two_stage_resnet50",
    "first_place_densenet161",
    "second_place_plate_wise",
]


@pytest.mark.parametrize("name", RXRX1)
def test_without_data_the_published_counts_give_what_the_real_tables_give(
    name, real_data, monkeypatch
):
    monkeypatch.chdir(REPOSITORY)
    path = f"configs/rxrx1/{name}.yaml"
    real = cost_of(load_config(path, [f"data.root={real_data}/rxrx1", "data.store=none"]))
    published = cost_of(load_config(path, ["data.root=none", "data.store=none"]))
    assert not real.note and "125,510 images of rxrx1 as published" in published.note
    assert sum(job.images for job in published.jobs) == pytest.approx(
        sum(job.images for job in real.jobs), rel=1e-3
    )
    for gpu in GPUS:
        assert published.seconds(gpu, 0.2) == pytest.approx(real.seconds(gpu, 0.2), rel=0.01)


@pytest.mark.parametrize(
    "path",
    sorted((REPOSITORY / "configs").glob("*/*.yaml")),
    ids=lambda path: f"{path.parent.name}/{path.stem}",
)
def test_every_config_has_a_cost_before_anything_is_downloaded(path, monkeypatch):
    """No rate above what one core reads of the smallest images, times the machine's cores; no price
    without hours.
    """
    monkeypatch.chdir(REPOSITORY)
    config = load_config(path, ["data.root=none", "data.store=none"])
    cost = cost_of(config)
    assert cost.note.startswith("none has no data") and config.competition in cost.note
    for gpu in GPUS:
        assert 0 < cost.images_per_s(gpu, 0.35) <= gpu.cores / IMAGE_S
        assert 0.1 < cost.seconds(gpu, 0.35) < 1e7


def test_without_a_fold_table_the_folds_are_equal(tmp_path):
    sets = [
        "data.root=none",
        "data.store=none",
        f"folds.file={tmp_path}/none.csv",
        "folds.use=null",
        "folds.full=false",
    ]
    cost = cost_of(load_config(REPOSITORY / "configs/bbbc021/lenet.yaml", sets))
    epochs = load_config(REPOSITORY / "configs/bbbc021/lenet.yaml").stages[0].epochs
    assert [job.images for job in cost.jobs] == pytest.approx([epochs * 420 * 4 / 5] * 5)
    assert "5 equal folds" in cost.note


def test_images_without_a_published_size_need_one(tmp_path):
    sets = ["data.root=none", "data.store=none", "data.size=null"]
    with pytest.raises(
        InputError,
        match=r"data\.size: the images of mitoreid differ in size; without the data give one",
    ):
        cost_of(load_config(REPOSITORY / "configs/mitoreid/ide.yaml", sets))


def test_without_data_and_published_counts_there_is_no_cost(monkeypatch):
    monkeypatch.setattr(get_competition("bbbc021").__class__, "published", None)
    sets = ["data.root=none", "data.store=none"]
    with pytest.raises(
        InputError,
        match="none has no data, none is not a store, and bbbc021 has no published counts",
    ):
        cost_of(load_config(REPOSITORY / "configs/bbbc021/lenet.yaml", sets))


def test_an_empty_folder_is_no_data(tmp_path):
    sets = [f"data.root={tmp_path}", "data.store=none"]
    assert cost_of(load_config(REPOSITORY / "configs/bbbc021/lenet.yaml", sets)).note


@pytest.mark.parametrize(
    ("competition", "root"),
    [("rxrx1", "rxrx1"), ("bbbc021", "bbbc021/subset"), ("bbbc021_full", "bbbc021")],
)
def test_the_published_counts_are_those_of_the_real_tables(competition, root, real_data):
    made = get_competition(competition)
    samples, published = made.samples(real_data / root), made.published
    treated, labelled = samples.role == "treatment", samples.label.notna()
    inside = samples.split == "train"
    assert published.train == (treated & inside & labelled).sum()
    assert published.test == (treated & ~inside).sum()
    assert published.train_controls == (~treated & inside & labelled).sum()
    assert published.test_controls == (~treated & ~inside & labelled).sum()
    assert published.unlabelled == made.pretraining(samples).sum()
    assert published.classes == len(made.classes(real_data / root))
    known = samples[treated & inside & labelled]
    assert published.compounds == known["compound"].nunique()
    assert published.cell_types == samples.cell_type.nunique()
    assert set(published.sites) == set(samples.site.unique())


@pytest.mark.parametrize("competition", ["idr0088_gpcr", "idr0088_moa"])
def test_the_published_counts_of_idr0088_are_those_of_the_annotation(competition, real_data):
    made = get_competition(competition)
    known, classes = made.known_compounds(
        real_data / "idr0088" / "idr0088-screenA-annotation.csv.zip"
    )
    published = made.published
    assert published.train == 2 * known.n.sum() and published.compounds == len(known)
    assert published.classes == len(classes)
    assert published.unlabelled + published.test == 2 * 317_430


def test_the_published_counts_of_cpjump1_are_those_of_its_plates(real_data):
    plates = pd.read_csv(real_data / "cpjump1_profiles" / "experiment-metadata.tsv", sep="\t")
    fields = plates.Number_of_images[plates.Batch == "2020_11_04_CPJUMP1"].sum() / 8
    assert get_competition("cpjump1").published.images == fields


def test_any_card_and_any_price_can_be_given(plates, tmp_path):
    names = {gpu.name for gpu in GPUS}
    assert {"RTX 3090", "RTX 4090", "T4 x2", "P100"} <= names
    cost = cost_of(make_config(plates, tmp_path, [stage(epochs=300_000, amp="auto")]))
    gpus = choose_gpus(["rtx4090", "RTX 5090=210", "Old=10/8"], {"RTX 4090": "0.3"})
    assert [(gpu.name, gpu.half, gpu.single) for gpu in gpus] == [
        ("RTX 4090", 165, 82.6),
        ("RTX 5090", 210, 105),
        ("Old", 10, 8),
    ]
    found = rows(cost_text("tiny", cost, gpus=gpus))
    assert found["RTX 4090"][0] == "0.30" and found["RTX 4090"][6] == "--price"
    assert found["RTX 5090"][0] == "?" and found["RTX 5090"][4] == "?"
    (priced,) = choose_gpus(["RTX 5090=210"], {"rtx-5090": "1"})
    hours = cost.seconds(priced, 0.2) / 3600
    assert number(rows(cost_text("tiny", cost, gpus=[priced]))["RTX 5090"][4]) == pytest.approx(
        hours, rel=0.06
    )
    assert [gpu.name for gpu in choose_gpus(["T4", "t4", "L4"])] == ["T4", "L4"]
    two, one = GPU["T4 x2"], GPU["T4"]
    assert (two.half, two.single) == (2 * one.half, 2 * one.single) and two.count == 2


@pytest.mark.parametrize(
    ("words", "prices", "cores", "message"),
    [
        (["RTX 9090"], {}, None, r"--gpu RTX 9090: not in the table \(T4, .*--gpu 'RTX 9090=100'"),
        (["RTX 9090=fast"], {}, None, "'fast' is not a number above 0"),
        (["RTX 9090=0"], {}, None, "'0' is not a number above 0"),
        (["T4"], {"L4": "1"}, None, "--price L4: is not among T4"),
        (["T4"], {"T4": "nan"}, None, "'nan' is not a number from 0"),
        ([], {}, 0, "--cores 0: at least 1"),
        (["=100"], {}, None, "--gpu =100: write NAME"),
        (["A|B=100"], {}, None, r"--gpu A\|B=100: write NAME"),
    ],
)
def test_cards_and_prices_that_say_nothing_are_refused(words, prices, cores, message):
    with pytest.raises(InputError, match=message):
        choose_gpus(words, prices, cores)


def test_several_configs_are_rows_of_one_table(plates, tmp_path):
    costs = {
        name: cost_of(make_config(plates, tmp_path, [stage(epochs=epochs, amp="auto")]))
        for name, epochs in (("short", 300_000), ("long", 900_000))
    }
    text = costs_text(costs, utilisation=0.5)
    found = rows(text)
    assert list(found) == ["short", "long"] and "NOT MEASURED: 50%" in text
    for name, row in found.items():
        assert row[0] == "1"
        for (gpu, seconds), cell in zip(
            ((gpu, costs[name].seconds(gpu, 0.5)) for gpu in GPUS), row[3:], strict=True
        ):
            hours, usd = (
                float(word.replace(",", ""))
                for word in re.fullmatch(r"(\S+) h, (\S+) USD", cell).groups()
            )
            assert hours == pytest.approx(seconds / 3600, rel=0.06) and usd == pytest.approx(
                seconds / 3600 * gpu.usd, rel=0.06
            )


def test_two_configs_of_one_name_are_refused_and_not_one_row(tmp_path, monkeypatch):
    """The second would stand in the table in the place of both."""
    monkeypatch.chdir(REPOSITORY)
    path, again = Path("configs/rxrx1/one_hour.yaml"), tmp_path / "again.yaml"
    again.write_text(f"base: {path.absolute()}\nfolds: {{use: [0], full: false}}\n")
    with pytest.raises(
        InputError, match=r"again\.yaml: another of the configs is named 'rxrx1_one_hour', too"
    ):
        verb.cost(
            Namespace(
                configs=[path, again],
                set=[],
                seeds=None,
                utilisation=0.2,
                gpu=[],
                price=[],
                cores=None,
                measured=[],
            )
        )


def test_float32_is_slower_than_half(plates, tmp_path):
    half, single = (
        cost_of(make_config(plates, tmp_path, [stage(amp=amp)])) for amp in ("auto", "off")
    )
    ratio = single.computing_seconds(GPU["T4"], 0.2) / half.computing_seconds(GPU["T4"], 0.2)
    assert ratio == pytest.approx(65 / 8.1)


def test_what_cannot_be_is_refused(plates, tmp_path):
    made = make_config(plates, tmp_path)
    with pytest.raises(InputError, match="--measured K80: is not among T4"):
        cost_text("tiny", cost_of(made), measured={"K80": 3})
    with pytest.raises(InputError, match="of the peak of a T4"):
        cost_text("tiny", cost_of(made), measured={"T4": 1e12})


@pytest.mark.parametrize("rate", ["nan", "inf", "0", "-3", "fast"])
def test_a_measured_rate_that_is_no_number_is_named(rate):
    with pytest.raises(InputError, match=f"--measured T4={rate}: '{rate}' is not a number above 0"):
        verb.cost(
            Namespace(
                configs=[],
                set=[],
                seeds=None,
                utilisation=0.2,
                gpu=[],
                price=[],
                cores=None,
                measured=[f"T4={rate}"],
            )
        )

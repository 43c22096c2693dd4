"""The page of scale follows from the measured page and its assumptions, by hand-computed figures."""

import re
from pathlib import Path

import pytest

from cellsignal.cloud import scale
from cellsignal.cloud.scale import Assumptions, exchange_share, need, read_assumptions, scale_page
from cellsignal.common.errors import InputError

REPOSITORY = Path(__file__).resolve().parents[2]


def test_constants_are_those_of_the_measured_page():
    text = (REPOSITORY / "docs/results/performance.md").read_text()
    row = re.search(r"\| cellsignal store, zstd, 512 px \|(.+)\|", text).group(1).split("|")
    assert float(row[3]) == scale.STORE_TO_PNG
    assert float(row[4]) == pytest.approx(1000 * scale.ENCODE_S)
    row = re.search(r"\| PNGs, cv2.imread \|(.+)\|", text).group(1).split("|")
    assert float(row[0]) == pytest.approx(1000 * scale.DECODE_S)
    assert float(re.search(r"\| process \| (\d+) \|", text).group(1)) == 1 / scale.READ_S


@pytest.mark.slow
def test_flops_and_weights_are_those_of_the_networks():
    from cellsignal.config.schema import Model
    from cellsignal.models.backbones import build_model
    from cellsignal.models.cost import forward_flops, training_flops

    for name, backbone in (("ResNet-50", "resnet50"), ("DenseNet161", "densenet161")):
        model = build_model(Model(backbone=backbone), 6, 1000, 512, initial_weights=False)
        flops, weights = scale.NETWORKS[name]
        assert training_flops(forward_flops(model, 6, 512)) == pytest.approx(flops, rel=0.03)
        assert sum(p.numel() for p in model.parameters()) == pytest.approx(weights, rel=0.03)


def test_one_gpu_by_hand():
    one = need("ResNet-50", 1, 1, Assumptions())
    assert one.rate == pytest.approx(0.2 * 790e12 / 129e9)  # 1,225 images/s
    assert one.cores == pytest.approx(one.rate / 296) and one.bound == "computing"
    assert one.stored == pytest.approx(one.rate * 1.22 * 47e9 / 125_510)
    assert one.sent == pytest.approx(one.rate * 6 * 512 * 512) and one.fed == one.rate


def test_what_bounds_it_is_said():
    few = need("ResNet-50", 1, 1, Assumptions(cores_a_gpu=2))
    assert few.bound == "cores" and few.fed == pytest.approx(2 * 296)
    slow = need("ResNet-50", 4, 32, Assumptions(gbit_a_machine=1))
    assert slow.bound == "network" and slow.fed == pytest.approx(4 * 1e9 / 8 / scale.STORED_BYTES)
    assert need("ResNet-50", 4, 32, Assumptions()).rate == pytest.approx(
        32 * 0.9 * need("ResNet-50", 1, 1, Assumptions()).rate
    )


def test_the_exchange_of_gradients_by_hand():
    step = 64 * 129e9 / (0.2 * 790e12)
    share = 2 * 4 * 25.6e6 * 31 / 32 / 12.5e9 / step
    assert exchange_share("ResNet-50", 32, 64, Assumptions()) == pytest.approx(share)


def test_the_page_in_docs_is_what_the_command_gives():
    page = (REPOSITORY / "docs/scale.md").read_text(encoding="utf-8")
    assert page == scale_page(Assumptions())
    assert "Arithmetic, not measurement" in page
    for name in Assumptions.__dataclass_fields__:
        assert f"| {name} | " in page


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("speed=3", "--set speed=3: there is peak_tflops, utilisation"),
        ("epochs=many", "'many' is not a number"),
        ("epochs=1.5", "'1.5' is not a number"),
        ("utilisation=0", "utilisation=0: a number above 0"),
        ("utilisation=1.5", "a share, up to 1"),
        ("raw_tb=nan", "a number above 0"),
    ],
)
def test_a_wrong_assumption_is_named(word, message):
    with pytest.raises(InputError, match=re.escape(message)):
        read_assumptions([word])
    assert read_assumptions(["epochs=10", "utilisation=0.3"]).epochs == 10

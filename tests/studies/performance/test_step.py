"""The benchmark of the training step: what it measures is a training step, its figures are those of
its clock, and what cannot be done is said.
"""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from cellsignal.common.errors import InputError
from cellsignal.config.schema import Model
from cellsignal.studies.performance import step as bench
from cellsignal.studies.performance.live_bytes import LiveBytes
from cellsignal.studies.performance.step import Variant, bench_step, step_text

pytestmark = pytest.mark.slow

TINY = Model(backbone="resnet10t", cell_type_vector=True)
CPU = torch.device("cpu")
ALL = bench.VARIANTS


def small(monkeypatch, *names: str) -> None:
    """As bf16 takes long on a CPU without instructions for it."""
    monkeypatch.setattr(
        bench,
        "VARIANTS",
        tuple(Variant(name, bf16=False, checkpointed=name == "checkpointed") for name in names),
    )
    monkeypatch.setattr(bench, "WARM_UP", 1)


def test_the_step_on_a_cpu(monkeypatch):
    small(monkeypatch, "first", "checkpointed")
    monkeypatch.setattr(bench, "VARIANTS", (*bench.VARIANTS, *[v for v in ALL if v.compile]))
    table = bench_step(TINY, [32, 40], batch=2, rounds=1, steps=1, device=CPU)
    assert table["size"].tolist() == [32] * 4 + [40] * 4 and set(table.batch) == {2}
    done, left_out = table[table.note == ""], table[table.note != ""]
    assert done.variant.tolist() == ["first", "checkpointed"] * 2
    assert left_out.note.tolist() == ["left out (takes minutes to start)", "needs a GPU"] * 2
    assert (done[["images_per_s", "ratio", "of_peak", "peak_gib", "start_s"]] > 0).all(axis=None)
    assert done.ratio[0] == done.ratio[4] == 1
    weights = sum(p.numel() for p in bench.build_model(TINY, 6, 96, 32, 4).parameters()) * 4 / 2**30
    # weights, gradients and AdamW's two; activations are small
    assert (done.peak_gib > 4 * weights).all() and (done.peak_gib < 5 * weights).all()
    assert len(step_text(table).splitlines()) == 2 + 8 and "needs a GPU" in step_text(table)


def test_medians_and_ratios_by_hand(monkeypatch):
    """Two images a step, two steps a round, three rounds; the second round is slow for both."""
    small(monkeypatch, "first", "second")
    took = iter([9.0, 9.0, 2.0, 1.0, 8.0, 2.0, 4.0, 4.0])  # each started; then in turns
    monkeypatch.setattr(bench, "_seconds", lambda step, steps, device: next(took))
    first, second = bench_step(TINY, [32], batch=2, rounds=3, steps=2, device=CPU).itertuples()
    assert (first.images_per_s, second.images_per_s) == (2 / (4 / 2), 2 / (2 / 2))
    assert (first.ratio, second.ratio, first.start_s) == (1.0, 2.0, 9.0)  # of 2/1, 8/2 and 4/4


@pytest.mark.parametrize(
    "variant",
    [variant for variant in ALL if variant.compile is None],
    ids=lambda variant: variant.name,
)
def test_a_step_trains(variant, monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(6, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(72, 3)
    )
    if variant.checkpointed:
        variant = replace(variant, bf16=False)
        model = bench.build_model(Model(backbone="resnet10t"), 6, 3, 32)
    batch = bench._Batch(torch.randn(4, 6, 32, 32), torch.tensor([0, 2, 1, 0]), ())
    step, _ = bench._make(variant, model, batch)
    losses, dtypes = [], set()
    loss_of = functional.cross_entropy
    monkeypatch.setattr(
        functional,
        "cross_entropy",
        lambda logits, labels: dtypes.add(logits.dtype) or loss_of(logits, labels),
    )
    for _ in range(2):
        with torch.no_grad():
            losses.append(loss_of(model(batch.images), batch.labels).item())
        for _ in range(5):
            step()
    assert losses[1] < losses[0]
    assert dtypes == {torch.bfloat16 if variant.bf16 else torch.float32}
    assert all(parameter.grad is None for parameter in model.parameters())
    assert (
        next(model.parameters()).is_contiguous(memory_format=torch.channels_last)
        == variant.channels_last
    )


def test_a_network_without_checkpointing_says_so(monkeypatch):
    small(monkeypatch, "first", "checkpointed")
    table = bench_step(Model(backbone="lenet"), [64], batch=2, rounds=1, steps=1, device=CPU)
    assert table.note.tolist() == ["", "gradient_checkpointing: LeNet has no such option"]
    assert table.images_per_s.notna().tolist() == [True, False]


def test_out_of_memory_leaves_a_row(monkeypatch):
    small(monkeypatch, "first", "second", "third")
    calls = []

    def seconds(step, steps, device):
        calls.append(steps)
        if len(calls) in (2, 4):  # the second's start; the first's first round
            raise torch.OutOfMemoryError
        return 1.0

    monkeypatch.setattr(bench, "_seconds", seconds)
    table = bench_step(TINY, [32], batch=2, rounds=2, steps=1, device=CPU)
    assert table.note.tolist() == ["out of memory", "out of memory", ""]
    assert table.images_per_s.isna().tolist() == [True, True, False] and table.ratio.isna().all()


def test_a_batch_of_one_is_refused():
    with pytest.raises(InputError, match="two images"):
        bench_step(TINY, [32], batch=1)


def test_live_bytes_by_hand():
    kept = torch.zeros(500)  # 2,000 bytes
    live = LiveBytes()
    live.count(kept)
    with live:
        a = torch.zeros(1000)  # 6,000
        b = a + 1  # 10,000
        c = (b * 2)[10:]  # 14,000, a view
        del b  # 10,000
        kept.add_(1)
        assert (live.now, live.most) == (10_000, 14_000)
        del c  # 6,000
        d = torch.ones(1500)  # 12,000
    assert (live.now, live.most) == (12_000, 14_000) and len(d) > len(a)

"""Which numbers a stage computes in: what is asked for, or what the device has."""

import pytest
import torch

from cellsignal.training import optim
from cellsignal.training.optim import autocast, compute_dtype

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("amp", "dtype"), [("off", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_what_is_asked_for(amp, dtype):
    assert compute_dtype(amp, CPU) == compute_dtype(amp, GPU) == dtype
    with autocast(amp, CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


@pytest.mark.parametrize("has", [True, False])
def test_auto_is_what_the_device_has(has, monkeypatch):
    monkeypatch.setattr(optim, "_cpu_has_bfloat16", lambda: has)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: has and not including_emulation
    )
    expected = torch.bfloat16 if has else torch.float32
    assert compute_dtype("auto", CPU) == expected
    with autocast("auto", CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == expected
    assert compute_dtype("auto", GPU) == (torch.bfloat16 if has else torch.float16)


def test_the_cpu_is_asked():
    assert optim._cpu_has_bfloat16() == torch.ops.mkldnn._is_mkldnn_bf16_supported()

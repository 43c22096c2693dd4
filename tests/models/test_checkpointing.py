"""Gradient checkpointing changes neither gradients nor running statistics."""

import copy

import pytest
import torch

from cellsignal.common.errors import InputError
from cellsignal.config.schema import Model
from cellsignal.models.backbones import build_model
from cellsignal.models.cost import checkpoint_activations

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("backbone", ["resnet10t", "densenet121", "resnet3d18"])
def test_gradients_and_running_statistics_are_those_without(backbone):
    torch.manual_seed(0)
    plain = build_model(Model(backbone=backbone), 6, 5, 32)
    saving = copy.deepcopy(plain)
    random = torch.get_rng_state()
    checkpoint_activations(saving, (torch.zeros(2, 6, 32, 32),))
    assert torch.equal(torch.get_rng_state(), random)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, saving.state_dict()[name]), name
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: (kept.append(x.numel()), x)[1], lambda x: x
    ):
        sizes = []
        for model in (plain, saving):
            kept.clear()
            model.train()
            for seed in (1, 2):
                x = torch.randn(4, 6, 32, 32, generator=torch.Generator().manual_seed(seed))
                loss = model.outputs(x).logits.square().mean()
                if seed == 2:
                    sizes.append(sum(kept))
                loss.backward()
    assert sizes[1] < sizes[0]  # else it saves nothing
    for (name, a), (_, b) in zip(plain.named_parameters(), saving.named_parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-3, msg=name)
    for (name, a), (_, b) in zip(plain.named_buffers(), saving.named_buffers(), strict=True):
        if "running" in name:
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4, msg=name)


def test_a_network_without_the_option_is_refused():
    lenet = build_model(Model(backbone="lenet"), 3, 4, 64)
    with pytest.raises(InputError, match="gradient_checkpointing: LeNet has no such option"):
        checkpoint_activations(lenet, (torch.zeros(2, 3, 64, 64),))

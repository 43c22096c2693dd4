"""GroupDRO, DANN and CORAL against figures made by hand."""

import math

import pytest
import torch

from cellsignal.studies.shift.penalties import CORAL, DANN, Domains, GroupDRO, NoPenalty


def batch_of(losses, domain, embedded=None, progress=1.0) -> Domains:
    losses = torch.tensor(losses)
    if embedded is None:
        embedded = torch.zeros(len(losses), 2)
    return Domains(losses, embedded, torch.tensor(domain), progress)


def test_no_penalty_is_the_mean():
    assert NoPenalty(2, 2)(batch_of([1.0, 3.0], [0, 1])) == 2


def test_group_dro_raises_the_weight_of_the_worse_experiment():
    penalty = GroupDRO(2, 2, step=math.log(2))
    loss = penalty(batch_of([0.0, 1.0, 1.0], [0, 1, 1]))
    # weights 1/2 x (e^0, 2^1), which sum to 1 as (1/3, 2/3)
    torch.testing.assert_close(penalty.weights, torch.tensor([1 / 3, 2 / 3]))
    torch.testing.assert_close(loss, torch.tensor(2 / 3))


def test_group_dro_of_a_batch_without_an_experiment_weighs_those_present():
    penalty = GroupDRO(2, 2, step=0.0)
    torch.testing.assert_close(penalty(batch_of([2.0, 4.0], [1, 1])), torch.tensor(3.0))


@pytest.mark.parametrize("progress", [0.0, 1.0])
def test_dann_turns_the_gradient_of_the_second_head_round(progress):
    torch.manual_seed(0)
    penalty = DANN(2, 2, weight=0.5)
    values = torch.randn(4, 2)
    domain = torch.tensor([0, 1, 1, 0])
    plain = values.clone().requires_grad_()
    torch.nn.functional.cross_entropy(penalty.head(plain), domain).backward()
    turned = values.clone().requires_grad_()
    penalty(Domains(torch.zeros(4), turned, domain, progress)).backward()
    scale = 0.5 * (2 / (1 + math.exp(-10 * progress)) - 1)
    torch.testing.assert_close(turned.grad, -scale * plain.grad)


def test_coral_is_the_difference_of_means_and_covariances():
    embedded = torch.tensor([[0.0, 0.0], [2.0, 0.0], [1.0, 1.0], [1.0, 3.0]])
    # means (1, 0) and (1, 2): squares 0 and 4, mean 2; covariances diag(2, 0) and diag(0, 2): mean 2
    loss = CORAL(2, 2)(batch_of([0.0] * 4, [0, 0, 1, 1], embedded))
    torch.testing.assert_close(loss, torch.tensor(4.0))


def test_coral_of_one_experiment_is_the_mean_loss():
    loss = CORAL(2, 2)(batch_of([1.0, 2.0], [0, 0], torch.randn(2, 2)))
    torch.testing.assert_close(loss, torch.tensor(1.5))

"""The loss of a stage against scalar formulas, brute force and pytorch-metric-learning's own."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.losses import ArcFaceLoss, CosFaceLoss
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from cellsignal.config.augment import Mix
from cellsignal.config.losses import Center, Margin, Triplet
from cellsignal.config.schema import Model
from cellsignal.config.stage import Optimizer, Stage
from cellsignal.models.backbones import build_model
from cellsignal.models.heads import CosineHead, Outputs
from cellsignal.training import losses
from cellsignal.training.losses import (
    LOSSES,
    CenterLoss,
    HardLabelLoss,
    SoftCrossEntropy,
    TripletLoss,
    class_weights,
    margin_cosines,
    register_loss,
)
from cellsignal.training.optim import build_optimizer
from cellsignal.training.stage_loss import StageLoss

K, D = 4, 6


def triplet_loss(margin: float, mining: str, normalised: bool = True) -> TripletLoss:
    """`model_construct` also takes margins that a config may not name."""
    config = Triplet.model_construct(margin=margin, mining=mining, normalised=normalised)
    return TripletLoss(config, K, D, None)


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def soft(seed: int, n: int, k: int = K) -> torch.Tensor:
    return random(seed, n, k).softmax(1)


def outputs(seed: int, n: int) -> Outputs:
    embedding = random(seed, n, D).requires_grad_()
    return Outputs(embedding, 3 * random(seed + 1, n, K), CosineHead(D, K)(embedding))


def stage(**options) -> Stage:
    return Stage(name="s", epochs=1, **options)


# label mass
# --------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    n=st.integers(1, 6),
    unlabelled=st.integers(0, 5),
    smoothing=st.sampled_from([0.0, 0.1]),
    weighted=st.booleans(),
)
def test_unlabelled_rows_change_nothing(seed, n, unlabelled, smoothing, weighted):
    weights = random(seed + 2, K).exp() if weighted else None
    loss = SoftCrossEntropy(weights, smoothing)
    logits = random(seed, n, K)
    targets = soft(seed + 1, n)
    more = (
        torch.cat([logits, random(seed + 3, unlabelled, K)]),
        torch.cat([targets, torch.zeros(unlabelled, K)]),
    )
    expected = nn.functional.cross_entropy(
        logits, targets, weight=weights, label_smoothing=smoothing
    )
    assert torch.allclose(loss(logits, targets), expected, rtol=1e-5)
    assert torch.allclose(loss(*more), expected, rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_hard_labels_give_torchs_own_bits(smoothing):
    for seed in range(20):
        logits, weights = 3 * random(seed, 32, K), random(seed + 1, K).exp()
        targets = torch.eye(K)[torch.arange(32) % K]
        expected = nn.functional.cross_entropy(
            logits, targets, weight=weights, label_smoothing=smoothing
        )
        assert torch.equal(SoftCrossEntropy(weights, smoothing)(logits, targets), expected)


def test_a_partly_labelled_row_counts_by_its_mass():
    """CutMix of a labelled image with 70 % of an unlabelled one: row sum .3; by hand, with
    smoothing .1 within that mass.
    """
    logits, targets = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[0.3, 0.0], [0.0, 1.0]])
    a, b = -logits.log_softmax(1)
    plain = (0.3 * a[0] + b[1]) / 1.3
    smooth = (0.3 * (0.95 * a[0] + 0.05 * a[1]) + 0.95 * b[1] + 0.05 * b[0]) / 1.3
    assert SoftCrossEntropy(None)(logits, targets).item() == pytest.approx(plain.item())
    assert SoftCrossEntropy(None, 0.1)(logits, targets).item() == pytest.approx(smooth.item())


def test_a_batch_without_labels_is_zero_with_a_graph():
    parts = {"margin": Margin(), "triplet": Triplet(), "center": Center()}
    loss = StageLoss(stage(label_smoothing=0.1, **parts), torch.ones(K), K, D)
    for labels in (None, torch.full((3,), -1)):
        found = outputs(0, 3)
        value = loss(found, torch.zeros(3, K), labels)
        value.backward()
        assert value.item() == 0 and not found.embedding.grad.any()


# margins
# --------------------------------------------------------------------------------------------------


def scalar_arcface(cosine: float, y: float, m: float) -> float:
    theta = math.acos(cosine)
    turned = math.cos(theta + m) if theta + m < math.pi else cosine - m * math.sin(math.pi - m)
    return y * turned + (1 - y) * cosine


@settings(max_examples=300, deadline=None)
@given(theta=st.floats(0.01, math.pi - 0.01), y=st.floats(0, 1), m=st.floats(0, 1.49))
def test_arcface_is_the_scalar_formula(theta, y, m):
    cosine = float(np.float32(math.cos(theta)))
    assume(abs(theta + m - math.pi) > 1e-5)  # there rounding picks the branch
    found = margin_cosines(torch.tensor([[cosine]]), torch.tensor([[y]]), "arcface", m).item()
    assert found == pytest.approx(scalar_arcface(cosine, y, m), abs=5e-5)


@settings(max_examples=100, deadline=None)
@given(cosine=st.floats(-1, 1, width=32), y=st.floats(0, 1), m=st.floats(0, 1.49))
def test_cosface_is_the_scalar_formula(cosine, y, m):
    found = margin_cosines(torch.tensor([[cosine]]), torch.tensor([[y]]), "cosface", m).item()
    assert found == pytest.approx(y * (cosine - m) + (1 - y) * cosine, abs=1e-6)


@pytest.mark.parametrize("cosine", [1.0, -1.0, 1 + 1e-6, -1 - 1e-6, 0.9999999, 0.0])
@pytest.mark.parametrize("y", [0.0, 0.5, 1.0])
def test_gradients_are_finite_at_the_ends(cosine, y):
    cosines = torch.tensor([[cosine]], requires_grad=True)
    margin_cosines(cosines, torch.tensor([[y]]), "arcface", 0.5).sum().backward()
    assert cosines.grad.abs().item() < 2000


def test_gradients_are_finite_where_an_embedding_lies_on_its_class():
    head = CosineHead(D, K)
    embedding = (5 * head.weight.detach()).requires_grad_()
    loss = StageLoss(stage(margin=Margin()), None, K, D)
    loss(
        Outputs(embedding, torch.zeros(K, K), head(embedding)), torch.eye(K), torch.arange(K)
    ).backward()
    assert (
        embedding.grad.isfinite().all()
        and head.weight.grad.isfinite().all()
        and head.weight.grad.any()
    )


@pytest.mark.parametrize("margin", [0.1, 0.5, 1.2])
@pytest.mark.parametrize(
    ("name", "oracle"),
    [
        ("arcface", lambda m: ArcFaceLoss(K, D, margin=math.degrees(m), scale=30)),
        ("cosface", lambda m: CosFaceLoss(K, D, margin=m, scale=30)),
    ],
)
def test_hard_labels_are_metric_learnings(name, oracle, margin):
    oracle, labels = oracle(margin), torch.arange(24) % K
    head, embedding = CosineHead(D, K), random(3, 24, D)
    with torch.no_grad():
        head.weight.copy_(oracle.W.T)
        embedding[:4] = -3 * head.weight  # some beyond pi - margin
    targets = torch.eye(K)[labels]
    found = SoftCrossEntropy(None)(
        30 * margin_cosines(head(embedding), targets, name, margin), targets
    )
    assert torch.allclose(found, oracle(embedding, labels), rtol=1e-4)


def test_margins_stay_in_single_precision_under_autocast():
    loss = StageLoss(stage(margin=Margin(), triplet=Triplet(), center=Center()), None, K, D)
    found = outputs(1, 12)
    labels = torch.arange(12) % K
    expected = loss(found, torch.eye(K)[labels], labels)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss(found, torch.eye(K)[labels], labels), expected)
    half = Outputs(found.embedding.bfloat16(), found.logits.bfloat16(), found.cosines)
    assert loss(half, torch.eye(K)[labels], labels).dtype == torch.float32


# the sum
# --------------------------------------------------------------------------------------------------


def test_the_winning_loss():
    """.8 * CE + .2 * (1/2 * CE(30 * z)), z by soft labels; written out as in RxRx1's 1st place."""
    found, y = outputs(5, 9), soft(6, 9)
    z = torch.tensor(
        [
            [scalar_arcface(c, t, 0.5) for c, t in zip(*rows, strict=True)]
            for rows in zip(found.cosines.tolist(), y.tolist(), strict=True)
        ]
    )
    expected = 0.8 * -(y * found.logits.log_softmax(1)).sum(1).mean()
    expected = expected + 0.2 * (1 / 2 * -(y * (30 * z).log_softmax(1)).sum(1).mean())
    config = stage(
        cross_entropy=0.8, margin={"name": "arcface", "margin": 0.5, "scale": 30, "weight": 0.1}
    )
    assert StageLoss(config, None, K, D)(found, y, None).item() == pytest.approx(
        expected.item(), rel=1e-5
    )


def test_class_weights_act_in_both_cross_entropies_and_smoothing_in_one():
    found, y, weights = outputs(7, 9), soft(8, 9), torch.tensor([1.0, 2.0, 0.5, 3.0])
    config = stage(
        label_smoothing=0.2, margin=Margin(name="cosface", margin=0.3, scale=10, weight=0.25)
    )
    smooth = 0.8 * y + 0.2 / K
    expected = -(weights * smooth * found.logits.log_softmax(1)).sum(1).mean()
    expected = (
        expected
        - 0.25 * (weights * y * (10 * (found.cosines - 0.3 * y)).log_softmax(1)).sum(1).mean()
    )
    assert torch.allclose(StageLoss(config, weights, K, D)(found, y, None), expected, rtol=1e-5)


def test_a_stage_without_parts_is_cross_entropy_alone():
    found, y = outputs(9, 5), soft(10, 5)
    plain = Outputs(found.embedding, found.logits, None)
    loss = StageLoss(stage(cross_entropy=0.7), None, K, D)
    assert torch.equal(
        loss(plain, y, torch.zeros(5, dtype=torch.long)),
        0.7 * SoftCrossEntropy(None)(plain.logits, y),
    )
    assert loss.state_dict() == {} and list(loss.parameters()) == []


def test_triplet_and_center_are_left_out_of_mixed_batches_and_of_unlabelled_images():
    found, labels = outputs(11, 12), torch.arange(12) % K
    config = stage(triplet=Triplet(weight=0.5, margin=0.8), center=Center(weight=0.3))
    loss, y = StageLoss(config, None, K, D), torch.eye(K)[labels]
    plain = SoftCrossEntropy(None)(found.logits, y)
    assert torch.equal(loss(found, y, None), plain)
    some = torch.where(torch.arange(12) < 8, labels, -1)
    expected = (
        plain
        + 0.5 * loss.triplet(found.embedding[:8], labels[:8])
        + 0.3 * loss.center(found.embedding[:8], labels[:8])
    )
    assert loss.triplet(found.embedding[:8], labels[:8]) > 0
    assert torch.allclose(loss(found, y, some), expected)


# embeddings
# --------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31), n=st.integers(1, 10), k=st.integers(1, 5), margin=st.floats(0.05, 1)
)
def test_triplets_by_brute_force(seed, n, k, margin):
    embedding = random(seed, n, D)
    labels = torch.randint(k, (n,), generator=torch.Generator().manual_seed(seed))
    unit = (embedding / embedding.norm(dim=1, keepdim=True)).double().numpy()
    distance = ((unit[:, None] - unit[None]) ** 2).sum(2)
    losses = []
    for a in range(n):
        for p in range(n):
            for q in range(n):
                gap = distance[a, q] - distance[a, p]
                if (
                    a != p
                    and labels[a] == labels[p]
                    and labels[a] != labels[q]
                    and 0 < gap < margin
                ):
                    losses.append(margin - gap)
    expected = np.mean(losses) if losses else 0.0
    assert triplet_loss(margin, "semihard")(embedding, labels).item() == pytest.approx(
        expected, abs=1e-4
    )


def test_unique_labels_leave_no_triplet():
    embedding = random(0, 8, D).requires_grad_()
    value = triplet_loss(2.0, "semihard")(embedding, torch.arange(8))
    value.backward()
    assert value.item() == 0 and not embedding.grad.any()


def test_center_loss_by_hand():
    loss = CenterLoss(Center(), 3, 2, None)
    with torch.no_grad():
        loss.centers.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0], [9.0, 9.0]]))
    embedding = torch.tensor([[2.0, 1.0], [0.0, 0.0], [1.0, 0.0]], requires_grad=True)
    value = loss(embedding, torch.tensor([0, 1, 0]))
    value.backward()
    assert value.item() == pytest.approx((1 + 1 + 4 + 0) / 3)
    assert torch.allclose(embedding.grad, torch.tensor([[2.0, 2.0], [0.0, -4.0], [0.0, 0.0]]) / 3)
    assert torch.allclose(
        loss.centers.grad, torch.tensor([[-2.0, -2.0], [0.0, 4.0], [0.0, 0.0]]) / 3
    )


def test_centers_train_with_the_networks_optimiser_to_the_class_means():
    loss = StageLoss(stage(center=Center(weight=1.0)), None, K, D)
    found, labels = outputs(13, 20), torch.arange(20) % K
    optimizer = build_optimizer(
        [nn.Linear(2, 2), loss], Optimizer(name="sgd", lr=0.4, momentum=0, weight_decay=0)
    )
    assert set(loss.state_dict()) == {"center.centers"}
    for _ in range(60):
        optimizer.zero_grad()
        loss(
            Outputs(found.embedding.detach(), found.logits, None), torch.eye(K)[labels], labels
        ).backward()
        optimizer.step()
    means = torch.stack([found.embedding[labels == k].mean(0) for k in range(K)])
    assert torch.allclose(loss.center.centers, means, atol=1e-4)


def test_all_parts_together_in_half_precision_give_the_gradients_of_single_precision():
    """One step of a network under autocast: the loss is that of the same outputs in single
    precision, to the bit; its gradients are too, but for being rounded to the outputs' own type (8
    bits, so 1 part in 128 at most); every weight moves, and by all of these Adam's first step,
    which is `lr` in the gradient's direction.
    """
    torch.manual_seed(0)
    config = Model(
        backbone="test_resnet", neck=16, cell_type_vector=True, cosine_head=True, bn_momentum=0.05
    )
    network = build_model(config, 6, K, None, 2).train()
    loss = StageLoss(
        stage(margin=Margin(), triplet=Triplet(), center=Center()), None, K, network.width
    )
    optimizer = build_optimizer([network, loss], Optimizer(name="adam", lr=1e-3, weight_decay=0))
    images = torch.randn(8, 6, 32, 32)
    cell_type = torch.eye(2)[torch.arange(8) % 2]
    labels = torch.arange(8) % K
    with torch.autocast("cpu", torch.bfloat16):
        found = network.outputs(images, cell_type)
    single = Outputs(*(part.detach().float().requires_grad_() for part in found))
    for part in found:
        part.retain_grad()
    targets = torch.eye(K)[labels]
    expected = loss(single, targets, labels)
    expected.backward()
    loss.zero_grad()
    value = loss(found, targets, labels)
    value.backward()
    assert value.dtype == torch.float32 and torch.equal(value, expected)
    assert found.embedding.dtype == found.logits.dtype == torch.bfloat16
    # the heads' part of the embedding's comes on top
    for mine, reference in zip(found[1:], single[1:], strict=True):
        torch.testing.assert_close(mine.grad.float(), reference.grad, rtol=2**-7, atol=1e-8)
    before = {
        name: p.detach().clone()
        for module in (network, loss)
        for name, p in module.named_parameters()
    }
    grads = {name: p.grad for module in (network, loss) for name, p in module.named_parameters()}
    assert all(grad.isfinite().all() for grad in grads.values())
    # timm's residual branches begin silent
    learning = {name for name, grad in grads.items() if grad.any()}
    assert {
        "backbone.bn1.weight",
        "neck.1.weight",
        "neck.4.weight",
        "head.weight",
        "cosine.weight",
        "center.centers",
    } <= learning
    optimizer.step()
    for name, after in (item for module in (network, loss) for item in module.named_parameters()):
        clear = grads[name].abs() > 1e-4  # Adam's epsilon does not matter there
        moved = (after.detach() - before[name])[clear]
        torch.testing.assert_close(moved, -1e-3 * grads[name][clear].sign(), rtol=2e-2, atol=1e-6)


def test_all_parts_together_lower_a_convex_loss():
    """Outputs that are linear in the weights, in double precision: gradient descent lowers
    cross-entropy and center loss in every step, whatever the machine rounds.
    """
    torch.manual_seed(0)
    images, labels = torch.randn(16, D, dtype=torch.float64), torch.arange(16) % K
    head = nn.Linear(D, K).double()
    loss = StageLoss(stage(center=Center(weight=0.1)), None, K, D)
    optimizer = torch.optim.SGD([*head.parameters(), *loss.parameters()], lr=0.02)
    values = []
    for _ in range(20):
        value = loss(Outputs(images, head(images), None), torch.eye(K)[labels], labels)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    steps = -np.diff(values)
    assert steps.min() > 1e-4, steps  # a thousand times what single precision rounds


def test_a_loss_of_ones_own_is_a_field_and_a_class(monkeypatch):
    """It is added with its weight, its parameters train in its own group; nothing else changes."""
    monkeypatch.setattr("cellsignal.training.losses.LOSSES", dict(LOSSES))
    monkeypatch.setattr("cellsignal.training.stage_loss.LOSSES", losses.LOSSES)
    monkeypatch.delitem(losses.LOSSES, "center")

    @register_loss("center")
    class Pull(HardLabelLoss):
        def __init__(self, config, classes, width, weights):
            super().__init__(config, classes, width, weights)
            self.place = nn.Parameter(torch.zeros(width))

        def forward(self, embedding, labels):
            return (embedding - self.place).square().mean()

        def parameter_groups(self):
            return [{"params": [self.place], "lr": 0.5}]

    loss = StageLoss(stage(center=Center(weight=0.3)), None, K, D)
    found, labels = outputs(0, 6), torch.arange(6) % K
    y = torch.eye(K)[labels]
    expected = SoftCrossEntropy(None)(found.logits, y) + 0.3 * found.embedding.square().mean()
    assert torch.allclose(loss(found, y, labels), expected)
    assert loss.parameter_groups() == [{"params": [loss.center.place], "lr": 0.5}]


@pytest.mark.parametrize(
    "options, expected",
    [
        ({}, False),
        ({"center": Center()}, False),
        ({"center": Center(), "mix": Mix(mixup=1, p=0.5)}, True),
        ({"triplet": Triplet(), "mix": Mix(mixup=1, p=0.5)}, False),
    ],
)
def test_only_a_loss_that_learns_from_hard_labels_may_leave_parameters_out(options, expected):
    assert StageLoss(stage(**options), None, K, D).leaves_parameters_out is expected


def test_soft_cross_entropy_on_hard_labels_is_torchs():
    logits, labels = torch.randn(9, 4), torch.randint(0, 4, (9,))
    hard = nn.functional.one_hot(labels, 4).float()
    assert torch.allclose(
        SoftCrossEntropy(None, 0.1)(logits, hard),
        nn.CrossEntropyLoss(label_smoothing=0.1)(logits, labels),
    )


def test_soft_cross_entropy_by_hand():
    weights = torch.tensor([1.0, 3.0])
    logits = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    targets = torch.tensor([[0.25, 0.75], [1.0, 0.0]])
    log_p = logits.log_softmax(1)
    expected = -(0.25 * log_p[0, 0] + 3 * 0.75 * log_p[0, 1] + log_p[1, 0]) / 2
    assert torch.allclose(SoftCrossEntropy(weights)(logits, targets), expected)


def test_class_weights_are_sklearns():
    labels = np.array([0, 0, 0, 1, 2, 2])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert class_weights(labels, 3, "balanced").numpy() == pytest.approx(expected)
    assert class_weights(labels, 3, "sqrt").numpy() == pytest.approx(expected**0.5)
    assert class_weights(labels, 4, "balanced")[3] == 1 and class_weights(labels, 3, "none") is None

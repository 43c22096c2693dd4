"""Training with several labels an image: losses against torch's own, weights, what is
refused.
"""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, log_loss
from torch import nn

from cellsignal.common.errors import InputError
from cellsignal.competitions.multi_label import MultiLabel
from cellsignal.competitions.targets import label_matrix
from cellsignal.config.load import load_config
from cellsignal.training.losses import BinaryCrossEntropy, SoftCrossEntropy, positive_weights

seeds = st.integers(0, 10_000)
TASK = MultiLabel(SimpleNamespace(id="toy"))


def batch(seed: int, n: int = 12, k: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(n, k, generator=generator), (
        torch.rand(n, k, generator=generator) < 0.3
    ).float()


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_binary_cross_entropy_is_torchs(seed):
    logits, targets = batch(seed)
    assert BinaryCrossEntropy(None)(logits, targets).item() == pytest.approx(
        nn.BCEWithLogitsLoss()(logits, targets).item(), rel=1e-5
    )
    weights = torch.rand(5) * 9 + 0.1
    expected = nn.BCEWithLogitsLoss(pos_weight=weights)(logits, targets).item()
    assert BinaryCrossEntropy(weights)(logits, targets).item() == pytest.approx(expected, rel=1e-5)
    smooth = targets * 0.8 + 0.1
    assert BinaryCrossEntropy(None, 0.2)(logits, targets).item() == pytest.approx(
        nn.BCEWithLogitsLoss()(logits, smooth).item(), rel=1e-5
    )


@settings(max_examples=25, deadline=None)
@given(seeds, st.floats(0.5, 4))
def test_focal_losses_are_the_definition(seed, gamma):
    logits, targets = batch(seed)
    p = torch.sigmoid(logits.double())
    truth = torch.where(targets == 1, p, 1 - p)
    assert BinaryCrossEntropy(None, 0.0, gamma)(logits, targets).item() == pytest.approx(
        (-((1 - truth) ** gamma) * truth.log()).mean().item(), rel=1e-4
    )
    labels = torch.arange(12) % 5
    own = logits.double().softmax(1)[torch.arange(12), labels]
    expected = (-((1 - own) ** gamma) * own.log()).mean().item()
    found = SoftCrossEntropy(None, 0.0, gamma)(logits, torch.eye(5)[labels])
    assert found.item() == pytest.approx(expected, rel=1e-4)


def test_focal_loss_has_a_gradient_where_the_network_is_sure():
    logits = torch.tensor([[60.0, -60.0]], requires_grad=True)
    BinaryCrossEntropy(None, 0.0, 2.0)(logits, torch.tensor([[1.0, 0.0]])).backward()
    assert torch.isfinite(logits.grad).all()


def test_positive_weights_by_hand():
    truth = np.array([[1, 0, 0], [1, 0, 1], [0, 0, 1], [0, 0, 1]], np.float32)
    assert positive_weights(truth, "balanced", None).tolist() == pytest.approx([1, 1, 1 / 3])
    assert positive_weights(truth, "sqrt", None).tolist() == pytest.approx([1, 1, 3**-0.5])
    assert positive_weights(truth, "none", None) is None and positive_weights(
        truth, "none", 15.0
    ).tolist() == [15, 15, 15]


def test_validation_is_sklearns_by_target():
    rng = np.random.default_rng(0)
    logits, has = rng.normal(size=(40, 3)), rng.random((20, 3)) < 0.4
    labels = [tuple(np.flatnonzero(row).tolist()) for row in has.repeat(2, axis=0)]
    samples = pd.DataFrame(
        {
            "target_id": [f"w{i // 2:02d}" for i in range(40)],
            "labels": pd.Series(labels, dtype=object),
        }
    )
    order = rng.permutation(40)
    loss, score = TASK.validation_scores(logits[order], samples.iloc[order], 3)
    mean = logits.reshape(20, 2, 3).mean(1)
    assert score == pytest.approx(
        np.mean([average_precision_score(has[:, k], mean[:, k]) for k in range(3)])
    )
    assert loss == pytest.approx(
        log_loss(has.repeat(2, axis=0).ravel(), 1 / (1 + np.exp(-logits.ravel())))
    )


def test_label_matrix_tells_unknown_from_none():
    samples = pd.DataFrame({"labels": pd.Series([(0, 2), (), None], dtype=object)})
    assert np.array_equal(
        label_matrix(samples, 3), [[1, 0, 1], [0, 0, 0], [np.nan] * 3], equal_nan=True
    )


@pytest.mark.parametrize(
    "key, value, named",
    [
        ("monitor", "accuracy", "monitor"),
        ("triplet", {}, "triplet"),
        ("center", {}, "center"),
        ("batches", {"labels": "unique"}, "labels: unique"),
        ("pseudo_labels", {}, "pseudo_labels"),
    ],
)
def test_what_needs_one_label_is_refused(key, value, named, tmp_path):
    path = tmp_path / "c.yaml"
    stage = {"name": "all", "epochs": 2, key: value}
    text = "name: a\ncompetition: toy\ndata: {root: r, store: s}\nfolds: {file: f.csv}\n"
    text += f"stages: [{stage!r}]\n".replace("True", "true").replace("'", "")
    path.write_text(text)
    with pytest.raises(InputError, match=named):
        TASK.check_config(load_config(path))

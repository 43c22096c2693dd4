"""A network of one's own is a class and a registered function."""

import pytest
import torch
from torch import nn

from cellsignal.common.errors import InputError
from cellsignal.config.schema import Model
from cellsignal.models import registry
from cellsignal.models.backbones import build_model
from cellsignal.models.heads import Outputs
from cellsignal.models.registry import NETWORKS, register_network


class Linear(nn.Module):
    def __init__(self, channels, classes, dropout, width):
        super().__init__()
        self.width = width
        self.stem = nn.Conv2d(channels, width, 1)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, classes)

    def embed(self, x, cell_type=None):
        return self.stem(x).mean((2, 3))

    def forward(self, x, cell_type=None):
        return self.outputs(x).logits

    def outputs(self, x, cell_type=None):
        embedding = self.embed(x)
        return Outputs(embedding, self.head(self.dropout(embedding)), None)


@pytest.fixture
def own(monkeypatch):
    for name in ("registry", "backbones", "timm_networks"):
        monkeypatch.setattr(f"cellsignal.models.{name}.NETWORKS", dict(NETWORKS))
    for name in ("backbones", "timm_networks"):
        monkeypatch.setattr(f"cellsignal.models.{name}.NETWORKS", registry.NETWORKS)

    @register_network("linear", stem="stem", options=("base_width",))
    def build_linear(config, shape):
        return Linear(shape.channels, shape.classes, config.dropout, config.base_width)


def test_it_is_built_by_its_name_with_its_options(own):
    model = build_model(Model(backbone="linear", base_width=7, dropout=0.5), 6, 5, None)
    assert (model.width, model.dropout.p) == (7, 0.5)
    assert model(torch.zeros(2, 6, 8, 8)).shape == (2, 5)


def test_it_refuses_the_options_of_others_and_is_offered_for_a_near_name(own):
    with pytest.raises(InputError, match=r"^model\.keep_time: linear has no such option$"):
        build_model(Model(backbone="linear", keep_time=True), 6, 5, None)
    with pytest.raises(InputError, match=r"no backbone 'linaer'; near it: linear"):
        build_model(Model(backbone="linaer"), 6, 5, None)


def test_its_weights_start_it_with_stem_and_head_adapted(own, tmp_path):
    torch.manual_seed(0)
    published = Linear(3, 9, 0.0, 64)
    torch.save(published.state_dict(), tmp_path / "rgb.pth")
    model = build_model(Model(backbone="linear", weights=tmp_path / "rgb.pth"), 6, 5, None)
    images = torch.rand(2, 3, 4, 4)
    expected = published.embed(images)
    assert torch.allclose(model.embed(torch.cat([images, images], 1)), expected, atol=1e-6)
    assert model.head.weight.shape == (5, 64)

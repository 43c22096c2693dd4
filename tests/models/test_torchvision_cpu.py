"""In processes of their own: what is declared to torch cannot be taken back."""

import functools
import subprocess
import sys

import pytest


def run(code: str) -> subprocess.CompletedProcess:
    """`code` in a fresh interpreter."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@functools.cache
def torchvision_is_broken() -> bool:
    return "torchvision::nms does not exist" in run("import torchvision").stderr


@pytest.mark.slow
def test_timm_imports_and_again():
    done = run(
        "from cellsignal.models.torchvision_cpu import import_timm\n"
        "first, again = import_timm(), import_timm()\n"
        "import torchvision, torch\n"
        "assert first is again and first.create_model and torchvision.__version__\n"
        "assert torch.ops.torchvision.nms and torchvision.transforms.Compose"
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_what_another_has_declared_is_left_alone():
    """As in a build whose compiled half declares the operators itself: a second declaration would
    be an error.
    """
    if not torchvision_is_broken():
        pytest.skip("torchvision's compiled half loads here")
    done = run(
        "import torch\n"
        "library = torch.library.Library('torchvision', 'DEF')\n"
        "for name in ('nms', 'qnms'):\n"
        "    library.define(name + '(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')\n"
        "from cellsignal.models import torchvision_cpu\n"
        "torchvision_cpu.import_timm()\n"
        "assert torchvision_cpu._declared is None"
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_broken_cuda_installation_keeps_its_own_error():
    if not torchvision_is_broken():
        pytest.skip("torchvision's compiled half loads here")
    done = run(
        "import torch\n"
        "torch.version.cuda = '13.0'\n"
        "from cellsignal.models.torchvision_cpu import import_timm\n"
        "import_timm()"
    )
    assert done.returncode == 1 and "torchvision::nms does not exist" in done.stderr

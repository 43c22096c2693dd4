"""The names of weights in published files, and timm's for the same layers.

Only names change here (and query, key, value become one matrix); positions of another image size
and the tokens of DINOv2 with registers are timm's own filters' work, see `backbones`. Files:

- transformers' ViT, DINOv2 and DINOv2 with registers (DINO and MAE of the hub as well);
- facebook's DINOv2, also with blocks in chunks (`blocks.0.3.`), as training saves them, and
  CHAMMI-75's MorphEm, which is of the same code.
"""

import re
from collections.abc import Mapping

import torch

# transformers' name -> timm's; parts of a block come after "blocks.<i>."
_OUTER = {
    "embeddings.cls_token": "cls_token",
    "embeddings.mask_token": "mask_token",
    "embeddings.register_tokens": "register_tokens",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "layernorm": "norm",
}
_BLOCK = {
    "norm1": "norm1",
    "norm2": "norm2",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "attention.output.dense": "attn.proj",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "mlp.weights_in": "mlp.w12",
    "mlp.weights_out": "mlp.w3",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}
_LAYER = re.compile(r"^(?P<prefix>.*?)encoder\.layer\.(?P<number>\d+)\.(?P<part>.+)$")
_QKV = re.compile(r"^attention\.attention\.(query|key|value)\.(weight|bias)$")
_CHUNK = re.compile(r"(?<![^.])blocks\.\d+\.(?=(\d+)\.)")
_MARK = "embeddings.patch_embeddings.projection.weight"
# what a file holds beside the network that is asked for: their heads and decoders
_OTHERS = ("decoder.", "classifier.", "pooler.")


def rename(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a file's tensors under timm's names; those of no known program stay as they are.

    Args:
        tensors: name -> tensor, as `weights.read_weights` gives them.
    """
    mark = next((name for name in tensors if name.endswith(_MARK)), None)
    if mark is not None:
        return _from_transformers(tensors, mark.removesuffix(_MARK))
    if not _in_chunks(tensors):
        return dict(tensors)
    return {_CHUNK.sub("blocks.", name): tensor for name, tensor in tensors.items()}


def _in_chunks(tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether these are DINOv2's blocks in chunks: numbered through, each number once."""
    if not any(name.rpartition(".")[2] == "mask_token" for name in tensors):
        return False
    chunks = [_CHUNK.search(name) for name in tensors if name.endswith(".norm1.weight")]
    numbers = [chunk[1] for chunk in chunks if chunk]
    return bool(numbers) and len(numbers) == len(chunks) == len(set(numbers))


def _from_transformers(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Rename the tensors under a prefix; those of heads and decoders are left out."""
    state: dict[str, torch.Tensor] = {}
    parts: dict[str, dict[str, torch.Tensor]] = {}  # name of the joint matrix -> its three
    for name, tensor in tensors.items():
        short = name.removeprefix(prefix)
        if not name.startswith(prefix) or short.startswith(_OTHERS):
            continue
        layer = _LAYER.match(short)
        matrix = layer and _QKV.match(layer["part"])
        if matrix:
            joint = f"blocks.{layer['number']}.attn.qkv.{matrix[2]}"
            parts.setdefault(joint, {})[matrix[1]] = tensor
        elif layer:
            state[f"blocks.{layer['number']}.{_replaced(layer['part'], _BLOCK)}"] = tensor
        else:
            state[_replaced(short, _OUTER)] = tensor
    for joint, three in parts.items():
        if len(three) == 3:
            state[joint] = torch.cat([three["query"], three["key"], three["value"]])
        else:  # refused later, by its name
            state |= {f"{joint}.{name}": tensor for name, tensor in three.items()}
    if "register_tokens" in state:  # by this timm knows DINOv2's, and joins its tokens
        state.setdefault("mask_token", torch.zeros(1))
    return state


def _replaced(name: str, names: Mapping[str, str]) -> str:
    """Replace a name, with or without ".weight" or ".bias"; an unknown one stays."""
    stem, dot, last = name.rpartition(".")
    if name in names:
        return names[name]
    return f"{names[stem]}{dot}{last}" if stem in names else name

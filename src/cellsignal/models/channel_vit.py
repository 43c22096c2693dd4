"""Vision transformers that see a set of stains: one network for data sets of other channels.

Each channel is cut into patches by one projection of a single channel; the patch's position and the
embedding of the stain's *name* are added, and the tokens of all channels go through the transformer
together (ChannelViT, arXiv:2309.16108; ChAda-ViT, arXiv:2311.15264; CA-MAE, arXiv:2404.10242). The
blocks are timm's. Weights have timm's names, so RGB weights of the same size start it, and those of
another data set: stains that both know keep their embedding, a new stain starts from the mean of
the known ones.

open_phenom is the encoder of Recursion's OpenPhenom (CA-MAE ViT-S/16, maes_microscopy): no stain
has an embedding of its own to begin with, and the features are the mean of all patches, without the
last norm, as its `predict` returns them.
"""

import logging
from collections.abc import Sequence

import torch
from torch import nn

from cellsignal.common.errors import InputError
from cellsignal.config.schema import Model
from cellsignal.models.channel_wise import ChannelSet
from cellsignal.models.registry import Shape, register_network
from cellsignal.models.stains import stains_of
from cellsignal.models.stems import State
from cellsignal.models.timm_networks import finish_timm
from cellsignal.models.torchvision_cpu import import_timm

_log = logging.getLogger(__name__)
_EMBEDDING = "channel_embed."
# name -> patch, width, blocks, heads
SIZES = {
    f"channel_vit_{name}_patch{patch}": (patch, *size)
    for name, size in {
        "micro": (96, 4, 3),
        "tiny": (192, 12, 3),
        "small": (384, 12, 6),
        "base": (768, 12, 12),
    }.items()
    for patch in (8, 16)
}
_OPTIONS = ("drop_path", "cell_type_vector", "neck", "cosine_head", "frozen", "channel_dropout")


class ChannelViT(ChannelSet):
    """A timm vision transformer whose tokens are patches of single channels.

    Attributes:
        num_features: D.
    """

    def __init__(self, vit: nn.Module, stains: Sequence[str], classes: int, config: Model):
        """Take over the parts of `vit`, a timm VisionTransformer of one channel and no head.

        It is made with `dynamic_img_size`, and a class token. Where it pools patches (`avg`) the
        last norm is left out.
        """
        super().__init__(stains, config.channel_dropout)
        self.patch_embed, self.blocks, self.norm = vit.patch_embed, vit.blocks, vit.norm
        self.cls_token, self.pos_embed = vit.cls_token, vit.pos_embed
        self.norm_pre, self.pos_drop = vit.norm_pre, vit.pos_drop
        self.pools_patches = vit.global_pool == "avg"
        self.num_features, self.grad_checkpointing = vit.num_features, False
        self.channel_embed = nn.ParameterDict(
            {stain: torch.zeros(self.num_features) for stain in sorted(set(stains))}
        )
        if not self.pools_patches:
            for embedding in self.channel_embed.values():
                nn.init.trunc_normal_(embedding, std=0.02)
        self.head_drop = nn.Dropout(config.dropout)
        self.reset_classifier(classes)

    def known_stains(self) -> list[str]:
        """Return the stains that have an embedding."""
        return list(self.channel_embed)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, 1 + m x patches, D), m the number of channels that are looked at."""
        x = self.pos_drop(self._tokens(*self.choose(x)))
        x = self.norm_pre(x)
        if self.grad_checkpointing and not torch.jit.is_scripting():
            from timm.models import checkpoint_seq

            x = checkpoint_seq(self.blocks, x)
        else:
            x = self.blocks(x)
        return x if self.pools_patches else self.norm(x)

    def forward_head(self, features: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """(B, 1 + patches, D) -> (B, D), the class token or the patches' mean; or logits."""
        pooled = features[:, 1:].mean(1) if self.pools_patches else features[:, 0]
        return pooled if pre_logits else self.head(self.head_drop(pooled))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(x))

    def reset_classifier(self, classes: int) -> None:
        self.head = nn.Linear(self.num_features, classes) if classes else nn.Identity()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.grad_checkpointing = enable

    def adapt_weights(self, state: State) -> State:
        """Return a file's weights as this network has them, but for the projection's channels.

        Positions are resampled; CA-MAE's, which repeat for each channel, are taken once. Stains:
        see the module. The norm of OpenPhenom's file that no output passes is left out.
        """
        state = {name: value for name, value in state.items() if not name.startswith("fc_norm.")}
        if self.pools_patches:
            state = {name: value for name, value in state.items() if not name.startswith("norm.")}
        if "pos_embed" in state and state["pos_embed"].ndim == 3:
            state["pos_embed"] = self._positions(state["pos_embed"])
        known = {name: value for name, value in state.items() if name.startswith(_EMBEDDING)}
        own = {_EMBEDDING + stain: value.detach() for stain, value in self.channel_embed.items()}
        new = [name for name in own if name not in known]
        if known:
            mean = torch.stack(tuple(known.values())).mean(0)
            own |= {name: mean.clone() for name in new}
            if new:
                words = ", ".join(name.removeprefix(_EMBEDDING) for name in new)
                _log.info("stains that the weights do not know start from the mean: %s", words)
        kept = {name: value for name, value in state.items() if name not in known}
        return kept | own | {name: known[name] for name in own if name in known}

    def _tokens(self, x: torch.Tensor, chosen: list[int]) -> torch.Tensor:
        """Return the class token and the patches of the channels, with all embeddings added."""
        embedding = self.rows(self.channel_embed, chosen)
        batch, channels = x.shape[:2]
        patches = self.patch_embed(x.flatten(0, 1).unsqueeze(1))  # (B * C, h, w, D)
        positions = _resampled(self.pos_embed, patches.shape[1:3])
        patches = patches.flatten(1, 2).unflatten(0, (batch, channels))
        patches = patches + positions[:, None, 1:] + embedding[:, None]
        first = (self.cls_token + positions[:, :1]).expand(batch, -1, -1)
        return torch.cat([first, patches.flatten(1, 2)], 1)

    def _positions(self, given: torch.Tensor) -> torch.Tensor:
        """Resample a file's positions; of those that repeat for each channel the first are taken.

        A number of patches that is no square is refused later, by its shape.
        """
        patches = given.shape[1] - 1
        for repeats in range(64, 0, -1):  # 4 channels of 8 x 8 are no 16 x 16
            side = round((patches / repeats) ** 0.5)
            if side * side * repeats != patches:
                continue
            first = given[:, 1 : 1 + side * side]
            if torch.equal(first.repeat(1, repeats, 1), given[:, 1:]):
                wanted = self.patch_embed.grid_size
                return _resampled(given[:, : 1 + side * side], wanted)
        return given


def _resampled(positions: torch.Tensor, grid: Sequence[int]) -> torch.Tensor:
    """(1, 1 + n x n, D) -> (1, 1 + h x w, D), by timm's bicubic resampling."""
    import_timm()
    from timm.layers import resample_abs_pos_embed

    return resample_abs_pos_embed(positions, [int(side) for side in grid], num_prefix_tokens=1)


@register_network(
    *SIZES, stem="patch_embed.proj", head=("head",), options=_OPTIONS, finish=finish_timm
)
def build_channel_vit(config: Model, shape: Shape) -> ChannelViT:
    patch, width, blocks, heads = SIZES[config.backbone]
    options = {"patch_size": patch, "embed_dim": width, "depth": blocks, "num_heads": heads}
    return _build(config, shape, options)


@register_network(
    "open_phenom", stem="patch_embed.proj", head=("head",), options=_OPTIONS, finish=finish_timm
)
def build_open_phenom(config: Model, shape: Shape) -> ChannelViT:
    import_timm()
    from timm.models.vision_transformer import ParallelScalingBlock

    options = {"patch_size": 16, "embed_dim": 384, "depth": 12, "num_heads": 6, "qkv_bias": False}
    options |= {"qk_norm": True, "init_values": 1e-4, "global_pool": "avg"}
    return _build(config, shape, {**options, "block_fn": ParallelScalingBlock})


def _build(config: Model, shape: Shape, options: dict) -> ChannelViT:
    import_timm()
    from timm.models.vision_transformer import VisionTransformer

    size, patch = shape.image_size, options["patch_size"]
    if size is None or size < patch:
        raise InputError(
            f"model.backbone: {config.backbone} needs images of {patch} pixels or more a side"
        )
    vit = VisionTransformer(
        img_size=size,
        in_chans=1,
        num_classes=0,
        drop_path_rate=config.drop_path,
        dynamic_img_size=True,
        dynamic_img_pad=True,
        **options,
    )
    if config.backbone == "open_phenom":
        vit.norm = vit.fc_norm = nn.Identity()
    return ChannelViT(vit, stains_of(shape.names or shape.channels), shape.classes, config)

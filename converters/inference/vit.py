"""Plain ViTs under timm's names, by their shapes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from converters.inference.base import any_channels
from converters.inference.hints import Hints
from core.backbones import BackboneConfig, describe
from core.errors import UserError

# (width, depth) -> timm's word for the size and its number of heads.
_VITS = {
    (192, 12): ("tiny", 3),
    (384, 12): ("small", 6),
    (768, 12): ("base", 12),
    (1024, 24): ("large", 16),
    (1280, 32): ("huge", 16),
}


@dataclass(frozen=True)
class _Entry:
    """A ViT of timm and its sizes."""

    name: str
    width: int
    depth: int
    heads: int
    patch: int
    side: int = 224
    mlp_ratio: float = 4.0


CONV_STEM = "patch_embed.proj.0.weight"
_SMALL = _Entry("vit_small_patch16_224", 384, 12, 6, 16)
_DISTILLED = _Entry("deit_small_distilled_patch16_224", 384, 12, 6, 16)
_SWIGLU = _Entry("vit_giant_patch14_dinov2", 1536, 40, 24, 14, 518, 2 * 2.66667)
# Number of heads of published widths where it is not width / 64.
_HEADS = {1152: 16, 1408: 16, 1664: 16}
_MOCO_V3_HEADS = {192: 12, 384: 12}


def infer_vit(tensors: Mapping[str, Tensor], source: str, hints: Hints) -> tuple[BackboneConfig, str]:
    """The architecture of a plain ViT, and a note on what is assumed. Raises `UserError` where shapes don't show it."""
    convolved = CONV_STEM in tensors
    patches = tensors["patch_embed.proj.weight"] if not convolved else _as_projection(tensors)
    if patches.ndim != 4 or patches.shape[2] != patches.shape[3]:
        raise UserError(f"{source} holds a ViT with patches of shape {list(patches.shape)}; known are square ones")
    width, patch = patches.shape[0], patches.shape[2]
    depth = 1 + max(int(m[1]) for m in (re.match(r"blocks\.(\d{1,3})\.", name) for name in tensors) if m)
    hidden = tensors["blocks.0.mlp.fc1.weight"].shape[0] if "blocks.0.mlp.fc1.weight" in tensors else 4 * width
    grid, args = _position_grid(tensors, source)
    size, heads = _VITS.get((width, depth), ("", 0))
    name = f"vit_{size}_patch{patch}_224"
    if "dist_token" in tensors:
        entry = _DISTILLED
    elif _is_gated(tensors):
        entry, heads = _SWIGLU, 24 if width == _SWIGLU.width else heads
    elif size and _known(name):
        entry = _Entry(name, width, depth, heads, patch)
    else:
        entry = _SMALL
    sizes = {"patch_size": (patch, entry.patch), "embed_dim": (width, entry.width), "depth": (depth, entry.depth)}
    if grid is None:
        args["pos_embed"] = "none"
    elif grid * patch != entry.side:
        args["img_size"] = grid * patch
    args |= {key: value for key, (value, default) in sizes.items() if value != default}
    moco = _MOCO_V3_HEADS if grid is not None and _is_moco_v3(tensors["pos_embed"], grid) else {}
    if width in moco:
        heads, note = moco[width], f"{moco[width]} attention heads, as in MoCo v3 (by its fixed position embedding)"
    elif width in hints.heads:
        heads, note = hints.heads[width], f"{hints.heads[width]} attention heads, as in {hints.family}"
    else:
        heads = heads or _HEADS.get(width, 0)
        if not heads and width % 64:
            raise UserError(
                f"{source} holds a ViT of width {width}, whose number of attention heads the weights don't show; give "
                f"--arch '{describe(BackboneConfig(entry.name, args)).removesuffix(')')}, num_heads=N)'"
            )
        heads = heads or width // 64
        note = f"{heads} attention heads assumed, the weights don't show them"
    if heads != entry.heads:
        args["num_heads"] = heads
    if hidden != int(entry.mlp_ratio * width):
        args["mlp_ratio"] = hidden / width
    if convolved:
        args["conv_stem"] = True
    if patches.shape[1] != 3:
        args["in_chans"] = patches.shape[1]
    return any_channels(entry.name, args | _vit_options(tensors)), note


def _as_projection(tensors: Mapping[str, Tensor]) -> Tensor:
    """An empty projection of patches of 16 pixels, of the sizes of MoCo v3's stem of convolutions."""
    width, channels = tensors["norm.weight"].shape[0], tensors[CONV_STEM].shape[1]
    return torch.empty(width, channels, 16, 16, device="meta")


def _is_gated(tensors: Mapping[str, Tensor]) -> bool:
    """True if the MLP multiplies two halves of its hidden layer, as SwiGLU does."""
    first, second = (tensors.get(f"blocks.0.mlp.fc{number}.weight") for number in (1, 2))
    return first is not None and second is not None and first.shape[0] == 2 * second.shape[1]


def _vit_options(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    args: dict[str, Any] = {}
    if "attn_pool.latent" in tensors:
        args |= {"class_token": "cls_token" in tensors, "global_pool": "map"}
    elif "cls_token" not in tensors:
        args |= {"class_token": False, "global_pool": "avg", "fc_norm": "fc_norm.weight" in tensors}
        if "norm.weight" not in tensors and "fc_norm.weight" not in tensors:
            args["final_norm"] = False
    elif "fc_norm.weight" in tensors:
        args["global_pool"] = "avg"
    elif "norm.weight" not in tensors:
        args["final_norm"] = False
    if "reg_token" in tensors:
        args["reg_tokens"] = tensors["reg_token"].shape[1]
    if "norm_pre.weight" in tensors:
        args["pre_norm"] = True
    if "blocks.0.attn.qkv.bias" not in tensors:
        args["qkv_bias"] = False
    if "blocks.0.ls1.gamma" in tensors:
        args["init_values"] = 1.0  # the start of layer scale; its trained values replace it
    return args


def _position_grid(tensors: Mapping[str, Tensor], source: str) -> tuple[int | None, dict[str, Any]]:
    """Side of the square grid of position embeddings (None without any), and whether the class token has one."""
    if "pos_embed" not in tensors:
        return None, {}
    length = tensors["pos_embed"].shape[-2]
    prefix = (
        int("cls_token" in tensors)
        + int("dist_token" in tensors)
        + (tensors["reg_token"].shape[1] if "reg_token" in tensors else 0)
    )
    for without, args in ((prefix, {}), (0, {"no_embed_class": True})):
        side = math.isqrt(max(0, length - without))
        if side > 0 and side * side == length - without:
            return side, args
    raise UserError(
        f"{source} holds a ViT with {length} position embeddings that do not form a square grid; give --arch"
    )


def _is_moco_v3(embedding: Tensor, side: int) -> bool:
    """True if the embedding is MoCo v3's fixed one (sine and cosine in 2-D; arXiv 2104.02057, section 5)."""
    quarter = embedding.shape[-1] // 4
    frequencies = 10000.0 ** -(torch.arange(quarter, dtype=torch.float64) / quarter)
    rows, columns = torch.meshgrid(torch.arange(side).double(), torch.arange(side).double(), indexing="ij")
    angles = [axis.reshape(-1, 1) * frequencies for axis in (rows, columns)]
    expected = torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=1)
    given = embedding.reshape(-1, embedding.shape[-1])[-side * side :].double()
    return given.shape == expected.shape and bool(torch.allclose(given, expected, rtol=0, atol=1e-3))


def _known(name: str) -> bool:
    import timm

    return timm.is_model(name)

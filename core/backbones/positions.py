"""Position embeddings for images of another size than that of the weights: the one place where they are resized."""

from __future__ import annotations

from types import MethodType
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

PosResize = Literal["timm", "dinov2", "dinov2_antialias", "bicubic"]

_OFFSET = 0.1


def resize_positions(
    embedding: Tensor, grid: tuple[int, int], new: tuple[int, int], prefix: int, rule: PosResize
) -> Tensor:
    """Learned position embeddings [1, P + h·w, D] of `grid` (h, w) for a `new` grid: [1, P + h'·w', D].

    The `prefix` embeddings P of class and register tokens stay as they are. All rules are bicubic. `timm` and
    `dinov2_antialias` antialias and scale by the sizes (`interpolate_antialias` and `interpolate_offset: 0` of DINOv2's
    code); they are the same in timm 1.0. `dinov2` doesn't antialias, and scales by (h' + 0.1) / h, as the code of DINO,
    iBOT and DINOv2 without registers does. `bicubic` doesn't antialias and scales by the sizes (MAE, ViTDet,
    MMSegmentation).
    """
    if grid == new:
        return embedding
    if rule == "timm":
        from timm.layers import resample_abs_pos_embed

        return resample_abs_pos_embed(embedding, new_size=list(new), old_size=list(grid), num_prefix_tokens=prefix)
    square = embedding[:, prefix:].float().reshape(1, *grid, -1).permute(0, 3, 1, 2)
    if rule == "dinov2":
        scales = tuple((after + _OFFSET) / before for before, after in zip(grid, new, strict=True))
        resized = functional.interpolate(square, scale_factor=scales, mode="bicubic")
    else:
        resized = functional.interpolate(square, size=new, mode="bicubic", antialias=rule == "dinov2_antialias")
    assert resized.shape[-2:] == new
    patches = resized.permute(0, 2, 3, 1).reshape(1, new[0] * new[1], -1)
    return torch.cat([embedding[:, :prefix], patches.to(embedding.dtype)], dim=1)


def set_rule(vit: Any, rule: PosResize) -> None:
    """Has timm's plain `vit`, built with `dynamic_img_size`, resize its position embeddings by `rule`."""
    if rule != "timm" and vit.pos_embed is not None:
        vit.pos_resize = rule
        vit._pos_embed = MethodType(_with_positions, vit)


def _with_positions(vit: Any, patches: Tensor) -> Tensor:
    """Patches [B, h, w, D] -> tokens [B, P + h·w, D] with class and register tokens and position embeddings."""
    height, width = patches.shape[1:3]
    tokens = [token.expand(len(patches), -1, -1) for token in (vit.cls_token, vit.reg_token) if token is not None]
    grid = (int(vit.patch_embed.grid_size[0]), int(vit.patch_embed.grid_size[1]))
    prefix = 0 if vit.no_embed_class else vit.num_prefix_tokens
    positions = resize_positions(vit.pos_embed, grid, (height, width), prefix, vit.pos_resize)
    if vit.no_embed_class:
        return vit.pos_drop(torch.cat([*tokens, patches.flatten(1, 2) + positions], dim=1))
    return vit.pos_drop(torch.cat([*tokens, patches.flatten(1, 2)], dim=1) + positions)

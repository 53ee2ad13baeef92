"""Dense features of a frozen backbone: one map per image, for every family."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from core.backbones import family_of
from core.errors import UserError

PIXEL_CELL = 8
"""Side in pixels of a cell of raw pixels, whose values are the cell's feature."""


def dense_features(model: nn.Module, images: Tensor, block: int = -1, norm: bool = True) -> Tensor:
    """Features of one block or stage: [B, 3, H, W] normalised floats -> [B, D, h, w].

    `block`: counted from 0, or from the end if negative; ViTs have blocks of patch tokens, CNNs stages. `norm`: after
    the network's final norm, where it has one. Raw pixels have one block: cells of 8×8 pixels. Raises `UserError` for a
    block that doesn't exist and for sizes that the network can't take.
    """
    return concatenated_features(model, images, (block,), norm)


def concatenated_features(
    model: nn.Module, images: Tensor, blocks: Sequence[int], norm: bool = True, class_token: bool = False
) -> Tensor:
    """Maps of several blocks side by side, [B, D, h, w]; coarser maps are resized to the finest (bilinear).

    `class_token`: each block's class token follows its map, repeated at every position (DINOv2's linear depth). Raises
    `UserError` as `dense_features` does, and for a network without a class token.
    """
    family = family_of(model)
    if not family.trainable:
        check_blocks(model, blocks)
        return _cells(images)
    if family.dense == "none":
        raise UserError(f"{family.noun} has no maps; dense probes need a network with stages or patch tokens")
    taps = check_blocks(model, blocks)
    found = family.dense_maps(model, images, taps, norm)
    height, width = max((each.map.shape[-2:] for each in found), key=lambda size: size[0] * size[1])
    parts = []
    for each in found:
        parts.append(_resized(each.map, height, width))
        if class_token:
            if each.token is None:
                raise UserError(f"the backbone, {family.noun}, has no class token; set features.class_token=false")
            parts.append(each.token[:, :, None, None].expand(-1, -1, height, width))
    return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]


def check_blocks(model: nn.Module, blocks: Sequence[int]) -> list[int]:
    """Blocks counted from 0. Raises `UserError` for one that the network doesn't have."""
    family = family_of(model)
    count = len(family.channels(model)) if family.trainable else 1
    for block in blocks:
        if not -count <= block < count:
            raise UserError(
                f"block {block} doesn't exist: the backbone, {family.noun}, has {count}; set features.blocks"
            )
    return [block % count for block in blocks]


def stage_of_stride(model: nn.Module, images: Tensor, stride: int) -> int:
    """Last stage of a CNN whose stride is at most `stride` pixels, counted from 0; the first if all are coarser."""
    family = family_of(model)
    strides = [found for found, _ in family.maps(model, images)]
    return max((stage for stage, found in enumerate(strides) if found <= stride), default=0)


def has_class_token(model: nn.Module) -> bool:
    """True if the network has a class token beside its patch tokens."""
    family = family_of(model)
    return family.trainable and family.dense == "patches" and "cls" in family.poolings(model)


def _cells(images: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    if height % PIXEL_CELL or width % PIXEL_CELL:
        raise UserError(f"raw pixels need sides that {PIXEL_CELL} divides, not {height}×{width}; set features.size")
    return functional.pixel_unshuffle(images, PIXEL_CELL)


def _resized(found: Tensor, height: int, width: int) -> Tensor:
    if found.shape[-2:] == (height, width):
        return found
    return functional.interpolate(found, (height, width), mode="bilinear", align_corners=False)

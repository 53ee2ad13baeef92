"""HeadInputs: which vectors of a frozen backbone linear heads see, as slices of one stored vector per image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from core.backbones import Pooling, RawPixels, is_vit, pooled_features
from core.errors import UserError


@dataclass(frozen=True)
class HeadInputs:
    """What is stored per image: class tokens of the last blocks, earliest first, then the mean patch token."""

    blocks: int
    """Class tokens stored, of this many last blocks; 0 where only patches are asked for, or for a ResNet."""
    patches: bool
    """Whether the mean patch token of the last block is stored."""
    width: int
    """Length of the stored vector."""
    slices: tuple[tuple[int, int], ...]
    """Start and end of each head input in the stored vector."""
    names: tuple[str, ...]
    """What each input is, e.g. `last 4 blocks, cls+patches`."""

    def __call__(self, model: Any, images: Tensor) -> Tensor:
        """[B, 3, H, W] normalised floats -> [B, width]. Tokens after the model's final norm (DINOv2, appendix B.3)."""
        if isinstance(model, RawPixels) or not is_vit(model):
            return pooled_features(model, images)
        if self.blocks <= 1:  # the last block's tokens are the model's own output
            tokens = model.forward_features(images)
            taken = [tokens[:, 0]] if self.blocks else []
            return torch.cat(taken + ([tokens[:, model.num_prefix_tokens :].mean(1)] if self.patches else []), dim=1)
        outputs = model.forward_intermediates(
            images, indices=self.blocks, return_prefix_tokens=True, norm=True, output_fmt="NLC", intermediates_only=True
        )
        parts = [prefix[:, 0] for _, prefix in outputs]
        return torch.cat([*parts, outputs[-1][0].mean(1)] if self.patches else parts, dim=1)

    def identity(self) -> dict[str, Any]:
        """What decides the stored vector's content, for cache keys."""
        return {"blocks": self.blocks, "patches": self.patches}


def plan_head_inputs(model: Any, crop: int, blocks: Sequence[int], poolings: Sequence[Pooling]) -> HeadInputs:
    """The taps for every pair of a number of last blocks and a pooling, in that nesting order.

    n blocks with `cls`: the class tokens of the last n blocks, concatenated; with `cls+patches`: these and the mean
    patch token of the last block. Raises `UserError` for what the model doesn't have.
    """
    if isinstance(model, RawPixels) or not is_vit(model):
        allowed = ("auto",) if isinstance(model, RawPixels) else ("auto", "avg")
        what = "raw pixels have" if isinstance(model, RawPixels) else "a ResNet has"
        if tuple(blocks) != (1,) or len(poolings) != 1 or poolings[0] not in allowed:
            raise UserError(
                f"blocks={list(blocks)} poolings={list(poolings)} is for ViTs; {what} one vector per image: "
                f"set blocks=[1] poolings=[auto]"
            )
        width = 3 * crop * crop if isinstance(model, RawPixels) else int(model.num_features)
        return HeadInputs(
            0, False, width, ((0, width),), ("pixels" if isinstance(model, RawPixels) else "average pool",)
        )
    if max(blocks) > len(model.blocks):
        raise UserError(f"blocks={list(blocks)} asks for more than the ViT's {len(model.blocks)} blocks")
    resolved = [("cls" if model.cls_token is not None else "patches") if p == "auto" else p for p in poolings]
    for pooling in resolved:
        if pooling == "avg":
            raise UserError("pooling avg is for ResNets; a ViT has cls, patches and cls+patches")
        if pooling != "patches" and model.cls_token is None:
            raise UserError(f"pooling {pooling} needs a class token, which this ViT lacks; set poolings=[patches]")
        if pooling == "patches" and max(blocks) > 1:
            raise UserError("pooling patches takes the last block only; set blocks=[1]")
    token = int(model.num_features)
    deepest = 0 if set(resolved) == {"patches"} else max(blocks)
    patches = any(pooling != "cls" for pooling in resolved)
    slices, names = [], []
    for number in blocks:
        for pooling in resolved:
            end = (deepest + (pooling != "cls")) * token
            slices.append(((deepest if pooling == "patches" else deepest - number) * token, end))
            names.append(f"last {number} block{'s' if number > 1 else ''}, {pooling}")
    return HeadInputs(deepest, patches, (deepest + patches) * token, tuple(slices), tuple(names))

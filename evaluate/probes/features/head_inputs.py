"""HeadInputs: which vectors of a frozen backbone linear heads see, as slices of one stored vector per image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from core.backbones import Pooling, family_of
from core.errors import UserError
from core.features import feature_size
from evaluate.probes.base import Job


@dataclass(frozen=True)
class HeadInputs:
    """Vector stored per image: class tokens of the last blocks, earliest first, then the mean patch token."""

    blocks: int
    """Class tokens stored, of this many last blocks; 0 where only patches are asked for, or for a ResNet."""
    patches: bool
    """True if the mean patch token of the last block is stored."""
    width: int
    """Length of the stored vector."""
    slices: tuple[tuple[int, int], ...]
    """Start and end of each head input in the stored vector."""
    names: tuple[str, ...]
    """Name of each input, e.g. `last 4 blocks, cls+patches`."""

    def __call__(self, model: Any, images: Tensor) -> Tensor:
        """[B, 3, H, W] normalised floats -> [B, width]. Tokens after the model's final norm (DINOv2, appendix B.3)."""
        return family_of(model).head_vector(model, images, self.blocks, self.patches)

    def identity(self) -> dict[str, Any]:
        """Settings that determine the stored vector, for cache keys."""
        return {"blocks": self.blocks, "patches": self.patches}


def check_single_input(blocks: Sequence[int], poolings: Sequence[str]) -> None:
    """Raises `ValueError` unless `blocks` and `poolings` together name one input."""
    if len(blocks) != 1 or blocks[0] < 1:
        raise ValueError(f"blocks must hold one positive number, not {list(blocks)}")
    if len(poolings) != 1:
        raise ValueError(f"poolings must hold one pooling, not {list(poolings)}")


def open_head_inputs(job: Job) -> HeadInputs:
    """The inputs that a job's `blocks` and `poolings` name. Raises `UserError` for what the model does not have, and
    for a size of image that it can't take."""
    config, model = job.config, job.backbone.model
    inputs = plan_head_inputs(model, config.features.transform.crop, config.blocks, config.poolings)
    feature_size(model, config.features, job.context.device, inputs)
    return inputs


def plan_head_inputs(model: Any, crop: int, blocks: Sequence[int], poolings: Sequence[Pooling]) -> HeadInputs:
    """Head inputs for every pair of a number of last blocks and a pooling, in that nesting order.

    n blocks with `cls`: the class tokens of the last n blocks, concatenated; with `cls+patches`: these and the mean
    patch token of the last block. Raises `UserError` for what the model doesn't have.
    """
    family = family_of(model)
    if family.dense != "patches":
        if tuple(blocks) != (1,) or len(poolings) != 1 or poolings[0] not in ("auto", *family.poolings(model)):
            raise UserError(
                f"blocks={list(blocks)} poolings={list(poolings)} is for ViTs; {family.noun} has one vector per image: "
                f"set blocks=[1] poolings=[auto]"
            )
        width = family.width(model, "auto", crop)
        return HeadInputs(0, False, width, ((0, width),), (family.vector_name,))
    if max(blocks) > family.blocks(model):
        raise UserError(f"blocks={list(blocks)} asks for more than the ViT's {family.blocks(model)} blocks")
    resolved = [family.resolve_pooling(model, pooling) for pooling in poolings]
    if "patches" in resolved and max(blocks) > 1:
        raise UserError("pooling patches takes the last block only; set blocks=[1]")
    token = family.width(model, "auto", crop)
    deepest = 0 if set(resolved) == {"patches"} else max(blocks)
    patches = any(pooling != "cls" for pooling in resolved)
    slices, names = [], []
    for number in blocks:
        for pooling in resolved:
            end = (deepest + (pooling != "cls")) * token
            slices.append(((deepest if pooling == "patches" else deepest - number) * token, end))
            names.append(f"last {number} block{'s' if number > 1 else ''}, {pooling}")
    return HeadInputs(deepest, patches, (deepest + patches) * token, tuple(slices), tuple(names))

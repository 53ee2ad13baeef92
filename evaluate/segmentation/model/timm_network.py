"""timm's own network as a backbone that MMSegmentation builds."""

from __future__ import annotations

import json
from typing import Any

from mmengine.model import BaseModule
from mmseg.registry import MODELS
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from converters.engines.dense_maps import at_stride, image_maps
from core.backbones import BackboneConfig, build_backbone, family_of
from core.config import from_dict
from core.errors import UserError


@MODELS.register_module()
class TimmNetwork(BaseModule):
    """Maps of a backbone's taps, [B, 3, H, W] of any size -> [B, C, h, w] each, whose cells cover the whole image.

    Images that a ViT's patches do not divide are padded, and the maps resized bilinearly to the unpadded part.
    """

    def __init__(
        self, config: str, taps: list[int], normed: str, drop_path: float, new_norms: list[int], init_cfg: Any = None
    ) -> None:
        """`config`: of the backbone, as JSON; `normed`: taps behind the final norm, `none`, `last` or `every`.

        `new_norms`: widths of the maps if each has a new layer norm behind it, else empty.
        """
        super().__init__(init_cfg)
        self.network = build_backbone(from_dict(BackboneConfig, json.loads(config)), drop_path)
        self.taps, self.normed = tuple(taps), normed
        self.new_norms = nn.ModuleList(LayerNorm2d(width, eps=1e-6) for width in new_norms)
        self.norm: Any = None
        if normed != "none":
            self.__dict__["norm"] = _final_norm(self.network)  # not a part of its own: its tensors are the network's

    def init_weights(self) -> None:
        """Nothing: all tensors are loaded afterwards."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The taps' maps, in order."""
        maps = [_on_image(self.network, x, stride, images) for stride, x in image_maps(self.network, images, self.taps)]
        first = {"none": len(maps), "last": len(maps) - 1, "every": 0}[self.normed]
        maps = [x if at < first else _normalised(self.norm, x) for at, x in enumerate(maps)]
        return tuple(norm(x) for norm, x in zip(self.new_norms, maps, strict=True)) if self.new_norms else tuple(maps)


def _final_norm(network: Any) -> nn.Module:
    norm = getattr(network, "norm", None)
    if not isinstance(norm, nn.Module) or isinstance(norm, nn.Identity):
        raise UserError("network.final_norm=true needs a network with a norm after its last block; set it to false")
    return norm


def _normalised(norm: nn.Module, x: Tensor) -> Tensor:
    """A norm over channels that come last, on a map [B, C, h, w]."""
    return norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _on_image(network: nn.Module, x: Tensor, stride: int, images: Tensor) -> Tensor:
    """A map of patches, cut to the image; maps of stages are as the network gives them."""
    if family_of(network).dense != "patches":
        return x
    sides = (images.shape[-2], images.shape[-1])
    cells = (-(-sides[0] // stride), -(-sides[1] // stride))
    return at_stride(x, stride, (sides[0] / cells[0], sides[1] / cells[1]), cells)

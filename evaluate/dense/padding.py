"""Maps of images whose sides the patches don't divide: centred on a larger canvas of the mean colour."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional

from evaluate.dense.maps import MapTaps, padding


def padded_maps(taps: MapTaps, model: Any, images: Tensor) -> Tensor:
    """Maps of normalised images [B, 3, H, W] of any size; they cover the padded image."""
    added = padding(model, *images.shape[-2:])
    return taps.maps(model, functional.pad(images, added) if any(added) else images)


def enlarged(values: Tensor, model: Any, height: int, width: int) -> Tensor:
    """Values on the map of a padded image [B, C, h, w] -> [B, C, height, width] of the image itself (bilinear)."""
    left, right, top, bottom = padding(model, height, width)
    whole = (height + top + bottom, width + left + right)
    found = functional.interpolate(values, whole, mode="bilinear", align_corners=False)
    return found[..., top : top + height, left : left + width]

"""Colour operations on a batch, each sample with its own factor; the arithmetic of torchvision's on float images.

Images are float [B, 3, H, W] in 0…1 and factors [B]. Functions overwrite their images and return them.
"""

from __future__ import annotations

import torch

LUMA = (0.2989, 0.587, 0.114)
"""Weights of R, G and B in grey (ITU-R BT.601, rounded as torchvision does)."""


def brightness_(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """factor · image."""
    return images.mul_(factor[:, None, None, None]).clamp_(0, 1)


def contrast_(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Blends with the mean grey of the sample: factor · image + (1 − factor) · mean."""
    red, green, blue = images.mean((2, 3)).unbind(1)
    mean = red * LUMA[0] + green * LUMA[1] + blue * LUMA[2]
    return images.mul_(factor[:, None, None, None]).add_(((1 - factor) * mean)[:, None, None, None]).clamp_(0, 1)


def saturation_(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Blends with the sample's own grey image: factor · image + (1 − factor) · grey."""
    factor = factor[:, None, None, None]
    grey = _grey(images).mul_(1 - factor)
    return images.mul_(factor).add_(grey).clamp_(0, 1)


def hue_(images: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Turns the hue by `shift` ∈ −0.5…0.5 of the colour circle.

    With value v and chroma c, a colour of hue h (in sixths of the circle) has R = v − c + c · clip(|h − 3| − 1),
    G = v − c + c · clip(2 − |h − 2|), B = v − c + c · clip(2 − |h − 4|), clip being to 0…1.
    """
    red, green, blue = images.unbind(1)
    high = torch.maximum(torch.maximum(red, green), blue)
    low = torch.minimum(torch.minimum(red, green), blue)
    chroma = high - low
    # Masks as floats: on the CPU comparisons into bool, `where` and `aminmax` cost many times what arithmetic does.
    from_red = torch.eq(high, red, out=torch.empty_like(red))
    from_green = torch.eq(high, green, out=torch.empty_like(red)).mul_(1 - from_red)
    hue = (red - green).lerp_(blue - red, from_green).lerp_(green - blue, from_red)
    hue.div_(chroma.clamp(min=1e-12))  # grey pixels: 0 / 1e-12 is a hue of no consequence
    hue.add_(4).sub_(from_green, alpha=2).sub_(from_red, alpha=4).add_(6 * shift[:, None, None])
    hue.sub_((hue * (1 / 6)).floor_(), alpha=6)
    for channel, (centre, sign, offset) in enumerate(((3, 1, -1), (2, -1, 2), (4, -1, 2))):
        part = (hue - centre).abs_().mul_(sign).add_(offset).clamp_(0, 1)
        torch.addcmul(low, part, chroma, out=images[:, channel])
    return images


def greyscale_(images: torch.Tensor) -> torch.Tensor:
    """The grey image in all three channels."""
    return images.copy_(_grey(images))


def solarise_(images: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    """Inverts the values at or above the threshold."""
    inverted = torch.ge(images, threshold[:, None, None, None], out=torch.empty_like(images))
    return images.mul_(1 - 2 * inverted).add_(inverted)


def _grey(images: torch.Tensor) -> torch.Tensor:
    red, green, blue = images.split(1, dim=1)
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])

"""Maps of any backbone inside an engine's network: images of any size, real strides, the part that is trained."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from core.backbones import Backbone, describe, family_named, family_of, input_channels
from core.errors import UserError

PYRAMID_STRIDES = (4, 8, 16, 32)
"""Strides in pixels of the maps that pyramids and their heads are built for."""
_LARGEST_PATCH = 64


def image_maps(network: nn.Module, images: Tensor, taps: Sequence[int]) -> list[tuple[int, Tensor]]:
    """Stride and map of each tap, as the backbone's family gives them, for images of any size.

    images: [B, C, H, W], normalised. Where the network needs sides that are multiples of its patches, images are padded
    with zeros (the mean colour) on the right and below, and the maps cover the padded image.
    """
    family = family_of(network)
    (height, width), (down, right) = images.shape[-2:], family.input_multiple(network)
    missing = (0, -width % right, 0, -height % down)
    return family.maps(network, functional.pad(images, missing) if any(missing) else images, taps)


def at_stride(x: Tensor, stride: int, wanted: float | tuple[float, float], size: tuple[int, int]) -> Tensor:
    """The map x [B, C, h, w] of cells of `stride` pixels as `size` cells of `wanted` pixels, from the same origin.

    Bilinear: the centre of cell j lies at pixel (j + 1/2) · wanted before and after. Unchanged where nothing changes.
    """
    height, width = wanted if isinstance(wanted, tuple) else (wanted, wanted)
    if (height, width) == (stride, stride):
        assert x.shape[-2] >= size[0], "the map does not cover the image"
        assert x.shape[-1] >= size[1], "the map does not cover the image"
        return x[..., : size[0], : size[1]]
    # Not torch's interpolate, which copies a map whose number of cells stays, at whatever scale.
    rows = _weights(x, x.shape[-2], stride, height, size[0])
    columns = _weights(x, x.shape[-1], stride, width, size[1])
    return rows @ x @ columns.T


def _weights(x: Tensor, cells: int, stride: int, wanted: float, size: int) -> Tensor:
    """Matrix [size, cells] of bilinear weights between cells of `stride` and of `wanted` pixels, as numbers of x."""
    centres = (torch.arange(size, device=x.device, dtype=torch.float64) + 0.5) * (wanted / stride) - 0.5
    places = torch.arange(cells, device=x.device, dtype=torch.float64)
    distances = (centres.clamp(0, cells - 1)[:, None] - places).abs()
    return (1 - distances).clamp_min(0).to(x.dtype)


def patch_stride(network: nn.Module, what: str) -> int:
    """Side of a network's patches in pixels. Raises `UserError` for patches that no pyramid can be built on."""
    height, width = family_of(network).input_multiple(network)
    if height != width or not 2 <= height <= _LARGEST_PATCH:
        raise UserError(
            f"{what} has patches of {height}×{width} pixels, a pyramid needs square ones of 2 … {_LARGEST_PATCH} "
            f"pixels; take another backbone"
        )
    return height


def measure_maps(network: nn.Module, what: str, side: int | None = None) -> list[tuple[int, int]]:
    """Stride in pixels and number of channels of each map that the network has, from a forward pass of one image.

    Only for families whose `dense` isn't `none`. `what` names the network; `side`: of the image in pixels, by default a
    small one. Neither weights nor statistics change. Raises `UserError` for a network that can't take such an image.
    """
    family = family_of(network)
    image = _small_image(network) if side is None else _image(network, (side, side))
    try:
        with torch.no_grad():
            return [(stride, x.shape[1]) for stride, x in family.maps(network.eval(), image)]
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        own = family.image_side(network)
        only = f", only {own}×{own}" if own else ""
        raise UserError(
            f"{what} takes no images of {image.shape[-2]}×{image.shape[-1]} pixels{only} ({reason}); take a backbone "
            f"for images of any size"
        ) from None


def pyramid_taps(network: nn.Module, what: str) -> tuple[int, ...]:
    """The last map of each of the strides 4, 8, 16 and 32. Raises `UserError` where the network, `what`, lacks one."""
    strides = [stride for stride, _ in measure_maps(network, what)]
    missing = [stride for stride in PYRAMID_STRIDES if stride not in strides]
    if missing:
        raise UserError(
            f"{what} has maps of strides {', '.join(map(str, strides))} pixels, the pyramid needs {missing[0]} too; "
            f"take a backbone with maps of strides 4, 8, 16 and 32"
        )
    return tuple(len(strides) - 1 - strides[::-1].index(stride) for stride in PYRAMID_STRIDES)


def freeze_unused(network: nn.Module, taps: Sequence[int]) -> tuple[str, ...]:
    """Freezes the parameters on which no tap depends, e.g. the blocks behind the last, and returns their names.

    They get no gradient: DistributedDataParallel would raise, and weight decay would still shrink them.
    """
    named = dict(network.named_parameters())
    family = family_of(network)
    network.eval()
    with torch.enable_grad():
        try:
            maps = family.maps(network, _small_image(network), taps)
        except (AssertionError, RuntimeError, ValueError):  # images of one size alone
            side = family.image_side(network)
            if side is None:
                raise
            maps = family.maps(network, _image(network, (side, side)), taps)
        total = torch.stack([x.float().sum() for _, x in maps]).sum()
        found = torch.autograd.grad(total, [p for p in named.values() if p.requires_grad], allow_unused=True)
    trained = [name for name, parameter in named.items() if parameter.requires_grad]
    unused = tuple(name for name, gradient in zip(trained, found, strict=True) if gradient is None)
    for name in unused:
        named[name].requires_grad_(False)
    return unused


def freeze(networks: Sequence[nn.Module], inside: nn.Module) -> None:
    """Keeps weights, statistics of norms and random layers of `networks` fixed while the rest is trained.

    `inside`: the module that an engine calls before any of them is used.
    """
    for network in networks:
        network.requires_grad_(False)

    def to_eval(_module: nn.Module, _inputs: object) -> None:
        for network in networks:
            network.eval()

    inside.register_forward_pre_hook(to_eval)


def check_named(backbone: Backbone) -> None:
    """Raises `UserError` for a network that no name builds again, as engines do."""
    try:
        family_named(backbone.config.name)
    except UserError:
        raise UserError(
            f"{describe(backbone.config)} is a network of your own, and detectors and segmentors build theirs by name; "
            f"measure it with frozen probes or fine-tuning"
        ) from None


def _small_image(network: nn.Module) -> Tensor:
    """One image of zeros, [1, C, h, w]: two patches a side, or so many pixels that every stage can halve its map."""
    family = family_of(network)
    height, width = family.input_multiple(network)
    plain = family.dense == "patches"
    return _image(network, (2 * height, 2 * width) if plain else (math.lcm(64, height), math.lcm(64, width)))


def _image(network: nn.Module, sides: tuple[int, int]) -> Tensor:
    return next(network.parameters()).new_zeros((1, input_channels(network), *sides))

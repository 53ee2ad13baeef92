"""The device stage of the views: flip, transform, colour, blur and normalisation of whole batches.

All randomness was drawn by the loader's workers (`pretrain/views/dataset.py`), so this is a pure function. The CPU
knows every parameter, hence which samples an operation concerns: nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from pretrain import transforms
from pretrain.views.blur import blur, gaussian
from pretrain.views.colour import brightness_, contrast_, greyscale_, hue_, saturation_, solarise_
from pretrain.views.config import ViewConfig
from pretrain.views.masked_apply import masked_apply

JITTER = ((brightness_, 1.0), (contrast_, 1.0), (saturation_, 1.0), (hue_, 0.0))
"""Operations in the order of their factors, each with its neutral factor."""

CPU_PIXELS = 100_000
"""On the CPU, samples are taken through all operations in groups of about this many pixels, which stay in its cache."""


@torch.no_grad()
def augment(
    images: torch.Tensor,
    parameters: Mapping[str, np.ndarray],
    config: ViewConfig,
    mean: Sequence[float],
    std: Sequence[float],
) -> torch.Tensor:
    """Augmented and normalised views of a batch.

    images: uint8 [B, C, S, S] on any device, left unchanged. parameters: arrays [B, …] on the CPU, as `collate` gives
    them; they are complete (each sample has its sigma, threshold, …), so views of one type may be concatenated.
    mean, std: of the three channels, for images in 0…1. Returns float32 [B, 3, S, S] on the same device.
    The blur is a matrix product: with TF32 allowed it is exact to about 5e-4 instead of 1e-6.
    """
    assert images.dtype == torch.uint8, images.dtype
    group = len(images) if images.is_cuda else max(1, CPU_PIXELS // (images.shape[2] * images.shape[3]))
    centre, scale = (
        torch.tensor(values, dtype=torch.float32).view(-1, 1, 1).to(images.device, non_blocking=True)
        for values in (mean, std)
    )
    done = torch.empty(images.shape, device=images.device)
    with torch.autocast(images.device.type, enabled=False):
        for start in range(0, len(images), group):
            part = slice(start, start + group)
            some = images[part].to(torch.float32, memory_format=torch.contiguous_format).mul_(1 / 255)
            some = _change(some, {name: values[part] for name, values in parameters.items()}, config)
            torch.sub(some, centre, out=done[part]).div_(scale)
    return done


def _change(images: torch.Tensor, parameters: Mapping[str, np.ndarray], config: ViewConfig) -> torch.Tensor:
    images = masked_apply(images, parameters["flip"], lambda some: some.flip(3))
    if config.transform is not None:
        prefix = f"{config.transform}."
        own = {name.removeprefix(prefix): values for name, values in parameters.items() if name.startswith(prefix)}
        images = transforms.find(config.transform).apply(images, own, config.transform_config)
    order, factors = parameters["jitter_order"], parameters["jitter"]
    for place in range(len(JITTER)):
        for number, (operation, neutral) in enumerate(JITTER):
            chosen = (order[:, place] == number) & (factors[:, number] != neutral)
            images = masked_apply(images, chosen, operation, factors[:, number])
    images = masked_apply(images, parameters["grey"], greyscale_)
    if (blurred := parameters["blur_sigma"] > 0).any():
        weights = np.zeros((len(images), int(parameters["blur_kernel"][blurred].max())), dtype=np.float32)
        weights[blurred] = gaussian(parameters["blur_sigma"][blurred], parameters["blur_kernel"][blurred])
        images = masked_apply(images, blurred, blur, weights)
    threshold = parameters["solarise_from"]
    return masked_apply(images, np.isfinite(threshold), solarise_, threshold)

"""Operations on part of a batch: the samples are chosen on the CPU, and nothing waits for the device."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch


def masked_apply(
    images: torch.Tensor, chosen: np.ndarray, change: Callable[..., torch.Tensor], *values: np.ndarray
) -> torch.Tensor:
    """`images` [B, …] with `change(images[chosen], *(value[chosen] for value in values))` in place of the chosen ones.

    `chosen` is a bool array [B], `values` are arrays [B, …] that go along to the device. Overwrites `images`, and so
    may `change`. Samples that aren't chosen cost nothing.
    """
    positions = np.flatnonzero(chosen)
    if len(positions) == 0:
        return images
    # A small copy from pageable memory is staged by the driver, so non_blocking is safe and doesn't synchronise.
    on_device = [torch.from_numpy(value[positions]).to(images.device, non_blocking=True) for value in values]
    if len(positions) == len(images):
        return change(images, *on_device)
    index = torch.from_numpy(positions).to(images.device, non_blocking=True)
    return images.index_copy_(0, index, change(images.index_select(0, index), *on_device))

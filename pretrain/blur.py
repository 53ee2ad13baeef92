"""Gaussian blur of a batch, each sample with its own sigma and kernel size."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

BLOCK = 16
"""Neighbouring pixels computed by one row of the matrix product; 16 was the fastest of 16, 32 and 56."""


def gaussian(sigma: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Weights [B, K] float32 for sigma [B] and odd kernel sizes [B], K the largest of them; rows sum to 1.

    exp(−d² / 2σ²) at the pixels' distances d, cut off at half the kernel size.
    """
    reach = int(kernel.max()) // 2
    distance = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (distance / sigma[:, None].astype(np.float64)) ** 2)
    weights *= np.abs(distance) <= kernel[:, None] // 2
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def blur(images: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Convolves images [B, 3, H, W] along both axes with each sample's weights [B, K], borders reflected.

    Raises ValueError where K // 2 ≥ H or W, for there is not enough image to reflect.
    """
    if weights.shape[1] // 2 >= min(images.shape[2:]):
        height, width = images.shape[2:]
        raise ValueError(f"a blur kernel of {weights.shape[1]} is too large for an image of {height}×{width} pixels")
    return _along_rows(_along_rows(images, weights).mT, weights).mT


def _along_rows(images: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    batch, channels, height, width = images.shape
    kernel = weights.shape[1]
    span = BLOCK + kernel - 1
    # A row of K weights and BLOCK zeros, repeated and read with a stride one shorter, is the banded matrix
    # [BLOCK, span] whose row j holds the weights from column j on.
    band = F.pad(weights, (0, BLOCK))[:, None].expand(-1, BLOCK, -1).reshape(batch, -1)
    band = band[:, : BLOCK * span].view(batch, BLOCK, span)
    padded = F.pad(images, (kernel // 2, kernel // 2, 0, 0), mode="reflect")
    padded = F.pad(padded, (0, -width % BLOCK))
    windows = padded.unfold(3, span, BLOCK).reshape(batch, -1, span)
    return torch.bmm(windows, band.mT).view(batch, channels, height, -1)[..., :width]

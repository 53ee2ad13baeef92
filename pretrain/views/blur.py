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
    reach = weights.shape[1] // 2
    band = _band(weights)
    batch, channels, height, width = images.shape
    padded = F.pad(images, (reach, reach, 0, 0), mode="reflect")
    windows = F.pad(padded, (0, -width % BLOCK)).unfold(3, band.shape[2], BLOCK)
    rows = torch.bmm(windows.reshape(batch, -1, band.shape[2]), band.mT)
    padded = F.pad(rows.view(batch, channels, height, -1)[..., :width], (0, 0, reach, reach), mode="reflect")
    windows = F.pad(padded, (0, 0, 0, -height % BLOCK)).unfold(2, band.shape[2], BLOCK).mT
    columns = torch.matmul(band[:, None, None], windows)
    return columns.reshape(batch, channels, -1, width)[:, :, :height]


def _band(weights: torch.Tensor) -> torch.Tensor:
    """[B, BLOCK, BLOCK + K − 1]: the weights [B, K] in row j from column j on, zero elsewhere."""
    batch, kernel = weights.shape
    # A row of K weights and BLOCK zeros, repeated, then read in rows one shorter, shifts by one from row to row.
    repeated = F.pad(weights, (0, BLOCK))[:, None].expand(-1, BLOCK, -1).reshape(batch, -1)
    return repeated[:, : BLOCK * (BLOCK + kernel - 1)].view(batch, BLOCK, BLOCK + kernel - 1)

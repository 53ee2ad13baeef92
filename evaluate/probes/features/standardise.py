"""Standardised features: per dimension, with statistics of the training images or of the batch."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.distributed import sum_over_ranks
from evaluate.common.resumable import copy_exactly
from evaluate.probes.features.cache import CachedFeatures

Standardisation = Literal["none", "train", "batch_norm"]
_ROWS = 65536


def moments(features: CachedFeatures) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and (biased) standard deviation per dimension, [F] each, summed in float64; 1 where it is constant."""
    total = len(features.rows)
    mean = np.zeros(features.values.shape[1])
    for start in range(0, total, _ROWS):
        mean += features.values[features.rows[start : start + _ROWS]].sum(0, dtype=np.float64) / total
    variance = np.zeros_like(mean)
    for start in range(0, total, _ROWS):
        block = features.values[features.rows[start : start + _ROWS]]
        variance += np.square(block.astype(np.float64) - mean).sum(0) / total
    deviation = np.sqrt(variance)
    # Rounding leaves a constant dimension a deviation of about 1e-7 of its value.
    constant = deviation <= 1e-6 * np.maximum(np.abs(mean), 1e-30)
    return mean.astype(np.float32), np.where(constant, 1.0, deviation).astype(np.float32)


class FixedStandardiser:
    """(x − mean) / std with fixed statistics."""

    def __init__(self, mean: NDArray[np.float32], deviation: NDArray[np.float32], device: torch.device) -> None:
        self._mean = torch.from_numpy(mean).to(device)
        self._factor = 1 / torch.from_numpy(deviation).to(device)

    def train(self, features: Tensor, total: int) -> Tensor:
        """[B, F] -> [B, F], for training."""
        return (features - self._mean).mul_(self._factor)

    def evaluate(self, features: Tensor) -> Tensor:
        """[B, F] -> [B, F], for validation."""
        return self.train(features, 0)

    def state(self) -> dict[str, Tensor]:
        """Nothing changes while training."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Nothing to restore."""

    def affine(self) -> tuple[Tensor, Tensor]:
        """Mean and factor that validation uses, [F] each."""
        return self._mean, self._factor


class BatchStandardiser:
    """Batch norm without scale and shift over the global batch; running moments serve for validation.

    MAE's linear probe, arXiv 2111.06377, appendix A.1: momentum 0.1, ε 1e-6, unbiased variance in the running moments.
    """

    momentum, epsilon = 0.1, 1e-6

    def __init__(self, width: int, device: torch.device) -> None:
        self._mean = torch.zeros(width, device=device)
        self._variance = torch.ones(width, device=device)

    def train(self, features: Tensor, total: int) -> Tensor:
        """[B, F] of this rank -> [B, F], standardised by the moments of all `total` images of the step."""
        mean = sum_over_ranks(features.sum(0)) / total
        centred = features - mean
        variance = sum_over_ranks(centred.square().sum(0)) / total
        self._mean.lerp_(mean, self.momentum)
        self._variance.lerp_(variance * (total / max(total - 1, 1)), self.momentum)
        return centred.mul_(torch.rsqrt(variance + self.epsilon))

    def evaluate(self, features: Tensor) -> Tensor:
        """[B, F] -> [B, F] by the running moments."""
        mean, factor = self.affine()
        return (features - mean).mul_(factor)

    def state(self) -> dict[str, Tensor]:
        """The running moments."""
        return {"mean": self._mean, "variance": self._variance}

    def restore(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state`; `ValueError` or `KeyError` for a state of other inputs."""
        for name, own in (("mean", self._mean), ("variance", self._variance)):
            copy_exactly(own, state[name], name)

    def affine(self) -> tuple[Tensor, Tensor]:
        """Mean and factor that validation uses, [F] each."""
        return self._mean, torch.rsqrt(self._variance + self.epsilon)


Standardiser = FixedStandardiser | BatchStandardiser


def build_standardiser(
    kind: Standardisation, train: CachedFeatures | None, width: int, device: torch.device
) -> Standardiser:
    """`train`: features of the training images, needed for kind `train`."""
    if kind == "batch_norm":
        return BatchStandardiser(width, device)
    if kind == "none":
        return FixedStandardiser(np.zeros(width, np.float32), np.ones(width, np.float32), device)
    assert train is not None
    return FixedStandardiser(*moments(train), device)

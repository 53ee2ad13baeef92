"""Scattering transform of images with Morlet wavelets: a fixed front without trained weights.

Bruna & Mallat, "Invariant scattering convolution networks", arXiv 1203.1513. Wavelets, order of channels and borders
are those of kymatio 0.3 (Andreux et al., arXiv 1812.11214), to which results are equal up to its rounded constants.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

_PERIODS = (-2, -1, 0, 1, 2)
"""Copies of the grid over which a filter is summed, so that it is periodic."""


def count_channels(scales: int, angles: int) -> int:
    """Coefficients K of one colour channel: 1 + L·J + L²·J·(J − 1) / 2."""
    return 1 + angles * scales + angles**2 * scales * (scales - 1) // 2


def _gabor(shape: tuple[int, int], sigma: float, theta: float, xi: float, slant: float) -> np.ndarray:
    """Gabor function on a torus of H × W pixels around pixel 0: complex128 [H, W]."""
    total = np.zeros(shape, dtype=np.complex128)
    for down in _PERIODS:
        for right in _PERIODS:
            rows, columns = np.mgrid[: shape[0], : shape[1]]
            rows, columns = rows + down * shape[0], columns + right * shape[1]
            along = rows * math.cos(theta) + columns * math.sin(theta)
            across = columns * math.cos(theta) - rows * math.sin(theta)
            total += np.exp(-(along**2 + slant**2 * across**2) / (2 * sigma**2) + 1j * xi * along)
    return total / (2 * math.pi * sigma**2 / slant)


@lru_cache(maxsize=8)
def filters(shape: tuple[int, int], scales: int, angles: int) -> tuple[np.ndarray, np.ndarray]:
    """Fourier transforms, which are real: wavelets float64 [J, L, H, W] and the low pass [H, W].

    Wavelet j, t: Morlet of σ = 0.8·2^j, frequency (3π/4)/2^j, slant 4/L, at θ = (L − ⌊L/2⌋ − 1 − t)·π/L.
    """
    wavelets = np.empty((scales, angles, *shape))
    for scale in range(scales):
        for angle in range(angles):
            sigma, theta = 0.8 * 2**scale, (angles - angles // 2 - 1 - angle) * math.pi / angles
            wave = _gabor(shape, sigma, theta, 0.75 * math.pi / 2**scale, 4 / angles)
            envelope = _gabor(shape, sigma, theta, 0.0, 4 / angles)
            wavelets[scale, angle] = np.fft.fft2(wave - envelope * (wave.sum() / envelope.sum())).real
    return wavelets, np.fft.fft2(_gabor(shape, 0.8 * 2 ** (scales - 1), 0.0, 0.0, 1.0)).real


def at_stride(spectra: np.ndarray, stride: int) -> np.ndarray:
    """Filters on a grid that is `stride` times coarser: the band that would alias is zeroed, the rest folded."""
    height, width = spectra.shape[-2:]
    kept = []
    for length in (height, width):
        short = length // stride
        kept.append(np.ones(length))
        kept[-1][short // 2 : short // 2 + length - short] = 0
    folded = (spectra * np.outer(*kept)).reshape(*spectra.shape[:-2], stride, height // stride, stride, width // stride)
    return folded.sum((-4, -2))


class Scattering(nn.Module):
    """Scattering coefficients up to order 2 of each colour channel, at a stride of 2^J.

    Channels of a colour: order 0, then order 1 (scale, then angle), then order 2 (first wavelet, then second, of
    coarser scales only). Computed in fp32 or better, whatever the autocast; the filters are no part of the state dict.
    """

    def __init__(self, scales: int, angles: int) -> None:
        super().__init__()
        self.scales, self.angles = scales, angles
        self._banks: dict[tuple[int, int, torch.device, torch.dtype], tuple[list[Tensor], list[Tensor]]] = {}

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C·K, H / 2^J, W / 2^J]; H and W must be multiples of 2^J."""
        stride = 2**self.scales
        height, width = images.shape[-2:]
        assert height % stride == width % stride == 0, (
            f"scattering at {self.scales} scales needs images whose sides are multiples of {stride}, not "
            f"{height} × {width}"
        )
        with torch.autocast(images.device.type, enabled=False):
            values = images.to(torch.promote_types(images.dtype, torch.float32)).contiguous()
            padded = F.pad(values, (stride,) * 4, mode="reflect")
            maps = self.on_torus(padded.flatten(0, 1))[..., 1:-1, 1:-1]
        return maps.unflatten(0, images.shape[:2]).flatten(1, 2)

    def on_torus(self, images: Tensor) -> Tensor:
        """Coefficients of images that are periodic: [R, H, W] -> [R, K, H / 2^J, W / 2^J]."""
        wavelets, low_pass = self._bank(images)
        spectrum = torch.fft.fft2(images)
        first, second = [], []
        for scale in range(self.scales):
            for angle in range(self.angles):
                modulus = self._modulus(spectrum, wavelets[scale * self.scales][angle], 2**scale)
                spectrum1 = torch.fft.fft2(modulus)
                first.append(self._average(spectrum1, low_pass[scale], scale))
                for finer in range(scale + 1, self.scales):
                    bank = wavelets[finer * self.scales + scale]
                    modulus2 = self._modulus(spectrum1[:, None], bank, 2 ** (finer - scale))
                    second.append(self._average(torch.fft.fft2(modulus2), low_pass[finer], finer))
        zeroth = self._average(spectrum, low_pass[0], 0)
        return torch.cat([torch.stack([zeroth, *first], 1), *second], 1)

    def _modulus(self, spectrum: Tensor, bank: Tensor, stride: int) -> Tensor:
        return torch.fft.ifft2(_folded(spectrum * bank, stride)).abs()

    def _average(self, spectrum: Tensor, low_pass: Tensor, scale: int) -> Tensor:
        return torch.fft.ifft2(_folded(spectrum * low_pass, 2 ** (self.scales - scale))).real

    def _bank(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Wavelets of each (scale, coarser grid) and low passes of each grid, on the images' device."""
        key = (*images.shape[-2:], images.device, images.dtype)
        if key not in self._banks:
            wavelets, low_pass = filters((images.shape[-2], images.shape[-1]), self.scales, self.angles)

            def as_tensor(values: np.ndarray) -> Tensor:
                return torch.from_numpy(values).to(images.device, images.dtype, non_blocking=True)

            grids = range(self.scales)
            banks = [as_tensor(at_stride(of_scale, 2**grid)) for of_scale in wavelets for grid in grids]
            self._banks[key] = banks, [as_tensor(at_stride(low_pass, 2**grid)) for grid in grids]
        return self._banks[key]

    def __deepcopy__(self, memo: dict[int, object]) -> Scattering:
        return Scattering(self.scales, self.angles)


def _folded(spectrum: Tensor, stride: int) -> Tensor:
    """Fourier transform of the signal at every `stride`-th pixel: the mean over the bands that fall together."""
    if stride == 1:
        return spectrum
    height, width = (length // stride for length in spectrum.shape[-2:])
    return spectrum.unflatten(-1, (stride, width)).unflatten(-3, (stride, height)).mean((-4, -2))

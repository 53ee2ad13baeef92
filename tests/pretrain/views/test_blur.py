"""Gaussian blur: per sample against torchvision's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as reference

from pretrain.views.blur import blur, gaussian


@pytest.mark.parametrize(
    ("height", "width", "kernels"),
    [
        (64, 64, (23, 23, 23, 23)),
        (224, 96, (23, 5, 1, 11)),  # kernels of one batch may differ
        (33, 47, (9, 9, 9, 9)),  # sizes that the blocks don't divide
        (12, 12, (23, 23, 23, 23)),  # the widest kernel that 12 pixels can reflect
        (5, 9, (3, 9, 3, 1)),
    ],
)
def test_each_sample_gets_its_own_sigma_and_kernel(height: int, width: int, kernels: tuple[int, ...]) -> None:
    images = torch.rand(4, 3, height, width, generator=torch.Generator().manual_seed(0))
    sigmas = np.array([0.1, 0.6, 1.3, 2.0], dtype=np.float32)
    got = blur(images.clone(), torch.from_numpy(gaussian(sigmas, np.array(kernels))))
    expected = torch.stack(
        [
            reference.gaussian_blur(image, [kernel, kernel], [float(sigma)] * 2)
            for image, kernel, sigma in zip(images, kernels, sigmas, strict=True)
        ]
    )
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-6)


def test_weights_are_the_cut_off_gaussian() -> None:
    weights = gaussian(np.array([1.0, 2.0], dtype=np.float32), np.array([3, 5]))
    centre = 1 / (1 + 2 * np.exp(-0.5))
    np.testing.assert_allclose(weights[0], [0, centre * np.exp(-0.5), centre, centre * np.exp(-0.5), 0], rtol=1e-6)
    np.testing.assert_allclose(weights[1, 2] / weights[1, 0], np.exp(0.5), rtol=1e-6)
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-6)


def test_a_kernel_wider_than_the_reflected_image_is_refused() -> None:
    weights = torch.from_numpy(gaussian(np.ones(1), np.array([23])))
    with pytest.raises(ValueError, match=r"kernel.* 23 .*40×11"):
        blur(torch.rand(1, 3, 40, 11), weights)

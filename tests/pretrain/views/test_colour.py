"""Colour operations: per sample against torchvision's, on float images."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchvision.transforms.v2.functional as reference

from pretrain.views.colour import brightness_, contrast_, greyscale_, hue_, saturation_, solarise_


def pictures() -> torch.Tensor:
    """Smooth values, 8-bit values, few values (many equal channels and extremes), greys, black and white."""
    images = torch.rand(6, 3, 37, 41, generator=torch.Generator().manual_seed(0))
    images[1] = (images[1] * 255).round() / 255
    images[2] = (images[2] * 3).round() / 3
    images[3] = images[3, :1]
    images[4] = 0.0
    images[5] = 1.0
    return images


@pytest.mark.parametrize(
    ("operation", "functional", "factors", "tolerance"),
    [
        (brightness_, reference.adjust_brightness, (0.0, 0.6, 1.0, 1.4, 0.8, 3.0), 0.0),
        (contrast_, reference.adjust_contrast, (0.0, 0.6, 1.0, 1.4, 0.8, 3.0), 1e-6),
        (saturation_, reference.adjust_saturation, (0.0, 0.6, 1.0, 1.4, 0.8, 3.0), 1e-6),
        # float32 holds a hue of up to 6 to 5e-7, and both sides round it several times
        (hue_, reference.adjust_hue, (0.1, -0.1, 0.5, -0.33, 0.04, -0.5), 2e-6),
        (hue_, reference.adjust_hue, (-0.25, 0.5, -1 / 6, 0.2, 0.0, 1 / 3), 2e-6),
        (solarise_, reference.solarize, (0.5, 0.2, 1 / 3, 0.9, 0.0, 1.0), 0.0),
    ],
)
def test_each_sample_gets_its_own_factor(
    operation: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    functional: Callable[[torch.Tensor, float], torch.Tensor],
    factors: tuple[float, ...],
    tolerance: float,
) -> None:
    factor = torch.tensor(factors)
    got = operation(pictures(), factor)
    expected = torch.stack([functional(image, value.item()) for image, value in zip(pictures(), factor, strict=True)])
    torch.testing.assert_close(got, expected, rtol=0, atol=tolerance)


def test_grey_is_the_luma_in_all_channels() -> None:
    expected = torch.stack([reference.rgb_to_grayscale(image, 3) for image in pictures()])
    torch.testing.assert_close(greyscale_(pictures()), expected, rtol=0, atol=1e-7)


def test_hue_turns_the_primary_colours_into_each_other() -> None:
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    for shift, colour in ((1 / 3, (0, 1, 0)), (-1 / 3, (0, 0, 1)), (0.5, (0, 1, 1)), (1 / 6, (1, 1, 0))):
        got = hue_(red.clone(), torch.tensor([shift])).flatten()
        torch.testing.assert_close(got, torch.tensor(colour, dtype=torch.float32), rtol=0, atol=1e-6)

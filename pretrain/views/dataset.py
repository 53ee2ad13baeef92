"""The loader's stage of the views: decode, crop, resize, draw all random numbers.

The views of an image are a pure function of (seed, epoch, position): they don't depend on the number of workers,
processes or images in a batch, and a resumed run needs no state of random generators.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import PIL.Image
import torch
from torch.utils.data import Dataset

from core.data.base import ImageSet
from core.data.broken import decode_or_replace
from core.data.crop import resized_crop, resized_crop_of_pixels
from core.errors import UserError
from pretrain import transforms
from pretrain.views.collate import Sample, View
from pretrain.views.config import PhotometricConfig, Resampler, ViewConfig


class Views(Dataset[Sample]):
    """The views of an image set, addressed by (epoch, position)."""

    def __init__(
        self, images: ImageSet, views: Mapping[str, ViewConfig], seed: int, resampler: Resampler = "torch"
    ) -> None:
        if seed < 0:
            raise UserError(f"seed must be 0 or more, not {seed}")
        self._images, self._views, self._seed, self._resampler = images, dict(views), seed, resampler
        self._transforms = {
            name: (transforms.find(view.transform).draw, view.transform_config)
            for name, view in self._views.items()
            if view.transform is not None
        }

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """The sample of `key` = (epoch, position).

        A broken image is replaced by one drawn at random; `UserError` where `REPLACEMENTS` of these are broken too.
        """
        epoch, index = key
        rng = np.random.default_rng((self._seed, epoch, index))
        image, index, broken = decode_or_replace(self._images, index, rng)
        source = torch.from_numpy(np.array(image)) if self._resampler == "torch" else image
        views = {
            name: [self._view(name, view, number, source, rng) for number in range(view.count)]
            for name, view in self._views.items()
        }
        return Sample(views, index, broken)

    def _view(
        self,
        name: str,
        config: ViewConfig,
        number: int,
        source: torch.Tensor | PIL.Image.Image,
        rng: np.random.Generator,
    ) -> View:
        if isinstance(source, torch.Tensor):
            crop = resized_crop_of_pixels(source, config.size, config.area, config.ratio, rng)
        else:
            resized = resized_crop(source, config.size, config.area, config.ratio, rng)
            crop = torch.from_numpy(np.array(resized)).permute(2, 0, 1)
        parameters = draw_photometric(config.photometric[min(number, len(config.photometric) - 1)], rng)
        if name in self._transforms:
            draw, options = self._transforms[name]
            parameters |= {f"{config.transform}.{key}": value for key, value in draw(options, config.size, rng).items()}
        return View(crop, parameters)


def draw_photometric(config: PhotometricConfig, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The parameters of one view of one sample.

    flip, grey: bool. jitter: float32 [4], the factors of brightness, contrast, saturation (1 changes nothing) and hue
    (0 changes nothing). jitter_order: int8 [4], which of the four comes first, second, …. blur_sigma: float32, 0 for
    no blur. blur_kernel: int64. solarise_from: float32, the threshold, infinite for none.
    """
    flip, jitter, grey, blur, sigma, solarise, *eight = rng.random(14).tolist()
    factors = [1.0, 1.0, 1.0, 0.0]
    if jitter < config.jitter_p:
        factors = [
            max(0.0, neutral - strength) + (neutral + strength - max(0.0, neutral - strength)) * number
            for neutral, strength, number in zip((1.0, 1.0, 1.0), config.jitter[:3], eight[:3], strict=True)
        ]
        factors.append(config.jitter[3] * (2 * eight[3] - 1))
    low, high = config.blur_sigma
    return {
        "flip": np.array(flip < config.flip),
        "jitter": np.array(factors, dtype=np.float32),
        "jitter_order": np.argsort(eight[4:]).astype(np.int8),
        "grey": np.array(grey < config.grey_p),
        "blur_sigma": np.array(low + (high - low) * sigma if blur < config.blur_p else 0.0, dtype=np.float32),
        "blur_kernel": np.array(config.blur_kernel),
        "solarise_from": np.array(
            config.solarise_threshold if solarise < config.solarise_p else math.inf, dtype=np.float32
        ),
    }

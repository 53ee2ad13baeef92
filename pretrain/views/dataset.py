"""Views: what each is, and the loader's side of making them (decode, crop, resize, draw all random numbers).

The views of an image are a pure function of (seed, epoch, position): they don't depend on the number of workers,
processes or images in a batch, and a resumed run needs no state of random generators.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import PIL.Image
import torch
from torch.utils.data import Dataset, default_collate

from core.data.base import ImageSet
from core.data.broken import decode_or_replace
from core.data.crop import resized_crop, resized_crop_of_pixels
from core.errors import UserError
from pretrain import transforms

Resampler = Literal["torch", "pillow"]
"""Who resizes crops, bicubic with antialiasing: torch on uint8 tensors, as the method's public code has it, or Pillow,
at five times the cost. The two differ by one grey level in places, rarely by two."""


@dataclass(frozen=True)
class PhotometricConfig:
    """Colours, blur and flip of one view. Defaults: BYOL's first view but for blur (arXiv 2006.07733, appendix B)."""

    flip: float = 0.5
    """Probability of a horizontal flip."""
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    """Strengths of brightness, contrast, saturation and hue; the four are applied in random order."""
    jitter_p: float = 0.8
    """Probability of colour jitter."""
    grey_p: float = 0.2
    """Probability of greyscale."""
    blur_p: float = 0.5
    """Probability of Gaussian blur."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Standard deviation of the blur in pixels, drawn uniformly between the two."""
    blur_kernel: int = 23
    """Width of the blur's kernel in pixels, odd."""
    solarise_p: float = 0.0
    """Probability of solarisation."""
    solarise_threshold: float = 0.5
    """Values from here on (0…1) are inverted by solarisation."""

    def __post_init__(self) -> None:
        for name in ("flip", "jitter_p", "grey_p", "blur_p", "solarise_p", "solarise_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in 0…1, not {getattr(self, name)}")
        if min(self.jitter) < 0 or self.jitter[3] > 0.5:
            raise ValueError(f"jitter must be four strengths ≥ 0, the last (hue) ≤ 0.5, not {self.jitter}")
        if not 0 < self.blur_sigma[0] <= self.blur_sigma[1]:
            raise ValueError(f"blur_sigma must be (min, max) with 0 < min ≤ max, not {self.blur_sigma}")
        if self.blur_kernel < 1 or self.blur_kernel % 2 == 0:
            raise ValueError(f"blur_kernel must be odd and positive, not {self.blur_kernel}")


@dataclass(frozen=True)
class ViewConfig:
    """One view type: how many views, what crop, what is done to them, what they weigh in the loss."""

    count: int = 2
    """Views of this type per image."""
    size: int = 224
    """Height and width of the view in pixels."""
    area: tuple[float, float] = (0.25, 1.0)
    """The crop's share of the image's area, drawn uniformly between the two."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Width / height of the crop, drawn log-uniformly between the two."""
    weight: float = 1.0
    """Weight of this view type in the loss."""
    photometric: tuple[PhotometricConfig, ...] = (PhotometricConfig(),)
    """Recipe of the first, second, … view of this type; the last one serves for the rest."""
    pretext: str | None = None
    """Pretext task applied before the colours: the name of a file in pretrain/tasks, or none."""
    pretext_options: dict[str, Any] = field(default_factory=dict)
    """Options of the pretext task, the fields of its `Config`."""

    def __post_init__(self) -> None:
        for name in ("count", "size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, not {getattr(self, name)}")
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise ValueError(f"area must be (min, max) with 0 < min ≤ max ≤ 1, not {self.area}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio must be (min, max) with 0 < min ≤ max, not {self.ratio}")
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"weight must be 0 or more, not {self.weight}")
        if not 1 <= len(self.photometric) <= self.count:
            raise ValueError(f"photometric must have 1 to count = {self.count} entries, not {len(self.photometric)}")
        for recipe in self.photometric:
            if recipe.blur_p > 0 and recipe.blur_kernel // 2 >= self.size:
                raise ValueError(
                    f"photometric.blur_kernel {recipe.blur_kernel} is too large for size {self.size}; "
                    f"at most {2 * self.size - 1} can be reflected at the borders"
                )
        if self.pretext is None:
            if self.pretext_options:
                raise ValueError(f"pretext_options {sorted(self.pretext_options)} are given, but no pretext")
        else:
            transforms.find(self.pretext).draw(self.pretext_config, self.size, np.random.default_rng(0))

    @cached_property
    def pretext_config(self) -> Any:
        """The pretext task's own `Config`; only where there is a pretext task."""
        assert self.pretext is not None
        return transforms.configure(self.pretext, self.pretext_options)


@dataclass
class View:
    """One view, of one sample or of a batch of them (then everything has a leading axis B)."""

    images: torch.Tensor
    """uint8 [3, S, S], cropped and resized only."""
    parameters: dict[str, np.ndarray]
    """What `augment` is to do, by name. Arrays rather than tensors: they stay on the CPU, and a worker passes them on
    by value, where each tensor would take a file descriptor."""


@dataclass
class Sample:
    """All views of one image."""

    views: dict[str, list[View]]
    """By view type."""
    index: int
    """Position of the image in the set (of the replacement, where the one asked for is broken)."""
    broken: list[str]
    """The broken images met on the way here, by their names."""


@dataclass
class Batch:
    """All views of a batch of images."""

    views: dict[str, list[View]]
    """By view type; each with images [B, 3, S, S] and parameters [B, …]."""
    index: torch.Tensor
    """int64 [B], as in `Sample`."""
    broken: list[str]
    """Those of all samples."""

    def pin_memory(self) -> Batch:
        """The images in page-locked memory; called by DataLoader(pin_memory=True)."""
        views = {
            name: [dataclasses.replace(view, images=view.images.pin_memory()) for view in views]
            for name, views in self.views.items()
        }
        return dataclasses.replace(self, views=views)


class Views(Dataset[Sample]):
    """The views of an image set, addressed by (epoch, position)."""

    def __init__(
        self, images: ImageSet, views: Mapping[str, ViewConfig], seed: int, resampler: Resampler = "torch"
    ) -> None:
        if seed < 0:
            raise UserError(f"seed must be 0 or more, not {seed}")
        self._images, self._views, self._seed, self._resampler = images, dict(views), seed, resampler
        self._tasks = {
            name: (transforms.find(view.pretext).draw, view.pretext_config)
            for name, view in self._views.items()
            if view.pretext is not None
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
        if name in self._tasks:
            draw, options = self._tasks[name]
            parameters |= {f"{config.pretext}.{key}": value for key, value in draw(options, config.size, rng).items()}
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


def collate(samples: Sequence[Sample]) -> Batch:
    """Stacks samples into a batch."""
    views = {
        name: [
            View(
                # Stacked as [B, S, S, 3], the layout they were decoded in; transposing is cheaper on the device. In a
                # worker this stacks straight into the memory that it shares with the trainer.
                default_collate([sample.views[name][number].images.permute(1, 2, 0) for sample in samples]).permute(
                    0, 3, 1, 2
                ),
                {
                    key: np.stack([sample.views[name][number].parameters[key] for sample in samples])
                    for key in first.parameters
                },
            )
            for number, first in enumerate(of_type)
        ]
        for name, of_type in samples[0].views.items()
    }
    index = torch.tensor([sample.index for sample in samples])
    return Batch(views, index, [name for sample in samples for name in sample.broken])

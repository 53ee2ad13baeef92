"""View types: how many views, what crop, and what changes them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np

from pretrain import transforms

GLOBAL = "global"
"""View type whose views are the targets of all others."""

Resampler = Literal["torch", "pillow"]
"""Library that resizes crops, bicubic with antialiasing: torch on uint8 tensors, as in the method's public code, or
Pillow, at five times the cost. The two differ by one grey level in places, rarely by two."""

Decode = Literal["workers", "device"]
"""Where JPEGs are decoded, cropped and resized: in the loader's processes, or on the device that trains."""


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
    """One view type: number of views, crop, changes, weight in the loss."""

    RENAMED: ClassVar[Mapping[str, str]] = {"pretext": "transform", "pretext_options": "transform_options"}

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
    placement: Literal["independent", "apart"] = "independent"
    """`apart`: the two views of this type are a pair with boxes that don't overlap (where ten tries find such boxes)
    and one flip for both."""
    transform: str | None = None
    """Transform applied before the colours: the name of a file in pretrain/transforms, or none."""
    transform_options: dict[str, Any] = field(default_factory=dict)
    """Options of the transform, the fields of its `Config`."""

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
        if self.placement == "apart" and self.count != 2:
            raise ValueError(f"placement=apart is for pairs: count must be 2, not {self.count}")
        if not 1 <= len(self.photometric) <= self.count:
            raise ValueError(f"photometric must have 1 to count = {self.count} entries, not {len(self.photometric)}")
        for recipe in self.photometric:
            if recipe.blur_p > 0 and recipe.blur_kernel // 2 >= self.size:
                raise ValueError(
                    f"photometric.blur_kernel {recipe.blur_kernel} is too large for size {self.size}; "
                    f"at most {2 * self.size - 1} can be reflected at the borders"
                )
        if self.transform is None:
            if self.transform_options:
                raise ValueError(f"transform_options {sorted(self.transform_options)} are given, but no transform")
        else:
            transforms.find(self.transform).draw(self.transform_config, self.size, np.random.default_rng(0))

    @cached_property
    def transform_config(self) -> Any:
        """The transform's own `Config`; only for a view with a transform."""
        assert self.transform is not None
        return transforms.configure(self.transform, self.transform_options)


def pairs(views: Mapping[str, ViewConfig], name: str) -> int:
    """Number of (view of type `name`, global target that is not the same view) pairs."""
    count, targets = views[name].count, views[GLOBAL].count
    return count * (targets - 1) if name == GLOBAL else count * targets

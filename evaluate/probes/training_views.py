"""Augmented training images of probes and fine-tuning: random resized crop and flip, or the evaluation transform."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from core.data.base import ImageSet
from core.data.broken import decode_or_replace
from core.data.crop import Interpolation, resized_crop
from core.data.order import GlobalBatches, fitting_batch
from evaluate.common.context import RunContext


@dataclass(frozen=True)
class TrainingViewConfig:
    area: tuple[float, float] = (0.08, 1.0)
    """The crop's share of the image's area, drawn uniformly between the two."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Width / height of the crop, drawn log-uniformly between the two."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    interpolation: Interpolation = "bicubic"
    """Interpolation in resizing the crop, antialiased."""

    def __post_init__(self) -> None:
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise ValueError(f"area must be (min, max) with 0 < min ≤ max ≤ 1, not {self.area}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio must be (min, max) with 0 < min ≤ max, not {self.ratio}")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"flip must be in 0…1, not {self.flip}")


View = tuple[NDArray[np.uint8], int, list[str]]
"""Pixels uint8 [S, S, 3], the class, and the names of broken images met on the way."""


class TrainingViews(Dataset[View]):
    """One view per (epoch, position), a pure function of these and the seed; broken images are replaced."""

    def __init__(self, images: ImageSet, config: TrainingViewConfig, size: int, seed: int) -> None:
        self._images, self._config, self._size, self._seed = images, config, size, seed

    def __getitem__(self, key: tuple[int, int]) -> View:
        epoch, index = key
        rng = np.random.default_rng((self._seed, epoch, index))
        image, index, broken = decode_or_replace(self._images, index, rng)
        config = self._config
        view = resized_crop(image, self._size, config.area, config.ratio, rng, config.interpolation)
        if rng.random() < self._config.flip:
            view = view.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT)
        return np.asarray(view), self._images.label(index), broken


def view_batches(
    images: ImageSet, config: TrainingViewConfig, size: int, batches: GlobalBatches, context: RunContext
) -> Iterator[tuple[Tensor, Tensor, list[str]]]:  # fmt: skip
    """This rank's part of each global batch: uint8 [b, S, S, 3] and int64 [b] on the CPU, names of broken images."""
    return batches_of(TrainingViews(images, config, size, context.seed), _collate, batches, context)


def batches_of(
    samples: Dataset[Any], collate: Callable[[Sequence[Any]], Any], batches: GlobalBatches, context: RunContext
) -> Iterator[Any]:
    """This rank's part of each global batch of `samples`, which take (epoch, position), from loader processes."""
    loader: DataLoader[Any] = DataLoader(
        samples,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=context.workers,
        pin_memory=context.device.type == "cuda",
        prefetch_factor=4 if context.workers else None,
        generator=torch.Generator(),
    )
    yield from loader


def _collate(views: Sequence[View]) -> tuple[Tensor, Tensor, list[str]]:
    pixels = torch.from_numpy(np.stack([pixels for pixels, _, _ in views]))
    return pixels, torch.tensor([label for _, label, _ in views]), [name for _, _, names in views for name in names]


def fit_batch(config: Any, train: ImageSet, world: int) -> tuple[Any, tuple[str, ...]]:
    """`config` with a batch of at most all images of `train`, and a sentence if that is another one."""
    batch = fitting_batch(config.batch, len(train), world)
    if batch == config.batch:
        return config, ()
    sentence = f"batch {batch} instead of {config.batch}, as there are {len(train):,} training images"
    return dataclasses.replace(config, batch=batch), (sentence,)

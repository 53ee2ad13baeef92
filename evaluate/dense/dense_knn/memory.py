"""Memory of patch features with soft labels, sampled from the training images: rare classes first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch.nn import functional
from torchvision.transforms import functional as transforms

from core.data.account import Account
from core.data.base import ImageSet
from core.data.crop import draw_crop
from core.data.digests import part_digest
from evaluate.dense.data import IGNORED, names_of, semantic_of
from evaluate.dense.dense_knn.protocol import DenseKnnConfig, MemoryConfig
from evaluate.dense.maps import cached_maps
from evaluate.probes.base import Job


@dataclass(frozen=True)
class Memory:
    """N patches."""

    features: NDArray[np.float32]
    """L2-normalised, [N, D]."""
    labels: NDArray[np.float32]
    """Share of each class among the labelled pixels of the patch, [N, C]."""
    broken: tuple[str, ...]
    """Training images that can't be decoded."""


class AugmentedPass:
    """One pass over training images: random crops and colours, a function of seed, pass and position."""

    def __init__(self, whole: ImageSet, config: MemoryConfig, size: int, seed: int, number: int) -> None:
        self.whole, self.name, self.classes = whole, whole.name, whole.classes
        self._config, self._size, self._seed, self._number = config, size, seed, number

    def __len__(self) -> int:
        return len(self.whole)

    def image(self, index: int) -> PIL.Image.Image:
        image = self.whole.image(index)
        box, factors = self._draw(image.size, index)
        image = image.resize((self._size, self._size), PIL.Image.Resampling.BILINEAR, box=box)
        for factor, adjust in zip(
            factors,
            (transforms.adjust_brightness, transforms.adjust_contrast, transforms.adjust_saturation),
            strict=True,
        ):
            image = adjust(image, factor)
        return image

    def semantic(self, index: int) -> NDArray[np.uint8]:
        """Class of each pixel of the crop, [size, size]."""
        classes = semantic_of(self.whole, index)
        box, _ = self._draw(classes.shape[::-1], index)
        shrunk = PIL.Image.fromarray(classes).resize((self._size, self._size), PIL.Image.Resampling.NEAREST, box=box)
        return np.asarray(shrunk)

    def _draw(self, size: tuple[int, ...], index: int) -> tuple[tuple[int, int, int, int], list[float]]:
        rng = np.random.default_rng((self._seed, self._number, index))
        if not self._config.augment:
            return (0, 0, size[0], size[1]), [1.0, 1.0, 1.0]
        left, top, width, height = draw_crop(size[0], size[1], self._config.area, (3 / 4, 4 / 3), rng)
        spread = self._config.colour
        return (left, top, left + width, top + height), (1 - spread + 2 * spread * rng.random(3)).tolist()

    def label(self, index: int) -> int:
        return self.whole.label(index)

    def describe(self, index: int) -> str:
        return self.whole.describe(index)

    def digest(self) -> str:
        if not self._config.augment:
            return self.whole.digest()
        text = f"{self._config} {self._size} {self._seed} {self._number}"
        return part_digest(self.whole.digest(), text.encode())

    def account(self) -> Account:
        return self.whole.account()

    def conversions(self, index: int) -> tuple[str, ...]:
        return self.whole.conversions(index)


def soft_labels(classes: NDArray[np.uint8], count: int, height: int, width: int) -> NDArray[np.float32]:
    """Share of each class among all pixels of each cell, [height·width, count]; the rest of 1 is ignored pixels."""
    present = [int(label) for label in np.unique(classes) if label != IGNORED]
    found = np.zeros((height * width, count), np.float32)
    if present:
        planes = torch.from_numpy(np.stack([classes == label for label in present]).astype(np.float32))
        found[:, present] = functional.adaptive_avg_pool2d(planes, (height, width)).flatten(1).T.numpy()
    return found


def rare_first(labels: NDArray[np.float32], number: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Up to `number` patches of one image that have a label, [n] ascending: those of the least score.

    Score: the sum over the patch's classes of how many patches show the class, times a uniform random number (Balažević
    et al., arXiv 2306.01667, in the reading of open-hummingbird-eval).
    """
    shown = labels > 0
    counts = shown.sum(0)
    scores = (shown * counts).sum(1) * rng.random(len(labels))
    usable = np.flatnonzero(shown.any(1))
    return np.sort(usable[np.argsort(scores[usable], kind="stable")[:number]])


def build_memory(job: Job) -> Memory:
    """The memory, equal on every rank."""
    config: DenseKnnConfig = job.config
    images, size = job.data["train"], config.features.size
    classes = len(names_of(images))
    channels, height, width = job.inputs.shape
    each = max(1, config.memory.patches // (len(images) * config.memory.passes))
    features, labels = [], []
    broken: tuple[str, ...] = ()
    for number in range(config.memory.passes):
        pass_ = AugmentedPass(images, config.memory, size, job.context.seed, number)
        maps = cached_maps(job.backbone, job.inputs, pass_, config.features, job.context)
        broken = maps.cached.broken
        for chosen, values in maps.chunks(32):
            patches = functional.normalize(values, dim=1).flatten(2).transpose(1, 2).numpy()
            for row, own in zip(chosen, patches, strict=True):
                position = int(maps.positions[row])
                soft = soft_labels(pass_.semantic(position), classes, height, width)
                kept = rare_first(soft, each, np.random.default_rng((job.context.seed, number, position, 1)))
                features.append(own[kept])
                labels.append(soft[kept] / soft[kept].sum(1, keepdims=True))
    empty = (np.empty((0, channels), np.float32), np.empty((0, classes), np.float32))
    joined, shares = np.concatenate([empty[0], *features]), np.concatenate([empty[1], *labels])
    return Memory(joined[: config.memory.patches], shares[: config.memory.patches], broken)

"""Views of one image, of one sample and of a batch; stacking samples into batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.utils.data import default_collate


@dataclass
class View:
    """One view, of one sample or of a batch of them (then everything has a leading axis B)."""

    images: torch.Tensor
    """uint8 [3, S, S], cropped and resized only."""
    parameters: dict[str, np.ndarray]
    """Parameters of `augment` by name. Arrays rather than tensors: they stay on the CPU, and a worker passes them by
    value, where each tensor would take a file descriptor."""


@dataclass(frozen=True)
class Jpeg:
    """File of an image that the device decodes."""

    data: bytes
    """Content."""
    size: tuple[int, int]
    """Width and height in pixels."""
    key: tuple[int, int]
    """(epoch, position) of its sample."""


@dataclass
class Sample:
    """All views of one image."""

    views: dict[str, list[View]]
    """By view type. Without pixels (black) where there is a `jpeg`."""
    index: int
    """Position of the image in the set (of the replacement, where the one asked for is broken)."""
    broken: list[str]
    """Names of the broken images that were skipped."""
    jpeg: Jpeg | None = None
    """The image, where the device decodes it."""


@dataclass
class Jpegs:
    """Files of those images of a batch that the device decodes."""

    data: torch.Tensor
    """uint8 [sum of sizes], one file after another."""
    ends: np.ndarray
    """int64 [J], end of each file in `data`."""
    places: np.ndarray
    """int64 [J], places of the images in the batch, ascending."""
    sizes: np.ndarray
    """int64 [J, 2], width and height of the images in pixels."""
    keys: list[tuple[int, int]]
    """(epoch, position) of their samples."""


@dataclass
class Batch:
    """All views of a batch of images."""

    views: dict[str, list[View]]
    """By view type; each with images [B, 3, S, S] and parameters [B, …]. The images of `jpegs` are left out."""
    index: torch.Tensor
    """int64 [B], as in `Sample`."""
    broken: list[str]
    """Names of the skipped broken images of all samples."""
    jpegs: Jpegs | None = None
    """Images that are still encoded."""
    counts: dict[str, int] = field(default_factory=dict)
    """Numbers of images for the metrics."""

    def pin_memory(self) -> Batch:
        """The images in page-locked memory; called by DataLoader(pin_memory=True)."""
        views = {
            name: [
                dataclasses.replace(view, images=view.images.pin_memory()) if len(view.images) else view
                for view in views
            ]
            for name, views in self.views.items()
        }
        return dataclasses.replace(self, views=views)


def collate(samples: Sequence[Sample]) -> Batch:
    """Stacks samples into a batch."""
    decoded = [sample for sample in samples if sample.jpeg is None]
    views = {
        name: [
            View(
                _stack([sample.views[name][number].images for sample in decoded], first.images),
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
    return Batch(views, index, [name for sample in samples for name in sample.broken], _join(samples))


def _stack(images: Sequence[torch.Tensor], like: torch.Tensor) -> torch.Tensor:
    """uint8 [B, 3, S, S]; shaped as `like` [3, S, S] where there are none."""
    if not images:
        return torch.empty((0, *like.shape), dtype=like.dtype)
    # Stacked as [B, S, S, 3], the layout they were decoded in; transposing is cheaper on the device. In a
    # worker this stacks straight into the memory that it shares with the trainer.
    return default_collate([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)


def _join(samples: Sequence[Sample]) -> Jpegs | None:
    found = [(place, sample.jpeg) for place, sample in enumerate(samples) if sample.jpeg is not None]
    if not found:
        return None
    places, jpegs = zip(*found, strict=True)
    return Jpegs(
        torch.frombuffer(bytearray().join(jpeg.data for jpeg in jpegs), dtype=torch.uint8),
        np.cumsum([len(jpeg.data) for jpeg in jpegs]),
        np.array(places),
        np.array([jpeg.size for jpeg in jpegs]),
        [jpeg.key for jpeg in jpegs],
    )

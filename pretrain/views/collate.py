"""Views of one image, of one sample and of a batch; stacking samples into batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass
class Sample:
    """All views of one image."""

    views: dict[str, list[View]]
    """By view type."""
    index: int
    """Position of the image in the set (of the replacement, where the one asked for is broken)."""
    broken: list[str]
    """Names of the broken images that were skipped."""


@dataclass
class Batch:
    """All views of a batch of images."""

    views: dict[str, list[View]]
    """By view type; each with images [B, 3, S, S] and parameters [B, …]."""
    index: torch.Tensor
    """int64 [B], as in `Sample`."""
    broken: list[str]
    """Names of the skipped broken images of all samples."""

    def pin_memory(self) -> Batch:
        """The images in page-locked memory; called by DataLoader(pin_memory=True)."""
        views = {
            name: [dataclasses.replace(view, images=view.images.pin_memory()) for view in views]
            for name, views in self.views.items()
        }
        return dataclasses.replace(self, views=views)


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

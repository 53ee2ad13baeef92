"""The first frame's labels carried through a clip by nearest neighbours of frozen features."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from evaluate.dense.propagate.protocol import PropagateConfig

_ENTRIES = 2**24
"""Affinities held at a time."""


def first_labels(mask: NDArray[np.uint8], height: int, width: int) -> Tensor:
    """One-hot labels of the shrunk (nearest) index map, [C, h, w]; C is the largest index that is left, plus 1."""
    small = np.array(PIL.Image.fromarray(mask).resize((width, height), PIL.Image.Resampling.NEAREST))
    return functional.one_hot(torch.from_numpy(small.astype(np.int64))).permute(2, 0, 1).float()


def mixed_labels(
    target: Tensor, features: Sequence[Tensor], labels: Sequence[Tensor], config: PropagateConfig
) -> Tensor:
    """Soft labels of a frame [C, h, w] from context frames.

    target, features: L2-normalised maps [D, h, w]; labels [C, h, w]. Of all context cells within `radius`, each target
    cell keeps those whose weight exp(cosine / τ) is at least the k-th largest, and mixes their labels. Blocks of rows
    are taken one after another, so that memory doesn't grow with the clip.
    """
    _, height, width = target.shape
    reach = config.radius or max(height, width)
    band = min(height, 2 * reach + 1)
    rows = max(1, _ENTRIES // max(1, width * width * band * len(features)))
    found = []
    columns = torch.arange(width, device=target.device)
    near = (columns[:, None] - columns[None]).abs() <= reach
    for top in range(0, height, rows):
        end = min(top + rows, height)
        low, high = max(0, top - reach), min(height, end + reach)
        asked = target[:, top:end].flatten(1).T
        lines = (torch.arange(top, end)[:, None] - torch.arange(low, high)[None]).abs().to(target.device) <= reach
        window = (lines[:, None, :, None] & near[None, :, None, :]).flatten(0, 1).flatten(1)
        parts = []
        for own in features:
            cosines = asked @ own[:, low:high].flatten(1)
            parts.append(torch.exp(cosines / config.temperature) * window)
        weights = torch.cat(parts, dim=1)
        least = weights.topk(min(config.k, weights.shape[1]), dim=1).values[:, -1:]
        weights = torch.where(weights >= least, weights, 0.0)
        weights = weights / weights.sum(1, keepdim=True)
        given = torch.cat([own[:, low:high].flatten(1) for own in labels], dim=1)
        found.append((weights @ given.T).T.unflatten(1, (end - top, width)))
    return torch.cat(found, dim=1)


def to_indices(labels: Tensor, shown: tuple[int, int], stored: tuple[int, int]) -> NDArray[np.uint8]:
    """Soft labels [C, h, w] -> index map of the stored frame, `shown` and `stored`: (height, width) in pixels.

    Bilinear to the shown size, each channel scaled to 0 … 1 over the frame, arg max, nearest to the stored size.
    """
    large = functional.interpolate(labels[None], shown, mode="bilinear", align_corners=False)[0]
    for channel in large:
        if channel.max() > 0:
            channel -= channel.min().clone()
            channel /= channel.max().clone().clamp(min=1e-12)
    indices = PIL.Image.fromarray(large.argmax(0).to(torch.uint8).cpu().numpy())
    return np.array(indices.resize((stored[1], stored[0]), PIL.Image.Resampling.NEAREST))


def propagate(
    frames: Iterable[Tensor], mask: NDArray[np.uint8], shown: tuple[int, int], config: PropagateConfig
) -> tuple[NDArray[np.uint8], int]:
    """Index maps of all frames [n, H, W], the first one as given; and how many objects vanish when it is shrunk.

    frames: maps [D, h, w] of the frames in turn, of which at most `queue` and the first are kept.
    """
    found = [mask]
    first: tuple[Tensor, Tensor] | None = None
    queue: list[tuple[Tensor, Tensor]] = []
    vanished = 0
    for frame in frames:
        unit = functional.normalize(frame, dim=0)
        if first is None:
            labels = first_labels(mask, *unit.shape[1:]).to(unit.device)
            kept = {int(own) for own in labels.argmax(0).unique()}
            vanished = len(set(np.unique(mask).tolist()) - {0} - kept)
            first = (unit, labels)
            continue
        context = [first, *queue]
        labels = mixed_labels(unit, [own for own, _ in context], [own for _, own in context], config)
        found.append(to_indices(labels.clone(), shown, (mask.shape[0], mask.shape[1])))
        queue = [*queue, (unit, labels)][-config.queue :] if config.queue else []
    return np.stack(found), vanished

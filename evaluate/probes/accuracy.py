"""Top-1, top-5 and mean-per-class accuracy of many heads at once, counted over ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from core.distributed import sum_over_ranks

Report = Literal["last_epoch", "best_epoch"]
"""Epoch whose accuracy is reported."""


@dataclass(frozen=True)
class Accuracies:
    """Accuracies in percent, one entry per head."""

    top1: tuple[float, ...]
    """Share of images whose class has the highest logit."""
    top5: tuple[float, ...]
    """Share of images whose class is among the five highest logits (all, where there are at most five classes)."""
    mean_per_class: tuple[float, ...]
    """Mean over the classes that have images of each class's own top-1."""


def scores_of(row: Any, heads: int) -> Accuracies:
    """Scores from a saved row of top-1, top-5 and mean per class; `ValueError` for anything else."""
    columns = [tuple(map(float, column)) for column in row]
    if [len(column) for column in columns] != [heads] * 3 or not all(0 <= v <= 100 for c in columns for v in c):
        raise ValueError(f"no accuracies of {heads} heads")
    return Accuracies(*columns)


class TopKAccuracy:
    """Counts right answers of `heads` heads per class; `scores` sums them over ranks."""

    def __init__(self, heads: int, classes: int, device: torch.device) -> None:
        self._images = torch.zeros(classes, dtype=torch.int64, device=device)
        self._first = torch.zeros(classes, heads, dtype=torch.int64, device=device)
        self._fifth = torch.zeros(heads, dtype=torch.int64, device=device)

    def add(self, logits: Tensor, labels: Tensor, first_head: int = 0, images: bool = True) -> None:
        """logits float [B, C, H] of the heads from `first_head` on, labels int64 [B].

        `images`: whether to count the images too; once per batch where its heads come in several calls.
        """
        ranks = logit_ranks(logits, labels)
        heads = slice(first_head, first_head + logits.shape[2])
        self._first[:, heads] = self._first[:, heads].index_add(0, labels, (ranks < 1).long())
        self._fifth[heads] += (ranks < 5).sum(0)
        if images:
            self._images += torch.bincount(labels, minlength=len(self._images))

    def scores(self, over_ranks: bool = True) -> Accuracies:
        """The accuracies over all ranks, which call it together and get the same; or of this rank's counts alone."""
        counts = (self._images, self._first, self._fifth)
        images, first, fifth = ((sum_over_ranks(count) if over_ranks else count).double() for count in counts)
        total, present = images.sum(), images > 0
        per_class = first[present] / images[present, None]
        return Accuracies(
            tuple((100 * first.sum(0) / total).tolist()),
            tuple((100 * fifth / total).tolist()),
            tuple((100 * per_class.mean(0)).tolist()),
        )


def logit_ranks(logits: Tensor, labels: Tensor) -> Tensor:
    """Number of classes that beat the true one, int64 [B, H]: higher logits, and equal ones of lower class number.

    logits [B, C, H], labels [B]. Where the true logit is not a number, all classes beat it.
    """
    truth = logits.gather(1, labels[:, None, None].expand(-1, 1, logits.shape[2]))
    lower = (torch.arange(logits.shape[1], device=labels.device) < labels[:, None])[:, :, None]
    ranks = ((logits > truth) | ((logits == truth) & lower)).sum(1)
    return torch.where(torch.isfinite(truth[:, 0]), ranks, logits.shape[1])

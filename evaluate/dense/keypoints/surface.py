"""Matches of points on an object's surface in two views, with errors in space: NAVI."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from core.data.base import ImageSet
from evaluate.dense.keypoints.navi import NaviImages, NaviPair
from evaluate.dense.keypoints.protocol import KeypointsConfig
from evaluate.dense.maps import Maps, cached_maps, rank_part
from evaluate.probes.base import Job

ANGLES = (0, 30, 60, 90, 120, 181)
"""Edges in degrees of the groups by change of viewpoint."""
_ROWS = 2048
"""Source points whose similarities are held at a time."""


@dataclass(frozen=True)
class Matched:
    """The most distinctive matches of one pair."""

    source: NDArray[np.int64]
    """Cells of the source's square, [K] …"""
    target: NDArray[np.int64]
    """… and of the target's that they are matched with, [K]."""
    errors: NDArray[np.float64]
    """Distances in metres between the matched points of the surface, [K]."""


@dataclass(frozen=True)
class SurfaceRow:
    """Shares of right matches of one pair at each of the thresholds, 0 … 1."""

    category: str
    angle: float
    recalls: tuple[float, ...]
    chance: tuple[float, ...]
    """Of a random point of the target's object."""
    same_place: tuple[float, ...]
    """Of the object's cell nearest to the same place in the square."""


def distinctive(source: Tensor, target: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Numbers of the `count` most distinctive source features [P, D] and of their nearest target features [Q, D].

    By cosine distance d: a match is the more distinctive the smaller the quotient of its distance and that of the
    second nearest (the whole distance counts where there is no second). Probe3D, arXiv 2404.08636.
    """
    cells, distances, nearest = functional.normalize(target, dim=1), [], []
    for part in functional.normalize(source, dim=1).split(_ROWS):
        best = (part @ cells.T).topk(min(2, len(cells)), dim=1)
        distances.append((1 - best.values).clamp(min=1e-9))
        nearest.append(best.indices[:, 0])
    both = torch.cat(distances)
    quotient = both[:, 0] / both[:, 1] if both.shape[1] > 1 else both[:, 0]
    chosen = quotient.topk(min(count, len(quotient)), largest=False).indices
    return chosen, torch.cat(nearest)[chosen]


def match(maps: Sequence[Tensor], images: NaviImages, pair: NaviPair, config: KeypointsConfig) -> tuple[Matched, Any]:
    """Matches of a pair from its two maps [D, h, w], and what the baselines need."""
    cells = config.navi.cells
    places = (pair.source, pair.target)
    (points, seen), (others, visible) = (images.points(place, cells) for place in places)
    features = [
        functional.interpolate(each[None], (cells, cells), mode="bicubic", align_corners=False)[0].flatten(1).T
        for each in maps
    ]
    numbers = [np.flatnonzero(mask) for mask in (seen, visible)]
    device = maps[0].device
    own, other = (each[torch.from_numpy(chosen).to(device)] for each, chosen in zip(features, numbers, strict=True))
    chosen, found = (each.cpu().numpy() for each in distinctive(own, other, config.navi.matches))
    moved = points[numbers[0][chosen]] @ pair.rotation.T + pair.translation
    errors = np.linalg.norm(moved - others[numbers[1][found]], axis=1)
    return Matched(numbers[0][chosen], numbers[1][found], errors), (moved, others, numbers[1])


def row(maps: Sequence[Tensor], images: NaviImages, pair: NaviPair, config: KeypointsConfig) -> SurfaceRow:
    """Shares of right matches of a pair, of a random target point, and of the one at the same place."""
    matched, (moved, others, visible) = match(maps, images, pair, config)
    cells, limits = config.navi.cells, config.navi.thresholds
    by_chance = np.zeros(len(limits))
    same = np.empty(len(moved))
    grid = np.stack([visible // cells, visible % cells], axis=1)
    surface = others[visible]
    for number, (point, cell) in enumerate(zip(moved, matched.source, strict=True)):
        distances = np.linalg.norm(surface - point, axis=1)
        by_chance += [(distances < limit).mean() for limit in limits]
        same[number] = distances[((grid - (cell // cells, cell % cells)) ** 2).sum(1).argmin()]

    def shares(errors: NDArray[np.float64]) -> tuple[float, ...]:
        return tuple(float((errors < limit).mean()) for limit in limits)

    chance = tuple(float(value) for value in by_chance / len(moved))
    return SurfaceRow(pair.category, pair.angle, shares(matched.errors), chance, shares(same))


def open_maps(job: Job, images: ImageSet) -> tuple[Maps, dict[int, int]]:
    """Maps of the views, and the number of each usable view by its position."""
    maps = cached_maps(job.backbone, job.inputs, images, job.config.features, job.context)
    return maps, {int(position): number for number, position in enumerate(maps.positions)}


def rows_of(job: Job, images: NaviImages) -> tuple[list[SurfaceRow], tuple[str, ...]]:
    """Rows of this process's pairs, and the broken images."""
    maps, numbers = open_maps(job, images)
    rows = []
    for pair in images.pairs[rank_part(len(images.pairs), job.context)]:
        if pair.source in numbers and pair.target in numbers:
            both = maps.read([numbers[pair.source], numbers[pair.target]]).to(job.context.device)
            rows.append(row(list(both), images, pair, job.config))
    return rows, maps.cached.broken


def summary(rows: Sequence[SurfaceRow], thresholds: Sequence[float]) -> dict[str, Any]:
    """Percent: recall at each threshold, a mean over pairs; `recall` is their mean, as are chance and same_place."""

    def percent(values: Sequence[tuple[float, ...]]) -> float:
        return 100 * float(np.mean(values))

    categories = sorted({each.category for each in rows})
    found: dict[str, Any] = {
        "recall": percent([each.recalls for each in rows]),
        "recall_per_category": {
            name: percent([each.recalls for each in rows if each.category == name]) for name in categories
        },
    }
    for number, limit in enumerate(thresholds):
        found[f"recall_{100 * limit:g}cm"] = 100 * float(np.mean([each.recalls[number] for each in rows]))
    groups = {
        f"{low} to {min(high, 180)} degrees": [each.recalls for each in rows if low <= each.angle < high]
        for low, high in pairwise(ANGLES)
    }
    found["by_viewpoint"] = {name: percent(values) for name, values in groups.items() if values}
    found["chance"] = percent([each.chance for each in rows])
    found["same_place"] = percent([each.same_place for each in rows])
    found["pairs"] = len(rows)
    return found

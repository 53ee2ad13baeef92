"""One measurement of keypoint matching: nearest features, recall, chance and the same-place baseline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from core.distributed import gather_objects
from core.errors import UserError
from evaluate.dense.data import SemanticScenes, origin, semantic_of
from evaluate.dense.keypoints.matching import cell_centres, chance_of, matches, sampled, within
from evaluate.dense.keypoints.navi import NaviImages
from evaluate.dense.keypoints.protocol import KeypointsConfig
from evaluate.dense.keypoints.scenes import WarpedView
from evaluate.dense.keypoints.spair import SpairImages
from evaluate.dense.keypoints.surface import rows_of
from evaluate.dense.keypoints.surface import summary as surface_summary
from evaluate.dense.maps import Maps, cached_maps, rank_part
from evaluate.probes.base import Job, Measured

Row = tuple[str, int, NDArray[np.bool_], NDArray[np.float64], NDArray[np.bool_]]
"""Category, change of viewpoint, and of each keypoint: right, chance, right at the same place."""


def measure(job: Job) -> Measured | None:
    """Measures on all processes together; None on all but the main one. Raises `UserError`."""
    from evaluate.dense.keypoints.pictures import draw

    val = job.data["val"]
    whole, _ = origin(val, 0)
    rows: Sequence[Any]
    if isinstance(whole, NaviImages):
        rows, broken = rows_of(job, whole)
    else:
        rows, broken = _of_scenes(job) if isinstance(whole, SemanticScenes) else _of_spair(job, whole)
    every: list[Any] = [row for own in gather_objects(rows) for row in own]
    if not job.context.is_main:
        return None
    if not every:
        raise UserError(f"{val.name} has no pair with a visible keypoint; give other images or settings")
    if isinstance(whole, NaviImages):
        metrics = surface_summary(every, job.config.navi.thresholds)
        of = f"matches of {metrics['pairs']:,} pairs"
    else:
        metrics = summary(every)
        of = f"{metrics['keypoints']:,} keypoints"
    groups = metrics["recall_per_category" if isinstance(whole, SemanticScenes) else "by_viewpoint"]
    scores = ", ".join(f"{name} {value:.2f}" for name, value in groups.items())
    text = (
        f"recall {metrics['recall']:.2f} % of {of} ({scores})\n"
        f"chance {metrics['chance']:.2f} %, at the same place {metrics['same_place']:.2f} %"
    )
    return Measured(metrics, {"val": list(broken)}, text, finish=lambda: draw(job))


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Recall in percent: of keypoints per category (and viewpoint), then the mean over categories."""

    def mean(column: int, chosen: Sequence[Row]) -> dict[str, float]:
        categories = sorted({row[0] for row in chosen})
        joined = {name: np.concatenate([row[column] for row in chosen if row[0] == name]) for name in categories}
        return {name: 100 * float(values.mean()) for name, values in joined.items() if len(values)}

    each = mean(2, rows)
    viewpoints = sorted({row[1] for row in rows})
    return {
        "recall": float(np.mean(list(each.values()))),
        "recall_per_category": each,
        "by_viewpoint": {
            f"viewpoint {number}": float(np.mean(list(mean(2, [row for row in rows if row[1] == number]).values())))
            for number in viewpoints
        },
        "chance": float(np.mean(list(mean(3, rows).values()))),
        "same_place": float(np.mean(list(mean(4, rows).values()))),
        "keypoints": int(sum(len(row[2]) for row in rows)),
    }


def scene_views(job: Job) -> tuple[list[WarpedView], list[Maps]]:
    """Both views of the scenes, and their maps."""
    config: KeypointsConfig = job.config
    val, side = job.data["val"], config.data.scenes.size
    views = [WarpedView(val, config.warp, number, side, config.features.size) for number in (0, 1)]
    return views, [cached_maps(job.backbone, job.inputs, view, config.features, job.context) for view in views]


def _of_scenes(job: Job) -> tuple[list[Row], tuple[str, ...]]:
    """Every cell of the first view whose centre is seen in the second; `objects` and `background` are the categories,
    of which the recall of objects alone is reported as a category of its own."""
    config: KeypointsConfig = job.config
    size, radius = config.features.size, config.tolerance * config.features.size
    views, maps = scene_views(job)
    rows: list[Row] = []
    part = rank_part(len(maps[0]), job.context)
    for number in range(part.start, part.stop):
        position = int(maps[0].positions[number])
        first, second = (view.warp(position) for view in views)
        source, target = (one.read([number])[0] for one in maps)
        centres = cell_centres(source.shape[1], source.shape[2], size)
        in_scene = first.to_scene(centres)
        truth = second.from_scene(in_scene)
        seen = ((truth >= 0) & (truth <= size)).all(1)
        if not seen.any():
            continue
        found = matches(source.flatten(1).T[torch.from_numpy(seen)], target, size)
        semantic = semantic_of(job.data["val"], position)
        places = np.clip(in_scene[seen].astype(np.int64), 0, semantic.shape[0] - 1)
        objects = semantic[places[:, 1], places[:, 0]] > 0
        right = within(found, truth[seen], radius)
        chance = chance_of(truth[seen], centres, radius)
        same = within(centres[seen], truth[seen], radius)
        for name, mask in (("objects", objects), ("background", ~objects)):
            if mask.any():
                rows.append((name, 0, right[mask], chance[mask], same[mask]))
    return rows, maps[0].cached.broken


def _of_spair(job: Job, images: SpairImages) -> tuple[list[Row], tuple[str, ...]]:
    config: KeypointsConfig = job.config
    size = float(config.features.size)
    maps = cached_maps(job.backbone, job.inputs, images, config.features, job.context)
    numbers = {int(position): number for number, position in enumerate(maps.positions)}
    rows: list[Row] = []
    part = rank_part(len(images.pairs), job.context)
    for pair in images.pairs[part]:
        if pair.source not in numbers or pair.target not in numbers:
            continue  # an image is broken, and listed
        source, target = (maps.read([numbers[position]])[0] for position in (pair.source, pair.target))
        points, truth, radius = images.shown(pair, size, config.tolerance)
        found = matches(sampled(source, points, size), target, size)
        centres = cell_centres(target.shape[1], target.shape[2], size)
        row = (within(found, truth, radius), chance_of(truth, centres, radius), within(points, truth, radius))
        rows.append((pair.category, pair.viewpoint, *row))
    return rows, maps.cached.broken

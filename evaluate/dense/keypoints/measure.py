"""One measurement of keypoint matching: nearest features, recall, chance and the same-place baseline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from PIL import ImageDraw
from torch import Tensor
from torch.nn import functional

from core.distributed import gather_objects
from core.errors import UserError
from evaluate.dense.data import SemanticScenes, origin, semantic_of
from evaluate.dense.keypoints.protocol import KeypointsConfig
from evaluate.dense.keypoints.scenes import WarpedView
from evaluate.dense.keypoints.spair import SpairImages
from evaluate.dense.maps import Maps, cached_maps, rank_part
from evaluate.dense.pictures import evenly, save_panels
from evaluate.probes.base import Job, Measured

MATCHES = "matched points"


def cell_centres(height: int, width: int, size: float) -> NDArray[np.float64]:
    """Centres (x, y) of the cells of a map over a square of `size` pixels, row by row, [h·w, 2]."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([(columns.ravel() + 0.5) * size / width, (rows.ravel() + 0.5) * size / height], axis=1)


def sampled(features: Tensor, points: NDArray[np.float64], size: float) -> Tensor:
    """Features [D, h, w] at points (x, y) in pixels of a square of `size`, bilinear: [K, D]."""
    places = torch.from_numpy(2 * points / size - 1).to(features.dtype)
    found = functional.grid_sample(features[None], places[None, None], align_corners=False, padding_mode="border")
    return found[0, :, 0].T


def matches(source: Tensor, target: Tensor, size: float) -> NDArray[np.float64]:
    """Centre of the target's nearest cell by cosine, for each source feature [K, D]: (x, y) in pixels, [K, 2]."""
    cells = functional.normalize(target.flatten(1).T, dim=1)
    nearest = (functional.normalize(source, dim=1) @ cells.T).argmax(1).numpy()
    return cell_centres(target.shape[1], target.shape[2], size)[nearest]


def within(found: NDArray[np.float64], truth: NDArray[np.float64], radius: float) -> NDArray[np.bool_]:
    """True where a match lies at most `radius` pixels from the truth, [K]."""
    return np.linalg.norm(found - truth, axis=1) <= radius


def chance_of(truth: NDArray[np.float64], centres: NDArray[np.float64], radius: float) -> NDArray[np.float64]:
    """Share of the target's cells that would be right for each point, [K]."""
    return (np.linalg.norm(truth[:, None] - centres[None], axis=2) <= radius).mean(1)


Row = tuple[str, int, NDArray[np.bool_], NDArray[np.float64], NDArray[np.bool_]]
"""Category, change of viewpoint, and of each keypoint: right, chance, right at the same place."""


def measure(job: Job) -> Measured | None:
    """Measures on all processes together; None on all but the main one. Raises `UserError`."""
    val = job.data["val"]
    whole, _ = origin(val, 0)
    rows, broken = _of_scenes(job) if isinstance(whole, SemanticScenes) else _of_spair(job, whole)
    every: list[Row] = [row for own in gather_objects(rows) for row in own]
    if not job.context.is_main:
        return None
    if not every:
        raise UserError(f"{val.name} has no pair with a visible keypoint; give other images or settings")
    metrics = summary(every)
    scores = ", ".join(f"{name} {value:.2f}" for name, value in metrics["by_viewpoint"].items())
    text = (
        f"recall {metrics['recall']:.2f} % of {metrics['keypoints']:,} keypoints ({scores})\n"
        f"chance {metrics['chance']:.2f} %, at the same place {metrics['same_place']:.2f} %"
    )
    return Measured(metrics, {"val": list(broken)}, text, finish=lambda: _draw(job, metrics))


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


def _views(job: Job) -> tuple[list[WarpedView], list[Maps]]:
    config: KeypointsConfig = job.config
    val, side = job.data["val"], config.data.scenes.size
    views = [WarpedView(val, config.warp, number, side, config.features.size) for number in (0, 1)]
    return views, [cached_maps(job.backbone, job.inputs, view, config.features, job.context) for view in views]


def _of_scenes(job: Job) -> tuple[list[Row], tuple[str, ...]]:
    """Every cell of the first view whose centre is seen in the second; `objects` and `background` are the categories,
    of which the recall of objects alone is reported as a category of its own."""
    config: KeypointsConfig = job.config
    size, radius = config.features.size, config.tolerance * config.features.size
    views, maps = _views(job)
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
        scales = [size / images.side(position) for position in (pair.source, pair.target)]
        points, truth = pair.source_points * scales[0], pair.target_points * scales[1]
        box = pair.box
        radius = config.tolerance * max(box[2] - box[0], box[3] - box[1]) * scales[1]
        found = matches(sampled(source, points, size), target, size)
        centres = cell_centres(target.shape[1], target.shape[2], size)
        row = (within(found, truth, radius), chance_of(truth, centres, radius), within(points, truth, radius))
        rows.append((pair.category, pair.viewpoint, *row))
    return rows, maps.cached.broken


def _draw(job: Job, metrics: dict[str, Any]) -> None:
    """Two images side by side with up to eight matches: right ones green, wrong ones red."""
    config: KeypointsConfig = job.config
    whole, _ = origin(job.data["val"], 0)
    size, radius = config.features.size, config.tolerance * config.features.size
    if not isinstance(whole, SemanticScenes) or not job.arguments.draw:
        return
    views, maps = _views(job)
    for number in evenly(job.arguments.draw, len(maps[0])):
        position = int(maps[0].positions[number])
        source, target = (one.read([number])[0] for one in maps)
        centres = cell_centres(source.shape[1], source.shape[2], size)
        truth = views[1].warp(position).from_scene(views[0].warp(position).to_scene(centres))
        seen = np.flatnonzero(((truth >= 0) & (truth <= size)).all(1))
        chosen = seen[evenly(8, len(seen))]
        found = matches(source.flatten(1).T[torch.from_numpy(chosen)], target, size)
        sheet = PIL.Image.new("RGB", (2 * size, size))
        for left, view in enumerate(views):
            sheet.paste(view.image(position), (left * size, 0))
        pen = ImageDraw.Draw(sheet)
        right = within(found, truth[chosen], radius)
        for start, end, good in zip(centres[chosen], found, right, strict=True):
            pen.line([*start, end[0] + size, end[1]], fill=(60, 180, 90) if good else (220, 70, 60), width=1)
        caption = f"{job.data['val'].describe(position)}: {int(right.sum())} of {len(chosen)} matches are right (green)"
        save_panels(job.folder, f"pair_{position:06d}", [sheet], MATCHES, caption)

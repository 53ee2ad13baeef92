"""Pictures of matched points: two images side by side, right matches green, wrong ones red."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from PIL import ImageDraw

from evaluate.dense.data import SemanticScenes, origin
from evaluate.dense.keypoints.matching import cell_centres, matches, sampled, within
from evaluate.dense.keypoints.measure import scene_views
from evaluate.dense.keypoints.navi import NaviImages
from evaluate.dense.keypoints.protocol import KeypointsConfig
from evaluate.dense.keypoints.spair import SpairImages
from evaluate.dense.keypoints.surface import match, open_maps
from evaluate.dense.pictures import evenly, save_panels
from evaluate.probes.base import Job

MATCHES = "matched points"
_LINES = 8


@dataclass(frozen=True)
class _Sheet:
    name: str
    caption: str
    images: Sequence[PIL.Image.Image]
    """Source and target."""
    starts: NDArray[np.float64]
    """(x, y) in the source, in pixels of its square, [K, 2] …"""
    ends: NDArray[np.float64]
    """… and in the target, [K, 2]."""
    right: NDArray[np.bool_]


def draw(job: Job) -> None:
    """Writes `--draw` pictures, each with up to eight matches."""
    if not job.arguments.draw:
        return
    whole, _ = origin(job.data["val"], 0)
    if isinstance(whole, SemanticScenes):
        sheets = _of_scenes(job)
    else:
        sheets = _of_navi(job, whole) if isinstance(whole, NaviImages) else _of_spair(job, whole)
    for sheet in sheets:
        _save(job, sheet)


def _of_scenes(job: Job) -> Iterator[_Sheet]:
    config: KeypointsConfig = job.config
    size, radius = config.features.size, config.tolerance * config.features.size
    views, maps = scene_views(job)
    for number in evenly(job.arguments.draw, len(maps[0])):
        position = int(maps[0].positions[number])
        source, target = (one.read([number])[0] for one in maps)
        centres = cell_centres(source.shape[1], source.shape[2], size)
        truth = views[1].warp(position).from_scene(views[0].warp(position).to_scene(centres))
        seen = np.flatnonzero(((truth >= 0) & (truth <= size)).all(1))
        chosen = seen[evenly(_LINES, len(seen))]
        found = matches(source.flatten(1).T[torch.from_numpy(chosen)], target, size)
        name = job.data["val"].describe(position)
        images = [view.image(position) for view in views]
        yield _Sheet(f"pair_{position:06d}", name, images, centres[chosen], found, within(found, truth[chosen], radius))


def _of_spair(job: Job, images: SpairImages) -> Iterator[_Sheet]:
    size = float(job.config.features.size)
    for number, pair, maps in _read_pairs(job, images):
        points, truth, radius = images.shown(pair, size, job.config.tolerance)
        chosen = evenly(_LINES, len(points))
        found = matches(sampled(maps[0], points[chosen], size), maps[1], size)
        right = within(found, truth[chosen], radius)
        yield _Sheet(f"pair_{number:06d}", pair.category, _squares(job, images, pair), points[chosen], found, right)


def _of_navi(job: Job, images: NaviImages) -> Iterator[_Sheet]:
    config: KeypointsConfig = job.config
    centres = cell_centres(config.navi.cells, config.navi.cells, config.features.size)
    limit = float(np.median(config.navi.thresholds))
    for number, pair, maps in _read_pairs(job, images):
        matched, _ = match(maps, images, pair, config)
        chosen = evenly(_LINES, len(matched.source))
        ends, right = centres[matched.target[chosen]], matched.errors[chosen] < limit
        name = f"{pair.category}, {pair.angle:.0f}°, within {100 * limit:g} cm"
        squares = _squares(job, images, pair)
        yield _Sheet(f"pair_{number:06d}", name, squares, centres[matched.source[chosen]], ends, right)


def _read_pairs(job: Job, images: Any) -> Iterator[tuple[int, Any, list[torch.Tensor]]]:
    maps, numbers = open_maps(job, images)
    usable = [pair for pair in images.pairs if pair.source in numbers and pair.target in numbers]
    for number in evenly(job.arguments.draw, len(usable)):
        pair = usable[number]
        yield number, pair, list(maps.read([numbers[pair.source], numbers[pair.target]]).to(job.context.device))


def _squares(job: Job, images: Any, pair: Any) -> list[PIL.Image.Image]:
    size = (job.config.features.size,) * 2
    return [images.image(place).resize(size) for place in (pair.source, pair.target)]


def _save(job: Job, sheet: _Sheet) -> None:
    width = sheet.images[0].width
    whole = PIL.Image.new("RGB", (2 * width, sheet.images[0].height))
    for number, image in enumerate(sheet.images):
        whole.paste(image, (number * width, 0))
    pen = ImageDraw.Draw(whole)
    thick = max(1, width // 160)  # pictures are shown at a fixed height
    for start, end, good in zip(sheet.starts, sheet.ends, sheet.right, strict=True):
        pen.line([*start, end[0] + width, end[1]], fill=(60, 180, 90) if good else (220, 70, 60), width=thick)
    caption = f"{sheet.caption}: {int(sheet.right.sum())} of {len(sheet.right)} matches are right (green)"
    save_panels(job.folder, sheet.name, [whole], MATCHES, caption)

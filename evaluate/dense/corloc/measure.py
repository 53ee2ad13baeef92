"""One measurement of object discovery: a box of each method for every image, CorLoc, baseline, pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ImageDraw
from torch import Tensor

from core.compute.precision import autocast
from core.data.broken import BrokenImages
from core.distributed import gather_objects
from core.errors import BrokenImage, UserError
from core.features import frozen, normalised
from evaluate.dense.corloc.data import boxes_of
from evaluate.dense.corloc.discovery import Cells, centred_square, located, lost, tokencut
from evaluate.dense.corloc.protocol import CorlocConfig
from evaluate.dense.maps import Maps, cached_maps, padding, rank_part
from evaluate.dense.padding import padded_maps
from evaluate.dense.pictures import evenly, save_panels
from evaluate.probes.base import Job, Measured

FOUND_BOXES = "found boxes"
_SQUARES = tuple(round(0.1 + 0.05 * number, 2) for number in range(19))
"""Shares of the shorter side that the centred square of the baseline may have."""


def measure(job: Job) -> Measured | None:
    """Measures on all processes together; None on all but the main one. Raises `UserError`."""
    config: CorlocConfig = job.config
    val, context = job.data["val"], job.context
    maps: Maps | None = None
    usable = list(range(len(val)))
    if config.resolution == "resized":
        maps = cached_maps(job.backbone, job.inputs, val, config.features, context)
        usable = [int(position) for position in maps.positions]
    found: dict[int, dict[str, list[float]]] = {}
    hits: list[dict[str, bool]] = []
    broken: list[str] = []
    part = rank_part(len(usable), context)
    for number in range(part.start, part.stop):
        position = usable[number]
        try:
            boxes, size = _boxes(job, maps, number, position)
        except BrokenImage as error:
            broken.append(str(error))
            continue
        truth = boxes_of(val, position)
        if not len(truth):
            continue
        found[position] = {name: box.tolist() for name, box in boxes.items()}
        squares = {f"square {share:g}": centred_square(size, share) for share in _SQUARES}
        hits.append({name: located(box, truth) for name, box in {**boxes, **squares}.items()})
    account = BrokenImages(len(val), config.features.broken_share)
    account.add_of_all_ranks(broken)
    every = [hit for own in gather_objects(hits) for hit in own]
    if not context.is_main:
        return None
    if not every:
        raise UserError(f"no image of {val.name} has a box; give images with objects")
    shares = {name: 100 * float(np.mean([hit[name] for hit in every])) for name in every[0]}
    metrics = _summary(shares) | {"images": len(every)}
    names = list(maps.cached.broken) if maps is not None else account.names
    text = (
        f"LOST {metrics['lost']:.2f} %, TokenCut {metrics['tokencut']:.2f} % (threshold {metrics['threshold']:g}) of "
        f"{metrics['images']} images\nbest centred square ({metrics['square_share']:g} of the shorter side): "
        f"{metrics['square']:.2f} %"
    )
    return Measured(metrics, {"val": names}, text, finish=lambda: _draw(job, found, metrics))


def _summary(shares: dict[str, float]) -> dict[str, Any]:
    cuts = {float(name.split()[1]): value for name, value in shares.items() if name.startswith("tokencut")}
    squares = {float(name.split()[1]): value for name, value in shares.items() if name.startswith("square")}
    threshold, square = max(cuts, key=lambda key: cuts[key]), max(squares, key=lambda key: squares[key])
    return {
        "lost": shares["lost"],
        "tokencut": cuts[threshold],
        "threshold": threshold,
        "tokencut_by_threshold": {f"{key:g}": value for key, value in cuts.items()},
        "square": squares[square],
        "square_share": square,
    }


def _boxes(
    job: Job, maps: Maps | None, number: int, position: int
) -> tuple[dict[str, NDArray[np.float64]], tuple[int, int]]:
    """Box of each method in pixels of the image, and the image's width and height. Raises `BrokenImage`."""
    config: CorlocConfig = job.config
    image = job.data["val"].image(position)
    left = top = 0
    if maps is not None:
        values, shown = maps.read([number])[0], image.size
    else:
        values = _native(job, image)
        before, after, above, below = padding(job.backbone.model, image.height, image.width)
        left, top = before, above
        shown = (image.width + before + after, image.height + above + below)
    height, width = values.shape[1:]
    features = values.flatten(1).T.double().numpy()
    if config.centred:
        features = features - features.mean(0)
    cells = {"lost": lost(features, (height, width), config.lowest)}
    cells |= {f"tokencut {value:g}": tokencut(features, (height, width), value) for value in config.thresholds}
    found = {}
    for name, box in cells.items():
        scaled = _pixels(box, shown[0] / width, shown[1] / height) - [left, top, left, top]
        found[name] = np.clip(scaled, 0, [image.width, image.height] * 2)
    return found, image.size


def _pixels(cells: Cells, across: float, down: float) -> NDArray[np.float64]:
    return np.array(cells, np.float64) * [across, down, across, down]


def _native(job: Job, image: Any) -> Tensor:
    pixels = torch.from_numpy(np.array(image))[None].to(job.context.device)
    with frozen(job.backbone.model), autocast(job.context.device, job.config.features.precision):
        maps = padded_maps(job.inputs, job.backbone.model, normalised(pixels, job.backbone.config))
    return maps[0].float().cpu()


def _draw(job: Job, found: dict[int, dict[str, list[float]]], metrics: dict[str, Any]) -> None:
    positions = sorted(found)
    cut = f"tokencut {metrics['threshold']:g}"
    for number in evenly(job.arguments.draw, len(positions)):
        position = positions[number]
        image = job.data["val"].image(position).copy()
        pen = ImageDraw.Draw(image)
        line = max(1, image.width // 100)
        for box in boxes_of(job.data["val"], position):
            pen.rectangle([*box[:2], *(box[2:] - 1)], outline=(240, 240, 240), width=line)
        for name, colour in (("lost", (230, 120, 40)), (cut, (60, 120, 230))):
            box = found[position][name]
            pen.rectangle(
                [box[0], box[1], max(box[0], box[2] - 1), max(box[1], box[3] - 1)], outline=colour, width=line
            )
        caption = f"{job.data['val'].describe(position)}: truth white, LOST orange, TokenCut blue"
        save_panels(job.folder, f"image_{position:06d}", [image], FOUND_BOXES, caption)

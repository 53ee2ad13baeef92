"""One measurement of the jigsaw test: order tiles, put images together, recognise them."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from core.data.base import ImageSet
from core.distributed import gather_objects
from core.errors import UserError
from core.features import EvalTransformConfig, eval_crop
from evaluate.dense.jigsaw.protocol import JigsawConfig
from evaluate.dense.jigsaw.tiles import Reassembled, Tiles, decoded, moved_cells, permutations, puzzle_scores
from evaluate.dense.mlp import standardised, train_mlp
from evaluate.dense.pictures import evenly, save_panels
from evaluate.probes.base import Job, Measured
from evaluate.probes.features.cache import CachedFeatures, cached_features
from evaluate.probes.ood.heads import knn_head

PUZZLES = "puzzles"


def measure(job: Job) -> Measured | None:
    """Extracts on all processes together and fits on the main one; None on the others. Raises `UserError`."""
    config: JigsawConfig = job.config
    places, seed = config.grid**2, job.context.seed
    train, val = (_tiles(job, job.data[part]) for part in ("train", "val"))
    images = len(job.data["val"])
    if val.broken:
        raise UserError(f"test image {val.broken[0]} can't be decoded; fix or remove it: puzzles need all their tiles")
    orders: dict[str, Any] = {}
    if job.context.is_main:
        orders = _orders(config, seed, _rows(train, places), _rows(val, places))
    orders = gather_objects({name: order.tolist() for name, order in orders.items()})[0]
    found = {name: np.array(order, np.int64) for name, order in orders.items()}
    shuffled = permutations(images, places, seed)
    right = _recognised(job, {"reconstructed": found["related"], "shuffled": shuffled})
    if not job.context.is_main:
        return None
    metrics: dict[str, Any] = {
        **puzzle_scores(found["related"], config.grid),
        "place_alone": puzzle_scores(found["alone"], config.grid)["place"],
        "chance_place": 100 / places,
        "chance_whole": 100 / math.factorial(places),
        "chance_neighbours": _neighbour_chance(config.grid),
        **right,
        "chance_class": 100 / len(job.data["val"].classes),
    }
    gap = right["intact"] - right["shuffled"]
    shares = (right["intact"] / 100, right["shuffled"] / 100)
    error = 100 * math.sqrt(sum(share * (1 - share) for share in shares) / images)
    if gap > 2 * error:
        metrics["recovered"] = 100 * (right["reconstructed"] - right["shuffled"]) / gap
    broken = {"train": list(train.broken), "val": []}
    return Measured(metrics, broken, _table(metrics), finish=lambda: _draw(job, found["related"], shuffled))


def _neighbour_chance(grid: int) -> float:
    """Percent of adjacent places filled with a true neighbour pair by a uniform permutation: g(g − 1) ordered pairs in
    each direction, of g²(g² − 1)."""
    return 100 * grid * (grid - 1) / (grid**2 * (grid**2 - 1))


def _tiles(job: Job, images: ImageSet) -> CachedFeatures:
    config: JigsawConfig = job.config
    size, base = config.tile_size, config.features
    seen = dataclasses.replace(base, transform=EvalTransformConfig(size, size))
    tiles = Tiles(images, base.transform, config.grid, config.tile_share, size)
    return cached_features(job.backbone, job.inputs, tiles, seen, job.context)


def _rows(features: CachedFeatures, places: int) -> Tensor:
    """Features of the images all of whose tiles are there, [images, places, F]."""
    images, counts = np.unique(features.positions // places, return_counts=True)
    whole = np.isin(features.positions // places, images[counts == places])
    values = features.values[features.rows[whole]].astype(np.float32)
    return torch.from_numpy(values).view(-1, places, values.shape[1])


def related(tiles: Tensor) -> Tensor:
    """Each tile beside the mean of its image's tiles and the difference, [images, places, 3F]: blind to their order."""
    mean = tiles.mean(1, keepdim=True).expand_as(tiles)
    return torch.cat([tiles, mean, tiles - mean], dim=2)


def _orders(config: JigsawConfig, seed: int, train: Tensor, val: Tensor) -> dict[str, NDArray[np.int64]]:
    """Place of each tile by a probe that sees all tiles (`related`), and by one that sees each alone."""
    places = config.grid**2
    flat, test = standardised(train.flatten(0, 1), val.flatten(0, 1))
    rows, tests = flat.view_as(train), test.view_as(val)
    target = torch.arange(places).expand(len(rows), -1)
    shuffles = permutations(len(val), places, seed + 1)

    def loss(scores: Tensor, wanted: Tensor) -> Tensor:
        return functional.cross_entropy(scores.flatten(0, 1), wanted.flatten())

    found = {}
    for name, view in (("related", related), ("alone", lambda tiles: tiles)):
        network = train_mlp(view(rows), target, places, loss, config.mlp, seed)
        with torch.no_grad():
            found[name] = decoded(network(view(tests)).numpy(), shuffles)
    return found


def _recognised(job: Job, orders: dict[str, NDArray[np.int64]]) -> dict[str, float]:
    """Top-1 accuracy in percent of the k-NN vote on intact images and on those put together by the orders."""
    config: JigsawConfig = job.config
    crop = config.features.transform.crop
    bank = cached_features(job.backbone, job.inputs, job.data["train"], config.features, job.context)
    intact = cached_features(job.backbone, job.inputs, job.data["val"], config.features, job.context)
    classes = len(job.data["train"].classes)
    head = knn_head(bank, job.inputs, classes, config.k, config.temperature, job.context.processes)
    base = config.features
    seen = dataclasses.replace(base, transform=EvalTransformConfig(crop, crop))
    found = {"intact": intact}
    for name, order in orders.items():
        images = Reassembled(job.data["val"], config.features.transform, config.grid, order)
        found[name] = cached_features(job.backbone, job.inputs, images, seen, job.context)
    return {
        name: 100 * float((head.scores(one.values[one.rows].astype(np.float32)).argmax(1) == one.labels).mean())
        for name, one in found.items()
    }


def _table(metrics: dict[str, Any]) -> str:
    recovered = f"{metrics['recovered']:.1f} %" if "recovered" in metrics else "within the noise"
    return (
        f"tiles in place {metrics['place']:.2f} % (each alone {metrics['place_alone']:.2f}, chance "
        f"{metrics['chance_place']:.2f}), whole puzzles {metrics['whole']:.2f} % ({metrics['chance_whole']:.2g}), "
        f"neighbours {metrics['neighbours']:.2f} % ({metrics['chance_neighbours']:.2f})\n"
        f"recognised: intact {metrics['intact']:.2f} %, reconstructed {metrics['reconstructed']:.2f}, shuffled "
        f"{metrics['shuffled']:.2f}, chance {metrics['chance_class']:.2f}; recovered share: {recovered}"
    )


def _draw(job: Job, orders: NDArray[np.int64], shuffled: NDArray[np.int64]) -> None:
    config: JigsawConfig = job.config
    val = job.data["val"]
    for number in evenly(job.arguments.draw, len(val)):
        pixels = eval_crop(val.image(number), config.features.transform)
        panels = [pixels] + [moved_cells(pixels, config.grid, order[number]) for order in (shuffled, orders)]
        right = int((orders[number] == np.arange(config.grid**2)).sum())
        caption = f"{val.describe(number)}: intact, shuffled, put together ({right} of {config.grid**2} in place)"
        save_panels(job.folder, f"puzzle_{number:06d}", [PIL.Image.fromarray(own) for own in panels], PUZZLES, caption)

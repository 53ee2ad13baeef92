"""One measurement of dense retrieval: memory, search, vote, scores, pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from core.data.base import ImageSet
from core.errors import UserError
from evaluate.dense.confusion import confusion, majority, over_ranks, pixels_of, scores
from evaluate.dense.data import names_of, semantic_of, shrunk
from evaluate.dense.dense_knn.memory import Memory, build_memory, soft_labels
from evaluate.dense.dense_knn.protocol import DenseKnnConfig
from evaluate.dense.maps import Maps, cached_maps, rank_part
from evaluate.dense.pictures import evenly, save_label_maps
from evaluate.probes.base import Job, Measured
from evaluate.probes.knn.search import Engine, nearest, open_engine

_COUNTED = 500
"""Training images whose pixels are counted for the majority class, evenly spaced."""


def measure(job: Job) -> Measured | None:
    """Measures on all processes together; None on all but the main one. Raises `UserError`."""
    config: DenseKnnConfig = job.config
    context, val = job.context, job.data["val"]
    engine = open_engine(context.processes)
    memory = build_memory(job)
    if len(memory.features) < config.k:
        raise UserError(
            f"the memory has {len(memory.features)} labelled patches, fewer than k={config.k}; lower k or raise "
            f"memory.patches"
        )
    maps = cached_maps(job.backbone, job.inputs, val, config.features, context)
    names = names_of(val)
    found, ceiling = (np.zeros((len(names), len(names)), np.int64) for _ in range(2))
    for chosen, values in maps.chunks(8, rank_part(len(maps), context)):
        labels = _vote(config, engine, memory, values)
        for row, own in zip(chosen, labels, strict=True):
            truth = _truth(val, int(maps.positions[row]), config.features.size)
            best = soft_labels(truth, len(names), *job.inputs.shape[1:]).T.reshape(own.shape)
            found += confusion(truth, enlarged_classes(own, config.features.size), len(names))
            ceiling += confusion(truth, enlarged_classes(best, config.features.size), len(names))
    found, ceiling = over_ranks(found, context.device), over_ranks(ceiling, context.device)
    if not context.is_main:
        return None
    if not found.sum():
        raise UserError(f"no pixel of {val.name} has a class; give labelled images")
    train = job.data["train"]
    metrics: dict[str, Any] = {
        **scores(found, names),
        **majority(pixels_of(train, evenly(_COUNTED, len(train)), len(names)), found.sum(1)),
        "ceiling_mIoU": scores(ceiling, names)["mIoU"],
        "patches": len(memory.features),
    }
    return Measured(
        metrics,
        {"train": list(memory.broken), "val": list(maps.cached.broken)},
        f"mIoU {metrics['mIoU']:.2f}, pixel accuracy {metrics['aAcc']:.2f}, memory of {metrics['patches']:,} patches\n"
        f"majority class: mIoU {metrics['majority_mIoU']:.2f}; true shares of each patch: mIoU "
        f"{metrics['ceiling_mIoU']:.2f}",
        finish=lambda: _draw(job, engine, memory, maps),
    )


def weighted_labels(similarities: NDArray[np.float32], labels: NDArray[np.float32], temperature: float) -> NDArray[Any]:
    """Mean of soft labels [Q, k, C], weighted by the softmax over cosine / temperature [Q, k]: [Q, C]."""
    scaled = similarities / temperature
    weights = np.exp(scaled - scaled.max(1, keepdims=True))
    weights /= weights.sum(1, keepdims=True)
    return np.einsum("qk,qkc->qc", weights, labels)


def enlarged_classes(labels: NDArray[Any], size: int) -> NDArray[np.uint8]:
    """Class of each pixel from label shares on the map [C, h, w], resized bilinearly: [size, size]."""
    values = torch.from_numpy(np.ascontiguousarray(labels, np.float32))[None]
    found = functional.interpolate(values, (size, size), mode="bilinear", align_corners=False)
    return found[0].argmax(0).to(torch.uint8).numpy()


def _vote(config: DenseKnnConfig, engine: Engine, memory: Memory, values: torch.Tensor) -> NDArray[Any]:
    """Maps [n, D, h, w] -> label shares [n, C, h, w]."""
    count, _, height, width = values.shape
    queries = functional.normalize(values, dim=1).flatten(2).transpose(1, 2).flatten(0, 1).numpy()
    similarities, rows = nearest(engine, memory.features, queries, config.k, config.bank_chunk)
    found = np.concatenate(
        [
            weighted_labels(
                similarities[start : start + 4096], memory.labels[rows[start : start + 4096]], config.temperature
            )
            for start in range(0, len(rows), 4096)
        ]
    )
    return found.reshape(count, height, width, -1).transpose(0, 3, 1, 2)


def _truth(images: ImageSet, position: int, size: int) -> NDArray[np.uint8]:
    return shrunk(semantic_of(images, position), size, size)


def _draw(job: Job, engine: Engine, memory: Memory, maps: Maps) -> None:
    images, size = job.data["val"], job.config.features.size
    for number in evenly(job.arguments.draw, len(maps)):
        position = int(maps.positions[number])
        truth = _truth(images, position, size)
        predicted = enlarged_classes(_vote(job.config, engine, memory, maps.read([number]))[0], size)
        image = images.image(position)
        save_label_maps(job.folder, position, images.describe(position), image, truth, predicted)

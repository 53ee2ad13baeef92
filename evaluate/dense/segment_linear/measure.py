"""One measurement of linear segmentation: train, test, choose the best head, draw."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from core.data.broken import BrokenImages
from core.data.order import GlobalBatches
from core.errors import BrokenImage, UserError
from evaluate.common.resumable import ProbeState
from evaluate.dense.confusion import majority, mean_iou, pixels_of, pixels_per_class, scores
from evaluate.dense.data import names_of, semantic_of
from evaluate.dense.head_batches import Crops, Resize, augmented_batches, cached_batches, padded_resize, plain_resize
from evaluate.dense.heads import PixelHeads, train_heads
from evaluate.dense.maps import Maps, cached_maps
from evaluate.dense.pictures import evenly, save_label_maps
from evaluate.dense.segment_linear.crops import crop_batches
from evaluate.dense.segment_linear.protocol import SegmentLinearConfig
from evaluate.dense.segment_linear.testing import (
    classes_of,
    confusions_of_cached,
    confusions_of_images,
    predict_image,
)
from evaluate.dense.segment_linear.training import cross_entropies, train_labels
from evaluate.probes.base import Job, Measured

_COUNTED = 2000
"""Training images whose pixels are counted for the majority class, evenly spaced."""


def measure(job: Job, state: ProbeState) -> Measured | None:
    """Measures on all processes together; None on all but the main one. Raises `UserError`."""
    config: SegmentLinearConfig = job.config
    context, train = job.context, job.data["train"]
    names = names_of(train)
    heads = PixelHeads(job.inputs.shape[0], len(names), config.heads, context.seed).to(context.device)
    world = context.processes.world_size
    broken = BrokenImages(len(train), config.features.broken_share)
    val_maps: Maps | None = None
    resize: Resize = plain_resize
    if config.views == "cached":
        train_maps, val_maps = (
            cached_maps(job.backbone, job.inputs, job.data[part], config.features, context) for part in ("train", "val")
        )
        labels = train_labels(job, train_maps)
        train_pixels = pixels_per_class(labels.numpy(), len(names))
        batches = cached_batches(job, train_maps, labels)
        broken.add(train_maps.cached.broken)
    else:
        train_pixels = pixels_of(train, evenly(_COUNTED, len(train)), len(names))

        def open_crops(order: GlobalBatches) -> Crops:
            return crop_batches(train, config.crop, config.features.size, order, context)

        batches, resize = augmented_batches(job, open_crops, broken.add), padded_resize(job.backbone.model)

    train_heads(heads, config.heads, batches, cross_entropies(world, resize), context, state)
    broken.add_of_all_ranks(list(broken.names))
    if val_maps is not None:
        matrices, val_broken = confusions_of_cached(job, heads, val_maps), list(val_maps.cached.broken)
    else:
        matrices, val_broken = confusions_of_images(job, heads)
    if not context.is_main:
        return None
    if not matrices[0].sum():
        raise UserError(f"no pixel of {job.data['val'].name} has a class; give labelled images")
    metrics = _summary(config, matrices, names, train_pixels)
    return Measured(
        metrics,
        {"train": list(broken.names), "val": val_broken},
        _table(metrics),
        replaced=frozenset({"train"} if config.views == "augmented" else ()),
        notes=["the heads were trained together; mIoU is that of the best of them on the validation images"],
        finish=lambda: _draw(job, heads, metrics, names, val_maps),
    )


def _summary(
    config: SegmentLinearConfig, matrices: np.ndarray, names: tuple[str, ...], train: np.ndarray
) -> dict[str, Any]:
    rows: list[dict[str, float]] = [
        {**head, "mIoU": mean_iou(matrix)} for head, matrix in zip(config.heads.heads(), matrices, strict=True)
    ]
    best = max(range(len(rows)), key=lambda number: rows[number]["mIoU"])
    return {
        **scores(matrices[best], names),
        **majority(train, matrices[best].sum(1)),
        "lr": rows[best]["lr"],
        "weight_decay": rows[best]["weight_decay"],
        "head_number": best,
        "heads": rows,
    }


def _table(metrics: dict[str, Any]) -> str:
    lines = ["     lr   weight decay    mIoU"]
    lines += [f"{row['lr']:7g}   {row['weight_decay']:12g}   {row['mIoU']:5.2f}" for row in metrics["heads"]]
    lines.append(f"best: mIoU {metrics['mIoU']:.2f}, pixel accuracy {metrics['aAcc']:.2f}")
    lines.append(f"majority class: mIoU {metrics['majority_mIoU']:.2f}, accuracy {metrics['majority_aAcc']:.2f}")
    return "\n".join(lines)


def _draw(job: Job, heads: PixelHeads, metrics: dict[str, Any], names: tuple[str, ...], maps: Maps | None) -> None:
    images, best = job.data["val"], metrics["head_number"]
    usable = list(range(len(images))) if maps is None else list(map(int, maps.positions))
    for number in evenly(job.arguments.draw, len(usable)):
        position = usable[number]
        try:
            truth, image = semantic_of(images, position), images.image(position)
            if maps is None:
                predicted = predict_image(job, heads, position)[best]
            else:
                with torch.inference_mode():
                    logits = heads(maps.read([number]).to(job.context.device))[:, 0]
                predicted = classes_of(logits, *truth.shape)[best]
        except BrokenImage:
            continue  # reported where the image is tested
        save_label_maps(job.folder, position, images.describe(position), image, truth, predicted)

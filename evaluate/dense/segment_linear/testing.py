"""Test of linear segmentation: logits of all heads at the size of the labels, whole or by windows, and their scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from core.compute.precision import autocast
from core.data.broken import BrokenImages
from core.errors import BrokenImage
from core.features import frozen, normalised
from evaluate.dense.confusion import confusion, over_ranks
from evaluate.dense.data import names_of, semantic_of
from evaluate.dense.heads import PixelHeads
from evaluate.dense.maps import Maps, MapTaps, rank_part
from evaluate.dense.padding import enlarged, padded_maps
from evaluate.dense.segment_linear.protocol import SegmentLinearConfig, SegmentTestConfig
from evaluate.probes.base import Job


def confusions_of_cached(job: Job, heads: PixelHeads, maps: Maps) -> NDArray[np.int64]:
    """Confusion matrix of each head over all usable images, [heads, C, C], summed over ranks."""
    images, classes = job.data["val"], len(names_of(job.data["val"]))
    matrices = np.zeros((len(heads.weights), classes, classes), np.int64)
    for chosen, values in maps.chunks(16, rank_part(len(maps), job.context)):
        with torch.inference_mode():
            logits = heads(values.to(job.context.device))
        for number, own in zip(chosen, logits.transpose(0, 1), strict=True):
            truth = semantic_of(images, int(maps.positions[number]))
            matrices += _matrices(truth, classes_of(own, *truth.shape), classes)
    return over_ranks(matrices, job.context.device)


def confusions_of_images(job: Job, heads: PixelHeads) -> tuple[NDArray[np.int64], list[str]]:
    """As `confusions_of_cached`, from the images themselves; and the names of the broken ones.

    Raises `UserError` on all ranks if too many are broken.
    """
    images, classes = job.data["val"], len(names_of(job.data["val"]))
    matrices = np.zeros((len(heads.weights), classes, classes), np.int64)
    broken: list[str] = []
    part = rank_part(len(images), job.context)
    for position in range(part.start, part.stop):
        try:
            predicted, truth = predict_image(job, heads, position), semantic_of(images, position)
        except BrokenImage as error:
            broken.append(str(error))
            continue
        matrices += _matrices(truth, predicted, classes)
    account = BrokenImages(len(images), job.config.features.broken_share)
    account.add_of_all_ranks(broken)
    return over_ranks(matrices, job.context.device), account.names


def predict_image(job: Job, heads: PixelHeads, position: int) -> NDArray[np.uint8]:
    """Class of each pixel by each head, [heads, H, W]. Raises `BrokenImage`."""
    config: SegmentLinearConfig = job.config
    image, model, device = job.data["val"].image(position), job.backbone.model, job.context.device
    views: list[Tensor] = []
    for scale in config.test.scales:
        side = round(config.features.size * scale)
        resized = _shorter_side(image, side)
        pixels = normalised(torch.from_numpy(np.asarray(resized).copy())[None].to(device), job.backbone.config)
        for mirrored in (False, True)[: 1 + config.test.flip]:
            with frozen(model), autocast(device, config.features.precision):
                shown = pixels.flip(3) if mirrored else pixels
                logits = window_logits(job.inputs, model, heads, shown, config.features.size, config.test)
                views.append((logits.flip(3) if mirrored else logits).float())
    return np.stack([_best([view[head] for view in views], image.height, image.width) for head in range(len(views[0]))])


def _best(views: Sequence[Tensor], height: int, width: int) -> NDArray[np.uint8]:
    """Class of each pixel [height, width] by the mean probability over logits [C, h, w]; one head at a time, as its
    probabilities at the size of a large image fill gigabytes."""
    total: Tensor | None = None
    for view in views:
        found = functional.interpolate(view[None], (height, width), mode="bilinear", align_corners=False)[0]
        found = found.softmax(0) if len(views) > 1 else found
        total = found if total is None else total + found
    assert total is not None
    return total.argmax(0).to(torch.uint8).cpu().numpy()


def window_logits(
    taps: MapTaps, model: Any, heads: PixelHeads, pixels: Tensor, size: int, test: SegmentTestConfig
) -> Tensor:
    """Logits of a normalised image [1, 3, H, W], [heads, C, H, W]: at each pixel the mean of all windows over it."""
    height, width = pixels.shape[-2:]
    if test.mode == "whole":
        return enlarged(heads(padded_maps(taps, model, pixels).float())[:, 0], model, height, width)
    total, seen = None, torch.zeros(height, width, device=pixels.device)
    for top in starts(height, size, test.stride):
        for left in starts(width, size, test.stride):
            area = (..., slice(top, min(top + size, height)), slice(left, min(left + size, width)))
            window = pixels[area]
            found = enlarged(heads(padded_maps(taps, model, window).float())[:, 0], model, *window.shape[-2:])
            if total is None:
                total = found.new_zeros(*found.shape[:2], height, width)
            total[area] += found
            seen[area] += 1
    assert total is not None
    return total / seen


def starts(length: int, window: int, stride: int) -> list[int]:
    """First pixels of the windows along one side; the last window ends at the border (MMSegmentation's rule)."""
    count = max(length - window + stride - 1, 0) // stride + 1
    return [max(min(number * stride, length - window), 0) for number in range(count)]


def classes_of(logits: Tensor, height: int, width: int) -> NDArray[np.uint8]:
    """Logits on a map [heads, C, h, w] -> class of each pixel [heads, height, width]."""
    found = functional.interpolate(logits, (height, width), mode="bilinear", align_corners=False)
    return found.argmax(1).to(torch.uint8).cpu().numpy()


def _matrices(truth: NDArray[np.uint8], predicted: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    return np.stack([confusion(truth, own, classes) for own in predicted])


def _shorter_side(image: PIL.Image.Image, side: int) -> PIL.Image.Image:
    scale = side / min(image.size)
    sizes: Sequence[int] = [max(1, round(length * scale)) for length in image.size]
    return image.resize((sizes[0], sizes[1]), PIL.Image.Resampling.BILINEAR)

"""One measurement of linear depth: train, test each image, choose the best head, baselines, pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.compute.precision import autocast
from core.data.base import ImageSet
from core.data.broken import BrokenImages
from core.data.order import GlobalBatches
from core.distributed import gather_objects
from core.errors import BrokenImage, UserError
from core.features import frozen, normalised
from evaluate.common.resumable import ProbeState
from evaluate.dense.depth.bins import depth_losses, to_depths
from evaluate.dense.depth.crops import depth_batches, lower_middle
from evaluate.dense.depth.data import depth_of, objects_of
from evaluate.dense.depth.metrics import errors, means, valid_pixels
from evaluate.dense.depth.protocol import DepthConfig
from evaluate.dense.head_batches import Crops, Resize, augmented_batches, cached_batches, padded_resize, plain_resize
from evaluate.dense.heads import PixelHeads, train_heads
from evaluate.dense.maps import Maps, cached_maps, rank_part
from evaluate.dense.padding import enlarged, padded_maps
from evaluate.dense.pictures import evenly, heat, save_panels
from evaluate.probes.base import Job, Measured

DEPTH_MAPS = "depth maps"
_COUNTED = 500
"""Training images whose depths are averaged for the baselines, evenly spaced."""


def measure(job: Job, state: ProbeState) -> Measured | None:
    """Measures on all processes together; None on all but the main one. Raises `UserError`."""
    config: DepthConfig = job.config
    context, train, val = job.context, job.data["train"], job.data["val"]
    heads = PixelHeads(job.inputs.shape[0], config.bins.count, config.heads, context.seed).to(context.device)
    broken = BrokenImages(len(train), config.features.broken_share)
    val_maps: Maps | None = None
    resize: Resize = plain_resize
    if config.views == "cached":
        train_maps, val_maps = (
            cached_maps(job.backbone, job.inputs, images, config.features, context) for images in (train, val)
        )
        broken.add(train_maps.cached.broken)
        batches = cached_batches(job, train_maps, _shrunk_depths(job, train_maps))
    else:

        def open_crops(order: GlobalBatches) -> Crops:
            return depth_batches(train, config.crop, order, context)

        batches, resize = augmented_batches(job, open_crops, broken.add), padded_resize(job.backbone.model)

    train_heads(heads, config.heads, batches, depth_losses(config.bins, config.gradient_weight, resize), context, state)
    broken.add_of_all_ranks(list(broken.names))
    usable = list(range(len(val))) if val_maps is None else [int(position) for position in val_maps.positions]
    rows, val_broken = _test(job, heads, val_maps, usable)
    if val_maps is not None:
        val_broken = list(val_maps.cached.broken)
    baselines = _baselines(job, usable) if context.is_main else {}
    if not context.is_main:
        return None
    metrics = _summary(config, rows) | baselines
    return Measured(
        metrics,
        {"train": list(broken.names), "val": val_broken},
        _table(metrics),
        replaced=frozenset({"train"} if config.views == "augmented" else ()),
        notes=["the heads were trained together; errors are those of the head with the least RMSE on the test images"],
        finish=lambda: _draw(job, heads, metrics, val_maps, usable),
    )


def _shrunk_depths(job: Job, maps: Maps) -> Tensor:
    side = job.config.train_labels or job.config.features.size
    return torch.stack([_shrunk(depth_of(job.data["train"], int(position)), side) for position in maps.positions])


def _shrunk(depth: NDArray[np.float32], side: int) -> Tensor:
    image = PIL.Image.fromarray(depth).resize((side, side), PIL.Image.Resampling.NEAREST)
    return torch.from_numpy(np.array(image))


def _predict(job: Job, heads: PixelHeads, maps: Maps | None, number: int, position: int) -> NDArray[np.float32]:
    """Depth by each head at the size of the labels, clamped to the range, [heads, H, W]. Raises `BrokenImage`."""
    config: DepthConfig = job.config
    device, model = job.context.device, job.backbone.model
    if maps is not None:
        with torch.inference_mode():
            outputs = heads(maps.read([number]).to(device))[:, 0]
            found = plain_resize(to_depths(outputs, config.bins), *depth_of(job.data["val"], position).shape)
        return found[:, 0].clamp(*config.bins.range).cpu().numpy()
    image = _usable_part(job.data["val"].image(position), config)
    pixels = normalised(torch.from_numpy(np.array(image))[None].to(device), job.backbone.config)
    total: Tensor | None = None
    for mirrored in (False, True)[: 1 + config.flip_test]:
        with frozen(model), autocast(device, config.features.precision):
            shown = pixels.flip(3) if mirrored else pixels
            outputs = heads(padded_maps(job.inputs, model, shown).float())[:, 0]
            found = enlarged(to_depths(outputs.float(), config.bins), model, image.height, image.width)
            found = found.flip(3) if mirrored else found
            total = found if total is None else total + found
    assert total is not None
    return (total[:, 0] / (1 + config.flip_test)).clamp(*config.bins.range).cpu().numpy()


def _usable_part(image: PIL.Image.Image, config: DepthConfig) -> PIL.Image.Image:
    return image if config.crop.bottom is None else image.crop(lower_middle(image.size, config.crop.bottom))


def _truth(images: ImageSet, position: int, config: DepthConfig) -> NDArray[np.float32]:
    depth = depth_of(images, position)
    if config.crop.bottom is None or config.views == "cached":
        return depth
    left, top, right, bottom = lower_middle((depth.shape[1], depth.shape[0]), config.crop.bottom)
    return depth[top:bottom, left:right]


def _test(
    job: Job, heads: PixelHeads, maps: Maps | None, usable: list[int]
) -> tuple[dict[str, list[list[tuple[float, ...]]]], list[str]]:
    """Errors by kind of pixels, head and image, of all ranks; names of the broken images."""
    config: DepthConfig = job.config
    val = job.data["val"]
    kinds = ("", "all_") if objects_of(val, usable[0]) is not None else ("",)
    rows: dict[str, list[list[tuple[float, ...]]]] = {kind: [] for kind in kinds}
    broken: list[str] = []
    part = rank_part(len(usable), job.context)
    for number in range(part.start, part.stop):
        position = usable[number]
        try:
            found, truth = _predict(job, heads, maps, number, position), _truth(val, position, config)
        except BrokenImage as error:
            broken.append(str(error))
            continue
        valid = valid_pixels(truth, config.bins.range, config.test_crop)
        objects = objects_of(val, position)
        for kind, mask in zip(kinds, (valid if objects is None else valid & objects, valid), strict=False):
            if mask.any():
                rows[kind].append([errors(own[mask], truth[mask]) for own in found])
    account = BrokenImages(len(val), config.features.broken_share)
    account.add_of_all_ranks(broken)
    every = gather_objects(rows)
    joined = {kind: [row for one in every for row in one[kind]] for kind in kinds}
    if not joined[""]:
        raise UserError(f"no pixel of {val.name} has a depth within {config.bins.range}; give images with depth")
    return joined, account.names


def _summary(config: DepthConfig, rows: dict[str, list[list[tuple[float, ...]]]]) -> dict[str, Any]:
    heads = [{**head, **means([row[number] for row in rows[""]])} for number, head in enumerate(config.heads.heads())]
    best = min(range(len(heads)), key=lambda number: heads[number]["rmse"])
    found: dict[str, Any] = {}
    for kind, images in rows.items():
        found |= means([row[best] for row in images], kind)
    return {
        **found, "lr": heads[best]["lr"], "weight_decay": heads[best]["weight_decay"], "head_number": best,
        "images": len(rows[""]), "heads": heads,
    }  # fmt: skip


def _baselines(job: Job, usable: list[int]) -> dict[str, float]:
    """Errors of predictions without features: the mean training depth; of scenes also the background's, the true masks
    with the mean object depth, and the mean object depth on objects alone."""
    config: DepthConfig = job.config
    train, val = job.data["train"], job.data["val"]
    range_ = config.bins.range
    every, objects = [], []
    for position in evenly(_COUNTED, len(train)):
        try:
            depth = depth_of(train, position)
        except BrokenImage:
            continue  # listed where it is trained on
        every.append(depth[(depth > range_[0]) & (depth < range_[1])])
        if (mask := objects_of(train, position)) is not None:
            objects.append(depth[mask])
    mean = float(np.concatenate(every).mean()) if every and len(np.concatenate(every)) else sum(range_) / 2
    of_objects = float(np.concatenate(objects).mean()) if objects else 0.0
    rows: dict[str, list[tuple[float, ...]]] = {}
    for position in usable:
        try:
            truth = _truth(val, position, config)
        except BrokenImage:
            continue  # listed by the test
        valid, mask = valid_pixels(truth, range_, config.test_crop), objects_of(val, position)
        if not valid.any():
            continue
        guesses = {"mean_": (np.full_like(truth, mean), valid)}
        if mask is not None:
            far = np.float32(truth.max())
            guesses["far_"] = (np.full_like(truth, far), valid)
            guesses["mask_"] = (np.where(mask, np.float32(of_objects), far), valid)
            guesses["objects_"] = (np.full_like(truth, of_objects), valid & mask)
        for name, (guess, where) in guesses.items():
            if where.any():
                rows.setdefault(name, []).append(errors(guess[where], truth[where]))
    return {key: value for name, errors_ in rows.items() for key, value in means(errors_, f"baseline_{name}").items()}


_BASELINES = {
    "baseline_mean_": "mean training depth everywhere",
    "baseline_far_": "depth of the background everywhere",
    "baseline_mask_": "true masks with the mean object depth",
    "baseline_objects_": "mean object depth, on objects alone",
}


def _table(metrics: dict[str, Any]) -> str:
    def line(prefix: str, text: str) -> str:
        values = [metrics[f"{prefix}{key}"] for key in ("rmse", "abs_rel", "delta1")]
        return f"RMSE {values[0]:.3f} m, abs-rel {values[1]:.3f}, δ1 {values[2]:.1f} %   {text}"

    lines = [line("", f"{metrics['images']} images (lr {metrics['lr']:g}, weight decay {metrics['weight_decay']:g})")]
    if "all_rmse" in metrics:
        lines[0] += ", on objects"
        lines.append(line("all_", "all pixels"))
    lines += [line(prefix, text) for prefix, text in _BASELINES.items() if f"{prefix}rmse" in metrics]
    return "\n".join(lines)


def _draw(job: Job, heads: PixelHeads, metrics: dict[str, Any], maps: Maps | None, usable: list[int]) -> None:
    config: DepthConfig = job.config
    for number in evenly(job.arguments.draw, len(usable)):
        position = usable[number]
        try:
            truth = _truth(job.data["val"], position, config)
            found = _predict(job, heads, maps, number, position)[metrics["head_number"]]
        except BrokenImage:
            continue  # listed by the test
        known = truth[valid_pixels(truth, config.bins.range, "none")]
        low, high = (np.log(value) for value in (known.min(), known.max())) if len(known) else (0.0, 1.0)
        maps_ = [heat(np.log(np.maximum(values, config.bins.range[0])), low, high) for values in (truth, found)]
        caption = f"{job.data['val'].describe(position)}: image, depth, prediction (logarithmic, near is dark)"
        image = _usable_part(job.data["val"].image(position), config)
        save_panels(job.folder, f"image_{position:06d}", [image, *maps_], DEPTH_MAPS, caption)

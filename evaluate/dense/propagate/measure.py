"""One measurement of label propagation: each sequence in turn, with its ceiling and the copied first mask."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from core.backbones import family_of
from core.compute.precision import autocast
from core.distributed import gather_objects
from core.errors import UserError
from core.features import frozen, normalised
from evaluate.common.resumable import ProbeState
from evaluate.dense.pictures import evenly, save_panels
from evaluate.dense.propagate.clips import Clip, object_count
from evaluate.dense.propagate.metrics import joined, object_scores
from evaluate.dense.propagate.propagation import first_labels, propagate, to_indices
from evaluate.dense.propagate.protocol import PropagateConfig
from evaluate.probes.base import Job, Measured

PROPAGATED = "propagated masks"
Rows = dict[str, list[dict[str, Any]]]
"""Scores of each object, by kind of prediction: propagated, ceiling, copy."""


def shown_size(size: tuple[int, int], config: PropagateConfig) -> tuple[int, int]:
    """Height and width at which the backbone sees a frame of (width, height) pixels."""
    short, long = min(size), max(size)
    side = config.features.size
    other = max(config.multiple, side * long // short // config.multiple * config.multiple)
    return (side, other) if size[0] >= size[1] else (other, side)


def measure(job: Job, state: ProbeState) -> Measured | None:
    """Measures on all processes together; a killed run of one process resumes after the last whole sequence."""
    val: Any = job.data["val"]
    processes = job.context.processes
    done: dict[str, dict[str, Any]] = {}
    if processes.world_size == 1 and (saved := state.load()) is not None:
        with state.restoring():
            done = {str(name): dict(rows) for name, rows in dict(saved["sequences"]).items()}
            for found in done.values():
                joined(found["propagated"])
    for number, clip in enumerate(val.sequences):
        if number % processes.world_size != processes.rank or clip.name in done:
            continue
        done[clip.name] = _sequence(job, clip)
        if processes.world_size == 1:
            state.save({"sequences": done})
    every = {name: rows for own in gather_objects(done) for name, rows in own.items()}
    if not job.context.is_main:
        return None
    ordered = [every[clip.name] for clip in val.sequences]
    metrics = _summary([clip.name for clip in val.sequences], ordered)
    text = (
        f"J&F {metrics['J_and_F']:.2f}: J mean {metrics['J_mean']:.2f}, recall {metrics['J_recall']:.2f}, decay "
        f"{metrics['J_decay']:.2f}; F mean {metrics['F_mean']:.2f}, recall {metrics['F_recall']:.2f}, decay "
        f"{metrics['F_decay']:.2f}; {metrics['objects']} objects, {metrics['vanished']} vanish on the map\n"
        f"first mask copied: J&F {metrics['copy_J_and_F']:.2f}; true masks on the map (ceiling): "
        f"{metrics['ceiling_J_and_F']:.2f}"
    )
    return Measured(metrics, {"val": []}, text, finish=lambda: _draw(job))


def _summary(names: list[str], sequences: list[dict[str, Any]]) -> dict[str, Any]:
    found = {kind: [row for rows in sequences for row in rows[kind]] for kind in ("propagated", "copy", "ceiling")}
    metrics: dict[str, Any] = joined(found["propagated"])
    metrics |= {f"{kind}_{key}": value for kind in ("copy", "ceiling") for key, value in joined(found[kind]).items()}
    room = metrics["ceiling_J_and_F"] - metrics["copy_J_and_F"]
    if room > 0:
        metrics["share_of_room"] = 100 * (metrics["J_and_F"] - metrics["copy_J_and_F"]) / room
    metrics["objects"] = len(found["propagated"])
    metrics["vanished"] = sum(rows["vanished"] for rows in sequences)
    metrics["J_and_F_per_sequence"] = {
        name: joined(rows["propagated"])["J_and_F"] for name, rows in zip(names, sequences, strict=True)
    }
    return metrics


def _sequence(job: Job, clip: Clip) -> dict[str, Any]:
    val: Any = job.data["val"]
    truth = _truth(val, clip)
    objects = object_count(truth[0], val.describe(clip.start))
    shown = shown_size((truth.shape[2], truth.shape[1]), job.config)
    found, vanished = propagate(_maps(job, clip, shown), truth[0], shown, job.config)
    grid = _grid(job, clip, shown)
    ceiling = np.stack([to_indices(first_labels(own, *grid), shown, truth.shape[1:]) for own in truth])
    copied = np.broadcast_to(truth[0], truth.shape)
    rows = {"propagated": found, "ceiling": ceiling, "copy": copied}
    return {"vanished": vanished, **{name: object_scores(truth, own, objects) for name, own in rows.items()}}


def _truth(val: Any, clip: Clip) -> NDArray[np.uint8]:
    """Index maps of the clip's frames, [n, H, W]. Raises `UserError` unless all have one size."""
    found: list[NDArray[np.uint8]] = []
    for position in range(clip.start, clip.start + clip.frames):
        found.append(val.indices(position))
        if found[-1].shape != found[0].shape:
            raise UserError(f"{val.describe(position)} has another size than the first frame of {clip.name}; fix it")
    return np.stack(found)


def _maps(job: Job, clip: Clip, shown: tuple[int, int]) -> Iterator[Tensor]:
    """Maps of the frames in turn, [D, h, w]; one frame is held at a time."""
    for position in range(clip.start, clip.start + clip.frames):
        yield _map(job, job.data["val"].image(position), shown)


def _map(job: Job, image: PIL.Image.Image, shown: tuple[int, int]) -> Tensor:
    model, device = job.backbone.model, job.context.device
    pixels = torch.from_numpy(np.array(image))[None].to(device)
    values = functional.interpolate(pixels.permute(0, 3, 1, 2).float(), shown, mode="bilinear", align_corners=False)
    resized = values.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    with frozen(model), autocast(device, job.config.features.precision):
        return job.inputs.maps(model, normalised(resized, job.backbone.config))[0].float().clone()


def _grid(job: Job, clip: Clip, shown: tuple[int, int]) -> tuple[int, int]:
    height, width = _map(job, job.data["val"].image(clip.start), shown).shape[1:]
    return int(height), int(width)


def check_size(job: Job, shown: tuple[int, int]) -> None:
    """Raises `UserError` where the patches don't divide the frames."""
    family, model = family_of(job.backbone.model), job.backbone.model
    rows, columns = family.input_multiple(model) if family.trainable else (8, 8)
    if shown[0] % rows or shown[1] % columns:
        raise UserError(
            f"frames are shown at {shown[0]}×{shown[1]} pixels, which patches of {rows}×{columns} don't divide; set "
            f"features.size and multiple to multiples of the patch"
        )


def _draw(job: Job) -> None:
    """Four frames of each of the first clips with the propagated masks over them."""
    from evaluate.dense.pictures import coloured

    val: Any = job.data["val"]
    for number in evenly(job.arguments.draw, len(val.sequences)):
        clip = val.sequences[number]
        first = val.indices(clip.start)
        shown = shown_size((first.shape[1], first.shape[0]), job.config)
        found, _ = propagate(_maps(job, clip, shown), first, shown, job.config)
        panels = []
        for frame in evenly(4, clip.frames):
            image = val.image(clip.start + frame)
            over = PIL.Image.blend(image, coloured(found[frame]), 0.5)
            panels.append(
                PIL.Image.composite(over, image, PIL.Image.fromarray((found[frame] > 0).astype(np.uint8) * 255))
            )
        caption = f"{clip.name}: the first mask propagated, at four frames"
        save_panels(job.folder, f"clip_{number:04d}", panels, PROPAGATED, caption)

"""One measurement of position and scale: features of both crops, plain and equalised, two probes of each."""

from __future__ import annotations

from typing import Any

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from PIL import ImageDraw
from torch.nn import functional

from core.data.base import ImageSet
from core.errors import BrokenImage
from evaluate.dense.mlp import standardised, train_mlp
from evaluate.dense.pictures import evenly, save_panels
from evaluate.dense.spatial_pairs.pairs import PairCrops, draw_pair, relations
from evaluate.dense.spatial_pairs.protocol import SpatialPairsConfig
from evaluate.dense.spatial_pairs.regress import chance, chosen_ridge, scores
from evaluate.probes.base import Job, Measured
from evaluate.probes.features.cache import cached_features

PAIRS = "pairs of crops"


def measure(job: Job) -> Measured | None:
    """Extracts on all processes together and fits on the main one; None on the others."""
    config: SpatialPairsConfig = job.config
    found: dict[str, dict[str, tuple[NDArray[Any], NDArray[np.int64], tuple[str, ...]]]] = {}
    for variant in ("plain", "equalised"):
        found[variant] = {part: _features(job, images, variant == "equalised") for part, images in job.data.items()}
    if not job.context.is_main:
        return None
    truth = {part: relations(job.data[part], config.pairs, found["plain"][part][1]) for part in job.data}
    metrics: dict[str, Any] = {"chance": chance(truth["val"], truth["train"])}
    for variant, parts in found.items():
        metrics[variant] = _probes(job, parts["train"], parts["val"][0], truth)
    plain, equalised = metrics["plain"]["mlp"], metrics["equalised"]["mlp"]
    metrics = {
        "position_r2": plain["position_r2"],
        "scale_r2": equalised["scale_r2"],
        "octant": plain["octant"],
        "octant_chance": metrics["chance"]["octant"],
        **metrics,
    }
    broken = {part: list(found["plain"][part][2]) for part in job.data}
    return Measured(metrics, broken, _table(metrics), finish=lambda: _draw(job, plain))


def _features(job: Job, images: ImageSet, equalised: bool) -> tuple[NDArray[Any], NDArray[np.int64], tuple[str, ...]]:
    """Features of both crops side by side [n, 2F], position of each pair [n], broken images."""
    config: SpatialPairsConfig = job.config
    size = config.features.transform.crop
    both = [
        cached_features(
            job.backbone, job.inputs, PairCrops(images, config.pairs, number, size, equalised), config.features,
            job.context,
        )
        for number in (0, 1)
    ]  # fmt: skip
    values = np.concatenate([one.values[one.rows].astype(np.float32) for one in both], axis=1)
    return values, both[0].positions, both[0].broken


def _probes(
    job: Job,
    train: tuple[NDArray[Any], NDArray[np.int64], tuple[str, ...]],
    val: NDArray[Any],
    truth: dict[str, NDArray[np.float64]],
) -> dict[str, Any]:
    config: SpatialPairsConfig = job.config
    rows, test = standardised(torch.from_numpy(train[0]), torch.from_numpy(val))
    (targets,) = standardised(torch.from_numpy(truth["train"]).float())
    mean, deviation = truth["train"].mean(0), truth["train"].std(0)
    network = train_mlp(rows, targets, 4, functional.smooth_l1_loss, config.mlp, job.context.seed)
    with torch.no_grad():
        related = network(test).double().numpy() * deviation + mean
    groups = train[1] // config.pairs.per_image
    added, penalty = chosen_ridge(rows.double().numpy(), truth["train"], test.double().numpy(), groups)
    return {
        "mlp": scores(related, truth["val"], truth["train"]),
        "ridge": scores(added, truth["val"], truth["train"]) | {"penalty": penalty},
    }


def _table(metrics: dict[str, Any]) -> str:
    lines = ["                    R² dx    R² dy   R² scale   octant %"]
    rows = [
        ("MLP", metrics["plain"]["mlp"]),
        ("ridge", metrics["plain"]["ridge"]),
        ("MLP, equalised", metrics["equalised"]["mlp"]),
        ("ridge, equalised", metrics["equalised"]["ridge"]),
        ("chance", metrics["chance"]),
    ]
    for name, row in rows:
        lines.append(
            f"{name:17}  {row['dx_r2']:6.3f}   {row['dy_r2']:6.3f}     {row['scale_r2']:6.3f}     {row['octant']:6.2f}"
        )
    return "\n".join(lines)


def _draw(job: Job, plain: dict[str, float]) -> None:
    config: SpatialPairsConfig = job.config
    val = job.data["val"]
    for position in evenly(job.arguments.draw, len(val)):
        try:
            image = val.image(position).copy()
        except BrokenImage:
            continue  # reported where its features are extracted
        size = config.features.transform.crop
        boxes = draw_pair(image.size, config.pairs, position, 0)
        crops = [image.crop((x, y, x + w, y + h)).resize((size, size)) for x, y, w, h in boxes]
        pen = ImageDraw.Draw(image)
        for (x, y, w, h), colour in zip(boxes, ((230, 120, 40), (60, 120, 230)), strict=True):
            pen.rectangle((x, y, x + w - 1, y + h - 1), outline=colour)
        panels: list[PIL.Image.Image] = [image, *crops]
        caption = f"{val.describe(position)}: first crop orange, second blue; R² of position {plain['position_r2']:.3f}"
        save_panels(job.folder, f"pair_{position:06d}", panels, PAIRS, caption)

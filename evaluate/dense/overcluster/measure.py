"""One measurement of overclustering: features of all patches, clusters of each K and seed, scores, pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from core.errors import UserError
from evaluate.dense.confusion import majority, pixels_per_class
from evaluate.dense.data import IGNORED, names_of, read_semantics
from evaluate.dense.maps import Maps, cached_maps
from evaluate.dense.overcluster.clustering import cluster_scores, kmeans, reduced
from evaluate.dense.overcluster.protocol import OverclusterConfig
from evaluate.dense.pictures import coloured, evenly, save_panels
from evaluate.probes.base import Job, Measured

CLUSTERS = "clusters"


def measure(job: Job) -> Measured | None:
    """Extracts on all processes together and clusters on the main one; None on the others. Raises `UserError`."""
    config: OverclusterConfig = job.config
    val = job.data["val"]
    maps = cached_maps(job.backbone, job.inputs, val, config.features, job.context)
    if not job.context.is_main:
        return None
    names = names_of(val)
    truth = read_semantics(val, maps.positions, config.side)
    pixels = pixels_per_class(truth, len(names))
    if not pixels.sum():
        raise UserError(f"no pixel of {val.name} has a class; give labelled images")
    patches = np.concatenate([values.flatten(2).transpose(1, 2).flatten(0, 1).numpy() for _, values in maps.chunks()])
    points = reduced(patches, config.components)
    metrics: dict[str, Any] = {}
    shown: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None
    for clusters in config.clusters:
        values = []
        for run in range(config.seeds):
            seed = job.context.seed * config.seeds + run
            found = kmeans(points, clusters, seed, config.iterations, config.restarts, config.points)
            planes = found.reshape(len(maps), *job.inputs.shape[1:])
            scored = cluster_scores(_counts(planes, truth, clusters, len(names)))
            values.append(scored["mIoU"])
            shown = shown or (planes, scored["classes"])
        metrics[f"mIoU_k{clusters}"] = float(np.mean(values))
        metrics[f"std_k{clusters}"] = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    first = config.clusters[0]
    metrics = {
        "mIoU": metrics[f"mIoU_k{first}"],
        "k": first,
        **metrics,
        "majority_mIoU": majority(pixels, pixels)["majority_mIoU"],
    }
    lines = [f"K {k:5d}   mIoU {metrics[f'mIoU_k{k}']:.2f} ± {metrics[f'std_k{k}']:.2f}" for k in config.clusters]
    lines.append(f"one class everywhere: mIoU {metrics['majority_mIoU']:.2f}")
    return Measured(
        metrics,
        {"val": list(maps.cached.broken)},
        "\n".join(lines),
        finish=lambda: _draw(job, maps, truth, *shown) if shown else None,
    )


def enlarged(plane: NDArray[np.int64], side: int) -> NDArray[np.int64]:
    """Nearest resampling of one map of numbers to side × side."""
    rows, columns = (((np.arange(side) + 0.5) * length / side).astype(np.int64) for length in plane.shape)
    return plane[rows[:, None], columns]


def _counts(planes: NDArray[np.int64], truth: NDArray[np.uint8], clusters: int, classes: int) -> NDArray[np.int64]:
    """Pixels by class and cluster, [classes, clusters]; ignored ones don't count."""
    total = np.zeros(classes * clusters, np.int64)
    for plane, labels in zip(planes, truth, strict=True):
        found = enlarged(plane, labels.shape[0])
        counted = labels != IGNORED
        total += np.bincount(labels[counted].astype(np.int64) * clusters + found[counted], minlength=classes * clusters)
    return total.reshape(classes, clusters)


def _draw(
    job: Job, maps: Maps, truth: NDArray[np.uint8], planes: NDArray[np.int64], of_cluster: NDArray[np.int64]
) -> None:
    palette = np.random.default_rng(3).integers(30, 226, (len(of_cluster), 3)).astype(np.uint8)
    for number in evenly(job.arguments.draw, len(maps)):
        position = int(maps.positions[number])
        found = enlarged(planes[number], job.config.side)
        panels = [
            job.data["val"].image(position),
            coloured(truth[number]),
            PIL.Image.fromarray(palette[found]),
            coloured(of_cluster[found].astype(np.uint8)),
        ]
        caption = f"{job.data['val'].describe(position)}: image, truth, clusters, classes of the clusters"
        save_panels(job.folder, f"image_{position:06d}", panels, CLUSTERS, caption)

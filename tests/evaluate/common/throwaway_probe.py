"""A probe in one file, with the suite and protocol that run it: the mean pixel value as a feature, to predict the class
by the nearest class mean. One metric is better higher, the other lower and in a unit of its own."""

from __future__ import annotations

import json
from pathlib import Path

PROBE = """
import numpy as np
from dataclasses import dataclass, field
from typing import Literal

from core.data.open import DataConfig
from core.features import FeatureConfig
from evaluate.common.metrics import Metric
from evaluate.probes.base import Measured, Probe


@dataclass(frozen=True)
class MeanPixelConfig:
    name: str = "mean_pixel_scenes"
    kind: Literal["mean_pixel"] = "mean_pixel"
    scaled_down: bool = False
    protocol_version: int = 1
    data: DataConfig = field(default_factory=lambda: DataConfig("scenes"))
    features: FeatureConfig = field(default_factory=FeatureConfig)
    train_limit: int | None = None
    val_limit: int | None = None


class MeanPixel(Probe):
    kind = "mean_pixel"
    metrics = (
        Metric("top1", "top-1"),
        Metric("distance", "distance", unit="levels", better="lower", digits=2),
    )
    class_metrics = (Metric("distance_per_class", "distance of each class", unit="levels", better="lower", digits=2),)
    summary = "Classify images by their mean pixel value."
    example = "python evaluate/probe.py mean_pixel --ckpt pixels"
    protocols = {"scenes": "mean_pixel_scenes", "": "mean_pixel_scenes"}

    def config_class(self):
        return MeanPixelConfig

    def seed_matters(self, settings):
        return False

    def takes_pixels(self, config):
        return True

    def prepare(self, job):
        return None

    def plan(self, job):
        return [(part, f"{images.name}: {len(images):,} images") for part, images in job.data.items()]

    def measure(self, job, state):
        means, labels = {}, {}
        for part, images in job.data.items():
            means[part] = np.array([np.asarray(images.image(i)).mean() for i in range(len(images))])
            labels[part] = np.array([images.label(i) for i in range(len(images))])
        classes = range(len(job.data["train"].classes))
        centres = np.array([means["train"][labels["train"] == label].mean() for label in classes])
        distances = np.abs(means["val"][:, None] - centres)
        top1 = 100 * float((distances.argmin(1) == labels["val"]).mean())
        own = distances[np.arange(len(distances)), labels["val"]]
        each = {name: float(own[labels["val"] == i].mean()) for i, name in enumerate(job.data["train"].classes)}
        metrics = {"top1": top1, "distance": float(own.mean()), "distance_per_class": each}
        return Measured(metrics, {"train": [], "val": []}, f"top-1 {top1:.1f}, distance {own.mean():.2f}")


PROBE = MeanPixel()
"""
PROTOCOL = """\
name: mean_pixel_scenes
kind: mean_pixel
scaled_down: true
data: {source: scenes, scenes: {size: 32, train: 160, test: 80}}
"""
SUITE = "evaluations:\n  - {run: mean_pixel, protocol: mean_pixel_scenes}\n"


def write_probe(folder: Path) -> Path:
    """Writes the probe and its protocol as a user's folder, and a suite beside them, whose path is returned."""
    (folder / "mean_pixel").mkdir(parents=True)
    (folder / "mean_pixel/probe.py").write_text(PROBE)
    (folder / "mean_pixel_scenes.yaml").write_text(PROTOCOL)
    (folder / "suite.yml").write_text(SUITE)
    return folder / "suite.yml"


def result_of(folder: Path) -> dict[str, object]:
    """The only result.json below `folder`."""
    (path,) = folder.rglob("result.json")
    document: dict[str, object] = json.loads(path.read_text())
    return document

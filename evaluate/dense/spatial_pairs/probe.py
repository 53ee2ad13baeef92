"""Position and scale of pairs of crops, read from frozen features (own test)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from evaluate.common.metrics import Metric
from evaluate.dense.base import DenseProbe
from evaluate.probes.base import Job, Measured

if TYPE_CHECKING:
    import argparse

    from core.data.base import ImageSet
    from evaluate.common.resumable import ProbeState
    from evaluate.dense.spatial_pairs.protocol import SpatialPairsConfig


class SpatialPairsProbe(DenseProbe):
    kind = "spatial_pairs"
    metrics = (
        Metric("position_r2", "R² of position", unit="", digits=3),
        Metric("scale_r2", "R² of scale", unit="", digits=3),
        Metric("octant", "octant"),
    )
    position = 37
    pictures: ClassVar[Mapping[str, str]] = {"pairs of crops": "Pairs of crops: image, first crop, second crop"}
    drawn = "N images with a pair of crops"
    summary = "Read relative position and scale of two crops of an image from their frozen features."
    example = "python evaluate/probe.py spatial_pairs --ckpt runs/vit_s --data folder:/data/imagenet"
    protocols: ClassVar[Mapping[str, str]] = {"scenes": "spatial_pairs_scenes", "": "spatial_pairs_imagenet_96px"}
    sources = ("scenes", "folder")

    def config_class(self) -> type[SpatialPairsConfig]:
        from evaluate.dense.spatial_pairs.protocol import SpatialPairsConfig

        return SpatialPairsConfig

    def open_data(self, config: Any, arguments: argparse.Namespace) -> Mapping[str, ImageSet]:
        from core.data.open import open_images
        from evaluate.common.labelled import limited

        return {
            "train": limited(open_images(config.data, "train", 0), config.train_limit),
            "val": limited(open_images(config.data, "val", 0), config.val_limit),
        }

    def prepare(self, job: Job) -> Any:
        from core.features import feature_size
        from evaluate.probes.features.head_inputs import plan_head_inputs

        features = job.config.features
        inputs = plan_head_inputs(job.backbone.model, features.transform.crop, (1,), (features.pooling,))
        feature_size(job.backbone.model, features, job.context.device, inputs)
        return inputs

    def input_line(self, job: Job) -> tuple[str, str]:
        return "features", f"{job.inputs.width} per crop ({job.inputs.names[0]}); {job.config.features.precision}"

    def method_lines(self, job: Job) -> list[tuple[str, str]]:
        config: SpatialPairsConfig = job.config
        pairs, size = config.pairs, config.features.transform.crop
        return [
            (
                "pairs",
                f"{pairs.per_image} of each image, area {pairs.area[0]:g}–{pairs.area[1]:g}, {size} px; equalised: by "
                f"way of {pairs.equalised} px",
            )
        ]

    def measure(self, job: Job, state: ProbeState) -> Measured | None:
        from evaluate.dense.spatial_pairs.measure import measure

        return measure(job)


PROBE = SpatialPairsProbe()

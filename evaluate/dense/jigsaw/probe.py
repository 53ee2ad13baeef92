"""Jigsaw puzzles of image tiles, solved from frozen features, and recognition of the solution (own test)."""

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
    from evaluate.dense.jigsaw.protocol import JigsawConfig


class JigsawProbe(DenseProbe):
    kind = "jigsaw"
    metrics = (Metric("place", "tiles in place"), Metric("reconstructed", "top-1 after reconstruction"))
    position = 38
    pictures: ClassVar[Mapping[str, str]] = {"puzzles": "Puzzles: intact, shuffled, put together"}
    drawn = "N images with their shuffled and reconstructed cells"
    summary = "Put the tiles of images in order by their frozen features, and recognise what comes out."
    example = "python evaluate/probe.py jigsaw --ckpt runs/vit_s --data folder:/data/imagenet"
    protocols: ClassVar[Mapping[str, str]] = {"scenes": "jigsaw_scenes_2x2", "": "jigsaw_imagenet_2x2"}
    sources = ("scenes", "folder")

    def config_class(self) -> type[JigsawConfig]:
        from evaluate.dense.jigsaw.protocol import JigsawConfig

        return JigsawConfig

    def open_data(self, config: Any, arguments: argparse.Namespace) -> Mapping[str, ImageSet]:
        from evaluate.common.labelled import open_labelled

        train, val = open_labelled(config.data, config.train_limit, config.val_limit, 0)
        return {"train": train, "val": val}

    def prepare(self, job: Job) -> Any:
        import dataclasses

        from core.features import EvalTransformConfig, feature_size
        from evaluate.probes.features.head_inputs import plan_head_inputs

        config: JigsawConfig = job.config
        features, device = config.features, job.context.device
        inputs = plan_head_inputs(job.backbone.model, features.transform.crop, (1,), (features.pooling,))
        tiles = dataclasses.replace(features, transform=EvalTransformConfig(config.tile_size, config.tile_size))
        for each in (features, tiles):
            feature_size(job.backbone.model, each, device, inputs)
        return inputs

    def input_line(self, job: Job) -> tuple[str, str]:
        features = job.config.features
        return "features", f"{job.inputs.names[0]}; {features.transform}; {features.precision}"

    def method_lines(self, job: Job) -> list[tuple[str, str]]:
        config: JigsawConfig = job.config
        return [
            (
                "puzzles",
                f"{config.grid} × {config.grid} cells; tiles of {100 * config.tile_share:g} % of a cell's side at "
                f"{config.tile_size} px",
            )
        ]

    def measure(self, job: Job, state: ProbeState) -> Measured | None:
        from evaluate.dense.jigsaw.measure import measure

        return measure(job)


PROBE = JigsawProbe()

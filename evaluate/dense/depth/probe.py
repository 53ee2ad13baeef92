"""Linear depth: one 1×1 convolution from frozen maps to bins of depth."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from evaluate.common.metrics import Metric
from evaluate.dense.base import DenseProbe
from evaluate.probes.base import Job, Measured

if TYPE_CHECKING:
    import argparse

    from core.data.base import ImageSet
    from evaluate.common.resumable import ProbeState
    from evaluate.dense.depth.protocol import DepthConfig
    from evaluate.dense.maps import MapTaps


class DepthProbe(DenseProbe):
    kind = "depth"
    metrics = (
        Metric("rmse", "RMSE", unit="m", better="lower", digits=3),
        Metric("abs_rel", "abs-rel", unit="", better="lower", digits=3),
        Metric("delta1", "δ1"),
    )
    position = 33
    pictures: ClassVar[Mapping[str, str]] = {"depth maps": "Depth maps: image, truth, prediction"}
    summary = "Train linear depth heads on the maps of a frozen backbone."
    example = "python evaluate/probe.py depth --ckpt runs/vit_s --data nyu:/data/nyu"
    protocols: ClassVar[Mapping[str, str]] = {
        "scenes": "scenes_depth_linear", "kitti": "depth_kitti_dinov2_lin1", "": "depth_nyu_dinov2_lin1",
    }  # fmt: skip
    sources = ("scenes", "nyu", "kitti")

    def config_class(self) -> type[DepthConfig]:
        from evaluate.dense.depth.protocol import DepthConfig

        return DepthConfig

    def open_data(self, config: Any, arguments: argparse.Namespace) -> Mapping[str, ImageSet]:
        from evaluate.dense.depth.data import DepthFiles, open_depth

        test = config.data
        if config.test_source is not None:
            test = dataclasses.replace(config.data, source=config.test_source)
        data = {
            "train": open_depth(config.data, "train", config.train_limit),
            "val": open_depth(test, "val", config.val_limit),
        }
        for images in data.values():  # units and sizes show in the first image; a wrong one would train for hours
            if isinstance(whole := getattr(images, "whole", images), DepthFiles):
                whole.check(0, config.bins.range)
        return data

    def prepare(self, job: Job) -> MapTaps:
        from core.data.order import check_batch
        from evaluate.dense.maps import open_taps

        train, config = job.data["train"], job.config
        check_batch(config.heads.batch, len(train), train.name, job.context.processes.world_size)
        return open_taps(job.backbone, config.features, job.context.device, padded=config.views == "augmented")

    def method_lines(self, job: Job) -> list[tuple[str, str]]:
        config: DepthConfig = job.config
        bins = config.bins
        crop = f"crops of {config.crop.size[0]}×{config.crop.size[1]} px"
        return [
            (
                "depth",
                f"{bins.count} {bins.spacing} bins over {bins.range[0]:g} … {bins.range[1]:g} m; "
                f"{crop if config.views == 'augmented' else 'cached maps'}",
            ),
            ("heads", str(config.heads)),
        ]

    def measure(self, job: Job, state: ProbeState) -> Measured | None:
        from evaluate.dense.depth.measure import measure

        return measure(job, state)


PROBE = DepthProbe()

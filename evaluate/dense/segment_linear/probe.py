"""Linear segmentation of frozen maps: one 1×1 convolution, trained without an engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from evaluate.common.metrics import Metric
from evaluate.dense.base import DenseProbe
from evaluate.probes.base import Job, Measured

if TYPE_CHECKING:
    from evaluate.common.resumable import ProbeState
    from evaluate.dense.maps import MapTaps
    from evaluate.dense.segment_linear.protocol import SegmentLinearConfig


class SegmentLinearProbe(DenseProbe):
    kind = "segment_linear"
    metrics = (Metric("mIoU", "mIoU"),)
    class_metrics = (Metric("IoU", "IoU of each class"),)
    position = 30
    pictures: ClassVar[Mapping[str, str]] = {"label maps": "Label maps"}
    summary = "Train linear segmentation heads on the maps of a frozen backbone, without an engine."
    example = (
        "python evaluate/probe.py segment_linear --ckpt runs/vit_s --protocol segment_linear_ade20k_dinov3 "
        "--data ade20k:/data/ADEChallengeData2016"
    )
    protocols: ClassVar[Mapping[str, str]] = {
        "scenes": "segment_linear_scenes", "ade20k": "segment_linear_ade20k_dinov3",
        "cityscapes": "segment_linear_cityscapes_dinov3", "": "segment_linear_voc12aug_dinov3",
    }  # fmt: skip
    sources = ("scenes", "voc12aug", "ade20k", "cityscapes")

    def config_class(self) -> type[SegmentLinearConfig]:
        from evaluate.dense.segment_linear.protocol import SegmentLinearConfig

        return SegmentLinearConfig

    def prepare(self, job: Job) -> MapTaps:
        from core.data.order import check_batch
        from evaluate.dense.maps import open_taps

        train, config = job.data["train"], job.config
        check_batch(config.heads.batch, len(train), train.name, job.context.processes.world_size)
        return open_taps(job.backbone, config.features, job.context.device, padded=config.views == "augmented")

    def method_lines(self, job: Job) -> list[tuple[str, str]]:
        config: SegmentLinearConfig = job.config
        crop = config.crop
        views = (
            f"crops of {config.features.size} px at {crop.ratio[0]:g}–{crop.ratio[1]:g} times the size, flip"
            if config.views == "augmented"
            else "cached maps"
        )
        return [("heads", str(config.heads)), ("training", views)]

    def measure(self, job: Job, state: ProbeState) -> Measured | None:
        from evaluate.dense.segment_linear.measure import measure

        return measure(job, state)


PROBE = SegmentLinearProbe()

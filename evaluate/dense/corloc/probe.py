"""Object discovery: one box per image from frozen patch features."""

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
    from evaluate.dense.corloc.protocol import CorlocConfig
    from evaluate.dense.maps import MapTaps


class CorlocProbe(DenseProbe):
    kind = "corloc"
    metrics = (Metric("lost", "CorLoc, LOST"), Metric("tokencut", "CorLoc, TokenCut"))
    trained = False
    position = 36
    pictures: ClassVar[Mapping[str, str]] = {"found boxes": "Found boxes: truth white, LOST orange, TokenCut blue"}
    drawn = "N images with the boxes found in them"
    summary = "Find one object per image with LOST and TokenCut; nothing is trained."
    example = "python evaluate/probe.py corloc --ckpt runs/vit_s --data voc07:/data/VOCdevkit"
    protocols: ClassVar[Mapping[str, str]] = {"scenes": "corloc_scenes", "voc12": "corloc_voc12", "": "corloc_voc07"}
    sources = ("scenes", "voc07", "voc12")

    def config_class(self) -> type[CorlocConfig]:
        from evaluate.dense.corloc.protocol import CorlocConfig

        return CorlocConfig

    def open_data(self, config: Any, arguments: argparse.Namespace) -> Mapping[str, ImageSet]:
        from evaluate.dense.corloc.data import open_boxed

        return {"val": open_boxed(config.data, config.val_limit)}

    def prepare(self, job: Job) -> MapTaps:
        from evaluate.dense.maps import open_taps

        native = job.config.resolution == "native"
        return open_taps(job.backbone, job.config.features, job.context.device, padded=native)

    def method_lines(self, job: Job) -> list[tuple[str, str]]:
        config: CorlocConfig = job.config
        cuts = ", ".join(f"{value:g}" for value in config.thresholds)
        return [("methods", f"LOST ({config.lowest} patches); TokenCut, thresholds {cuts}; images {config.resolution}")]

    def measure(self, job: Job, state: ProbeState) -> Measured | None:
        from evaluate.dense.corloc.measure import measure

        return measure(job)


PROBE = CorlocProbe()

"""Keypoint matching by nearest patch features: SPair-71k, and two views of built-in scenes."""

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
    from evaluate.dense.keypoints.protocol import KeypointsConfig


class KeypointsProbe(DenseProbe):
    kind = "keypoints"
    metrics = (Metric("recall", "recall"),)
    class_metrics = (Metric("recall_per_category", "recall of each category"),)
    trained = False
    position = 34
    pictures: ClassVar[Mapping[str, str]] = {"matched points": "Matched points: right green, wrong red"}
    drawn = "N pairs of views of scenes with matched points"
    summary = "Match points of two images by their nearest patch features; nothing is trained."
    example = "python evaluate/probe.py keypoints --ckpt runs/vit_s --data spair71k:/data/SPair-71k"
    protocols: ClassVar[Mapping[str, str]] = {"scenes": "keypoints_scenes", "": "keypoints_spair71k_800px"}
    sources = ("scenes", "spair71k")

    def config_class(self) -> type[KeypointsConfig]:
        from evaluate.dense.keypoints.protocol import KeypointsConfig

        return KeypointsConfig

    def open_data(self, config: Any, arguments: argparse.Namespace) -> Mapping[str, ImageSet]:
        from core.files.user_path import user_path
        from evaluate.dense.data import check_source, open_semantic
        from evaluate.dense.keypoints.spair import SpairImages

        check_source(config.data, self.sources)
        if config.data.kind == "scenes":
            return {"val": open_semantic(config.data, "val", config.val_limit)}
        return {"val": SpairImages(user_path(config.data.place), config.most_pairs)}

    def method_lines(self, job: Job) -> list[tuple[str, str]]:
        return [("matching", f"nearest cell by cosine; right within {job.config.tolerance:g} of the side")]

    def measure(self, job: Job, state: ProbeState) -> Measured | None:
        from evaluate.dense.keypoints.measure import measure

        return measure(job)


PROBE = KeypointsProbe()

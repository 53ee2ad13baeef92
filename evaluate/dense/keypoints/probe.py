"""Keypoint matching by nearest patch features: SPair-71k, NAVI, and two views of built-in scenes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, cast

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
    drawn = "N pairs of images with matched points"
    summary = "Match points of two images by their nearest patch features; nothing is trained."
    example = "python evaluate/probe.py keypoints --ckpt runs/vit_s --data spair71k:/data/SPair-71k"
    protocols: ClassVar[Mapping[str, str]] = {
        "scenes": "keypoints_scenes", "navi": "keypoints_navi_512px", "": "keypoints_spair71k_800px"
    }  # fmt: skip
    sources = ("scenes", "spair71k", "navi")

    def config_class(self) -> type[KeypointsConfig]:
        from evaluate.dense.keypoints.protocol import KeypointsConfig

        return KeypointsConfig

    def open_data(self, config: Any, arguments: argparse.Namespace) -> Mapping[str, ImageSet]:
        from core.files.user_path import user_path
        from evaluate.dense.data import check_source, open_semantic
        from evaluate.dense.keypoints.navi import NaviImages
        from evaluate.dense.keypoints.spair import SpairImages

        check_source(config.data, self.sources)
        if config.data.kind == "scenes":
            return {"val": open_semantic(config.data, "val", config.val_limit)}
        if config.data.kind == "navi":
            return {"val": NaviImages(user_path(config.data.place), config.navi)}
        return {"val": SpairImages(user_path(config.data.place), config.most_pairs)}

    def method_lines(self, job: Job) -> list[tuple[str, str]]:
        config, val = job.config, cast(Any, job.data["val"])
        if config.data.kind != "navi":
            return [("matching", f"nearest cell by cosine; right within {config.tolerance:g} of the side")]
        limits = ", ".join(f"{100 * limit:g}" for limit in config.navi.thresholds)
        points = f"{config.navi.matches:,} most distinctive of {config.navi.cells}×{config.navi.cells} points"
        return [
            ("pairs", f"{len(val.pairs):,}, cameras within {config.navi.max_angle:g}°"),
            ("matching", f"nearest point by cosine, the {points}; right within {limits} cm"),
        ]

    def measure(self, job: Job, state: ProbeState) -> Measured | None:
        from evaluate.dense.keypoints.measure import measure

        return measure(job)


PROBE = KeypointsProbe()

"""Overclustering: k-means clusters of patch features, matched to classes."""

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
    from evaluate.dense.overcluster.protocol import OverclusterConfig


class OverclusterProbe(DenseProbe):
    kind = "overcluster"
    metrics = (Metric("mIoU", "mIoU"),)
    position = 32
    pictures: ClassVar[Mapping[str, str]] = {"clusters": "Clusters: image, truth, clusters, classes of the clusters"}
    drawn = "N pictures of clusters next to the ground truth"
    summary = "Cluster the patches of images and match the clusters to classes; nothing is trained."
    example = "python evaluate/probe.py overcluster --ckpt runs/vit_s --data voc12aug:/data/VOCdevkit"
    protocols: ClassVar[Mapping[str, str]] = {"scenes": "overcluster_scenes", "": "overcluster_voc12aug_k500"}
    sources = ("scenes", "voc12aug", "ade20k", "cityscapes")

    def config_class(self) -> type[OverclusterConfig]:
        from evaluate.dense.overcluster.protocol import OverclusterConfig

        return OverclusterConfig

    def open_data(self, config: Any, arguments: argparse.Namespace) -> Mapping[str, ImageSet]:
        from evaluate.dense.data import open_semantic

        return {"val": open_semantic(config.data, "val", config.val_limit)}

    def method_lines(self, job: Job) -> list[tuple[str, str]]:
        config: OverclusterConfig = job.config
        return [
            (
                "clusters",
                f"K {', '.join(map(str, config.clusters))} of {config.components} principal components; "
                f"seeds {config.seeds}, iterations {config.iterations}, restarts {config.restarts}",
            )
        ]

    def measure(self, job: Job, state: ProbeState) -> Measured | None:
        from evaluate.dense.overcluster.measure import measure

        return measure(job)


PROBE = OverclusterProbe()

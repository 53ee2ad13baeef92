"""Dense retrieval: pixels are classified by their patch's nearest neighbours in a memory of training patches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from evaluate.common.metrics import Metric
from evaluate.dense.base import DenseProbe
from evaluate.probes.base import Job, Measured

if TYPE_CHECKING:
    from evaluate.common.resumable import ProbeState
    from evaluate.dense.dense_knn.protocol import DenseKnnConfig


class DenseKnnProbe(DenseProbe):
    kind = "dense_knn"
    metrics = (Metric("mIoU", "mIoU"),)
    class_metrics = (Metric("IoU", "IoU of each class"),)
    performance_keys = DenseProbe.performance_keys | {"bank_chunk"}
    position = 31
    pictures: ClassVar[Mapping[str, str]] = {"label maps": "Label maps"}
    summary = "Segment images by the nearest patches of a memory of training patches; nothing is trained."
    example = "python evaluate/probe.py dense_knn --ckpt runs/vit_s --data voc12aug:/data/VOCdevkit"
    protocols: ClassVar[Mapping[str, str]] = {
        "scenes": "dense_knn_scenes", "ade20k": "dense_knn_ade20k_1024k", "cityscapes": "dense_knn_cityscapes_1024k",
        "": "dense_knn_voc12aug_1024k",
    }  # fmt: skip
    sources = ("scenes", "voc12aug", "ade20k", "cityscapes")

    def config_class(self) -> type[DenseKnnConfig]:
        from evaluate.dense.dense_knn.protocol import DenseKnnConfig

        return DenseKnnConfig

    def method_lines(self, job: Job) -> list[tuple[str, str]]:
        config: DenseKnnConfig = job.config
        memory = config.memory
        images = len(job.data["train"])
        each = max(1, memory.patches // (images * memory.passes))
        height, width = job.inputs.shape[1:]
        patches = min(each, height * width) * images * memory.passes
        size = 4 * patches * job.inputs.shape[0] / 2**20
        crops = "random crops and colours" if memory.augment else "whole images"
        return [
            (
                "memory",
                f"at most {patches:,} patches, {size:,.0f} MiB per process; {crops}, passes {memory.passes}",
            ),
            ("vote", f"k {config.k}; softmax(cosine / {config.temperature:g})"),
        ]

    def measure(self, job: Job, state: ProbeState) -> Measured | None:
        from evaluate.dense.dense_knn.measure import measure

        return measure(job)


PROBE = DenseKnnProbe()

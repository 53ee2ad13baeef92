"""Video object segmentation by label propagation: DAVIS 2017, and rendered clips."""

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
    from evaluate.dense.maps import MapTaps
    from evaluate.dense.propagate.protocol import PropagateConfig


class PropagateProbe(DenseProbe):
    kind = "propagate"
    metrics = (Metric("J_and_F", "J&F"), Metric("J_mean", "J"), Metric("F_mean", "F"))
    class_metrics = (Metric("J_and_F_per_sequence", "J&F of each sequence"),)
    trained = False
    position = 35
    pictures: ClassVar[Mapping[str, str]] = {"propagated masks": "Propagated masks: four frames of a clip"}
    drawn = "N clips with the masks carried through them"
    summary = "Carry the first frame's masks through clips by nearest patch features; nothing is trained."
    example = "python evaluate/probe.py propagate --ckpt runs/vit_s --data davis2017:/data/DAVIS"
    protocols: ClassVar[Mapping[str, str]] = {"scenes": "propagate_scenes_clips", "": "davis2017_dino_480p"}
    sources = ("scenes", "davis2017")

    def config_class(self) -> type[PropagateConfig]:
        from evaluate.dense.propagate.protocol import PropagateConfig

        return PropagateConfig

    def open_data(self, config: Any, arguments: argparse.Namespace) -> Mapping[str, ImageSet]:
        from core.files.user_path import user_path
        from evaluate.dense.data import check_source
        from evaluate.dense.propagate.clips import Davis, RenderedClips

        check_source(config.data, self.sources)
        if config.data.kind == "scenes":
            return {"val": RenderedClips(config.clips)}
        return {"val": Davis(user_path(config.data.place))}

    def prepare(self, job: Job) -> MapTaps:
        from evaluate.dense.maps import open_taps
        from evaluate.dense.propagate.measure import check_size, shown_size

        val: Any = job.data["val"]
        for clip in val.sequences:
            first = val.indices(clip.start)
            check_size(job, shown_size((first.shape[1], first.shape[0]), job.config))
        return open_taps(job.backbone, job.config.features, job.context.device)

    def method_lines(self, job: Job) -> list[tuple[str, str]]:
        config: PropagateConfig = job.config
        val: Any = job.data["val"]
        return [
            ("clips", f"{len(val.sequences)}, {len(val):,} frames in all"),
            (
                "labels",
                f"of the first and the last {config.queue} frames; {config.k} nearest cells within {config.radius}, "
                f"exp(cosine / {config.temperature:g})",
            ),
        ]

    def measure(self, job: Job, state: ProbeState) -> Measured | None:
        from evaluate.dense.propagate.measure import measure

        return measure(job, state)


PROBE = PropagateProbe()

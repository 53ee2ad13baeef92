"""Base of dense probes: data by `KIND:ROOT`, maps of a frozen backbone, plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from evaluate.probes.base import Job, Probe

if TYPE_CHECKING:
    import argparse

    from core.data.base import ImageSet
    from evaluate.dense.maps import MapTaps


class DenseProbe(Probe):
    """Probe of the maps of a frozen backbone; `prepare` gives `MapTaps`.

    Its data are the built-in scenes, or those of a data set's own folder: the data of the backbone's pre-training
    has no labels for pixels.
    """

    run_data = False
    performance_keys = frozenset({"features.batch", "features.broken_share"})
    trained: ClassVar[bool] = True
    """False where nothing is drawn or trained on the features, so that the seed decides nothing."""
    drawn: ClassVar[str] = "N pictures of predictions next to the ground truth"
    """What `--draw` writes, for --help."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        from evaluate.common.cli import add_data, add_draw

        named = ", ".join(kind if kind in ("scenes", "fashion-mnist") else f"{kind}:ROOT" for kind in self.sources)
        add_data(parser, self.data_key, named)
        if self.pictures:
            add_draw(parser, self.drawn)

    def takes_pixels(self, config: Any) -> bool:
        return True

    def open_data(self, config: Any, arguments: argparse.Namespace) -> Mapping[str, ImageSet]:
        from evaluate.dense.data import open_semantic

        return {
            "train": open_semantic(config.data, "train", config.train_limit),
            "val": open_semantic(config.data, "val", config.val_limit),
        }

    def prepare(self, job: Job) -> MapTaps:
        from evaluate.dense.maps import open_taps

        return open_taps(job.backbone, job.config.features, job.context.device)

    def seed_matters(self, settings: Mapping[str, Any]) -> bool:
        return self.trained

    def plan(self, job: Job) -> list[tuple[str, str]]:
        return [
            ("weights", job.backbone.origin.get("coverage", "none loaded")),
            self.input_line(job),
            *self.method_lines(job),
            *((part, f"{images.name}: {len(images):,} images") for part, images in job.data.items()),
        ]

    def input_line(self, job: Job) -> tuple[str, str]:
        """Line of the plan about what the backbone gives."""
        from evaluate.dense.maps import plan_of_maps

        return "maps", plan_of_maps(job.inputs, job.config.features)

    def method_lines(self, job: Job) -> list[tuple[str, str]]:
        """Lines of the plan about the method itself."""
        return []

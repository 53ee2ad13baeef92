"""k-NN accuracy of a frozen backbone's features."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from core.errors import UserError
from evaluate.common.metrics import Metric
from evaluate.probes.base import Job, Measured, Probe

if TYPE_CHECKING:
    import argparse

    from core.data.base import ImageSet
    from evaluate.common.resumable import ProbeState
    from evaluate.probes.knn.protocol import KnnConfig
    from evaluate.probes.knn.search import Engine


NEIGHBOURS, MAP = "nearest neighbours", "map of features"
"""Kinds of pictures."""


@dataclass(frozen=True)
class KnnInputs:
    """Inputs of the search."""

    engine: Engine
    """Searches nearest neighbours."""
    size: int
    """Length of a feature vector."""


class KnnProbe(Probe):
    kind = "knn"
    door = "knn"
    metrics = (Metric("top1", "top-1"),)
    class_metrics = (Metric("top1_per_class", "top-1 accuracy of each class"),)
    performance_keys = frozenset({"features.batch", "bank_chunk"})
    pictures: ClassVar[Mapping[str, str]] = {
        NEIGHBOURS: "Nearest neighbours: queries in the first column, frames green where the class is the same",
        MAP: "Map of features: what lies close together is alike; sizes and distances of clusters mean little",
    }
    position = 0
    summary = "Classify images by their nearest neighbours in a backbone's feature space."
    example = "python evaluate/knn.py --ckpt runs/r50 --data folder:/data/imagenet --neighbours near.png ks=[20]"
    protocols: ClassVar[Mapping[str, str]] = {
        "scenes": "knn_scenes_64px",
        "fashion-mnist": "knn_fashion_mnist_32px",
        "": "knn_dino",
    }

    def config_class(self) -> type[KnnConfig]:
        from evaluate.probes.knn.protocol import KnnConfig

        return KnnConfig

    def seed_matters(self, settings: Mapping[str, Any]) -> bool:
        """Nothing is trained: the seed only chooses shots or images, if not all are used."""
        data = settings.get("data")
        limit = data.get("limit") if isinstance(data, Mapping) else None
        return settings.get("shots") is not None or limit is not None

    def takes_pixels(self, config: Any) -> bool:
        return True

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        from evaluate.common.cli import add_draw

        super().add_arguments(parser)
        add_draw(parser, "N queries with their nearest images, and a 2-D map of the features")
        parser.add_argument(
            "--neighbours", type=Path, metavar="PNG", help="draw eight queries with their nearest images there"
        )

    def check_arguments(self, arguments: argparse.Namespace) -> None:
        from evaluate.common.matplotlib_style import check_matplotlib

        if arguments.neighbours and arguments.neighbours.suffix.lower() != ".png":
            raise UserError(f"--neighbours {arguments.neighbours} must end in .png")
        if arguments.draw:
            check_matplotlib("--draw")

    def open_data(self, config: Any, arguments: argparse.Namespace) -> Mapping[str, ImageSet]:
        from evaluate.probes.knn.protocol import open_bank_and_queries

        bank, queries = open_bank_and_queries(config, arguments.seed)
        return {"bank": bank, "queries": queries}

    def fit_to_data(self, config: Any, data: Mapping[str, ImageSet], world: int) -> tuple[Any, tuple[str, ...]]:
        """Without the numbers of neighbours that a small bank can't give; at least one is left."""
        from evaluate.probes.knn.protocol import fitting_ks

        bank = data["bank"]
        ks = fitting_ks(config.ks, len(bank))
        if ks == config.ks:
            return config, ()
        sentence = f"k in {', '.join(map(str, ks))}, as the bank has {len(bank):,} images"
        return dataclasses.replace(config, ks=ks), (sentence,)

    def prepare(self, job: Job) -> KnnInputs:
        from core.features import feature_size
        from evaluate.probes.knn.search import open_engine

        processes = job.context.processes
        engine = open_engine(processes, all_gpus=processes.world_size == 1 and ":" not in job.arguments.device)
        return KnnInputs(engine, feature_size(job.backbone.model, job.config.features, processes.device))

    def plan(self, job: Job) -> list[tuple[str, str]]:
        from core.backbones import family_of

        features = job.config.features
        bank, queries = job.data["bank"], job.data["queries"]
        pooled = family_of(job.backbone.model).resolve_pooling(job.backbone.model, features.pooling)
        named = features.pooling if pooled == features.pooling else f"{features.pooling}: {pooled}"
        size, world = job.inputs.size, job.context.processes.world_size
        storage = (4 if features.storage == "fp32" else 2) * size * len(bank) / 2**20 / world
        return [
            ("weights", job.backbone.origin.get("coverage", "none loaded")),
            (
                "features",
                f"{size} per image ({named}), {features.storage}; {features.transform}; {features.precision}",
            ),
            (
                "bank",
                f"{bank.name}: {len(bank):,} images, {len(bank.classes):,} classes; {storage:,.0f} MiB of features per "
                f"process",
            ),
            ("queries", f"{queries.name}: {len(queries):,} images"),
            (
                "vote",
                f"k in {', '.join(map(str, job.config.ks))}; exp(cosine / {job.config.temperature:g}) and majority",
            ),
        ]

    def plan_details(self, job: Job) -> tuple[str, ...]:
        return (f"search by {job.inputs.engine.name}",)

    def measure(self, job: Job, state: ProbeState) -> Measured | None:
        from core.distributed import gather_objects
        from evaluate.probes.knn.features import unit_features
        from evaluate.probes.knn.pictures import draw
        from evaluate.probes.knn.protocol import accuracies, class_accuracies, find_neighbours, fitting_ks, table

        config: KnnConfig = job.config
        processes = job.context.processes
        bank, own_queries = (unit_features(job, images, job.inputs.size) for images in job.data.values())
        ks = fitting_ks(config.ks, sum(gather_objects(len(bank.values))))  # fewer where images are broken
        neighbours, queries = find_neighbours(
            bank, own_queries, max(ks), processes, job.inputs.engine, config.bank_chunk, processes.is_main
        )
        if not processes.is_main:
            return None
        found = accuracies(neighbours, queries.labels, len(bank.classes), ks, config.temperature)
        metrics: dict[str, Any] = {**found}
        metrics["top1_per_class"] = class_accuracies(
            neighbours, queries.labels, bank.classes, metrics["k"], config.temperature
        )
        return Measured(
            metrics,
            {"bank": bank.broken, "queries": queries.broken},
            table(metrics, ks),
            finish=lambda: draw(job, metrics, neighbours, queries),
        )


PROBE = KnnProbe()

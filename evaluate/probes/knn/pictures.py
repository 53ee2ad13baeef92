"""Pictures of a k-NN measurement: queries with their neighbours, and a map of the features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core.features import Features
from evaluate.common.pictures import FOLDER
from evaluate.probes.base import Job
from evaluate.probes.knn.neighbour_sheet import PictureConfig, draw_neighbours
from evaluate.probes.knn.search import Neighbours
from evaluate.probes.knn.tsne import draw_map


def draw(job: Job, metrics: Mapping[str, Any], neighbours: Neighbours, queries: Features) -> None:
    """Draws what --neighbours and --draw ask for, and prints the paths."""
    arguments = job.arguments
    measured = f"k-NN top-1 {metrics['top1']:.1f} % (k {metrics['k']})"
    pictures = job.folder / FOLDER
    sheets = [(arguments.neighbours, PictureConfig())] if arguments.neighbours else []
    sheets += [(pictures / "neighbours.png", PictureConfig(arguments.draw, neighbours=4))] if arguments.draw else []
    for sheet, shown in sheets:
        draw_neighbours(
            sheet, job.data["bank"], job.data["queries"], queries, neighbours, job.config.features.transform,
            f"{job.protocol}: queries (left), nearest images; {measured}", arguments.seed, shown,
        )  # fmt: skip
        print(f"neighbours: {sheet}")
    if arguments.draw:
        draw_map(pictures / "map.png", queries, measured)
        print(f"map of features: {pictures / 'map.png'}")

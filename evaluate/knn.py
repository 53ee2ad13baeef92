"""k-NN accuracy of a backbone's features. `python evaluate/knn.py --ckpt runs/demo --protocol knn_scenes_64px`"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

# In front, and instead of this folder, whose files would be importable as `search`, `vote`, ….
if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from core.errors import UserError, run_entry_point
from evaluate.common.cli import add_data, add_draw, evaluation_parser, parse

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from core.backbones import Backbone
    from core.data.base import ImageSet
    from core.distributed import Processes
    from evaluate.probes.knn.protocol import KnnConfig


def main() -> None:
    """Parses, prints the plan, measures, writes result.json."""
    arguments = _arguments()
    started = time.time()

    from converters.open import open_backbone
    from core.checkpoints import tensors_digest
    from core.config import load_config, to_dict
    from core.distributed import init_distributed, raise_on_all_ranks, rank_zero_first
    from core.features import extract_features, feature_size
    from core.result import Result, write_result
    from evaluate.common.labelled import facts
    from evaluate.common.matplotlib_style import check_matplotlib
    from evaluate.common.protocol import conflicting_result, full_name, protocol_file, result_folder
    from evaluate.probes.knn.probe import PROBE
    from evaluate.probes.knn.protocol import (
        KnnConfig,
        accuracies,
        class_accuracies,
        find_neighbours,
        open_bank_and_queries,
    )
    from evaluate.probes.knn.search import open_engine

    if arguments.draw:
        check_matplotlib("--draw")
    file = arguments.config or protocol_file(arguments.protocol, "knn")
    config = load_config(KnnConfig, file, arguments.overrides)
    protocol = full_name(config, file, PROBE.performance_keys)
    processes = init_distributed(arguments.device)
    engine = open_engine(processes, all_gpus=processes.world_size == 1 and ":" not in arguments.device)
    with rank_zero_first():
        backbone = open_backbone(arguments.ckpt, arguments.network, arguments.arch, arguments.seed)
        bank_images, query_images = open_bank_and_queries(config, arguments.seed)
    backbone.model.to(processes.device)
    size = feature_size(backbone.model, config.features, processes.device)
    refused = ""
    if processes.is_main:
        print(_plan(protocol, config, backbone, size, bank_images, query_images, processes, engine.name), flush=True)
        digest = tensors_digest(backbone.model.state_dict())
        path = (arguments.out or result_folder(protocol, digest, arguments.seed)) / "result.json"
        refused = conflicting_result(
            path, protocol, digest, arguments.seed, [bank_images.digest(), query_images.digest()]
        )
    raise_on_all_ranks(refused)
    if arguments.dry_run:
        return

    bank, own_queries = (
        extract_features(
            backbone.model, backbone.config, images, config.features, processes, arguments.workers, unit=True
        )
        for images in (bank_images, query_images)
    )
    neighbours, queries = find_neighbours(
        bank, own_queries, max(config.ks), processes, engine, config.bank_chunk, progress=processes.is_main
    )
    if not processes.is_main:
        return
    for features in (bank, queries):
        for broken in features.broken:
            print(f"broken, left out: {broken}")
    metrics: dict[str, Any] = {
        **accuracies(neighbours, queries.labels, len(bank.classes), config.ks, config.temperature)
    }
    metrics["top1_per_class"] = class_accuracies(
        neighbours, queries.labels, bank.classes, metrics["k"], config.temperature
    )
    result = Result(
        protocol=protocol,
        metrics=metrics,
        backbone=backbone,
        data={"bank": facts(bank_images, bank.broken), "queries": facts(query_images, queries.broken)},
        seed=arguments.seed,
        settings=to_dict(config),
        started=started,
        device=processes.device,
    )
    print(_table(metrics, config.ks))
    write_result(path, result)
    print(f"result: {path}")
    if not (arguments.draw or arguments.neighbours):
        return

    from evaluate.common.pictures import FOLDER
    from evaluate.probes.knn.neighbour_sheet import PictureConfig, draw_neighbours
    from evaluate.probes.knn.tsne import draw_map

    measured = f"k-NN top-1 {metrics['top1']:.1f} % (k {metrics['k']})"
    pictures = path.parent / FOLDER
    sheets = [(arguments.neighbours, PictureConfig())] if arguments.neighbours else []
    sheets += [(pictures / "neighbours.png", PictureConfig(arguments.draw, neighbours=4))] if arguments.draw else []
    for sheet, shown in sheets:
        draw_neighbours(
            sheet, bank_images, query_images, queries, neighbours, config.features.transform,
            f"{protocol}: queries (left), nearest images; {measured}", arguments.seed, shown,
        )  # fmt: skip
        print(f"neighbours: {sheet}")
    if arguments.draw:
        draw_map(pictures / "map.png", queries, measured)
        print(f"map of features: {pictures / 'map.png'}")


def _arguments() -> argparse.Namespace:
    parser = evaluation_parser(
        "Classify images by their nearest neighbours in a backbone's feature space.",
        "python evaluate/knn.py --ckpt runs/r50 --data folder:/data/imagenet --neighbours near.png ks=[20]",
        default="knn_dino",
    )
    add_data(parser)
    add_draw(parser, "N queries with their nearest images, and a 2-D map of the features")
    parser.add_argument(
        "--neighbours", type=Path, metavar="PNG", help="draw eight queries with their nearest images there"
    )
    arguments = parse(parser)
    if arguments.neighbours and arguments.neighbours.suffix.lower() != ".png":
        raise UserError(f"--neighbours {arguments.neighbours} must end in .png")
    return arguments


def _plan(
    protocol: str,
    config: KnnConfig,
    backbone: Backbone,
    size: int,
    bank: ImageSet,
    queries: ImageSet,
    processes: Processes,
    engine: str,
) -> str:
    from core.result import device_name

    features, transform = config.features, config.features.transform
    storage = (4 if features.storage == "float32" else 2) * size * len(bank) / 2**20 / processes.world_size
    return "\n".join(
        [
            f"protocol  {protocol}",
            f"backbone  {backbone.source}",
            f"weights   {backbone.origin.get('coverage', 'none loaded')}",
            f"features  {size} per image ({features.pooling}), {features.storage}; resize {transform.resize}, "
            f"crop {transform.crop}; {features.precision}",
            f"bank      {bank.name}: {len(bank):,} images, {len(bank.classes):,} classes; "
            f"{storage:,.0f} MiB of features per process",
            f"queries   {queries.name}: {len(queries):,} images",
            f"vote      k in {', '.join(map(str, config.ks))}; exp(cosine / {config.temperature:g}) and majority",
            f"runs on   {device_name(processes.device)}, {processes.world_size} "
            f"process{'es' if processes.world_size > 1 else ''}; search by {engine}",
        ]
    )


def _table(metrics: Mapping[str, float], ks: tuple[int, ...]) -> str:
    lines = ["    k   weighted top-1   top-5   majority top-1   top-5"]
    for k in ks:
        weighted, weighted5, majority, majority5 = (
            metrics[f"{kind}_{top}_k{k}"] for kind in ("weighted", "majority") for top in ("top1", "top5")
        )
        lines.append(f"{k:5d}   {weighted:14.2f}   {weighted5:5.2f}   {majority:14.2f}   {majority5:5.2f}")
    return "\n".join(lines)


if __name__ == "__main__":
    run_entry_point(main)

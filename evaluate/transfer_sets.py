"""k-NN and linear accuracy over a list of sets. `python evaluate/transfer_sets.py --ckpt runs/r50 --sets …`"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

# In front, and instead of this folder, whose files would be importable as `search`, `heads`, ….
if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from core.errors import UserError, run_entry_point
from evaluate.common.cli import evaluation_parser, parse

if TYPE_CHECKING:
    from core.backbones import Backbone
    from core.distributed import Processes
    from evaluate.probes.features.head_inputs import HeadInputs
    from evaluate.probes.knn.search import Engine
    from evaluate.probes.transfer.protocol import TransferConfig


def main() -> None:
    """Parses, prints the plan, measures set after set, writes a result.json for each and prints the table."""
    parser = evaluation_parser(
        "Measure k-NN and linear accuracy on several data sets, each by its own metric.",
        "python evaluate/transfer_sets.py --ckpt runs/r50 --sets cifar10:/data,pets:/data,folder:/data/birds",
        "transfer_224px",
    )
    parser.add_argument("--sets", default="", metavar="A,B,…", help="sources, e.g. cifar10:/data,dtd:/data,scenes")
    parser.add_argument("--download", action="store_true", help="let torchvision fetch what is not in its root yet")
    arguments = parse(parser)

    from tqdm import tqdm

    from converters.open import open_backbone
    from core.config import load_config
    from core.data.open import split_sources
    from core.data.torchvision_sets import SETS, download
    from core.distributed import gather_objects, init_distributed, rank_zero_first
    from core.features import feature_size
    from core.files.user_path import user_path
    from core.result import device_name
    from evaluate.common.labelled import open_labelled
    from evaluate.common.protocol import full_name, protocol_file
    from evaluate.probes.features.head_inputs import plan_head_inputs
    from evaluate.probes.knn.search import open_engine
    from evaluate.probes.transfer.probe import PROBE
    from evaluate.probes.transfer.protocol import TransferConfig, metric_of

    file = arguments.config or protocol_file(arguments.protocol, "transfer")
    config = load_config(TransferConfig, file, arguments.overrides)
    sources = list(dict.fromkeys(split_sources(arguments.sets)) or config.sets)
    if not sources:
        raise UserError("no sets to measure; name them, e.g. --sets cifar10:/data,pets:/data")
    # Which sets are measured is no part of what is measured on each of them.
    protocol = full_name(config, file, PROBE.performance_keys)
    try:
        data = [config.of(source) for source in sources]
    except ValueError as error:
        raise UserError(str(error)) from None
    processes = init_distributed(arguments.device)
    with rank_zero_first():
        if arguments.download and processes.is_main:
            for source in sources:
                kind, _, place = source.partition(":")
                if kind in SETS:
                    download(kind, user_path(place))
        backbone = open_backbone(arguments.ckpt, arguments.network, arguments.arch, arguments.seed)
        # All sets are opened before the first is measured: a mistake in the last one is told at once.
        opened = [open_labelled(each, config.train_limit, config.val_limit, arguments.seed) for each in data]
    backbone.model.to(processes.device)
    taps = plan_head_inputs(backbone.model, config.features.transform.crop, (config.blocks,), (config.pooling,))
    feature_size(backbone.model, config.features, processes.device, taps)
    if processes.is_main:
        transform = config.features.transform
        plan = [
            f"protocol  {protocol}",
            f"backbone  {backbone.source}",
            f"features  {taps.names[0]}: {taps.width} numbers; resize {transform.resize}, crop {transform.crop}",
            f"k-NN      k in {', '.join(map(str, config.ks))}; exp(cosine / {config.temperature:g})",
            f"linear    {len(config.lrs)} learning rates at once, {config.epochs} epochs over cached features, batch "
            f"{config.batch}",
        ]
        plan += [
            f"set       {train.name}: {len(train):,} + {len(val):,} images, {len(train.classes):,} classes, "
            f"{metric_of(source)}"
            for source, (train, val) in zip(sources, opened, strict=True)
        ]
        plan.append(f"runs on   {device_name(processes.device)}, {processes.world_size} "
                    f"process{'es' if processes.world_size > 1 else ''}")  # fmt: skip
        print("\n".join(plan), flush=True)
    if arguments.dry_run:
        return
    engine = open_engine(processes)
    rows = []
    bar = tqdm(sources, desc="sets", unit="set", disable=not processes.is_main)
    for source, (train, val) in zip(bar, opened, strict=True):
        bar.set_postfix_str(source)
        rows.append(_measure(source, train, val, protocol, config, backbone, taps, engine, processes, arguments))
        gather_objects(None)
    if processes.is_main:
        print(_table(rows))


def _measure(
    source: str, train: Any, val: Any, protocol: str, config: TransferConfig, backbone: Backbone, taps: HeadInputs,
    engine: Engine, processes: Processes, arguments: Any,
) -> dict[str, Any]:  # fmt: skip
    """One set's row, from its result.json where the same measurement is there already."""
    import json

    from core.checkpoints import tensors_digest
    from core.config import config_digest, to_dict
    from core.data.broken import BrokenImages
    from core.distributed import gather_objects, raise_on_all_ranks
    from core.result import Result, write_result
    from evaluate.common.labelled import facts
    from evaluate.common.protocol import conflicting_result, result_folder
    from evaluate.common.resumable import ProbeState
    from evaluate.probes.features.cache import cached_features
    from evaluate.probes.features.standardise import build_standardiser
    from evaluate.probes.linear.head_grid import HeadGrid
    from evaluate.probes.linear.summary import summary
    from evaluate.probes.linear.training import cached_batches, steps_of, train_grid
    from evaluate.probes.transfer.protocol import knn_scores, metric_of

    kind, metric = source.partition(":")[0], metric_of(source)
    named = f"{protocol} on {train.name if kind in ('folder', 'webdataset') else kind}"
    digest = tensors_digest(backbone.model.state_dict())
    data_digests = [train.digest(), val.digest()]
    folder_name = f"{kind}-{train.digest()[:8]}"
    folder = (arguments.out or result_folder(protocol, digest, arguments.seed)) / folder_name
    path, row = folder / "result.json", None
    identity = f"{named} {config_digest(config)} {digest} {data_digests} {arguments.seed}"
    refused = ""
    if processes.is_main:
        refused = conflicting_result(path, named, digest, arguments.seed, data_digests)
        if path.exists() and not refused:  # measured by an earlier call, which was perhaps killed at a later set
            row = json.loads(path.read_text(encoding="utf-8")).get("metrics")
            if not isinstance(row, dict) or not {"metric", "knn", "knn_k", "linear", "linear_lr"} <= row.keys():
                refused, row = f"{path} lacks metrics of this measurement; remove it to measure again", None
    raise_on_all_ranks(refused)
    if (row := gather_objects(row)[0]) is not None:
        return {"set": source, **row}

    unfinished = ProbeState(folder / "unfinished.pt", identity, processes)
    bank, queries = (
        cached_features(backbone, taps, images, config.features, processes, arguments.workers)
        for images in (train, val)
    )
    linear = config.linear(len(bank.rows) // processes.world_size * processes.world_size)
    neighbours = knn_scores(bank, queries, len(train.classes), config, engine) if processes.is_main else []
    grid = HeadGrid(taps.slices, linear.used_lrs(), len(train.classes), linear.optim, arguments.seed, processes.device)
    standardiser = build_standardiser(linear.standardise, bank, taps.width, processes.device)
    history = train_grid(
        grid,
        standardiser,
        linear,
        steps_of(linear, len(bank.rows))[0],
        lambda start: cached_batches(bank, linear, arguments.seed, processes, start),
        queries,
        processes,
        unfinished,
        BrokenImages(len(train), config.features.broken_share),
    )
    if not processes.is_main:
        return {}
    heads = [{"input": taps.names[0], "lr": lr, "lr_used": lr} for lr in config.lrs]
    by_head = summary(history.epochs, heads)["heads"]
    best_head = max(by_head, key=lambda head: head[metric])
    best_k = max(neighbours, key=lambda found: found[metric])
    metrics = {
        "metric": metric,
        "top1": best_head["top1"],
        "top5": best_head["top5"],
        "mean_per_class": best_head["mean_per_class"],
        "linear": best_head[metric],
        "linear_lr": best_head["lr"],
        "knn": best_k[metric],
        "knn_k": best_k["k"],
        "heads": by_head,
        "neighbours": neighbours,
    }
    notes = [
        f"linear and knn are {metric}; learning rate and k are those which are best on the validation images",
        f"linear heads: batch {linear.batch}, features standardised: {linear.standardise} (statistics of the training "
        f"images)"
        if linear.standardise == "train"
        else f"linear heads: batch {linear.batch}",
    ]
    result = Result(
        protocol=named,
        metrics=metrics,
        backbone=backbone,
        data={"train": facts(train, bank.broken), "val": facts(val, queries.broken)},
        seed=arguments.seed,
        settings={**to_dict(config), "notes": notes},
        started=time.time() - unfinished.seconds(),
        device=processes.device,
    )
    write_result(path, result)
    unfinished.remove()
    return {"set": source, **metrics}


def _table(rows: list[dict[str, Any]]) -> str:
    width = max(len(row["set"]) for row in rows)
    lines = [f"{'set':{width}}   metric            k-NN            linear"]
    lines += [
        f"{row['set']:{width}}   {row['metric']:14}   {row['knn']:6.2f} (k {row['knn_k']:3})   {row['linear']:6.2f} "
        f"(lr {row['linear_lr']:g})"
        for row in rows
    ]
    for key in ("knn", "linear"):
        lines.append(f"mean {key}: {sum(row[key] for row in rows) / len(rows):.2f}")
    return "\n".join(lines)


if __name__ == "__main__":
    run_entry_point(main)

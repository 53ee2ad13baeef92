"""Fine-tuning: the whole network, on all labels or on a few. `python evaluate/finetune.py --ckpt runs/demo …`"""

from __future__ import annotations

import sys
import time
from pathlib import Path

# In front, and instead of this folder, whose files would be importable as `search`, `heads`, ….
if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from core.errors import run_entry_point
from evaluate.common.cli import add_data, evaluation_parser, parse


def main() -> None:
    """Parses, prints the plan, trains, writes result.json."""
    parser = evaluation_parser(
        "Fine-tune a backbone on all training images, or on 1 % or 10 % of them (semi-supervised).",
        "python evaluate/finetune.py --ckpt runs/r50 --protocol finetune_mulan_r50_1pct --data folder:/data/imagenet "
        "share=null file_list=1percent.txt",
        "finetune_mulan_r50",
    )
    add_data(parser)
    arguments = parse(parser)

    from converters.open import open_backbone
    from core.backbones import check_weights
    from core.checkpoints import tensors_digest
    from core.config import config_digest, load_config, to_dict
    from core.data.order import check_batch
    from core.distributed import init_distributed, raise_on_all_ranks, rank_zero_first
    from core.features import feature_size
    from core.result import Result, device_name, write_result
    from evaluate.common.labelled import facts, open_labelled
    from evaluate.common.protocol import conflicting_result, full_name, protocol_file, result_folder
    from evaluate.common.resumable import ProbeState
    from evaluate.probes.finetune.labelled_subset import labelled_part
    from evaluate.probes.finetune.probe import PROBE
    from evaluate.probes.finetune.protocol import FinetuneConfig
    from evaluate.probes.finetune.training import finetune
    from evaluate.probes.linear.summary import summary, table

    file = arguments.config or protocol_file(arguments.protocol, "finetune")
    config = load_config(FinetuneConfig, file, arguments.overrides)
    protocol = full_name(config, file, PROBE.performance_keys)
    processes = init_distributed(arguments.device)
    with rank_zero_first():
        backbone = open_backbone(arguments.ckpt, arguments.network, arguments.arch, arguments.seed)
        whole, val = open_labelled(config.data, None, config.val_limit, arguments.seed)
        train = labelled_part(whole, config.share, config.file_list, arguments.seed)
    check_weights(backbone, "fine-tune")
    backbone.model.to(processes.device)
    feature_size(backbone.model, config.features, processes.device)
    check_batch(config.batch, len(train), train.name, processes.world_size)
    digest, data_digests = tensors_digest(backbone.model.state_dict()), [train.digest(), val.digest()]
    folder = arguments.out or result_folder(protocol, digest, arguments.seed)
    path = folder / "result.json"
    refused = ""
    if processes.is_main:
        decay = f", layer decay {config.layer_decay:g}" if config.layer_decay < 1 else ""
        plan = [
            f"protocol  {protocol}",
            f"backbone  {backbone.source}",
            f"training  {train.name}: {len(train):,} images, {len(train.classes):,} classes; {config.epochs} epochs of "
            f"{len(train) // config.batch:,} steps, batch {config.batch}",
            f"rates     {', '.join(f'{lr:g}' for lr in config.lrs)}, one after the other; {config.optimiser}, weight "
            f"decay {config.weight_decay:g}{decay}",
            f"val       {val.name}: {len(val):,} images",
            f"runs on   {device_name(processes.device)}, {processes.world_size} "
            f"process{'es' if processes.world_size > 1 else ''}; {config.features.precision}",
        ]
        print("\n".join(plan), flush=True)
        refused = conflicting_result(path, protocol, digest, arguments.seed, data_digests)
    raise_on_all_ranks(refused)
    if arguments.dry_run:
        return
    identity = f"{protocol} {config_digest(config)} {digest} {data_digests} {arguments.seed}"
    unfinished = ProbeState(folder / "unfinished.pt", identity, processes)
    epochs, replaced, left_out = finetune(
        backbone, train, val, config, arguments.seed, processes, arguments.workers, unfinished
    )
    if not processes.is_main:
        return
    for name in replaced:
        print(f"broken, replaced: {name}")
    for name in left_out:
        print(f"broken, left out: {name}")
    metrics = summary(epochs, [{"input": "fine-tuned", "lr": lr, "lr_used": lr} for lr in config.lrs])
    result = Result(
        protocol=protocol,
        metrics=metrics,
        backbone=backbone,
        data={"train": facts(train, replaced), "val": facts(val, left_out)},
        seed=arguments.seed,
        settings={
            **to_dict(config),
            "notes": [
                f"trained on {train.name}",
                "top1 is that of the learning rate which is best on the validation images after the last epoch",
                f"{processes.world_size} process{'es' if processes.world_size > 1 else ''}",
            ],
        },
        started=time.time() - unfinished.seconds(),
        device=processes.device,
    )
    print(table(metrics))
    write_result(path, result)
    unfinished.remove()
    print(f"result: {path}")


if __name__ == "__main__":
    run_entry_point(main)

"""Linear probes: a grid of heads on a frozen backbone. `python evaluate/linear.py --ckpt runs/demo --protocol …`"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

# In front, and instead of this folder, whose files would be importable as `search`, `heads`, ….
if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from core.errors import run_entry_point
from evaluate.common.cli import add_data, evaluation_parser, parse

if TYPE_CHECKING:
    from core.backbones import Backbone
    from core.data.base import ImageSet
    from core.distributed import Processes
    from evaluate.probes.features.head_inputs import HeadInputs
    from evaluate.probes.linear.protocol import LinearConfig


def main() -> None:
    """Parses, prints the plan, trains, writes result.json and the best head."""
    parser = evaluation_parser(
        "Train linear heads on a frozen backbone: learning rates × last blocks × poolings in one pass.",
        "python evaluate/linear.py --ckpt runs/vit_s --protocol linear_dinov2_grid --data folder:/data/imagenet",
        "linear_mulan_r50",
    )
    add_data(parser)
    arguments = parse(parser)

    from converters.open import open_backbone
    from core.checkpoints import tensors_digest
    from core.config import config_digest, load_config, to_dict
    from core.data.broken import BrokenImages
    from core.data.order import check_batch
    from core.distributed import init_distributed, raise_on_all_ranks, rank_zero_first
    from core.features import feature_size
    from core.result import Result, write_result
    from evaluate.common.labelled import facts, open_labelled
    from evaluate.common.protocol import conflicting_result, full_name, protocol_file, result_folder
    from evaluate.common.resumable import ProbeState
    from evaluate.probes.features.cache import cached_features
    from evaluate.probes.features.head_inputs import plan_head_inputs
    from evaluate.probes.features.standardise import build_standardiser
    from evaluate.probes.linear.head_grid import HeadGrid
    from evaluate.probes.linear.probe import PROBE
    from evaluate.probes.linear.protocol import LinearConfig
    from evaluate.probes.linear.summary import summary, table
    from evaluate.probes.linear.training import augmented_batches, cached_batches, steps_of, train_grid

    file = arguments.config or protocol_file(arguments.protocol, "linear")
    config = load_config(LinearConfig, file, arguments.overrides)
    protocol = full_name(config, file, PROBE.performance_keys)
    processes = init_distributed(arguments.device)
    with rank_zero_first():
        backbone = open_backbone(arguments.ckpt, arguments.network, arguments.arch, arguments.seed)
        train, val = open_labelled(config.data, config.train_limit, config.val_limit, arguments.seed)
    backbone.model.to(processes.device)
    taps = plan_head_inputs(backbone.model, config.features.transform.crop, config.blocks, config.poolings)
    feature_size(backbone.model, config.features, processes.device, taps)  # refuses impossible sizes before all else
    check_batch(config.batch, len(train), train.name, processes.world_size)
    digest = tensors_digest(backbone.model.state_dict())
    data_digests = [train.digest(), val.digest()]
    folder = arguments.out or result_folder(protocol, digest, arguments.seed)
    path = folder / "result.json"
    refused = ""
    if processes.is_main:
        print(_plan(protocol, config, backbone, taps, train, val, processes), flush=True)
        refused = conflicting_result(path, protocol, digest, arguments.seed, data_digests)
    raise_on_all_ranks(refused)
    if arguments.dry_run:
        return
    identity = f"{protocol} {config_digest(config)} {digest} {data_digests} {arguments.seed}"
    unfinished = ProbeState(folder / "unfinished.pt", identity, processes)

    val_features = cached_features(backbone, taps, val, config.features, processes, arguments.workers)
    train_features = None
    if config.views == "cached" or config.standardise == "train":
        train_features = cached_features(backbone, taps, train, config.features, processes, arguments.workers)
    grid = HeadGrid(taps.slices, config.used_lrs(), len(train.classes), config.optim, arguments.seed, processes.device)
    standardiser = build_standardiser(config.standardise, train_features, taps.width, processes.device)
    broken = BrokenImages(len(train), config.features.broken_share)
    cached = train_features if config.views == "cached" else None
    usable = len(train) if cached is None else len(cached.rows)

    def open_batches(start: int) -> Any:
        if cached is not None:
            return cached_batches(cached, config, arguments.seed, processes, start)
        return augmented_batches(
            backbone, taps, train, config, arguments.seed, processes, arguments.workers, start, broken.add
        )

    per_epoch, _ = steps_of(config, usable)
    history = train_grid(
        grid, standardiser, config, per_epoch, open_batches, val_features, processes, unfinished, broken
    )
    if not processes.is_main:
        return
    metrics = summary(history.epochs, heads_of(config, taps))
    replaced = history.broken if cached is None else list(cached.broken)
    for name in [*replaced, *val_features.broken]:
        print(f"broken, {'replaced' if cached is None and name in replaced else 'left out'}: {name}")
    result = Result(
        protocol=protocol,
        metrics=metrics,
        backbone=backbone,
        data={"train": facts(train, replaced), "val": facts(val, val_features.broken)},
        seed=arguments.seed,
        settings={**to_dict(config), "notes": _notes(config, train.name, processes)},
        started=time.time() - unfinished.seconds(),
        device=processes.device,
    )  # fmt: skip
    print(table(metrics))
    write_result(path, result)
    _save_head(folder / "head.safetensors", metrics["head_number"], grid, standardiser, taps, protocol, digest)
    unfinished.remove()
    print(f"result: {path}")


def heads_of(config: LinearConfig, taps: HeadInputs) -> list[dict[str, Any]]:
    """What each head is, in the grid's order."""
    return [
        {"input": name, "lr": lr, "lr_used": used}
        for name in taps.names
        for lr, used in zip(config.lrs, config.used_lrs(), strict=True)
    ]


def _notes(config: LinearConfig, train: str, processes: Processes) -> list[str]:
    notes = {
        "none": "features are not standardised",
        "train": f"features are standardised per dimension by mean and standard deviation over the training images "
        f"({train}, evaluation transform)",
        "batch_norm": "features pass a batch norm without scale and shift, of the global batch",
    }
    return [
        notes[config.standardise],
        f"the {len(config.lrs) * len(config.blocks) * len(config.poolings)} heads were trained together; top1 is the "
        f"best of them on the validation images after the last epoch",
        f"{processes.world_size} process{'es' if processes.world_size > 1 else ''}",
    ]


def _plan(
    protocol: str, config: LinearConfig, backbone: Backbone, taps: HeadInputs, train: ImageSet, val: ImageSet,
    processes: Processes,
) -> str:  # fmt: skip
    from core.result import device_name
    from evaluate.probes.linear.training import steps_of

    transform, optim = config.features.transform, config.optim
    used = config.used_lrs()
    rates = ", ".join(f"{lr:g}" for lr in used[:3]) + (f" … {used[-1]:g}" if len(used) > 3 else "")
    scaled = f" (given for 256, × {config.batch}/256)" if config.lr_per_256 else ""
    crops = f"crops of area {config.augment.area[0]:g}–{config.augment.area[1]:g} and flip"
    per_epoch, _ = steps_of(config, len(train))
    return "\n".join(
        [
            f"protocol  {protocol}",
            f"backbone  {backbone.source}",
            f"inputs    {'; '.join(taps.names)}; standardised: {config.standardise}",
            f"heads     {len(taps.slices) * len(used)} at once: learning rates {rates}{scaled}; "
            f"{optim.name.upper()}, momentum {optim.momentum:g}, weight decay {optim.weight_decay:g}",
            f"training  {train.name}: {len(train):,} images, {len(train.classes):,} classes; {config.epochs} epochs of "
            f"{per_epoch:,} steps, batch {config.batch}; "
            + (f"new {crops}" if config.views == "augmented" else "cached features"),
            f"val       {val.name}: {len(val):,} images; resize {transform.resize}, crop {transform.crop}",
            f"runs on   {device_name(processes.device)}, {processes.world_size} "
            f"process{'es' if processes.world_size > 1 else ''}; {config.features.precision}",
        ]
    )


def _save_head(
    path: Path, number: int, grid: Any, standardiser: Any, taps: HeadInputs, protocol: str, backbone_sha256: str
) -> None:
    """The chosen head with its standardisation, to be used on other test sets as it is."""
    from safetensors.torch import save_file

    from core.files.atomic_file import write_atomically

    weight, bias = grid.head(number)
    start, end = taps.slices[number // grid.per_input]
    mean, factor = (values[start:end] for values in standardiser.affine())
    tensors = {"weight": weight, "bias": bias, "mean": mean, "factor": factor}
    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    header = {
        "format": "ssl-transfer/linear-head/1",
        "input": taps.names[number // grid.per_input],
        "protocol": protocol,
        "backbone_sha256": backbone_sha256,
    }
    write_atomically(path, lambda partial: save_file(tensors, partial, metadata=header))


if __name__ == "__main__":
    run_entry_point(main)

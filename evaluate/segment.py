"""Semantic segmentation on top of a backbone. `python evaluate/segment.py --ckpt runs/demo`"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

# In front, and instead of this folder, whose files would be importable as `search`, `vote`, ….
if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from core.errors import UserError, run_entry_point
from evaluate.common.cli import add_data, add_draw, evaluation_parser, parse

if TYPE_CHECKING:
    from core.backbones import Backbone
    from core.distributed import Processes
    from evaluate.segmentation.protocol import SegmentConfig

_DEFAULT = "scenes_fcn_r18_400it"


def main() -> None:
    """Parses, checks the data, prints the plan, trains, tests, writes result.json."""
    arguments = _arguments()
    if arguments.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the engine takes a GPU wherever it sees one
    started = time.time()

    from converters.engines.openmmlab import import_mmseg
    from converters.open import open_backbone
    from core.backbones import RawPixels
    from core.checkpoints import tensors_digest
    from core.config import load_config, to_dict
    from core.distributed import gather_objects, init_distributed, raise_on_all_ranks, rank_zero_first
    from core.result import Result, write_result
    from core.run_folder import RunFolder, drop_metrics_after
    from evaluate.common.protocol import conflicting_result, full_name, protocol_file, result_folder
    from evaluate.segmentation.data.checks import check_apart, check_split
    from evaluate.segmentation.data.labels import majority_baseline
    from evaluate.segmentation.data.layouts import check_class_list, class_names, find_root, list_split, split_facts
    from evaluate.segmentation.engine.engine_settings import engine_settings
    from evaluate.segmentation.engine.run import (
        ENGINE_FOLDER,
        SEGMENTOR,
        broken_in_training,
        finished_result,
        forget_engine,
        load_trained,
        prepare_folder,
        train_and_test,
    )
    from evaluate.segmentation.engine.scaling import batch_per_process, scale_to_batch
    from evaluate.segmentation.protocol import PERFORMANCE_KEYS, SegmentConfig, measured_settings

    file = arguments.config or protocol_file(arguments.protocol, "segmentation")
    config = load_config(SegmentConfig, file, arguments.overrides)
    import_mmseg()
    processes = init_distributed(arguments.device)
    config, scaling = scale_to_batch(config, arguments.batch, processes.world_size)
    protocol = full_name(config, file, PERFORMANCE_KEYS)
    batch_per_process(config.batch, processes.world_size)
    with rank_zero_first():
        backbone = open_backbone(arguments.ckpt, arguments.network, arguments.arch, arguments.seed)
        if isinstance(backbone.model, RawPixels):
            raise UserError("pixels is no network, so nothing can be put on top of it; pass a checkpoint or timm:NAME")
        root = find_root(config.data)
    pairs = {split: list_split(root, config.data.layout, split) for split in ("train", "val")}
    names = class_names(root, config.data)
    digest = tensors_digest(backbone.model.state_dict())
    out = arguments.out or result_folder(protocol, digest, arguments.seed)
    settings = engine_settings(
        config, backbone, root, names, processes, arguments.seed, arguments.workers, out / ENGINE_FOLDER
    )

    from evaluate.segmentation.model.segmentor import build_segmentor

    model, account = build_segmentor(config, settings["model"], backbone, processes, arguments.seed)
    measured = measured_settings(config) | {"processes": processes.world_size}
    refused, facts, left_out, baseline, ended, start = "", {}, {}, None, None, None
    if processes.is_main:
        try:
            check_class_list(root, config.data)
            check_apart(pairs)
            facts = {split: split_facts(root, config.data.layout, split, pairs[split]) for split in ("train", "val")}
            print(_plan(protocol, config, scaling, backbone, account, facts, processes, names), flush=True)
            digests = [part["digest"] for part in facts.values()]
            if refused := conflicting_result(out / "result.json", protocol, digest, arguments.seed, digests):
                raise UserError(refused)
            ended = None if arguments.restart else finished_result(out, measured)
            shown = sys.stderr.isatty()
            if not ended:
                train = check_split(pairs["train"], config.data, "training", whole=False, progress=shown)
            if not ended or arguments.draw:
                test = check_split(pairs["val"], config.data, "test", whole=True, progress=shown)
                left_out["val"] = test.left_out
            if not ended:
                left_out["train"] = train.left_out
                facts["train"]["broken"], facts["val"]["broken"] = list(train.broken), list(test.broken)
                baseline = majority_baseline(train.counts, test.counts)
                print(
                    f"majority  {names[baseline.label]} everywhere: mIoU {baseline.mean_iou:.2f}, aAcc "
                    f"{baseline.pixel_accuracy:.2f}",
                    flush=True,
                )
                identity = {
                    "protocol": protocol, "backbone": digest, "seed": arguments.seed, "data": digests,
                    "settings": measured,
                }  # fmt: skip
                if not arguments.dry_run:
                    start = prepare_folder(out, identity, arguments.restart, train.broken)
        except UserError as error:
            refused = str(error)
    raise_on_all_ranks(refused)
    left_out, ended, start = gather_objects((left_out, ended, start))[0]

    def draw(trained: Any) -> None:
        from evaluate.common.pictures import FOLDER
        from evaluate.segmentation.data.dataset import test_set
        from evaluate.segmentation.pictures import draw_predictions

        seen = [pair for position, pair in enumerate(pairs["val"]) if position not in left_out["val"]]
        dataset = test_set(settings, left_out["val"])
        paths = draw_predictions(out / FOLDER, trained, dataset, seen, config.data, names, arguments.draw)
        print(f"pictures: {len(paths)} in {out / FOLDER} (image, truth, prediction)")

    if ended and processes.is_main:
        print(f"finished already, on {ended['date']}; --restart trains and measures anew")
        print(_table(ended["metrics"]))
        print(f"result: {out / 'result.json'}")
        if arguments.draw and not arguments.dry_run:
            if load_trained(out, model):
                draw(model.to(processes.device))
            else:
                print(f"no pictures: {out / SEGMENTOR} is gone; --restart trains it anew")
    if ended or arguments.dry_run:
        return
    settings["train_dataloader"]["dataset"]["left_out"] = left_out["train"]
    settings["test_dataloader"]["dataset"]["left_out"] = left_out["val"]
    folder = None
    if processes.is_main:
        drop_metrics_after(out, start.iteration)
        if start.skipped_checkpoints:
            print(f"passed over {', '.join(start.skipped_checkpoints)}, which can't be opened", flush=True)
        if start.checkpoint:
            training = "" if start.iteration < config.schedule.iterations else ": trained to the end, only measured now"
            print(f"resumes from {start.checkpoint} (iteration {start.iteration:,}){training}", flush=True)
        folder = RunFolder(out, config)
    started -= start.seconds  # so that the result tells the time of all parts
    metrics, trained = train_and_test(
        settings, model, out, start.checkpoint, started, config.log_every, folder.write if folder else _nothing,
        processes,
    )  # fmt: skip
    if not processes.is_main:
        return
    assert folder is not None
    assert baseline is not None
    folder.close()
    metrics |= {
        "majority_class": names[baseline.label],
        "majority_mIoU": baseline.mean_iou,
        "majority_aAcc": baseline.pixel_accuracy,
    }
    facts["train"]["broken"] = broken_in_training(out)
    for split, what in (("train", "training"), ("val", "test")):
        if broken := facts[split]["broken"]:
            more = "; …" if len(broken) > 20 else ""
            print(f"{len(broken)} left out of {what}: {'; '.join(broken[:20])}{more}")
    result = Result(
        protocol=protocol,
        metrics=metrics,
        backbone=backbone,
        data=facts,
        seed=arguments.seed,
        settings=to_dict(config) | {"processes": processes.world_size, "scaling": scaling, "loaded": account},
        started=started,
        device=processes.device,
    )
    write_result(out / "result.json", result)
    print(_table(metrics))
    print(f"result: {out / 'result.json'}")
    if arguments.draw:
        draw(trained)
    forget_engine(out)  # last: until here the same command goes on with a killed run


def _nothing(_iteration: int, _values: dict[str, float]) -> None:
    """Processes other than the main one record nothing."""


def _arguments() -> argparse.Namespace:
    parser = evaluation_parser(
        "Train a segmentation head on a backbone (and fine-tune it, where the protocol says so) and measure mIoU, with "
        "MMSegmentation. A killed run goes on when started again.",
        "python evaluate/segment.py --ckpt runs/vit_s --protocol ade20k_upernet_vit_s_160k "
        "--data /data/ADEChallengeData2016",
        default=_DEFAULT,
    )
    add_data(parser, "data.root", "the data set's folder (none for the built-in scenes)")
    add_draw(parser)
    parser.add_argument("--batch", type=int, help="another global batch; learning rate and iterations follow")
    parser.add_argument("--restart", action="store_true", help="train anew even where the folder holds a run")
    return parse(parser)


def _plan(
    protocol: str,
    config: SegmentConfig,
    scaling: str,
    backbone: Backbone,
    account: str,
    facts: dict[str, Any],
    processes: Processes,
    names: tuple[str, ...],
) -> str:
    from core.result import device_name

    schedule, optim, inference = config.schedule, config.optim, config.inference
    decay = f", layer decay {optim.layer_decay:g}" if optim.layer_decay is not None else ""
    norms = "synchronised" if config.sync_norm and processes.world_size > 1 else "each process's own"
    if config.sync_norm and processes.world_size == 1:
        norms = "plain: SyncBN needs several processes"
    windows = f", windows of {config.crop.size} every {inference.stride}" if inference.mode == "slide" else ""
    lines = [
        f"protocol  {protocol}",
        f"backbone  {backbone.source}{' (frozen)' if config.network.frozen else ''}",
        f"weights   {account}",
        f"data      {facts['train']['name']}: {facts['train']['images']:,} images; {facts['val']['name']}: "
        f"{facts['val']['images']:,} images; {len(names)} classes",
        f"head      {config.head.kind}, {config.head.channels} channels; batch norms {norms}",
        f"training  {schedule.iterations:,} iterations of {config.batch} crops of {config.crop.size} px; {optim.name} "
        f"lr {optim.lr:g}, wd {optim.weight_decay:g}{decay}; {config.precision}",
        f"test      {inference.mode}{windows}",
        f"runs on   {device_name(processes.device)}, {processes.world_size} "
        f"process{'es' if processes.world_size > 1 else ''}",
    ]
    return "\n".join(lines + ([f"scaled    {scaling}"] if scaling else []))


def _table(metrics: dict[str, Any]) -> str:
    width = max(len(name) for name in metrics["IoU"])
    rows = [f"  {name:{width}}  {'–' if iou is None else f'{iou:6.2f}'}" for name, iou in metrics["IoU"].items()]
    return "\n".join(
        [
            f"mIoU {metrics['mIoU']:.2f}, mAcc {metrics['mAcc']:.2f}, aAcc {metrics['aAcc']:.2f} "
            f"(majority class {metrics['majority_class']}: mIoU {metrics['majority_mIoU']:.2f}, "
            f"aAcc {metrics['majority_aAcc']:.2f})",
            "IoU of each class:",
            *rows,
        ]
    )


if __name__ == "__main__":
    run_entry_point(main)

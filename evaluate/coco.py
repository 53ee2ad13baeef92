"""Detection with a backbone. `python evaluate/coco.py --ckpt runs/demo`"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from core.errors import UserError, run_entry_point
from evaluate.common.cli import add_data, add_draw, evaluation_parser, parse

if TYPE_CHECKING:
    from typing import Any

    from core.backbones import Backbone
    from core.coverage import Coverage
    from core.distributed import Processes
    from evaluate.detection.data.records import DetectionSet
    from evaluate.detection.settings import DetectionConfig


def main() -> None:
    """Parses, prints the plan, trains, measures, writes result.json."""
    arguments = _arguments()
    started = time.time()

    from converters.open import open_backbone
    from core.checkpoints import tensors_digest
    from core.config import load_config, to_dict
    from core.distributed import init_distributed, raise_on_all_ranks, rank_zero_first
    from core.result import Result, write_result
    from core.run_folder import RunFolder, drop_metrics_after
    from evaluate.common.protocol import conflicting_result, full_name, result_folder
    from evaluate.detection.imports import check_detectron2
    from evaluate.detection.settings import PERFORMANCE_KEYS, DetectionConfig, find_protocol
    from evaluate.detection.training.scaling import scale_to_processes

    file = arguments.config or find_protocol(arguments.protocol or _default_protocol(arguments.data))
    config = load_config(DetectionConfig, file, arguments.overrides)
    check_detectron2()

    from evaluate.detection.data.datasets import open_splits, register
    from evaluate.detection.metrics import inference
    from evaluate.detection.metrics.coco_metrics import coco_metrics, engine
    from evaluate.detection.metrics.pictures import draw
    from evaluate.detection.metrics.voc_metrics import voc_metrics
    from evaluate.detection.model.detector import build_detector, detectron2_config
    from evaluate.detection.model.fit import check_fit
    from evaluate.detection.training import loop, state

    processes = init_distributed(arguments.device)
    config, scaling = scale_to_processes(config, processes.world_size)
    protocol = full_name(config, file, PERFORMANCE_KEYS)
    loop.join_detectron2(processes)
    loop.check_hardware(config, processes)
    with rank_zero_first():
        backbone = open_backbone(arguments.ckpt, arguments.network, arguments.arch, arguments.seed)
        check_fit(config, backbone)
        train, val = open_splits(config)
    cfg = detectron2_config(config, backbone, len(train.classes), processes)
    detector, coverage = build_detector(cfg, backbone, arguments.seed)
    digest = tensors_digest(backbone.model.state_dict())
    folder = arguments.out or result_folder(protocol, digest, arguments.seed)
    identity = {
        "protocol": protocol, "backbone": digest, "seed": arguments.seed, "data": [train.digest, val.digest],
    }  # fmt: skip
    refused = ""
    if processes.is_main:
        print(_plan(protocol, config, scaling, backbone, coverage, train, val, processes, cfg), flush=True)
        refused = conflicting_result(
            folder / "result.json", protocol, digest, arguments.seed, [train.digest, val.digest]
        )
    raise_on_all_ranks(refused)
    if arguments.dry_run:
        return
    if processes.is_main and arguments.restart:
        loop.clear_run(folder)
    with rank_zero_first():
        saved = state.load(folder, identity)
    done = saved["step"] if saved else 0
    started -= saved["seconds"] if saved else 0.0  # so that the result tells the time of all parts
    if processes.is_main and done:
        print(f"resumes  after step {done:,} of {cfg.SOLVER.MAX_ITER:,}, from {folder / state.FILE}", flush=True)
    log = None
    if processes.is_main:
        drop_metrics_after(folder, done)
        log = RunFolder(folder, config)
    broken_train = loop.train(
        cfg, config, detector, register(train), train, arguments.seed, processes, arguments.workers, folder, identity,
        saved, started, log.write if log is not None else lambda _step, _values: None,
    )  # fmt: skip
    if log is not None:
        log.close()
    findings = inference.find(cfg, detector, val, processes, arguments.workers, config.data.broken_share)
    metrics: dict[str, Any] = {}
    if config.data.source.startswith("voc"):
        metrics = voc_metrics(val, findings)
    elif findings is not None:
        metrics = {**coco_metrics(val, findings, config.detector.masks), "counted_by": engine()}
    if findings is None:
        return
    for part, names in (("training", (*train.left_out, *broken_train)), ("test", (*val.left_out, *findings.broken))):
        if names:
            print(f"{len(names)} left out of {part}: {'; '.join(names[:20])}{'; …' if len(names) > 20 else ''}")
    result = Result(
        protocol=protocol,
        metrics=metrics,
        backbone=backbone,
        data={"train": _facts(train, broken_train), "val": _facts(val, findings.broken)},
        seed=arguments.seed,
        settings=to_dict(config) | {"scaling": scaling, "processes": processes.world_size},
        started=started,
        device=processes.device,
    )
    print(_table(metrics))
    write_result(folder / "result.json", result)
    print(f"result: {folder / 'result.json'}")
    if arguments.draw:
        paths = draw(folder / "pictures", val, findings, arguments.draw, arguments.seed)
        print(f"pictures: {len(paths)} in {folder / 'pictures'} (truth on the left, findings on the right)")


def _default_protocol(data: str | None) -> str:
    """What can be run at once: the built-in scenes, unless the user has brought data."""
    kind = (data or "scenes").partition(":")[0]
    own = {"scenes": "scenes_maskrcnn_r18_fpn_300it", "voc": "voc_frcnn_r50_c4_24k"}
    return own.get(kind, "coco_maskrcnn_r50_fpn_1x_mulan")


def _arguments() -> argparse.Namespace:
    parser = evaluation_parser(
        "Train a detector on a backbone and measure it, under a named protocol (COCO, Pascal VOC, scenes). "
        "A killed run goes on when started again.",
        "python evaluate/coco.py --ckpt runs/r50 --data coco:/data/coco",
        default=None,
        says=f"{_default_protocol(None)}; with COCO {_default_protocol('coco')}",
    )
    add_data(parser, what="scenes, coco:ROOT, voc:ROOT")
    add_draw(parser)
    parser.add_argument("--restart", action="store_true", help="train anew even where the folder holds a state")
    arguments = parse(parser)
    if arguments.seed >= 2**63:
        raise UserError(f"--seed must be below 2^63, not {arguments.seed}; take a shorter number")
    return arguments


def _plan(
    protocol: str,
    config: DetectionConfig,
    scaling: str,
    backbone: Backbone,
    coverage: Coverage,
    train: DetectionSet,
    val: DetectionSet,
    processes: Processes,
    cfg: Any,
) -> str:
    from core.result import device_name
    from evaluate.detection.training.scaling import schedule_of

    norms = {"backbone": cfg.MODEL.SSL.NORM, "pyramid": cfg.MODEL.FPN.NORM, "heads": cfg.MODEL.ROI_BOX_HEAD.NORM}
    said = ", ".join(f"{place} {norm or 'none'}" for place, norm in norms.items())
    wanted = {config.detector.norm, config.detector.pyramid_norm, config.detector.head_norm}
    alone = " (SyncBN is plain BN on one process)" if "SyncBN" in wanted and processes.world_size == 1 else ""
    sides = config.data.large_scale_jitter or "/".join(map(str, config.data.short_sides))
    lines = [
        f"protocol  {protocol}",
        f"backbone  {backbone.source}",
        f"loaded    {coverage.summary()}",
        f"detector  {config.detector.design}, {'boxes and masks' if config.detector.masks else 'boxes'}, "
        f"{len(train.classes)} classes; norms: {said}{alone}",
        f"train     {train.name}: {len(train.records):,} images, short side {sides}",
        f"test      {val.name}: {len(val.records):,} images, short side {config.data.test_short_side}",
        f"schedule  {schedule_of(config.solver)}; {config.solver.optimiser}",
        f"runs on   {device_name(processes.device)}, {processes.world_size} "
        f"process{'es' if processes.world_size > 1 else ''}{', mixed precision' if config.solver.amp else ''}",
    ]
    return "\n".join(lines + ([f"scaled    {scaling}"] if scaling else []))


def _facts(split: DetectionSet, broken: list[str]) -> dict[str, Any]:
    return {
        "name": split.name,
        "images": len(split.records),
        "classes": len(split.classes),
        "digest": split.digest,
        "broken": [*split.left_out, *broken],
    }


def _table(metrics: dict[str, Any]) -> str:
    lines = []
    for kind in ("box", "mask"):
        keys = [
            key for key in ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large") if f"{kind}_{key}" in metrics
        ]
        values = [metrics[f"{kind}_{key}"] for key in keys]
        shown = [
            f"{key[2:].lstrip('_') or 'AP'} {'–' if v is None else f'{v:.2f}'}"
            for key, v in zip(keys, values, strict=True)
        ]
        if shown:
            lines.append(f"{kind:4s}  " + "   ".join(shown))
        for name, value in metrics.get(f"{kind}_ap_per_class", {}).items():
            lines.append(f"      {name:20s} {'–' if value is None else f'{value:.2f}'}")
    return "\n".join(lines)


if __name__ == "__main__":
    run_entry_point(main)

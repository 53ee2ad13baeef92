"""The detection evaluation, start to end: parse, prepare, print the plan, train, measure, write result.json."""

from __future__ import annotations

import argparse
import time
from typing import Any

from core.errors import UserError
from evaluate.common.cli import add_data, add_draw, add_frozen, evaluation_parser, parse
from evaluate.probes.ood.corrupted import add_corrupt, corruption_cells


def main() -> None:
    """Runs evaluate/coco.py. Engines are imported once the arguments are parsed."""
    arguments = _arguments()
    started = time.time()

    from converters.engines.detectron2_compat import check_detectron2
    from core.config import load_config, to_dict
    from core.distributed import init_distributed, raise_on_all_ranks, rank_zero_first
    from core.result import Result, write_result
    from core.run_folder import RunFolder, drop_metrics_after
    from evaluate.common.context import RunContext
    from evaluate.common.protocol import conflicting_result
    from evaluate.detection.probe import find_protocol
    from evaluate.detection.settings import DetectionConfig

    file = arguments.config or find_protocol(arguments.protocol or _default_protocol(arguments.data))
    config = load_config(DetectionConfig, file, arguments.overrides)
    check_detectron2()

    from evaluate.detection.corrupted import measure_corrupted
    from evaluate.detection.metrics import inference
    from evaluate.detection.metrics.pictures import draw
    from evaluate.detection.outcome import count_metrics, data_part, excluded_text, metrics_table
    from evaluate.detection.plan import detection_plan
    from evaluate.detection.setup import prepare
    from evaluate.detection.training import loop, state

    context = RunContext(init_distributed(arguments.device), arguments.workers, arguments.seed)
    setup = prepare(arguments, config, file, context)
    config, train, val = setup.config, setup.train, setup.val
    folder, digests = setup.folder, [train.digest, val.digest]
    refused = ""
    if context.is_main:
        print(detection_plan(setup, context), flush=True)
        refused = conflicting_result(
            folder / "result.json", setup.protocol, setup.digest, context.seed, digests, config.protocol_version
        )
    raise_on_all_ranks(refused)
    if arguments.dry_run:
        return

    if context.is_main and arguments.restart:
        loop.clear_run(folder)
    identity = {
        "protocol": setup.protocol, "protocol_version": config.protocol_version, "backbone": setup.digest,
        "seed": context.seed, "data": digests,
    }  # fmt: skip
    with rank_zero_first():
        saved = state.load(folder, identity)
    started -= saved["seconds"] if saved else 0.0  # wall_seconds covers all parts of a resumed run
    training = loop.Training(folder, identity, saved, started)
    log = None
    if context.is_main:
        if training.done:
            last = setup.cfg.SOLVER.MAX_ITER
            print(f"resumes   after step {training.done:,} of {last:,}, from {folder / state.FILE}", flush=True)
        drop_metrics_after(folder, training.done)
        log = RunFolder(folder, config)
    broken_train = loop.train(
        setup.cfg, config, setup.detector, train, context, training, log.write if log is not None else _no_log
    )
    if log is not None:
        log.close()

    detections = inference.run_inference(setup.cfg, setup.detector, val, context, config.data.broken_share)
    metrics = count_metrics(config, val, detections)
    if detections is None:
        measure_corrupted(setup, context, broken_train, arguments.corrupt)
        return
    for line in excluded_text(train, broken_train, val, detections.broken):
        print(line)
    result = Result(
        protocol=setup.protocol,
        metrics=metrics,
        backbone=setup.backbone,
        data={"train": data_part(train, broken_train), "val": data_part(val, detections.broken)},
        seed=context.seed,
        settings=to_dict(config) | {"scaling": setup.scaling, "processes": context.processes.world_size},
        started=started,
        device=context.device,
    )
    print(metrics_table(metrics))
    write_result(folder / "result.json", result)
    print(f"result: {folder / 'result.json'}")
    if arguments.draw:
        paths = draw(folder / "pictures", val, detections, arguments.draw, context.seed)
        print(f"pictures: {len(paths)} in {folder / 'pictures'} (ground truth on the left, detections on the right)")
    measure_corrupted(setup, context, broken_train, arguments.corrupt)


def _no_log(_step: int, _values: dict[str, Any]) -> None:
    """Log of the ranks that write nothing."""


def _arguments() -> argparse.Namespace:
    parser = evaluation_parser(
        "Train a detector on a backbone and measure it under a named protocol (COCO, Pascal VOC, scenes). "
        "An interrupted run resumes when the command is repeated.",
        "python evaluate/coco.py --ckpt runs/r50 --data coco:/data/coco",
        default=None,
        says=f"{_default_protocol(None)}; with COCO {_default_protocol('coco')}",
    )
    add_data(parser, what="scenes, coco:ROOT, voc:ROOT")
    add_draw(parser, what="N images of ground truth and detections")
    add_frozen(parser, "detector")
    parser.add_argument("--restart", action="store_true", help="start over even if the folder holds a saved state")
    add_corrupt(parser)
    arguments = parse(parser)
    arguments.corrupt = corruption_cells(arguments.corrupt)
    if arguments.seed >= 2**63:
        raise UserError(f"--seed must be below 2^63, not {arguments.seed}; choose a smaller number")
    return arguments


def _default_protocol(data: str | None) -> str:
    """Protocol for `--data` if none is named: built-in scenes run at once, own data is measured in full."""
    kind = (data or "scenes").partition(":")[0]
    known = {"scenes": "scenes_maskrcnn_r18_fpn_300it", "voc": "voc_frcnn_r50_c4_24k"}
    return known.get(kind, "coco_maskrcnn_r50_fpn_1x_mulan")

"""A segmentation run from the command line to result.json: open, check, train and test, write, draw."""

from __future__ import annotations

import argparse
import os
import time
from typing import TYPE_CHECKING, Any

from torch import nn

from converters.engines.openmmlab import import_mmseg
from core.config import to_dict
from core.result import Result, write_result
from core.run_folder import RunFolder, drop_metrics_after
from evaluate.segmentation.corrupted import measure_corrupted
from evaluate.segmentation.engine.run_state import SEGMENTOR, broken_in_training, clear_run, load_trained
from evaluate.segmentation.engine.training import train_and_test
from evaluate.segmentation.pictures import draw_test_images
from evaluate.segmentation.plan import result_table

if TYPE_CHECKING:
    from evaluate.segmentation.preflight import Preflight
    from evaluate.segmentation.setup import Setup

_MAX_NAMED = 20


def run(arguments: argparse.Namespace) -> None:
    """Trains, tests and writes the result, or shows the result of a finished run. Raises `UserError`."""
    started = time.time()
    if arguments.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the engine uses a GPU wherever it finds one
    import_mmseg()
    from evaluate.segmentation.preflight import check_on_main
    from evaluate.segmentation.setup import open_setup

    setup = open_setup(arguments)
    checked = check_on_main(setup, arguments)
    if checked.finished and setup.context.is_main:
        _show_finished(setup, checked, arguments)
    if checked.finished or arguments.dry_run:
        return
    assert checked.start is not None
    started -= checked.start.seconds  # the result gives the time of all parts
    metrics, trained = _train(setup, checked, started)
    if not setup.context.is_main:
        return
    _write_result(setup, checked, metrics, started)
    if arguments.draw:
        draw_test_images(setup, checked.skipped["val"], trained, arguments.draw)
    if arguments.corrupt:
        measure_corrupted(setup, checked, trained, arguments.corrupt)
    clear_run(setup.out)  # last: until here the same command resumes a killed run


def _train(setup: Setup, checked: Preflight, started: float) -> tuple[dict[str, Any], nn.Module]:
    """Metrics of the test images, and the trained model. Lines of the log are recorded by the main process."""
    start, config, out = checked.start, setup.config, setup.out
    assert start is not None
    for split, loader in (("train", "train_dataloader"), ("val", "test_dataloader")):
        setup.engine[loader]["dataset"]["skipped"] = checked.skipped[split]
    setup.engine["test_dataloader"]["batch_size"] = checked.test_batch
    record = None
    if setup.context.is_main:
        drop_metrics_after(out, start.iteration)
        if start.skipped_checkpoints:
            print(f"skipped {', '.join(start.skipped_checkpoints)}, which can't be opened", flush=True)
        if start.checkpoint:
            rest = "" if start.iteration < config.schedule.iterations else ": training is complete, only testing"
            print(f"resumes from {start.checkpoint} (iteration {start.iteration:,}){rest}", flush=True)
        record = RunFolder(out, config)
    trained = train_and_test(setup.engine, setup.model, start.checkpoint, started, config.log_every, record)
    if record:
        record.close()
    return trained


def _write_result(setup: Setup, checked: Preflight, metrics: dict[str, Any], started: float) -> None:
    """Adds the baseline and the images found broken, writes result.json and prints it."""
    assert checked.baseline is not None
    metrics |= {
        "majority_class": setup.names[checked.baseline.label],
        "majority_mIoU": checked.baseline.mean_iou,
        "majority_aAcc": checked.baseline.pixel_accuracy,
    }
    facts = checked.facts | {"train": checked.facts["train"] | {"broken": broken_in_training(setup.out)}}
    for split, what in (("train", "training"), ("val", "test")):
        if broken := facts[split]["broken"]:
            more = "; …" if len(broken) > _MAX_NAMED else ""
            print(f"{len(broken)} broken and not used in {what}: {'; '.join(broken[:_MAX_NAMED])}{more}")
    world = setup.context.processes.world_size
    result = Result(
        protocol=setup.protocol,
        metrics=metrics,
        backbone=setup.backbone,
        data=facts,
        seed=setup.context.seed,
        settings=to_dict(setup.config) | {"processes": world, "scaling": setup.scaling, "loaded": setup.loaded},
        started=started,
        device=setup.context.device,
    )
    write_result(setup.out / "result.json", result)
    print(result_table(metrics))
    print(f"result: {setup.out / 'result.json'}")


def _show_finished(setup: Setup, checked: Preflight, arguments: argparse.Namespace) -> None:
    """Prints the result of a finished run and draws pictures with its kept model."""
    assert checked.finished is not None
    print(f"already finished on {checked.finished['date']}; --restart trains and tests again")
    print(result_table(checked.finished["metrics"]))
    print(f"result: {setup.out / 'result.json'}")
    if arguments.dry_run or not (arguments.draw or arguments.corrupt):
        return
    if not load_trained(setup.out, setup.model):
        print(f"no pictures, no corruptions: {setup.out / SEGMENTOR} is missing; --restart trains again")
        return
    model = setup.model.to(setup.context.device)
    if arguments.draw:
        draw_test_images(setup, checked.skipped["val"], model, arguments.draw)
    if arguments.corrupt:
        measure_corrupted(setup, checked, model, arguments.corrupt)

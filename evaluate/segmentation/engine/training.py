"""Training and testing with the engine's runner."""

from __future__ import annotations

import uuid
import warnings
from pathlib import Path
from typing import Any

from torch import nn

from core.distributed import gather_objects, wait_for_all
from core.run_folder import RunFolder
from evaluate.segmentation.engine.run_state import keep_segmentor


def train_and_test(
    settings: dict[str, Any], model: nn.Module, checkpoint: str, started: float, log_every: int, log: RunFolder | None
) -> tuple[dict[str, Any], nn.Module]:
    """Runs the engine; returns the metrics of `scores` and the trained model, equal on all processes.

    `checkpoint`: file to resume from, or ""; `started`: time.time() at the start, minus the time of earlier parts;
    `log`: records losses every `log_every` iterations, None on processes other than the main one. The trained model is
    saved as `segmentor.pth` in the result's folder.
    """
    from mmengine.config import Config
    from mmengine.runner import Runner

    # The settings name classes that are registered in these files.
    import evaluate.segmentation.engine.data_pipeline
    import evaluate.segmentation.engine.metric  # noqa: F401
    from evaluate.segmentation.engine.training_extensions import PlainCheckpointHook, ProgressHook, TestProgressHook

    hooks = [ProgressHook(log_every, log.write if log else None), PlainCheckpointHook(started)]
    if log:
        hooks.append(TestProgressHook())
    settings = settings | {"load_from": checkpoint or None, "resume": bool(checkpoint)}
    cfg = Config(settings, format_python_code=False)  # its formatter takes seconds where paths are long
    taken = ("train_dataloader", "test_dataloader", "test_evaluator", "optim_wrapper", "param_scheduler", "train_cfg",
             "test_cfg", "default_hooks", "work_dir", "launcher", "env_cfg", "randomness", "log_level", "resume",
             "load_from", "default_scope")  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecation warnings of the engine, and of torch called by it
        # Runs of equal names, by default those of one second, would share a logger and a visualizer, and so a folder.
        named = {"experiment_name": uuid.uuid4().hex} | {key: cfg[key] for key in taken}
        runner = Runner(model=model, custom_hooks=hooks, cfg=cfg, **named)
        runner.train()
        metrics = runner.test()
    metrics = gather_objects(dict(metrics))[0]
    if log:
        keep_segmentor(Path(settings["work_dir"]).parent, settings["train_cfg"]["max_iters"])
    wait_for_all()
    trained = runner.model
    return metrics, getattr(trained, "module", trained)

"""Training a detector: Detectron2's steps, states to resume from, progress lines, precise statistics at the end."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.engine.train_loop import AMPTrainer, SimpleTrainer
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from fvcore.nn.precise_bn import get_bn_modules, update_bn_stats
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from core.data.broken import BROKEN_FILE, BrokenImages, read_lines
from core.distributed import Processes, broadcast_weights, wait_for_all
from core.errors import UserError
from evaluate.common.context import RunContext
from evaluate.detection.data.loaders import training_batches
from evaluate.detection.data.records import DetectionSet
from evaluate.detection.settings import DetectionConfig
from evaluate.detection.training import optimiser, state
from evaluate.detection.training.scaling import schedule_of


def join_detectron2(processes: Processes) -> None:
    """Sets Detectron2's group of processes on this machine, which torchrun, unlike its own launcher, does not."""
    if processes.world_size == 1 or comm._LOCAL_PROCESS_GROUP is not None:
        return
    here = int(os.environ.get("LOCAL_WORLD_SIZE", processes.world_size))
    for first in range(0, processes.world_size, here):
        ranks = list(range(first, min(first + here, processes.world_size)))
        group = dist.new_group(ranks)  # every rank takes part in the making of every group
        if processes.rank in ranks:
            comm._LOCAL_PROCESS_GROUP = group


def check_hardware(config: DetectionConfig, processes: Processes) -> None:
    """Raises `UserError` if these processes can't run the solver's settings."""
    batch = schedule_of(config.solver).batch
    if batch % processes.world_size:
        raise UserError(
            f"{batch} images per step can't be shared by {processes.world_size} processes; set solver.global_batch"
        )
    if config.solver.amp and processes.device.type != "cuda":
        raise UserError("solver.amp=true needs a GPU; leave it out on the CPU")


def clear_run(folder: Path) -> None:
    """Removes the state of an earlier run and its logs."""
    for name in (state.FILE, BROKEN_FILE, "metrics.jsonl"):
        (folder / name).unlink(missing_ok=True)


@dataclass(frozen=True)
class Training:
    """One training run: its folder, its identity, and the state it resumes from."""

    folder: Path
    """Receives states and the list of broken images."""
    identity: dict[str, Any]
    """Values that a state must share to be resumed."""
    saved: dict[str, Any] | None
    """State to resume from."""
    started: float
    """time.time() at the start, less the seconds of earlier parts of the run."""

    @property
    def done(self) -> int:
        """Steps in the saved state."""
        return int(self.saved["step"]) if self.saved else 0

    def save(self, step: int, detector: nn.Module, trainer: Any, scheduler: Any) -> None:
        """Writes the state after `step` steps."""
        content = {
            "step": step,
            "seconds": time.time() - self.started,
            "model": detector.state_dict(),
            "scheduler": scheduler.state_dict(),
            "trainer": trainer.state_dict(),
        }
        state.save(self.folder, self.identity, content)


def train(
    cfg: CfgNode,
    config: DetectionConfig,
    detector: nn.Module,
    data: DetectionSet,
    context: RunContext,
    run: Training,
    log: Callable[[int, dict[str, Any]], None],
) -> list[str]:
    """Trains `detector` in place, from `run.saved` where there is a state; returns the names of broken images.

    `log` receives the step and plain values every `solver.log_every` steps. Every rank ends with equal parameters and
    buffers. Raises `UserError` for a loss that is not finite and for too many broken images; the last state stays on
    disk.
    """
    processes, solver = context.processes, config.solver
    optim, scheduler = optimiser.build(cfg, config, detector)
    model: nn.Module = detector
    if processes.world_size > 1:
        ids = [processes.device.index] if processes.device.type == "cuda" else None
        model = DistributedDataParallel(detector, device_ids=ids, broadcast_buffers=False)
    report, done, last = run.folder / BROKEN_FILE, run.done, cfg.SOLVER.MAX_ITER
    if run.saved:
        detector.load_state_dict(run.saved["model"])
    if done >= last:
        return _broken(report, data, config)
    if not done and processes.is_main:
        # A run that ended before its first state has left its own.
        report.unlink(missing_ok=True)
    wait_for_all()
    seed_all_rng(_stream(context.seed, processes.rank, done))
    batches = training_batches(cfg, config.data, data, context, done, report)
    trainer = (AMPTrainer if solver.amp else SimpleTrainer)(model, batches, optim)
    if run.saved:
        trainer.load_state_dict(run.saved["trainer"])
        scheduler.load_state_dict(run.saved["scheduler"])
    progress = _Progress(done, last)
    with EventStorage(done) as storage:
        for step in range(done, last):
            trainer.iter = storage.iter = step
            try:
                trainer.run_step()
            except FloatingPointError:
                raise UserError(
                    f"the loss of step {step + 1} is not finite; the last state stays in {run.folder}, lower solver.lr"
                ) from None
            rate = max(group["lr"] for group in optim.param_groups)
            scheduler.step()
            if processes.is_main and ((step + 1) % solver.log_every == 0 or step + 1 == last):
                losses = {k: float(v.median(solver.log_every)) for k, v in storage.histories().items() if "loss" in k}
                log(step + 1, {"lr": rate, **losses})
                print(progress.line(step + 1, rate, losses, processes.device), flush=True)
                _broken(report, data, config)
            if step + 1 < last and (step + 1) % solver.checkpoint_every == 0 and processes.is_main:
                run.save(step + 1, detector, trainer, scheduler)
        if solver.precise_bn:
            _precise_statistics(model, trainer, solver.precise_bn, processes.is_main)
    # Plain batch norms have seen different images on each rank.
    broadcast_weights(detector)
    if processes.is_main:
        run.save(last, detector, trainer, scheduler)
    wait_for_all()
    return _broken(report, data, config)


def _stream(seed: int, rank: int, done: int) -> int:
    """Seed below 2³² of a rank's random numbers from step `done` on; a resumed run gets fresh numbers."""
    return int(np.random.SeedSequence((seed, rank, done)).generate_state(1)[0])


def _precise_statistics(model: nn.Module, trainer: Any, batches: int, main: bool) -> None:
    """Replaces running statistics by averages over `batches` batches (arXiv 2105.07576, section 3)."""
    if not get_bn_modules(model):
        return
    if main:
        print(f"batch norm statistics over {batches} batches", flush=True)
    with EventStorage():
        update_bn_stats(model, itertools.islice(trainer._data_loader_iter, batches), batches)


def _broken(report: Path, data: DetectionSet, config: DetectionConfig) -> list[str]:
    """Broken training images that loader processes have listed so far. Raises `UserError` for too many."""
    account = BrokenImages(len(data.records), config.data.broken_share)
    account.add(read_lines(report))
    return account.names


class _Progress:
    """Progress lines with losses, speed and time left."""

    def __init__(self, done: int, last: int) -> None:
        self.begun, self.first, self.last = time.monotonic(), done, last

    def line(self, step: int, lr: float, losses: dict[str, float], device: torch.device) -> str:
        pace = (time.monotonic() - self.begun) / (step - self.first)
        left = int(pace * (self.last - step))
        eta = f"{left // 3600}:{left % 3600 // 60:02d}:{left % 60:02d}"
        parts = "  ".join(
            f"{name.removeprefix('loss_')} {value:.3f}" for name, value in losses.items() if name != "total_loss"
        )
        memory = f"  {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB" if device.type == "cuda" else ""
        total = losses.get("total_loss", sum(losses.values()))
        return (
            f"step {step}/{self.last}  loss {total:.3f}  ({parts})  lr {lr:.2g}  {pace:.2f} s/step{memory}  eta {eta}"
        )

"""Training a detector: Detectron2's steps, states to resume from, lines of progress, precise statistics at the end."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
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

from core.data.broken import BrokenImages
from core.distributed import Processes, broadcast_weights, wait_for_all
from core.errors import UserError
from evaluate.detection.data.loaders import training_batches
from evaluate.detection.data.records import DetectionSet
from evaluate.detection.settings import DetectionConfig
from evaluate.detection.training import optimiser, state
from evaluate.detection.training.scaling import schedule_of

BROKEN_FILE = "broken_training_images.txt"


def join_detectron2(processes: Processes) -> None:
    """Tells Detectron2 which processes share this machine; torchrun starts them without its launcher."""
    if processes.world_size == 1 or comm._LOCAL_PROCESS_GROUP is not None:
        return
    here = int(os.environ.get("LOCAL_WORLD_SIZE", processes.world_size))
    for first in range(0, processes.world_size, here):
        ranks = list(range(first, min(first + here, processes.world_size)))
        group = dist.new_group(ranks)  # every rank takes part in the making of every group
        if processes.rank in ranks:
            comm._LOCAL_PROCESS_GROUP = group


def check_hardware(config: DetectionConfig, processes: Processes) -> None:
    """Raises `UserError` where these processes can't do what the solver asks for."""
    batch = schedule_of(config.solver).batch
    if batch % processes.world_size:
        raise UserError(
            f"{batch} images per step can't be shared by {processes.world_size} processes; set solver.global_batch"
        )
    if config.solver.amp and processes.device.type != "cuda":
        raise UserError("solver.amp=true needs a GPU; leave it out on the CPU")


def clear_run(folder: Path) -> None:
    """Removes what an earlier run would be continued from."""
    for name in (state.FILE, BROKEN_FILE, "metrics.jsonl"):
        (folder / name).unlink(missing_ok=True)


def train(
    cfg: CfgNode,
    config: DetectionConfig,
    detector: nn.Module,
    data_name: str,
    data: DetectionSet,
    seed: int,
    processes: Processes,
    workers: int,
    folder: Path,
    identity: dict[str, Any],
    saved: dict[str, Any] | None,
    started: float,
    log: Callable[[int, dict[str, Any]], None],
) -> list[str]:
    """Trains `detector` in place, on from `saved` where that is given; names the broken images.

    `data_name` is what `data` is called in Detectron2's catalogue. `folder` gets the states, with the seconds since
    `started` (time.time()) in them; `log` takes the step and plain values every `solver.log_every` steps. Every rank
    ends with equal parameters and buffers. Raises `UserError` for a loss that is not finite and for too many broken
    images; the last state stays on disk.
    """
    optim, scheduler = optimiser.build(cfg, config.solver, detector)
    model: nn.Module = detector
    if processes.world_size > 1:
        ids = [processes.device.index] if processes.device.type == "cuda" else None
        model = DistributedDataParallel(detector, device_ids=ids, broadcast_buffers=False)
    images = len(data.records)
    done, last = (saved["step"] if saved else 0), cfg.SOLVER.MAX_ITER
    if saved:
        detector.load_state_dict(saved["model"])
    if done >= last:
        return _broken(folder, images, config)
    if not done and processes.is_main:
        # A run that ended before its first state has left its own.
        (folder / BROKEN_FILE).unlink(missing_ok=True)
    wait_for_all()
    seed_all_rng(_stream(seed, processes.rank, done))
    batches = training_batches(
        cfg, data_name, config.data.large_scale_jitter, seed, done, processes.world_size, workers, folder / BROKEN_FILE
    )
    trainer = (AMPTrainer if config.solver.amp else SimpleTrainer)(model, batches, optim)
    if saved:
        trainer.load_state_dict(saved["trainer"])
        scheduler.load_state_dict(saved["scheduler"])
    progress = _Progress(done, last)
    with EventStorage(done) as storage:
        for step in range(done, last):
            trainer.iter = storage.iter = step
            try:
                trainer.run_step()
            except FloatingPointError:
                raise UserError(
                    f"the loss of step {step + 1} is not finite; the last state stays in {folder}, lower solver.lr"
                ) from None
            rate = max(group["lr"] for group in optim.param_groups)
            scheduler.step()
            if processes.is_main and ((step + 1) % config.solver.log_every == 0 or step + 1 == last):
                losses = {
                    k: float(v.median(config.solver.log_every)) for k, v in storage.histories().items() if "loss" in k
                }
                log(step + 1, {"lr": rate, **losses})
                print(progress.line(step + 1, rate, losses, processes.device), flush=True)
                _broken(folder, images, config)
            if step + 1 < last and (step + 1) % config.solver.checkpoint_every == 0 and processes.is_main:
                _save(folder, identity, step + 1, time.time() - started, detector, trainer, scheduler)
        if config.solver.precise_bn:
            _precise_statistics(model, trainer, config.solver.precise_bn, processes.is_main)
    # Plain batch norms have seen other images on each rank.
    broadcast_weights(detector)
    if processes.is_main:
        _save(folder, identity, last, time.time() - started, detector, trainer, scheduler)
    wait_for_all()
    return _broken(folder, images, config)


def _stream(seed: int, rank: int, done: int) -> int:
    """The seed of a rank's random numbers from step `done` on, below 2³²: another after a resume, whose are used up."""
    return int(np.random.SeedSequence((seed, rank, done)).generate_state(1)[0])


def _save(
    folder: Path,
    identity: dict[str, Any],
    step: int,
    seconds: float,
    detector: nn.Module,
    trainer: Any,
    scheduler: Any,
) -> None:
    content = {"step": step, "seconds": seconds, "model": detector.state_dict(), "scheduler": scheduler.state_dict()}
    state.save(folder, identity, {**content, "trainer": trainer.state_dict()})


def _precise_statistics(model: nn.Module, trainer: Any, batches: int, main: bool) -> None:
    """Replaces running statistics by averages over `batches` batches (arXiv 2105.07576, section 3)."""
    if not get_bn_modules(model):
        return
    if main:
        print(f"batch norm statistics over {batches} batches", flush=True)
    with EventStorage():
        update_bn_stats(model, itertools.islice(trainer._data_loader_iter, batches), batches)


def _broken(folder: Path, images: int, config: DetectionConfig) -> list[str]:
    """Broken training images that loader processes have named so far."""
    file = folder / BROKEN_FILE
    account = BrokenImages(images, config.data.broken_share)
    if file.exists():
        account.add(file.read_text(encoding="utf-8", errors="replace").splitlines())
    return account.names


class _Progress:
    """Lines with losses, speed and the time left."""

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

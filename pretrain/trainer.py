"""The training loop: one flat, readable recipe."""

from __future__ import annotations

import math
import multiprocessing
import multiprocessing.util
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from core.backbones import Backbone
from core.compute.exchange import GradientExchange
from core.compute.kernels import kernels
from core.compute.shards import is_sharded, norms
from core.data.base import ImageSet, read_ahead
from core.data.broken import BrokenImages
from core.data.order import GlobalBatches
from core.distributed import Processes, broadcast_weights
from core.errors import UserError
from core.run_folder import RunFolder, drop_metrics_after
from core.schedules import learning_rate_factor, momentum
from pretrain import state
from pretrain.build_losses import open_views
from pretrain.captured import CapturedPasses
from pretrain.config import PretrainConfig
from pretrain.initial import facts_of, start_from
from pretrain.large.sharding import prepare_blocks
from pretrain.losses.base import Progress
from pretrain.method import Method, Pass
from pretrain.monitoring.metrics import CollapseWatch, Report, StepMetrics
from pretrain.monitoring.monitor import Monitor
from pretrain.monitoring.predictor_fit import PredictorFit
from pretrain.optimisers import (
    Freezer,
    build_optimiser,
    clip_gradients,
    set_learning_rate,
    set_weight_decay,
)
from pretrain.views.collate import collate
from pretrain.views.decode import DeviceDecoder
from pretrain.views.on_device import parameters_of, views_on_device


class Stopped(Exception):
    """The run was asked to stop by a signal; its state is saved."""


def train(
    config: PretrainConfig,
    run: Path,
    images: ImageSet,
    processes: Processes,
    workers: int,
    monitor: Monitor | None = None,
    start: Backbone | None = None,
) -> None:
    """Trains to the last epoch, resuming from the newest state in `run` if one exists.

    `monitor`: measures k-NN accuracy every `config.monitor.every_epochs` epochs; none: no accuracy is measured.
    `start`: both networks begin with its weights, of the architecture `config.backbone`.

    Ends early with `Stopped` on SIGTERM or SIGINT (state saved), and with `UserError` on a non-finite loss (the
    last state untouched) or too many broken images.
    """
    device = processes.device
    torch.manual_seed(config.seed)
    method = Method(config, device, processes.rank)
    if start is not None:
        start_from(method, start)
    for network in method.networks():
        broadcast_weights(network)
    prepare_blocks(method)
    torch.manual_seed(config.seed + 1_000_003 * (processes.rank + 1))  # ranks draw their own stochastic depth
    peak_lr = config.optim.lr * config.batch / 256
    optimiser = build_optimiser(method.online, config.optim, peak_lr)
    scaler = torch.amp.GradScaler(device.type) if config.compute.precision == "fp16" else None
    parameters = list(method.online.parameters())
    freezer = Freezer(method.online, config.optim)
    exchange = GradientExchange(parameter for parameter in parameters if not is_sharded(parameter))

    def announce(coming: Pass) -> None:
        if coming.left == 0:
            exchange.expect(coming.loss)

    backward = CapturedPasses(method, processes) if config.compute.cuda_graphs else method.backward

    data = {"images": len(images), "digest": images.digest() if processes.is_main else ""}
    broken = BrokenImages(len(images), config.broken_share)
    training = state.Training(run, config, data, processes, method, optimiser, scaler, broken, facts_of(start))
    done = state.restore(training)
    batches = GlobalBatches(
        len(images),
        config.batch,
        config.epochs,
        config.seed,
        processes.rank,
        processes.world_size,
        start_step=done,
        blocks=getattr(images, "blocks", None),
        ahead=partial(read_ahead, images),
    )
    total, per_epoch = batches.total_steps, batches.steps_per_epoch
    loader = DataLoader(
        open_views(images, config, config.decode),
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        prefetch_factor=2 if workers else None,
        worker_init_fn=_ignore_stop_signals,
        generator=torch.Generator(),  # torch's global one belongs to stochastic depth and must resume exactly
    )
    log = StepMetrics(method.terms, processes, broken, config.batch, scaled=scaler is not None)
    optimiser.register_step_post_hook(log.note_update)
    collapse = CollapseWatch(config, method.objective)
    folder = None
    if processes.is_main:
        drop_metrics_after(run, done)
        folder = RunFolder(run, config, config.tracker)
        if done:
            print(f"resuming after step {done} of {total}" if done < total else f"finished already: {total} steps")
    predictor_fit = PredictorFit(config, images, processes, workers) if config.monitor.predictor_fits else None
    fit_steps = {round(total * n / config.monitor.predictor_fits) for n in range(1, config.monitor.predictor_fits + 1)}
    saved = time.monotonic()
    minutes = config.checkpoint.every_minutes or math.inf

    multiprocessing.util.Finalize(None, _end_loader_processes, exitpriority=0)
    chosen = kernels(device, config.compute.tf32, config.compute.tune_convolutions)
    with chosen, _stop_signals() as asked_to_stop, _progress(processes, total, done) as bar:
        for batch in map(DeviceDecoder(images, config, device), loader) if config.decode == "device" else loader:
            factor = learning_rate_factor(config.schedule, done, per_epoch, config.epochs)
            set_learning_rate(optimiser, peak_lr, factor)
            set_weight_decay(optimiser, config.optim, done / total)
            method.update_target(momentum(config.target.momentum, done, total))
            views = views_on_device(batch, config, device, method.layout)
            progress = Progress(done, per_epoch, total)
            losses = backward(views, scaler, parameters_of(batch), progress, announce)
            exchange.finish()
            if scaler is not None:
                scaler.unscale_(optimiser)
            freezer.drop_gradients(progress.epoch)
            norm = clip_gradients(parameters, config.optim)
            if scaler is None:
                optimiser.step()
            else:
                scaler.step(optimiser)
                scaler.update()
            optimiser.zero_grad()
            log.add(done, losses, norm, batch.broken, batch.counts)

            done += 1
            bar.update()
            epoch, step_in_epoch = divmod(done, per_epoch)
            epoch_ends = step_in_epoch == 0
            stop, due = bool(asked_to_stop), time.monotonic() - saved > 60 * minutes
            # Ranks must agree on when to stop or save, so several of them settle this at log steps only.
            logged = epoch_ends or done % config.checkpoint.log_steps == 0 or done in fit_steps
            if logged or (processes.world_size == 1 and (stop or due)):
                report = log.report(stop, due, method.health())
                stop, due = report.stop, report.checkpoint_due
                if folder is not None:
                    warning = collapse.warning(done, report.values)
                    collapsed = {"collapsed": True} if method.objective.collapse(report.values) else {}
                    rates = {"epoch": done / per_epoch, "lr": peak_lr * factor}
                    folder.write(done, {**rates, **report.values, **collapsed})
                    _show(bar, report, peak_lr * factor, warning)
            else:
                stop = due = False
            if predictor_fit is not None and done in fit_steps:
                found = predictor_fit.measure(method)
                if folder is not None:
                    folder.write(done, {"epoch": done / per_epoch, **found})
                log.restart_clock()
            if monitor is not None and epoch_ends and (epoch % config.monitor.every_epochs == 0 or done == total):
                accuracy = monitor.accuracy(method.online.backbone)
                if folder is not None:
                    folder.write(done, {"epoch": epoch, "knn_top1": accuracy})
                    bar.write(f"epoch {epoch}: k-NN top-1 {accuracy:.1f} % (monitor: {monitor.what})")
            if stop or due or done == total or (epoch_ends and epoch % config.checkpoint.every_epochs == 0):
                _refuse_non_finite(parameters, done)
                if folder is not None:
                    folder.sync()
                state.save(training, done, epoch)
                saved = time.monotonic()
            if stop and done < total:
                raise Stopped(f"stopped after step {done} of {total}; the same command resumes there")
            if epoch_ends or due:
                log.restart_clock()
    if folder is not None:
        folder.close()


def _ignore_stop_signals(worker: int) -> None:
    """Keeps a loader worker alive on a signal to its process group (torchrun, Slurm): the last step needs it."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _end_loader_processes() -> None:
    """Kills the loader workers at exit: they ignore the signal by which Python ends its children and would block it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch would report their end as a crash
    for process in multiprocessing.active_children():
        process.kill()


def _refuse_non_finite(parameters: list[torch.nn.Parameter], step: int) -> None:
    """Never replace a usable checkpoint by one with non-finite weights."""
    if not bool(torch.isfinite(norms([parameter.detach() for parameter in parameters])).all()):
        raise UserError(
            f"weights are not finite after step {step}; the last checkpoint is intact: resume from it with a lower "
            f"optim.lr, with optim.clip or with compute.precision=fp32"
        )


def _show(bar: tqdm, report: Report, lr: float, collapse: str) -> None:
    values = report.values
    shown = {key: value for key, value in values.items() if key == "loss" or key.startswith("loss/")}
    losses = "  ".join(f"{key.removeprefix('loss/')} {value:.3f}" for key, value in shown.items())
    bar.set_postfix_str(f"{losses}  lr {lr:.3g}  {values['images_per_second']:.0f} images/s")
    for name in report.broken:
        bar.write(f"broken image replaced: {name}", file=sys.stderr)
    if report.overflowing:
        bar.write(
            f"warning: the last {report.overflowing} steps were skipped, as their gradients overflow in fp16; where "
            f"this continues, set compute.precision=bf16 or fp32",
            file=sys.stderr,
        )
    if collapse:
        bar.write(f"warning: {collapse}", file=sys.stderr)


def _progress(processes: Processes, total: int, done: int) -> tqdm:
    # Without a terminal, one line every few seconds is enough.
    interval = 0.2 if sys.stderr.isatty() else 10.0
    return tqdm(
        total=total, initial=done, desc="pre-training", unit="step", disable=not processes.is_main,
        mininterval=interval, dynamic_ncols=True,
    )  # fmt: skip


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collects SIGTERM and SIGINT instead of dying within a step; a second SIGINT interrupts as usual."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and received:
            raise KeyboardInterrupt
        received.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

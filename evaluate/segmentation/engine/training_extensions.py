"""Extensions of the engine's training loop: CPU autocast, quiet layer decay, progress, plain checkpoints."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmseg.engine.optimizers import LearningRateDecayOptimizerConstructor
from mmseg.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS
from torch import nn

from core.backbones import family_of
from core.errors import UserError
from evaluate.common.plan import duration


@OPTIM_WRAPPERS.register_module()
class CpuAutocastOptimWrapper(OptimWrapper):
    """Runs the forward pass in bfloat16, which needs no loss scaling; the engine's AMP wrapper needs an accelerator."""

    @contextlib.contextmanager
    def optim_context(self, model: Any) -> Iterator[None]:
        """Autocast around the engine's own context."""
        with super().optim_context(model), torch.autocast("cpu", torch.bfloat16):
            yield


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class QuietLayerDecay(LearningRateDecayOptimizerConstructor):
    """Learning rates that decay from layer to layer, without the engine's line per parameter and process."""

    def add_params(self, *arguments: Any, **options: Any) -> None:
        """Adds the parameter groups of the engine's rule."""
        with contextlib.redirect_stdout(io.StringIO()):
            super().add_params(*arguments, **options)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerGroupDecay(DefaultOptimWrapperConstructor):
    """The same for timm's own network, by its layer groups."""

    def add_params(self, params: list[dict[str, Any]], module: nn.Module, **options: Any) -> None:
        """Adds one group per learning rate and weight decay."""
        network = module.get_submodule("backbone.network")
        decay = self.paramwise_cfg["decay_rate"]
        known = family_of(network).layer_groups(network)
        params += known.optimiser_groups(module, "backbone.network.", self.base_lr, decay, self.base_wd)


class ProgressHook(Hook):
    """Prints and records losses, learning rate and remaining time; stops a run whose loss is not finite."""

    priority = "BELOW_NORMAL"  # before a checkpoint is written

    def __init__(self, every: int, record: Callable[[int, dict[str, float]], object] | None) -> None:
        """`record(iteration, values)` receives what is printed; a process without one neither prints nor records."""
        self.every, self.record = every, record
        self.sums: dict[str, torch.Tensor] = {}
        self.count, self.since = 0, time.monotonic()

    def before_train(self, runner: Any) -> None:
        """Starts the clock."""
        self.since = time.monotonic()

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Sums the losses on their device and reads them every `every` iterations."""
        for name, value in (outputs or {}).items():
            if "loss" in name or name.endswith("acc_seg"):
                self.sums[name] = self.sums.get(name, 0) + value.detach().float().mean()
        self.count += 1
        done, total = runner.iter + 1, runner.max_iters
        if done % self.every and done != total and not self.every_n_train_iters(runner, _interval(runner)):
            return
        values = {name: float(total) / self.count for name, total in self.sums.items()}
        seconds = (time.monotonic() - self.since) / self.count
        if not torch.isfinite(torch.tensor(values["loss"])):
            raise UserError(
                f"the loss is not finite at iteration {done:,}; the last checkpoint is intact: lower optim.lr or set "
                f"precision=fp32, then run again"
            )
        values |= {"lr": max(group["lr"] for group in runner.optim_wrapper.optimizer.param_groups), "seconds": seconds}
        if self.record:
            parts = ", ".join(f"{name} {value:.3f}" for name, value in values.items() if "loss" in name)
            print(
                f"iteration {done:>{len(str(total))}}/{total}  {parts}  lr {values['lr']:.2e}  {seconds:.3f} s/it  "
                f"ETA {duration(seconds * (total - done))}",
                flush=True,
            )
            self.record(done, values)
        self.sums, self.count, self.since = {}, 0, time.monotonic()


def _interval(runner: Any) -> int:
    return next((hook.interval for hook in runner.hooks if type(hook).__name__ == "CheckpointHook"), -1)


class TestProgressHook(Hook):
    """Prints the number of finished batches about ten times."""

    __test__ = False  # not a test class, despite its name

    def after_test_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Counts the batches of this process."""
        total = len(runner.test_dataloader)
        if (batch_idx + 1) * 10 // total > batch_idx * 10 // total:
            print(f"tested {batch_idx + 1}/{total} batches", flush=True)


class PlainCheckpointHook(Hook):
    """Reduces a checkpoint to tensors and plain values, so that it opens with `weights_only`.

    The engine's message hub holds log buffers and NumPy scalars, whose classes such a load refuses; a resumed run does
    not need the buffers.
    """

    priority = "LOWEST"

    def __init__(self, started: float) -> None:
        """`started`: time.time() at the start of the run, minus the wall time of its earlier parts."""
        self.started = started

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Replaces the message hub's state by plain values and adds the run's wall time."""
        checkpoint["meta"]["seconds"] = time.time() - self.started
        hub = checkpoint["message_hub"]
        info = {key: _plain(value) for key, value in hub["runtime_info"].items()}
        keys = {key: bool(kept) for key, kept in hub["resumed_keys"].items() if key in info}
        checkpoint["message_hub"] = {"log_scalars": {}, "runtime_info": info, "resumed_keys": keys}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(below) for key, below in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(below) for below in value]
    return value.item() if hasattr(value, "item") else value

"""The resolved plan, printed before training starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from core.backbones import Backbone, build_backbone, describe, pooled_features
from core.compute.shapes import shapes_only
from core.data.account import account_of
from core.data.base import ImageSet
from core.distributed import Processes
from core.errors import UserError
from pretrain import losses
from pretrain.build_losses import build_auxiliaries, build_objective
from pretrain.config import AuxiliaryConfig, PretrainConfig
from pretrain.large.sharding import check_blocks
from pretrain.losses.base import Auxiliary
from pretrain.views.config import GLOBAL, pairs


def check_sizes(config: PretrainConfig) -> None:
    """Raises `UserError` for a backbone that can't be built or can't take the views' sizes, and for unfit losses."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        backbone = build_backbone(config.backbone, config.drop_path).eval()
        for name, view in config.views.items():
            try:
                pooled_features(backbone, torch.zeros(1, config.backbone.in_chans, view.size, view.size))
            except (AssertionError, RuntimeError) as error:
                raise UserError(
                    f"{describe(config.backbone)} can't take views.{name} of {view.size} px ({error}); "
                    f"change views.{name}.size"
                ) from None
        check_blocks(config, backbone)
        with shapes_only():
            build_objective(config, backbone)
            build_auxiliaries(config, backbone)


def plan(
    config: PretrainConfig,
    images: ImageSet,
    processes: Processes,
    run: str,
    monitoring: str,
    start: Backbone | None = None,
    decoding: str = "",
) -> str:
    """Plan of the run, one line per subject.

    `monitoring`: description of the monitor; `start`: initial backbone; `decoding`: of what the device decodes.
    """
    steps = len(images) // config.batch
    per_rank = config.batch // processes.world_size
    compute = config.compute
    optim, schedule = config.optim, config.schedule
    loss = config.objective.loss()
    target = {
        "ema": f"EMA from {config.target.momentum:g}",
        "stop_gradient": "online weights, stop-gradient",
        "none": "none, gradients flow into both views",
    }[config.target.kind]
    norms = "of each process"
    if compute.sync_bn:
        norms = "synchronised" if processes.world_size > 1 else "plain: sync_bn has no effect on one process"
    scale = f"{optim.lr:g} × {config.batch}/256 = {optim.lr * config.batch / 256:.4g}"
    lines = [
        f"run         {run}",
        f"backbone    {describe(config.backbone)}" + (f", drop path {config.drop_path:g}" if config.drop_path else ""),
        *([] if start is None else [f"init        {start.source}; heads start anew"]),
        f"objective   {config.objective.name}"
        + (f", τ {config.objective.temperature:g}" if "temperature" in loss.USES else "")
        + f"; target: {target}"
        + (f"; predictors: {config.predictors}" if "predictors" in loss.USES else ""),
        *(f"            {line}" for line in _options(config.objective.options)),
        *(f"auxiliary   {name}: {_auxiliary(name, auxiliary)}" for name, auxiliary in config.auxiliary.items()),
        f"data        {images.name}: {len(images)} images",
        *(f"            {line}" for line in account_of(images).lines()),
        *([f"decoding    {decoding}"] if decoding else []),
    ]
    for name, view in config.views.items():
        what = f"{view.count} × {name} {view.size} px, area {view.area[0]:g}–{view.area[1]:g}"
        what += f", {view.transform}" if view.transform else ""
        if name in config.auxiliary_views():
            what += ", of auxiliary losses"
        else:
            what += f", weight {view.weight:g}" if pairs(config.views, name) else ", targets only"
        lines.append(f"{'views' if name == GLOBAL else '':<12}{what}")
    lines += [
        f"batch       {config.batch} = {processes.world_size} × {per_rank}; "
        f"{config.epochs} epochs × {steps} steps = {config.epochs * steps} steps",
        f"optimiser   {optim.name}, lr {scale}, weight decay {optim.weight_decay:g}"
        + (f" to {optim.decay_end:g}" if optim.decay_end is not None else "")
        + (f", clip {optim.clip:g}" + (" per tensor" if optim.clip_mode == "tensor" else "") if optim.clip else "")
        + "".join(f", {part} frozen for {epochs:g} epochs" for part, epochs in optim.freeze.items())
        + (", predictors at constant lr" if optim.constant_predictor_lr else ""),
        f"schedule    cosine per {schedule.granularity} to {schedule.end:g} of the peak, "
        f"{schedule.warmup_epochs:g} epochs of warm-up",
        f"compute     {processes.device}, {compute.precision}, batch norm {norms}, backward {compute.backward}"
        + (", compiled" if compute.compile else "")
        + (f", TF32: {compute.tf32}" if processes.device.type == "cuda" else "")
        + (", passes from a CUDA graph" if compute.cuda_graphs else "")
        + (", blocks sharded over the processes (FSDP2)" if compute.shard != "none" else "")
        + (", blocks checkpointed" if compute.checkpointing else ""),
        f"monitor     {monitoring}",
    ]
    return "\n".join(lines)


def _auxiliary(name: str, auxiliary: AuxiliaryConfig) -> str:
    """Weight, schedule, views, options and caveat of an auxiliary loss."""
    text = f"weight {auxiliary.weight:g}"
    text += f" from epoch {auxiliary.from_epoch:g}" if auxiliary.from_epoch else ""
    text += f", rising over {auxiliary.ramp_epochs:g} epochs" if auxiliary.ramp_epochs else ""
    text += f", on {auxiliary.view} views"
    note = losses.find(name, Auxiliary).LOSS.NOTE
    return "; ".join([text, *_options(auxiliary.options), *[note] * bool(note)])


def _options(options: Mapping[str, Any]) -> list[str]:
    """Options of a loss: a line for each section, and one for the rest."""
    sections = {key: value for key, value in options.items() if isinstance(value, dict)}
    rest = [f"{key} {value}" for key, value in options.items() if key not in sections]
    lines = [f"{key}: " + ", ".join(f"{k} {v}" for k, v in value.items()) for key, value in sections.items()]
    return lines + [", ".join(rest)] * bool(rest)

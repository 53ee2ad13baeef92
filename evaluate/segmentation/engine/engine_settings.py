"""MMSegmentation config of a run, made from the protocol: model, data, optimiser, schedule, loops, hooks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.backbones import Backbone
from core.compute.precision import dtype_name
from core.data.broken import BROKEN_FILE
from core.errors import UserError
from evaluate.common.context import RunContext
from evaluate.segmentation.data.layouts import Split
from evaluate.segmentation.engine.scaling import batch_per_process
from evaluate.segmentation.model.adapters import adapter_for
from evaluate.segmentation.model.network_settings import model_settings
from evaluate.segmentation.protocol import SegmentConfig


def engine_settings(
    config: SegmentConfig,
    backbone: Backbone,
    root: Path,
    names: tuple[str, ...],
    context: RunContext,
    work_dir: Path,
) -> dict[str, Any]:
    """Settings for `mmengine.Config`. `root`: folder of the data; `names`: class names; `work_dir`: engine's folder.

    Batch norms are SyncBN if the protocol asks for it and several GPUs run; on the CPU the model's norms are replaced
    later (`core.compute.sync_norm`). Raises `UserError` for settings that do not fit each other or the backbone.
    """
    several = context.processes.world_size > 1
    on_gpu = context.device.type == "cuda"
    norm = "SyncBN" if config.sync_norm and several and on_gpu else "BN"
    schedule = config.schedule
    loader = {
        "num_workers": context.workers, "persistent_workers": context.workers > 0, "pin_memory": on_gpu,
    }  # fmt: skip
    test = loader | {
        "batch_size": config.inference.batch,
        "sampler": {"type": "DefaultSampler", "shuffle": False},
        "dataset": _data(config, root, names, "val", work_dir),
    }
    return {
        "default_scope": "mmseg",
        "work_dir": str(work_dir),
        "launcher": "pytorch" if several else "none",
        "env_cfg": {
            "cudnn_benchmark": True,
            "mp_cfg": {"mp_start_method": "fork", "opencv_num_threads": 0},
            "dist_cfg": {"backend": "nccl" if on_gpu else "gloo"},
        },
        "randomness": {"seed": context.seed},
        "log_level": "ERROR",
        "model": model_settings(config, backbone, norm),
        "model_wrapper_cfg": {"type": "MMDistributedDataParallel"} | ({} if on_gpu else {"device_ids": None}),
        "train_dataloader": loader | {
            "batch_size": batch_per_process(config.batch, context.processes.world_size),
            "sampler": {"type": "InfiniteSampler", "shuffle": True, "seed": context.seed},
            "dataset": _data(config, root, names, "train", work_dir),
        },
        "test_dataloader": test,
        "test_evaluator": {"type": "ConfusionMetric"},
        "optim_wrapper": _optimiser(config, backbone, on_gpu),
        "param_scheduler": _schedulers(config),
        "train_cfg": {"type": "IterBasedTrainLoop", "max_iters": schedule.iterations},
        "test_cfg": {"type": "TestLoop"},
        "default_hooks": {
            "logger": None,
            "checkpoint": {
                "type": "CheckpointHook", "by_epoch": False, "interval": config.checkpoint_every, "max_keep_ckpts": 2,
                "save_last": True,
            },
        },
    }  # fmt: skip


def _data(config: SegmentConfig, root: Path, names: tuple[str, ...], split: Split, work_dir: Path) -> dict[str, Any]:
    return {
        "type": "LayoutDataset",
        "layout": config.data.layout,
        "split": split,
        "data_root": str(root),
        "metainfo": {"classes": names},
        "reduce_zero_label": config.data.reduce_zero_label,
        "report": str(work_dir / BROKEN_FILE),
        "broken_share": config.data.broken_share,
        "pipeline": _training_pipeline(config) if split == "train" else _test_pipeline(config),
        "test_mode": split == "val",
    }


def _training_pipeline(config: SegmentConfig) -> list[dict[str, Any]]:
    crop = config.crop
    scaled: dict[str, Any] = {"type": "RandomScale", "ratio": crop.ratio}
    if crop.scale is not None:
        scaled = {"type": "RandomResize", "scale": crop.scale, "ratio_range": crop.ratio, "keep_ratio": True}
    return [
        {"type": "ReadImage"},
        _labels(config),
        scaled,
        {"type": "RandomCrop", "crop_size": (crop.size, crop.size), "cat_max_ratio": crop.cat_max_ratio},
        {"type": "RandomFlip", "prob": 0.5},
        *([{"type": "PhotoMetricDistortion"}] if crop.photometric else []),
        {"type": "PackSegInputs"},
    ]


def _test_pipeline(config: SegmentConfig) -> list[dict[str, Any]]:
    scale = config.inference.scale
    return [
        {"type": "ReadImage"},
        *([{"type": "Resize", "scale": scale, "keep_ratio": True}] if scale is not None else []),
        # After resizing: predictions are compared at the labels' own size.
        _labels(config),
        {"type": "PackSegInputs"},
    ]


def _labels(config: SegmentConfig) -> dict[str, Any]:
    data = config.data
    wanted = {"layout": data.layout, "classes": data.classes, "first_label": data.first_label}
    return {"type": "ReadLabels", "data": wanted}


def _optimiser(config: SegmentConfig, backbone: Backbone, on_gpu: bool) -> dict[str, Any]:
    optim = config.optim
    optimiser: dict[str, Any] = {"type": "SGD", "momentum": 0.9}
    if optim.name == "adamw":
        optimiser = {"type": "AdamW", "betas": (0.9, 0.999)}
    wrapper: dict[str, Any] = {
        "type": "OptimWrapper", "optimizer": optimiser | {"lr": optim.lr, "weight_decay": optim.weight_decay},
    }  # fmt: skip
    if config.precision != "fp32":
        if on_gpu:
            wrapper |= {"type": "AmpOptimWrapper", "dtype": dtype_name(config.precision)}
        elif config.precision == "bf16":
            wrapper["type"] = "CpuAutocastOptimWrapper"
        else:
            raise UserError("precision=fp16 needs a GPU; on the CPU use bf16 or fp32")
    if optim.layer_decay is not None:
        wrapper |= adapter_for(backbone).layer_decay(backbone, optim.layer_decay)
    else:
        embeddings = optim.decay_norms if optim.decay_embeddings is None else optim.decay_embeddings
        never = {name: {"decay_mult": 0.0} for name in adapter_for(backbone).undecayed(backbone)}
        paramwise: dict[str, Any] = {} if optim.decay_norms else {"norm_decay_mult": 0.0}
        paramwise |= {} if embeddings else {"custom_keys": never}
        wrapper |= {"paramwise_cfg": paramwise} if paramwise else {}
    return wrapper


def _schedulers(config: SegmentConfig) -> list[dict[str, Any]]:
    schedule = config.schedule
    found: list[dict[str, Any]] = []
    if schedule.warmup:
        found.append({"type": "LinearLR", "start_factor": 1e-6, "by_epoch": False, "begin": 0, "end": schedule.warmup})
    if schedule.power is None:
        found.append({"type": "MultiStepLR", "milestones": list(schedule.steps), "gamma": 0.1, "by_epoch": False})
    else:
        found.append({
            "type": "PolyLR", "power": schedule.power, "eta_min": schedule.min_lr, "by_epoch": False,
            "begin": 0 if schedule.decay_under_warmup else schedule.warmup, "end": schedule.iterations,
        })  # fmt: skip
    return found

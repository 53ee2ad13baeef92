"""Texts about a segmentation run: its plan, its baseline and its result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from core.data.account import Account
from evaluate.common.plan import Plan, count, runs_on
from evaluate.segmentation.data.labels import Baseline

if TYPE_CHECKING:
    from evaluate.segmentation.setup import Setup

_MAX_NAMED = 10


def plan(setup: Setup, facts: dict[str, Any]) -> Plan:
    """Lines that are printed before the data is checked. `facts`: of `split_facts`, by split."""
    config, world = setup.config, setup.context.processes.world_size
    schedule, optim, inference = config.schedule, config.optim, config.inference
    decay = f", layer decay {optim.layer_decay:g}" if optim.layer_decay is not None else ""
    norms = "synchronised" if config.sync_norm and world > 1 else "per process"
    if config.sync_norm and world == 1:
        norms = "plain (SyncBN needs several processes)"
    linear = config.head.kind == "linear"
    size = "one 1×1 convolution on all maps" if linear else f"{config.head.channels} channels"
    with_norms = "" if linear and config.network.frozen else f"; batch norms {norms}"
    windows = f", windows of {config.crop.size} px every {inference.stride} px" if inference.mode == "slide" else ""
    parts = [f"{facts[split]['name']}: {count(facts[split]['images'], 'image')}" for split in ("train", "val")]
    lines = [
        ("protocol", setup.protocol),
        ("backbone", f"{setup.backbone.source}{' (frozen)' if config.network.frozen else ''}"),
        ("weights", setup.loaded),
        ("data", "; ".join([*parts, f"{len(setup.names)} classes"])),
        ("head", f"{config.head.kind}, {size}{with_norms}"),
        ("training", f"{schedule.iterations:,} iterations of {config.batch} crops of {config.crop.size} px; "
                     f"{optim.name} lr {optim.lr:g}, wd {optim.weight_decay:g}{decay}; {config.precision}"),
        ("test", f"{inference.mode}{windows}"),
        runs_on(setup.context.processes),
    ]  # fmt: skip
    return Plan((*lines, *([("scaled", setup.scaling)] if setup.scaling else [])))


def data_lines(facts: dict[str, Any], accounts: Mapping[str, Account], from_zero: bool) -> Plan:
    """Lines about the checked data. `facts`, `accounts`: of both splits; `from_zero`: labels may count from 0."""
    lines = []
    for split, what in (("train", "training"), ("val", "test")):
        labels = facts[split]["labels"]
        ignored = [f"{100 * n / labels['pixels']:.1f} % (label {number})" for number, n in labels["ignored"].items()]
        text = f"{what}: {', '.join(ignored) or 'no pixel'} ignored"
        if labels["absent"]:
            more = ", …" if len(labels["absent"]) > _MAX_NAMED else ""
            text += f"; no pixel of {', '.join(labels['absent'][:_MAX_NAMED])}{more}"
        lines.append(("labels", text))
        lines += [("account", f"{what}: {line}") for line in accounts[split].lines()]
    if from_zero:
        lines.append(("warning", "label 0 occurs and the last class does not: set data.first_label=0 if 0 is a class, "
                                 "data.first_label=1 if it means no label"))  # fmt: skip
    return Plan(tuple(lines))


def test_batch_line(batch: int) -> Plan:
    """Line about test images that can't share a forward pass."""
    return Plan((("test", f"one image per forward pass instead of {batch}, as the images differ in size"),))


def baseline_line(baseline: Baseline, names: Sequence[str]) -> Plan:
    """Line about the majority class."""
    text = f"{names[baseline.label]} everywhere: mIoU {baseline.mean_iou:.2f}, aAcc {baseline.pixel_accuracy:.2f}"
    return Plan((("majority", text),))


def result_table(metrics: dict[str, Any]) -> str:
    """Summary of the metrics, and the IoU of each class."""
    width = max(len(name) for name in metrics["IoU"])
    rows = [f"  {name:{width}}  {'–' if iou is None else f'{iou:6.2f}'}" for name, iou in metrics["IoU"].items()]
    summary = (
        f"mIoU {metrics['mIoU']:.2f}, mAcc {metrics['mAcc']:.2f}, aAcc {metrics['aAcc']:.2f} "
        f"(majority class {metrics['majority_class']}: mIoU {metrics['majority_mIoU']:.2f}, "
        f"aAcc {metrics['majority_aAcc']:.2f})"
    )
    return "\n".join([summary, "IoU per class:", *rows])

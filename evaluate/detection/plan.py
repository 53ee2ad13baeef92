"""The plan of a detection run."""

from __future__ import annotations

from evaluate.common.context import RunContext
from evaluate.common.plan import Plan, runs_on
from evaluate.detection.setup import Setup
from evaluate.detection.training.scaling import schedule_of


def detection_plan(setup: Setup, context: RunContext) -> Plan:
    """Protocol, backbone, detector, data, schedule and hardware, one line each."""
    config, train, val = setup.config, setup.train, setup.val
    detector = f"{config.detector.design}, {'boxes and masks' if config.detector.masks else 'boxes'}"
    sides = config.data.large_scale_jitter or "/".join(map(str, config.data.short_sides))
    lines = [
        ("protocol", setup.protocol),
        ("backbone", f"{setup.backbone.source}{' (frozen)' if config.detector.frozen else ''}"),
        ("loaded", setup.coverage.summary()),
        ("detector", f"{detector}, {len(train.classes)} classes; norms: {_norms(setup, context)}"),
        ("train", f"{train.name}: {len(train.records):,} images, short side {sides}"),
        ("test", f"{val.name}: {len(val.records):,} images, short side {config.data.test_short_side}"),
        ("schedule", f"{schedule_of(config.solver)}; {config.solver.optimiser}"),
        runs_on(context.processes, "mixed precision" if config.solver.amp else ""),
    ]
    for part, split in (("training", train), ("test", val)):
        lines += [("account", f"{part}: {line}") for line in split.account.lines()]
    if setup.scaling:
        lines.append(("scaled", setup.scaling))
    return Plan(tuple(lines))


def _norms(setup: Setup, context: RunContext) -> str:
    """Norm layers in use, and a remark where SyncBN has become plain BN."""
    model, detector = setup.cfg.MODEL, setup.config.detector
    used = {"backbone": model.SSL.NORM, "pyramid": model.FPN.NORM, "heads": model.ROI_BOX_HEAD.NORM}
    text = ", ".join(f"{part} {norm or 'none'}" for part, norm in used.items())
    asked = {detector.norm, detector.pyramid_norm, detector.head_norm}
    if "SyncBN" in asked and context.processes.world_size == 1:
        text += " (SyncBN is plain BN on one process)"
    return text

"""The front door of all probes: arguments, backbone, data, plan, measurement, result.json."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

from evaluate.common.cli import evaluation_parser, parse
from evaluate.probes.base import Job, Probe

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence


def probe_main(probe: Probe, argv: Sequence[str] | None = None) -> None:
    """Parses, prints the plan, measures and writes the result; with --dry-run it stops after the plan."""
    started, arguments = time.time(), _arguments(probe, argv)

    from core.compute.malloc import disable_trimming
    from evaluate.common.labelled import account_lines
    from evaluate.common.plan import Plan, runs_on

    job = _open(probe, arguments, started)
    if argv is None and job.context.device.type == "cpu":  # a process of its own, whose steps need the same memory
        disable_trimming()
    if job.context.is_main:
        plan = Plan(
            (
                ("protocol", job.protocol),
                ("backbone", job.backbone.source),
                *probe.plan(job),
                *account_lines(job.data),
                *(("adapted", sentence) for sentence in job.adapted),
                runs_on(job.context.processes, *probe.plan_details(job)),
            )
        )
        print(plan, flush=True)
    probe.run(job)


def _arguments(probe: Probe, argv: Sequence[str] | None) -> argparse.Namespace:
    named = [f"{name} for {kind}" for kind, name in probe.protocols.items() if kind not in ("scenes", "")]
    scenes, others = probe.protocols.get("scenes"), ", ".join([*named, probe.protocols[""]])
    default = others if scenes is None else f"{scenes}, or with data of your own {others}"
    parser = evaluation_parser(probe.summary, probe.example, default=None, says=default)
    if probe.frozen:
        parser.add_argument(
            "--stream-blocks", action="store_true",
            help="for backbones too large for the device: a ViT's blocks stay in a file and come one at a time",
        )  # fmt: skip
    probe.add_arguments(parser)
    arguments = parse(parser, argv)
    probe.check_arguments(arguments)
    return arguments


def _open(probe: Probe, arguments: argparse.Namespace, started: float) -> Job:
    """Loads the protocol and opens everything it needs. Raises `UserError`."""
    from core.checkpoints import backbone_digest
    from core.config import load_config
    from core.distributed import init_distributed, rank_zero_first
    from evaluate.common.context import RunContext
    from evaluate.common.opening import open_named
    from evaluate.common.protocol import full_name, result_folder
    from evaluate.probes.defaults import choose_protocol

    file, overrides = choose_protocol(probe, arguments)
    config: Any = load_config(probe.config_class(), file, overrides)
    protocol = full_name(config, file, probe.performance_keys)
    context = RunContext(init_distributed(arguments.device), arguments.workers, arguments.seed)
    with rank_zero_first():
        backbone = open_named(arguments, arguments.seed)
        data = probe.open_data(config, arguments)
    if probe.frozen and arguments.stream_blocks:
        from core.compute.streaming import stream_blocks

        stream_blocks(backbone, context.device)
    else:
        backbone.model.to(context.device)
    digest = backbone_digest(backbone)
    folder = arguments.out or result_folder(protocol, digest, arguments.seed, version=config.protocol_version)
    config, adapted = probe.fit_to_data(config, data, context.processes.world_size)
    job = Job(protocol, config, backbone, digest, data, None, context, arguments, folder, started, adapted)
    return dataclasses.replace(job, inputs=probe.prepare(job))

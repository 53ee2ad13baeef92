"""The front door of all probes: arguments, backbone, data, plan, measurement, result.json."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from typing import TYPE_CHECKING, Any

from evaluate.common.cli import evaluation_parser, parse
from evaluate.probes.base import Job, Probe

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from pathlib import Path


def probe_main(probe: Probe, argv: Sequence[str] | None = None) -> None:
    """Parses, prints the plan, measures and writes the result; with --dry-run it stops after the plan."""
    started, arguments = time.time(), _arguments(probe, argv)

    from evaluate.common.labelled import account_lines
    from evaluate.common.plan import Plan, runs_on

    job = _open(probe, arguments, started)
    if job.context.is_main:
        plan = Plan(
            (
                ("protocol", job.protocol),
                ("backbone", job.backbone.source),
                *probe.plan(job),
                *account_lines(job.data),
                runs_on(job.context.processes, *probe.plan_details(job)),
            )
        )
        print(plan, flush=True)
    probe.run(job)


def _arguments(probe: Probe, argv: Sequence[str] | None) -> argparse.Namespace:
    scenes, others = probe.protocols.get("scenes"), probe.protocols[""]
    default = others if scenes is None else f"{scenes}, or {others} with data of your own"
    parser = evaluation_parser(probe.summary, probe.example, default=None, says=default)
    probe.add_arguments(parser)
    arguments = parse(parser, argv)
    probe.check_arguments(arguments)
    return arguments


def _open(probe: Probe, arguments: argparse.Namespace, started: float) -> Job:
    """Loads the protocol and opens everything it needs. Raises `UserError`."""
    from converters.open import open_backbone
    from core.checkpoints import tensors_digest
    from core.config import load_config
    from core.distributed import init_distributed, rank_zero_first
    from evaluate.common.context import RunContext
    from evaluate.common.protocol import full_name, result_folder
    from evaluate.probes.defaults import choose_protocol

    file, overrides = choose_protocol(probe, arguments)
    config: Any = load_config(probe.config_class(), file, overrides)
    protocol = full_name(config, file, probe.performance_keys)
    context = RunContext(init_distributed(arguments.device), arguments.workers, arguments.seed)
    with rank_zero_first():
        backbone = open_backbone(arguments.ckpt, arguments.network, arguments.arch, arguments.seed)
        data = probe.open_data(config, arguments)
    backbone.model.to(context.device)
    digest = tensors_digest(backbone.model.state_dict())
    folder = arguments.out or result_folder(protocol, digest, arguments.seed, version=config.protocol_version)
    job = Job(protocol, config, backbone, digest, data, None, context, arguments, folder, started)
    return dataclasses.replace(job, inputs=probe.prepare(job))


def check_result(job: Job) -> None:
    """Raises `UserError` on all processes if the job's folder holds another measurement's result."""
    from core.distributed import raise_on_all_ranks
    from evaluate.common.protocol import conflicting_result

    path, refused = job.folder / "result.json", ""
    if job.context.is_main:
        refused = conflicting_result(
            path, job.protocol, job.backbone_sha256, job.context.seed, job.digests, job.config.protocol_version
        )
    raise_on_all_ranks(refused)


def identity(probe: Probe, job: Job) -> str:
    """Identity that an interrupted measurement shares with the one that resumes it.

    Settings that change speed, memory or a place are not part of it: the data is known by its digests.
    """
    from core.config import to_dict
    from evaluate.common.protocol import LABELS, flat

    ignored = probe.performance_keys | LABELS | {probe.data_key}
    settings = {key: value for key, value in flat(to_dict(job.config)).items() if key not in ignored}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    return f"{job.protocol} {digest} {job.backbone_sha256} {job.digests} {job.context.seed}"


def measure_and_write(probe: Probe, job: Job) -> dict[str, Any] | None:
    """Measures, prints and writes result.json; the metrics, or None on all processes but the main one."""
    from core.config import to_dict
    from core.result import Result, write_result
    from evaluate.common.labelled import facts
    from evaluate.common.resumable import ProbeState

    state = ProbeState(job.folder / "unfinished.pt", identity(probe, job), job.context.processes, job.started)
    measured = probe.measure(job, state)
    if measured is None:
        return None
    for part, names in measured.broken.items():
        for name in names:
            print(f"broken, {'replaced' if part in measured.replaced else 'left out'}: {name}")
    settings = to_dict(job.config) | ({} if measured.notes is None else {"notes": list(measured.notes)})
    result = Result(
        protocol=job.protocol,
        metrics=measured.metrics,
        backbone=job.backbone,
        data={part: facts(images, measured.broken[part]) for part, images in job.data.items()},
        seed=job.context.seed,
        settings=settings,
        started=time.time() - state.seconds(),
        device=job.context.device,
    )
    if measured.table:
        print(measured.table)
    path: Path = job.folder / "result.json"
    write_result(path, result)
    print(f"result: {path}")
    measured.finish()
    state.remove()
    return measured.metrics

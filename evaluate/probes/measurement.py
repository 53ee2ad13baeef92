"""Measurement of one job: refuse another result, resume, measure, write result.json."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from core.files.value_digest import value_digest

if TYPE_CHECKING:
    from pathlib import Path

    from evaluate.probes.base import Job, Probe


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
    from evaluate.common.protocol import flat, is_label

    ignored = probe.performance_keys | {probe.data_key}
    known = flat(to_dict(job.config))
    settings = {key: value for key, value in known.items() if key not in ignored and not is_label(key)}
    digest = value_digest(settings)
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
    notes = [*(measured.notes or ()), *job.adapted]
    settings = to_dict(job.config) | ({"notes": notes} if notes or measured.notes is not None else {})
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

"""A study on a cluster: an array of trainings, after it an array of evaluations, after that the table."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from core.cluster.options import Resources, without_launcher
from core.cluster.submit import submit
from evaluate.studies.config import StudyConfig
from evaluate.studies.trainings import Training
from evaluate.suites.cluster import on_one_core


def submit_study(
    study: StudyConfig, waiting: Sequence[Training], seeds: int, resources: Resources, device: str, at_once: int
) -> str:
    """Submits everything at once, each array with `at_once` jobs at a time; says where it went.

    The networks to evaluate don't exist yet, so each job of the second array finds its share of the evaluations when
    it starts. It has one process and one GPU.
    """
    lines, after = [], ""
    if waiting:
        words = [[sys.executable, str(each.script()), *each.arguments(), "--device", device] for each in waiting]
        trainings = submit(words, resources, "pre-training", at_once)
        after = f"afterok:{trainings.number}"
        lines.append(f"submitted: array {trainings.number} of {len(waiting)} trainings, {at_once} at once")
        lines += [f"  {log}: {each.title}" for each, log in zip(waiting, trainings.logs, strict=True)]
    shares = ((len(study.arms) + 1) * seeds + 1) * len(study.evaluations)
    again = [sys.executable, str(Path(sys.argv[0]).resolve()), *_without(without_launcher(sys.argv[1:]), "--record")]
    single = replace(resources, nodes=1, processes=1, gpus=min(1, resources.gpus))
    evaluations = submit(
        [[*again, "--jobs", "1", "--share", f"{number}/{shares}"] for number in range(shares)], single, "evaluations",
        at_once, after,
    )  # fmt: skip
    lines.append(f"submitted: array {evaluations.number} of {shares} shares of the evaluations, {at_once} at once")
    record = ["--record"] if "--record" in sys.argv else []
    table = submit(
        [[*again, *record, "--table"]], on_one_core(resources), "table", after=f"afterany:{evaluations.number}"
    )
    return "\n".join([*lines, f"table: {table.logs[0]}"])


def _without(words: Sequence[str], option: str) -> list[str]:
    return [word for word in words if word != option]

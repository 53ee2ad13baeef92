"""Evaluations of a study's networks: which are still to run, and their results as rows of a record."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from core.files.atomic_file import file_digest
from evaluate.studies.config import PIXELS, UNTRAINED, StudyConfig
from evaluate.studies.record import Measured, Record, Trained
from evaluate.studies.trainings import Training, last_metrics, mean_speed

if TYPE_CHECKING:
    from evaluate.suites.plan import Run
    from evaluate.tables.results import StoredResult


def evaluations_of(study: StudyConfig, out: Path, seeds: int) -> list[Run]:
    """Every evaluation of every trained network, of the first arm's as initialised, and of raw pixels.

    Finished ones are complete. The trainings must be finished.
    """
    from evaluate.suites.plan import Checkpoint, plan_runs
    from evaluate.tables.results import read_usable

    runs = {arm.name: str(out / "runs" / f"{arm.slug}-seed{{seed}}") for arm in study.arms}
    checkpoints = [
        *(Checkpoint(run, name) for name, run in runs.items()),
        Checkpoint(f"random:{next(iter(runs.values()))}", UNTRAINED),
        Checkpoint("pixels", PIXELS),
    ]
    results = out / "results"
    stored, _ = read_usable(results)
    return plan_runs(study.evaluations, checkpoints, range(seeds), study.network, stored, results)


def record_of(name: str, study: StudyConfig, trainings: Sequence[Training], runs: Sequence[Run]) -> Record:
    """Record of finished trainings and evaluations. Raises ValueError where arms were measured on different data."""
    from evaluate.tables.results import data_of, read_result

    measured, documents = [], []
    for run in runs:
        for path in run.results or sorted(run.folder.rglob("result.json")):
            result: StoredResult = read_result(path)
            document = result.document
            documents.append(document)
            measured.append(
                Measured(
                    run.name, run.seed, document["protocol"], result.version, result.kind, data_of(document),
                    result.headline_metrics(), document["checkpoint"]["backbone_sha256"], document["device"],
                    document["wall_seconds"],
                )
            )  # fmt: skip
    trained = [
        Trained(each.arm.name, each.seed, each.arm.settings, last_metrics(each.folder), mean_speed(each.folder))
        for each in trainings
    ]
    return Record(
        name, study.question, study.recipe_file.stem, file_digest(study.recipe_file), study.settings,
        {arm.name: arm.baseline for arm in study.arms}, time.strftime("%Y-%m-%d", time.gmtime()),
        documents[0]["libraries"], documents[0]["git_revision"], documents[0]["device"], tuple(trained),
        tuple(measured),
    )  # fmt: skip

"""Evaluations of a study's networks: which are still to run, and their results as rows of a record."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evaluate.studies.config import PIXELS, UNTRAINED, StudyConfig
from evaluate.studies.record import Measured, Record, Trained
from evaluate.studies.trainings import (
    Training,
    last_metrics,
    mean_speed,
    predictor_losses,
    seen_by,
    stability_of,
)

if TYPE_CHECKING:
    from evaluate.suites.plan import Run
    from evaluate.tables.results import StoredResult


def evaluations_of(study: StudyConfig, out: Path, seeds: int) -> list[Run]:
    """Every evaluation of every trained network, of the first arm's as initialised, and of raw pixels.

    At most `seeds` of each. Finished ones are complete. The trainings must be finished.
    """
    from evaluate.suites.plan import Checkpoint, plan_runs
    from evaluate.tables.results import read_usable

    folders = {arm.name: str(out / "runs" / f"{arm.slug}-seed{{seed}}") for arm in study.arms}
    results = out / "results"
    stored, _ = read_usable(results)
    numbers = {arm.name: min(seeds, arm.seeds) for arm in study.arms}
    runs: list[Run] = []
    for count in sorted(set(numbers.values()), reverse=True):
        checkpoints = [Checkpoint(folders[name], name) for name in folders if numbers[name] == count]
        if numbers[study.arms[0].name] == count:
            checkpoints += [
                Checkpoint(f"random:{folders[study.arms[0].name]}", UNTRAINED),
                Checkpoint("pixels", PIXELS),
            ]
        runs += plan_runs(study.evaluations, checkpoints, range(count), study.network, stored, results)
    return sorted(runs, key=lambda run: run.seed)


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
        Trained(
            each.arm.name, each.seed, each.arm.settings, last_metrics(each.folder), mean_speed(each.folder),
            *seen_by(each.folder), stability_of(each.folder), predictor_losses(each.folder),
        )
        for each in trainings
    ]  # fmt: skip
    return Record(
        name, study.question, study.recipe_file.stem, study.recipe_digest(), study.settings,
        {arm.name: arm.baseline for arm in study.arms}, time.strftime("%Y-%m-%d", time.gmtime()),
        documents[0]["libraries"], ", ".join(dict.fromkeys(each["git_revision"] for each in documents)),
        documents[0]["device"], tuple(trained), tuple(measured),
    )  # fmt: skip

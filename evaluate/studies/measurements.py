"""Evaluations of a study's networks: which are still to run, and their results as rows of a record."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import UserError
from evaluate.studies.config import PIXELS, UNTRAINED, StudyConfig
from evaluate.studies.record import Measured, Record, Trained
from evaluate.studies.trainings import (
    Training,
    last_metrics,
    mean_speed,
    predictor_losses,
    seconds_of,
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
    for name, count in numbers.items():
        checkpoints = [Checkpoint(folders[name], name)]
        if name == study.arms[0].name:
            checkpoints += [Checkpoint(f"random:{folders[name]}", UNTRAINED), Checkpoint("pixels", PIXELS)]
        for checkpoint in checkpoints:  # each alone: arms of equal weights share a run, and each has its row
            runs += plan_runs(study.evaluations, [checkpoint], range(count), study.network, stored, results)
    return sorted(runs, key=lambda run: run.seed)


def share_of(runs: Sequence[Run], number: int, of: int) -> list[Run]:
    """The runs of share `number` of `of`, in order: each run in one share, those of each protocol spread over all.

    In the order of the runs, one of two shares would get all runs of the slower protocol.
    """
    once: dict[Path, Run] = {}
    for run in runs:
        once.setdefault(run.folder, run)
    chosen = {run.folder for run in sorted(once.values(), key=lambda run: run.protocol)[number::of]}
    return [run for folder, run in once.items() if folder in chosen]


def record_of(name: str, study: StudyConfig, trainings: Sequence[Training], runs: Sequence[Run]) -> Record:
    """Record of finished trainings and evaluations. Raises `UserError` where they can't stand in one ranking."""
    from core.checkpoints import load_exported
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
            *seen_by(each.folder), stability_of(each.folder), predictor_losses(each.folder), seconds_of(each.folder),
            load_exported(each.folder / "backbone.safetensors").origin.get("git_revision", ""),
        )
        for each in trainings
    ]  # fmt: skip
    libraries = {
        name: ", ".join(dict.fromkeys(each["libraries"][name] for each in documents if name in each["libraries"]))
        for name in dict.fromkeys(name for each in documents for name in each["libraries"])
    }
    try:
        return Record(
            name, study.question, study.recipe_file.stem, study.recipe_digest(), study.settings,
            {arm.name: arm.baseline for arm in study.arms}, time.strftime("%Y-%m-%d", time.gmtime()), libraries,
            ", ".join(dict.fromkeys(each["git_revision"] for each in documents)), documents[0]["device"],
            tuple(trained), tuple(measured),
        )  # fmt: skip
    except ValueError as error:
        raise UserError(f"{error}; give another folder with --out, or delete the results that don't belong") from None

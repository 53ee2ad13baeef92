"""Command line of studies: plan, trainings, evaluations, table, record."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from core.cluster.options import add_launcher, resources_of
from core.errors import UserError
from core.project import command
from evaluate.studies.config import FOLDER, StudyConfig, open_study

if TYPE_CHECKING:
    from evaluate.studies.trainings import Training


def main() -> None:
    """Trains what is missing, evaluates what is missing, prints means and differences; exit code 1 if a run failed."""
    arguments = _arguments()
    if arguments.write_findings:
        from evaluate.studies.findings import write_page

        print(f"written: {write_page()}")
        return
    study = open_study(arguments.study)
    name = Path(arguments.study).stem
    out: Path = arguments.out or Path("studies") / name
    most = max(arm.seeds for arm in study.arms)
    seeds = most if arguments.seeds is None else min(most, arguments.seeds)

    from evaluate.studies.trainings import check_settings, trainings_of
    from evaluate.suites.measurement import measurement_of

    for evaluation in study.evaluations:
        measurement_of(evaluation, 1)  # a mistake in a protocol is reported now, not after the trainings
    trainings = trainings_of(study, out, seeds)
    waiting = [each for each in trainings if not each.written()]
    resources = resources_of(arguments)
    print(_plan(study, trainings, waiting, seeds, name), flush=True)
    if waiting:
        check_settings(waiting)
    if arguments.dry_run:
        return
    if arguments.emit:
        for training in waiting:
            print(shlex.join(["python", "pretrain/run.py", *training.arguments()]))
        again = [word for word in sys.argv[1:] if word != "--emit"]
        print(f"# when all have ended: {command('evaluate/study.py', *again)}")
        return
    for training in trainings:
        training.claim()
    if resources:
        from evaluate.studies.cluster import submit_study

        print(submit_study(study, waiting, seeds, resources, arguments.device, arguments.jobs))
        return
    if waiting and (arguments.share or arguments.table):
        raise UserError(
            f"{len(waiting)} trainings are not finished; give the command without --share and --table first"
        )

    from evaluate.studies.courses import course_tables
    from evaluate.studies.findings import summary
    from evaluate.studies.measurements import evaluations_of, record_of, share_of
    from evaluate.suites.runner import end_for, make_slots, run_stoppably

    slots = make_slots(arguments.jobs, arguments.device, arguments.per_gpu)
    end_for(run_stoppably(waiting, slots, {}))
    runs = evaluations_of(study, out, seeds)
    if arguments.share:
        runs = share_of(runs, *arguments.share)
    missing = list({run.folder: run for run in runs if not run.complete}.values())
    failures = [] if arguments.table else run_stoppably(missing, slots, {})
    if arguments.share:
        end_for(failures)
        return
    left = {run.folder for run in (missing if arguments.table else [failure.run for failure in failures])}
    measured = [run for run in runs if run.folder not in left]
    if measured:
        record = record_of(f"{name}-{arguments.tag}" if arguments.tag else name, study, trainings, measured)
        print(f"\n{summary(record)}{course_tables(record)}")
    for run in runs:
        if run.folder in left:
            print(f"not measured: {run.title}", file=sys.stderr)
    end_for(failures)
    if arguments.record:
        if left:
            raise UserError(
                f"no record of an unfinished study: {len(left)} evaluations are missing; the command without --table "
                "runs them"
            )
        from evaluate.studies.record import write_record

        file = write_record(record)
        print(f"record: {file}  (next: {command('evaluate/study.py', '--write-findings')})")


def _plan(
    study: StudyConfig, trainings: Sequence[Training], waiting: Sequence[Training], seeds: int, name: str
) -> str:  # fmt: skip
    lines = [
        f"study       {name}: {study.question}",
        f"recipe      {study.recipe_file}{''.join(f' {each}' for each in study.settings)}",
        f"arms        {len(study.arms)}",
    ]
    for arm in study.arms:
        against = f" (against {arm.baseline})" if arm.baseline else ""
        numbers = f"seeds 0 … {min(seeds, arm.seeds) - 1}"
        lines.append(f"  {arm.name}{against}, {numbers}: {' '.join(arm.settings) or 'the recipe as it is'}")
    lines.append(f"trainings   {len(trainings)}, {len(trainings) - len(waiting)} done already")
    lines += [f"  {each.title}   {'to run' if each in waiting else 'done'}" for each in trainings]
    protocols = ", ".join(dict.fromkeys(each.protocol for each in study.evaluations))
    lines.append(
        f"evaluations {protocols}, of every trained network, of the first arm's network untrained, and of raw pixels"
    )
    lines.append(f"time        {_hours(study, trainings, waiting, name)}")
    return "\n".join(lines)


def _hours(study: StudyConfig, trainings: Sequence[Training], waiting: Sequence[Training], name: str) -> str:
    """Time of the trainings left, from those that are done or, where none is, from a record of the study."""
    from evaluate.studies.record import FOLDER as RECORDS
    from evaluate.studies.record import read_record
    from evaluate.studies.trainings import seconds_of

    if not waiting:
        return "no training is left"
    known = [seconds for each in trainings if each not in waiting if (seconds := seconds_of(each.folder))]
    if known:
        return f"about {_duration(sum(known) / len(known) * len(waiting))} of trainings left, one after another"
    settings = {arm.name: arm.settings for arm in study.arms}
    for record in (read_record(file) for file in sorted(RECORDS.glob(f"{name}*.json"))):
        timed = [run for run in record.trained if run.images and run.images_per_second > 0]
        taken = [run.seconds or run.images / run.images_per_second for run in timed]
        same = (record.recipe_sha256, record.settings) == (study.recipe_digest(), study.settings)
        if taken and same and {run.arm: run.settings for run in record.trained} == settings:
            seconds = sum(taken) / len(taken) * len(waiting)
            tests = sum(each.wall_seconds for each in record.measured) / len(record.trained) * len(waiting)
            return (
                f"about {_duration(seconds)} of trainings and {_duration(tests)} of evaluations, one after another, at "
                f"the speed of record {record.study} ({record.device})"
            )
    return "unknown until the first training has ended"


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min"


def _share(text: str) -> tuple[int, int]:
    """`2/8` as numbers. Raises `UserError`."""
    number, slash, of = text.partition("/")
    if not (slash and number.isdecimal() and of.isdecimal() and int(number) < int(of)):
        raise UserError(f"--share must look like 0/8 … 7/8, not {text!r}")
    return int(number), int(of)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train the arms of a study with several seeds, evaluate every network, and print means, spreads "
        "and paired differences. Finished runs are skipped; the same command resumes a killed study.",
        epilog="example: python evaluate/study.py headline_fashion_mnist --jobs 2 --record",
    )
    known = ", ".join(sorted(file.stem for file in FOLDER.glob("*.yaml")))
    parser.add_argument("study", nargs="?", metavar="NAME|YAML", help=f"configs/studies/NAME.yaml: {known}")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of runs and results (default studies/NAME)")
    parser.add_argument("--seeds", type=int, metavar="N", help="at most seeds 0 … N-1 (default: the study's)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at once (default 1)")
    parser.add_argument("--per-gpu", type=int, default=1, metavar="N", help="runs that share a GPU (default 1)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default auto")
    parser.add_argument("--record", action="store_true", help="write records/NAME.json of the finished study")
    parser.add_argument("--tag", default="", help="ending of the record's name, such as the device's")
    parser.add_argument("--write-findings", action="store_true", help="write docs/findings.md from all records")
    parser.add_argument("--emit", action="store_true", help="print the commands of the trainings only")
    parser.add_argument(
        "--share", type=_share, metavar="I/N", help="run the I-th of N shares of the evaluations alone, I from 0 on"
    )
    parser.add_argument("--table", action="store_true", help="run nothing, print the table of what is measured")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and exit")
    parser.add_argument("--debug", action="store_true", help="also show the traceback of a user error")
    add_launcher(parser, local=False)
    arguments = parser.parse_args()
    if arguments.study is None and not arguments.write_findings:
        raise UserError(f"name a study: {known}, or a YAML file")
    for option in ("seeds", "jobs", "per_gpu"):
        value = getattr(arguments, option)
        if value is not None and value < 1:
            raise UserError(f"--{option.replace('_', '-')} must be 1 or more, not {value}")
    if arguments.tag and not re.fullmatch(r"[\w.-]{1,50}", arguments.tag):
        raise UserError(f"--tag must be 1 … 50 letters, digits, '_', '-' and '.', not {arguments.tag!r}")
    return arguments

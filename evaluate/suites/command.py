"""Command line of suites: plan, run, table."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from core.cluster.options import GPUS, add_launcher, resources_of
from core.errors import UserError
from evaluate.suites.config import open_suite, shipped_roots

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evaluate.suites.plan import Run
    from evaluate.tables.results import StoredResult


def main() -> None:
    """Plans, skips finished runs, runs the rest, prints the table; exit code 1 if a run failed."""
    arguments = _arguments()
    suite = open_suite(arguments.suite)
    given = {name: getattr(arguments, f"root {name}") for name in suite.roots}
    places = {**suite.places, **{name: root for name, root in given.items() if root}}
    evaluations = [each.resolve(places) for each in suite.evaluations if not each.missing_roots(places)]
    for evaluation in suite.evaluations:
        if missing := evaluation.missing_roots(places):
            print(f"skipped   {evaluation.protocol}: needs {' and '.join(f'--{name} ROOT' for name in missing)}")
    if not evaluations:
        raise UserError(
            f"no evaluation of suite {arguments.suite} can run without its data; pass its folder, see --help"
        )
    results = arguments.results

    from evaluate.suites.plan import Request, make_plan
    from evaluate.suites.runner import end_for, make_slots, run_stoppably, thread_limits
    from evaluate.suites.warm import WarmStart
    from evaluate.tables.results import add_names, read_names, read_usable

    resources = resources_of(arguments)
    if arguments.after and not arguments.dry_run:
        from evaluate.suites.cluster import submit_later

        if resources is None:
            raise UserError("--after belongs to --launcher submitit; give that too, or leave it out")
        print(submit_later(arguments.after, resources))
        return
    processes = resources.world_size if resources else (arguments.gpus or GPUS) if arguments.emit else 1
    request = Request(
        tuple(evaluations), tuple(arguments.ckpts), arguments.seeds, arguments.network, results, processes
    )
    # The runs are planned where they run; this process then needs no torch.
    elsewhere = arguments.dry_run or arguments.emit or resources is not None
    server = None if elsewhere else WarmStart(thread_limits(arguments.jobs))
    plan = make_plan(request) if server is None else server.call(make_plan, request)
    for sentence in plan.ignored:
        print(f"ignored   {sentence}", file=sys.stderr)
    runs = plan.runs
    todo = [run for run in runs if not run.complete]
    if names := {run.row: run.name for run in runs if run.named and not arguments.dry_run}:
        add_names(results, names)  # for this table and every later one
    if arguments.emit:
        from evaluate.suites.cluster import commands

        print("".join(f"# {line}\n" for line in _plan(runs).splitlines()), end="")
        print(commands(todo, processes, results))
        return
    print(_plan(runs), flush=True)
    if resources and todo and not arguments.dry_run:
        from evaluate.suites.cluster import submit_runs

        print(submit_runs(todo, resources, arguments.device, arguments.jobs, results))
    if server is None:
        return

    slots = server.call(make_slots, arguments.jobs, arguments.device)
    failures = run_stoppably(todo, slots, plan.seconds, server)
    stored, now_unreadable = read_usable(results)
    if measured := [each for each in stored if _belongs(each, runs)]:
        from evaluate.tables.published import read_published
        from evaluate.tables.renderers import markdown
        from evaluate.tables.transfer_table import build_table

        print(f"\n{markdown(build_table(measured, read_published(), read_names(results)), Path())}")
    for sentence in now_unreadable:
        print(f"not in the table: {sentence}", file=sys.stderr)
    end_for(failures)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Run a list of evaluations on several backbones and seeds, and print the transfer table. Finished "
        "evaluations are skipped; the same command resumes a killed suite.",
        epilog="example: python evaluate/suite.py --ckpts 'ours=runs/r50' random timm:resnet50.a1_in1k "
        "--suite imagenet_r50 --seeds 3 --imagenet /data/imagenet --coco /data/coco",
    )
    parser.add_argument(
        "--ckpts", nargs="+", required=True, metavar="[NAME=]CKPT",
        help="as --ckpt of the evaluations; random: the first one untrained; {seed} is replaced by the seed; "
        "NAME: name in the table",
    )  # fmt: skip
    parser.add_argument("--suite", default="demo", metavar="NAME|YAML", help="configs/suites/NAME.yaml (default demo)")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="seeds 0 … N-1 of each run (default 1)")
    parser.add_argument(
        "--network", choices=("online", "target"), default="online", help="network to evaluate (default: online)"
    )
    parser.add_argument(
        "--results", type=Path, default=Path("results"), metavar="DIR",
        help="folder of results, searched at any depth (default results)",
    )  # fmt: skip
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="runs at once: a GPU each, or a share of cores; with --launcher: jobs at once",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default auto")
    parser.add_argument("--emit", action="store_true", help="print torchrun commands for --gpus N instead of running")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and exit")
    parser.add_argument("--debug", action="store_true", help="also show the traceback of a user error")
    add_launcher(parser, local=False)
    parser.add_argument(
        "--after",
        metavar="JOB",
        help="with --launcher: plan and submit once that job, such as a training, has succeeded",
    )
    suite = parser.parse_known_args()[0].suite if not {"-h", "--help"} & set(sys.argv) else ""
    roots = [*shipped_roots(), *(open_suite(suite).roots if suite.endswith((".yaml", ".yml")) else ())]
    for name in dict.fromkeys(roots):
        about = f"folder of {name}; without it, evaluations that need it are skipped"
        try:
            parser.add_argument(f"--{name}", dest=f"root {name}", metavar="ROOT", help=about)
        except argparse.ArgumentError:
            raise UserError(f"suite {suite}: {{{name}}} is the name of another option, --{name}; rename it") from None
    arguments = parser.parse_args()
    for name in ("seeds", "jobs", "gpus"):
        if (number := getattr(arguments, name)) is not None and number < 1:
            raise UserError(f"--{name} must be 1 or more, not {number}")
    return arguments


def _plan(runs: Sequence[Run]) -> str:
    done = sum(run.complete for run in runs)
    lines = [f"{len(runs)} runs, {done} done already"]
    for run in runs:
        state = f"done     {' '.join(str(path) for path in run.results)}" if run.complete else "to run"
        lines.append(f"  {run.title}   {state}")
    if done:
        lines.append(
            "done: a result of this protocol, these weights, this seed and this data folder exists; whether the data "
            "has changed since is not checked"
        )
    return "\n".join(lines)


def _belongs(result: StoredResult, runs: Sequence[Run]) -> bool:
    """True if its protocol is one of the suite's; rows of other backbones are shown too."""
    protocol = result.document["protocol"]
    return any(protocol == run.protocol or protocol.startswith(f"{run.protocol} on ") for run in runs)

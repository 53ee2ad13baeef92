"""Everything of interest on a GPU in one call of some minutes: tests, speed, memory, input. `make gpu`

`python benchmarks/gpu.py --minutes 9 --json found.json`; needs torch, torchvision, timm and scikit-learn, and for the
tests pytest. The JSON is written anew after each part, for `benchmarks/report.py`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch

from benchmarks.alternate import Report, Row, benchmark_parser, machine, text
from benchmarks.on_gpu import commands, loading, memory, search, steps
from benchmarks.on_gpu.parts import Job, Part, run_parts
from benchmarks.step import add_network_arguments

PARTS = {
    "tests": Part(commands.tests, 45, 240, needs_cuda=True),
    "step, bf16": Part(partial(steps.speed, backbone="resnet", precision="bf16"), 12, 60),
    "step, fp32": Part(partial(steps.speed, backbone="resnet", precision="fp32"), 15, 60),
    "augmentation": Part(steps.augmentation, 8, 40),
    "kernels of views": Part(steps.kernels_of_views, 4, 30, needs_cuda=True),
    "loader": Part(loading.loaders, 22, 90),
    "JPEG": Part(loading.jpegs, 5, 30),
    "ViT, bf16": Part(partial(steps.speed, backbone="vit", precision="bf16"), 10, 60),
    "memory plan": Part(memory.plans, 12, 60, needs_cuda=True),
    "k-NN": Part(search.knn, 4, 40),
    "CUDA graphs": Part(steps.graphs, 12, 60, needs_cuda=True),
    "ViT, fp32": Part(partial(steps.speed, backbone="vit", precision="fp32"), 12, 60),
    "streaming": Part(memory.streaming, 8, 40),
    "parity": Part(steps.parity, 8, 60),
    "sharded": Part(commands.sharded, 30, 90),
    "compiled": Part(steps.compiled, 75, 180, needs_cuda=True),
}
"""Parts by name, the most important ones first."""
QUICK = 4.0
"""Minutes below which parts take fewer rounds."""


def main() -> None:
    """Exits with 2 where there is no such device, with 1 where a part failed."""
    parser = benchmark_parser("Test and measure on a GPU.", rounds=5)
    parser.add_argument("--device", default="cuda", help="cpu rehearses what doesn't need CUDA")
    parser.add_argument("--minutes", type=float, default=9, help="no part is begun that takes longer than what is left")
    parser.add_argument("--quick", action="store_true", help=f"few rounds, as below {QUICK:g} minutes")
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=PARTS, metavar="PART", help=", ".join(PARTS))
    add_network_arguments(parser)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=3, help="steps per round")
    parser.add_argument("--images", type=int, default=512, help="JPEGs that are read again and again")
    parser.add_argument("--bank", type=int, default=400_000, help="images in the bank of k-NN")
    parser.add_argument("--parity-steps", type=int, default=50)
    parser.add_argument("--tests", nargs="*", metavar="PATH", help="files of tests (default: all that need a GPU)")
    parser.add_argument("--test-seconds", type=float, default=150, help="time of the tests")
    arguments = parser.parse_args()
    if torch.device(arguments.device).type == "cuda" and not torch.cuda.is_available():
        print("error: torch sees no CUDA device on this machine; run this where there is one", file=sys.stderr)
        sys.exit(2)
    hurry = arguments.quick or arguments.minutes < QUICK
    if hurry:
        arguments.rounds, arguments.steps = min(arguments.rounds, 2), min(arguments.steps, 2)
        arguments.bank, arguments.parity_steps = min(arguments.bank, 100_000), min(arguments.parity_steps, 10)
    torch.set_num_threads(arguments.threads)
    started = time.monotonic()
    job = Job(arguments, torch.device(arguments.device), started + 60 * arguments.minutes, hurry)
    states = run_parts(PARTS, arguments.parts, job, partial(save, arguments, job.device, started))
    if failed := [name for name, state in states.items() if state.startswith("failed")]:
        print(f"error: failed: {', '.join(failed)}", file=sys.stderr)
        sys.exit(1)


def save(
    arguments: argparse.Namespace,
    device: torch.device,
    started: float,
    new: list[Row],
    rows: list[Row],
    facts: dict[str, Any],
) -> None:
    """Prints the new rows, and replaces the JSON."""
    chosen = {key: str(value) if isinstance(value, Path) else value for key, value in vars(arguments).items()}
    settings = {key: value for key, value in chosen.items() if key not in ("json", "tests", "parts")}
    report = Report("gpu", machine(device), settings, rows, facts)
    if new:
        print(text(dataclasses.replace(report, rows=new)), flush=True)
    if arguments.json:
        document = {"gpu": {**dataclasses.asdict(report), "seconds": round(time.monotonic() - started, 1)}}
        part = arguments.json.with_name(f"{arguments.json.name}.part")
        part.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(part, arguments.json)


if __name__ == "__main__":
    main()

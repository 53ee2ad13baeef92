"""Processes of their own on a GPU: the tests that need one, and a sharded run under torchrun."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as xml
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.alternate import Row
from benchmarks.on_gpu.loading import folder_of, photographs
from benchmarks.on_gpu.parts import Found, Job
from benchmarks.on_gpu.steps import vit_for

ROOT = Path(__file__).resolve().parent.parent.parent
ENGINES = {
    "tests/evaluate/detection": "detectron2",
    "tests/evaluate/segmentation": "mmseg",
}
"""Folders of tests that import an engine, left out where it is missing."""
LAST = ["tests/pretrain/compute/test_captured.py", "tests/pretrain/compute/test_compiled.py"]
"""Files of tests that run after the others: a failed capture may spoil the process, and compilation takes long."""


def tests(job: Job) -> Found:
    """`pytest -m gpu`: outcome and seconds of each test. Raises RuntimeError where pytest is missing."""
    if importlib.util.find_spec("pytest") is None:
        raise RuntimeError("pytest is missing: pip install pytest")
    missing = {folder: name for folder, name in ENGINES.items() if importlib.util.find_spec(name) is None}
    files = job.arguments.tests or [file for file in files_of_tests() if not file.startswith(tuple(missing))]
    with tempfile.TemporaryDirectory() as place:
        report = Path(place) / "tests.xml"
        command = [
            sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", f"--junitxml={report}",
            *files,
        ]  # fmt: skip
        log, ended = run(command, max(20, min(job.left(), job.arguments.test_seconds)))
        outcomes = read_report(report)
    counts = {state: sum(1 for one in outcomes.values() if one["state"] == state) for state in ("passed", "failed")}
    found = Found(facts={**counts, "ended": ended, "tests": outcomes, "tail": log[-6000:]})
    found.facts["left out"] = {folder: f"{name} is missing" for folder, name in missing.items()}
    print(log[-6000:], flush=True)
    if ended != 0:
        found.failure = f"pytest ended with {ended}: {counts['failed']} failed, {counts['passed']} passed"
    return found


def files_of_tests() -> list[str]:
    """Files with tests that need a GPU; `LAST` at the end."""
    paths = (path for path in sorted(ROOT.glob("tests/**/test_*.py")) if "mark.gpu" in path.read_text(encoding="utf-8"))
    files = [str(path.relative_to(ROOT)) for path in paths]
    return sorted(files, key=lambda file: LAST.index(file) if file in LAST else -1)


def read_report(report: Path) -> dict[str, dict[str, Any]]:
    """Outcome, seconds and message of each test of a JUnit file; empty where the tests didn't reach their end."""
    if not report.exists():
        return {}
    found: dict[str, dict[str, Any]] = {}
    for case in xml.parse(report).iter("testcase"):
        bad = [child for child in case if child.tag in ("failure", "error", "skipped")]
        state = "passed" if not bad else "skipped" if bad[0].tag == "skipped" else "failed"
        about = {"state": state, "seconds": float(case.get("time", 0))}
        found[f"{case.get('classname')}::{case.get('name')}"] = about | (
            {"message": (bad[0].get("message") or "")[:1500]} if bad else {}
        )
    return found


def sharded(job: Job) -> Found:
    """A ViT under torchrun in one process, its blocks sharded and checkpointed, in bf16."""
    arguments = job.arguments
    count = 4 * arguments.batch
    large, small = arguments.sizes
    vit = vit_for(job)
    heads = f"{{widths: {list(arguments.heads)}}}"
    settings = [
        "compute={shard: fsdp2, checkpointing: true, precision: bf16}", "optim={name: adamw, lr: 0.001}",
        f"backbone={{name: {vit.name}, args: {json.dumps(vit.args)}}}", f"projector={heads}", f"predictor={heads}",
        f"views={{global: {{count: 2, size: {large}}}, local: {{count: 2, size: {small}}}}}", "epochs=2",
        f"batch={arguments.batch}", "schedule.warmup_epochs=1", "checkpoint.log_steps=1",
    ]  # fmt: skip
    with folder_of((photographs(arguments.images) * count)[:count]) as folder:
        recipe = folder / "recipe.yaml"
        recipe.write_text("{}\n", encoding="utf-8")
        workers = str(min(8, os.cpu_count() or 1))
        command = [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", "pretrain/run.py",
            "--config", str(recipe), "--data", f"folder:{folder}", "--out", str(folder / "run"), "--device",
            job.device.type, "--workers", workers, *settings,
        ]  # fmt: skip
        log, ended = run(command, max(20, job.left()))
        metrics = folder / "run" / "metrics.jsonl"
        lines = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []
    if ended != 0 or not lines:
        raise RuntimeError(f"the run ended with {ended}: {log[-1500:]}")
    rates = {"in fp32 states, bf16 passes": [line["images_per_second"] for line in lines[1:4]]}
    rows = [Row("pre-training of a ViT under fsdp2 in one process, with its loader", "images/s", rates)]
    return Found(
        rows, {"losses": [line["loss"] for line in lines], "plan": re.findall(r"^(?:memory|compute) .*", log, re.M)}
    )


def run(command: Sequence[str], seconds: float) -> tuple[str, int | str]:
    """Output of a command, and its exit code or `out of time`."""
    places = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    try:
        log, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # pytest then writes its report
        try:
            log, _ = process.communicate(timeout=8)
        except subprocess.TimeoutExpired:
            process.kill()
            log, _ = process.communicate()
        return log, "out of time"
    except BaseException:
        process.kill()
        process.communicate()
        raise
    return log, process.returncode

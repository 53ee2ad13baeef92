"""All comparisons of the CPU, one after the other, into one JSON. `python benchmarks/run.py`"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.alternate import cpu_name

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
CORES = str(os.cpu_count())
COMMANDS: dict[str, list[str]] = {
    "views": [],
    "step": ["--threads", CORES],
    "knn": ["--threads", CORES, "--rounds", "2", "--plot", "docs/pictures/knn_cost.png"],
    "probes": [],
    "convert": ["--threads", CORES],
    "scaling": ["--rounds", "2"],
    "startup": [],
}
"""Benchmark -> its arguments on a machine that has nothing else to do."""


def main() -> None:
    """Ends with the first comparison that fails; what was measured before is kept."""
    parser = argparse.ArgumentParser(description="Run all comparisons of the CPU and write their figures.")
    parser.add_argument("--only", nargs="*", choices=list(COMMANDS), default=list(COMMANDS), help="default: all")
    parser.add_argument("--out", type=Path, help="default benchmarks/results/MACHINE.json")
    parser.add_argument("--more", nargs=argparse.REMAINDER, default=[], help="arguments for each of them, at the end")
    arguments = parser.parse_args()
    out = arguments.out or RESULTS / f"{slug(cpu_name())}-{CORES}-cores.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    for name in arguments.only:
        begun = time.monotonic()
        document = measure(name, [*COMMANDS[name], *arguments.more])
        known = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
        found = {**known, name: {**document, "seconds": round(time.monotonic() - begun, 1)}}
        out.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{time.monotonic() - started:.0f} s; figures: {out}  (next: python benchmarks/report.py {out})")


def measure(name: str, arguments: list[str]) -> dict[str, object]:
    """The document that the comparison writes; its own lines appear on the terminal."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "found.json"
        command = [sys.executable, f"benchmarks/{name}.py", "--json", str(file), *arguments]
        if subprocess.run(command, cwd=ROOT, check=False).returncode:
            sys.exit(f"error: {' '.join(command[1:])} failed")
        return json.loads(file.read_text(encoding="utf-8"))


def slug(name: str) -> str:
    """Lower case, words joined by hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


if __name__ == "__main__":
    main()

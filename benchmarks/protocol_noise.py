"""Spread of each small protocol's numbers over seeds and over arithmetic, for one network whose weights stay.

`python benchmarks/protocol_noise.py --ckpt runs/demo --out results/noise --write` writes it into the protocols' files.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from core.config import read_yaml
from core.files.atomic_file import write_atomically
from core.files.cache_folder import cache_folder
from core.project import ROOT
from evaluate.common.protocol import FOLDER
from evaluate.suites.config import runs
from evaluate.tables.results import StoredResult, read_results

ARITHMETIC = {
    "one thread": {},
    "two threads": {},
    "AVX2 kernels": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "plain kernels": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"},
}
"""Variables of each way to compute; the first one is that of the seeds."""
ENGINES = ("coco", "segment")
_OWN_DATA = ("transfer_sets",)
_SHARED = ("fashion-mnist", "rendered")
"""Parts of the cache that hold no features."""


def main() -> None:
    """Runs what has no result yet, prints the spreads, and with --write puts them into configs/evaluate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", required=True, help="network that is measured")
    parser.add_argument("--out", type=Path, default=Path("results/noise"), help="folder of results")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 … N-1 (default 3)")
    parser.add_argument("--protocols", nargs="*", help="names (default: all small ones without an engine)")
    parser.add_argument("--arithmetic", nargs="*", default=list(ARITHMETIC), choices=list(ARITHMETIC))
    parser.add_argument("--write", action="store_true", help="write the spreads into configs/evaluate")
    arguments = parser.parse_args()
    names = arguments.protocols or [name for name in small_protocols() if run_of(name) not in ENGINES]
    arguments.out.mkdir(parents=True, exist_ok=True)
    suite = arguments.out / "suite.yaml"
    suite.write_text(yaml.safe_dump({"evaluations": [{"run": run_of(name), "protocol": name} for name in names]}))
    for way in arguments.arithmetic:
        seeds = arguments.seeds if way == next(iter(ARITHMETIC)) else 1
        subprocess.run(
            command(arguments.ckpt, suite, arguments.out / slug(way), seeds, way), env=environment(arguments.out, way)
        )
    for name, noise in spreads(arguments.out, names).items():
        print(f"{name}: {noise}")
        if arguments.write and noise:
            write_noise(FOLDER / f"{name}.yaml", noise)


def small_protocols() -> list[str]:
    """Names of the shipped protocols that are scaled down and bring their data."""
    files = sorted(FOLDER.glob("*.yaml"))
    return [f.stem for f in files if read_yaml(f).get("scaled_down") and run_of(f.stem) not in _OWN_DATA]


def run_of(name: str) -> str:
    """What a suite calls the protocol's kind."""
    kind = read_yaml(FOLDER / f"{name}.yaml")["kind"]
    return next(run for run, description in runs().items() if description.kind == kind)


def slug(way: str) -> str:
    """Folder of a way to compute."""
    return way.replace(" ", "-").lower()


def command(ckpt: str, suite: Path, results: Path, seeds: int, way: str) -> list[str]:
    """The suite on the CPU with one thread per run, or two."""
    cores = len(os.sched_getaffinity(0))
    jobs = cores // 2 if way == "two threads" else cores
    return [
        *(sys.executable, str(ROOT / "evaluate/suite.py"), "--ckpts", ckpt, "--suite", str(suite)),
        *("--seeds", str(seeds), "--results", str(results), "--device", "cpu", "--jobs", str(max(1, jobs))),
    ]


def environment(out: Path, way: str) -> dict[str, str]:
    """Variables of a way to compute, with a cache of its own: features of another way would hide the difference."""
    cache = (out / "cache" / slug(way)).resolve()
    cache.mkdir(parents=True, exist_ok=True)
    for part in _SHARED:
        shared = cache_folder() / part
        shared.mkdir(parents=True, exist_ok=True)
        if not (cache / part).exists():
            (cache / part).symlink_to(shared.resolve())
    return {**os.environ, **ARITHMETIC[way], "SSL_TRANSFER_CACHE": str(cache)}


def spreads(out: Path, names: Sequence[str]) -> dict[str, dict[str, dict[str, float]]]:
    """Per protocol and metric the standard deviations: `seeds` with one thread, `arithmetic` with seed 0."""
    stored = {way: read_results(out / slug(way)) for way in ARITHMETIC if any((out / slug(way)).rglob("result.json"))}
    first = next(iter(ARITHMETIC))
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name in names:
        of_seeds = _values(stored.get(first, []), name)
        of_ways = [_values(results, name).get(0, {}) for results in stored.values()]
        found[name] = {}
        for metric in next(iter(of_seeds.values()), {}):
            seeds = [values[metric] for values in of_seeds.values()]
            ways = [values[metric] for values in of_ways if metric in values]
            found[name][metric] = {"seeds": _deviation(seeds), "arithmetic": _deviation(ways)}
    return found


def _values(results: Sequence[StoredResult], name: str) -> dict[int, Mapping[str, float]]:
    """Headline metrics of a protocol by seed."""
    return {r.document["seed"]: r.headline_metrics() for r in results if r.document["protocol"] == name}


def _deviation(values: Sequence[float]) -> float:
    return float(f"{statistics.stdev(values):.2g}") if len(values) > 1 else 0.0


def write_noise(file: Path, noise: Mapping[str, Mapping[str, float]]) -> None:
    """Puts `noise:` behind the protocol's version, in place of what stands there."""
    text = re.sub(r"^noise:.*\n(?: +.*\n)*", "", file.read_text(encoding="utf-8"), flags=re.M)
    lines = "".join(
        f"  {metric}: {{seeds: {found['seeds']:g}, arithmetic: {found['arithmetic']:g}}}\n"
        for metric, found in noise.items()
    )
    text = re.sub(r"^(protocol_version:.*\n)", lambda match: f"{match[1]}noise:\n{lines}", text, count=1, flags=re.M)
    write_atomically(file, lambda partial: partial.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    main()

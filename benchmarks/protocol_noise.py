"""Spread of each small protocol's numbers over seeds and over arithmetic, for one network whose weights stay.

`python benchmarks/protocol_noise.py --ckpt runs/demo --out results/noise --write` writes it into the protocols' files.
The same command resumes a stopped or failed measurement.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from core.config import read_yaml
from core.errors import UserError, run_entry_point
from core.files.atomic_file import write_atomically
from core.files.cache_folder import cache_folder
from core.project import ROOT
from evaluate.common.protocol import FOLDER, Noise, current_version
from evaluate.suites.config import Evaluation, runs
from evaluate.suites.measurement import measurement_of
from evaluate.tables.results import StoredResult, read_usable, row_of

ARITHMETIC = {
    "one thread": {},
    "two threads": {},
    "AVX2 kernels": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "plain kernels": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"},
}
"""Variables of each way to compute."""
ONE_THREAD = "one thread"
"""The way in which the seeds are run."""
ENGINES = ("coco", "segment")
_OWN_DATA = ("transfer_sets",)
_SHARED = ("fashion-mnist", "rendered")
"""Parts of the cache that hold no features."""


@dataclass(frozen=True)
class Spread:
    """What one protocol's results say."""

    noise: dict[str, Noise]
    """By metric."""
    basis: str
    """Seeds, ways to compute and network that it rests on, as a clause."""


def main() -> None:
    """Runs what has no result yet, prints the spreads, and with --write puts them into configs/evaluate."""
    arguments = _arguments()
    names = list(dict.fromkeys(arguments.protocols or [n for n in small_protocols() if run_of(n) not in ENGINES]))
    ways = [way for way in ARITHMETIC if way in arguments.arithmetic]
    arguments.out.mkdir(parents=True, exist_ok=True)
    suite = arguments.out / "suite.yaml"
    suite.write_text(yaml.safe_dump({"evaluations": [{"run": run_of(name), "protocol": name} for name in names]}))
    for way in ways:
        seeds = arguments.seeds if way == ONE_THREAD else 1
        run_suite(command(arguments.ckpt, suite, arguments.out / slug(way), seeds, way), arguments.out, way)
    stored = {way: read_usable(arguments.out / slug(way))[0] for way in ways}
    incomplete = False
    for name in names:
        try:
            spread = spread_of(name, stored, arguments.seeds)
        except UserError as error:
            incomplete = True
            print(f"{name}: no noise: {error}", file=sys.stderr)
            continue
        shown = ", ".join(f"{metric} {asdict(noise)}" for metric, noise in spread.noise.items())
        print(f"{name}: {shown} ({spread.basis})")
        if arguments.write:
            write_noise(FOLDER / f"{name}.yaml", spread)
    if incomplete:
        sys.exit(1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", required=True, help="network that is measured")
    parser.add_argument("--out", type=Path, default=Path("results/noise"), help="folder of results")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 … N-1, two or more (default 3)")
    parser.add_argument("--protocols", nargs="*", help="names (default: all small ones without an engine)")
    parser.add_argument(
        "--arithmetic", nargs="*", default=list(ARITHMETIC), choices=list(ARITHMETIC),
        help=f"ways to compute, {ONE_THREAD!r} and at least one more (default all)",
    )  # fmt: skip
    parser.add_argument("--write", action="store_true", help="write the spreads into configs/evaluate")
    arguments = parser.parse_args()
    if arguments.seeds < 2:
        raise UserError(f"--seeds must be 2 or more, as one number has no spread, not {arguments.seeds}")
    if ONE_THREAD not in arguments.arithmetic or len(set(arguments.arithmetic)) < 2:
        raise UserError(
            f"--arithmetic must have {ONE_THREAD!r}, the way of the seeds, and at least one more to compare"
        )
    return arguments


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


def run_suite(words: Sequence[str], out: Path, way: str) -> None:
    """Runs the suite in one way. Raises `UserError` if it fails."""
    if code := subprocess.run(words, env=environment(out, way)).returncode:
        raise UserError(
            f"the suite in {out / slug(way)} ended with exit code {code}; see the lines above, then give the same "
            "command again: it skips what is done"
        )


def spread_of(name: str, stored: Mapping[str, Sequence[StoredResult]], seeds: int) -> Spread:
    """Standard deviations of a protocol: over so many seeds with one thread, and with seed 0 over the ways of `stored`.

    Seeds that decide nothing have a deviation of 0 and are run once. Raises `UserError` with the first result that is
    missing, and where results are of several networks or have different metrics.
    """
    of_way = {way: _by_seed(results, name) for way, results in stored.items()}
    seed_matters = measurement_of(Evaluation(run_of(name), name), 1).seed_matters
    of_seeds = [(ONE_THREAD, seed) for seed in range(seeds if seed_matters else 1)]
    of_ways = [(way, 0) for way in stored]
    found: dict[tuple[str, int], StoredResult] = {}
    for way, seed in (*of_seeds, *of_ways):
        if seed not in of_way[way]:
            raise UserError(f"the result of seed {seed} with {way} is missing; the suite's lines above say why")
        found[way, seed] = of_way[way][seed]
    if len({result.document["checkpoint"]["backbone_sha256"] for result in found.values()}) > 1:
        raise UserError("its results are of several networks; choose another folder with --out")
    values = {key: result.headline_metrics() for key, result in found.items()}
    metrics = list(values[ONE_THREAD, 0])
    if any(list(each) != metrics for each in values.values()):
        raise UserError("its results have different metrics; choose another folder with --out")
    noise = {
        metric: Noise(
            _deviation([values[key][metric] for key in of_seeds]) if seed_matters else 0.0,
            _deviation([values[key][metric] for key in of_ways]),
        )
        for metric in metrics
    }
    *before, last = stored
    counted = f"{seeds} seeds" if seed_matters else "one seed, as it decides nothing"
    network = row_of(found[ONE_THREAD, 0].document)
    return Spread(noise, f"{counted}; {', '.join(before)} and {last}; {network}")


def _by_seed(results: Sequence[StoredResult], name: str) -> dict[int, StoredResult]:
    """Results of the protocol in its present version."""
    version = current_version(name)
    return {r.document["seed"]: r for r in results if r.document["protocol"] == name and r.version == version}


def _deviation(values: Sequence[float]) -> float:
    return float(f"{statistics.stdev(values):.2g}")


def write_noise(file: Path, spread: Spread) -> None:
    """Puts `noise:` and a comment on its basis behind the protocol's version, in place of what stands there.

    Raises `UserError` if the file states no version.
    """
    text = file.read_text(encoding="utf-8")
    text = re.sub(r"^# Measured with .*\n(?:#.*\n)*(?=noise:)", "", text, flags=re.M)
    text = re.sub(r"^noise:.*\n(?: +.*\n)*", "", text, flags=re.M)
    sentence = " ".join(f"Measured with {spread.basis}.".split())
    comment = textwrap.wrap(sentence, 118, break_long_words=False, break_on_hyphens=False)
    lines = [f"# {line}\n" for line in comment] + ["noise:\n"]
    lines += [
        f"  {metric}: {{seeds: {found.seeds:g}, arithmetic: {found.arithmetic:g}}}\n"
        for metric, found in spread.noise.items()
    ]
    text, count = re.subn(r"^protocol_version:.*\n", lambda found: found[0] + "".join(lines), text, count=1, flags=re.M)
    if not count:
        raise UserError(f"{file} states no version to put the noise behind; add the line protocol_version: 1")
    write_atomically(file, lambda partial: partial.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    run_entry_point(main)

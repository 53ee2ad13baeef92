"""Kills runs at many moments, resumes them and compares: `python -m tests.reliability.soak --out soak.json`."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

from core.checkpoints import load_exported, load_training_state, training_states
from tests.reliability.killing import Ended, Kill, run
from tests.reliability.subjects import SUBJECTS, Subject


def moments(subject: Subject, whole: Ended, count: int, dice: random.Random) -> list[Kill]:
    """`count` kills: up to half at the subject's chosen points, the others by the clock or before a file operation."""
    chosen = dice.sample(subject.chosen, min(len(subject.chosen), count // 2))
    kills = []
    for number in range(count - len(chosen)):
        way = signal.SIGTERM if number % 3 == 2 else signal.SIGKILL
        if number % 2:
            kills.append(Kill(way, nth=dice.randrange(len(whole.events)) + 1))
        else:
            kills.append(Kill(way, after=dice.uniform(0, whole.seconds)))
    return chosen + kills


def label(event: str) -> str:
    """An event without numbers, so that equal ones can be counted."""
    kind, _, path = event.partition(" ")
    name = "".join("N" if letter.isdigit() else letter for letter in Path(path).name)
    while "NN" in name:
        name = name.replace("NN", "N")
    return f"{kind} {name}".strip()


def check_files(out: Path, ended: Ended) -> None:
    """Whatever bears a good file's name is a good file, and two states stay once there were two."""
    states = training_states(out / "checkpoints")
    for path in states:
        load_training_state(path)
    for path in out.glob("*.safetensors"):
        if path.name.startswith("backbone"):
            load_exported(path)
    named = sum("os.rename" in event and "step_" in event for event in ended.events)
    assert len(states) >= min(2, named - 1), (states, ended.moment)
    assert len(states) <= 3, states


def soak(subject: Subject, count: int, seed: int, place: Path) -> dict[str, object]:
    """Kills the subject `count` times, each in a folder of its own, and resumes each to its end."""
    dice, begun = random.Random(seed), time.monotonic()
    torch.set_num_threads(1)  # forks have no pool of threads
    for name in subject.modules:
        module, _, function = name.partition(":")
        imported = importlib.import_module(module)
        if function:
            getattr(imported, function)()
    given = subject.prepare(place)

    def go(out: Path, kill: Kill | None = None) -> Ended:
        return run(subject.main, subject.arguments(given, out), out, kill, subject.points)

    reference = place / "whole"
    whole = go(reference)
    assert whole.code == 0, whole.text
    expected = subject.outcome(reference)
    ways: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    survived = late = 0
    plan = moments(subject, whole, count, dice)
    while plan:
        kill, out = plan.pop(0), place / f"run{survived + late}"
        ended = go(out, kill)
        if not ended.killed:
            assert ended.code == 0, (kill, ended.text)
            late += 1  # the run was over before: another one in its place, by the clock
            plan.append(Kill(kill.number, after=dice.uniform(0, whole.seconds / 2)))
        else:
            check_files(out, ended)
            resumed = go(out)
            assert resumed.code == 0, (kill, ended.moment, resumed.text)
            survived += 1
            way = "mid-write" if ended.code == -signal.SIGXFSZ else "SIGKILL" if ended.code == -9 else "SIGTERM"
            ways[way] += 1
            seen[label(ended.moment)] += 1
        found = subject.outcome(out)
        assert found == expected, (kill, ended.moment, out, _difference(found, expected))
        check_files(out, whole)
        left = [str(path) for path in out.rglob("*") if path.name.endswith(".partial")]
        assert not left, (kill, ended.moment, left)
        shutil.rmtree(out)
        print(f"\r{subject.name}: {survived} of {count} kills survived", end="", flush=True)
    print(f", {time.monotonic() - begun:.0f} s")
    return {
        "kills": survived, "by": dict(ways), "run_seconds": round(whole.seconds, 2), "too_late": late,
        "seconds": round(time.monotonic() - begun), "last_event_before": dict(seen.most_common()),
        "file_operations_in_a_run": len(whole.events), "ends": subject.ends,
    }  # fmt: skip


def _difference(found: dict[str, object], expected: dict[str, object]) -> dict[str, object]:
    return {key: (found.get(key), expected[key]) for key in expected if found.get(key) != expected[key]}


def main() -> None:
    """Parses, soaks, writes the figures."""
    parser = argparse.ArgumentParser(description="Kill runs at many moments, resume them and compare.")
    parser.add_argument("--parts", nargs="+", default=list(SUBJECTS), choices=list(SUBJECTS))
    parser.add_argument("--kills", type=int, help="of each part (default 120 for pretrain, 12 for the others)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    arguments = parser.parse_args()
    figures = {}
    for name in arguments.parts:
        place = Path(tempfile.mkdtemp(prefix=f"soak-{name}-"))
        os.environ["SSL_TRANSFER_CACHE"] = str(place / "cache")
        count = arguments.kills or (120 if name == "pretrain" else 12)
        figures[name] = soak(SUBJECTS[name], count, arguments.seed, place)
        shutil.rmtree(place)
        if arguments.out:
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            arguments.out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()

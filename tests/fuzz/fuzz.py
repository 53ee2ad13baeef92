"""Opens thousands of damaged inputs. `python tests/fuzz/fuzz.py` tries 28,800; `--kind K --number N` repeats one."""

from __future__ import annotations

import argparse
import collections
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from tests.fuzz.kinds import KINDS, REFUSED

PATIENCE = 20.0
"""Seconds that one input may take, on a machine that does other things too."""


class Hang(BaseException):
    """An input that takes too long. No `Exception`, so that nobody handles it."""


def _hang(*_signal: Any) -> None:
    raise Hang(f"longer than {PATIENCE:g} s")


def fuzz(kind: str, count: int, seed: int, folder: Path, first: int = 0) -> collections.Counter[str]:
    """Tries inputs `first` … `first` + `count` − 1 of a kind below `folder`; how many were opened and refused.

    Each input depends on seed, kind and its number alone. Raises `AssertionError`, naming the input, where anything but
    a refusal escapes, where it takes too long, or where what it opens to is not what it should be.
    """
    os.environ["SSL_TRANSFER_CACHE"] = str(folder / "cache")
    place = folder / kind.replace(" ", "-")
    place.mkdir(parents=True)
    trial = KINDS[kind][0](place)
    ends: collections.Counter[str] = collections.Counter()
    before = signal.signal(signal.SIGALRM, _hang)
    try:
        with warnings.catch_warnings(), Path(os.devnull).open("w") as nowhere, redirect_stderr(nowhere):
            warnings.simplefilter("ignore")
            for number in range(first, first + count):
                signal.setitimer(signal.ITIMER_REAL, PATIENCE)
                try:
                    trial(random.Random(f"{seed} {kind} {number}"))
                    ends["opened"] += 1
                except REFUSED:
                    ends["refused"] += 1
                except (Exception, Hang) as error:
                    where = "".join(traceback.format_exception(error)[-6:])
                    raise AssertionError(f"{kind}, input {number}, seed {seed}: {error!r}\n{where}") from error
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.signal(signal.SIGALRM, before)
    return ends


def main() -> None:
    """Tries all kinds and prints figures."""
    parser = argparse.ArgumentParser(description="Open damaged inputs of every kind and see that they are refused.")
    parser.add_argument("--kind", choices=KINDS, help="one kind alone")
    parser.add_argument("--number", type=int, help="with --kind: this input alone")
    parser.add_argument("--seed", type=int, help="of all inputs (default: another one each time, printed)")
    parser.add_argument("--share", type=float, default=1.0, help="of the usual number of inputs (default 1)")
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    seed = random.SystemRandom().randrange(2**31) if arguments.seed is None else arguments.seed
    print(f"seed {seed}", flush=True)
    started, total, defects, peak = time.time(), 0, 0, 0.0
    for kind in [arguments.kind] if arguments.kind else KINDS:
        count = max(1, round(KINDS[kind][1] * arguments.share))
        first = 0 if arguments.number is None else arguments.number
        begun = time.time()
        with tempfile.TemporaryDirectory() as folder:
            try:
                ends = fuzz(kind, 1 if arguments.number is not None else count, seed, Path(folder), first)
            except AssertionError as defect:
                defects += 1
                print(defect, flush=True)
                continue
        total += sum(ends.values())
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{kind:24} {sum(ends.values()):6,} inputs: {ends['refused']:6,} refused, {ends['opened']:6,} opened; "
              f"{time.time() - begun:6.1f} s, {peak:6,.0f} MiB so far", flush=True)  # fmt: skip
    print(
        f"{total:,} inputs, {defects} kinds with a defect, {time.time() - started:.0f} s, peak memory {peak:,.0f} MiB"
    )
    sys.exit(bool(defects))


if __name__ == "__main__":
    main()

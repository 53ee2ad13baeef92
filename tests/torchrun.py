"""Starts a script under torchrun on the CPU, as a user would, and gives back what it printed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def torchrun(script: Path, *arguments: str, processes: int = 2, timeout: int = 240) -> subprocess.CompletedProcess[str]:
    """Runs `script` in `processes` gloo processes of one thread each; the caller checks the return code."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"),
            *(str(script), *arguments),
        ],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *_path()])},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def python(*arguments: str, timeout: int = 240) -> subprocess.CompletedProcess[str]:
    """Runs one Python process on the CPU, as a user would."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def _path() -> list[str]:
    """Where else Python looks: another distribution of a package under test may lie there."""
    return [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]

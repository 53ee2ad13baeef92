"""Training curves of the runs that results come from: losses per view type and k-NN accuracy over epochs."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.files.atomic_file import file_digest

VIEW = "loss/"
MONITOR = "knn_top1"
_LOSS = "loss"
_ONLY = "loss/global"
"""Runs with a single view type, which is always this one, write their loss without its name."""


@dataclass(frozen=True)
class Run:
    """Content of metrics.jsonl of one pre-training run."""

    folder: Path
    series: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]]
    """By key (`loss/global`, …, `knn_top1`): epochs, and as many values."""
    damaged: int
    """Lines that could not be read, or that hold a number that is not finite."""
    lines: int
    """All lines."""


def find_run(checkpoint: Mapping[str, Any]) -> Run | str:
    """The run that a result's checkpoint came from, or a clause that says why there are no curves of it."""
    if checkpoint.get("family") != "ssl-transfer":
        return "not pre-trained here"
    file = _file(str(checkpoint.get("given", "")))
    if file is None:
        return f"{_shortened(str(checkpoint.get('given', '')))} is not there any more"
    folder = file.parent.parent if file.parent.name == "checkpoints" else file.parent
    metrics = folder / "metrics.jsonl"
    if not metrics.is_file():
        return f"there is no {metrics}"
    try:
        if checkpoint.get("file_sha256") not in (None, file_digest(file)):
            return f"{file} has changed since, so {metrics} may be of another run"
        return read_run(metrics)
    except OSError as error:
        return f"{error.filename} can't be read ({error.strerror})"


def read_run(metrics: Path) -> Run:
    """Contents of a metrics.jsonl; torn and damaged lines are counted and skipped."""
    series: dict[str, tuple[list[float], list[float]]] = {}
    damaged = 0
    lines = metrics.read_text(encoding="utf-8", errors="replace").splitlines()
    for line in lines:
        try:
            values = json.loads(line)
            epoch = float(values["epoch"])
            found = {key: float(value) for key, value in values.items() if _shown(key)}
            if not all(math.isfinite(value) for value in (epoch, *found.values())):
                raise ValueError("not finite")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            damaged += 1
            continue
        for key, value in found.items():
            epochs, column = series.setdefault(key, ([], []))
            epochs.append(epoch)
            column.append(value)
    kept = {key: (tuple(epochs), tuple(column)) for key, (epochs, column) in series.items()}
    whole = kept.pop(_LOSS, None)
    if whole is not None and not any(key.startswith(VIEW) for key in kept):
        kept[_ONLY] = whole
    return Run(metrics.parent, kept, damaged, len(lines))


def _shown(key: str) -> bool:
    return key in (_LOSS, MONITOR) or key.startswith(VIEW)


def _file(given: str) -> Path | None:
    """The file that stands in front of the brackets in `runs/r50/backbone.safetensors (exported online …)`."""
    ends = [i for i in range(len(given)) if given.startswith(" (", i)]
    for end in reversed(ends):
        with contextlib.suppress(OSError):  # a name may be too long to be one
            if (file := Path(given[:end])).is_file():
                return file
    return None


def _shortened(given: str) -> str:
    return given.partition(" (")[0] or "its checkpoint"

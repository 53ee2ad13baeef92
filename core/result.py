"""result.json: a number together with everything needed to compare or repeat it."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from core.backbones import Backbone, describe
from core.checkpoints import backbone_digest
from core.files.atomic_file import write_atomically
from core.project import RESULT_FORMAT, ROOT

_LIBRARIES = (
    *("torch", "torchvision", "timm", "numpy", "pillow", "faiss-cpu", "faiss-gpu", "scikit-learn"),
    *("detectron2", "pycocotools", "faster-coco-eval"),
    *("onedl-mmengine", "onedl-mmcv", "onedl-mmsegmentation", "mmengine", "mmcv", "mmcv-lite", "mmsegmentation"),
)


@dataclass(frozen=True)
class Result:
    protocol: str
    """The protocol's name; numbers of different names are not comparable."""
    metrics: dict[str, Any]
    """Numbers of the protocol; in each metric's unit."""
    backbone: Backbone
    """Backbone that was measured."""
    data: dict[str, Any]
    """Per part of the data (bank, queries, …): name, size, digest, broken images."""
    seed: int
    """Random seed."""
    settings: dict[str, Any]
    """The resolved protocol; its `kind`, `scaled_down` and `protocol_version` stand in the first level too."""
    started: float
    """time.time() at the start, for the wall time."""
    device: torch.device
    """Device of the measurement."""


def write_result(path: Path, result: Result) -> dict[str, Any]:
    """Writes result.json atomically and returns its content."""
    document = {
        "format": RESULT_FORMAT,
        "protocol": result.protocol,
        "protocol_version": result.settings["protocol_version"],
        "kind": result.settings["kind"],
        "scaled_down": result.settings["scaled_down"],
        "metrics": result.metrics,
        "backbone": describe(result.backbone.config),
        "checkpoint": {
            "given": result.backbone.source,
            "backbone_sha256": backbone_digest(result.backbone),
            "mean": list(result.backbone.config.mean),
            "std": list(result.backbone.config.std),
            "pos_resize": result.backbone.config.pos_resize,
            **result.backbone.origin,
        },
        "data": result.data,
        "seed": result.seed,
        "settings": result.settings,
        "wall_seconds": round(time.time() - result.started, 2),
        "device": device_name(result.device),
        "libraries": library_versions(),
        "git_revision": git_revision(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(result.started)),
    }
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8", errors="backslashreplace"))
    return document


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that shape a number."""
    versions = {"python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def device_name(device: torch.device) -> str:
    """The GPU's name, or the CPU's architecture."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU ({platform.machine()})"


@cache
def git_revision() -> str:
    """The project's commit, with `-dirty` where files are changed; `unknown` outside a checkout.

    Determined once: the running code is that of the start. A repository around an installed package isn't ours.
    """
    if not (ROOT / ".git").exists():
        return "unknown"
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"

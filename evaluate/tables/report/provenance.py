"""Provenance of a number: the facts in result.json, human-readable and in full."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from evaluate.common.plan import duration
from evaluate.tables.report.grouping import Measured


@dataclass(frozen=True)
class Provenance:
    facts: tuple[tuple[str, str], ...]
    """Name and value, in the order to read them in."""
    link: str
    """Address of result.json relative to the page."""
    document: str
    """All of result.json."""


def provenance(measured: Measured, page_folder: Path) -> Provenance:
    """Provenance of one result, for a page in `page_folder`."""
    document = measured.result.document
    checkpoint = _mapping(document.get("checkpoint"))
    facts = {
        "protocol": document.get("protocol"),
        "protocol version": measured.result.version,
        "metrics": _listed(_numbers(_mapping(document.get("metrics")))),
        "seed": document.get("seed"),
        "backbone": document.get("backbone"),
        "checkpoint": checkpoint.get("given"),
        "weights loaded": checkpoint.get("coverage") or _mapping(document.get("settings")).get("loaded"),
        "sha256 of the weights": checkpoint.get("backbone_sha256"),
        "sha256 of the file": checkpoint.get("file_sha256"),
        **{f"data, {part}": _data(_mapping(facts)) for part, facts in _mapping(document.get("data")).items()},
        "date": document.get("date"),
        "wall time": duration(seconds) if isinstance(seconds := document.get("wall_seconds"), int | float) else None,
        "device": document.get("device"),
        "git revision": document.get("git_revision"),
        "libraries": _listed(_mapping(document.get("libraries"))),
    }
    return Provenance(
        tuple((name, str(value)) for name, value in facts.items() if value not in (None, "")),
        relative(measured.result.path, page_folder),
        json.dumps(document, indent=2, ensure_ascii=False),
    )


def relative(path: Path, folder: Path) -> str:
    """Address of `path` seen from a page in `folder`."""
    return quote(os.fsencode(Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _numbers(metrics: Mapping[str, Any]) -> dict[str, str]:
    return {
        key: f"{value:.2f}" if isinstance(value, float) else str(value)
        for key, value in metrics.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _data(facts: Mapping[str, Any]) -> str:
    parts = [str(facts.get("name", "")), f"{facts['images']:,} images" if isinstance(facts.get("images"), int) else ""]
    if broken := facts.get("broken"):
        parts.append(f"{len(broken)} broken")
    return "; ".join([*filter(None, parts), f"digest {facts.get('digest', 'unknown')}"])

"""Stored results: every result.json below a folder, its row in the table, and the names given to rows."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from core.config import read_yaml
from core.errors import UserError
from core.project import RESULT_FORMAT, command
from evaluate.common.description import Description
from evaluate.common.registry import find_description
from evaluate.tables.older_results import kind_of, scaled_down, version_of

NAMES_FILE = "names.yaml"
_COLOURS = ("mean", "std")
"""Facts about a checkpoint that are numbers per channel; all others are texts."""


@dataclass(frozen=True)
class StoredResult:
    path: Path
    """The result.json."""
    document: dict[str, Any]
    """Its content."""

    @property
    def kind(self) -> str:
        """Kind of the evaluation, also of results written before they stated it."""
        return kind_of(self.document)

    @property
    def description(self) -> Description:
        """The evaluation that measured it. Raises `UserError` for an unknown one."""
        return find_description(self.kind)

    @property
    def version(self) -> int:
        """Version of its protocol."""
        return version_of(self.document)

    @property
    def scaled_down(self) -> bool:
        """True if its protocol was made for small machines."""
        return scaled_down(self.document)

    def headline_metrics(self) -> dict[str, float]:
        """The numbers that stand for the protocol, by the keys of the description's metrics."""
        return self.description.headline_metrics(self.document)


def read_results(folder: Path) -> list[StoredResult]:
    """Every result.json below `folder`, by path. Raises `UserError` if none is found or one is another file."""
    results = [read_result(path) for path in sorted(folder.rglob("result.json"))]
    if not results:
        raise UserError(
            f"no result.json below {folder}; run an evaluation first: {command('evaluate/knn.py')} --ckpt …"
        )
    return results


def read_usable(folder: Path) -> tuple[list[StoredResult], list[str]]:
    """Every result.json below `folder` that is one, by path, and for each other one a sentence that says what it is."""
    results, sentences = [], []
    for path in sorted(folder.rglob("result.json")):
        try:
            results.append(read_result(path))
        except UserError as error:
            sentences.append(str(error))
    return results, sentences


def read_result(path: Path) -> StoredResult:
    """One result.json. `UserError` where it is something else, or where what it measured is not a number."""
    try:
        # Names of files need not be UTF-8; what is shown must be.
        text = json.dumps(json.loads(path.read_text(encoding="utf-8")), ensure_ascii=False)
        document = json.loads(text.encode("utf-8", "replace"))
        if document["format"] != RESULT_FORMAT:
            raise ValueError(f"its format is {document['format']!r}")
        _check_types(document)
        row_of(document), data_of(document), run_of(document), version_of(document)
        result = StoredResult(path, document)
        measured = result.headline_metrics()
        if not measured:
            raise ValueError(f"its metrics have none of {', '.join(each.key for each in result.description.metrics)}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise UserError(f"{path} is not a result of this project ({error}); move it away") from None
    if wrong := [key for key, value in measured.items() if not math.isfinite(value)]:
        raise UserError(
            f"{path} measured a {wrong[0]} of {measured[wrong[0]]}, so training or the features diverged; look into "
            f"the log, then move it away or measure again with a lower learning rate"
        )
    return result


def _check_types(document: dict[str, Any]) -> None:
    """Raises `ValueError` or `KeyError` where what the table and the page go by is of another type than written."""
    checkpoint, data, metrics = document["checkpoint"], document["data"], document["metrics"]
    facts = [value for key, value in checkpoint.items() if key not in _COLOURS]
    texts = [document["protocol"], document["backbone"], checkpoint["backbone_sha256"], *facts]
    texts += [part["digest"] for part in data.values()] + [metrics.get("metric", "")]
    counts = [document["seed"], *(part.get("images", 0) for part in data.values())]
    seconds = document.get("wall_seconds", 0)
    if not all(isinstance(text, str) for text in texts) or not isinstance(document.get("settings", {}), dict):
        raise ValueError("its protocol, backbone, checkpoint and data must be strings")
    colours = [value for key in _COLOURS for value in checkpoint.get(key, [0.0])]
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in colours):
        raise ValueError("its checkpoint's mean and std must be numbers")
    if not all(type(count) is int and 0 <= count < 2**53 for count in counts):
        raise ValueError("its seed and its numbers of images must be whole numbers")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < 1e12:
        raise ValueError(f"invalid wall_seconds: {seconds}")


def row_of(document: dict[str, Any]) -> str:
    """Identity of the network: architecture and training, without the seed; of a foreign checkpoint also its weights.

    Another file may lie at the same path tomorrow, so a path alone does not identify it.
    """
    checkpoint = document["checkpoint"]
    short = short_row_of(document)
    if baseline_of(document) or "recipe_sha256" in checkpoint:
        return short
    return f"{short}, weights {checkpoint['backbone_sha256'][:6]}"


def baseline_of(document: dict[str, Any]) -> Literal["pixels", "random", ""]:
    """Baseline that was measured: raw pixels, an untrained network, or none."""
    if document["backbone"] == "pixels":
        return "pixels"
    return "random" if document["checkpoint"].get("family") == "random" else ""


def short_row_of(document: dict[str, Any]) -> str:
    """`row_of` without the weights: enough to show where no other row is called the same."""
    checkpoint, backbone = document["checkpoint"], document["backbone"]
    baseline = baseline_of(document)
    if baseline == "pixels":
        return "raw pixels"
    if baseline == "random":
        return f"{backbone}, random initialisation"
    network = f", {checkpoint['network']} network" if checkpoint.get("network", "online") != "online" else ""
    if "recipe_sha256" in checkpoint:  # our own run: the recipe without its seed tells it from another of the method
        what = f"{checkpoint['method']} {checkpoint['epoch']} epochs on {checkpoint['data']}"
        return f"{backbone}, {what}, recipe {checkpoint['recipe_sha256'][:6]}{network}"
    return f"{backbone}, {checkpoint['given']}{network}"


def data_of(document: dict[str, Any]) -> str:
    """The first digits of the data's digests."""
    return " ".join(part["digest"][:8] for part in document["data"].values())


def run_of(document: dict[str, Any]) -> tuple[str, int]:
    """Digest of the weights and seed: two results that agree in both (and in the cell) are the same run."""
    return document["checkpoint"]["backbone_sha256"], int(document["seed"])


def read_names(folder: Path) -> dict[str, str]:
    """Names given to rows in `folder`/names.yaml: what `row_of` or the table says -> the name shown; empty for none."""
    path = folder / NAMES_FILE
    if not path.is_file():
        return {}
    names = read_yaml(path)
    if wrong := [row for row, name in names.items() if not isinstance(name, str) or not name.strip()]:
        raise UserError(f"{path}: the name of {wrong[0]!r} must be a text; write `what the table says: name`")
    return names


def add_names(folder: Path, names: Mapping[str, str]) -> None:
    """Adds to `folder`/names.yaml, behind the names that are there; a row that has a name already gets the new one."""
    from core.files.atomic_file import write_atomically

    text = yaml.safe_dump({**read_names(folder), **names}, sort_keys=False, allow_unicode=True, width=1000)
    write_atomically(folder / NAMES_FILE, lambda partial: partial.write_text(text, encoding="utf-8"))

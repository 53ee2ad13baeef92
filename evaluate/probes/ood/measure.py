"""One measurement of the out-of-distribution probe: every shifted set is read once for all heads."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import PIL.Image
import torch

from core.data.base import ImageSet
from core.data.corruptions import CORRUPTIONS, Corrupted
from core.data.derived import Derived
from core.distributed import sum_over_ranks
from core.errors import BrokenImage
from core.features import EvalTransformConfig, eval_crop, extract_features
from core.files.user_path import user_path
from evaluate.common.resumable import ProbeState
from evaluate.probes.base import Job, Measured
from evaluate.probes.features.cache import cached_features
from evaluate.probes.ood.heads import Head, answers, knn_head
from evaluate.probes.ood.protocol import OodConfig
from evaluate.probes.ood.shifts import (
    C_CORRUPTIONS,
    Shift,
    check_c,
    find_set,
    open_c_cell,
    open_folder,
    open_objectnet,
)

_KEPT_BYTES = 2**26
_FEW = 500
"""Images for which starting loader processes takes longer than reading them."""
Cell = tuple[str, Shift, EvalTransformConfig]
"""Name of one test set, its images, and the transform under which they are seen."""


class Cropped(Derived):
    """The evaluation transform's crops of `whole` as images: corruptions are applied to what the backbone sees."""

    def __init__(self, whole: ImageSet, config: EvalTransformConfig) -> None:
        """Crops that together take little memory are made once, for all corruptions."""
        super().__init__(whole)
        self._config = config
        self._kept: dict[int, PIL.Image.Image | BrokenImage] = {}
        if 3 * config.crop**2 * len(whole) <= _KEPT_BYTES:
            self._kept = {index: self._crop(index) for index in range(len(whole))}

    def _crop(self, index: int) -> PIL.Image.Image | BrokenImage:
        try:
            return PIL.Image.fromarray(eval_crop(self.whole.image(index), self._config))
        except BrokenImage as error:
            return error

    def image(self, index: int) -> PIL.Image.Image:
        found = self._kept[index] if self._kept else self._crop(index)
        if isinstance(found, BrokenImage):
            raise found
        return found

    def identity(self) -> str:
        return str(self._config)


def cells(config: OodConfig, clean: ImageSet) -> Iterator[Cell]:
    """Test sets in the order in which they are measured, the clean one first. Raises `UserError`, also for sets that
    come later."""
    for name in config.sets:
        if name != "corruptions":
            folder = find_set(user_path(config.shift_root), name)
            if name == "imagenet-c":
                check_c(folder)
    transform, classes = config.features.transform, clean.classes
    yield "clean", Shift(clean), transform
    root = user_path(config.shift_root)
    for name in config.sets:
        if name == "corruptions":
            crops, seen = Cropped(clean, transform), EvalTransformConfig(transform.crop, transform.crop)
            for corruption in CORRUPTIONS:
                for severity in range(1, 6):
                    yield f"corruptions/{corruption}/{severity}", Shift(Corrupted(crops, corruption, severity)), seen
        elif name == "imagenet-c":
            folder = find_set(root, name)
            seen = EvalTransformConfig(transform.crop, transform.crop) if config.raw_size else transform
            for corruption in C_CORRUPTIONS:
                for severity in range(1, 6):
                    yield f"{name}/{corruption}/{severity}", open_c_cell(folder, corruption, severity, classes), seen
        elif name == "objectnet":
            shift = open_objectnet(find_set(root, name), classes, config.objectnet == "restricted")
            yield name, shift, transform
        else:
            yield name, open_folder(find_set(root, name), name, classes), transform


def measure(job: Job, state: ProbeState) -> Measured | None:
    """Measures on all processes together, cell by cell; a killed run resumes after the last whole one."""
    config: OodConfig = job.config
    heads = _heads(job)
    saved = state.load()
    right: dict[str, list[float]] = {}
    sets: dict[str, dict[str, Any]] = {}
    if saved is not None:
        with state.restoring():
            for name, shares in dict(saved["right"]).items():
                if len(shares) != len(heads) or not all(0 <= float(share) <= 100 for share in shares):
                    raise ValueError(f"accuracies of {name}")
                right[str(name)] = [float(share) for share in shares]
            sets = {str(name): dict(facts) for name, facts in dict(saved["sets"]).items()}
    for name, shift, transform in cells(config, job.data["val"]):
        if name not in right:
            right[name], sets[name] = _accuracies(job, heads, shift, transform)
            state.save({"right": right, "sets": sets})
    if not job.context.is_main:
        return None
    each = {head.name: summary({name: shares[n] for name, shares in right.items()}) for n, head in enumerate(heads)}
    headline = heads[-1].name
    metrics = {**each[headline], "head": headline, "heads": each, "sets": sets}
    from evaluate.probes.ood.pictures import draw

    broken: dict[str, Sequence[str]] = {part: [] for part in job.data}
    return Measured(metrics, broken, _table(each), finish=lambda: draw(job, each[headline]))


def _heads(job: Job) -> list[Head]:
    """The k-NN head, if the protocol has one, then linear heads: the last is the headline."""
    config: OodConfig = job.config
    inputs, linear = job.inputs
    heads: list[Head] = []
    if config.knn:
        bank = cached_features(job.backbone, inputs, job.data["train"], config.features, job.context)
        classes = len(job.data["train"].classes)
        heads.append(knn_head(bank, inputs, classes, config.k, config.temperature, job.context.processes))
    return [*heads, *linear]


def _accuracies(
    job: Job, heads: Sequence[Head], shift: Shift, transform: EvalTransformConfig
) -> tuple[list[float], dict[str, Any]]:
    """Top-1 accuracy in percent of each head, and the facts of the set; the images are read once, by all ranks."""
    base = job.config.features
    config = dataclasses.replace(base, transform=transform)
    inputs = job.inputs[0]
    workers = job.context.workers if len(shift.images) > _FEW else 0
    found = extract_features(
        job.backbone.model, job.backbone.config, shift.images, config, job.context.processes, workers,
        pool=inputs,
    )  # fmt: skip
    features = found.values.astype(np.float32)
    counts = [len(features)]
    for head in heads:
        start, end = inputs.slices[inputs.names.index(head.input)]
        given = (
            answers(head.scores(features[:, start:end], shift.groups), shift.groups) if len(features) else np.empty(0)
        )
        counts.append(int((given == found.labels).sum()))
    total = sum_over_ranks(torch.tensor(counts, dtype=torch.int64, device=job.context.device)).tolist()
    facts = {"images": len(shift.images), "digest": shift.images.digest(), "broken": list(found.broken)}
    return [100.0 * count / max(total[0], 1) for count in total[1:]], facts


def summary(accuracies: dict[str, float]) -> dict[str, Any]:
    """Metrics of one head from the accuracy of each cell, in percent."""
    found: dict[str, Any] = {"clean": accuracies["clean"]}
    found |= {name.replace("-", "_"): value for name, value in accuracies.items() if "/" not in name}
    for kind in ("corruptions", "imagenet-c"):
        rows: dict[str, list[float]] = {}
        for name, value in accuracies.items():
            if name.startswith(f"{kind}/"):
                rows.setdefault(name.split("/")[1], []).append(value)
        if not rows:
            continue
        mean = float(np.mean(list(rows.values())))
        key = "corrupted" if kind == "corruptions" else "imagenet_c"
        found[key] = mean
        found[f"{key}_curves"] = rows
        found[f"{key}_each"] = {name: float(np.mean(values)) for name, values in rows.items()}
        if kind == "corruptions":
            found["retained"] = 100 * mean / found["clean"] if found["clean"] else 0.0
        else:
            found["mce"] = mean_corruption_error(rows)
    return found


def mean_corruption_error(rows: dict[str, list[float]]) -> float:
    """mCE in percent from top-1 accuracies in percent of severities 1 … 5: errors over AlexNet's, mean of 15.

    Raises `ValueError` unless all 15 corruptions have five severities (arXiv 1903.12261).
    """
    if set(rows) != set(C_CORRUPTIONS) or any(len(values) != 5 for values in rows.values()):
        raise ValueError("mCE needs 15 corruptions of five severities")
    return float(np.mean([(100 - np.mean(rows[name])) / error for name, error in C_CORRUPTIONS.items()]))


_SHOWN = ("clean", "corrupted", "retained", "imagenet_a", "imagenet_r", "imagenet_sketch", "imagenet_v2", "objectnet",
          "imagenet_c", "mce")  # fmt: skip


def _table(each: dict[str, dict[str, Any]]) -> str:
    keys = [key for key in _SHOWN if any(key in found for found in each.values())]
    width = max(len(name) for name in each)
    lines = [" " * width + "".join(f"  {key:>15}" for key in keys)]
    lines += [f"{name:{width}}" + "".join(f"  {found[key]:15.2f}" for key in keys) for name, found in each.items()]
    for found in list(each.values())[-1:]:
        for key in ("corrupted_curves", "imagenet_c_curves"):
            for name, values in found.get(key, {}).items():
                lines.append(f"{name:20}" + "".join(f" {value:6.2f}" for value in values))
    return "\n".join(lines)

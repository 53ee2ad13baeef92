"""Heads that are carried to shifted data: a k-NN bank, and linear heads from their files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from core.errors import UserError
from evaluate.probes.knn.search import Engine, nearest, open_engine

if TYPE_CHECKING:
    from core.distributed import Processes
    from evaluate.probes.features.cache import CachedFeatures
    from evaluate.probes.features.head_inputs import HeadInputs

Groups = Sequence[tuple[int, ...]] | None
"""Classes behind each answer; None: every class is an answer."""


class Head(Protocol):
    """Scores of classes from features of one input."""

    @property
    def name(self) -> str:
        """As in the result."""
        ...

    @property
    def input(self) -> str:
        """Name of its head input."""
        ...

    def scores(self, features: NDArray[np.float32], groups: Groups = None) -> NDArray[np.float32]:
        """[N, F] -> [N, C]; the highest is the answer. `groups`: the classes that count; None: all."""
        ...


@dataclass(frozen=True)
class KnnHead:
    """Votes of the nearest images of a bank, weighted by exp(cosine / temperature)."""

    name: str
    input: str
    bank: NDArray[np.float32]
    """L2-normalised, [M, F]."""
    labels: NDArray[np.int64]
    """[M]."""
    classes: int
    k: int
    temperature: float
    engine: Engine

    def scores(self, features: NDArray[np.float32], groups: Groups = None) -> NDArray[np.float32]:
        """Votes [N, C]; neighbours are looked for among the bank's images of the classes in `groups`."""
        bank, labels = self.bank, self.labels
        if groups is not None:
            counted = np.isin(labels, [own for group in groups for own in group])
            bank, labels = (bank, labels) if counted.all() else (bank[counted], labels[counted])
        unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
        votes = np.zeros((len(unit), self.classes), np.float64)
        if not len(bank):
            return votes.astype(np.float32)
        similarities, rows = nearest(self.engine, bank, unit, min(self.k, len(bank)))
        weights = np.exp((similarities.astype(np.float64) - 1) / self.temperature)
        np.add.at(votes, (np.arange(len(unit))[:, None], labels[rows]), weights)
        return votes.astype(np.float32)


def knn_head(
    features: CachedFeatures, inputs: HeadInputs, classes: int, k: int, temperature: float, processes: Processes
) -> KnnHead:
    """Head whose bank are the first of the `inputs` of all usable images; of fewer than `k` images all vote."""
    start, end = inputs.slices[0]
    values = features.values[features.rows][:, start:end].astype(np.float32)
    values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    most, engine = min(k, len(values)), open_engine(processes)
    return KnnHead("k-NN", inputs.names[0], values, features.labels, classes, most, temperature, engine)


@dataclass(frozen=True)
class LinearHead:
    """A linear head with its standardisation, as `linear` writes it."""

    name: str
    input: str
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    mean: NDArray[np.float32]
    factor: NDArray[np.float32]
    backbone_sha256: str

    def scores(self, features: NDArray[np.float32], groups: Groups = None) -> NDArray[np.float32]:
        """Logits [N, C]."""
        logits = ((features - self.mean) * self.factor) @ self.weight.T + self.bias
        return logits.astype(np.float32)


def read_head(file: Path, name: str) -> LinearHead:
    """A head.safetensors of the linear probe. Raises `UserError` for anything else."""
    if file.is_dir():
        file = file / "head.safetensors"
    try:
        with safe_open(file, framework="numpy") as opened:
            header = opened.metadata() or {}
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118  (not a mapping)
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"can't read the head {file} ({error}); pass head.safetensors of a linear probe") from None
    if not header.get("format", "").startswith("ssl-transfer/linear-head/") or set(tensors) != {
        "weight", "bias", "mean", "factor",
    }:  # fmt: skip
        raise UserError(f"{file} is not a head of this project's linear probe; pass its head.safetensors")
    weight, bias, mean, factor = (tensors[key] for key in ("weight", "bias", "mean", "factor"))
    if weight.ndim != 2 or bias.shape != weight.shape[:1] or not mean.shape == factor.shape == weight.shape[1:]:
        raise UserError(f"the tensors of {file} don't fit together; train the head again")
    if not all(np.isfinite(tensor).all() for tensor in tensors.values()):
        raise UserError(f"{file} holds numbers that are not finite; train the head again")
    return LinearHead(name, header["input"], weight, bias, mean, factor, header["backbone_sha256"])


def answers(scores: NDArray[np.float32], groups: Groups) -> NDArray[np.int64]:
    """Best answer of each row [N]: the class, or the group whose best class has the highest score."""
    if groups is None:
        return scores.argmax(1)
    found = torch.stack([torch.from_numpy(scores[:, list(group)]).amax(1) for group in groups], dim=1)
    return found.argmax(1).numpy()


def input_of(text: str) -> tuple[int, str]:
    """Number of last blocks and pooling of a head input's name: `last 4 blocks, cls+patches` -> (4, `cls+patches`)."""
    words = text.replace(",", "").split()
    if words[:1] == ["last"] and len(words) == 4 and words[1].isdigit():
        return int(words[1]), words[3]
    return 1, "auto"

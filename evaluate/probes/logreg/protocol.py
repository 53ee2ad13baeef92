"""The logistic-regression protocol: which strengths of regularisation are tried, on which features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import torch
from tqdm import tqdm

from core.backbones import Pooling
from core.data.open import DataConfig
from core.distributed import gather_objects
from core.features import FeatureConfig
from evaluate.common.context import RunContext
from evaluate.common.protocol import check_name, check_version
from evaluate.common.resumable import ProbeState
from evaluate.probes.accuracy import TopKAccuracy
from evaluate.probes.features.cache import CachedFeatures
from evaluate.probes.features.head_inputs import check_single_input
from evaluate.probes.features.standardise import moments
from evaluate.probes.logreg.solver import Fit, Solver, fit_sklearn, fit_torch

_ROWS = 65536


@dataclass(frozen=True)
class LogregConfig:
    RENAMED: ClassVar = {"pooling": "poolings"}
    name: str = "logreg_dinov2"
    """The protocol's name, under which results are compared."""
    kind: Literal["logreg"] = "logreg"
    """Kind of evaluation."""
    scaled_down: bool = False
    """True if it is made for small machines: no paper has numbers of it."""
    protocol_version: int = 1
    """Version of the protocol's meaning, raised when that changes; results of different versions are not comparable."""
    data: DataConfig = field(default_factory=DataConfig)
    """Fitted on its train split; C is chosen, and all are reported, on its val split."""
    train_limit: int | None = None
    """A fixed sample of this many training images; none: all."""
    val_limit: int | None = None
    """A fixed sample of this many validation images; none: all."""
    features: FeatureConfig = field(default_factory=FeatureConfig)
    """Features of the backbone; `features.pooling` stays auto, `blocks` and `poolings` decide."""
    blocks: tuple[int, ...] = (1,)
    """One number: of the last blocks whose class tokens are concatenated (ViT; 1 for a ResNet)."""
    poolings: tuple[Pooling, ...] = ("auto",)
    """One of `cls`, `cls+patches`, `patches`, `avg`; `auto`: cls or avg."""
    standardise: bool = False
    """Standardise features per dimension by the training images' mean and deviation."""
    log10_c: tuple[float, float] = (-6.0, 5.0)
    """Exponents of the smallest and the largest C."""
    count: int = 45
    """Number of values of C, evenly spaced in the exponent."""
    max_iter: int = 1000
    """Most L-BFGS steps of a fit."""
    tol: float = 1e-6
    """A fit ends when no entry of the gradient (of the mean loss) is larger."""
    solver: Solver = "auto"
    """`sklearn` or `torch`, which find the same minimum; `auto`: torch on GPUs, scikit-learn on CPUs."""

    def __post_init__(self) -> None:
        check_name(self.name)
        check_version(self.protocol_version)
        if self.features.pooling != "auto":
            raise ValueError(f"features.pooling must be auto, not {self.features.pooling}; set poolings instead")
        for key in ("train_limit", "val_limit", "count", "max_iter"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"{key} must be at least 1, not {value}")
        check_single_input(self.blocks, self.poolings)
        if self.log10_c[0] > self.log10_c[1]:
            raise ValueError(f"log10_c must be (smallest, largest), not {self.log10_c}")
        if not self.tol > 0:
            raise ValueError(f"tol must be positive, not {self.tol}")

    def cs(self) -> list[float]:
        """The values of C, ascending (DINOv2: 10^linspace(−6, 5, 45))."""
        return (10 ** np.linspace(*self.log10_c, self.count)).tolist()


def solver_of(config: LogregConfig, device: torch.device) -> str:
    """The solver that `auto` stands for on the device."""
    if config.solver != "auto":
        return config.solver
    return "torch" if device.type == "cuda" else "sklearn"


def fit_all(
    train: CachedFeatures,
    val: CachedFeatures,
    classes: int,
    config: LogregConfig,
    context: RunContext,
    unfinished: ProbeState,
) -> list[dict[str, float]]:
    """Scores on `val` for every C, in order; each rank fits every world-th C. Resumes from what `unfinished` holds."""
    processes = context.processes
    mean, deviation = moments(train) if config.standardise else (np.float32(0), np.float32(1))

    def matrix(features: CachedFeatures) -> np.ndarray:
        return (features.values[features.rows].astype(np.float64) - mean) / deviation

    x, y = matrix(train), train.labels
    validation = torch.from_numpy(matrix(val)).to(processes.device)
    truth = torch.from_numpy(val.labels).to(processes.device)
    on_device = (torch.from_numpy(x).to(processes.device), torch.from_numpy(y).to(processes.device))
    solver, cs = solver_of(config, processes.device), config.cs()
    state = unfinished.load()
    with unfinished.restoring():
        rows = [_checked(row) for row in state["rows"]] if state else []
    if rows and processes.is_main:
        print(f"resuming after {len(rows)} of {len(cs)} fits")
    bar = tqdm(total=len(cs), initial=len(rows), desc=f"C, by {solver}", unit="fit", disable=not processes.is_main,
               leave=False)  # fmt: skip
    with bar:
        while len(rows) < len(cs):
            mine = cs[len(rows) + processes.rank : len(rows) + processes.rank + 1]
            found = []
            for c in mine:
                if solver == "torch":
                    fit = fit_torch(*on_device, classes, c, config.max_iter, config.tol)
                else:
                    fit = fit_sklearn(x, y, c, config.max_iter, config.tol)
                found.append({"C": c, **_scores(fit, validation, truth, classes)})
            together = [row for of_rank in gather_objects(found) for row in of_rank]
            rows += together
            bar.update(len(together))
            unfinished.save({"rows": rows})
    return rows


def _checked(row: dict[str, float]) -> dict[str, float]:
    if not all(0 <= row[key] <= 100 for key in ("top1", "top5", "mean_per_class")) or not row["C"] > 0:
        raise ValueError("a fit without its accuracies")
    return {key: row[key] for key in ("C", "top1", "top5", "mean_per_class", "iterations", "converged")}


def _scores(fit: Fit, features: torch.Tensor, truth: torch.Tensor, classes: int) -> dict[str, float]:
    ranks_alone = TopKAccuracy(1, classes, features.device)
    for block, labels in zip(features.split(_ROWS), truth.split(_ROWS), strict=True):
        ranks_alone.add(fit.logits(block)[:, :, None], labels)
    scores = ranks_alone.scores(over_ranks=False)
    return {
        "top1": scores.top1[0],
        "top5": scores.top5[0],
        "mean_per_class": scores.mean_per_class[0],
        "iterations": fit.iterations,
        "converged": fit.converged,
    }


def best_of(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """The row of highest top-1; of equal ones the smallest C."""
    return max(rows, key=lambda row: (row["top1"], -row["C"]))

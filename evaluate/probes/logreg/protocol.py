"""The logistic-regression protocol: which strengths of regularisation are tried, on which features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import numpy as np
import torch
from tqdm import tqdm

from core.backbones import Pooling
from core.config import check_at_least_one
from core.data.open import DataConfig
from core.distributed import gather_objects
from core.features import FeatureConfig
from evaluate.common.context import RunContext
from evaluate.common.labelled import SAMPLE_SEED
from evaluate.common.protocol import ProtocolConfig
from evaluate.common.resumable import ProbeState
from evaluate.probes.accuracy import TopKAccuracy
from evaluate.probes.features.cache import CachedFeatures
from evaluate.probes.features.head_inputs import check_single_input
from evaluate.probes.features.standardise import moments
from evaluate.probes.logreg.solver import Fit, Solver, fit_sklearn, fit_torch

_ROWS = 65536


@dataclass(frozen=True)
class LogregConfig(ProtocolConfig):
    RENAMED: ClassVar = {"pooling": "poolings"}
    RENAMED_VALUES: ClassVar = {"standardise": {False: "none", True: "train"}}
    name: str = "logreg_dinov2"
    """The protocol's name, under which results are compared."""
    kind: Literal["logreg"] = "logreg"
    """Kind of evaluation."""
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
    standardise: Literal["none", "train"] = "none"
    """`train`: features are standardised per dimension by the training images' mean and deviation."""
    log10_c: tuple[float, float] = (-6.0, 5.0)
    """Exponents of the smallest and the largest C."""
    count: int = 45
    """Number of values of C, evenly spaced in the exponent."""
    max_iter: int = 1000
    """Most L-BFGS steps of a fit."""
    tol: float = 1e-6
    """A fit ends when no entry of the gradient (of the mean loss) is larger."""
    choice_share: float | None = None
    """C is chosen on a random share of the training images, always the same, by fits to the others; then all training
    images are fitted with it. None: C is chosen on the val split."""
    solver: Solver = "auto"
    """`sklearn` or `torch`, which find the same minimum; `auto`: torch on GPUs, scikit-learn on CPUs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.features.pooling != "auto":
            raise ValueError(f"features.pooling must be auto, not {self.features.pooling}; set poolings instead")
        check_at_least_one(self, "train_limit", "val_limit", "count", "max_iter")
        check_single_input(self.blocks, self.poolings)
        if self.log10_c[0] > self.log10_c[1]:
            raise ValueError(f"log10_c must be (smallest, largest), not {self.log10_c}")
        if self.choice_share is not None and not 0 < self.choice_share < 1:
            raise ValueError(f"choice_share must be above 0 and below 1, or null, not {self.choice_share}")
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


def split_for_choice(features: CachedFeatures, share: float) -> tuple[CachedFeatures, CachedFeatures]:
    """Features to fit and, a fixed random share of at least one image, features to choose C on; in their order."""
    count = len(features.rows)
    order = np.random.default_rng(SAMPLE_SEED).permutation(count)
    held = max(1, round(share * count))

    def part(chosen: np.ndarray) -> CachedFeatures:
        kept = np.sort(chosen)
        return replace(
            features, rows=features.rows[kept], labels=features.labels[kept], positions=features.positions[kept]
        )

    return part(order[held:]), part(order[:held])


def fit_one(
    train: CachedFeatures, val: CachedFeatures, classes: int, config: LogregConfig, c: float, device: torch.device
) -> dict[str, float]:
    """Scores on `val` of a single fit to `train`, by the calling rank alone."""
    mean, deviation = _scaling(train, config)
    x, y = _matrix(train, mean, deviation), train.labels
    if solver_of(config, device) == "torch":
        tensors = torch.from_numpy(x).to(device), torch.from_numpy(y).to(device)
        fit = fit_torch(*tensors, classes, c, config.max_iter, config.tol)
    else:
        fit = fit_sklearn(x, y, c, config.max_iter, config.tol)
    tested = torch.from_numpy(_matrix(val, mean, deviation)).to(device)
    return {"C": c, **_scores(fit, tested, torch.from_numpy(val.labels).to(device), classes)}


def _scaling(train: CachedFeatures, config: LogregConfig) -> tuple[np.ndarray, np.ndarray]:
    return moments(train) if config.standardise == "train" else (np.zeros(1, np.float32), np.ones(1, np.float32))


def _matrix(features: CachedFeatures, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    return (features.values[features.rows].astype(np.float64) - mean) / deviation


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
    mean, deviation = _scaling(train, config)
    x, y = _matrix(train, mean, deviation), train.labels
    validation = torch.from_numpy(_matrix(val, mean, deviation)).to(processes.device)
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

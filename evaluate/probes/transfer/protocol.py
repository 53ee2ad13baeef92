"""The protocol of transfer sets: k-NN and a linear grid on each set, scored by the set's own metric."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np

from core.backbones import Pooling
from core.data.open import DataConfig
from core.data.readers.torchvision_sets import SETS, Metric
from core.features import FeatureConfig
from core.schedules import ScheduleConfig
from evaluate.common.protocol import ProtocolConfig
from evaluate.probes.features.cache import CachedFeatures
from evaluate.probes.features.head_inputs import check_single_input
from evaluate.probes.features.standardise import Standardisation
from evaluate.probes.knn.search import Engine, nearest
from evaluate.probes.knn.vote import check_vote, vote_ranks
from evaluate.probes.linear.protocol import LinearConfig


@dataclass(frozen=True)
class TransferConfig(ProtocolConfig):
    RENAMED: ClassVar = {"pooling": "poolings"}
    name: str = "transfer_small"
    """The protocol's name, under which results are compared."""
    kind: Literal["transfer"] = "transfer"
    """Kind of evaluation."""
    sets: tuple[str, ...] = ()
    """Sources as in `data.source`: `cifar10:/data`, `folder:/data/birds`, ….; none: those of the command line."""
    data: DataConfig = field(default_factory=lambda: DataConfig("scenes"))
    """Settings of the sources; `data.source` is replaced by each of `sets` in turn."""
    train_limit: int | None = None
    """A fixed sample of this many training images of each set; none: all."""
    val_limit: int | None = None
    """A fixed sample of this many validation images of each set; none: all."""
    features: FeatureConfig = field(default_factory=FeatureConfig)
    """Evaluation transform and arithmetic of the backbone; `features.pooling` stays auto."""
    blocks: tuple[int, ...] = (1,)
    """One number: of the last blocks whose class tokens are concatenated (ViT; 1 for a ResNet)."""
    poolings: tuple[Pooling, ...] = ("auto",)
    """One of `cls`, `cls+patches`, `patches`, `avg`; `auto`: cls or avg."""
    ks: tuple[int, ...] = (10, 20)
    """Numbers of neighbours; the best is the headline."""
    temperature: float = 0.07
    """τ of the weighted vote exp(cosine / τ)."""
    lrs: tuple[float, ...] = (0.005, 0.02, 0.05, 0.1, 0.3)
    """Peak learning rates of the linear heads, trained together; the best is the headline."""
    standardise: Standardisation = "train"
    """Standardisation of the linear heads' features."""
    batch: int = 256
    """Global batch of the linear heads; a set with fewer training images takes them all in one batch."""
    epochs: int = 100
    """Epochs of the linear heads, over cached features."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_vote(self.ks, self.temperature)
        check_single_input(self.blocks, self.poolings)
        for source in self.sets:
            dataclasses.replace(self.data, source=source)
        self.linear(self.batch)

    def of(self, source: str) -> DataConfig:
        """The data settings of one set."""
        return dataclasses.replace(self.data, source=source)

    def linear(self, images: int) -> LinearConfig:
        """The linear probe of a set with so many training images."""
        return LinearConfig(
            name=self.name,
            features=self.features,
            views="cached",
            blocks=self.blocks,
            poolings=self.poolings,
            standardise=self.standardise,
            lrs=self.lrs,
            schedule=ScheduleConfig(warmup_epochs=0, end=0),
            batch=min(self.batch, images),
            epochs=self.epochs,
        )


def metric_of(source: str) -> Metric:
    """The set's usual accuracy; over images for sources that are not of torchvision."""
    known = SETS.get(source.partition(":")[0])
    return known.metric if known else "top1"


def knn_scores(
    train: CachedFeatures, val: CachedFeatures, classes: int, config: TransferConfig, engine: Engine
) -> list[dict[str, Any]]:
    """Weighted vote by each k: `k`, `top1`, `mean_per_class` in percent."""
    bank, queries = (_unit(features) for features in (train, val))
    ks = [k for k in config.ks if k <= len(bank)] or [len(bank)]
    similarities, rows = nearest(engine, bank, queries, max(ks))
    cosines, labels = similarities.astype(np.float64), train.labels[rows]
    weights = np.exp((cosines - cosines[:, :1]) / config.temperature)
    found = []
    for k in ks:
        right = vote_ranks(labels[:, :k], weights[:, :k], cosines[:, :k], val.labels, classes) == 0
        per_class = [right[val.labels == label].mean() for label in np.unique(val.labels)]
        found.append({"k": k, "top1": 100 * float(right.mean()), "mean_per_class": 100 * float(np.mean(per_class))})
    return found


def _unit(features: CachedFeatures) -> np.ndarray:
    values = features.values[features.rows].astype(np.float32)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)

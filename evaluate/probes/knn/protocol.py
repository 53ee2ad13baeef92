"""The k-NN protocol: bank and queries of a data set, their neighbours, and how often the neighbours are right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from core.config import check_at_least_one
from core.data.base import ImageSet
from core.data.open import DataConfig, open_images
from core.data.subset import few_shot, match_classes, sample
from core.distributed import Processes, gather_objects
from core.errors import UserError
from core.features import FeatureConfig, Features, gather_features
from evaluate.common.labelled import SAMPLE_SEED, check_classes
from evaluate.common.protocol import ProtocolConfig
from evaluate.probes.knn.search import Engine, Neighbours, nearest_over_ranks, open_engine
from evaluate.probes.knn.vote import check_vote, vote_accuracy, weighted_hits


@dataclass(frozen=True)
class KnnConfig(ProtocolConfig):
    RENAMED: ClassVar = {"bank_limit": "train_limit", "query_limit": "val_limit"}
    name: str = "knn_dino"
    """The protocol's name, under which results are compared."""
    kind: Literal["knn"] = "knn"
    """Kind of evaluation."""
    data: DataConfig = field(default_factory=DataConfig)
    """Its train split is the bank, its val split the queries."""
    features: FeatureConfig = field(default_factory=FeatureConfig)
    """Features of the backbone."""
    ks: tuple[int, ...] = (10, 20, 100, 200)
    """Numbers of neighbours; one search serves all."""
    temperature: float = 0.07
    """τ of the weighted vote exp(cosine / τ)."""
    shots: int | None = None
    """Few-shot: a seeded choice of this many bank images per class; none: the whole bank."""
    train_limit: int | None = None
    """A fixed sample of this many images as the bank; none: all."""
    val_limit: int | None = None
    """A fixed sample of this many images as queries; none: all."""
    bank_chunk: int = 65536
    """Rows of a float16 bank (on GPUs: of any bank) that are searched at a time; memory only."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_vote(self.ks, self.temperature)
        check_at_least_one(self, "shots", "train_limit", "val_limit", "bank_chunk")


def open_bank_and_queries(config: KnnConfig, seed: int) -> tuple[ImageSet, ImageSet]:
    """The two image sets of the protocol; `seed` decides which shots are taken.

    Raises `UserError` where they can't give an accuracy: no images, no labels, a single class, different classes.
    """
    bank = open_images(config.data, "train", seed)
    queries = match_classes(bank, open_images(config.data, "val", seed))
    if config.train_limit is not None:
        bank = sample(bank, config.train_limit, SAMPLE_SEED)
    if config.shots is not None and bank.classes:
        bank = few_shot(bank, config.shots, seed)
    if config.val_limit is not None:
        queries = sample(queries, config.val_limit, SAMPLE_SEED)
    check_classes(bank, queries)
    return bank, queries


def fitting_ks(ks: Sequence[int], bank_size: int) -> tuple[int, ...]:
    """Those of `ks` that so many bank images can give; if there is none, all images."""
    return tuple(k for k in ks if k <= bank_size) or (max(1, bank_size),)


def find_neighbours(
    bank: Features,
    queries: Features,
    k: int,
    processes: Processes,
    engine: Engine | None = None,
    chunk: int = 65536,
    progress: bool = False,
) -> tuple[Neighbours, Features]:
    """The k nearest bank images of all queries, and the queries of all ranks in the same order; equal on every rank.

    `bank` and `queries`: this rank's parts as `extract_features(…, unit=True)` gives them, so that inner products
    are cosines. Raises `ValueError` for rows of another length.
    """
    for features in (bank, queries):
        norms = np.linalg.norm(features.values[:: max(1, len(features.values) // 1000)].astype(np.float32), axis=1)
        if (np.abs(norms - 1)[norms > 0] > 0.01).any():
            raise ValueError(f"features of {features.name} must have unit length; extract them with unit=True")
    everyone = gather_features(queries, processes.device)
    total = sum(gather_objects(len(bank.values)))
    check_classes(bank, queries)
    _check_sizes(bank.name, total, queries.name, len(everyone.values), [k])
    engine = engine or open_engine(processes)
    return nearest_over_ranks(engine, bank, everyone, k, processes, chunk, progress), everyone


def knn_accuracy(
    bank: Features,
    queries: Features,
    processes: Processes,
    ks: Sequence[int] = (10, 20, 100, 200),
    temperature: float = 0.07,
) -> dict[str, float]:
    """Accuracies in percent (`accuracies`); all ranks call it together and get the same.

    `bank` and `queries`: this rank's parts as `extract_features(…, unit=True)` gives them.
    """
    neighbours, everyone = find_neighbours(bank, queries, max(ks), processes)
    return accuracies(neighbours, everyone.labels, len(bank.classes), ks, temperature)


def accuracies(
    neighbours: Neighbours, truth: NDArray[np.int64], classes: int, ks: Sequence[int], temperature: float
) -> dict[str, float]:
    """`weighted_top1_k10` … `majority_top5_k200` in percent, and the headline: `top1` and `top5` of the weighted vote
    with the best of the `ks` (the field reports the best), and that `k`; the smallest where several are equal."""
    found = vote_accuracy(neighbours.similarities, neighbours.labels, truth, classes, ks, temperature)
    best = max(sorted(ks), key=lambda k: found[f"weighted_top1_k{k}"])
    return {"top1": found[f"weighted_top1_k{best}"], "top5": found[f"weighted_top5_k{best}"], "k": best, **found}


def class_accuracies(
    neighbours: Neighbours, truth: NDArray[np.int64], names: Sequence[str], k: int, temperature: float
) -> dict[str, float | None]:
    """Top-1 of the weighted vote among the images of each class, in percent; None for a class without queries."""
    hits = weighted_hits(neighbours.similarities, neighbours.labels, truth, len(names), k, temperature)
    right, all_ = (np.bincount(labels, minlength=len(names)) for labels in (truth[hits], truth))
    return {name: 100.0 * int(r) / int(n) if n else None for name, r, n in zip(names, right, all_, strict=True)}


def table(metrics: Mapping[str, float], ks: Sequence[int]) -> str:
    """The accuracies by k, as printed."""
    lines = ["    k   weighted top-1   top-5   majority top-1   top-5"]
    for k in ks:
        weighted, weighted5, majority, majority5 = (
            metrics[f"{kind}_{top}_k{k}"] for kind in ("weighted", "majority") for top in ("top1", "top5")
        )
        lines.append(f"{k:5d}   {weighted:14.2f}   {weighted5:5.2f}   {majority:14.2f}   {majority5:5.2f}")
    return "\n".join(lines)


def _check_sizes(bank: str, bank_size: int, queries: str, query_count: int, ks: Sequence[int]) -> None:
    if query_count == 0:
        raise UserError(f"no queries: {queries} has no usable image")
    if bank_size < max(ks):
        raise UserError(
            f"k={max(ks)} is more than the bank's {bank_size} images ({bank}); lower k (ks=[{bank_size or 1}]) or "
            f"enlarge the bank (train_limit, shots, data)"
        )

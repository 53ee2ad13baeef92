"""Online monitor: k-NN accuracy of the backbone while it trains, on a sample of the labelled data."""

from __future__ import annotations

import dataclasses

import torch.distributed as dist
from torch import nn

from core.data.base import ImageSet
from core.data.open import Split, open_images
from core.data.subset import match_classes, sample
from core.distributed import Processes, gather_objects, in_group
from core.errors import UserError
from core.features import EvalTransformConfig, FeatureConfig, extract_features
from evaluate.common.labelled import check_classes
from evaluate.probes.knn.protocol import knn_accuracy
from evaluate.probes.knn.search import open_engine
from pretrain.config import PretrainConfig


def open_monitor(config: PretrainConfig, processes: Processes, workers: int) -> tuple[Monitor | None, str]:
    """Monitor of a run, and its description for the plan.

    None where the recipe asks for none, and where it can't run: unlabelled data, no validation images, no FAISS. The
    description then holds the reason. Pre-training itself needs no labels, so this is not an error.
    """
    if not config.monitor.every_epochs:
        return None, "off (monitor.every_epochs=0)"
    monitor, reason = None, ""
    try:
        monitor = Monitor(config, processes, workers)
    except UserError as error:
        reason = str(error)
    reason = next(filter(None, gather_objects(reason)), "")  # a monitor needs every rank
    if monitor is None or reason:
        return None, f"off, as it can't run: {reason}"
    return monitor, f"every {config.monitor.every_epochs} epochs; {monitor.what}"


class Monitor:
    """Bank and queries, opened once; a small check under the protocol's rules, not the protocol's number."""

    def __init__(self, config: PretrainConfig, processes: Processes, workers: int) -> None:
        """Raises `UserError` where the data has no labelled train and val splits, and where FAISS is missing."""
        open_engine(processes)
        self._config, self._processes, self._workers = config, processes, workers
        monitor = config.monitor
        self._bank = self._open("train", monitor.bank)
        self._queries = match_classes(self._bank, self._open("val", monitor.queries))
        check_classes(self._bank, self._queries)
        if monitor.k > len(self._bank):
            raise UserError(f"monitor.k {monitor.k} is more than the bank's {len(self._bank)} images; lower it")
        self._features = FeatureConfig(
            EvalTransformConfig(monitor.resize, monitor.crop), broken_share=config.broken_share
        )
        self.what = f"k {monitor.k}, bank {len(self._bank)}, queries {len(self._queries)}"

    def accuracy(self, backbone: nn.Module) -> float:
        """Top-1 of the weighted vote in percent; all ranks call it together.

        Scored with the norm statistics of rank 0, which are those of the exported backbone.
        """
        own = [(buffer, buffer.clone()) for buffer in backbone.buffers()] if in_group() else []
        for buffer, _ in own:
            dist.broadcast(buffer, src=0)
        bank, queries = (
            extract_features(
                backbone, self._config.backbone, images, self._features, self._processes, self._workers, unit=True
            )
            for images in (self._bank, self._queries)
        )
        for buffer, kept in own:
            buffer.copy_(kept)
        k = self._config.monitor.k
        return knn_accuracy(bank, queries, self._processes, ks=[k])[f"weighted_top1_k{k}"]

    def _open(self, split: Split, limit: int) -> ImageSet:
        # The sample is taken here rather than by data.limit, which is about the images to train on.
        data = dataclasses.replace(self._config.data, limit=None)
        images = open_images(data, split, self._config.seed)
        return sample(images, limit, self._config.seed) if limit < len(images) else images

"""Features of bank and queries: shared on disk with the other probes of the same images, unless they are large."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch.nn import functional

from core.compute.precision import DTYPES
from core.data.base import ImageSet
from core.features import Features, extract_features
from evaluate.probes.base import Job
from evaluate.probes.features.cache import CachedFeatures, cached_features
from evaluate.probes.features.head_inputs import plan_head_inputs

SHARED_BYTES = 2**30
"""Features of a set up to this size are kept on disk; larger ones, as of ImageNet, are extracted anew."""
_ROWS = 8192


def unit_features(job: Job, images: ImageSet, size: int) -> Features:
    """L2-normalised features of this rank's part of the images, by all ranks together; `size`: length of a vector.

    Raises `UserError` as `extract_features` and `cached_features` do.
    """
    config, context, backbone = job.config.features, job.context, job.backbone
    if 4 * size * len(images) > SHARED_BYTES:
        return extract_features(
            backbone.model, backbone.config, images, config, context.processes, context.workers, unit=True
        )
    inputs = plan_head_inputs(backbone.model, config.transform.crop, (1,), (config.pooling,))
    whole = dataclasses.replace(config, storage="fp32")
    cached = cached_features(backbone, inputs, images, whole, context)
    part = np.array_split(np.arange(len(images)), context.processes.world_size)[context.processes.rank]
    return _own(cached, images, part, config.storage)


def _own(cached: CachedFeatures, images: ImageSet, part: np.ndarray, storage: str) -> Features:
    """The usable images at the positions of `part`, normalised in float32 before they are stored."""
    mine = np.flatnonzero(np.isin(cached.positions, part))
    values = np.empty((len(mine), cached.values.shape[1]), np.float16 if storage == "fp16" else np.float32)
    for start in range(0, len(mine), _ROWS):
        rows = torch.from_numpy(cached.values[cached.rows[mine[start : start + _ROWS]]]).float()
        values[start : start + _ROWS] = functional.normalize(rows, dim=1).to(DTYPES[storage]).numpy()
    return Features(values, cached.labels[mine], cached.positions[mine], images.name, images.classes, cached.broken)

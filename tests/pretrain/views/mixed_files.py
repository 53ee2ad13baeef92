"""Photographs in many formats, and batches of them that workers and the device have decoded."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from core.config import load_config
from core.data.base import ImageSet
from core.data.open import open_images
from pretrain.build_losses import open_views
from pretrain.config import PretrainConfig
from pretrain.views.collate import Batch, collate
from pretrain.views.decode import DeviceDecoder

CPU = torch.device("cpu")
VIEWS = (
    "views={global: {count: 2, size: 96}, local: {count: 1, size: 40, area: [0.05, 0.25], photometric: [{}]}, "
    "cutout: {count: 1, size: 64, transform: cutout}, part: {count: 2, size: 64, placement: apart}}"
)


def encoded(image: PIL.Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def damaged(data: bytes) -> bytes:
    """With a table of codes that no decoder takes, behind a sound header."""
    table = data.index(b"\xff\xc4") + 5
    return data[:table] + b"\xff" * 16 + data[table + 16 :]


def opened(folder: Path, *overrides: str) -> tuple[PretrainConfig, ImageSet]:
    given = [f"data.source=folder:{folder}", "decode=device", VIEWS, "batch=4", *overrides]
    config = load_config(PretrainConfig, None, given)
    return config, open_images(config.data, "pretrain", config.seed)


def both(config: PretrainConfig, images: ImageSet, positions: Sequence[int]) -> tuple[Batch, Batch]:
    """A batch of the workers, and the same of the device."""
    by_workers = open_views(images, config)
    left = open_views(images, config, "device")
    encoded = collate([left[3, position] for position in positions])
    return collate([by_workers[3, position] for position in positions]), DeviceDecoder(images, config, CPU)(encoded)


def differences(one: Batch, other: Batch) -> Tensor:
    """Of all pixels, where all else must be equal."""
    assert torch.equal(one.index, other.index)
    assert set(one.broken) == set(other.broken)
    assert other.jpegs is None
    apart = []
    for mine, others in zip(itertools.chain(*one.views.values()), itertools.chain(*other.views.values()), strict=True):
        assert mine.images.shape == others.images.shape
        assert mine.images.dtype == others.images.dtype == torch.uint8
        assert mine.parameters.keys() == others.parameters.keys()
        for key, values in mine.parameters.items():
            assert np.array_equal(values, others.parameters[key]), key
        apart.append((mine.images.int() - others.images.int()).abs().flatten())
    return torch.cat(apart)

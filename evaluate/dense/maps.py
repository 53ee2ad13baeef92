"""Maps of a frozen backbone for whole data sets: settings, what is read from the network, and the cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.backbones import Backbone, check_rgb, family_of
from core.compute.precision import OLD_NAMES, Precision
from core.data.base import ImageSet
from core.data.derived import Derived
from core.dense import PIXEL_CELL, check_blocks, concatenated_features, stage_of_stride
from core.errors import UserError
from core.features import EvalTransformConfig, FeatureConfig, frozen
from evaluate.common.context import RunContext
from evaluate.probes.features.cache import CachedFeatures, cached_features


@dataclass(frozen=True)
class MapConfig:
    size: int = 512
    """Side in pixels of the square to which each image is resized (bilinear, antialiased; sides may scale apart)."""
    blocks: tuple[int, ...] = (-1,)
    """Blocks of a ViT or stages of a CNN whose maps are concatenated; negative: from the end."""
    cnn_stride: int | None = None
    """CNN: takes the last stage with at most this stride in pixels instead of `blocks`; null: `blocks`."""
    norm: bool = True
    """Maps after the network's final norm, where it has one."""
    class_token: bool = False
    """ViT: each block's class token is appended to all of its patch tokens."""
    batch: int = 32
    """Images per forward pass and process; affects memory and speed only."""
    RENAMED_VALUES: ClassVar = {"precision": OLD_NAMES}
    precision: Precision = "fp32"
    """Precision of the forward pass (autocast below fp32)."""
    storage: Precision = "fp32"
    """Precision of maps on disk: fp32 or fp16."""
    broken_share: float = 0.01
    """Largest share of broken images, 0 … 1; above it the evaluation stops."""

    def __post_init__(self) -> None:
        if not 8 <= self.size <= 4096:
            raise ValueError(f"size must be 8 … 4096 pixels, not {self.size}")
        if not self.blocks or len(set(self.blocks)) < len(self.blocks):
            raise ValueError(f"blocks must be different, at least one, not {list(self.blocks)}")
        if self.cnn_stride is not None and self.cnn_stride < 1:
            raise ValueError(f"cnn_stride must be positive, not {self.cnn_stride}")
        if self.batch < 1:
            raise ValueError(f"batch must be at least 1, not {self.batch}")
        if self.storage == "bf16":
            raise ValueError("storage must be fp32 or fp16, not bf16")
        if not 0 <= self.broken_share <= 1:
            raise ValueError(f"broken_share must be 0 … 1, not {self.broken_share}")

    def feature_config(self) -> FeatureConfig:
        """Settings of the extraction; images are squares of `size` pixels already."""
        return FeatureConfig(
            transform=EvalTransformConfig(self.size, self.size),
            batch=self.batch,
            precision=self.precision,
            storage="fp16" if self.storage == "fp16" else "fp32",
            broken_share=self.broken_share,
        )


def padding(model: Any, height: int, width: int) -> tuple[int, int, int, int]:
    """Pixels added left, right, top and bottom, so that the network's patches divide the sides (DINOv2's centring)."""
    family = family_of(model)
    rows, columns = family.input_multiple(model) if family.trainable else (PIXEL_CELL, PIXEL_CELL)
    down, across = -height % rows, -width % columns
    return across // 2, across - across // 2, down // 2, down - down // 2


@dataclass(frozen=True)
class MapTaps:
    """What is read from the network: blocks counted from 0, for the cache's key and the forward pass."""

    blocks: tuple[int, ...]
    norm: bool
    class_token: bool
    shape: tuple[int, int, int]
    """Channels, rows and columns of a map for images of the protocol's size."""

    def maps(self, model: Any, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, D, h, w]."""
        return concatenated_features(model, images, self.blocks, self.norm, self.class_token)

    def __call__(self, model: Any, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, D·h·w]: maps flattened, as they are stored."""
        return self.maps(model, images).flatten(1)

    def identity(self) -> dict[str, Any]:
        """Settings that determine the maps, for cache keys."""
        return {"maps": list(self.blocks), "norm": self.norm, "class_token": self.class_token}


def open_taps(backbone: Backbone, config: MapConfig, device: torch.device, padded: bool = False) -> MapTaps:
    """Taps of a protocol for this network, checked with one blank image. Raises `UserError`.

    `padded`: images are padded to sides that the patches divide, instead of refused.
    """
    check_rgb(backbone)
    model = backbone.model
    left, right, top, bottom = padding(model, config.size, config.size) if padded else (0, 0, 0, 0)
    blank = torch.zeros(1, 3, config.size + top + bottom, config.size + left + right, device=device)
    family = family_of(model)
    with frozen(model):
        try:
            if config.cnn_stride is not None and family.dense == "stages":
                blocks = [stage_of_stride(model, blank, config.cnn_stride)]
            else:
                blocks = check_blocks(model, config.blocks)
            channels, height, width = concatenated_features(
                model, blank, blocks, config.norm, config.class_token
            ).shape[1:]
        except AssertionError as error:  # timm's answer to sizes that the patches don't divide
            raise UserError(
                f"the backbone can't take images of {config.size}×{config.size} pixels ({error}); set features.size"
            ) from None
    return MapTaps(tuple(blocks), config.norm, config.class_token, (channels, height, width))


class Square(Derived):
    """Images of `whole`, each resized to a square of `size` pixels (bilinear, antialiased)."""

    def __init__(self, whole: ImageSet, size: int) -> None:
        super().__init__(whole)
        self.size = size

    def image(self, index: int) -> PIL.Image.Image:
        return self.whole.image(index).resize((self.size, self.size), PIL.Image.Resampling.BILINEAR)

    def identity(self) -> str:
        return f"square {self.size} bilinear"


@dataclass(frozen=True)
class Maps:
    """Maps of a whole image set, on disk."""

    cached: CachedFeatures
    shape: tuple[int, int, int]
    """Channels, rows and columns."""

    def __len__(self) -> int:
        """Number of usable images M."""
        return len(self.cached.rows)

    @property
    def positions(self) -> NDArray[np.int64]:
        """Position in its set of each usable image, [M]."""
        return self.cached.positions

    def read(self, chosen: Sequence[int] | NDArray[np.int64]) -> Tensor:
        """Maps of the usable images with these numbers, float32 [n, C, h, w] on the CPU."""
        values = self.cached.values[self.cached.rows[np.asarray(chosen, np.int64)]]
        return torch.from_numpy(values.astype(np.float32)).view(-1, *self.shape)

    def chunks(self, size: int = 64, part: slice = slice(None)) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
        """Numbers and maps of the usable images in `part`, `size` at a time."""
        numbers = np.arange(len(self), dtype=np.int64)[part]
        for start in range(0, len(numbers), size):
            chosen = numbers[start : start + size]
            yield chosen, self.read(chosen)


def cached_maps(backbone: Backbone, taps: MapTaps, images: ImageSet, config: MapConfig, context: RunContext) -> Maps:
    """Maps of all images at the protocol's size, from disk or computed now by all ranks together.

    Raises `UserError` as `cached_features` does.
    """
    cached = cached_features(backbone, taps, Square(images, config.size), config.feature_config(), context)
    return Maps(cached, taps.shape)


def rank_part(count: int, context: RunContext) -> slice:
    """This rank's share of `count` images."""
    own = np.array_split(np.arange(count), context.processes.world_size)[context.processes.rank]
    return slice(int(own[0]), int(own[-1]) + 1) if len(own) else slice(0, 0)


def plan_of_maps(taps: MapTaps, config: MapConfig) -> str:
    """`384 × 32 × 32 at 512 px; block 11 after the final norm; fp32` for the plan."""
    channels, height, width = taps.shape
    blocks = ", ".join(map(str, taps.blocks))
    norm = "after" if taps.norm else "before"
    return (
        f"{channels} × {height} × {width} at {config.size} px; block{'s' if len(taps.blocks) > 1 else ''} {blocks} "
        f"{norm} the final norm{', class token' if taps.class_token else ''}; {config.precision}"
    )

"""Features of a frozen backbone for a whole data set: one vector per image, each rank computes its share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms
from tqdm import tqdm

from core.backbones import BackboneConfig, Pooling, family_of, input_channels, pooled_features
from core.compute.precision import DTYPES, OLD_NAMES, Precision, autocast, dtype_name
from core.data.bands import BandImage
from core.data.base import ImageSet, read_ahead
from core.data.broken import BrokenImages
from core.data.crop import Interpolation
from core.distributed import Processes, gather_objects, gather_rows
from core.errors import BrokenImage, UserError, first_line

_GATHERED_ROWS = 8192
_AHEAD = 8192
_LARGEST_SIDE = 4096


@dataclass(frozen=True)
class EvalTransformConfig:
    resize: int = 256
    """Shorter side in pixels after resizing; the longer side keeps the proportion."""
    crop: int = 224
    """Side in pixels of the central square that the backbone sees."""
    interpolation: Interpolation = "bicubic"
    """Interpolation in resizing, antialiased."""

    def __post_init__(self) -> None:
        if not 1 <= self.crop <= _LARGEST_SIDE:
            raise ValueError(f"crop must be 1 … {_LARGEST_SIDE} pixels, not {self.crop}")
        if not self.crop <= self.resize <= _LARGEST_SIDE:
            raise ValueError(f"resize must be crop ({self.crop}) … {_LARGEST_SIDE} pixels, not {self.resize}")

    def __str__(self) -> str:
        return f"resize {self.resize}, crop {self.crop}, {self.interpolation}"


@dataclass(frozen=True)
class FeatureConfig:
    transform: EvalTransformConfig = field(default_factory=EvalTransformConfig)
    """Resizing and cropping of each image."""
    pooling: Pooling = "auto"
    """`avg` for networks in stages; `cls`, `patches` (mean patch token), `cls+patches` or `map` (attention pooling) for
    those with tokens; `auto`: the default of each."""
    batch: int = 256
    """Images per forward pass and process; affects memory and speed only."""
    RENAMED_VALUES: ClassVar = {"precision": OLD_NAMES, "storage": OLD_NAMES}
    precision: Precision = "fp32"
    """Precision of the forward pass (autocast below fp32)."""
    storage: Literal["fp32", "fp16"] = "fp32"
    """Precision of the features in memory; fp16 halves the size of a bank."""
    broken_share: float = 0.01
    """Largest share of broken images, 0 … 1; above it the evaluation stops."""

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"batch must be at least 1, not {self.batch}")
        if not 0 <= self.broken_share <= 1:
            raise ValueError(f"broken_share must be 0 … 1, not {self.broken_share}")


@dataclass(frozen=True)
class Features:
    """Features of N images: an image set or one rank's contiguous part of it, without broken images."""

    values: NDArray[Any]
    """float32 or float16, [N, D]."""
    labels: NDArray[np.int64]
    """Class of each image, [N]; −1 if the set has no labels."""
    positions: NDArray[np.int64]
    """Position of each image in its set, ascending, [N]."""
    name: str
    """The image set's name."""
    classes: tuple[str, ...]
    """The image set's class names; empty if it has no labels."""
    broken: tuple[str, ...]
    """File and reason for each broken image of the whole set (all ranks)."""


def eval_crop(image: PIL.Image.Image | BandImage, config: EvalTransformConfig) -> NDArray[np.uint8]:
    """Resize (shorter side) and central crop of an image: uint8 [crop, crop, C], one channel each of a `BandImage`."""
    if isinstance(image, BandImage):
        return np.stack([eval_crop(band, config) for band in image.bands], axis=-1)
    resized = transforms.resize(image, [config.resize], InterpolationMode(config.interpolation))
    return np.asarray(transforms.center_crop(resized, [config.crop]))


def normalised(pixels: Tensor, backbone: BackboneConfig) -> Tensor:
    """uint8 [B, H, W, C] -> float32 [B, C, H, W] with the backbone's mean and std, in channels-last memory."""
    if pixels.shape[-1] != backbone.in_chans:
        raise UserError(
            f"the backbone takes {backbone.in_chans} channels and the images have {pixels.shape[-1]}; set "
            f"data.channels, or adapt RGB weights with --in-chans"
        )
    mean = torch.tensor(backbone.mean, device=pixels.device).view(1, -1, 1, 1)
    std = torch.tensor(backbone.std, device=pixels.device).view(1, -1, 1, 1)
    return pixels.permute(0, 3, 1, 2).float().div_(255).sub_(mean).div_(std)


def feature_size(
    model: nn.Module,
    config: FeatureConfig,
    device: torch.device,
    pool: Callable[[Any, Tensor], Tensor] | None = None,
) -> int:
    """Width D of `extract_features`, measured on one blank image of the protocol's size.

    Raises `UserError` for a pooling that the model lacks and for a size that it can't take.
    """
    crop = config.transform.crop
    with frozen(model):
        try:
            blank = torch.zeros(1, input_channels(model), crop, crop, device=device)
            vectors = pooled_features(model, blank, config.pooling) if pool is None else pool(model, blank)
            return vectors.shape[1]
        except torch.OutOfMemoryError:
            raise
        except (AssertionError, RuntimeError, ValueError) as error:  # timm's and torch's answers to unfit sizes
            raise UserError(
                f"the backbone can't take images of {crop}×{crop} pixels ({first_line(error)}); {_fitting(model, crop)}"
            ) from None


def _fitting(model: nn.Module, crop: int) -> str:
    """A way out for a network that can't take images of `crop`² pixels."""
    family = family_of(model)
    step, own = max(family.input_multiple(model)), family.image_side(model)
    below = crop // step * step
    sides = [str(side) for side in (below, below + step) if side] if crop % step else [str(own)] if own else []
    return f"set features.transform.crop to {' or '.join(sides)}" if sides else "set features.transform.crop"


def extract_features(
    model: nn.Module,
    backbone: BackboneConfig,
    images: ImageSet,
    config: FeatureConfig,
    processes: Processes,
    workers: int = 0,
    unit: bool = False,
    pool: Callable[[Any, Tensor], Tensor] | None = None,
    allocate: Callable[[tuple[int, int], str], NDArray[Any]] = np.empty,
) -> Features:
    """Features of this rank's part of `images`, by ascending position; each image is processed by exactly one rank.

    All ranks must call it together. `model` is on the device of `processes`; its training mode, its buffers and torch's
    global random state are unchanged afterwards. `unit`: L2-normalise in float32 before storage.
    `pool`: (model, images [B, 3, H, W]) -> vectors [B, D], replaces `config.pooling`. `allocate`: (shape, dtype) ->
    array for this rank's vectors, e.g. on disk; its last rows stay unused if images are broken.
    Raises `UserError` (on every rank) if too many images are broken or a feature is not finite.
    """
    part = np.array_split(np.arange(len(images), dtype=np.int64), processes.world_size)[processes.rank]
    values = allocate((len(part), feature_size(model, config, processes.device, pool)), dtype_name(config.storage))
    labels, positions = np.empty(len(part), np.int64), np.empty(len(part), np.int64)
    broken: list[str] = []
    not_finite: list[int] = []
    done = seen = 0
    read_ahead(images, part[:_AHEAD])
    loader: DataLoader[Any] = DataLoader(
        _Crops(images, part, config.transform),  # type: ignore[arg-type]
        batch_size=config.batch,
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=processes.device.type == "cuda",
        generator=torch.Generator(),  # without it each pass draws a seed from the global state
    )
    bar = tqdm(
        total=len(part), desc=f"features of {images.name}", unit="image", disable=not processes.is_main, leave=False,
        mininterval=0.2 if sys.stderr.isatty() else 10.0,
    )  # fmt: skip
    with bar, frozen(model), autocast(processes.device, config.precision):
        for pixels, batch_labels, batch_positions, batch_broken in loader:
            seen += len(pixels) + len(batch_broken)
            read_ahead(images, part[seen : seen + _AHEAD])
            bar.update(len(pixels) + len(batch_broken))
            broken += batch_broken
            if len(broken) > config.broken_share * len(images):
                break
            if len(pixels) == 0:
                continue
            crops = normalised(pixels.to(processes.device, non_blocking=True), backbone)
            vectors = (pooled_features(model, crops, config.pooling) if pool is None else pool(model, crops)).float()
            vectors = functional.normalize(vectors, dim=1) if unit else vectors
            stored = vectors.to(DTYPES[config.storage]).cpu().numpy()
            finite = np.isfinite(stored).all(axis=1)
            if not finite.all():
                not_finite.append(int(batch_positions[~finite][0]))
                break
            block = slice(done, done + len(stored))
            values[block], labels[block], positions[block] = stored, batch_labels, batch_positions
            done += len(stored)
    # All ranks learn of an error here, so that none waits for one that has stopped.
    broken_images = BrokenImages(len(images), config.broken_share)
    broken_images.add_of_all_ranks(broken)
    first = next((position for found in gather_objects(not_finite) for position in found), None)
    if first is not None:
        raise UserError(
            f"the backbone's feature of {images.describe(first)} is not finite: the checkpoint has diverged, or "
            f"{'/'.join(sorted({config.precision, config.storage}))} is too narrow (features.precision, .storage)"
        )
    names = tuple(broken_images.names)
    return Features(values[:done], labels[:done], positions[:done], images.name, images.classes, names)


def gather_features(features: Features, device: torch.device) -> Features:
    """Features of all ranks in rank order, on every rank; `device` is where the ranks exchange tensors."""
    return Features(
        _gather(features.values, device),
        _gather(features.labels, device),
        _gather(features.positions, device),
        features.name,
        features.classes,
        features.broken,
    )


def _gather(rows: NDArray[Any], device: torch.device) -> NDArray[Any]:
    """Rows of all ranks, whose counts may differ, gathered in blocks to save device memory."""
    counts = [int(count) for count in gather_objects(len(rows))]
    if len(counts) == 1:
        return rows
    gathered = np.empty((sum(counts), *rows.shape[1:]), rows.dtype)
    offsets = np.cumsum([0, *counts])
    for start in range(0, max(counts), _GATHERED_ROWS):
        size = min(_GATHERED_ROWS, max(counts) - start)
        padded = np.zeros((size, *rows.shape[1:]), rows.dtype)
        mine = rows[start : start + size]
        padded[: len(mine)] = mine
        blocks = gather_rows(torch.from_numpy(padded).to(device)).cpu().numpy().reshape(len(counts), *padded.shape)
        for count, offset, block in zip(counts, offsets[:-1], blocks, strict=True):
            length = min(max(count - start, 0), size)
            gathered[offset + start : offset + start + length] = block[:length]
    return gathered


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; the mode of every submodule is restored afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


class _Crops:
    """Decoded, resized and cropped images for a loader worker, or the message about a broken one."""

    def __init__(self, images: ImageSet, positions: NDArray[np.int64], config: EvalTransformConfig) -> None:
        self.images, self.positions, self.config = images, positions, config

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int, int] | str:
        position = int(self.positions[index])
        try:
            return eval_crop(self.images.image(position), self.config), self.images.label(position), position
        except BrokenImage as error:
            return str(error)


def _collate(items: list[tuple[NDArray[np.uint8], int, int] | str]) -> tuple[Tensor, Any, Any, list[str]]:
    """-> pixels uint8 [B, H, W, 3], labels [B], positions [B], messages about broken images."""
    good = [item for item in items if not isinstance(item, str)]
    pixels = torch.from_numpy(np.stack([crop for crop, _, _ in good])) if good else torch.empty(0)
    labels, positions = (np.array([item[column] for item in good], np.int64) for column in (1, 2))
    return pixels, labels, positions, [item for item in items if isinstance(item, str)]

"""The loader's stage of the views: decode, crop, resize, draw all random numbers.

The views of an image are a pure function of (seed, epoch, position): they don't depend on the number of workers,
processes or images in a batch, and a resumed run needs no state of random generators.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Collection, Mapping
from functools import partial

import numpy as np
import PIL.Image
import torch
from torch.utils.data import Dataset

from core.data.base import ImageSet, stored_bytes
from core.data.broken import read_or_replace
from core.data.crop import MAX_REDUCTION, draw_crop, resize_box, resize_box_of_pixels
from core.data.decode import MAX_PIXELS
from core.data.jpeg import plain_jpeg_size
from core.errors import UserError
from pretrain import transforms
from pretrain.losses.base import Draw
from pretrain.views.collate import Jpeg, Sample, View
from pretrain.views.config import Decode, PhotometricConfig, Resampler, ViewConfig

Box = tuple[int, int, int, int]
"""Left, top, width and height in pixels of the decoded image."""
Source = torch.Tensor | PIL.Image.Image | Jpeg
"""Pixels [H, W, 3], an image, or a file that the device decodes."""
PAIR_TRIES = 10
"""Pairs of boxes tried before the one of least overlap is taken."""


class Views(Dataset[Sample]):
    """The views of an image set, addressed by (epoch, position)."""

    def __init__(
        self,
        images: ImageSet,
        views: Mapping[str, ViewConfig],
        seed: int,
        resampler: Resampler = "torch",
        own_streams: Collection[str] = (),
        loss_draws: Mapping[str, Mapping[str, Draw]] | None = None,
        decode: Decode = "workers",
    ) -> None:
        """`own_streams`: view types whose random numbers don't come from the stream of the others.

        `loss_draws`: draws of losses by view type and name of the loss, which have streams of their own, too.
        `decode`: with `device`, samples of plain JPEGs (core/data/jpeg.py) hold the file and no pixels; all else is
        the same.
        """
        if seed < 0:
            raise UserError(f"seed must be 0 or more, not {seed}")
        self._images, self._views, self._seed, self._resampler = images, dict(views), seed, resampler
        self._decode = decode
        self._own_streams, self._loss_draws = frozenset(own_streams), dict(loss_draws or {})
        self._transforms = {
            name: (transforms.find(view.transform).draw, view.transform_config)
            for name, view in self._views.items()
            if view.transform is not None
        }

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """The sample of `key` = (epoch, position).

        A broken image is replaced by one drawn at random; `UserError` where `REPLACEMENTS` of these are broken too.
        """
        epoch, index = key
        rng = np.random.default_rng((self._seed, epoch, index))
        source, index, broken = read_or_replace(partial(self._read, key), self._images, index, rng)
        views = {}
        for name, view in self._views.items():
            own = np.random.default_rng((self._seed, epoch, index, _key(name))) if name in self._own_streams else rng
            views[name] = self._views_of_type(name, view, source, own)
            for loss, draw in self._loss_draws.get(name, {}).items():
                own = np.random.default_rng((self._seed, epoch, index, _key(name), _key(loss)))
                for made in views[name]:
                    made.parameters |= {f"{loss}.{key}": value for key, value in draw(view, own).items()}
        return Sample(views, index, broken, source if isinstance(source, Jpeg) else None)

    def _read(self, key: tuple[int, int], index: int) -> Source:
        """Image `index`, decoded unless the device does that. Raises `BrokenImage`."""
        if self._decode == "device" and (jpeg := self.jpeg(key, index)) is not None:
            return jpeg
        image = self._images.image(index)
        return torch.from_numpy(np.array(image)) if self._resampler == "torch" else image

    def jpeg(self, key: tuple[int, int], index: int) -> Jpeg | None:
        """File of image `index` for the sample `key`; None where the device can't decode or shrink it."""
        data = stored_bytes(self._images, index)
        size = None if data is None else plain_jpeg_size(data)
        if data is None or size is None or math.prod(size) > MAX_PIXELS:
            return None
        smallest = min(view.size for view in self._views.values())
        return Jpeg(data, size, key) if max(size) <= MAX_REDUCTION * smallest else None

    def _views_of_type(self, name: str, config: ViewConfig, source: Source, rng: np.random.Generator) -> list[View]:
        if config.placement == "independent":
            return [self._view(name, config, number, source, None, rng) for number in range(config.count)]
        boxes = draw_apart(*_size(source), config.area, config.ratio, rng)
        views = [self._view(name, config, number, source, box, rng) for number, box in enumerate(boxes)]
        for view in views[1:]:
            view.parameters["flip"] = views[0].parameters["flip"]
        return views

    def _view(
        self,
        name: str,
        config: ViewConfig,
        number: int,
        source: Source,
        box: Box | None,
        rng: np.random.Generator,
    ) -> View:
        """View `number` of a type; its crop is drawn where `box` is none."""
        box = draw_crop(*_size(source), config.area, config.ratio, rng) if box is None else box
        if isinstance(source, Jpeg):
            crop = torch.zeros(1, dtype=torch.uint8).expand(3, config.size, config.size)
        elif isinstance(source, torch.Tensor):
            crop = resize_box_of_pixels(source, box, config.size)
        else:
            crop = torch.from_numpy(np.array(resize_box(source, box, config.size))).permute(2, 0, 1)
        parameters = draw_photometric(config.photometric[min(number, len(config.photometric) - 1)], rng)
        if name in self._transforms:
            draw, options = self._transforms[name]
            parameters |= {f"{config.transform}.{key}": value for key, value in draw(options, config.size, rng).items()}
        return View(crop, parameters | {"box": np.array(box, dtype=np.float32)})


def draw_apart(
    width: int, height: int, area: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> tuple[Box, Box]:
    """Two boxes of an image that don't overlap; after `PAIR_TRIES` pairs that do, the pair of least overlap."""
    best, least = None, math.inf
    for _ in range(PAIR_TRIES):
        first, second = (draw_crop(width, height, area, ratio, rng) for _ in range(2))
        if (common := _overlap(first, second)) < least:
            best, least = (first, second), common
        if least == 0:
            break
    assert best is not None
    return best


def _overlap(first: Box, second: Box) -> int:
    """Common area of two boxes in pixels."""
    across, down = (
        min(first[axis] + first[axis + 2], second[axis] + second[axis + 2]) - max(first[axis], second[axis])
        for axis in (0, 1)
    )
    return max(0, across) * max(0, down)


def _size(source: Source) -> tuple[int, int]:
    """Width and height in pixels."""
    return (source.shape[1], source.shape[0]) if isinstance(source, torch.Tensor) else source.size


def _key(name: str) -> int:
    """Number that stands for a name in the key of a stream of random numbers."""
    return zlib.crc32(name.encode())


def draw_photometric(config: PhotometricConfig, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The colours, blur and flip of one view of one sample.

    flip, grey: bool. jitter: float32 [4], the factors of brightness, contrast, saturation (1 changes nothing) and hue
    (0 changes nothing). jitter_order: int8 [4], which of the four comes first, second, …. blur_sigma: float32, 0 for
    no blur. blur_kernel: int64. solarise_from: float32, the threshold, infinite for none.
    """
    flip, jitter, grey, blur, sigma, solarise, *eight = rng.random(14).tolist()
    factors = [1.0, 1.0, 1.0, 0.0]
    if jitter < config.jitter_p:
        factors = [
            max(0.0, neutral - strength) + (neutral + strength - max(0.0, neutral - strength)) * number
            for neutral, strength, number in zip((1.0, 1.0, 1.0), config.jitter[:3], eight[:3], strict=True)
        ]
        factors.append(config.jitter[3] * (2 * eight[3] - 1))
    low, high = config.blur_sigma
    return {
        "flip": np.array(flip < config.flip),
        "jitter": np.array(factors, dtype=np.float32),
        "jitter_order": np.argsort(eight[4:]).astype(np.int8),
        "grey": np.array(grey < config.grey_p),
        "blur_sigma": np.array(low + (high - low) * sigma if blur < config.blur_p else 0.0, dtype=np.float32),
        "blur_kernel": np.array(config.blur_kernel),
        "solarise_from": np.array(
            config.solarise_threshold if solarise < config.solarise_p else math.inf, dtype=np.float32
        ),
    }

"""Decoding, cropping and resizing of JPEGs on the device that trains (`decode: device`).

The loader's workers read the files and draw everything; only pixels are made here. Each image that the device can't
decode is left to the workers, or made anew as they do it, so that broken images are found and replaced as ever.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from core.data.base import ImageSet
from core.data.crop import resize_heights, resize_widths
from core.data.order import epoch_order
from core.errors import UserError, first_line
from pretrain.build_losses import open_views
from pretrain.config import PretrainConfig
from pretrain.views.collate import Batch, Jpegs, View, collate
from pretrain.views.config import ViewConfig

IMAGES, PIXELS = 64, 2**25
"""Most images, and most pixels of more than one image, that are decoded at once."""
LOOKED_AT = 256
"""Images of the first epoch that the plan looks at."""
Crops = Mapping[str, Sequence[Tensor]]
"""Crops uint8 [J, 3, S, S] of J images, for each view by view type."""
Part = tuple[list[int], Crops]
"""Places of some images in a batch, and their crops."""
_FATAL = ("out of memory", "CUDA error", "Failed to synchronize")
"""Errors of torch and CUDA that are not about one image."""


def describe_decoding(config: PretrainConfig, images: ImageSet, device: torch.device) -> str:
    """Share of the images that the device decodes, for the plan; empty where the workers decode all.

    Reads the files of the first steps. Raises `UserError` where torchvision can't decode there, or no file fits.
    """
    if config.decode == "workers":
        return ""
    check_decoder(device)
    order = epoch_order(len(images), config.seed, 0, getattr(images, "blocks", None))[:LOOKED_AT]
    views = open_views(images, config)
    found = sum(views.jpeg((0, position), position) is not None for position in order.tolist())
    if not found:
        raise UserError(
            f"decode=device is for baseline JPEGs in colour, but none of the first {len(order)} images of "
            f"{images.name} is one; set decode=workers"
        )
    return (
        f"{found} of the first {len(order)} images by {'nvJPEG' if device.type == 'cuda' else 'torchvision'} on "
        f"{device}, the others by the loader's processes"
    )


def check_decoder(device: torch.device) -> None:
    """Raises `UserError` where torchvision can't decode JPEGs on `device`."""
    file = io.BytesIO()
    PIL.Image.new("RGB", (16, 16)).save(file, "JPEG")
    try:
        decode_jpegs([torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)], device)
    except (ImportError, AttributeError, RuntimeError) as error:
        raise UserError(
            f"decode=device: this torchvision can't decode JPEGs on {device} ({first_line(error)}); set decode=workers"
        ) from None


def decode_jpegs(files: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """RGB pixels uint8 [3, H, W] on the device of encoded files, uint8 [N] on the CPU; the host waits for them."""
    from torchvision.io import ImageReadMode, decode_jpeg

    return decode_jpeg(list(files), mode=ImageReadMode.RGB, device=device)


class DeviceDecoder:
    """Completes batches of `open_views(…, decode="device")`.

    The host waits for the decoder, but not for the training: on a GPU they have streams of their own.
    """

    def __init__(self, images: ImageSet, config: PretrainConfig, device: torch.device) -> None:
        self._views, self._device = config.views, device
        self._by_workers = open_views(images, config)
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, batch: Batch) -> Batch:
        """`batch` with the views of all its images, on the device if that decodes any of them.

        Counts the images as `decoded_on_device` and `decoded_on_host`.
        """
        total, done = len(batch.index), 0
        if batch.jpegs is not None:
            with contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
                parts, failed = self._decode(batch.jpegs, batch.views)
                done = sum(len(places) for places, _ in parts)
                parts.append((sorted({*range(total)} - {*batch.jpegs.places.tolist()}), _crops(batch)))
                if failed:
                    anew = collate([self._by_workers[key] for key in failed.values()])
                    batch = replaced(batch, list(failed), anew)
                    parts.append((list(failed), _crops(anew)))
                batch = with_crops(batch, parts, self._device)
            if self._stream is not None:
                current = torch.cuda.current_stream(self._device)
                current.wait_stream(self._stream)
                for view in itertools.chain(*batch.views.values()):
                    view.images.record_stream(current)
        return dataclasses.replace(batch, counts={"decoded_on_device": done, "decoded_on_host": total - done})

    def _decode(
        self, jpegs: Jpegs, views: Mapping[str, Sequence[View]]
    ) -> tuple[list[Part], dict[int, tuple[int, int]]]:
        """Crops of a few images at a time, and place and key of each image that the device can't decode."""
        files = torch.tensor_split(jpegs.data, jpegs.ends[:-1].tolist())
        parts: list[Part] = []
        failed: dict[int, tuple[int, int]] = {}
        for some in _groups(jpegs.sizes):
            if self._stream is not None:
                # torchvision's stream doesn't wait for this one, which may still be using the memory it decodes into.
                self._stream.synchronize()
            good = {}
            for number, pixels in zip(some, self._attempt([files[number] for number in some]), strict=True):
                place, (width, height) = int(jpegs.places[number]), jpegs.sizes[number].tolist()
                if pixels is None or pixels.shape != (3, height, width):
                    failed[place] = jpegs.keys[number]
                else:
                    good[place] = pixels
            if good:
                parts.append((list(good), crops_of(good, views, self._views)))
        return parts, failed

    def _attempt(self, files: list[Tensor]) -> list[Tensor | None]:
        """Pixels of each file; None where the device can't decode it."""
        try:
            return list(decode_jpegs(files, self._device))
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in _FATAL):
                raise
            if len(files) == 1:
                return [None]
        return [pixels for file in files for pixels in self._attempt([file])]


def crops_of(
    images: Mapping[int, Tensor], views: Mapping[str, Sequence[View]], config: Mapping[str, ViewConfig]
) -> Crops:
    """Crops of decoded images, uint8 [3, H, W] by place in the batch; `views`: of the whole batch, with their boxes."""
    strips: dict[str, list[list[Tensor]]] = {name: [[] for _ in of_type] for name, of_type in views.items()}
    for place, pixels in images.items():
        image = pixels.float()
        for name, of_type in views.items():
            for of_view, view in zip(strips[name], of_type, strict=True):
                left, top, width, height = view.parameters["box"][place].astype(int).tolist()
                of_view.append(resize_widths(image, (left, top, width, height), config[name].size))
    return {name: [resize_heights(of_view) for of_view in of_type] for name, of_type in strips.items()}


def with_crops(batch: Batch, parts: Sequence[Part], device: torch.device) -> Batch:
    """`batch` with the crops of all `parts`, which have each of its places once, on the device."""
    parts = [(places, crops) for places, crops in parts if places]
    indices = [torch.from_numpy(np.array(places)).to(device, non_blocking=True) for places, _ in parts]

    def whole(name: str, number: int) -> Tensor:
        some = [crops[name][number] for _, crops in parts]
        images = torch.empty((len(batch.index), *some[0].shape[1:]), dtype=torch.uint8, device=device)
        for index, crops in zip(indices, some, strict=True):
            images.index_copy_(0, index, crops.to(device, non_blocking=True))
        return images

    views = {
        name: [dataclasses.replace(view, images=whole(name, number)) for number, view in enumerate(of_type)]
        for name, of_type in batch.views.items()
    }
    return dataclasses.replace(batch, views=views, jpegs=None)


def replaced(batch: Batch, places: list[int], anew: Batch) -> Batch:
    """`batch` with parameters, positions and broken images of `anew` at `places`; images stay as they are."""
    index = batch.index.clone()
    index[places] = anew.index
    for view, other in zip(itertools.chain(*batch.views.values()), itertools.chain(*anew.views.values()), strict=True):
        for key, values in view.parameters.items():
            values[places] = other.parameters[key]
    return dataclasses.replace(batch, index=index, broken=[*batch.broken, *anew.broken])


def _crops(batch: Batch) -> Crops:
    return {name: [view.images for view in of_type] for name, of_type in batch.views.items()}


def _groups(sizes: np.ndarray) -> list[list[int]]:
    """Numbers of consecutive images that are decoded together; `sizes`: int64 [J, 2]."""
    groups: list[list[int]] = []
    pixels = 0
    for number, count in enumerate(sizes.prod(1).tolist()):
        if not groups or len(groups[-1]) == IMAGES or pixels + count > PIXELS:
            groups.append([])
            pixels = 0
        groups[-1].append(number)
        pixels += count
    return groups

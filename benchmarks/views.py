"""Input: what five views cost a loader's worker, and what the device stage costs. `python benchmarks/views.py`"""

from __future__ import annotations

import io
import math
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import PIL.Image
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import InterpolationMode, v2

from benchmarks.alternate import Goal, Row, alternate, benchmark_parser, finish, measure_in_turn
from core.backbones import IMAGENET_MEAN, IMAGENET_STD
from core.data.readers.folder import Folder
from core.data.scenes.photographs import PHOTOGRAPHS, data_folder
from pretrain.views.augment import augment
from pretrain.views.collate import collate
from pretrain.views.config import PhotometricConfig, Resampler, ViewConfig
from pretrain.views.dataset import Views

WIDTH, HEIGHT, QUALITY = 500, 375, 90
BATCHES = 3
"""Measured batches per round; one more fills the pipeline."""
FIVE_VIEWS = {
    "global": ViewConfig(
        count=2, photometric=(PhotometricConfig(blur_p=1.0), PhotometricConfig(blur_p=0.1, solarise_p=0.2))
    ),
    "local": ViewConfig(count=2, size=96, area=(0.08, 0.25)),
    "cutout": ViewConfig(count=1, transform="cutout", transform_options={"area": [0.2, 0.4]}),
}


def main() -> None:
    """CPU seconds, which other processes on the machine disturb less than elapsed ones."""
    parser = benchmark_parser("Time what five views of a 500×375 JPEG cost, per image.", rounds=7)
    parser.add_argument("--images", type=int, default=52, help="images per round")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        bytes_per_image = write_photographs(Path(folder), arguments.images)
        rows = [worker_row(Path(folder), arguments.images, arguments.rounds)]
        rows += device_rows(Path(folder), arguments.images, arguments.rounds)
    finish("views", arguments, rows, jpeg_bytes=bytes_per_image)


def worker_row(folder: Path, batch: int, rounds: int) -> Row:
    """Decode, crops, and for the public way all that happens to their colours, in a loader's worker process."""

    def ours(resampler: Resampler) -> Callable[[], float]:
        views = Views(Folder(folder, "photographs"), FIVE_VIEWS, seed=0, resampler=resampler)
        return lambda: worker_seconds(views, collate, [[(0, i) for i in range(batch)]] * (BATCHES + 1))

    public = AllOnTheWorker(sorted(folder.iterdir()))
    taken = measure_in_turn(
        {
            "ours": ours("torch"),
            "ours, crops resized by Pillow": ours("pillow"),
            "all on the worker (torchvision v2)": lambda: worker_seconds(
                public, default_collate, [list(range(batch))] * (BATCHES + 1)
            ),
        },
        rounds,
    )
    return Row(
        "five views on a loader's worker",
        "ms of CPU per image",
        {way: [1000 * seconds / (BATCHES * batch) for seconds in values] for way, values in taken.items()},
        ratio=("all on the worker (torchvision v2)", "ours"),
        goal=Goal("≥", 10),
    )


def worker_seconds(dataset: Dataset[Any], collate_fn: Callable[[list[Any]], Any], batches: list[list[Any]]) -> float:
    """CPU seconds that one worker spends on all batches but the first, handing them over included."""
    loader = DataLoader(
        dataset, batch_sampler=batches, num_workers=1, collate_fn=_Stamped(collate_fn), prefetch_factor=1
    )
    stamps = [stamp for _, stamp in loader]
    return stamps[-1] - stamps[0]


class _Stamped:
    """A collate function that adds the CPU seconds its process has used so far."""

    def __init__(self, collate_fn: Callable[[list[Any]], Any]) -> None:
        self.collate_fn = collate_fn

    def __call__(self, samples: list[Any]) -> tuple[Any, float]:
        return self.collate_fn(samples), time.process_time()


class AllOnTheWorker(Dataset[list[Tensor]]):
    """Float views of an image: decoded to a uint8 tensor, it goes through five pipelines."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files, self.transforms = files, per_sample_transforms()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, position: int) -> list[Tensor]:
        image = decode_image(str(self.files[position]), mode=ImageReadMode.RGB)
        return [transform(image) for transform in self.transforms]


def device_rows(folder: Path, images: int, rounds: int) -> list[Row]:
    """The device stage on a CPU against torchvision's operations, one sample at a time, on the same uint8 crops."""
    views = Views(Folder(folder, "photographs"), FIVE_VIEWS, seed=0)
    batch = collate([views[0, position] for position in range(images)])
    transforms = per_sample_transforms()
    rows = []
    number = 0
    for name, config in FIVE_VIEWS.items():
        for which, view in enumerate(batch.views[name]):
            after_crop = v2.Compose(transforms[number].transforms[1:])
            number += 1
            if name == "local" and which:
                continue  # the same recipe twice
            values = alternate(
                {
                    "ours, in batches": partial(
                        augment, view.images, view.parameters, config, IMAGENET_MEAN, IMAGENET_STD
                    ),
                    "torchvision v2, each sample": partial(_each, after_crop, view.images),
                },
                rounds,
                clock=time.process_time,
                scale=1000 / images,
            )
            label = name if config.count == 1 or name == "local" else f"{name} {which + 1}"
            rows.append(
                Row(
                    f"colours, blur, normalisation of the {label} view ({config.size} px)",
                    "ms of CPU per image",
                    values,
                    ratio=("torchvision v2, each sample", "ours, in batches"),
                    goal=Goal("≥", 1),
                )
            )
    return rows


def write_photographs(folder: Path, images: int) -> int:
    """JPEGs of 500×375 pixels cut from the built-in photographs; gives their mean size in bytes."""
    sources = [
        PIL.Image.open(data_folder() / photograph.file).convert("RGB").crop(photograph.box)
        for photograph in PHOTOGRAPHS.values()
    ]
    total = 0
    for number in range(images):
        source = sources[number % len(sources)]
        scale = max(WIDTH / source.width, HEIGHT / source.height)
        size = (math.ceil(source.width * scale), math.ceil(source.height * scale))
        resized = source.resize(size, PIL.Image.Resampling.BICUBIC).crop((0, 0, WIDTH, HEIGHT))
        buffer = io.BytesIO()
        resized.save(buffer, "JPEG", quality=QUALITY)
        total += (folder / f"{number:05d}.jpg").write_bytes(buffer.getvalue())
    return total // images


def per_sample_transforms() -> list[v2.Compose]:
    """The five views of `FIVE_VIEWS` in torchvision's transforms; the crop comes first."""
    made = []
    for config in FIVE_VIEWS.values():
        for number in range(config.count):
            recipe = config.photometric[min(number, len(config.photometric) - 1)]
            steps: list[Callable[[Tensor], Tensor]] = [
                v2.RandomResizedCrop(
                    config.size, scale=config.area, ratio=config.ratio, interpolation=InterpolationMode.BICUBIC
                ),
                v2.RandomHorizontalFlip(recipe.flip),
                v2.ToDtype(torch.float32, scale=True),
            ]
            if config.transform == "cutout":
                steps.append(_cut_out)
            steps += [
                v2.RandomApply([v2.ColorJitter(*recipe.jitter)], recipe.jitter_p),
                v2.RandomGrayscale(recipe.grey_p),
                v2.RandomApply([v2.GaussianBlur(recipe.blur_kernel, recipe.blur_sigma)], recipe.blur_p),
            ]
            if recipe.solarise_p:
                steps.append(v2.RandomSolarize(recipe.solarise_threshold, recipe.solarise_p))
            made.append(v2.Compose([*steps, v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)]))
    return made


def _each(transform: v2.Compose, images: Tensor) -> list[Tensor]:
    return [transform(image) for image in images]


_box = v2.RandomErasing(p=1.0, scale=(0.2, 0.4), ratio=(3 / 4, 4 / 3), value=list(IMAGENET_MEAN))


def _cut_out(image: Tensor) -> Tensor:
    return _box(image)


if __name__ == "__main__":
    main()

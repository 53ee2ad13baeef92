"""From what the user names (`scenes`, `fashion-mnist`, `folder:…`, `webdataset:…`) to a set of images."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from core.data.base import ImageSet
from core.data.scenes.render import ScenesConfig
from core.data.subset import sample
from core.data.torchvision_sets import SETS, TorchvisionSet
from core.errors import UserError

Split = Literal["pretrain", "train", "val"]
SOURCES = f"scenes, fashion-mnist, fashion-mnist:FOLDER, folder:FOLDER, webdataset:SHARDS, and {', '.join(SETS)}:ROOT"


@dataclass(frozen=True)
class DataConfig:
    source: str = "folder:data/imagenet"
    """`scenes`, `fashion-mnist[:FOLDER]`, `folder:ROOT` (ROOT/train, ROOT/val with class folders; any image folder for
    pre-training) or `webdataset:/data/in1k-{split}-{000..127}.tar`, where {split} stands for train or val; or one
    of torchvision's sets in its root, e.g. `cifar10:/data`."""
    limit: int | None = None
    """Use a seeded sample of this many images; none: all of them."""
    scenes: ScenesConfig = field(default_factory=ScenesConfig)
    """How the built-in scenes look; of no effect on the other sources."""

    def __post_init__(self) -> None:
        kind, colon, rest = self.source.partition(":")
        if kind not in ("scenes", "fashion-mnist", "folder", "webdataset", *SETS) or (colon and not rest):
            raise ValueError(f"source {self.source!r} is none of: {SOURCES}")
        if kind in ("folder", "webdataset", *SETS) and not rest:
            raise ValueError(f"source {kind} needs a place, e.g. {kind}:/data{'' if kind in SETS else '/imagenet'}")
        if kind == "scenes" and rest:
            raise ValueError("source scenes takes no place; set scenes.* instead")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit must be positive or null, not {self.limit}")


def open_images(config: DataConfig, split: Split, seed: int) -> ImageSet:
    """The images of one split. Fashion-MNIST's pre-training images are its train split, its val images the test split.

    `seed` decides which images `limit` keeps. Raises `UserError` for data that isn't there or has no such split.
    """
    images = _open_whole(config, split)
    if config.limit is not None and config.limit != len(images):
        return sample(images, config.limit, seed)
    return images


def _open_whole(config: DataConfig, split: Split) -> ImageSet:
    kind, _, place = config.source.partition(":")
    if kind == "scenes":
        from core.data.scenes.image_set import Scenes

        return Scenes("test" if split == "val" else split, config.scenes)
    if kind == "fashion-mnist":
        from core.data.fashion_mnist import FashionMNIST

        return FashionMNIST("test" if split == "val" else "train", Path(place) if place else None)
    if kind == "folder":
        from core.data.folder import Folder, split_folder

        root = split_folder(Path(place).expanduser(), split)
        return Folder(root, f"folder:{root}")
    if kind in SETS:
        return TorchvisionSet(kind, Path(place).expanduser(), "val" if split == "val" else "train")
    from core.data.shards import Shards

    if "{split}" not in place and split != "pretrain":
        raise UserError(f"webdataset:{place} needs {{split}} in its name to tell train from val shards")
    pattern = place.replace("{split}", "val" if split == "val" else "train")
    return Shards(pattern, f"webdataset:{pattern}")

"""From what the user names (`scenes`, `folder:…`, `webdataset:…`, `hf:…`, `parquet:…`, …) to a set of images."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from core.data.base import ImageSet
from core.data.readers import hf, parquet
from core.data.readers.folder import Folder
from core.data.readers.shards import open_shards
from core.data.readers.splits import Split, split_folder
from core.data.readers.tables import split_options
from core.data.readers.torchvision_sets import SETS, TorchvisionSet
from core.data.scenes.render import ScenesConfig
from core.data.subset import noted, sample
from core.files.user_path import user_path

__all__ = ["SOURCES", "USERS_COPY", "DataConfig", "Split", "open_images", "split_sources"]
SOURCES = (
    f"scenes, fashion-mnist, fashion-mnist:FOLDER, folder:FOLDER, webdataset:SHARDS, hf:NAME[:CONFIG], parquet:FILES, "
    f"and {', '.join(SETS)}:ROOT"
)
USERS_COPY = ("folder", "webdataset", "hf", "parquet")
"""Kinds of which the user names the place: another place of them is not another protocol."""
_EXAMPLES = {"folder": "/data/imagenet", "webdataset": "/data/in1k-{split}-{000..127}.tar"} | {
    "hf": "ILSVRC/imagenet-1k", "parquet": "/data/in1k/{split}-*.parquet",
}  # fmt: skip


@dataclass(frozen=True)
class DataConfig:
    source: str = "folder:data/imagenet"
    """`scenes`, `fashion-mnist[:FOLDER]`, `folder:ROOT` (ROOT/train, ROOT/val with class folders; any image folder for
    pre-training) or `webdataset:/data/in1k-{split}-{000..127}.tar`, where {split} stands for train or val (valid,
    validation); `hf:NAME[:CONFIG]` of the Hugging Face hub, its cache or a local folder, or `parquet:FILES`, both with
    `?image=COLUMN&label=COLUMN` behind where the columns are not clear; or one of torchvision's sets in its root, e.g.
    `cifar10:/data`. Paths are taken literally."""
    limit: int | None = None
    """Use a seeded sample of this many images of each split; none, or a split of fewer images: all of them."""
    channels: int = 3
    """Channels of each image, 1 … 16, for `folder:` alone. Other numbers than 3 (RGB) are read from TIFFs of several
    pages or bands and from NumPy arrays [H, W, C] (core/data/bands.py)."""
    scenes: ScenesConfig = field(default_factory=ScenesConfig)
    """Appearance of the built-in scenes; ignored by the other sources."""

    def __post_init__(self) -> None:
        if "\0" in self.source:
            raise ValueError(f"source {self.source!r} holds a NUL character, which paths must not")
        kind, colon, rest = self.source.partition(":")
        if kind not in ("scenes", "fashion-mnist", *USERS_COPY, *SETS) or (colon and not rest):
            path = user_path(self.source)
            tar = path.suffix == ".tar" or "{" in self.source
            like = "parquet" if path.suffix == ".parquet" else "webdataset" if tar else "folder"
            meant = f"did you mean {like}:{self.source}? " if "/" in self.source else ""
            raise ValueError(f"source {self.source!r} names no kind of data; {meant}it must be one of: {SOURCES}")
        if kind in (*USERS_COPY, *SETS) and not rest:
            raise ValueError(f"source {kind} needs a place, e.g. {kind}:{_EXAMPLES.get(kind, '/data')}")
        if kind in ("hf", "parquet"):
            split_options(rest, hf.OPTIONS if kind == "hf" else parquet.OPTIONS)
        if kind == "scenes" and rest:
            raise ValueError("source scenes takes no place; set scenes.* instead")
        if not 1 <= self.channels <= 16:
            raise ValueError(f"channels must be 1 … 16, not {self.channels}")
        if self.channels != 3 and kind != "folder":
            raise ValueError(f"channels={self.channels} needs source folder:…; {kind} has RGB images")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit must be positive or null, not {self.limit}")


def open_images(config: DataConfig, split: Split, seed: int) -> ImageSet:
    """Images of one split. Fashion-MNIST's pre-training images are its train split, its val images the test split.

    `seed` decides which images `limit` keeps; a split of fewer images is used whole, which its account notes. Labels
    are needed for train and val alone. Raises `UserError` for data that doesn't exist or has no such split.
    """
    images = _open_whole(config, split)
    return images if config.limit in (None, len(images)) else sample(images, config.limit, seed)


def split_sources(text: str) -> tuple[str, ...]:
    """Sources in a comma-separated list; a comma within a path is not taken for a separator.

    A source begins with its kind (`scenes`, `folder:`, `cifar10:`, …) at the beginning or after a comma.
    """
    bare, placed = r"scenes|fashion-mnist", "|".join(("fashion-mnist", *USERS_COPY, *SETS))
    return tuple(part for part in re.split(rf",(?=(?:{bare})(?:,|$)|(?:{placed}):|,|$)", text) if part)


def _open_whole(config: DataConfig, split: Split) -> ImageSet:
    kind, _, place = config.source.partition(":")
    if kind == "scenes":
        from core.data.scenes.image_set import Scenes

        return Scenes("test" if split == "val" else split, config.scenes)
    if kind == "fashion-mnist":
        from core.data.readers.fashion_mnist import FashionMNIST

        return FashionMNIST("test" if split == "val" else "train", user_path(place) if place else None)
    if kind == "folder":
        root, notes = split_folder(user_path(place), split)
        folder = Folder(
            root, f"folder:{root}", labelled=split != "pretrain", may_lack=split == "val",
            channels=config.channels,
        )  # fmt: skip
        return noted(folder, *notes)
    if kind == "hf":
        return hf.open_hf(place, split)
    if kind == "parquet":
        return parquet.open_parquet(place, split)
    if kind in SETS:
        return TorchvisionSet(kind, user_path(place), split)
    return open_shards(place, split)

"""Features of a frozen backbone on disk, memory-mapped: computed once, never stale, whole or not there at all."""

from __future__ import annotations

import json
import os
import sys
import tokenize
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from core.backbones import Backbone, to_metadata
from core.checkpoints import tensors_digest
from core.compute.precision import dtype_name
from core.config import to_dict
from core.data.base import ImageSet
from core.distributed import gather_objects, raise_on_all_ranks, wait_for_all
from core.errors import UserError
from core.features import FeatureConfig, extract_features, feature_size
from core.files.atomic_folder import atomic_folder
from core.files.cache_folder import cache_folder
from core.files.value_digest import value_digest
from core.result import library_versions
from core.untrusted.zip_archives import find_fault
from evaluate.common.context import RunContext

FORMAT = 1
"""Version of the files, raised with every change of their content."""


class Taps(Protocol):
    """What is stored of each image: a function of network and images, with an identity for the cache's key."""

    def __call__(self, model: Any, images: Tensor) -> Tensor:
        """[B, 3, H, W] normalised floats -> [B, F]."""
        ...

    def identity(self) -> dict[str, Any]:
        """Settings that determine the vector."""
        ...


@dataclass(frozen=True)
class CachedFeatures:
    """Features of a whole image set; the M usable images of N."""

    values: NDArray[Any]
    """float32 or float16 [N, F], mapped from disk (private pages: writes never reach the file)."""
    rows: NDArray[np.int64]
    """Row of each usable image in `values`, [M]."""
    labels: NDArray[np.int64]
    """Class of each usable image, [M]."""
    positions: NDArray[np.int64]
    """Position of each usable image in its set, ascending, [M]."""
    broken: tuple[str, ...]
    """Name and reason of each broken image."""
    folder: Path
    """Folder of the files."""


def cache_key(backbone: Backbone, taps: Taps, images: ImageSet, config: FeatureConfig) -> dict[str, Any]:
    """Everything that decides the features: another value of any of it is another cache."""
    versions = library_versions()
    transform = to_dict(config.transform)
    if transform["interpolation"] == "bicubic":  # the only one there was: existing caches stay valid
        del transform["interpolation"]
    return {
        "format": FORMAT,
        "backbone_sha256": tensors_digest(backbone.model.state_dict()),
        "backbone": json.loads(json.dumps(to_metadata(backbone.config))),
        "data": images.digest(),
        "images": len(images),
        "taps": taps.identity(),
        "transform": transform,
        "precision": dtype_name(config.precision),
        "storage": dtype_name(config.storage),
        "libraries": {name: versions[name] for name in ("torch", "torchvision", "timm", "pillow")},
    }


def cached_features(
    backbone: Backbone, taps: Taps, images: ImageSet, config: FeatureConfig, context: RunContext
) -> CachedFeatures:
    """The features of all `images`, from disk or computed now by all ranks together; every rank sees all of them.

    Raises `UserError` as `extract_features` does, for a full disk, and where a rank can't see the cache folder.
    """
    key = cache_key(backbone, taps, images, config)
    digest = value_digest(key)
    folder = cache_folder() / "features" / digest
    present = gather_objects(_complete(folder, key))[0]
    if not present:
        with atomic_folder(folder, lambda: _complete(folder, key)) if context.is_main else nullcontext() as made:
            part = Path(gather_objects(str(made))[0])
            _fill(part, key, backbone, taps, images, config, context)
        wait_for_all()
    return _open(folder)


def _fill(
    part: Path,
    key: dict[str, Any],
    backbone: Backbone,
    taps: Taps,
    images: ImageSet,
    config: FeatureConfig,
    context: RunContext,
) -> None:
    processes = context.processes
    shape = (len(images), feature_size(backbone.model, config, processes.device, taps))
    refused = _reserve(part / "values.npy", shape, dtype_name(config.storage)) if processes.is_main else ""
    raise_on_all_ranks(refused)
    try:
        values = np.lib.format.open_memmap(part / "values.npy", mode="r+")
    except OSError:
        raise UserError(f"rank {processes.rank} can't see {part}; SSL_TRANSFER_CACHE must be a shared folder") from None
    start = int(np.array_split(np.arange(len(images)), processes.world_size)[processes.rank][:1].sum())
    found = extract_features(
        backbone.model,
        backbone.config,
        images,
        config,
        processes,
        context.workers,
        pool=taps,
        allocate=lambda own, _dtype: values[start : start + own[0]],
    )
    values.flush()
    own = (start + np.arange(len(found.labels), dtype=np.int64), found.labels, found.positions)
    rows, labels, positions = (np.concatenate(column) for column in zip(*gather_objects(own), strict=True))
    index = {"rows": rows, "labels": labels, "positions": positions}
    facts = {"key": key, "broken": list(found.broken), "shape": list(shape)}
    raise_on_all_ranks(_close(part, index, facts, dtype_name(config.storage)) if processes.is_main else "")


def _close(part: Path, index: dict[str, NDArray[Any]], facts: dict[str, Any], storage: str) -> str:
    """Writes what says that the features are whole, and puts everything on disk."""
    try:
        np.savez(part / "index.npz", **index)  # type: ignore[arg-type]
        (part / "facts.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
        for file in part.iterdir():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
    except OSError as error:
        return _no_room(part, facts["shape"], storage, error)
    return ""


def _reserve(path: Path, shape: tuple[int, int], dtype: str) -> str:
    """Makes the file with all its blocks: a full disk is reported now, not by a signal while pages are written."""
    try:
        array = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)
        del array
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        return _no_room(path.parent, shape, dtype, error)
    return ""


def _no_room(part: Path, shape: Sequence[int], dtype: str, error: OSError) -> str:
    size = shape[0] * shape[1] * np.dtype(dtype).itemsize / 2**20
    return (
        f"can't keep {size:,.0f} MiB of features in {part.parent} ({error.strerror}); free space, set "
        f"features.storage=fp16, or name another folder in SSL_TRANSFER_CACHE"
    )


def _complete(folder: Path, key: dict[str, Any]) -> bool:
    """True if the folder holds complete, valid features of this key; anything else is computed again."""
    if not (folder / "facts.json").is_file():
        return False
    try:
        facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
        if facts["key"] != key or find_fault(folder / "index.npz"):
            return False
        found, rows = _open(folder), key["images"]
        columns = (found.rows, found.labels, found.positions)
        return (
            list(found.values.shape) == facts["shape"]
            and found.values.dtype.name == key["storage"]
            and len(found.values) == rows
            and all(c.dtype == np.int64 and c.ndim == 1 and len(c) == len(found.rows) for c in columns)
            and all(len(c) == 0 or (c.min() >= 0 and c.max() < rows) for c in (found.rows, found.positions))
            and (len(found.labels) == 0 or -1 <= int(found.labels.min()) <= int(found.labels.max()) < rows)
            and all(isinstance(name, str) for name in facts["broken"])
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, MemoryError, OverflowError,
            RecursionError, SyntaxError, tokenize.TokenError) as error:  # fmt: skip
        print(f"the cached features in {folder} are damaged and made again ({error})", file=sys.stderr)
        return False


def _open(folder: Path) -> CachedFeatures:
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    # Copy-on-write pages: torch takes only writable arrays without a warning.
    values = np.load(folder / "values.npy", mmap_mode="c", allow_pickle=False)
    with np.load(folder / "index.npz", allow_pickle=False) as index:
        return CachedFeatures(
            values, index["rows"], index["labels"], index["positions"], tuple(facts["broken"]), folder
        )

"""Clips with index maps: rendered ones, and DAVIS 2017's validation sequences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from core.data.account import Account
from core.data.decode import decode_rgb, opened_image
from core.data.digests import digest_below
from core.data.scenes.photographs import pixels_digest, tiles
from core.data.scenes.render import BACKGROUNDS, CLASSES
from core.errors import UserError
from core.files.value_digest import value_digest
from evaluate.dense.propagate.protocol import ClipsConfig

VERSION = 1
"""Version of the renderer, raised with every change of a pixel."""


@dataclass(frozen=True)
class Clip:
    """One clip: its name and its frames among those of the set."""

    name: str
    start: int
    """Position of its first frame."""
    frames: int
    """Number of frames."""


class _Frames:
    """Frames of several sequences, an `ImageSet` without labels."""

    name: str
    sequences: tuple[Clip, ...]
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return sum(sequence.frames for sequence in self.sequences)

    def label(self, index: int) -> int:
        return -1

    def account(self) -> Account:
        return Account()

    def conversions(self, index: int) -> tuple[str, ...]:
        return ()

    def image(self, index: int) -> PIL.Image.Image:
        """Frame `index`, RGB."""
        raise NotImplementedError

    def indices(self, index: int) -> NDArray[np.uint8]:
        """Object of each pixel of frame `index`, 0 for the background, [H, W]."""
        raise NotImplementedError

    def describe(self, index: int) -> str:
        """Name of a frame in messages."""
        raise NotImplementedError

    def digest(self) -> str:
        """Identity of the set."""
        raise NotImplementedError


class RenderedClips(_Frames):
    """Shapes with the scenes' photographs that move over a still background; the nearest hides the others.

    Each moves evenly and may leave the frame. Every object is seen in the first frame.
    """

    def __init__(self, config: ClipsConfig) -> None:
        self._config, self.name = config, "clips"
        self.sequences = tuple(
            Clip(f"clip {number}", number * config.frames, config.frames) for number in range(config.count)
        )

    def image(self, index: int) -> PIL.Image.Image:
        return PIL.Image.fromarray(_clip(self._config, index // self._config.frames)[0][index % self._config.frames])

    def indices(self, index: int) -> NDArray[np.uint8]:
        return _clip(self._config, index // self._config.frames)[1][index % self._config.frames]

    def describe(self, index: int) -> str:
        return f"clip {index // self._config.frames}, frame {index % self._config.frames}"

    def digest(self) -> str:
        identity = {"renderer": VERSION, **asdict(self._config), "photographs": pixels_digest("test")}
        return value_digest(identity)


@lru_cache(maxsize=2)
def _clip(config: ClipsConfig, number: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Frames [n, S, S, 3] and index maps [n, S, S]; drawn anew until each object is seen in the first frame."""
    for attempt in range(100):
        found = _render(config, np.random.default_rng((config.seed, number, attempt)))
        objects = int(found[1].max())
        if all((found[1][0] == own).sum() >= 16 for own in range(1, objects + 1)):
            return found
    raise UserError("no clip of these settings shows all objects in its first frame; lower clips.objects or radius")


def _render(config: ClipsConfig, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    size = config.size
    ground = _piece(tiles(BACKGROUNDS[int(rng.integers(len(BACKGROUNDS)))], "test"), size, rng)
    frames = np.repeat(ground[None], config.frames, axis=0).astype(np.uint8)
    indices = np.zeros((config.frames, size, size), np.uint8)
    count = int(rng.integers(config.objects[0], config.objects[1] + 1))
    chosen = rng.permutation(len(CLASSES))[:count]
    rows, columns = np.mgrid[:size, :size] + 0.5
    for number in range(count, 0, -1):  # object 1 is the nearest and painted last
        outline, photograph = list(CLASSES.values())[int(chosen[number - 1])]
        radius = float(rng.uniform(*config.radius)) * size
        speed, heading, form = (
            float(rng.uniform(*config.speed)),
            float(rng.uniform(0, 2 * math.pi)),
            float(rng.random()),
        )
        x, y = rng.uniform(radius, size - radius, 2)
        side = 2 * math.ceil(radius) + 2
        texture = _piece(tiles(photograph, "test"), side, rng)
        for time in range(config.frames):
            across, down = (x + time * speed * math.cos(heading), y + time * speed * math.sin(heading))
            inside = outline((columns - across) / radius, (rows - down) / radius, form) <= 0
            where = np.nonzero(inside)
            texture_rows = np.clip((where[0] + 0.5 - down + side / 2).astype(int), 0, side - 1)
            texture_columns = np.clip((where[1] + 0.5 - across + side / 2).astype(int), 0, side - 1)
            frames[time][where] = texture[texture_rows, texture_columns]
            indices[time][where] = number
    return frames, indices


def _piece(pieces: Sequence[PIL.Image.Image], side: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    tile = pieces[int(rng.integers(len(pieces)))]
    extent = min(tile.size)
    left, top = (float(rng.uniform(0, length - extent)) if length > extent else 0.0 for length in tile.size)
    box = (left, top, left + extent, top + extent)
    return np.asarray(tile.convert("RGB").resize((side, side), PIL.Image.Resampling.BICUBIC, box=box))


class Davis(_Frames):
    """DAVIS 2017's validation sequences at 480p."""

    def __init__(self, root: Path) -> None:
        """`root`: the folder DAVIS, or one that holds it. Raises `UserError` for missing files and unequal counts."""
        root = next((place for place in (root, root / "DAVIS") if (place / "ImageSets/2017/val.txt").is_file()), root)
        self._root, self.name = root, f"davis2017:{root} val"
        try:
            lines = (root / "ImageSets/2017/val.txt").read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"can't read {root}/ImageSets/2017/val.txt ({error}); pass the folder DAVIS") from None
        self._files: list[tuple[Path, Path]] = []
        sequences = []
        for name in dict.fromkeys(line.strip() for line in lines if line.strip()):
            if "/" in name or name.startswith("."):
                raise UserError(f"{root}/ImageSets/2017/val.txt names {name!r}, not a sequence; restore it")
            images = sorted((root / "JPEGImages/480p" / name).glob("*.jpg"))
            masks = sorted((root / "Annotations/480p" / name).glob("*.png"))
            if [file.stem for file in images] != [file.stem for file in masks] or not images:
                raise UserError(
                    f"sequence {name} has {len(images)} images and {len(masks)} annotations in {root}, not one each; "
                    f"complete the data set (all frames of val are annotated)"
                )
            if len(images) < 3:
                raise UserError(f"sequence {name} has {len(images)} frames; at least 3 are needed: two don't count")
            sequences.append(Clip(name, len(self._files), len(images)))
            self._files += zip(images, masks, strict=True)
        self.sequences = tuple(sequences)
        if not sequences:
            raise UserError(f"{root}/ImageSets/2017/val.txt lists no sequence; restore it")

    def image(self, index: int) -> PIL.Image.Image:
        file = self._files[index][0]
        return decode_rgb(file, str(file))

    def indices(self, index: int) -> NDArray[np.uint8]:
        """Index of each pixel, 255 (void) as background. Raises `UserError` for anything but one number per pixel."""
        image, file = self._files[index]
        with opened_image(file, str(file)) as picture:
            mode, found = picture.mode, np.array(picture)
        if mode not in ("P", "L", "1") or found.ndim != 2:
            raise UserError(f"{file} is of mode {mode}; annotations are palette images whose numbers are objects")
        found = np.where(found == 255, 0, found).astype(np.uint8)
        with opened_image(image, str(image)) as picture:
            size = picture.size
        if size != found.shape[::-1]:
            raise UserError(
                f"{image} is {size[0]}×{size[1]} and its annotation {found.shape[1]}×{found.shape[0]} pixels"
            )
        return found

    def describe(self, index: int) -> str:
        return str(self._files[index][0])

    def digest(self) -> str:
        files = [file for pair in self._files for file in pair]
        return digest_below(self._root, files)


def object_count(indices: NDArray[np.uint8], where: str) -> int:
    """Largest index of the first frame. Raises `UserError` if it shows no object."""
    if not (count := int(indices.max())):
        raise UserError(f"{where} shows no object, so there is nothing to follow; leave its sequence out")
    return count

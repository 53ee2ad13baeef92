"""Rendered scenes as an image set: `scenes:pretrain`, `scenes:train`, `scenes:test`."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import PIL.Image

from core.data.account import Account
from core.data.scenes.photographs import SPLITS, pixels_digest
from core.data.scenes.render import CLASSES, VERSION, Scene, ScenesConfig, arrange, render
from core.errors import UserError


class Scenes:
    """The scenes of one split, an `ImageSet`. Nothing is stored: a scene is rendered whenever it is asked for."""

    def __init__(self, split: str, config: ScenesConfig | None = None) -> None:
        """`split` is pretrain, train or test; each draws on its own regions of the photographs.

        Raises:
            UserError: if there is no such split.
        """
        if split not in SPLITS:
            raise UserError(f"scenes has no split {split!r}: choose one of {', '.join(SPLITS)}")
        self.split = split
        self.config = ScenesConfig() if config is None else config
        self.name = f"scenes:{split}"
        self.classes = tuple(CLASSES)

    def __len__(self) -> int:
        return getattr(self.config, self.split)

    def _checked(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name} has scenes 0 … {len(self) - 1}, not {index}")
        return index

    def scene(self, index: int) -> Scene:
        """Scene `index` with all its annotations."""
        return render(self.config, self.split, self._checked(index))

    def image(self, index: int) -> PIL.Image.Image:
        """The image of scene `index`, RGB."""
        return PIL.Image.fromarray(self.scene(index).image)

    def label(self, index: int) -> int:
        """Class of the object with the most visible pixels (ties: the nearer one). Computed without rendering."""
        placed = arrange(self.config, self.split, self._checked(index))
        return placed[int(np.argmax([thing.visible.sum() for thing in placed]))].label

    def describe(self, index: int) -> str:
        """`scenes:split#index`."""
        return f"{self.name}#{index}"

    def digest(self) -> str:
        """sha256 (hex) of the renderer's version, what the config says of this split, and the photographs' pixels."""
        identity = {
            "renderer": VERSION,
            "split": self.split,
            "count": len(self),
            "size": self.config.size,
            "objects": self.config.objects,
            "radius": self.config.radius,
            "seed": self.config.seed,
            "photographs": pixels_digest(self.split),
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def account(self) -> Account:
        """Empty: nothing is stored."""
        return Account()

    def conversions(self, index: int) -> tuple[str, ...]:
        """None."""
        return ()

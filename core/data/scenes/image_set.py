"""Rendered scenes as an image set: `scenes:pretrain`, `scenes:train`, `scenes:test`."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from core.data.account import Account
from core.data.scenes.photographs import SPLITS, pixels_digest
from core.data.scenes.render import CLASSES, VERSION, Annotations, Scene, ScenesConfig, annotate, arrange, render
from core.data.scenes.rendered import RenderedPlane
from core.errors import UserError
from core.files.value_digest import value_digest


class Scenes:
    """The scenes of one split, an `ImageSet`; each is rendered when it is first asked for and kept in the cache."""

    PLANES: ClassVar[tuple[str, ...]] = ("image",)
    """Fields of `Scene` that are kept."""

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
        self._planes: dict[str, RenderedPlane] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_planes": {}}  # descriptors are those of this process

    def __len__(self) -> int:
        return getattr(self.config, self.split)

    def _checked(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name} has scenes 0 … {len(self) - 1}, not {index}")
        return index

    def scene(self, index: int) -> Scene:
        """Scene `index` with all its annotations."""
        return render(self.config, self.split, self._checked(index))

    def annotations(self, index: int) -> Annotations:
        """Annotations of scene `index`, without painting it."""
        return annotate(self.config, self.split, self._checked(index))

    def image(self, index: int) -> PIL.Image.Image:
        """The image of scene `index`, RGB."""
        return PIL.Image.fromarray(self.plane("image", index))

    def plane(self, name: str, index: int) -> NDArray[Any]:
        """One of `PLANES` of scene `index`."""
        if not self._planes:
            self._planes = {each: self._kept(each) for each in self.PLANES}
        if (values := self._planes[name].get(self._checked(index))) is not None:
            return values
        scene = self.scene(index)
        for each, plane in self._planes.items():
            plane.put(index, getattr(scene, each))
        return getattr(scene, name)

    def _kept(self, name: str) -> RenderedPlane:
        size = self.config.size
        shape = (size, size, 3) if name == "image" else (size, size)
        kind = np.float32 if name == "depth" else np.uint8
        return RenderedPlane(f"{self.split}-{self.digest()[:16]}.{name}", len(self), shape, kind)

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
        return value_digest(identity)

    def account(self) -> Account:
        """Empty: every scene is used as it is drawn."""
        return Account()

    def conversions(self, index: int) -> tuple[str, ...]:
        """None."""
        return ()

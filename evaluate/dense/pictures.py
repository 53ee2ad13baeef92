"""Pictures of dense probes: panels side by side with a caption."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from core.data.scenes.palette import COLOURS
from evaluate.common.pictures import FOLDER, save_picture
from evaluate.dense.data import IGNORED

LABEL_MAPS = "label maps"
"""Kind of pictures of class maps, as segmentation's."""
_HEIGHT, _GAP = 160, 4


def evenly(count: int, total: int) -> list[int]:
    """`count` evenly spaced numbers of 0 … total − 1."""
    return [int(number) for number in np.linspace(0, total - 1, min(count, total)).astype(int)] if total else []


def coloured(classes: NDArray[np.uint8]) -> PIL.Image.Image:
    """Colour of each pixel's class, white for ignored; the first nine are the scenes'."""
    table = np.random.default_rng(7).integers(30, 226, (256, 3)).astype(np.uint8)
    table[: len(COLOURS)] = COLOURS
    table[IGNORED] = 255
    return PIL.Image.fromarray(table[classes])


def heat(values: NDArray[np.floating], low: float, high: float) -> PIL.Image.Image:
    """Grey values of a map, black at `low`, white at `high` and beyond."""
    scaled = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    return PIL.Image.fromarray(np.rint(255 * scaled).astype(np.uint8)).convert("RGB")


def save_panels(folder: Path, name: str, panels: Sequence[PIL.Image.Image], kind: str, caption: str) -> None:
    """Writes `folder`/pictures/NAME.png: the panels side by side, all of one height."""
    fitted = [_fit(panel.convert("RGB")) for panel in panels]
    sheet = PIL.Image.new("RGB", (sum(each.width for each in fitted) + _GAP * (len(fitted) - 1), _HEIGHT), "white")
    left = 0
    for panel in fitted:
        sheet.paste(panel, (left, 0))
        left += panel.width + _GAP
    save_picture(folder / FOLDER / f"{name}.png", sheet, kind, caption)


def save_label_maps(
    folder: Path, position: int, name: str, image: PIL.Image.Image, truth: NDArray[np.uint8],
    predicted: NDArray[np.uint8],
) -> None:  # fmt: skip
    """Writes a picture of an image, its true classes and the predicted ones, with the share of right pixels."""
    labelled = truth != IGNORED
    right = 100 * float((truth == predicted)[labelled].mean()) if labelled.any() else 0.0
    caption = f"{name}: image, truth, prediction; {right:.0f} % of the pixels are right"
    save_panels(folder, f"image_{position:06d}", [image, coloured(truth), coloured(predicted)], LABEL_MAPS, caption)


def _fit(panel: PIL.Image.Image) -> PIL.Image.Image:
    width = max(1, round(panel.width * _HEIGHT / panel.height))
    resampling = PIL.Image.Resampling.NEAREST if panel.height < _HEIGHT else PIL.Image.Resampling.BILINEAR
    return panel.resize((width, _HEIGHT), resampling)

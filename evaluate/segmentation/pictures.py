"""Pictures of test images next to their ground truth and prediction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL import ImageDraw, ImageFont

from core.data.decode import decode_rgb
from core.data.scenes.palette import COLOURS
from evaluate.common.pictures import FOLDER, save_picture
from evaluate.segmentation.data.labels import IGNORED, read_label
from evaluate.segmentation.probe import LABEL_MAPS
from evaluate.segmentation.protocol import SegmentDataConfig

if TYPE_CHECKING:
    from evaluate.segmentation.setup import Setup

_HEIGHT, _GAP, _LINE = 160, 4, 16
_PAPER, _INK = (255, 255, 255), (30, 30, 30)
_MAX_NAMED = 5


def draw_test_images(setup: Setup, skipped: Sequence[int], model: Any, count: int) -> None:
    """Draws `count` test images of a run next to its result.json. `skipped`: positions of the broken ones."""
    from evaluate.segmentation.engine.data_pipeline import test_set

    left_out = set(skipped)
    seen = [pair for position, pair in enumerate(setup.samples["val"].pairs) if position not in left_out]
    dataset, folder = test_set(setup.engine, skipped), setup.out / FOLDER
    paths = draw_predictions(folder, model, dataset, seen, setup.config.data, setup.names, count)
    print(f"pictures: {len(paths)} in {folder} (image, ground truth, prediction)")


def draw_predictions(
    folder: Path,
    model: Any,
    dataset: Any,
    pairs: Sequence[tuple[Path, Path]],
    config: SegmentDataConfig,
    names: Sequence[str],
    count: int,
) -> list[Path]:
    """Writes a PNG for each of `count` evenly spaced test images: image, ground truth, prediction, legend.

    `dataset`: the engine's data set, whose items correspond to `pairs` in order. Ignored pixels are white.
    """
    from evaluate.segmentation.engine.data_pipeline import predicted

    paths = []
    model.eval()
    for index in np.linspace(0, len(pairs) - 1, min(count, len(pairs))).astype(int):
        found = predicted(model, dataset[int(index)])
        found_classes = found.pred_sem_seg.data.squeeze(0).cpu().numpy().astype(np.uint8)
        image, label = pairs[index]
        truth = read_label(label, config)
        panels = [_fit(decode_rgb(image, str(image)))]
        panels += [_fit(PIL.Image.fromarray(colours(classes))) for classes in (truth, found_classes)]
        present = [int(one) for one in np.union1d(truth, found_classes) if one != IGNORED]
        caption = f"{image.stem}: ground truth {_shares(truth, names)}; predicted {_shares(found_classes, names)}"
        paths.append(folder / f"{image.stem}.png")
        save_picture(paths[-1], _sheet(panels, present, names), LABEL_MAPS, caption)
    return paths


def colours(classes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Colour of each pixel's class, white for ignored: [H, W] -> [H, W, 3] uint8; the first nine are the scenes'."""
    table = np.random.default_rng(7).integers(30, 226, (256, 3)).astype(np.uint8)
    table[: len(COLOURS)] = COLOURS
    table[IGNORED] = 255
    return table[classes]


def _fit(panel: PIL.Image.Image) -> PIL.Image.Image:
    width = max(1, round(panel.width * _HEIGHT / panel.height))
    return panel.resize((width, _HEIGHT), PIL.Image.Resampling.NEAREST)


def _sheet(panels: Sequence[PIL.Image.Image], present: Sequence[int], names: Sequence[str]) -> PIL.Image.Image:
    """Panels side by side, above a legend of colour squares and class names."""
    width = sum(panel.width for panel in panels) + _GAP * (len(panels) - 1)
    font = ImageFont.load_default(11)
    places: list[tuple[int, int]] = []
    left, line = 0, 0
    for one in present:
        room = _LINE + round(font.getlength(names[one])) + 3 * _GAP
        if left and left + room > width:
            left, line = 0, line + 1
        places.append((left, _HEIGHT + _GAP + line * _LINE))
        left += room
    sheet = PIL.Image.new("RGB", (width, _HEIGHT + _GAP + (line + 1) * _LINE), _PAPER)
    left = 0
    for panel in panels:
        sheet.paste(panel, (left, 0))
        left += panel.width + _GAP
    pen = ImageDraw.Draw(sheet)
    for one, (x, y) in zip(present, places, strict=True):
        red, green, blue = (int(value) for value in colours(np.array([[one]], np.uint8))[0, 0])
        pen.rectangle((x, y + 2, x + _LINE - _GAP - 1, y + _LINE - 3), fill=(red, green, blue), outline=_INK)
        pen.text((x + _LINE, y), names[one], fill=_INK, font=font)
    return sheet


def _shares(classes: NDArray[np.uint8], names: Sequence[str]) -> str:
    """Largest shares of the pixels that are not ignored, e.g. `background 80 %, disc 20 %`."""
    counts = np.bincount(classes[classes != IGNORED], minlength=len(names))
    largest = [one for one in np.argsort(-counts, kind="stable")[:_MAX_NAMED] if counts[one]]
    return ", ".join(f"{names[one]} {100 * counts[one] / counts.sum():.0f} %" for one in largest) or "nothing"

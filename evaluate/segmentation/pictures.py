"""A picture of test images beside their truth and their prediction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
import torch
from numpy.typing import NDArray

from core.checkpoints import write_atomically
from core.data.palette import COLOURS
from evaluate.segmentation.labels import IGNORED, read_label
from evaluate.segmentation.protocol import SegmentDataConfig

_HEIGHT, _GAP, _TITLE = 160, 4, 18


def draw_predictions(
    path: Path,
    model: Any,
    dataset: Any,
    pairs: list[tuple[Path, Path]],
    config: SegmentDataConfig,
    count: int,
    title: str,
) -> None:
    """Writes `count` rows of image, truth, prediction, evenly spread over the test images, to the PNG `path`.

    `dataset`: the engine's, whose items belong to `pairs` in order. Ignored pixels are white in the truth.
    """
    rows = []
    model.eval()
    for index in np.linspace(0, len(pairs) - 1, min(count, len(pairs))).astype(int):
        item = dataset[int(index)]
        with torch.inference_mode():
            found = model.test_step({"inputs": [item["inputs"]], "data_samples": [item["data_samples"]]})[0]
        predicted = found.pred_sem_seg.data.squeeze(0).cpu().numpy().astype(np.uint8)
        image, label = pairs[index]
        with PIL.Image.open(image) as picture:
            panels = [picture.convert("RGB")]
        panels += [PIL.Image.fromarray(colours(classes)) for classes in (read_label(label, config), predicted)]
        rows.append([_fit(panel) for panel in panels])
    widths = [sum(panel.width for panel in row) + _GAP * (len(row) + 1) for row in rows]
    sheet = PIL.Image.new("RGB", (max(*widths, 400), _TITLE + len(rows) * (_HEIGHT + _GAP)), (40, 40, 40))
    PIL.ImageDraw.Draw(sheet).text((_GAP, 3), f"{title}: image, truth, prediction", fill=(255, 255, 255))
    for number, row in enumerate(rows):
        left = _GAP
        for panel in row:
            sheet.paste(panel, (left, _TITLE + number * (_HEIGHT + _GAP)))
            left += panel.width + _GAP
    write_atomically(path, lambda partial: sheet.save(partial, format="PNG"))


def colours(classes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A colour for each class, white for ignored: [H, W] -> [H, W, 3]. The first nine are those of the scenes."""
    table = np.random.default_rng(7).integers(30, 226, (256, 3)).astype(np.uint8)
    table[: len(COLOURS)] = COLOURS
    table[IGNORED] = 255
    return table[classes]


def _fit(panel: PIL.Image.Image) -> PIL.Image.Image:
    width = max(1, round(panel.width * _HEIGHT / panel.height))
    return panel.resize((width, _HEIGHT), PIL.Image.Resampling.NEAREST)

"""Pictures of ground truth and detections, side by side."""

from __future__ import annotations

import colorsys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
from numpy.typing import NDArray

from evaluate.common.pictures import save_picture
from evaluate.detection.data.image_headers import read_pixels
from evaluate.detection.data.records import DetectionSet
from evaluate.detection.metrics.inference import Detections
from evaluate.detection.probe import DETECTIONS

_MIN_SCORE = 0.3
_MIN_SIDE = 320


def draw(folder: Path, split: DetectionSet, detections: Detections, count: int, seed: int) -> list[Path]:
    """Writes `count` PNGs: ground truth on the left, detections with a score of at least 0.3 on the right.

    `seed` chooses the images. Small images are enlarged by a whole number.
    """
    good = set(detections.images)
    records = [record for record in split.records if record["image_id"] in good]
    chosen = np.random.default_rng(seed).permutation(len(records))[:count]
    paths = []
    for index in sorted(int(i) for i in chosen):
        record = records[index]
        found = [
            entry
            for entry in detections.objects
            if entry["image_id"] == record["image_id"] and entry["score"] >= _MIN_SCORE
        ]
        image = read_pixels(record)
        truth = [one for one in record["annotations"] if not one["iscrowd"]]
        left, right = (_overlaid(image, entries, split.classes) for entries in (truth, found))
        picture = PIL.Image.new("RGB", (left.width + right.width + 8, left.height), "white")
        picture.paste(left, (0, 0))
        picture.paste(right, (left.width + 8, 0))
        name = Path(record["file_name"]).stem
        caption = f"{name}: ground truth {_listed(truth, split.classes)}; detected {_listed(found, split.classes)}"
        paths.append(folder / f"{name}.png")
        save_picture(paths[-1], picture, DETECTIONS, caption)
    return paths


def _listed(entries: list[dict[str, Any]], classes: tuple[str, ...]) -> str:
    return ", ".join(_label(entry, classes) for entry in entries) or "none"


def _label(entry: dict[str, Any], classes: tuple[str, ...]) -> str:
    return classes[entry["category_id"]] + (f" {100 * entry['score']:.0f}" if "score" in entry else "")


def _overlaid(image: PIL.Image.Image, entries: list[dict[str, Any]], classes: tuple[str, ...]) -> PIL.Image.Image:
    zoom = max(1, -(-_MIN_SIDE // max(image.size)))
    pixels = np.asarray(image, dtype=np.float32)
    for entry in entries:
        if "segmentation" in entry:
            mask = _mask(entry["segmentation"], image.height, image.width)
            pixels = np.where(mask[..., None], 0.5 * pixels + 0.5 * np.array(_colour(entry, classes)), pixels)
    shown = PIL.Image.fromarray(np.rint(pixels).astype(np.uint8))
    shown = shown.resize((image.width * zoom, image.height * zoom), PIL.Image.Resampling.NEAREST)
    pen = PIL.ImageDraw.Draw(shown)
    for entry in entries:
        left, top, width, height = (zoom * value for value in entry["bbox"])
        colour = _colour(entry, classes)
        pen.rectangle((left, top, left + width, top + height), outline=colour, width=2)
        label = _label(entry, classes)
        pen.rectangle(pen.textbbox((left + 2, top + 1), label), fill=colour)
        pen.text((left + 2, top + 1), label, fill="white")
    return shown


def _colour(entry: dict[str, Any], classes: tuple[str, ...]) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(entry["category_id"] / len(classes), 0.85, 0.75)
    return round(255 * red), round(255 * green), round(255 * blue)


def _mask(segmentation: Any, height: int, width: int) -> NDArray[np.bool_]:
    from pycocotools import mask as coco_mask

    if isinstance(segmentation, list):
        segmentation = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    return coco_mask.decode(segmentation).astype(bool)

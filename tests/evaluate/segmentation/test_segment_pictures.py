"""evaluate/segmentation/pictures.py: panels, colours and captions against labels made by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from evaluate.common.pictures import find_pictures

pytest.importorskip("mmseg", reason="needs MMSegmentation", exc_type=ImportError)

from evaluate.segmentation.pictures import colours, draw_predictions
from evaluate.segmentation.probe import LABEL_MAPS
from evaluate.segmentation.protocol import SegmentDataConfig


class _Model:
    """Predicts the last class everywhere."""

    def eval(self) -> None: ...

    def test_step(self, data: dict[str, Any]) -> list[Any]:
        return [SimpleNamespace(pred_sem_seg=SimpleNamespace(data=torch.full((1, 8, 16), 2)))]


def test_panels_and_words_say_the_same(tmp_path: Path) -> None:
    labels = np.zeros((8, 16), np.uint8)
    labels[:, 8:] = 1
    labels[:4, :8] = 255
    pairs = []
    for number in range(3):
        pair = (tmp_path / f"image{number}.png", tmp_path / f"label{number}.png")
        PIL.Image.new("RGB", (16, 8), (10, 20, 30)).save(pair[0])
        PIL.Image.fromarray(labels).save(pair[1])
        pairs.append(pair)
    names = ("ground", "a rather long name for a class", "another rather long name")
    items = [{"inputs": None, "data_samples": None}] * 3
    paths = draw_predictions(
        tmp_path / "pictures", _Model(), items, pairs, SegmentDataConfig(layout="voc12aug", classes=21), names, 2
    )  # fmt: skip
    assert paths == [tmp_path / "pictures" / "image0.png", tmp_path / "pictures" / "image2.png"]
    pictures, _ = find_pictures(tmp_path)
    assert [(picture.kind, picture.caption) for picture in pictures] == [
        (LABEL_MAPS, f"image{n}: ground truth {names[1]} 67 %, ground 33 %; predicted {names[2]} 100 %") for n in (0, 2)
    ]
    with PIL.Image.open(paths[0]) as picture:
        pixels = np.asarray(picture)
    own = [tuple(colours(np.array([[one]], np.uint8))[0, 0]) for one in range(3)]
    assert pixels.shape == (160 + 4 + 16, 3 * 320 + 8, 3)
    assert tuple(pixels[80, 160]) == (10, 20, 30)
    assert (tuple(pixels[20, 324 + 20]), tuple(pixels[150, 324 + 20])) == ((255, 255, 255), own[0])
    assert tuple(pixels[80, 324 + 300]) == own[1]
    assert tuple(pixels[80, 648 + 160]) == own[2]
    assert tuple(pixels[172, 5]) == own[0]  # the first square of the legend

"""Segmentation sets as other tools write them, generated together with the numbers that a reader must find."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import PIL.Image

from tests.data_rules.few_bits import write_png, write_tiff
from tests.data_rules.odd_sets import picture

FOLDERS = (("images", "annotations"), ("img_dir", "ann_dir"))
SPLITS = ("validation", "val", "valid")


def odd_segmentation(root: Path, rng: random.Random) -> tuple[dict[str, np.ndarray], int]:
    """Writes a validation split in ADE20K's layout. Image, relative to the root -> numbers of its label [8, 9]; the
    number of other files, which a reader must report."""
    (images, labels), split = rng.choice(FOLDERS), rng.choice(SPLITS)
    above = root / images / split, root / labels / split
    truth: dict[str, np.ndarray] = {}
    bits = rng.choice((1, 2, 4, 8))
    colour = rng.choice((0, 0, 3))
    for number in range(rng.randint(1, 4)):
        name = rng.choice(("{n}", "sub/{n}", "ü{n}", "{n}.v2", "{n} #")).format(n=number)
        ending = rng.choice(("png", "JPG", "jpeg", "webp", "bmp"))
        image, label = above[0] / f"{name}.{ending}", above[1] / name
        for path in (image, label):
            path.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(picture(number, ending.lower()))
        numbers = np.random.default_rng(number).integers(0, min(2**bits, 16), (8, 9)).astype(np.uint8)
        numbers[0, 0] = 1
        _write(label, numbers, bits, colour, rng)
        truth[str(image.relative_to(root))] = numbers
    others = 0
    for place, more in ((above[0], ("a.txt", ".x.png", "b.heic")), (above[1], ("c.json", "lonely.png", "._d.png"))):
        for other in rng.sample(more, 2):
            (place / other).write_bytes(picture(1))
            others += 1
    return truth, others


def _write(path: Path, numbers: np.ndarray, bits: int, colour: int, rng: random.Random) -> None:
    """A label file of a random format."""
    kind = rng.choice(("png", "PNG", "tif", "tif, white is 0")) if colour == 0 else "png"
    if bits == 8 and colour == 0 and rng.random() < 0.4:
        PIL.Image.fromarray(numbers.astype(rng.choice((np.uint16, np.int32)))).save(f"{path}.tif")
    elif kind.startswith("tif"):
        write_tiff(Path(f"{path}.tif"), numbers, bits, kind != "tif")
    else:
        write_png(Path(f"{path}.{kind}"), numbers, bits, colour)

"""COCO and VOC sets as labelling tools write them, generated together with what a reader must find in them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pycocotools import mask as coco_mask

from tests.data_rules.odd_sets import picture

WIDTH, HEIGHT = 9, 8
"""Size of `odd_sets.picture`."""
LAYOUTS = (
    ("annotations/instances_val2017.json", "val2017"),
    ("annotations/instances_validation.json", "images/validation"),
    ("valid/_annotations.coco.json", "valid"),
    ("test.json", "test"),
    ("annotations/val.json", "images"),
)
_NAMES = ("{n}.png", "{n} b.JPG", "ü{n}.jpeg", "{n}.v2.webp", "sub/{n}.png", "sub/er/{n}.bmp", "{n}#.gif", "[{n}].tif")
_LISTED: tuple[Callable[[str], str], ...] = (
    str, str, str, str, lambda name: f"./{name}", lambda name: name.replace("/", "\\"),
    lambda name: "C:\\data\\" + name.replace("/", "\\"), lambda name: f"/home/me/x/{name}", str.upper,
)  # fmt: skip
_WRITTEN: tuple[Callable[[int], Any], ...] = (int, int, float, str, lambda number: f"id {number}")
_CROWD = ((0, False), (False, False), (None, False), (0.0, False), ("0", False), (1, True), (True, True), ("1", True))

Truth = dict[str, list[tuple[str, bool, list[float]]]]
"""Image file, relative to its folder -> its objects: class, crowd, box."""


def odd_coco(root: Path, rng: random.Random) -> tuple[Truth, int, bool]:
    """Writes a validation split. What a reader must find; image files that are not listed; whether masks fit.

    Masks fit if every object has one that can be trained on as polygons.
    """
    file, folder = rng.choice(LAYOUTS)
    of_image, of_class = rng.choice(_WRITTEN), rng.choice(_WRITTEN)
    classes = dict(zip(rng.sample(range(12), 3), ("cat", "dog", "7"), strict=True))
    listed = rng.choice(_LISTED)
    document: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    for number, name in classes.items():
        written: Any = rng.choice((7, "7")) if name == "7" else rng.choice((name, f" {name}"))
        document["categories"].append({"id": of_class(number), "name": written})
    truth: Truth = {}
    masks = True
    for number in range(rng.randint(1, 4)):
        name = rng.choice(_NAMES).format(n=number)
        path = root / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number, path.suffix[1:].lower()))
        truth[name] = []
        given = {"width": WIDTH, "height": HEIGHT}
        size: dict[str, Any] = rng.choice(({}, {"width": 0, "height": 0}, given, {"width": "9", "height": 8.0}))
        document["images"].append({"id": of_image(number), "file_name": listed(name), **size})
        for _ in range(rng.randint(1, 2)):
            left, top = rng.randint(0, 5), rng.randint(0, 4)
            width, height = rng.randint(1, WIDTH - left), rng.randint(1, HEIGHT - top)
            category, (crowd, is_crowd) = rng.choice(list(classes)), rng.choice(_CROWD)
            one: dict[str, Any] = {"image_id": of_image(number), "category_id": of_class(category)}
            mask, fits = _mask(rng, left, top, width, height, is_crowd)
            masks &= fits
            one |= {"segmentation": mask} if mask is not None or rng.random() < 0.5 else {}
            one |= {"bbox": [left, top, width, height]} if mask is None or not fits or rng.random() < 0.8 else {}
            one |= {} if crowd is None else {"iscrowd": crowd}
            one |= rng.choice(({}, {"area": None}, {"area": width * height}))
            one |= rng.choice(({}, {"id": 0}, {"id": "a"}, {"id": len(document["annotations"]) + 1}))
            document["annotations"].append(one)
            truth[name].append((classes[category], is_crowd, [left, top, width, height]))
    unlisted = rng.randint(0, 2)
    for number in range(unlisted):
        (root / folder / f"more {number}.png").write_bytes(picture(number))
    (root / folder / "readme.txt").write_text("x")
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(json.dumps(document), encoding=rng.choice(("utf-8", "utf-8-sig")))
    return truth, unlisted, masks


def _mask(rng: random.Random, left: int, top: int, width: int, height: int, crowd: bool) -> tuple[Any, bool]:
    """A mask that fills a box, in one of COCO's forms, or none; False if it can't be trained on as polygons."""
    right, bottom = left + width, top + height
    polygon = [left, top, right, top, right, bottom, left, bottom]
    runs = coco_mask.frPyObjects([polygon], HEIGHT, WIDTH)[0]
    filled = coco_mask.decode(runs)
    counts, value = [0], 0
    for pixel in filled.ravel(order="F").tolist():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    text = {"size": [HEIGHT, WIDTH], "counts": runs["counts"].decode()}
    points = [[*pair] for pair in zip(polygon[::2], polygon[1::2], strict=True)]
    return rng.choice((
        ([polygon], True), (polygon, True), (points, True), ([[*map(float, polygon)]], True), (None, False),
        ({"size": [HEIGHT, WIDTH], "counts": counts}, crowd), (text, crowd),
    ))  # fmt: skip


_DIFFICULT = (("", False), ("0", False), ("false", False), ("1", True), ("True", True))


def odd_voc(root: Path, rng: random.Random) -> dict[str, list[tuple[str, bool, list[float]]]]:
    """Writes a test set of VOC. Image id -> its objects: class, difficult, box (left, top, width, height from 0)."""
    base = root / "VOC2007"
    truth: dict[str, list[tuple[str, bool, list[float]]]] = {}
    for number in range(rng.randint(1, 3)):
        name = rng.choice(("{n}", "sub/{n}", "ü {n}", "{n}.v2", "#{n}")).format(n=number)
        ending = rng.choice(("jpg", "JPG", "png", "jpeg", "webp"))
        image, file = base / f"JPEGImages/{name}.{ending}", base / f"Annotations/{name}.xml"
        for path in (image, file):
            path.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(picture(number, ending.lower()))
        truth[name], parts = [], []
        for _ in range(rng.randint(0, 2)):
            left, top = rng.randint(0, 5), rng.randint(0, 4)
            right, bottom = rng.randint(left + 1, WIDTH), rng.randint(top + 1, HEIGHT)
            kind, (written, difficult) = rng.choice(("cat", "dog", "tvmonitor")), rng.choice(_DIFFICULT)
            number_text = rng.choice((str, lambda value: f"{value}.0"))
            corners = zip(("xmin", "ymin", "xmax", "ymax"), (left + 1, top + 1, right, bottom), strict=True)
            box = "".join(f"<{tag}>{number_text(value)}</{tag}>" for tag, value in corners)
            flag = "" if not difficult and rng.random() < 0.5 else f"<difficult>{written}</difficult>"
            shown = rng.choice((kind, kind.title(), f" {kind}\n"))
            parts.append(f"<object><name>{shown}</name>{flag}<bndbox>{box}</bndbox></object>")
            truth[name].append((kind, difficult, [left, top, right - left, bottom - top]))
        sides = rng.choice(("", "<width>0</width><height/>", f"<width>{WIDTH}</width><height>{HEIGHT}.0</height>"))
        file.write_text(f"<annotation><size>{sides}</size>{''.join(parts)}</annotation>", encoding="utf-8")
    lists = base / "ImageSets/Main/test.txt"
    lists.parent.mkdir(parents=True)
    lists.write_text(rng.choice(("\n", "\r\n", " \n")).join(truth) + "\n", encoding=rng.choice(("utf-8", "utf-8-sig")))
    return truth

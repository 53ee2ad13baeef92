"""Small sets laid out on disk as torchvision wants the real ones."""

from __future__ import annotations

import json
from pathlib import Path

import PIL.Image


def picture(path: Path, number: int) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", (12, 10), (number % 256, number // 256, 7)).save(path, format="PNG")
    return path.stem


def text(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def make_eurosat(root: Path) -> None:
    for name in ("AnnualCrop", "Forest"):
        for number in range(10):
            picture(root / "eurosat/2750" / name / f"{name}_{number}.jpg", number)


def make_caltech101(root: Path) -> None:
    for name in ("Faces", "wrench", "BACKGROUND_Google"):
        for number in range(1, 33):
            picture(root / "caltech101/101_ObjectCategories" / name / f"image_{number:04d}.jpg", number)


def make_sun397(root: Path) -> None:
    text(root / "SUN397/ClassName.txt", ["/a/abbey", "/a/alley/outdoor"])
    for name in ("a/abbey", "a/alley/outdoor"):
        for number in range(52):
            picture(root / "SUN397" / name / f"sun_{number:03d}.jpg", number)


def make_dtd(root: Path) -> None:
    for split, first in (("train", 0), ("val", 2), ("test", 4)):
        names = [f"{name}/{name}_{number}.jpg" for name in ("banded", "woven") for number in (first, first + 1)]
        text(root / f"dtd/dtd/labels/{split}1.txt", names)
        for number, name in enumerate(names):
            picture(root / "dtd/dtd/images" / name, number)


def make_food101(root: Path) -> None:
    for split, numbers in (("train", (0, 1, 2)), ("test", (3,))):
        lists = {name: [f"{name}/{number}" for number in numbers] for name in ("pizza", "ramen")}
        text(root / f"food-101/meta/{split}.json", [json.dumps(lists)])
        for name in (name for names in lists.values() for name in names):
            picture(root / f"food-101/images/{name}.jpg", len(name))


def make_pets(root: Path) -> None:
    for split, numbers in (("trainval", (0, 1)), ("test", (2,))):
        names = [(f"{name}_{number}", label) for label, name in ((1, "Abyssinian"), (2, "pug")) for number in numbers]
        text(root / f"oxford-iiit-pet/annotations/{split}.txt", [f"{name} {label} 1 1" for name, label in names])
        for name, _ in names:
            picture(root / f"oxford-iiit-pet/images/{name}.jpg", len(name))


def make_aircraft(root: Path) -> None:
    data = root / "fgvc-aircraft-2013b/data"
    text(data / "variants.txt", ["707-320", "A 300"])
    for split, first in (("trainval", 0), ("test", 10)):
        text(data / f"images_variant_{split}.txt", [f"{first} 707-320", f"{first + 1} A 300"])
        for number in (first, first + 1):
            picture(data / f"images/{number}.jpg", number)


MAKERS = {
    "eurosat": (make_eurosat, 16, 4, ("AnnualCrop", "Forest")),
    "caltech101": (make_caltech101, 60, 4, ("Faces", "wrench")),
    "sun397": (make_sun397, 100, 4, ("abbey", "alley/outdoor")),
    "dtd": (make_dtd, 8, 4, ("banded", "woven")),
    "food101": (make_food101, 6, 2, ("pizza", "ramen")),
    "pets": (make_pets, 4, 2, ("Abyssinian", "Pug")),
    "aircraft": (make_aircraft, 2, 2, ("707-320", "A 300")),
}
"""Name -> maker, training images, validation images, classes."""

"""Rendered scenes written to disk in the layouts of COCO 2017 and ADE20K, so that other libraries read them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from tqdm import tqdm

from core.data.scenes.image_set import Scenes
from core.data.scenes.render import CLASSES, Scene, ScenesConfig
from core.errors import UserError
from core.files.atomic_folder import atomic_folder
from core.files.value_digest import value_digest

DIGEST_FILE = "scenes.json"
LAYOUT_VERSION = 1


def write_coco(root: Path, config: ScenesConfig) -> Path:
    """Writes splits `train` and `test` as COCO 2017's train2017 and val2017, and returns `root`.

    `root/{train,val}2017/000000000001.png`, `root/annotations/instances_{train,val}2017.json`; category ids are 1 … 8.
    Images are PNG: they are the very pixels of the scenes. Masks are uncompressed run lengths (column by column, the
    first run counts zeros), because polygons can be exact neither for rings nor for what occlusion cuts out;
    pycocotools reads them, Detectron2 does with `INPUT.MASK_FORMAT: bitmask`.
    A folder that holds these very scenes already is left as it is; one of other scenes is replaced.

    Raises:
        UserError: if `root` holds something that isn't such a folder.
    """
    sets = {"train2017": Scenes("train", config), "val2017": Scenes("test", config)}
    with _written(root, "coco", sets) as folder:
        if folder is None:
            return root
        (folder / "annotations").mkdir()
        first_image, first_object = 1, 1
        for name, scenes in sets.items():
            (folder / name).mkdir()
            images: list[dict[str, Any]] = []
            objects: list[dict[str, Any]] = []
            for image_id, scene in enumerate(_progress(scenes), start=first_image):
                images.append(_coco_image(image_id, config.size))
                PIL.Image.fromarray(scene.image).save(folder / name / images[-1]["file_name"])
                objects += _coco_objects(scene, image_id, first_object + len(objects))
            first_image, first_object = first_image + len(images), first_object + len(objects)
            content = {
                "info": {"description": f"ssl-transfer {scenes.name}", "version": scenes.digest()},
                "licenses": [{"id": 1, "name": "made of CC0 and public domain photographs", "url": ""}],
                "images": images,
                "annotations": objects,
                "categories": [
                    {"id": number, "name": label, "supercategory": "shape"}
                    for number, label in enumerate(CLASSES, start=1)
                ],
            }
            (folder / "annotations" / f"instances_{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return root


def write_ade20k(root: Path, config: ScenesConfig) -> Path:
    """Writes splits `train` and `test` as ADE20K's training and validation (the 150-class benchmark), returns `root`.

    `root/images/{training,validation}/ADE_{train,val}_00000001.jpg` (quality 95, full colour resolution),
    `root/annotations/{training,validation}/ADE_{train,val}_00000001.png` (grey) and the class list
    `root/objectInfo150.txt`. As in ADE20K, value 0 means "no label" and occurs nowhere here; 1 is background and
    2 … 9 are the classes. A reader that drops zero (`reduce_zero_label`) gets back 0 = background, 1 … 8.
    A folder that holds these very scenes already is left as it is; one of other scenes is replaced.

    Raises:
        UserError: if `root` holds something that isn't such a folder.
    """
    sets = {"training": Scenes("train", config), "validation": Scenes("test", config)}
    with _written(root, "ade20k", sets) as folder:
        if folder is None:
            return root
        names = ("background", *CLASSES)
        pixels = np.zeros(len(names), dtype=np.int64)
        seen = {name: np.zeros(len(names), dtype=np.int64) for name in sets}
        for name, scenes in sets.items():
            pictures, annotations = folder / "images" / name, folder / "annotations" / name
            pictures.mkdir(parents=True)
            annotations.mkdir(parents=True)
            prefix = {"training": "ADE_train", "validation": "ADE_val"}[name]
            for number, scene in enumerate(_progress(scenes), start=1):
                stem = f"{prefix}_{number:08d}"
                PIL.Image.fromarray(scene.image).save(pictures / f"{stem}.jpg", quality=95, subsampling=0)
                PIL.Image.fromarray(scene.semantic + np.uint8(1)).save(annotations / f"{stem}.png")
                counts = np.bincount(scene.semantic.ravel(), minlength=len(names))
                pixels += counts
                seen[name] += counts > 0
        table = ["Idx\tRatio\tTrain\tVal\tStuff\tName"]
        for index, label in enumerate(names):
            share = pixels[index] / pixels.sum()
            in_images = f"{seen['training'][index]}\t{seen['validation'][index]}"
            table.append(f"{index + 1}\t{share:.4f}\t{in_images}\t{int(index == 0)}\t{label}")
        (folder / "objectInfo150.txt").write_text("\n".join(table) + "\n", encoding="utf-8")
    return root


@contextmanager
def _written(root: Path, layout: str, sets: dict[str, Scenes]) -> Iterator[Path | None]:
    """Yields the folder to fill, or None where `root` holds these scenes in this layout already."""
    parts = {name: scenes.digest() for name, scenes in sets.items()}
    content = {"layout": layout, "digest": value_digest({"layout": f"{layout} {LAYOUT_VERSION}", **parts})}
    mark = root / DIGEST_FILE

    def is_done() -> bool:
        return mark.is_file() and mark.read_text(encoding="utf-8") == json.dumps(content)

    if is_done():
        yield None
        return
    if root.exists() and not mark.is_file() and (not root.is_dir() or any(root.iterdir())):
        raise UserError(f"{root} exists and holds no scenes ({DIGEST_FILE} is missing): name a new or an empty folder")
    with atomic_folder(root, is_done) as folder:
        yield folder
        (folder / DIGEST_FILE).write_text(json.dumps(content), encoding="utf-8")


def _progress(scenes: Scenes) -> Iterator[Scene]:
    for index in tqdm(range(len(scenes)), desc=f"writing {scenes.name}", unit="scene", disable=None):
        yield scenes.scene(index)


def _coco_image(image_id: int, size: int) -> dict[str, Any]:
    return {"id": image_id, "file_name": f"{image_id:012d}.png", "width": size, "height": size, "license": 1}


def _coco_objects(scene: Scene, image_id: int, first_id: int) -> list[dict[str, Any]]:
    return [
        {
            "id": number,
            "image_id": image_id,
            "category_id": int(label) + 1,
            "bbox": [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])],
            "area": int(mask.sum()),
            "iscrowd": 0,
            "segmentation": {"size": list(mask.shape), "counts": run_lengths(mask)},
        }
        for number, (label, box, mask) in enumerate(
            zip(scene.labels, scene.boxes, scene.masks, strict=True), start=first_id
        )
    ]


def run_lengths(mask: NDArray[np.bool_]) -> list[int]:
    """COCO's uncompressed run lengths of a mask [H, W]: column by column, zeros and ones in turn, zeros first."""
    flat = mask.ravel(order="F")
    ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate(([0], ends, [flat.size]))).tolist()
    return [0, *runs] if flat[0] else runs

"""Damaged images, annotations, label maps and shards."""

from __future__ import annotations

import io
import json
import random
import tarfile
from pathlib import Path

import numpy as np
import PIL.Image

from core.data.decode import decode_rgb
from core.data.readers.shards import Shards
from evaluate.detection.data.coco_data import open_coco
from evaluate.detection.data.voc_data import open_voc
from evaluate.segmentation.data.labels import check_pair, read_label
from evaluate.segmentation.protocol import SegmentDataConfig
from tests.fuzz.mutations import NASTY, changed, damaged
from tests.fuzz.trial import Trial


def coco_json(folder: Path) -> Trial:
    """COCO's annotations, damaged as text and as documents."""
    for split in ("train2017", "val2017"):
        (folder / split).mkdir(parents=True)
        for number in range(3):
            (folder / split / f"{number}.jpg").write_bytes(b"x")
    (folder / "annotations").mkdir()
    document = {
        "images": [{"id": n, "file_name": f"{n}.jpg", "height": 20, "width": 30} for n in range(3)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 7, "name": "dog"}],
        "annotations": [
            {"id": 1, "image_id": 0, "category_id": 1, "iscrowd": 0, "bbox": [1, 1, 5, 5], "area": 25.0,
             "segmentation": [[1, 1, 5, 1, 5, 5]]},
            {"id": 2, "image_id": 1, "category_id": 7, "iscrowd": 1, "bbox": [0, 0, 4, 4], "area": 16,
             "segmentation": {"size": [20, 30], "counts": [10, 20, 570]}},
            {"id": 3, "image_id": 2, "category_id": 7, "iscrowd": 1, "bbox": [0, 0, 4, 4], "area": 16,
             "segmentation": {"size": [20, 30], "counts": "0hb0"}},
        ],
    }  # fmt: skip
    text = json.dumps(document).encode()

    def trial(rng: random.Random) -> None:
        split = rng.choice(("train", "val"))
        file = folder / "annotations" / f"instances_{split}2017.json"
        file.write_bytes(damaged(text, rng) if rng.random() < 0.4 else json.dumps(changed(document, rng)).encode())
        found = open_coco(folder, split, rng.random() < 0.7, rng.choice(("polygon", "bitmask")), rng.choice((0.0, 1.0)))
        for record in found.records:
            assert Path(record["file_name"]).is_file()
            for annotation in record["annotations"]:
                x, y, w, h = annotation["bbox"]
                assert w > 0
                assert h > 0
                assert x < record["width"]
                assert y < record["height"]
                assert x + w > 0
                assert y + h > 0
                assert 0 <= annotation["category_id"] < len(found.classes)

    return trial


def voc_xml(folder: Path) -> Trial:
    """VOC's annotations and lists."""
    for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (folder / "VOC2007" / name).mkdir(parents=True)
    (folder / "VOC2007/JPEGImages/a.jpg").write_bytes(b"x")
    box = "<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>10.5</xmax><ymax>12</ymax></bndbox>"
    text = (
        f'<?xml version="1.0"?><annotation><size><width>30</width><height>20</height></size><object><name>cat</name>'
        f"<difficult>0</difficult>{box}</object><object><name>dog</name>{box}</object></annotation>"
    ).encode()

    def trial(rng: random.Random) -> None:
        names = damaged(b"a\n", rng) if rng.random() < 0.1 else b"a\n"
        (folder / "VOC2007/ImageSets/Main/test.txt").write_bytes(names)
        content = damaged(text, rng)
        if rng.random() < 0.4:
            word = rng.choice((b"30", b"20", b"2<", b"10.5", b"cat", b"0<"))
            tail = b"<" if word.endswith(b"<") else b""
            content = text.replace(word, str(rng.choice(NASTY)).encode("utf-8", "replace") + tail, 1)
        (folder / "VOC2007/Annotations/a.xml").write_bytes(content)
        found = open_voc(folder, "val", 1.0)
        assert len(found.records) <= 1

    return trial


def _pictures(mode: str) -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    image = PIL.Image.fromarray(pixels)
    if mode == "labels":
        image = PIL.Image.fromarray(rng.integers(0, 5, (24, 32), dtype=np.uint8))
    found = {}
    for kind in ("PNG",) if mode == "labels" else ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM"):
        stream = io.BytesIO()
        image.save(stream, kind)
        found[kind] = stream.getvalue()
    if mode != "labels":
        for name, other in (
            ("P", image.convert("P")),
            ("RGBA", image.convert("RGBA")),
            ("I;16", PIL.Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)),
        ):
            stream = io.BytesIO()
            other.save(stream, "PNG")
            found[name] = stream.getvalue()
        stream = io.BytesIO()
        image.save(stream, "TIFF", compression="tiff_lzw")
        found["LZW"] = stream.getvalue()
        stream = io.BytesIO()
        image.save(stream, "JPEG", progressive=True)
        found["progressive"] = stream.getvalue()
    return found


def images(folder: Path) -> Trial:
    """Images of all formats."""
    originals = list(_pictures("images").values())

    def trial(rng: random.Random) -> None:
        image = decode_rgb(damaged(rng.choice(originals), rng), "x")
        assert image.mode == "RGB"
        assert np.asarray(image).shape[2] == 3

    return trial


def label_maps(folder: Path) -> Trial:
    """Label maps of semantic segmentation beside their images."""
    label = _pictures("labels")["PNG"]
    image = _pictures("images")["JPEG"]
    configs = [SegmentDataConfig("scenes", classes=9), SegmentDataConfig("voc12aug", classes=21)]

    def trial(rng: random.Random) -> None:
        (folder / "a.jpg").write_bytes(damaged(image, rng) if rng.random() < 0.2 else image)
        (folder / "a.png").write_bytes(damaged(label, rng))
        config = rng.choice(configs)
        check_pair(folder / "a.jpg", folder / "a.png", config)
        found = read_label(folder / "a.png", config)
        assert found.ndim == 2
        assert found.dtype == np.uint8
        assert set(np.unique(found).tolist()) <= {*range(config.classes), 255}

    return trial


def shards(folder: Path) -> Trial:
    """WebDataset shards; their index is kept in the cache folder, which is damaged too."""
    picture = _pictures("images")["PNG"]
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for number in range(3):
            for name, content in (
                (f"{number}.png", picture),
                (f"{number}.json", b'{"label": 2}'),
                (f"{'n' * 150}{number}.cls", b"1"),
            ):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    whole = stream.getvalue()[: 512 * 24]

    def trial(rng: random.Random) -> None:
        (folder / "a.tar").write_bytes(damaged(whole, rng))
        found = Shards(str(folder / "a.tar"), "x")
        if rng.random() < 0.3:
            for kept in (folder.parent / "cache" / "shards").iterdir():
                kept.write_bytes(damaged(kept.read_bytes(), rng))
            again = Shards(str(folder / "a.tar"), "x")
            assert again.digest() == found.digest()
        for kept in (folder.parent / "cache" / "shards").iterdir():
            kept.unlink()
        for index in range(len(found)):
            assert -1 <= found.label(index) < max(len(found.classes), 1)
        found.image(rng.randrange(len(found)))

    return trial

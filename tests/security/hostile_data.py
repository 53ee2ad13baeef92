"""Hostile images, data sets and configs; each case makes its file and opens it."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import tarfile
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from core.config import load_config
from core.data.decode import decode_rgb
from core.data.readers.fashion_mnist import FashionMNIST
from core.data.readers.shards import Shards
from core.data.readers.torchvision_sets import SETS, TorchvisionSet
from evaluate.detection.data.coco_data import open_coco
from evaluate.detection.data.voc_data import open_voc
from evaluate.probes.knn.protocol import KnnConfig
from tests.security.gadgets import (
    chunk,
    packed_zeros,
    pickled_call,
    png,
    tar_of,
)
from tests.security.hostile_checkpoints import Case, Opener

# --- images --------------------------------------------------------------------------------------------------------


def _image(content: bytes) -> Case:
    return lambda folder, canary: lambda: decode_rgb(content, "stranger")


def _text_of_256_megabytes(folder: Path, canary: Path) -> Opener:
    return _image(png(64, 64, chunk(b"zTXt", b"k\0\0" + packed_zeros(256))))(folder, canary)


def _eps(folder: Path, canary: Path) -> Opener:
    """Pillow starts Ghostscript for it; here something else stands in for the program."""
    tool = folder / "bin"
    tool.mkdir()
    (tool / "gs").write_text(f"#!/bin/sh\nmkdir {canary}\n")
    (tool / "gs").chmod(0o755)
    (folder / "a.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n%%EOF\n")

    def decode() -> None:
        os.environ["PATH"] = f"{tool}:{os.environ['PATH']}"
        decode_rgb(folder / "a.jpg", "stranger")

    return decode


def _eps_by_an_engine(folder: Path, canary: Path) -> Opener:
    decode = _eps(folder, canary)

    def opened_without_us() -> None:
        from core.errors import BrokenImage

        with pytest.raises(BrokenImage):
            decode()
        try:
            with PIL.Image.open(folder / "a.jpg") as image:
                image.load()
        except OSError as error:
            raise BrokenImage("engine", str(error)) from None

    return opened_without_us


def _image_pipe(folder: Path, canary: Path) -> Opener:
    os.mkfifo(folder / "a.jpg")
    return lambda: decode_rgb(folder / "a.jpg", "stranger")


def _jpeg_of(width: int, height: int) -> bytes:
    stream = io.BytesIO()
    PIL.Image.new("RGB", (8, 8)).save(stream, "JPEG")
    content = bytearray(stream.getvalue())
    start = content.index(b"\xff\xc0") + 5
    content[start : start + 4] = struct.pack(">HH", height, width)
    return bytes(content)


# --- data sets -----------------------------------------------------------------------------------------------------


def _packed_fashion_mnist(folder: Path, canary: Path) -> Opener:
    head = gzip.compress(struct.pack(">BBBB3I", 0, 0, 8, 3, 60000, 28, 28))
    (folder / "train-images-idx3-ubyte.gz").write_bytes(head + 400 * gzip.compress(bytes(2**20)))
    return lambda: FashionMNIST("train", folder)


def _shard(*members: tuple[str, bytes], **header: Any) -> Case:
    def case(folder: Path, canary: Path) -> Opener:
        infos = [(tarfile.TarInfo(name), content) for name, content in members]
        for key, value in header.items():
            setattr(infos[0][0], key, value)
        tar_of(folder / "a.tar", *infos)
        return lambda: Shards(str(folder / "a.tar"), "stranger")

    return case


def _size_below_zero(folder: Path, canary: Path) -> Opener:
    tar_of(folder / "a.tar", (tarfile.TarInfo("a.png"), png(8, 8)))
    content = bytearray((folder / "a.tar").read_bytes())
    content[124:136] = b"\xff" * 10 + b"\xfe\x00"  # −512, as GNU writes numbers that octal can't hold
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content[:512])
    (folder / "a.tar").write_bytes(content)
    return lambda: Shards(str(folder / "a.tar"), "stranger")


def _cifar(kind: str, files: dict[str, str]) -> Case:
    def case(folder: Path, canary: Path) -> Opener:
        from torchvision import datasets

        known = getattr(datasets, SETS[kind].loader)
        place = folder / known.base_folder
        place.mkdir(parents=True)
        for name, _ in (*known.train_list, *known.test_list, (known.meta["filename"], "")):
            (place / name).write_bytes(pickled_call("os", "mkdir", str(canary)))
        return lambda: TorchvisionSet(kind, folder, "train")

    return case


def _packed_matlab(folder: Path, canary: Path) -> Opener:
    packed = packed_zeros(400)
    element = struct.pack("<II", 15, len(packed)) + packed
    devkit = folder / "stanford_cars" / "devkit"
    devkit.mkdir(parents=True)
    (devkit / "cars_train_annos.mat").write_bytes(b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + element)
    return lambda: TorchvisionSet("cars", folder, "train")


def _list_leads_outside(folder: Path, canary: Path) -> Opener:
    meta = folder / "food-101" / "meta"
    meta.mkdir(parents=True)
    (folder / "food-101" / "images").mkdir()
    (meta / "train.json").write_text(json.dumps({"pizza": ["../../../../etc/shadow"]}))
    return lambda: TorchvisionSet("food101", folder, "train")


def _coco(text: str) -> Case:
    def case(folder: Path, canary: Path) -> Opener:
        (folder / "annotations").mkdir()
        (folder / "val2017").mkdir()
        (folder / "val2017" / "a.jpg").write_bytes(b"x")
        (folder / "annotations" / "instances_val2017.json").write_text(text)
        return lambda: open_coco(folder, "val", True, "polygon", 0.0)

    return case


def _coco_with(image: dict[str, Any] | None = None, **annotation: Any) -> Case:
    images = [{"id": 1, "file_name": "a.jpg", "height": 9, "width": 9} | (image or {})]
    one = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "bbox": [1, 1, 4, 4], "area": 16}
    one |= {"segmentation": [[1, 1, 4, 1, 4, 4]]} | annotation
    categories = [{"id": 1, "name": "cat"}]
    return _coco(json.dumps({"images": images, "annotations": [one], "categories": categories}))


def _voc(text: str) -> Case:
    def case(folder: Path, canary: Path) -> Opener:
        for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
            (folder / "VOC2007" / name).mkdir(parents=True)
        (folder / "VOC2007/ImageSets/Main/test.txt").write_text("a\n")
        (folder / "VOC2007/JPEGImages/a.jpg").write_bytes(b"x")
        (folder / "VOC2007/Annotations/a.xml").write_text(text)
        return lambda: open_voc(folder, "val", 0.0)

    return case


_LAUGHS = "".join(f'<!ENTITY e{n + 1} "{f"&e{n};" * 10}">' for n in range(10))


# --- configs -------------------------------------------------------------------------------------------------------


def _yaml(text: str) -> Case:
    def case(folder: Path, canary: Path) -> Opener:
        (folder / "a.yaml").write_text(text.replace("CANARY", str(canary)))
        return lambda: load_config(KnnConfig, folder / "a.yaml")

    return case


def _override(text: str) -> Case:
    return lambda folder, canary: lambda: load_config(KnnConfig, None, [text.replace("CANARY", str(canary))])


_ANCHORS = "a0: &a0 [x, x]\n" + "".join(f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]\n" for n in range(12))
_MERGES = "a0: &a0 {k: 1}\n" + "".join(f"a{n + 1}: &a{n + 1}\n  <<: [*a{n}, *a{n}, *a{n}]\n" for n in range(30))


DATA: dict[str, tuple[str, str, Case]] = {
    "a PNG of 10^9 pixels": ("BrokenImage", "pixels", _image(png(40000, 25000))),
    "a JPEG of 4·10^9 pixels": ("BrokenImage", "pixels", _image(_jpeg_of(65500, 65500))),
    "a PNG with a text of 256 megabytes": ("BrokenImage", "", _text_of_256_megabytes),
    "PostScript named .jpg": ("BrokenImage", "cannot identify", _eps),
    "PostScript given to an engine": ("BrokenImage", "Ghostscript", _eps_by_an_engine),
    "a pipe for an image": ("BrokenImage", "regular file", _image_pipe),
    "a packed Fashion-MNIST": ("UserError", r"\.gz", _packed_fashion_mnist),
    "shard members with names that lead out": ("opened", "", _shard(
        ("../../escaped.png", png(8, 8)), ("/tmp/escaped-absolute.png", png(8, 8)))),
    "a symlink in a shard": ("UserError", "no images", _shard(
        ("a.png", b""), type=tarfile.SYMTYPE, linkname="/etc/passwd")),
    "a hard link in a shard": ("UserError", "no images", _shard(
        ("a.png", b""), type=tarfile.LNKTYPE, linkname="/etc/passwd")),
    "a device in a shard": ("UserError", "no images", _shard(("a.png", b""), type=tarfile.CHRTYPE)),
    "a shard's name of a megabyte": ("UserError", "characters", _shard((f"{'x' * 2**20}.png", b"x"))),
    "a shard member of −512 bytes": ("UserError", "size", _size_below_zero),
    "pickles as CIFAR-10": ("UserError", "not found or corrupted", _cifar("cifar10", {})),
    "pickles as CIFAR-100": ("UserError", "not found or corrupted", _cifar("cifar100", {})),
    "a packed MATLAB list": ("UserError", "unpack", _packed_matlab),
    "a list of images outside": ("UserError", "outside", _list_leads_outside),
    "COCO: nesting": ("UserError", "JSON", _coco("[" * 10**6)),
    "COCO: numbers of a million digits": ("UserError", "JSON", _coco("[" + "9" * 10**6 + "]")),
    "COCO: an image of 10^18 pixels": ("UserError", "height", _coco_with({"height": 10**18})),
    "COCO: a box of 1e999": ("UserError", "finite", _coco_with(bbox=[1, 1, float("inf"), 4])),
    "COCO: run lengths beyond the mask": ("UserError", "cover", _coco_with(
        iscrowd=1, segmentation={"size": [9, 9], "counts": [2**40]})),
    "COCO: an image outside": ("UserError", "outside", _coco_with({"file_name": "../../etc/shadow"})),
    "VOC: a billion laughs": ("UserError", "annotation", _voc(
        f'<!DOCTYPE a [<!ENTITY e0 "ha">{_LAUGHS}]><annotation>&e10;</annotation>')),
    "VOC: a file from outside": ("UserError", "annotation", _voc(
        '<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/passwd">]><annotation>&e;</annotation>')),
    "VOC: an annotation of megabytes": ("UserError", "annotation", _voc("<a>" + "x" * 2**21 + "</a>")),
    "YAML: a Python call": ("UserError", "YAML", _yaml("ks: !!python/object/apply:os.mkdir [CANARY]")),
    "YAML: a Python object": ("UserError", "YAML", _yaml("a: !!python/object/new:os.mkdir {}")),
    "YAML: anchors of anchors": ("UserError", "writes out to more", _yaml(_ANCHORS)),
    "YAML: merges of merges": ("UserError", "merge", _yaml(_MERGES)),
    "YAML: nesting": ("UserError", "YAML", _yaml("[" * 10**5)),
    "YAML: a file of megabytes": ("UserError", "longer than", _yaml("a: b\n" * 10**6)),
    "an override with a Python call": (
        "UserError", "YAML", _override("ks=!!python/object/apply:os.mkdir [CANARY]")),
    "an override with nesting": ("UserError", "YAML", _override("ks=" + "[" * 10**5)),
}  # fmt: skip

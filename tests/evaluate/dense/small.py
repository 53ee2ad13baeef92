"""Small settings and data for the tests of dense probes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from evaluate.probes.base import Probe
from evaluate.probes.main import probe_main
from evaluate.tables.results import read_result

SCENES = [
    "data.scenes.size=32", "data.scenes.objects=[1,2]", "data.scenes.radius=[0.2,0.4]", "data.scenes.train=16",
    "data.scenes.test=8", "features.size=32",
]  # fmt: skip
VIT = "timm:vit_tiny_patch16_224(depth=2,embed_dim=24,num_heads=2,img_size=32,patch_size=8)"


def measure(probe: Probe, out: Path, *arguments: str, ckpt: str = "pixels", protocol: str = "") -> dict[str, Any]:
    """The metrics of one measurement on the CPU, in this process."""
    named = ["--protocol", protocol] if protocol else []
    probe_main(probe, ["--ckpt", ckpt, *named, "--out", str(out), "--device", "cpu", "--workers", "0", *arguments])
    document: dict[str, Any] = json.loads((out / "result.json").read_text())
    assert document["kind"] == probe.kind
    assert read_result(out / "result.json").headline_metrics(), "it stands in the table"
    return document["metrics"]


def write_voc(root: Path, images: int = 4, size: tuple[int, int] = (40, 32)) -> Path:
    """VOC12aug as its tools lay it out: palette labels with a void border; classes are vertical halves of the image."""
    root = root / "VOCdevkit/VOC2012"
    rng = np.random.default_rng(0)
    for split, folder in (("train", "Class"), ("aug", "ClassAug"), ("val", "Class")):
        names = [f"{split}_{number}" for number in range(images)]
        for name in names:
            labels = np.zeros(size[::-1], np.uint8)
            labels[:, size[0] // 2 :] = 1 + int(rng.integers(2))
            pixels = np.stack([labels * 100, 255 - labels * 100, np.full_like(labels, 128)], axis=-1)
            labels[0] = 255
            _save(PIL.Image.fromarray(pixels), root / f"JPEGImages/{name}.jpg", quality=95)
            palette = PIL.Image.fromarray(labels, mode="P")
            palette.putpalette(list(rng.integers(0, 256, 768)))
            _save(palette, root / f"Segmentation{folder}/{name}.png")
        lists = root / "ImageSets/Segmentation"
        lists.mkdir(parents=True, exist_ok=True)
        (lists / f"{split}.txt").write_text("\n".join(names) + "\n")
    return root.parent


def _save(image: PIL.Image.Image, path: Path, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)

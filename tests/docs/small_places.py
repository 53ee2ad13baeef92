"""Small stand-ins for what the pages' commands name: data sets in their layouts, run folders, foreign files."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import timm
import torch

from core.backbones import BackboneConfig, build_backbone
from core.checkpoints import EXPORTS, export_backbone
from core.data.scenes.coco_ade20k_folders import write_coco
from core.data.scenes.render import ScenesConfig


def make_all(root: Path, photographs: Path) -> None:
    """`photographs`: a folder of two classes below train and val."""
    shrink_recipes(root / "configs/pretrain")
    make_imagenet(root / "data/imagenet", photographs, train=2_100, val=8)  # more than any batch
    make_imagenet(root / "data/birds", photographs, train=6, val=4)
    make_coco(root / "data/coco")
    make_ade20k(root / "data/ADEChallengeData2016")
    make_voc(root / "data/VOCdevkit/VOC2012")
    make_runs(root / "runs")
    make_foreign(root / "foreign")


def shrink_recipes(folder: Path) -> None:
    """Fewer layers in the recipes for many GPUs, as a plan follows the shapes of a whole step."""
    for whole, small in (
        ("{name: resnet50, args: {", "{name: resnet50, args: {layers: [1, 1, 1, 1], "),
        ("{name: vit_small_patch16_224, pos_resize", "{name: vit_small_patch16_224, args: {depth: 2}, pos_resize"),
    ):
        recipes = [file for file in folder.glob("*.yaml") if whole in file.read_text(encoding="utf-8")]
        assert recipes, whole
        for file in recipes:
            file.write_text(file.read_text(encoding="utf-8").replace(whole, small), encoding="utf-8")


def make_imagenet(root: Path, photographs: Path, train: int, val: int) -> None:
    """So many images per class, all of them links to a few photographs."""
    for split, count in (("train", train), ("val", val)):
        for name in ("cat", "dog"):
            sources = sorted((photographs / split / name).iterdir())
            (root / split / name).mkdir(parents=True)
            kept = [shutil.copy(source, root / split / name / source.name) for source in sources[:count]]
            for number in range(len(kept), count):
                os.link(kept[number % len(kept)], root / split / name / f"{number}.jpg")


def make_coco(root: Path) -> None:
    """Scenes with boxes for masks: COCO's own masks are polygons."""
    write_coco(root, ScenesConfig(size=64, train=8, test=3))
    for file in (root / "annotations").iterdir():
        content = json.loads(file.read_text())
        for thing in content["annotations"]:
            left, top, width, height = thing["bbox"]
            corners = [left, top, left + width, top, left + width, top + height, left, top + height]
            thing["segmentation"] = [corners]
        file.write_text(json.dumps(content))


def make_ade20k(root: Path) -> None:
    rng = np.random.default_rng(0)
    for split in ("training", "validation"):
        for number in range(4):
            for kind, pixels in (("images", (64, 64, 3)), ("annotations", (64, 64))):
                folder = root / kind / split
                folder.mkdir(parents=True, exist_ok=True)
                image = PIL.Image.fromarray(rng.integers(0, 151, pixels, dtype=np.uint8))
                image.save(folder / f"{number}.{'jpg' if kind == 'images' else 'png'}")


def make_voc(root: Path) -> None:
    rng = np.random.default_rng(0)
    for split, folder in (
        ("train", "SegmentationClass"),
        ("aug", "SegmentationClassAug"),
        ("val", "SegmentationClass"),
    ):
        for below in ("JPEGImages", folder, "ImageSets/Segmentation"):
            (root / below).mkdir(parents=True, exist_ok=True)
        names = [f"{split}_{number}" for number in range(4)]
        for name in names:
            PIL.Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(root / f"JPEGImages/{name}.jpg")
            PIL.Image.fromarray(rng.integers(0, 21, (64, 64), dtype=np.uint8)).save(root / folder / f"{name}.png")
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(names) + "\n")


def make_runs(root: Path) -> None:
    """Exported backbones with random weights, as run folders hold them."""
    for name, config in (
        ("r50", BackboneConfig("resnet50", {"channels": [16, 32, 64, 128]})),
        ("vit_s", BackboneConfig("vit_small_patch16_224")),
    ):
        torch.manual_seed(0)
        (root / name).mkdir(parents=True)
        first, *others = (root / name / file for file in EXPORTS.values())
        facts = {"method": "byol", "epoch": 0, "data": "folder:data/imagenet", "recipe_sha256": "0" * 64}
        export_backbone(first, build_backbone(config), config, facts)
        for other in others:
            os.link(first, other)


def make_foreign(root: Path) -> None:
    """MoCo v2's and DINO's layouts of keys around random weights."""
    root.mkdir(parents=True)
    torch.manual_seed(0)
    resnet = timm.create_model("resnet18", num_classes=0).state_dict()
    moco = {f"module.encoder_{which}.{name}": tensor for which in "qk" for name, tensor in resnet.items()}
    heads = {f"module.encoder_{which}.fc.{layer}.weight": torch.randn(8, 8) for which in "qk" for layer in (0, 2)}
    torch.save({"state_dict": moco | heads, "epoch": 800, "arch": "resnet18"}, root / "moco_v2_800ep.pth.tar")
    vit = timm.create_model("vit_small_patch16_224", num_classes=0, depth=2).state_dict()
    networks = {
        network: {f"{prefix}{name}": tensor for name, tensor in vit.items()} | {f"{head}.weight": torch.randn(4, 4)}
        for network, prefix, head in (
            ("student", "module.backbone.", "module.head.last_layer"), ("teacher", "backbone.", "head.last_layer"),
        )
    }  # fmt: skip
    torch.save(networks, root / "dino_vits16.pth")

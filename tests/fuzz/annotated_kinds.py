"""Odd but legal annotations: what the generator drew is found, and the rest is reported."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import numpy as np

from core.errors import UserError
from evaluate.detection.data.coco_data import open_coco
from evaluate.detection.data.datasets import check_images
from evaluate.detection.data.records import UNLISTED
from evaluate.detection.data.voc_data import open_voc
from evaluate.segmentation.data.checks import check_split
from evaluate.segmentation.data.labels import read_label
from evaluate.segmentation.data.layouts import list_split
from evaluate.segmentation.protocol import SegmentDataConfig
from tests.data_rules.odd_coco import odd_coco, odd_voc
from tests.data_rules.odd_labels import odd_segmentation
from tests.fuzz.layout_kinds import must_be_refused
from tests.fuzz.trial import Trial

ROOTS = ("set", "a #2", "b: c", "d,e", "[f]", "~g", "ü h")


def _fresh(folder: Path, rng: random.Random) -> Path:
    root = folder / rng.choice(ROOTS)
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    return root


def coco_layouts(folder: Path) -> Trial:
    """COCO's format in the folders, ids, numbers and paths of other tools."""

    def trial(rng: random.Random) -> None:
        root = _fresh(folder, rng)
        truth, unlisted, fit = odd_coco(root, rng)
        masks = rng.random() < 0.5
        try:
            split = check_images(open_coco(root, "val", masks, "polygon", 0.0), 0.0)
        except UserError:
            if masks and not fit:
                raise
            raise AssertionError("legal annotations were refused") from None
        assert not masks or fit, "objects without usable masks were accepted"
        assert split.account.skipped.get(UNLISTED, 0) == unlisted
        assert len(split.records) == len(truth)
        for record in split.records:
            (name,) = (name for name in truth if record["file_name"].endswith(f"/{name}"))
            found = [
                (split.classes[one["category_id"]], bool(one["iscrowd"]), [*map(float, one["bbox"])])
                for one in record["annotations"]
            ]
            assert found == truth[name], (found, truth[name])
        ids = [one["id"] for one in split.truth["annotations"]]
        assert len(set(ids)) == len(ids)
        assert 0 not in ids

    return trial


def voc_layouts(folder: Path) -> Trial:
    """VOC's format with sub-folders, other endings, absent sizes and flags as text."""

    def trial(rng: random.Random) -> None:
        root = _fresh(folder, rng)
        truth = odd_voc(root, rng)
        if rng.random() < 0.4:
            xml = next((root / "VOC2007/Annotations").rglob("*.xml"))
            box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox>"
            thing = f"<object><name>unicorn</name>{box}</object></annotation>"
            xml.write_text(xml.read_text(encoding="utf-8").replace("</annotation>", thing), encoding="utf-8")
            must_be_refused(lambda: open_voc(root, "val", 0.0), "a class is not one of VOC's")
        split = check_images(open_voc(root, "val", 0.0), 0.0)
        assert {record["image_id"] for record in split.records} == set(truth)
        for record in split.records:
            objects = split.truth[record["image_id"]]
            found = [
                (split.classes[one["category_id"]], thing.difficult, one["bbox"])
                for one, thing in zip(record["annotations"], objects, strict=True)
            ]
            assert found == truth[record["image_id"]]

    return trial


def segmentation_layouts(folder: Path) -> Trial:
    """ADE20K's layout with labels of few bits, other endings, sub-folders and further files."""
    config = SegmentDataConfig("ade20k", classes=16, first_label=0)

    def trial(rng: random.Random) -> None:
        root = _fresh(folder, rng)
        truth, others = odd_segmentation(root, rng)
        samples = list_split(root, "ade20k", "val")
        if rng.random() < 0.4 and max(numbers.max() for numbers in truth.values()) > 1:
            few = SegmentDataConfig("ade20k", classes=2, first_label=0)
            must_be_refused(lambda: check_split(samples.pairs, few, "test", whole=True), "a number is not a class")
        assert {os.path.relpath(image, root) for image, _ in samples.pairs} == set(truth)
        assert sum(samples.account.skipped.values()) == others
        checked = check_split(samples.pairs, config, "test", whole=True)
        assert checked.skipped == ()
        for image, label in samples.pairs:
            assert np.array_equal(read_label(label, config), truth[os.path.relpath(image, root)]), label

    return trial

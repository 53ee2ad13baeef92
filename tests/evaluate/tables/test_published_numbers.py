"""The numbers of configs/published, transcribed a second time, and which of them may be compared."""

from __future__ import annotations

import pytest

from evaluate.tables.published import Published, read_published

COCO = ("box_ap", "mask_ap")
VOC = ("box_ap50", "box_ap", "box_ap75")
NUMBERS = read_published()


def of(file: str, protocol: str) -> list[Published]:
    """One source's numbers under one protocol; `file` is part of its address."""
    return [n for n in NUMBERS if file in n.url and n.protocol == protocol]


def values(numbers: list[Published], row: str) -> tuple[float, ...]:
    return tuple(n.value for n in numbers if n.row == row)


# address, protocol, whether they may be compared, rows
SHEET: list[tuple[str, str, bool, dict[str, tuple[float, ...]]]] = [
    ("1911.05722", "coco_maskrcnn_r50_fpn_1x_moco", True, {
        "random initialisation": (31.0, 28.5), "supervised": (38.9, 35.4)}),
    ("1911.05722", "voc_frcnn_r50_c4_24k", True, {
        "supervised": (81.3, 53.5, 58.8), "MoCo v1, 200 epochs": (81.5, 55.9, 62.6),
        "MoCo v2, 200 epochs": (82.4, 57.0, 63.6), "MoCo v2, 800 epochs": (82.5, 57.4, 64.0)}),
    ("PixPro", "voc_frcnn_r50_c4_24k", True, {
        "random initialisation": (60.2, 33.8, 33.1), "SimCLR, 1000 epochs": (81.9, 56.3, 62.5),
        "InfoMin, 200 epochs": (82.7, 57.6, 64.6), "InfoMin, 800 epochs": (82.5, 57.5, 64.0),
        "PixPro, 100 epochs": (83.0, 58.8, 66.5), "PixPro, 400 epochs": (83.8, 60.2, 67.7)}),
    ("PixPro", "coco_maskrcnn_r50_c4_1x", True, {
        "random initialisation": (26.4, 29.3), "supervised": (38.2, 33.3), "MoCo v1, 200 epochs": (38.5, 33.6),
        "SimCLR, 1000 epochs": (38.4, 33.6), "MoCo v2, 800 epochs": (39.5, 34.5), "InfoMin, 200 epochs": (39.0, 34.1),
        "PixPro, 100 epochs": (40.0, 34.8), "PixPro, 400 epochs": (40.5, 35.3)}),
    ("PixPro", "coco_maskrcnn_r50_fpn_1x_densecl", True, {
        "random initialisation": (32.8, 29.9), "supervised": (39.7, 35.9), "MoCo v1, 200 epochs": (39.4, 35.6),
        "SimCLR, 1000 epochs": (39.8, 35.9), "MoCo v2, 800 epochs": (40.4, 36.4), "InfoMin, 200 epochs": (40.6, 36.7),
        "InfoMin, 800 epochs": (40.4, 36.6), "PixPro, 100 epochs": (40.8, 36.8),
        "PixPro, instance branch, 100 epochs": (41.3, 37.1), "PixPro, instance branch, 400 epochs": (41.4, 37.4)}),
    ("SlotCon", "coco_maskrcnn_r50_fpn_1x_densecl", True, {
        "SlotCon, 100 epochs": (41.4, 37.2), "SlotCon, 200 epochs": (41.8, 37.8),
        "SlotCon on COCO, 800 epochs": (41.0, 37.0), "SlotCon on COCO+, 800 epochs": (41.8, 37.8)}),
    ("InstanceLoc", "coco_maskrcnn_r50_fpn_1x_densecl", False, {
        "MoCo v2, 200 epochs": (39.8, 36.1), "InsLoc, 200 epochs": (41.4, 37.1), "InsLoc, 400 epochs": (42.0, 37.6)}),
    ("InstanceLoc", "coco_maskrcnn_r50_c4_1x", False, {
        "MoCo v2, 200 epochs": (38.9, 34.1), "MoCo v2, 800 epochs": (39.3, 34.3), "InsLoc, 200 epochs": (39.5, 34.5),
        "InsLoc, 400 epochs": (39.8, 34.7)}),
    ("InstanceLoc", "coco_maskrcnn_r50_c4_2x", False, {
        "MoCo v2, 200 epochs": (40.7, 35.6), "MoCo v2, 800 epochs": (41.2, 35.8), "InsLoc, 200 epochs": (41.4, 35.9),
        "InsLoc, 400 epochs": (41.8, 36.3)}),
    ("SoCo", "coco_maskrcnn_r50_c4_1x", False, {
        "SoCo, 100 epochs": (40.4, 34.9), "SoCo, 400 epochs": (40.9, 35.3)}),
    ("SoCo", "coco_maskrcnn_r50_fpn_1x_densecl", False, {
        "SoCo, 100 epochs": (42.3, 37.6), "SoCo, 400 epochs": (43.0, 38.2)}),
    ("open-mmlab/mmselfsup", "coco_maskrcnn_r50_fpn_1x_densecl", False, {
        "BYOL, 200 epochs": (40.9, 36.8), "MoCo v2, 200 epochs": (40.2, 36.1), "SwAV, 200 epochs": (40.2, 36.3),
        "SimSiam, 200 epochs": (38.8, 34.9), "SimSiam, 100 epochs": (38.6, 34.6), "SimCLR, 200 epochs": (38.7, 34.9),
        "NPID": (38.5, 34.6), "Rotation": (37.9, 34.2), "Relative-Loc": (37.5, 33.7)}),
    ("open-mmlab/mmselfsup", "voc_fcn_r50_20k_densecl", True, {
        "BYOL, 200 epochs": (67.16,), "SimCLR, 200 epochs": (64.03,), "SwAV, 200 epochs": (63.73,),
        "SimSiam, 200 epochs": (46.27,), "SimSiam, 100 epochs": (48.35,), "DenseCL": (69.47,), "MoCo v2": (67.55,),
        "NPID": (65.45,), "Rotation": (64.31,), "Relative-Loc": (63.49,)}),
    ("WXinlong/DenseCL", "voc_frcnn_r50_c4_24k", True, {
        "random initialisation (OpenSelfSup)": (59.02, 32.83, 31.6), "supervised (OpenSelfSup)": (81.58, 54.19, 59.8),
        "MoCo v1": (81.38, 55.95, 62.23), "MoCo v2 (OpenSelfSup)": (82.24, 56.97, 63.43),
        "SimCLR, batch 256": (79.41, 51.54, 55.63), "BYOL, 200 epochs": (80.95, 51.87, 56.53)}),
    ("WXinlong/DenseCL", "coco_maskrcnn_r50_c4_2x", True, {
        "random initialisation": (35.6, 31.4), "supervised": (40.0, 34.7), "MoCo v1, 200 epochs": (40.9, 35.5),
        "MoCo v2, 200 epochs": (40.6, 35.3), "SimCLR, batch 256, 200 epochs": (39.6, 34.6),
        "BYOL, 200 epochs": (40.3, 35.1), "NPID": (39.4, 34.5), "Relative-Loc": (40.0, 35.0),
        "Rotation": (40.0, 34.9)}),
    ("2011.09157", "voc_fcn_r50_20k_densecl", True, {
        "supervised": (67.7,), "MoCo v2, 200 epochs": (67.5,), "DenseCL, 200 epochs": (69.4,),
        "MoCo v2 on COCO, 800 epochs": (64.5,), "DenseCL on COCO, 800 epochs": (67.5,),
        "DenseCL on COCO, 1600 epochs": (68.0,)}),
    ("2011.09157", "voc_frcnn_r50_c4_24k", True, {"DenseCL, 200 epochs": (58.7,)}),
    ("2104.02057", "linear_mocov3_r50", True, {
        "MoCo v3, 100 epochs": (68.9,), "MoCo v3, 300 epochs": (72.8,), "MoCo v3, 1000 epochs": (74.6,)}),
    ("2104.02057", "linear_mocov3_vit_s", True, {"MoCo v3 ViT-S/16, 300 epochs": (73.2,)}),
    ("2104.02057", "linear_mocov3_vit_b", True, {"MoCo v3 ViT-B/16, 300 epochs": (76.7,)}),
    ("Denoising-ViT", "segment_linear_ade20k_dinov2", False, {
        "DINOv2 ViT-S/14": (44.05,), "DINOv2 ViT-B/14": (47.02,), "DINOv2 ViT-L/14": (47.53,),
        "DINOv2 ViT-S/14, registers": (44.36,), "DINOv2 ViT-B/14, registers": (47.73,),
        "DINOv2 ViT-L/14, registers": (48.44,), "DINO ViT-B/16": (31.03,), "MAE ViT-B/16": (23.84,),
        "DeiT-III ViT-B/16": (32.84,)}),
    ("Denoising-ViT", "segment_linear_voc12aug_dinov2", False, {
        "DINOv2 ViT-S/14": (81.78,), "DINOv2 ViT-B/14": (83.52,), "DINOv2 ViT-L/14": (83.43,),
        "DINOv2 ViT-S/14, registers": (80.88,), "DINOv2 ViT-B/14, registers": (83.48,),
        "DINOv2 ViT-L/14, registers": (83.21,), "DINO ViT-B/16": (62.92,), "MAE ViT-B/16": (50.29,),
        "DeiT-III ViT-B/16": (71.03,)}),
    ("2011.10566", "linear_simsiam", True, {
        "SimSiam, 100 epochs": (68.1,), "SimSiam, batch 256, 100 epochs": (68.3,)}),
    ("2111.06377", "linear_mae", False, {
        "MAE ViT-B/16": (68.0,), "MAE ViT-L/16": (75.8,), "MAE ViT-H/14": (76.6,),
        "MAE ViT-B/16, released code": (67.8,), "MAE ViT-L/16, released code": (76.0,),
        "MAE ViT-H/14, released code": (77.2,)}),
    ("2111.06377", "finetune_vit", False, {
        "MAE ViT-B/16": (83.6,), "MAE ViT-L/16": (85.9,), "MAE ViT-H/14": (86.9,)}),
    ("2111.07832", "finetune_vit", False, {"iBOT ViT-S/16": (82.3,), "iBOT ViT-B/16": (84.0,)}),
    ("2111.07832", "knn_dino", True, {
        "iBOT ViT-S/16": (75.2,), "iBOT ViT-B/16": (77.1,), "iBOT Swin-T, window 7": (75.3,),
        "iBOT Swin-T, window 14": (76.2,)}),
    ("esvit", "knn_dino", True, {
        "EsViT Swin-T, window 7": (75.7,), "EsViT Swin-S, window 7": (77.7,), "EsViT Swin-B, window 7": (78.9,),
        "EsViT Swin-T, window 7, view task alone": (74.2,), "EsViT Swin-T, window 14": (77.0,),
        "EsViT Swin-S, window 14": (79.1,), "EsViT Swin-B, window 14": (79.3,)}),
    ("sail-sg/mugs", "knn_dino", False, {
        "Mugs ViT-S/16": (75.6,), "Mugs ViT-B/16": (78.0,), "Mugs ViT-L/16": (80.3,)}),
    ("2104.14294", "knn_dino", True, {
        "DINO ViT-S/16": (74.5,), "DINO ViT-B/16": (76.1,), "DINO ResNet-50": (67.5,), "DINO ViT-S/8": (78.3,),
        "DINO ViT-B/8": (77.4,), "DINO ViT-S/16, 100 epochs": (69.3,), "DINO ViT-S/16, boosted, 300 epochs": (73.3,),
        "DINO XCiT small-12/16": (76.0,), "DINO XCiT small-12/8": (77.1,), "DINO XCiT medium-24/16": (76.4,),
        "DINO XCiT medium-24/8": (77.9,)}),
    ("2104.14294", "linear_dino_vit_s", False, {
        "DINO ViT-S/16": (77.0,), "DINO ViT-S/8": (79.7,), "DINO ViT-S/16, 100 epochs": (74.0,),
        "DINO ViT-S/16, boosted, 300 epochs": (76.0,), "DINO XCiT small-12/16": (77.8,),
        "DINO XCiT small-12/8": (79.2,), "DINO XCiT medium-24/16": (78.8,), "DINO XCiT medium-24/8": (80.3,)}),
    ("2104.14294", "linear_dino_vit_b", False, {"DINO ViT-B/16": (78.2,), "DINO ViT-B/8": (80.1,)}),
    ("2104.14294", "linear_dino_r50", False, {"DINO ResNet-50": (75.3,)}),
    ("2304.07193", "knn_dino", False, {
        "DINOv2 ViT-S/14": (79.0,), "DINOv2 ViT-B/14": (82.1,), "DINOv2 ViT-L/14": (83.5,), "DINOv2 ViT-g/14": (83.5,),
        "DINOv2 ViT-S/14, registers": (79.1,), "DINOv2 ViT-B/14, registers": (82.0,),
        "DINOv2 ViT-L/14, registers": (83.8,), "DINOv2 ViT-g/14, registers": (83.7,)}),
    ("2304.07193", "linear_dinov2_grid", False, {
        "DINOv2 ViT-S/14": (81.1,), "DINOv2 ViT-B/14": (84.5,), "DINOv2 ViT-L/14": (86.3,), "DINOv2 ViT-g/14": (86.5,),
        "DINOv2 ViT-S/14, registers": (80.9,), "DINOv2 ViT-B/14, registers": (84.6,),
        "DINOv2 ViT-L/14, registers": (86.7,), "DINOv2 ViT-g/14, registers": (87.1,)}),
    ("Franca", "linear_dinov2_grid", False, {
        "DINOv2 ViT-B/14, trained on IN-21k": (81.2,), "DINOv2 ViT-L/14, trained on IN-21k": (84.0,),
        "Franca ViT-B/14": (82.0,), "Franca ViT-L/14": (84.5,), "Franca ViT-B/14, RASA": (82.6,),
        "Franca ViT-L/14, RASA": (85.2,)}),
    ("Franca", "knn_dino", False, {
        "DINOv2 ViT-B/14, trained on IN-21k": (77.0,), "DINOv2 ViT-L/14, trained on IN-21k": (82.1,),
        "Franca ViT-B/14": (77.5,), "Franca ViT-L/14": (82.2,), "Franca ViT-B/14, RASA": (79.6,),
        "Franca ViT-L/14, RASA": (82.5,)}),
    ("ConvMAE", "ade20k_upernet_vit_b_160k", False, {
        "MoCo v3 ViT-B/16": (47.3,), "BEiT ViT-B/16": (47.1,), "MAE ViT-B/16": (48.1,), "DeiT ViT-B/16": (45.6,),
        "DINO ViT-B/16": (47.2,), "CAE ViT-B/16": (48.8,), "PeCo ViT-B/16": (46.7,)}),
    ("mmsegmentation", "ade20k_upernet_r50_160k", False, {"supervised": (42.05,)}),
    ("mmsegmentation", "ade20k_upernet_swin_t_160k", False, {"supervised Swin-T, MMSegmentation's run": (44.41,)}),
    ("microsoft/Swin", "ade20k_upernet_swin_t_160k", False, {"supervised Swin-T": (44.51,)}),
    ("microsoft/Swin", "coco_maskrcnn_swin_t_3x", False, {"supervised Swin-T": (46.0, 41.6)}),
    ("Transformer-SSL", "ade20k_upernet_swin_t_160k", False, {"MoBY Swin-T, 300 epochs": (44.06,)}),
    ("Transformer-SSL", "coco_maskrcnn_swin_t_3x", False, {"MoBY Swin-T, 300 epochs": (46.0, 41.7)}),
    ("facebookresearch/ConvNeXt", "ade20k_upernet_convnext_t_160k", False, {"supervised ConvNeXt-T": (46.0,)}),
    ("facebookresearch/ConvNeXt", "coco_maskrcnn_convnext_t_3x", False, {"supervised ConvNeXt-T": (46.2, 41.7)}),
    ("2203.16527", "coco_maskrcnn_vit_b_vitdet", False, {
        "MAE ViT-B/16": (51.6, 45.9), "MAE ViT-L/16": (55.5, 49.2), "MAE ViT-H/14, 75 epochs": (56.7, 50.2)}),
    ("MIMDet", "coco_maskrcnn_vit_b_vitdet", False, {
        "MAE ViT-B/16, 25 epochs, unofficial": (48.0, 43.0), "MAE ViT-B/16, 50 epochs, unofficial": (50.2, 44.9),
        "MAE ViT-B/16, 100 epochs, unofficial": (50.4, 44.9)}),
    ("ConvMAE", "coco_maskrcnn_vit_b_vitdet", False, {"ViTDet-B, as quoted": (51.2, 45.5)}),
    ("facebookresearch/detectron2", "coco_maskrcnn_r50_fpn_1x_mulan", False, {
        "supervised, Detectron2's baseline": (38.6, 35.2)}),
    ("facebookresearch/detectron2", "coco_maskrcnn_r50_c4_1x", False, {
        "supervised, Detectron2's baseline": (36.8, 32.2)}),
    ("2206.07990", "ade20k_upernet_vit_s_160k", False, {"DINO ViT-S/16": (42.3,), "SelfPatch ViT-S/16": (43.2,)}),
]  # fmt: skip


@pytest.mark.parametrize(("file", "protocol", "comparable", "rows"), SHEET, ids=[f"{s[0]}-{s[1]}" for s in SHEET])
def test_a_sources_numbers(file: str, protocol: str, comparable: bool, rows: dict[str, tuple[float, ...]]) -> None:
    numbers = of(file, protocol)
    assert {row: values(numbers, row) for row in dict.fromkeys(n.row for n in numbers)} == rows
    assert {n.comparable for n in numbers} == {comparable}
    assert not any(n.unconfirmed for n in numbers)


def test_the_metrics_stand_in_the_papers_order() -> None:
    for number in NUMBERS:
        wanted = VOC if number.protocol.startswith("voc_frcnn") else COCO if "coco_" in number.protocol else None
        assert wanted is None or number.metric in wanted
    assert [n.metric for n in of("PixPro", "coco_maskrcnn_r50_c4_1x")][:2] == list(COCO)
    assert [n.metric for n in of("PixPro", "voc_frcnn_r50_c4_24k")][:3] == list(VOC)
    assert [n.metric for n in of("2011.09157", "voc_frcnn_r50_c4_24k")] == ["box_ap"]


def test_numbers_without_a_second_source_are_unconfirmed() -> None:
    doubtful = {(n.url[-10:], n.protocol, n.row) for n in NUMBERS if n.unconfirmed}
    mulan = [n for n in NUMBERS if "2602.05845" in n.url]
    confirmed = {
        ("linear_mulan_r50", "BYOL, multi-task, 200 epochs", 75.6),
        ("linear_mulan_r50", "SimSiam, multi-task, 200 epochs", 74.7),
        ("linear_mulan_r50", "MoCo v3, multi-task, 200 epochs", 75.7),
        ("linear_mulan_r50", "BYOL, multi-task, 800 epochs", 76.7),
        ("linear_mulan_vit_s", "BYOL ViT-S/16, multi-task, 200 epochs", 74.5),
        ("linear_mulan_vit_b", "BYOL ViT-B/16, multi-task, 200 epochs", 78.3),
        ("finetune_mulan_r50_1pct", "BYOL", 53.2),
        ("coco_maskrcnn_r50_fpn_1x_mulan", "MoCo v2", 39.8),
        ("coco_maskrcnn_r50_fpn_1x_mulan", "MoCo v2", 36.1),
    }
    assert {(n.protocol, n.row, n.value) for n in mulan if not n.unconfirmed} == confirmed
    others = {
        ("2111.07832", "ade20k_linear_vit_b", "supervised ViT-B/16"),
        ("2111.07832", "ade20k_linear_vit_b", "DINO ViT-B/16"),
    } | {
        ("2011.10566", protocol, row)
        for protocol in ("voc_frcnn_r50_c4_24k", "coco_maskrcnn_r50_c4_1x")
        for row in ("SimCLR", "MoCo v2", "BYOL", "SwAV", "SimSiam, optimal")
    }
    assert {one for one in doubtful if one[0] != "2602.05845"} == others


def test_a_row_that_may_be_compared_has_one_number() -> None:
    found: dict[tuple[str, str, str, str], set[float]] = {}
    for n in NUMBERS:
        if n.comparable:
            found.setdefault((n.protocol, n.metric, n.backbone, n.row), set()).add(n.value)
    assert {key: numbers for key, numbers in found.items() if len(numbers) > 1} == {}

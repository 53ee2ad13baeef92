"""Published numbers of the dense protocols, transcribed a second time by row as the papers' tables have them."""

from __future__ import annotations

import pytest

from evaluate.tables.published import read_published

DENSE = ("segment_linear_", "dense_knn_", "overcluster_", "depth_", "keypoints_", "corloc_", "ood_", "davis2017_")
FOUND = {(n.protocol, n.metric, n.row): n.value for n in read_published() if n.protocol.startswith(DENSE)}
SEGMENT = [f"segment_linear_{data}_dinov2{end}" for data in ("ade20k", "cityscapes", "voc12aug") for end in ("", "_ms")]
DEPTH = ["depth_nyu_dinov2_lin1", "depth_nyu_dinov2_lin4", "depth_kitti_dinov2_lin1", "depth_kitti_dinov2_lin4",
         "depth_nyu_to_sunrgbd_dinov2_lin1"]  # fmt: skip

# row: DINOv2's table 10 (ADE20K lin., +ms; Cityscapes; VOC), then table 11 (NYU lin. 1, 4; KITTI; NYU to SUN RGB-D)
DINOV2 = {
    "OpenCLIP ViT-G/14": ((39.3, 46.0, 60.3, 70.3, 71.4, 79.2), (0.541, 0.510, 3.57, 3.21, 0.537)),
    "MAE ViT-H/14": ((33.3, 30.7, 58.4, 61.0, 67.6, 63.3), (0.517, 0.483, 3.66, 3.26, 0.545)),
    "DINO ViT-B/8": ((31.8, 35.2, 56.9, 66.2, 66.4, 75.6), (0.555, 0.539, 3.81, 3.56, 0.553)),
    "iBOT ViT-L/16": ((44.6, 47.5, 64.8, 74.5, 82.3, 84.3), (0.417, 0.387, 3.31, 3.07, 0.447)),
    "DINOv2 ViT-S/14": ((44.3, 47.2, 66.6, 77.1, 81.1, 82.6), (0.449, 0.417, 3.10, 2.86, 0.477)),
    "DINOv2 ViT-B/14": ((47.3, 51.3, 69.4, 80.0, 82.5, 84.9), (0.399, 0.362, 2.90, 2.59, 0.448)),
    "DINOv2 ViT-L/14": ((47.7, 53.1, 70.3, 80.9, 82.1, 86.0), (0.384, 0.333, 2.78, 2.50, 0.429)),
    "DINOv2 ViT-g/14": ((49.0, 53.0, 71.3, 81.0, 83.0, 86.2), (0.344, 0.298, 2.62, 2.35, 0.402)),
}


@pytest.mark.parametrize("row", DINOV2)
def test_dinov2s_tables_of_segmentation_and_depth(row: str) -> None:
    segmentation, depth = DINOV2[row]
    assert tuple(FOUND[protocol, "mIoU", row] for protocol in SEGMENT) == segmentation
    assert tuple(FOUND[protocol, "rmse", row] for protocol in DEPTH) == depth


# A, R, Sketch; mCE; V2
OOD = {
    "MAE ViT-H/14": (10.2, 34.4, 21.9, 61.4, None),
    "DINO ViT-B/8": (23.9, 37.0, 25.5, 56.6, None),
    "DINOv2 ViT-S/14": (33.5, 53.7, 41.2, 54.4, 70.8),
    "DINOv2 ViT-B/14": (55.1, 63.3, 50.6, 42.7, 74.9),
    "DINOv2 ViT-L/14": (71.3, 74.4, 59.3, 31.5, 77.6),
    "DINOv2 ViT-g/14": (75.9, 78.8, 62.5, 28.2, 78.4),
}


@pytest.mark.parametrize("row", OOD)
def test_dinov2s_table_of_shifted_images(row: str) -> None:
    keys = ("imagenet_a", "imagenet_r", "imagenet_sketch", "mce", "imagenet_v2")
    protocols = {"mce": "ood_imagenet_c_224px"}
    found = tuple(FOUND.get((protocols.get(key, "ood_imagenet_224px"), key, row)) for key in keys)
    assert found == OOD[row]


OTHERS = {
    ("segment_linear_ade20k_dinov3", "mIoU", "DINOv3 ViT-7B/16"): 55.9,
    ("segment_linear_cityscapes_dinov3", "mIoU", "DINOv2 ViT-g/14"): 75.6,
    ("segment_linear_voc12aug_dinov3", "mIoU", "Franca ViT-g/14"): 82.9,
    ("segment_linear_ade20k_dinov3", "mIoU", "DINOv3 ViT-B/16"): 51.8,
    ("depth_nyu_dinov3", "rmse", "DINOv3 ViT-S/16"): 0.403,
    ("depth_nyu_dinov3", "rmse", "DINOv2 ViT-g/14"): 0.372,
    ("dense_knn_voc12aug_10240k", "mIoU", "DINOv2 ViT-S/14"): 77.0,
    ("dense_knn_voc12aug_102k", "mIoU", "DINO ViT-S/16"): 37.2,
    ("overcluster_voc12aug_k500", "mIoU", "DINOv2 ViT-S/14, registers, NeCo"): 68.9,
    ("overcluster_voc12aug_k300", "mIoU", "Franca ViT-L/14"): 58.9,
    ("keypoints_spair71k_800px", "recall", "DINOv2 ViT-B/14"): 55.98,
    ("keypoints_spair71k_1024px", "recall", "DINOv3 ViT-L/16"): 61.3,
    ("keypoints_navi_512px", "recall", "DINOv3 ViT-L/16"): 62.3,
    ("keypoints_navi_512px", "recall", "Franca ViT-g/14"): 54.6,
    ("corloc_voc12", "tokencut", "DINO ViT-B/16"): 64.4,
    ("corloc_voc07", "tokencut", "DINOv3 ViT-7B/16"): 66.1,
    ("davis2017_dino_480p", "J_and_F", "DINO ViT-S/16"): 61.8,
    ("davis2017_dino_480p", "F_mean", "DINO ViT-B/8"): 74.9,
    ("ood_imagenet_c_224px_raw", "mce", "supervised"): 76.7,
    ("ood_imagenet_224px", "imagenet_r", "Franca ViT-B/14"): 54.6,
}


def test_numbers_of_the_other_sources() -> None:
    assert {key: FOUND[key] for key in OTHERS} == OTHERS


def test_none_is_compared_where_the_recipe_is_not_confirmed_in_full() -> None:
    assert not any(n.comparable for n in read_published() if n.protocol.startswith(DENSE))

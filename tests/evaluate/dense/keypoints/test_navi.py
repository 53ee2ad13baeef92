"""NAVI: geometry against SciPy, matches against scikit-learn, and the whole command on its layout."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from scipy.spatial.transform import Rotation
from sklearn.neighbors import NearestNeighbors

from core.errors import UserError
from evaluate.dense.keypoints.navi import NaviImages, angle_of, read_depth, rotation_of
from evaluate.dense.keypoints.probe import PROBE
from evaluate.dense.keypoints.protocol import NaviConfig
from evaluate.dense.keypoints.surface import SurfaceRow, distinctive, summary
from tests.evaluate.dense.small import measure

STORED = 1310  # depth of the plane in NAVI's 16 bits, …
FAR = 655.35 / STORED  # … and in metres
FOCAL = 100.0
SMALL = ["features.size=32", "features.norm=true", "navi.cells=4", "navi.matches=16", "navi.every=1"]


def write_navi(root: Path, views: int = 2) -> Path:
    """A plane of 4 × 4 coloured cells of 8 pixels, seen from the front: at another place in each view and turned by 90°
    each time. The second file is stored on its side with an orientation tag. No picture is square."""
    cells = np.random.default_rng(0).integers(0, 256, (4, 4, 3))
    folder = root / "cup/wild_set"
    for kind in ("images", "depth"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    annotations = []
    for number in range(views):
        top, left = 8 + 6 * number, 20 - 4 * number
        picture, depth = np.full((64, 80, 3), 128, np.uint8), np.zeros((64, 80), np.uint16)
        turned = np.kron(np.rot90(cells, -number), np.ones((8, 8, 1)))
        picture[top : top + 32, left : left + 32], depth[top : top + 32, left : left + 32] = turned, STORED
        image, exif = PIL.Image.fromarray(picture), PIL.Image.Exif()
        if number == 1:
            image, exif[0x0112] = image.transpose(PIL.Image.Transpose.ROTATE_90), 6
        image.save(folder / f"images/{number:03d}.jpg", quality=100, subsampling=0, exif=exif)
        PIL.Image.fromarray(depth).save(folder / f"depth/{number:03d}.png")
        x, y, z, w = Rotation.from_euler("z", 90 * number, degrees=True).as_quat()
        centre = (np.array([left + 16 - 40, top + 16 - 32]) * FAR / FOCAL).tolist()
        annotations.append({
            "object_id": "cup", "filename": f"{number:03d}.jpg", "image_size": [64, 80], "split": "train",
            "camera": {"q": [w, x, y, z], "t": [1000 * each for each in (*centre, FAR)], "focal_length": FOCAL},
        })  # fmt: skip
    (folder / "annotations.json").write_text(json.dumps(annotations))
    return root


def test_rotations_are_scipys() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        x, y, z, w = rng.standard_normal(4)
        rotation = Rotation.from_quat([x, y, z, w])
        assert rotation_of(np.array([w, x, y, z])) == pytest.approx(rotation.as_matrix())
        assert angle_of(rotation.as_matrix()) == pytest.approx(math.degrees(rotation.magnitude()))


def test_points_lie_where_the_camera_sees_them_and_a_pair_joins_both_cameras(tmp_path: Path) -> None:
    images = NaviImages(write_navi(tmp_path), NaviConfig(every=1))
    assert [pair.angle for pair in images.pairs] == pytest.approx([90, 90])
    assert (images.pairs[0].source, images.pairs[0].target, len(images)) == (0, 1, 2)
    assert images.square(0) == (20, 8, 32)
    points, seen = images.points(0, 4)
    assert seen.all()
    side = 8 * FAR / FOCAL
    first = np.array([(20 + 4.5 - 40) * FAR / FOCAL, (8 + 4.5 - 32) * FAR / FOCAL, FAR])  # centre of the pixel at 4
    assert points.reshape(4, 4, 3)[0, 0] == pytest.approx(first)
    assert points.reshape(4, 4, 3)[2, 3] == pytest.approx(first + np.array([3 * side, 2 * side, 0]))
    pair = images.pairs[0]
    moved = points @ pair.rotation.T + pair.translation
    others = images.points(1, 4)[0].reshape(4, 4, 3)
    turned = np.rot90(moved.reshape(4, 4, 3), -1)
    assert np.linalg.norm(turned - others, axis=-1).max() <= math.hypot(1, 1) * FAR / FOCAL, "a pixel's corner"
    assert np.asarray(images.image(1)).shape == (32, 32, 3), "turned as its tag says"


def test_depth_is_stored_as_disparity(tmp_path: Path) -> None:
    PIL.Image.fromarray(np.array([[0, 1310, 65535]], np.uint16)).save(tmp_path / "d.png")
    assert read_depth(tmp_path / "d.png")[0] == pytest.approx([0, 0.50027, 0.0100001], rel=1e-4)


def test_the_most_distinctive_matches_are_scikit_learns() -> None:
    torch.manual_seed(0)
    source, target = torch.randn(50, 8).double(), torch.randn(40, 8).double()
    distances, nearest = NearestNeighbors(n_neighbors=2, metric="cosine").fit(target).kneighbors(source)
    quotients = distances[:, 0] / distances[:, 1]
    chosen, found = distinctive(source, target, 10)
    assert chosen.tolist() == np.argsort(quotients)[:10].tolist()
    assert found.tolist() == nearest[chosen, 0].tolist()
    assert len(distinctive(source, target, 1000)[0]) == 50
    assert distinctive(source, target[:1], 3)[1].tolist() == [0, 0, 0]


def test_recall_is_a_mean_over_pairs_and_thresholds() -> None:
    rows = [
        SurfaceRow("cup", 20.0, (0.0, 0.5, 1.0), (0.0, 0.1, 0.2), (0.0, 0.0, 0.3)),
        SurfaceRow("cup", 90.0, (1.0, 1.0, 1.0), (0.1, 0.2, 0.3), (0.0, 0.0, 0.0)),
        SurfaceRow("owl", 180.0, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
    ]
    found = summary(rows, (0.01, 0.02, 0.05))
    assert found["recall"] == pytest.approx(50.0)
    assert found["recall_per_category"] == pytest.approx({"cup": 75.0, "owl": 0.0})
    assert [found[f"recall_{limit}cm"] for limit in (1, 2, 5)] == pytest.approx([100 / 3, 50.0, 200 / 3])
    assert found["by_viewpoint"] == pytest.approx({
        "0 to 30 degrees": 50.0, "90 to 120 degrees": 100.0, "120 to 180 degrees": 0.0,
    })  # fmt: skip
    assert found["chance"] == pytest.approx(10.0)
    assert found["same_place"] == pytest.approx(10 / 3)


def test_a_plane_seen_twice_is_matched_on_its_surface(tmp_path: Path) -> None:
    root = write_navi(tmp_path / "navi_v1")
    found = measure(PROBE, tmp_path / "out", "--data", f"navi:{root}", "--draw", "1", *SMALL, ckpt="pixels")
    assert (found["recall"], found["recall_1cm"], found["pairs"]) == (100.0, 100.0, 2)
    # cells are 4 cm apart: within 1 and 2 cm lies one of 16; within 5 cm, 1 and its 2 to 4 neighbours
    assert found["chance"] == pytest.approx(100 * (1 + 1 + (1 + 48 / 16)) / 3 / 16)
    assert found["same_place"] < 50
    assert len(list((tmp_path / "out/pictures").glob("*.png"))) == 1
    wrong = json.loads((root / "cup/wild_set/annotations.json").read_text())
    wrong[1]["camera"]["q"][3] *= -1  # the other way round
    (root / "cup/wild_set/annotations.json").write_text(json.dumps(wrong))
    assert measure(PROBE, tmp_path / "wrong", "--data", f"navi:{root}", *SMALL, ckpt="pixels")["recall"] < 50


Change = Callable[[Any], object]
ANNOTATIONS: dict[str, Change] = {
    "outside": lambda views: views[0].update(filename="../x.jpg"),
    "twice": lambda views: views[0].update(filename="001.jpg"),
    "no picture": lambda views: views[0].update(filename="999.jpg"),
    "no camera": lambda views: views[0].pop("camera"),
    "no rotation": lambda views: views[0]["camera"].update(q=[0, 0, 0, 0]),
    "words": lambda views: views[0]["camera"].update(t=["a", "b", "c"]),
    "not finite": lambda views: views[0]["camera"].update(focal_length=float("nan")),
    "three sides": lambda views: views[0].update(image_size=[64, 80, 3]),
    "turned": lambda views: views[0].update(image_size=[80, 64]),
    "metres": lambda views: views[0]["camera"].update(t=[0.0, 0.0, 0.5]),
    "alone": lambda views: views.pop(),
}
FILES: dict[str, Change] = {
    "no collection": lambda folder: (folder / "annotations.json").unlink(),
    "not JSON": lambda folder: (folder / "annotations.json").write_text("[{"),
    "not a list": lambda folder: (folder / "annotations.json").write_text("{}"),
    "no depth": lambda folder: (folder / "depth/001.png").unlink(),
    "8-bit depth": lambda folder: PIL.Image.new("L", (80, 64), 9).save(folder / "depth/001.png"),
    "empty depth": lambda folder: PIL.Image.fromarray(np.zeros((64, 80), np.uint16)).save(folder / "depth/001.png"),
    "depth of another picture": lambda folder: PIL.Image.fromarray(np.ones((64, 64), np.uint16)).save(
        folder / "depth/001.png"
    ),
}


@pytest.mark.parametrize("fault", [*ANNOTATIONS, *FILES])
def test_broken_data_ends_in_one_sentence(fault: str, tmp_path: Path) -> None:
    root = write_navi(tmp_path / "navi_v1")
    folder = root / "cup/wild_set"
    if fault in FILES:
        FILES[fault](folder)
    else:
        views = json.loads((folder / "annotations.json").read_text())
        ANNOTATIONS[fault](views)
        (folder / "annotations.json").write_text(json.dumps(views))
    with pytest.raises(UserError) as raised:
        measure(PROBE, tmp_path / "out", "--data", f"navi:{root}", *SMALL, ckpt="pixels")
    assert "\n" not in str(raised.value)
    assert any(word in str(raised.value) for word in ("annotations.json", "999.jpg", "000.", "001.", "navi_v1"))

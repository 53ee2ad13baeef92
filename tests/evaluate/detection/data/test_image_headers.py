"""Headers and pixels of detection images: the frame of the annotations, one rule for pixels, a cache."""

# Detectron2 is looked for before what imports it.
# ruff: noqa: E402

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest

from converters.engines import detectron2_compat

detectron2_compat.install_hook()
pytest.importorskip("detectron2.modeling", reason="needs Detectron2", exc_type=ImportError)

from detectron2.data.detection_utils import read_image

from core.data import header_cache
from core.data.decode import decode_rgb
from core.errors import BrokenImage
from evaluate.detection.data import image_headers
from evaluate.detection.data.datasets import check_images
from evaluate.detection.data.image_headers import Header, read_header, read_headers, read_pixels
from evaluate.detection.data.loaders import _Mapper
from evaluate.detection.data.records import DetectionSet

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def save(path: Path, image: PIL.Image.Image, orientation: int = 1) -> Path:
    exif = PIL.Image.Exif()
    exif[274] = orientation
    image.save(path, exif=exif)
    return path


def checked(path: Path, width: int, height: int) -> DetectionSet:
    record: dict[str, Any] = {
        "file_name": str(path), "image_id": 1, "width": width, "height": height, "annotations": [],
    }  # fmt: skip
    return check_images(DetectionSet("x", [record], ("a",), (1,), "", (), None), 0.9)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_as_in_detectron2(tmp_path: Path, orientation: int, ending: str) -> None:
    path = save(tmp_path / f"x.{ending}", PIL.Image.fromarray(PIXELS), orientation)
    with PIL.Image.open(path) as image:
        upright = PIL.ImageOps.exif_transpose(image).convert("RGB")
    assert read_header(path) == Header(30, 20, orientation)
    assert read_header(path).upright_size == upright.size
    split = checked(path, *upright.size)
    (record,) = split.records
    pixels = np.asarray(read_pixels(record))
    assert np.array_equal(pixels, np.asarray(upright))
    assert np.array_equal(pixels, read_image(str(path), "RGB"))
    assert sum(split.account.converted.values()) == (orientation != 1)


def test_boxes_in_the_stored_frame_keep_the_stored_pixels(tmp_path: Path) -> None:
    path = save(tmp_path / "x.png", PIL.Image.fromarray(PIXELS), 6)
    split = checked(path, 30, 20)
    assert np.array_equal(np.asarray(read_pixels(split.records[0])), PIXELS)
    assert split.account.converted == {image_headers.UNORIENTED: 1}


@pytest.mark.parametrize("mode", ["I;16", "P", "LA", "RGBA", "L", "1"])
def test_the_engine_sees_the_pixels_of_decode_rgb(tmp_path: Path, mode: str) -> None:
    """16-bit greyscale among them, which Detectron2's own reader turns white."""
    image = PIL.Image.fromarray(PIXELS)
    if mode == "I;16":
        image = PIL.Image.fromarray(PIXELS[..., 0].astype(np.uint16) << 8)
    path = tmp_path / "x.png"
    (image if mode == "I;16" else image.convert(mode)).save(path)
    split = checked(path, 30, 20)
    mapper = _Mapper(False, augmentations=[], image_format="RGB")
    seen = mapper(split.records[0])["image"].numpy().transpose(1, 2, 0)
    assert np.array_equal(seen, np.asarray(decode_rgb(path, "x")))
    if mode == "I;16":
        assert np.array_equal(seen, np.repeat(PIXELS[..., :1], 3, axis=2))
        assert list(split.account.converted.values()) == [1]


def test_a_header_needs_no_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / f"x.{ending}" for ending in ("png", "jpg", "bmp", "tif", "webp")]
    for path in paths:
        PIL.Image.fromarray(PIXELS).save(path)
    content = paths[0].read_bytes()
    paths[0].write_bytes(content[: content.index(b"IDAT") + 20])
    for path in paths:
        assert read_header(path) == Header(30, 20)


def test_headers_are_cached_until_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_TRANSFER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(header_cache, "CACHED_FROM", 2)
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        PIL.Image.fromarray(PIXELS).save(folder / name)
    (folder / "c.png").write_bytes(b"x")
    names = ["a.png", "b.png", "c.png", "none.png"]
    first = read_headers(folder, names)
    assert (first["a.png"], type(first["c.png"]), type(first["none.png"])) == (Header(30, 20), BrokenImage, BrokenImage)
    looked: list[str] = []
    original = image_headers.read_header
    monkeypatch.setattr(image_headers, "read_header", lambda path: looked.append(path.name) or original(path))
    read_headers(folder, names)
    assert looked == ["c.png"]
    PIL.Image.fromarray(PIXELS[:10]).save(folder / "a.png")
    os.utime(folder / "a.png", ns=(1, 1))
    assert read_headers(folder, names)["a.png"] == Header(30, 10)
    (cache,) = (tmp_path / "cache" / "image-headers").iterdir()
    cache.write_text('{"a.png": [1, 2, 3]}')  # damaged
    assert read_headers(folder, names)["a.png"] == Header(30, 10)

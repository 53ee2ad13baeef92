"""Images with another ending than format, with several frames or an orientation: as torchvision's loader reads them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import PIL.features
import PIL.Image
import pytest
from torchvision.datasets.folder import default_loader

from core.data.account import account_of
from core.data.decode import EXTENSIONS
from core.data.open import DataConfig
from core.data.readers.folder import Folder
from core.data.readers.splits import split_folder

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
FIRST, SECOND = (PIL.Image.fromarray(pixels) for pixels in (PIXELS, 255 - PIXELS))
FRAMES = "several frames or pages: the first"


def encoded(kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    FIRST.save(stream, kind, **options)
    return stream.getvalue()


def oriented(turn: int) -> PIL.Image.Exif:
    exif = PIL.Image.Exif()
    exif[0x0112] = turn
    return exif


TWO = {"save_all": True, "append_images": [SECOND]}
CASES = {
    "a JPEG called png": ("x.png", encoded("JPEG"), None),
    "a PNG called JPG": ("x.JPG", encoded("PNG"), None),
    "a WebP called jpeg": ("x.jpeg", encoded("WEBP", lossless=True), None),
    "an animated GIF": ("x.gif", encoded("GIF", **TWO), FRAMES),
    "an animated WebP": ("x.WEBP", encoded("WEBP", lossless=True, **TWO), FRAMES),
    "an animated PNG": ("x.apng", encoded("PNG", **TWO), FRAMES),
    "a TIFF of two pages": ("x.Tif", encoded("TIFF", **TWO), FRAMES),
    "a JPEG of two pictures": ("x.jpg", encoded("MPO", **TWO), FRAMES),
    "a turned JPEG": ("x.jpg", encoded("JPEG", exif=oriented(6)), "orientation tag: ignored, as in torchvision"),
    "a turned PNG": ("x.png", encoded("PNG", exif=oriented(3)), "orientation tag: ignored, as in torchvision"),
    "a progressive JPEG": ("x.jpe", encoded("JPEG", progressive=True), None),
}


@pytest.mark.parametrize("case", CASES)
def test_they_are_read_as_by_torchvision(case: str, tmp_path: Path) -> None:
    name, content, reason = CASES[case]
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / name).write_bytes(content)
    found = Folder(tmp_path, "set")
    assert np.array_equal(np.asarray(found.image(0)), np.asarray(default_loader(found.describe(0))))
    assert (reason in account_of(found).converted) == (reason is not None)


@pytest.mark.skipif(not PIL.features.check("avif"), reason="needs Pillow with AVIF")
def test_avif(tmp_path: Path) -> None:
    assert ".avif" in EXTENSIONS
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x.AVIF").write_bytes(encoded("AVIF"))
    found = Folder(tmp_path, "set")
    assert np.array_equal(np.asarray(found.image(0)), np.asarray(default_loader(found.describe(0))))


def test_arrays_and_other_files_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x.png").write_bytes(encoded("PNG"))
    np.save(tmp_path / "a/y.npy", PIXELS)
    (tmp_path / "a/z.HEIC").write_bytes(b"x")
    assert Folder(tmp_path, "set").account().skipped == {"files ending in .npy": 1, "files ending in .heic": 1}


def test_images_beside_the_splits_are_noted(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / split / "a").mkdir(parents=True)
    (tmp_path / "cover.png").write_bytes(encoded("PNG"))
    for split in ("pretrain", "train", "val"):
        _, notes = split_folder(tmp_path, split)  # type: ignore[arg-type]
        assert [note for note in notes if "1 images beside" in note]


@pytest.mark.parametrize(
    ("source", "meant"), [("/data/pets", "folder:/data/pets"), ("./d/s-{000..003}.tar", "webdataset:./d/s-")]
)
def test_a_path_without_its_kind_is_answered_with_the_right_one(source: str, meant: str) -> None:
    with pytest.raises(ValueError, match=rf"did you mean {meant}"):
        DataConfig(source)

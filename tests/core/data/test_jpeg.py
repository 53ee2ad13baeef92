"""core/data/jpeg.py: which files the device may decode, and the stored files of all kinds of sets."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from core.data.base import ImageSet, stored_bytes
from core.data.decode import decode_rgb
from core.data.jpeg import plain_jpeg_size
from core.data.open import DataConfig, open_images
from core.data.subset import match_classes
from tests.small_sets import MAKERS

PICTURE = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (22, 37, 3), dtype=np.uint8))
TURNED = PIL.Image.Exif()
TURNED[0x0112] = 6


def encoded(mode: str = "RGB", kind: str = "JPEG", **options: Any) -> bytes:
    stream = io.BytesIO()
    PICTURE.convert(mode).save(stream, kind, **options)
    return stream.getvalue()


def without_jfif(data: bytes, marker: bytes = b"") -> bytes:
    assert data[2:4] == b"\xff\xe0"
    return data[:2] + marker + data[4 + int.from_bytes(data[4:6]) :]


PLAIN = encoded()
FRAME = PLAIN.index(b"\xff\xc0")
PLAIN_ONES = {
    "4:2:0": PLAIN,
    "4:2:2": encoded(subsampling="4:2:2"),
    "4:4:4": encoded(subsampling="4:4:4"),
    "4:4:4 of quality 100": encoded(subsampling=0, quality=100),
    "optimised": encoded(optimize=True),
    "with a comment, a profile and EXIF": encoded(comment=b"x" * 400, icc_profile=b"\xff\xd9" * 99, exif=TURNED),
    "restarting": encoded(restart_marker_blocks=1),
    "without JFIF": without_jfif(PLAIN),
    "Adobe's, of YCbCr": without_jfif(PLAIN, b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\x01"),
    "with fill bytes": PLAIN[:2] + b"\xff\xff\xff" + PLAIN[2:],
    "with bytes behind its end": PLAIN + b"more",
}
OTHERS = {
    "progressive": encoded(progressive=True),
    "greyscale": encoded("L"),
    "CMYK": encoded("CMYK"),
    "of RGB": encoded(keep_rgb=True),
    "Adobe's, of RGB": without_jfif(PLAIN, b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\0"),
    "PNG": encoded(kind="PNG"),
    "of 12 bits": PLAIN[: FRAME + 4] + b"\x0c" + PLAIN[FRAME + 5 :],
    "of no height": PLAIN[: FRAME + 5] + b"\0\0" + PLAIN[FRAME + 7 :],
    "of unusual subsampling": PLAIN[: FRAME + 14] + b"\x21" + PLAIN[FRAME + 15 :],
    "of two frames": PLAIN[:2] + PLAIN[FRAME : FRAME + 19] + PLAIN[2:],
    "arithmetic": PLAIN[: FRAME + 1] + b"\xc9" + PLAIN[FRAME + 2 :],
    "without pixels": PLAIN[: PLAIN.index(b"\xff\xda")],
    "nothing": b"",
}  # fmt: skip


@pytest.mark.parametrize("name", PLAIN_ONES)
def test_plain_ones_have_the_size_that_pillow_finds(name: str) -> None:
    assert plain_jpeg_size(PLAIN_ONES[name]) == PIL.Image.open(io.BytesIO(PLAIN_ONES[name])).size == (37, 22)


@pytest.mark.parametrize("name", OTHERS)
def test_others_are_left_to_pillow(name: str) -> None:
    assert plain_jpeg_size(OTHERS[name]) is None


def test_truncated_and_damaged_headers_are_left_to_pillow() -> None:
    assert not any(plain_jpeg_size(PLAIN[:length]) for length in range(len(PLAIN)))
    rng = np.random.default_rng(1)
    for _ in range(500):
        data = bytearray(PLAIN)
        data[rng.integers(PLAIN.index(b"\xff\xda") + 10)] = rng.integers(256)
        found = plain_jpeg_size(bytes(data))
        assert found is None or min(found) > 0


def same_images(images: ImageSet, plain: bool = True) -> None:
    """Files that decode to the set's own images, and are plain JPEGs or not."""
    for index in range(len(images)):
        data = stored_bytes(images, index)
        assert data is not None
        assert plain_jpeg_size(data) == (images.image(index).size if plain else None)
        assert np.array_equal(np.asarray(decode_rgb(data, "")), np.asarray(images.image(index)))


def test_files_of_a_folder_a_sample_and_renamed_classes(image_folder: Path) -> None:
    source = f"folder:{image_folder}"
    same_images(open_images(DataConfig(source), "pretrain", 0))
    few = open_images(DataConfig(source, limit=5), "train", 3)
    same_images(few)
    val = open_images(DataConfig(source), "val", 0)
    val.classes = ("dog", "cat")
    same_images(match_classes(few, val))


def test_files_of_shards(image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_TRANSFER_CACHE", str(tmp_path / "cache"))
    with tarfile.open(tmp_path / "a-train-00.tar", "w") as tar:
        for number, file in enumerate(sorted(image_folder.glob("train/*/*.jpg"))):
            tar.add(file, f"{number}.jpg")
    same_images(open_images(DataConfig(f"webdataset:{tmp_path}/a-train-00.tar"), "pretrain", 0))


def test_files_of_a_table(image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    files = sorted(image_folder.glob("train/*/*.jpg"))
    rows = datasets.Dataset.from_dict({"image": [{"bytes": file.read_bytes(), "path": None} for file in files]})
    rows.to_parquet(str(tmp_path / "a.parquet"))
    same_images(open_images(DataConfig(f"parquet:{tmp_path}/a.parquet"), "pretrain", 0))


def test_files_of_a_set_of_torchvision_and_images_without_a_file(tmp_path: Path) -> None:
    MAKERS["pets"][0](tmp_path)
    same_images(open_images(DataConfig(f"pets:{tmp_path}"), "train", 0), plain=False)
    (tmp_path / "set").mkdir()
    (tmp_path / "set/a.jpg").write_bytes(PLAIN)
    (tmp_path / "set/b.jpg").symlink_to("missing.jpg")
    source = f"folder:{tmp_path}/set"
    assert stored_bytes(open_images(DataConfig(source, channels=1), "pretrain", 0), 0) is None
    gone = open_images(DataConfig(source), "pretrain", 0)
    assert [stored_bytes(gone, index) for index in range(len(gone))] == [PLAIN, None]

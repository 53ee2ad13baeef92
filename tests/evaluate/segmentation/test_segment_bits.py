"""Labels of 1, 2 and 4 bits and with white as 0: their numbers, not the grey values that Pillow makes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from core.data import header_cache
from evaluate.segmentation.data import labels
from evaluate.segmentation.data.checks import check_split
from evaluate.segmentation.data.labels import read_label
from evaluate.segmentation.data.layouts import list_split
from evaluate.segmentation.protocol import SegmentDataConfig
from tests.data_rules.few_bits import write_png, write_tiff

CONFIG = SegmentDataConfig("ade20k", classes=16, first_label=0)
NUMBERS = np.arange(48, dtype=np.uint8).reshape(6, 8)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("colour", [0, 3])
def test_png(tmp_path: Path, bits: int, colour: int) -> None:
    numbers = NUMBERS % min(2**bits, 16)
    write_png(tmp_path / "x.png", numbers, bits, colour)
    assert np.array_equal(read_label(tmp_path / "x.png", CONFIG), numbers)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("white_is_zero", [False, True])
def test_tiff(tmp_path: Path, bits: int, white_is_zero: bool) -> None:
    numbers = NUMBERS % min(2**bits, 16)
    write_tiff(tmp_path / "x.tif", numbers, bits, white_is_zero)
    assert np.array_equal(read_label(tmp_path / "x.tif", CONFIG), numbers)


def make_split(root: Path, bits: int = 4, names: tuple[str, str] = ("images", "annotations")) -> Path:
    for folder in names:
        for split in ("training", "validation"):
            (root / folder / split).mkdir(parents=True)
    for split in ("training", "validation"):
        for number in range(3):
            PIL.Image.new("RGB", (8, 6)).save(root / names[0] / split / f"{number}.png")
            write_png(root / names[1] / split / f"{number}.png", NUMBERS % 2**bits, bits)
    return root


def test_they_are_reported(tmp_path: Path) -> None:
    pairs = list_split(make_split(tmp_path), "ade20k", "train").pairs
    checked = check_split(pairs, CONFIG, "training", whole=True)
    assert checked.account.converted == {"label of 4 bits: its numbers": 3}
    assert checked.counts.tolist() == [9] * 16


def test_folders_of_mmsegmentations_tutorials(tmp_path: Path) -> None:
    root = make_split(tmp_path, names=("img_dir", "ann_dir"))
    assert len(list_split(root, "ade20k", "val").pairs) == 3


def test_headers_of_large_splits_are_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_TRANSFER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(header_cache, "CACHED_FROM", 2)
    pairs = list_split(make_split(tmp_path / "set", 2), "ade20k", "train").pairs
    first = check_split(pairs, CONFIG, "training", whole=False)
    (cached,) = (tmp_path / "cache/image-headers").iterdir()
    with monkeypatch.context() as patched:
        patched.setattr(
            "evaluate.segmentation.data.headers.read_header", lambda file: pytest.fail(f"{file} read again")
        )
        again = check_split(pairs, CONFIG, "training", whole=False)
    assert again.account == first.account
    assert again.sizes == first.sizes
    write_png(pairs[0][1], NUMBERS % 16, 4)  # a rewritten label is read again
    changed = check_split(pairs, CONFIG, "training", whole=False)
    assert changed.account.converted == {"label of 2 bits: its numbers": 2, "label of 4 bits: its numbers": 1}
    cached.write_text("[1")
    assert check_split(pairs, CONFIG, "training", whole=False).account == changed.account
    assert labels.read_header(pairs[0][1]).raw == "L;4"

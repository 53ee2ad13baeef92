"""Shared by tests of decoding: files of many formats."""

from __future__ import annotations

from pathlib import Path

import PIL.Image
import pytest
from sklearn.datasets import load_sample_images

from tests.pretrain.views.mixed_files import damaged, encoded


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photographs in many forms: 5 JPEGs for the device, one of them damaged; 5 other files, one truncated."""
    folder = tmp_path_factory.mktemp("mixed")
    first, second = (PIL.Image.fromarray(pixels) for pixels in load_sample_images().images)
    small = second.resize((150, 211))
    files = {
        "0.jpg": encoded(first, quality=90),
        "1.jpg": encoded(second, subsampling="4:4:4"),
        "2.jpg": damaged(encoded(first)),
        "3.jpg": encoded(small, subsampling="4:2:2"),
        "4.jpg": encoded(small),
        "5.jpg": encoded(first, progressive=True),
        "6.png": encoded(small, "PNG"),
        "7.jpg": encoded(small.convert("L")),
        "8.jpg": encoded(small.convert("CMYK")),
        "9.jpg": encoded(first)[:20_000],
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder

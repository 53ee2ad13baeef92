"""core/data/open.py: sources are taken literally, whatever characters they hold."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from core.config import Setting, load_config
from core.data.open import DataConfig, open_images, split_sources
from core.errors import UserError

ODD = ["birds #2", "birds: 2020", "a,b", "[1]", "{x}", "ü 鳥", " x ", "~x", "010", "'q'", "%20", "$HOME", "a\nb", "*"]


@pytest.mark.parametrize("name", ODD)
def test_folders_of_any_name(image_folder: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(image_folder, tmp_path / name)
    config = load_config(DataConfig, None, [Setting("source", f"folder:{tmp_path / name}")])
    assert len(open_images(config, "train", 0)) == 12
    assert split_sources(f"scenes,{config.source},cifar10:/data") == ("scenes", config.source, "cifar10:/data")


@pytest.mark.parametrize(
    ("text", "sources"),
    [
        ("", ()),
        ("scenes", ("scenes",)),
        ("cifar10:/d,dtd:/d,scenes", ("cifar10:/d", "dtd:/d", "scenes")),
        ("folder:X/a,b,folder:Y", ("folder:X/a,b", "folder:Y")),
        ("folder:X/a,scenes-2,fashion-mnist", ("folder:X/a,scenes-2", "fashion-mnist")),
        ("folder:a,,scenes,", ("folder:a", "scenes")),
    ],
)
def test_lists_of_sources(text: str, sources: tuple[str, ...]) -> None:
    assert split_sources(text) == sources


def test_a_limit_holds_for_each_split(image_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(image_folder, tmp_path / "d")
    for path in (tmp_path / "d/val").rglob("[3-5].jpg"):
        path.unlink()
    config = DataConfig(f"folder:{tmp_path / 'd'}", limit=8)
    train, val = open_images(config, "train", 0), open_images(config, "val", 0)
    assert (len(train), len(val)) == (8, 6)
    assert train.account().skipped == {"not in the sample": 4}
    assert "8" in val.account().notes[0]
    assert val.account().skipped == {}


def test_a_source_with_a_nul_is_refused() -> None:
    with pytest.raises(UserError, match="source"):
        load_config(DataConfig, None, [Setting("source", "folder:/a\0b")])

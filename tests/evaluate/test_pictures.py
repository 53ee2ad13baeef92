"""evaluate/common/pictures.py: pictures that say what they show."""

from __future__ import annotations

from pathlib import Path

import PIL.Image

from evaluate.common.pictures import Picture, find_pictures, save_picture
from evaluate.detection.probe import DETECTIONS


def test_a_picture_has_kind_and_caption_and_others_their_name(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    save_picture(folder / "b.png", PIL.Image.new("RGB", (3, 2), "red"), DETECTIONS, "there: a <star> “ü”")
    PIL.Image.new("RGB", (1, 1)).save(folder / "a.png")
    (folder / "broken.png").write_bytes((folder / "b.png").read_bytes()[:60])
    (folder / "c.png").write_text("no picture")
    pictures, unreadable = find_pictures(tmp_path)
    assert pictures == [
        Picture(folder / "a.png", "", "a.png"),
        Picture(folder / "b.png", "detections", "there: a <star> “ü”"),
    ]
    assert [one.split(" (")[0] for one in unreadable] == [str(folder / "broken.png"), str(folder / "c.png")]
    with PIL.Image.open(folder / "b.png") as picture:
        assert picture.size == (3, 2)


def test_no_folder_no_pictures(tmp_path: Path) -> None:
    assert find_pictures(tmp_path) == ([], [])

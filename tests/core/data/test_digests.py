"""core/data/digests.py: a rewritten file changes a digest, a moved set doesn't."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from core.data import digests
from core.data.digests import files_digest
from core.data.open import DataConfig, open_images
from core.data.subset import sample


def digest_of(folder: Path) -> str:
    return files_digest((path.name.encode(), path) for path in sorted(folder.iterdir()))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "set"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.bmp").write_bytes(bytes([number] * 50))
    return folder


@pytest.mark.parametrize("by_content", [True, False])
def test_rewritten_renamed_and_absent_files_are_noticed(
    files: Path, monkeypatch: pytest.MonkeyPatch, by_content: bool
) -> None:
    monkeypatch.setattr(digests, "CONTENT_BYTES", 1000 if by_content else 100)
    first = digest_of(files)
    assert first.endswith(":content" if by_content else ":stat")
    assert digest_of(files) == first
    file, stat = files / "1.bmp", (files / "1.bmp").stat()
    file.write_bytes(bytes([9] * 50))  # the same name and size
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + (0 if by_content else 1)))
    second = digest_of(files)
    file.rename(files / "3.bmp")
    third = digest_of(files)
    (files / "1.bmp").symlink_to(files / "nowhere")
    assert len({first, second, third, digest_of(files)}) == 4


@pytest.mark.parametrize(("copy", "same"), [(shutil.copyfile, True), (shutil.copy2, True)])
def test_moved_files_are_the_same(files: Path, tmp_path: Path, copy: object, same: bool) -> None:
    shutil.copytree(files, tmp_path / "moved", copy_function=copy)  # type: ignore[arg-type]
    assert (digest_of(tmp_path / "moved") == digest_of(files)) is same


def test_large_files_that_are_moved_with_their_times_are_the_same(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "CONTENT_BYTES", 100)
    shutil.copytree(files, tmp_path / "moved")  # copy2 keeps times, as cp -a, rsync -a and tar do
    assert digest_of(tmp_path / "moved") == digest_of(files)


def test_parts_say_how_the_whole_was_read(image_folder: Path) -> None:
    images = open_images(DataConfig(f"folder:{image_folder}"), "train", 0)
    part = sample(images, 5, 0)
    for digest in (images.digest(), part.digest()):
        hexadecimal, _, kind = digest.partition(":")
        assert (len(hexadecimal), kind) == (64, "content")
        int(hexadecimal, 16)
    assert part.digest() != images.digest()

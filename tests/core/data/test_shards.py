"""core/data/readers/shards.py: tar shards read like a folder, with nothing extracted."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from core.data.open import DataConfig, open_images
from core.data.readers.file_patterns import find_files
from core.data.readers.shards import EXAMPLE, Shards
from core.data.subset import Subset
from core.errors import BrokenImage, UserError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_TRANSFER_CACHE", str(tmp_path / "cache"))


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (8, 6), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def two_shards(folder: Path) -> str:
    write_tar(folder / "s-train-00.tar", {"a/0001.png": png(1), "a/0001.cls": b"0", "a/0002.seg.txt": b"x"})
    write_tar(
        folder / "s-train-01.tar",
        {"b.json": b'{"label": 2}', "b.png": png(2), "c.png": png(3), "c.cls": b"1\n"},
    )
    return f"{folder}/s-{{split}}-{{00..01}}.tar"


def test_samples_are_addressed_by_position(tmp_path: Path) -> None:
    images = open_images(DataConfig(f"webdataset:{two_shards(tmp_path)}"), "train", seed=0)
    assert len(images) == 3
    assert [images.label(i) for i in range(3)] == [0, 2, 1]
    assert [np.asarray(images.image(i))[0, 0, 0] for i in range(3)] == [1, 2, 3]
    assert images.describe(0) == f"{tmp_path}/s-train-00.tar::a/0001"
    assert images.classes == ("0", "1", "2")
    assert images.blocks.tolist() == [0, 1]


def test_the_cached_index_gives_the_same_and_notices_a_new_shard(tmp_path: Path) -> None:
    pattern = two_shards(tmp_path).replace("{split}", "train")
    first = Shards(pattern, "s")
    assert len(list((tmp_path / "cache/shards").iterdir())) == 2
    assert Shards(pattern, "s").digest() == first.digest()
    write_tar(tmp_path / "s-train-00.tar", {"z.png": png(9), "z.cls": b"1", "y.png": png(8), "y.cls": b"0"})
    changed = Shards(pattern, "s")
    assert len(changed) == 4
    assert changed.digest() != first.digest()


def test_hostile_members_are_never_written_or_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(7))
    path = tmp_path / "evil.tar"
    with tarfile.open(path, "w") as tar:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        tar.addfile(link)
        for name in ("../../escaped.png", "/absolute.png"):
            info = tarfile.TarInfo(name)
            info.size = len(png(1))
            tar.addfile(info, io.BytesIO(png(1)))
    images = Shards(str(path), "evil")
    assert len(images) == 2  # the link is no sample; the other two are read in place
    assert np.asarray(images.image(0))[0, 0, 0] == 1
    assert not (tmp_path.parent / "escaped.png").exists()
    assert not Path("/absolute.png").exists()


def test_truncated_members_are_broken_images(tmp_path: Path) -> None:
    write_tar(tmp_path / "t.tar", {"a.png": png(1)[:40], "b.png": png(2)})
    images = Shards(str(tmp_path / "t.tar"), "t")
    with pytest.raises(BrokenImage, match=r"t\.tar::a"):
        images.image(0)
    assert images.image(1).size == (8, 6)


def test_ranges_and_globs(tmp_path: Path) -> None:
    for name in ("x-08.tar", "x-09.tar", "x-10.tar"):
        write_tar(tmp_path / name, {"a.png": png(1)})
    names = ["x-08.tar", "x-09.tar", "x-10.tar"]
    for pattern in ("x-{08..10}.tar", "x-{08,09,10}.tar", "{x,x}-{08,09,10}.tar"):
        found = [path.name for path in find_files(f"{tmp_path}/{pattern}", EXAMPLE)[0]]
        assert found == names * (2 if "{x" in pattern else 1)
    assert len(find_files(f"{tmp_path}/x-*.tar", EXAMPLE)[0]) == 3
    with pytest.raises(UserError, match=r"x-11\.tar"):
        find_files(f"{tmp_path}/x-{{10..11}}.tar", EXAMPLE)[0]
    with pytest.raises(UserError, match=r"\{3\.\.1\}"):
        find_files(f"{tmp_path}/x-{{3..1}}.tar", EXAMPLE)[0]


def array(value: np.ndarray | np.generic) -> bytes:
    """A .npy file."""
    stream = io.BytesIO()
    np.save(stream, value)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "label"),
    [
        (b"2", 2),
        (b" 2\n", 2),
        (b"002", 2),
        (b"\xef\xbb\xbf2", 2),
        (b'"2"', 2),
        (b"2.0", 2),
        (b'{"label": 2}', 2),
        (array(np.int64(2)), 2),
        (array(np.array([2], np.uint8)), 2),
        (b"cow", "cow"),
        (b'"cow"', "cow"),
        ("Kühe & Co".encode(), "Kühe & Co"),
        (b'{"label": "cow"}', "cow"),
    ],
)
def test_labels_in_cls_as_text_json_and_npy(tmp_path: Path, content: bytes, label: int | str) -> None:
    images = Shards(str(write_tar(tmp_path / "s.tar", {"a.PNG": png(1), "a.CLS": content})), "s")
    found: int | str = images.label(0) if isinstance(label, int) else images.classes[images.label(0)]
    assert found == label


def test_sparse_members_are_counted_not_read(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "s.tar", {"a.png": png(1), "a.cls": b"1"})
    with tarfile.open(path, "a", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("b.png")
        info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "20"}
        content = b"1\n0\n4\n".ljust(512, b"\0") + b"abcd"
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    found = Shards(str(path), "s")
    assert len(found) == 1
    assert found.account().skipped == {"sparse members": 1}


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.txt": b"x"}, "no images"),
        ({"a.png": b"x", "a.cls": b"cat", "b.png": b"x", "b.cls": b"1"}, r"two kinds.*cat"),
        ({"a.png": b"x", "a.cls": b"\xff\x00"}, r"a\.cls.*class"),
        ({"a.png": b"x", "a.cls": b"[1]"}, r"a\.cls.*class"),
        ({"a.png": b"x", "a.cls": b"1.5"}, r"a\.cls.*class"),
        ({"a.png": b"x", "a.cls": b""}, r"a\.cls.*class"),
        ({"a.png": b"x", "a.cls": array(np.ones(2, int))}, r"a\.cls.*class"),
        ({"a.png": b"x", "a.cls": array(np.int64(1))[:90]}, r"a\.cls.*class"),
        ({"a.png": b"x", "a.json": b'{"label": true}'}, r"a\.json.*class"),
        ({"a.png": b"x", "a.json": b"[" * 100000}, r"a\.json.*class"),
        ({"a.png": b"x", "a.cls": b"1", "b.png": b"x"}, r"\bb\b.*\.cls.*\.json"),
    ],
)
def test_unusable_shards(tmp_path: Path, members: dict[str, bytes], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Shards(str(write_tar(tmp_path / "u.tar", members)), "u")


def test_not_a_tar(tmp_path: Path) -> None:
    (tmp_path / "n.tar").write_bytes(b"not a tar at all" * 100)
    with pytest.raises(UserError, match=r"n\.tar"):
        Shards(str(tmp_path / "n.tar"), "n")
    with pytest.raises(UserError, match=r"\{split\}"):
        open_images(DataConfig(f"webdataset:{tmp_path}/n.tar"), "train", seed=0)


def test_two_unpadded_ranges(tmp_path: Path) -> None:
    names = [f"p{first}-{second}.tar" for first in range(11) for second in range(2)]
    for name in names:
        write_tar(tmp_path / name, {"a.png": png(1)})
    assert [path.name for path in find_files(f"{tmp_path}/p{{0..10}}-{{0..1}}.tar", EXAMPLE)[0]] == names


@pytest.mark.parametrize("name", ["x[1].tar", "x*.tar", "x{0..1}.tar", "x #2.tar", "x?.tar"])
def test_a_file_of_that_very_name_comes_first(tmp_path: Path, name: str) -> None:
    write_tar(tmp_path / name, {"a.png": png(1)})
    write_tar(tmp_path / "x1.tar", {"a.png": png(1)})
    assert find_files(f"{tmp_path}/{name}", EXAMPLE)[0] == [tmp_path / name]


@pytest.mark.parametrize(
    ("members", "labels"),
    [
        ({"a.png": png(1), "a.cls": b"3", "a.json": b'{"url": "x"}'}, {"a": 3}),
        ({"a.png": png(1), "a.json": b'{"label": 1}', "a.cls": b"3"}, {"a": 3}),
        ({"a.cls": b"3", "a.png": png(1), "a.json": b'{"label": "b"}'}, {"a": 3}),
        ({"a.png": png(1), "a.json": b'{"label": "3"}'}, {"a": 3}),
        ({"a.png": png(1), "a.cls": b"0", "b.v2.png": png(1), "b.v2.cls": b"1"}, {"a": 0, "b.v2": 1}),
        ({"a.png": png(1), "a.cls": b"0", "a.v2.png": png(1), "a.v2.cls": b"1"}, {"a": 0, "a.v2": 1}),
        ({"a.png": png(1), "a.cls": b"0", "a.seg.png": png(1)}, {"a": 0}),  # WebDataset: one sample
        ({"a.v2.png": png(1), "a.cls": b"2"}, {"a.v2": 2}),
        ({"a.png": png(1), "a.cls": b"2", "b.png": png(1), "b.cls": b"1"}, {"a": 2, "b": 1}),
        ({"a.jpg": png(1), "a.png": png(2), "a.cls": b"2"}, {"a": 2}),
    ],
)
def test_labels_and_names_with_dots(tmp_path: Path, members: dict[str, bytes], labels: dict[str, int]) -> None:
    images = Shards(str(write_tar(tmp_path / "d.tar", members)), "d")
    assert {images.describe(i).partition("::")[2]: images.label(i) for i in range(len(images))} == labels


def test_lists_of_words_of_other_lengths(tmp_path: Path) -> None:
    names = [f"p{first}-{second}.tar" for first in ("1", "10") for second in ("a", "bbb")]
    for name in names:
        write_tar(tmp_path / name, {"a.png": png(1)})
    assert [path.name for path in find_files(f"{tmp_path}/p{{1,10}}-{{a,bbb}}.tar", EXAMPLE)[0]] == names


def test_class_names_in_json(tmp_path: Path) -> None:
    members = {}
    for number, name in enumerate(("cow", "!x", "ant", "cow")):
        members |= {f"{number}.png": png(1), f"{number}.json": f'{{"label": "{name}"}}'.encode()}
    images = Shards(str(write_tar(tmp_path / "n.tar", members)), "n")
    assert [images.classes[images.label(index)] for index in range(4)] == ["cow", "!x", "ant", "cow"]


def test_pre_training_needs_no_labels(tmp_path: Path) -> None:
    write_tar(tmp_path / "p.tar", {"a.png": png(1), "a.cls": b"\xff", "b.png": png(2)})
    images = open_images(DataConfig(f"webdataset:{tmp_path}/p.tar"), "pretrain", 0)
    assert (len(images), images.classes, images.label(0)) == (2, (), -1)
    assert "a.cls" in images.account().notes[0]


@pytest.mark.parametrize(
    ("names", "pattern", "found"),
    [
        (["validation-0", "validation-1"], "{split}-{0..7}", "validation"),
        (["val-0"], "{split}-*", "val"),
        (["valid-0", "test-0"], "{split}-0", "valid"),
        (["test-0"], "{split}-{0..7}", "test"),
    ],
)
def test_splits_of_shards(tmp_path: Path, names: list[str], pattern: str, found: str) -> None:
    for name in [*names, *(f"train-{number}" for number in range(8))]:
        write_tar(tmp_path / f"{name}.tar", {"a.png": png(1), "a.cls": b"0"})
    source = DataConfig(f"webdataset:{tmp_path}/{pattern}.tar")
    val = open_images(source, "val", 0)
    assert found in val.name
    assert len(val.account().notes) == (found != "val") + ("7" in pattern)
    (tmp_path / "train-7.tar").unlink()
    if "7" in pattern:  # of the training set nothing may be missing
        with pytest.raises(UserError, match=r"train-7\.tar"):
            open_images(source, "train", 0)
    write_tar(tmp_path / f"{found}-6.tar", {"a.png": png(1), "a.cls": b"0"})
    if "7" in pattern:  # a gap is not another number of shards
        with pytest.raises(UserError, match=rf"{found}-\d\.tar"):
            open_images(source, "val", 0)


def test_blocks_of_a_sample(tmp_path: Path) -> None:
    for shard in range(3):
        write_tar(tmp_path / f"b{shard}.tar", {f"{n}.png": png(n) for n in range(5)})
    part = Subset(Shards(f"{tmp_path}/b{{0..2}}.tar", "b"), np.array([0, 3, 4, 11, 12]), "five")
    assert part.blocks is not None
    assert part.blocks.tolist() == [0, 3]

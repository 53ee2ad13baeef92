"""Fashion-MNIST: the real files as published, and what happens with files that are not."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest

from core.data.readers import fashion_mnist
from core.data.readers.fashion_mnist import FILES, FashionMNIST, IdxFile, read_idx
from core.errors import UserError
from core.files import cache_folder
from core.project import ROOT


def idx(values: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    return bytes([0, 0, 8, values.ndim]) + sizes + values.tobytes()


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A folder of 30 + 20 generated pictures in the published format, with the table of files to match."""
    rng = np.random.default_rng(3)
    folder = tmp_path / "files"
    folder.mkdir()
    table, arrays = {}, {}
    for split, prefix, count in (("train", "train", 30), ("test", "t10k", 20)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8)[::-1] % 10
        entries = []
        for name, values in ((f"{prefix}-images-idx3-ubyte", images), (f"{prefix}-labels-idx1-ubyte", labels)):
            content = idx(values)
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
            entries.append(IdxFile(name, values.shape, hashlib.sha256(content).hexdigest()))
        table[split], arrays[split] = tuple(entries), (images, labels)
    monkeypatch.setattr(fashion_mnist, "FILES", table)
    return folder, arrays


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="Debian's tools unpack the package")
def test_the_real_set(tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_TRANSFER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fashion_mnist, "PACKAGE_FOLDER", Path("usr/share/datasets/fashion-mnist"))
    train, test = FashionMNIST("train"), FashionMNIST("test")
    assert (len(train), len(test)) == (60000, 10000)
    assert [train.label(index) for index in range(10)] == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]
    assert [test.label(index) for index in range(10)] == [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]
    assert np.bincount(train._labels).tolist() == [6000] * 10
    assert np.bincount(test._labels).tolist() == [1000] * 10
    assert train._images.mean() / 255 == pytest.approx(0.2860, abs=5e-5)
    assert train._images.std() / 255 == pytest.approx(0.3530, abs=5e-5)
    assert train.classes[train.label(0)] == "Ankle boot"


@pytest.mark.parametrize("place", ["", "FashionMNIST/raw", "raw"])
@pytest.mark.parametrize("packed", [True, False])
def test_a_folder_in_each_layout(small, tmp_path, place, packed):
    folder, arrays = small
    root = tmp_path / "root"
    (root / place).mkdir(parents=True)
    for file in folder.iterdir():
        if packed:
            shutil.copy(file, root / place)
        else:
            (root / place / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
    for split, count in (("train", 30), ("test", 20)):
        clothes = FashionMNIST(split, folder=root)
        images, labels = arrays[split]
        assert (len(clothes), clothes.name) == (count, f"fashion-mnist:{split}")
        picture = clothes.image(7)
        assert (picture.mode, picture.size) == ("RGB", (28, 28))
        for channel in range(3):
            np.testing.assert_array_equal(np.asarray(picture)[..., channel], images[7])
        assert [clothes.label(index) for index in range(count)] == labels.tolist()


def test_digests_distinguish_splits(small):
    folder, _ = small
    sets = [FashionMNIST("train", folder), FashionMNIST("test", folder)]
    assert len({clothes.digest() for clothes in sets}) == 2
    assert FashionMNIST("train", folder).digest() == sets[0].digest()


def damaged(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: gzip.compress(damaged(content)), "damaged|sha256|checksum"),
        (lambda content: gzip.compress(content[:-1]), "23,?535.*23,?536"),
        (lambda content: gzip.compress(content + b"x"), "more.*23,?536"),
        (lambda content: gzip.compress(b"\0\0\x09" + content[3:]), "idx.*30 × 28 × 28"),
        (lambda content: gzip.compress(content[:4] + b"\xff\xff\xff\xff" + content[8:]), "idx file"),
        (lambda content: gzip.compress(b""), "idx file"),
        (lambda content: gzip.compress(content)[:-9], "read"),
        (lambda content: b"<html>not found</html>", "read"),
        (lambda content: gzip.compress(content)[:20] + b"\xff" * 500, "read"),
    ],
)
def test_a_file_that_is_not_as_published_is_named(small, change, message):
    folder, _ = small
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(change(gzip.decompress(path.read_bytes())))
    with pytest.raises(UserError, match=rf"(?=.*train-images-idx3-ubyte\.gz).*({message})"):
        FashionMNIST("train", folder=folder)
    assert len(FashionMNIST("test", folder=folder)) == 20


def test_a_packed_bomb_is_not_unpacked(small, monkeypatch):
    folder, _ = small
    path = folder / "train-labels-idx1-ubyte.gz"
    expected = IdxFile("train-labels-idx1-ubyte", (30,), "")
    path.write_bytes(gzip.compress(idx(np.zeros(30, np.uint8)) + bytes(50_000_000)))
    asked = []
    original = gzip.GzipFile.read
    monkeypatch.setattr(gzip.GzipFile, "read", lambda self, size=-1: asked.append(size) or original(self, size))
    with pytest.raises(UserError, match=r"\b38 bytes"):
        read_idx(path, expected)
    assert asked == [39]


def test_missing_files_and_wrong_requests(small, tmp_path):
    folder, _ = small
    with pytest.raises(UserError, match=r"'val'.*train.*test"):
        FashionMNIST("val", folder=folder)
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(UserError, match=r"t10k-labels-idx1-ubyte.*FashionMNIST/raw"):
        FashionMNIST("test", folder=folder)
    with pytest.raises(UserError, match=r"nowhere.*train-images"):
        FashionMNIST("train", folder=tmp_path / "nowhere")


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """No installed package, an empty cache, and an empty folder as the only one that commands are looked for in."""
    tools = tmp_path / "bin"
    tools.mkdir()
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setenv("SSL_TRANSFER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fashion_mnist, "PACKAGE_FOLDER", Path("no/such/folder"))
    return tools


def tool(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_without_debians_tools_the_way_out_is_named(bare, tmp_path):
    with pytest.raises(UserError) as caught:
        FashionMNIST("train")
    message = str(caught.value)
    assert "apt-get" in message
    assert str(tmp_path / "cache" / "fashion-mnist") in message
    for split in FILES.values():
        for file in split:
            assert f"{file.name}.gz" in message
    tool(bare, "apt-get", "exit 0")
    with pytest.raises(UserError, match="dpkg-deb"):
        FashionMNIST("train")


def test_a_failed_download_quotes_the_last_line_and_leaves_nothing(bare, tmp_path):
    tool(bare, "apt-get", "echo Reading; echo 'E: Unable to locate package' >&2; echo >&2; exit 100")
    tool(bare, "dpkg-deb", "exit 0")
    with pytest.raises(
        UserError, match=r"apt-get download dataset-fashion-mnist.*E: Unable to locate package.*apt-get update"
    ):
        FashionMNIST("train")
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_package_is_unpacked_once(bare, small, tmp_path):
    folder, arrays = small
    tool(bare, "apt-get", f'echo x >> "{tmp_path}/calls"; : > dataset-fashion-mnist_1_all.deb')
    tool(bare, "dpkg-deb", f"/bin/mkdir -p no/such usr && /bin/cp -r '{folder}' no/such/folder")
    for _ in range(2):
        clothes = FashionMNIST("test")
    assert clothes.label(0) == arrays["test"][1][0]
    assert (tmp_path / "calls").read_text() == "x\n"
    kept = sorted(path.name for path in (tmp_path / "cache" / "fashion-mnist").iterdir() if path.is_file())
    assert kept == sorted(f"{file.name}.gz" for split in fashion_mnist.FILES.values() for file in split)


def test_the_cache_folder(monkeypatch):
    monkeypatch.setenv("SSL_TRANSFER_CACHE", "~/somewhere")
    assert cache_folder.cache_folder() == Path.home() / "somewhere"
    monkeypatch.delenv("SSL_TRANSFER_CACHE")
    assert cache_folder.cache_folder() == ROOT / ".cache" / "ssl-transfer"

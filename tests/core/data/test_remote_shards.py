"""Shards at URLs: the images, order and digests of the same shards on a disk; copies that keep below a size."""

from __future__ import annotations

import functools
import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from core.data.account import account_of
from core.data.open import DataConfig, open_images
from core.data.order import SHARDS_MIXED, GlobalBatches
from core.data.readers import remote_files
from core.data.readers.remote_files import FOLDER, GIGABYTES
from core.data.readers.shards import Shards
from core.errors import UserError
from tests.core.data.test_shards import png, write_tar

fsspec = pytest.importorskip("fsspec")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_TRANSFER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(FOLDER, str(tmp_path / "copies"))
    monkeypatch.setattr(remote_files.time, "sleep", lambda seconds: None)


def write_shards(folder: Path, split: str, count: int, images: int = 3) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(count):
        members = {}
        for number in range(images):
            members[f"{number}.png"] = png(shard * images + number)
            members[f"{number}.cls"] = str(number % 2).encode()
        write_tar(folder / f"{split}-{shard:03d}.tar", members)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """Address of a server of `tmp_path/served`, and the files that it has been asked for."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *words: object) -> None:
            if self.command == "GET" and words[2] == "200":
                asked.append(self.path.rpartition("/")[2])

    folder = tmp_path / "served"
    folder.mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()


def test_the_same_as_on_a_disk(tmp_path: Path, served: tuple[str, list[str]]) -> None:
    address, asked = served
    write_shards(tmp_path / "served", "train", 3)
    write_shards(tmp_path / "served", "validation", 2)
    for split, count in (("train", 9), ("val", 6)):
        local = open_images(DataConfig(f"webdataset:{tmp_path}/served/{{split}}-{{000..002}}.tar"), split, 0)
        remote = open_images(DataConfig(f"webdataset:{address}/{{split}}-{{000..002}}.tar"), split, 0)
        assert len(remote) == len(local) == count
        assert [remote.label(row) for row in range(count)] == [local.label(row) for row in range(count)]
        pixels = [np.asarray(images.image(row)) for images in (local, remote) for row in range(count)]
        assert all(np.array_equal(*pair) for pair in zip(pixels[:count], pixels[count:], strict=True))
        assert remote.digest() == local.digest()
        assert account_of(remote).converted == account_of(local).converted
        assert remote.describe(0).startswith(address)
    assert sorted(asked) == sorted(set(asked)), "a shard was fetched twice"
    index_only = Shards(f"{address}/train-{{000..002}}.tar", "s")
    assert len(index_only) == 9
    assert len(asked) == 5


def test_copies_keep_below_a_size(
    tmp_path: Path, served: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, _ = served
    write_shards(tmp_path / "served", "train", 6)
    write_shards(tmp_path / "served", "other", 1, images=4)
    size = (tmp_path / "served/train-000.tar").stat().st_size
    monkeypatch.setenv(GIGABYTES, str(2.5 * size / 1e9))
    images = Shards(f"{address}/train-*.tar", "s", labelled=False)
    assert [int(np.asarray(images.image(row))[0, 0, 0]) for row in range(18)] == list(range(18))
    assert len(list((tmp_path / "copies").glob("*.copy"))) == 2
    monkeypatch.setenv(GIGABYTES, "much")
    with pytest.raises(UserError, match=GIGABYTES):
        Shards(f"{address}/other-000.tar", "s", labelled=False)


def test_what_comes_next_is_fetched_ahead(
    tmp_path: Path, served: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, asked = served
    shards = 3 * SHARDS_MIXED
    write_shards(tmp_path / "served", "train", shards, images=1)
    images = Shards(f"{address}/train-{{000..{shards - 1:03d}}}.tar", "s", labelled=False)
    for copy in (tmp_path / "copies").glob("*.copy"):
        copy.unlink()
    asked.clear()
    batches = GlobalBatches(len(images), 8, 1, 0, blocks=images.blocks, ahead=images.read_ahead)
    plain = list(GlobalBatches(len(images), 8, 1, 0, blocks=images.blocks))
    steps = iter(batches)
    assert next(steps) == plain[0]
    until = time.monotonic() + 20
    while len(list((tmp_path / "copies").glob("*.copy"))) < 2 * SHARDS_MIXED and time.monotonic() < until:
        threading.Event().wait(0.02)
    assert len(asked) == 2 * SHARDS_MIXED, "two groups of shards ahead, not all of them"
    assert {f"train-{position:03d}.tar" for _, position in plain[0]} <= set(asked)
    assert list(steps) == plain[1:]


def test_loader_processes_fetch_by_themselves(tmp_path: Path, served: tuple[str, list[str]]) -> None:
    from torch.utils.data import DataLoader, Dataset

    address, asked = served
    write_shards(tmp_path / "served", "train", 4)
    images = Shards(f"{address}/train-{{000..003}}.tar", "s", labelled=False)
    for copy in (tmp_path / "copies").glob("*.copy"):
        copy.unlink()

    class Reds(Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, row: int) -> int:
            return int(np.asarray(images.image(row))[0, 0, 0])

    loader = DataLoader(Reds(), batch_size=3, num_workers=2, multiprocessing_context="fork")  # type: ignore[var-annotated]
    assert [int(value) for batch in loader for value in batch] == list(range(12))
    assert len(asked) == 8


def test_any_file_system_of_fsspec() -> None:
    memory = fsspec.filesystem("memory")
    for split in ("train", "val"):
        memory.pipe(f"/bucket/{split}-0.tar", b"")
    with pytest.raises(UserError, match=r"memory://bucket/train-0\.tar"):
        open_images(DataConfig("webdataset:memory://bucket/{split}-0.tar"), "train", 0)
    memory.rm("/bucket", recursive=True)


@pytest.mark.parametrize(
    ("place", "named"),
    [
        ("{address}/none-{{000..002}}.tar", "none-000.tar"),
        ("{address}/train-{{000..009}}.tar", "train-001.tar"),
        ("http://127.0.0.1:9/{{000..001}}.tar", "127.0.0.1:9"),
        ("nosuch://bucket/a.tar", "nosuch"),
        ("file:///nowhere/a.tar", "nowhere"),
    ],
)
def test_what_can_not_be_fetched(tmp_path: Path, served: tuple[str, list[str]], place: str, named: str) -> None:
    write_shards(tmp_path / "served", "train", 1)
    with pytest.raises(UserError, match=named):
        Shards(place.format(address=served[0]), "s", labelled=False)


def test_a_shard_that_ends_early_or_goes_away(tmp_path: Path, served: tuple[str, list[str]]) -> None:
    write_shards(tmp_path / "served", "train", 1)
    images = Shards(f"{served[0]}/train-000.tar", "s", labelled=False)
    for copy in (tmp_path / "copies").glob("*.copy"):
        copy.unlink()
    whole = (tmp_path / "served/train-000.tar").read_bytes()
    (tmp_path / "served/train-000.tar").write_bytes(whole[:512])
    with pytest.raises(UserError, match=r"train-000\.tar"):
        images.image(0)
    (tmp_path / "served/train-000.tar").unlink()
    with pytest.raises(UserError, match=r"train-000\.tar"):
        images.image(0)
    assert list((tmp_path / "copies").glob("*.partial")) == []


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(UserError, match=r"\[fsspec\]"):
        Shards("s3://bucket/a.tar", "s", labelled=False)

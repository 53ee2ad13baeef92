"""Untrusted files: nothing in them runs, nothing is written, memory stays bounded, one sentence gives the reason."""

from __future__ import annotations

import mmap
import os
import pickle
import re
import struct
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.detectron2_file import read_detectron2
from core.checkpoints import read_tensors
from core.data.readers.shards import Shards
from core.data.readers.torchvision_sets import SETS, download
from core.errors import UserError
from core.untrusted.matlab_files import check_unpacked_size
from core.untrusted.plain_values import to_plain
from tests.security.gadgets import (
    Gadget,
    dumps,
    object_array,
    png,
    tar_of,
    torch_zip,
    zeros_zip,
)
from tests.security.hostile_checkpoints import CHECKPOINTS
from tests.security.hostile_data import DATA
from tests.security.watched import files_below, watch

CASES = CHECKPOINTS | DATA


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_TRANSFER_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    kind, text, case = CASES[name]
    folder, canary = tmp_path / "files", tmp_path / "canary"
    folder.mkdir()
    opener = case(folder, canary)
    before = files_below(tmp_path, tmp_path.parent)
    outcome = watch(opener)
    assert outcome.kind == kind, outcome
    assert "\n" not in outcome.text
    assert not canary.exists(), "code from the file ran"
    written = {
        path for path in files_below(tmp_path, tmp_path.parent) - before if not path.startswith(str(tmp_path / "cache"))
    }
    assert not written
    assert not Path("/tmp/escaped-absolute.png").exists()
    assert outcome.mebibytes < 400, outcome
    assert re.search(text, outcome.text), outcome.text


def test_the_harness_sees_code_that_runs_memory_and_hangs(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    assert watch(lambda: pickle.loads(dumps(Gadget(os.mkdir, str(canary))))).kind == "opened"
    assert canary.exists()
    assert watch(lambda: mmap.mmap(-1, 2**29).write(bytes(2**29))).mebibytes > 400  # not from a heap that was freed
    assert watch(lambda: {}["x"]).kind == "KeyError"
    assert watch(lambda: os.kill(os.getpid(), 9)).kind == "killed by signal 9"


def test_a_packed_index_of_shards_is_made_again(tmp_path: Path) -> None:
    tar_of(tmp_path / "a.tar", (tarfile.TarInfo("a.png"), png(8, 8)))
    Shards(str(tmp_path / "a.tar"), "s")
    (kept,) = (tmp_path / "cache" / "shards").iterdir()
    sound = kept.read_bytes()
    canary = tmp_path / "canary"
    zeros_zip(tmp_path / "bomb", "offset.npy", 2**28)
    np.savez(tmp_path / "objects.npz", **dict.fromkeys(("offset", "size", "label", "key"), object_array(canary)))
    np.savez(tmp_path / "lacks.npz", offset=np.zeros(3, np.int64))
    for other in (b"", sound[:60], sound[:150] + b"\xff" + sound[151:], (tmp_path / "bomb").read_bytes(),
                  (tmp_path / "objects.npz").read_bytes(), (tmp_path / "lacks.npz").read_bytes()):  # fmt: skip
        kept.write_bytes(other)
        outcome = watch(lambda: Shards(str(tmp_path / "a.tar"), "s").describe(0))
        assert outcome.kind == "opened", outcome
        assert outcome.mebibytes < 100
        assert kept.read_bytes() == sound
    assert not canary.exists()


def test_sets_whose_archives_torchvision_does_not_check_are_not_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every other set's download compares a digest before it unpacks, and pickles are read after a comparison only."""
    from torchvision import datasets

    digests: list[Any] = []
    for known in SETS.values():
        module = sys.modules[getattr(datasets, known.loader).__module__]
        for function in ("download_and_extract_archive", "download_url"):
            if hasattr(module, function):
                monkeypatch.setattr(module, function, lambda *_a, md5=None, **_o: digests.append(md5))
    for kind in SETS:
        digests.clear()
        with pytest.raises(UserError):
            download(kind, tmp_path)
        assert bool(digests) == (kind not in ("aircraft", "cars")), kind
        assert all(isinstance(md5, str) and len(md5) == 32 for md5 in digests), kind


def test_a_list_of_usual_size_passes(tmp_path: Path) -> None:
    from scipy.io import savemat

    savemat(tmp_path / "a.mat", {"x": np.arange(1000)}, do_compression=True)
    check_unpacked_size(tmp_path / "a.mat", 10000)
    with pytest.raises(UserError, match=r"a\.mat"):
        check_unpacked_size(tmp_path / "a.mat", 1000)


def test_a_detectron2_file_memorises_only_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(b"\x80\x02}r" + struct.pack("<I", 2**30) + b".")
    assert read_detectron2(tmp_path / "a.pkl") == {}


def test_methods_of_a_dictionary_can_not_be_replaced(tmp_path: Path) -> None:
    from collections import OrderedDict

    document = OrderedDict(w=1.0)
    document.itemz = "no method"  # type: ignore[attr-defined]
    torch_zip(tmp_path / "a.pth", dumps(document).replace(b"itemz", b"items"), {})
    assert read_tensors(tmp_path / "a.pth") == {"w": 1.0}


def test_levels_are_counted_through_lists_that_stand_in_several_places() -> None:
    chain: list[Any] = []
    for _ in range(59):
        chain = [chain]
    longer = [chain]
    for _ in range(2):
        longer = [longer]
    assert to_plain([chain, longer], "here") == [chain, longer]  # 64 levels
    for document in ([chain, [longer]], [[longer], chain]):
        with pytest.raises(UserError, match=r"here.* 64 "):
            to_plain(document, "here")
    assert to_plain([[1] * 999, (2,)], "here") == [[1] * 999, (2,)]
    with pytest.raises(UserError, match=r"here.* 1,000,000 "):
        to_plain([[0] * 500_000, [0] * 500_000], "here")

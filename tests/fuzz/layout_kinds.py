"""Odd but legal layouts of data: accepted with everything accounted for, or refused where a rule says so."""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from core.data.readers.folder import Folder
from core.data.readers.shards import Shards
from core.errors import UserError
from tests.data_rules.odd_sets import odd_folder, odd_shard, picture
from tests.fuzz.trial import Trial


def must_be_refused(open_set: Callable[[], object], why: str) -> None:
    """Raises the `UserError` of `open_set`, or `AssertionError` if there is none."""
    try:
        open_set()
    except UserError:
        raise
    raise AssertionError(f"accepted although {why}")


def folder_layouts(folder: Path) -> Trial:
    """Class folders with hidden, linked, nested and other files."""

    def trial(rng: random.Random) -> None:
        root = folder / rng.choice(("set", "a #2", "b: c", "d,e", "[f]", "~g"))
        for left in (root, folder / "outside"):
            shutil.rmtree(left, ignore_errors=True)
        root.mkdir()
        images, files = odd_folder(root, rng, folder / "outside")
        oddity = rng.choice(("", "", "", "", "image at the root", "empty class"))
        if oddity == "image at the root":
            (root / "stray.png").write_bytes(picture(0))
            must_be_refused(lambda: Folder(root, "set"), "an image at the root has no class")
        if oddity == "empty class":
            (root / "empty").mkdir()
            must_be_refused(lambda: Folder(root, "set"), "a training class has no images")
        found = Folder(root, "set", labelled=rng.random() < 0.5)
        assert {found.describe(index) for index in range(len(found))} == images
        skipped = Counter(found.account().skipped)
        assert skipped.pop("link to a folder above it", 0) == (root / "a/deep/circle").is_symlink()
        assert len(found) + sum(skipped.values()) == files
        for index in range(len(found)):
            within = os.path.relpath(found.describe(index), root)
            assert within.split(os.sep)[0] == found.classes[found.label(index)]

    return trial


def shard_layouts(folder: Path) -> Trial:
    """Shards with dots in names, further members, labels in .json beside .cls, links."""

    def trial(rng: random.Random) -> None:
        path = folder / rng.choice(("s.tar", "s #2.tar", "s[1].tar", "s{0..1}.tar"))
        labels, members = odd_shard(path, rng, lacking=rng.random() < 0.2)
        if -1 in labels.values():
            must_be_refused(lambda: Shards(str(path), "s"), "a sample has no label")
        found = Shards(str(path), "s")
        assert {found.describe(index).partition("::")[2]: found.label(index) for index in range(len(found))} == labels
        assert 2 * len(labels) + sum(found.account().skipped.values()) == members
        for cached in (folder.parent / "cache" / "shards").iterdir():
            cached.unlink()

    return trial

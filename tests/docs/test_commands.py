"""The commands of the pages, as written, on small data; those for whole data sets and many GPUs up to their plan.

A `bash` block is run line by line. A `bash full` block is one for which small data can't do: its lines are run with
`--dry-run`, on one process whatever torchrun asks for. A block that follows a line with nothing but a file's name is
that file.
"""

from __future__ import annotations

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.small_places import make_all
from tests.torchrun import ROOT, warm_python

PAGES = (
    "checkpoints",
    "converting",
    "extending/add_a_protocol",
    "extending/add_a_view_transform",
    "cluster",
    "losses",
    "reproduce",
)
BLOCK = re.compile(r"(?:^`([^`\n]+)`:\n\n)?^```(\w+)( full)?\n(.*?)^```$", re.M | re.S)
Blocks = list[tuple[str, str, str, str]]


def blocks_of(page: str) -> Blocks:
    """File name, language, ` full` or nothing, and text of each block."""
    return BLOCK.findall((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8"))


def full_commands() -> list[str]:
    """Lines that differ in more than the number of processes, which is one here whatever a line asks for."""
    lines = [
        line
        for page in PAGES
        for _, language, full, text in blocks_of(page)
        if language == "bash" and full
        for line in text.splitlines()
    ]
    return list({line[line.index(script_of(line)) :]: line for line in lines}.values())


def script_of(line: str) -> str:
    assert line.startswith(("python ", "torchrun ")), line
    return next(word for word in shlex.split(line) if word.endswith(".py"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, image_folder: Path) -> Iterator[Path]:
    """A checkout of the project, in which the pages' data, run folders and foreign files lie.

    The folders to which pages add files are copies.
    """
    root = tmp_path_factory.mktemp("checkout")
    for folder in ("pretrain", "configs"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for folder in ("core", "converters", "evaluate"):
        (root / folder).symlink_to(ROOT / folder)
    make_all(root, image_folder)
    yield root
    shutil.rmtree(root)  # half a gigabyte


@pytest.mark.parametrize("page", PAGES)
def test_commands_as_written(page: str, place: Path) -> None:
    commands, path = 0, f"{warm_python().parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    for file, language, full, text in blocks_of(page):
        if file:
            (place / file).write_text(text, encoding="utf-8")
        if language != "bash" or full:
            continue
        for line in text.splitlines():
            done = subprocess.run(
                ["bash", "-c", line], cwd=place, capture_output=True, text=True, timeout=300, check=False,
                env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "SSL_TRANSFER_CACHE": str(place / ".cache")},
            )  # fmt: skip
            assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
            commands += 1
    assert commands, f"docs/{page}.md has no command"


@pytest.mark.parametrize("line", full_commands())
def test_commands_for_whole_data_sets_up_to_their_plan(
    line: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = shlex.split(line)
    script = words.index(script_of(line))
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", [*words[script:], "--dry-run", "--device", "cpu"])
    importlib.import_module(words[script].removesuffix(".py").replace("/", ".")).main()
    printed = capsys.readouterr().out
    assert re.search(r"^(protocol|run|\d+ runs)\b", printed, re.M)
    # One process where a dense protocol has eight stands in its name; nothing else may be.
    dense = ("evaluate/coco.py", "evaluate/segment.py", "evaluate/suite.py")
    assert ("(modified" in printed) == (words[script] in dense)


def test_every_page_is_linked_and_every_link_leads_somewhere() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for page in sorted((ROOT / "docs").rglob("*.md")):
        assert str(page.relative_to(ROOT)) in readme, f"README.md doesn't link {page.name}"
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links {target}"

"""Shared by all tests: one thread, GPU tests skipped where there is no GPU, and a small folder of photographs."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job, in which no test of Ctrl-C could pass
    signal.signal(signal.SIGINT, signal.default_int_handler)
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np
import PIL.Image
import pytest

from tests.torchrun import WARM, XDIST, stop_warm_python, warm_python


def pytest_configure(config: pytest.Config) -> None:
    if WARM not in os.environ:  # a process of pytest-xdist shares the server of the one that started it
        os.environ[WARM] = tempfile.mkdtemp(prefix="warm-")
        config.add_cleanup(lambda: stop_warm_python(Path(os.environ.pop(WARM))))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(specs: list[Any]) -> None:
    """pytest-xdist's processes are forked from the server, too: the libraries are imported once for all of them."""
    for spec in specs:
        if spec.popen and not spec.python:
            spec.python = str(warm_python().with_name(XDIST))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch  # not at the top: the process that hands out the tests needs none of it

    torch.set_num_threads(1)
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture
def exact_products() -> Iterator[None]:
    """Convolutions in full fp32 on GPUs, where cuDNN rounds to TF32 by default; products are exact."""
    import torch

    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


@pytest.fixture
def no_weights() -> Iterator[None]:
    """For tests of shapes and settings: networks begin with zeros, since to draw a ResNet-50's weights takes 0.4 s."""
    from core.compute.shapes import nothing_drawn

    with nothing_drawn():
        yield


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 JPEGs of smooth noise, 48 × 40 px, in two class folders below train and val."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(6):
                coarse = PIL.Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
                coarse.resize((48, 40), PIL.Image.Resampling.BICUBIC).save(folder / f"{number}.jpg", quality=95)
    return root

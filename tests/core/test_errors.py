"""core/errors.py: one sentence for a user's mistake, also out of a worker, and for known failures of the machine."""

from __future__ import annotations

import errno
import re
from typing import Any

import pytest
import torch
from torch._inductor.exc import InvalidCxxCompiler
from torch.utils.data import DataLoader

from core.config import to_dict
from core.errors import UserError, explain, run_entry_point
from evaluate.common.description import Description
from evaluate.common.protocol import flat
from evaluate.common.registry import descriptions


class Failing:
    """A data set whose only item can't be read."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Any:
        try:
            raise RuntimeError("core.errors.UserError: not this")
        except RuntimeError as cause:
            raise UserError("can't read /data/UserError: a/b.jpg;\nfix it") from cause


def test_a_workers_sentence_comes_through_whole(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        next(iter(DataLoader(Failing(), num_workers=1)))  # type: ignore[arg-type]

    with pytest.raises(SystemExit) as caught:
        run_entry_point(main)
    assert caught.value.code == 2
    assert capsys.readouterr().err == "error: can't read /data/UserError: a/b.jpg; fix it\n"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has …"), "GPU.*2.00 GiB.*batch"),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be …"), "GPU.*batch"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"), "GPU.*batch"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you"),
            "batch",
        ),
        (MemoryError(), "batch"),
        (
            RuntimeError("out of resource: shared memory, Required: 147456"),
            r"compute\.compile",
        ),
        (type("OutOfResources", (Exception,), {})("out of resource: shared memory, Required: 1"), r"compute\.compile"),
        (InvalidCxxCompiler(), r"CXX.*compute\.compile"),
        (RuntimeError("Failed to find C compiler. Please specify via CC environment variable"), r"compute\.compile"),
        (RuntimeError("unable to open shared memory object </torch_12> in read-write mode"), "shm.*--workers"),
        (RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. "), "Killed.*--workers"),
        (OSError(errno.ENOSPC, "No space left on device"), "--workers"),
        (ModuleNotFoundError("No module named 'PIL.x'", name="PIL.x"), r"\bPIL\b.*README"),
    ],
)
def test_known_failures_name_the_setting_that_helps(error: Exception, words: str) -> None:
    sentence = explain(error, "lower batch")
    assert "\n" not in sentence
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(sentence)


OWN = ModuleNotFoundError("No module named 'core.x'", name="core.x")


BUGS = [RuntimeError("mat1 and mat2 shapes"), KeyError("x"), OSError(errno.EIO, "I/O", "f"), OWN]


@pytest.mark.parametrize("error", BUGS)
def test_bugs_are_not_explained(error: Exception) -> None:
    assert explain(error) == ""


@pytest.mark.parametrize("description", descriptions().values(), ids=descriptions().keys())
def test_advice_on_memory_names_settings_that_exist(description: Description) -> None:
    config = flat(to_dict(description.config_class()()))
    for key in re.findall(r"\b[a-z_]+\.[a-z_]+|[a-z_]+(?==)", description.memory_advice):
        assert key in config

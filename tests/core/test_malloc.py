"""Freed memory stays with the process once it was asked to."""

from __future__ import annotations

from tests.torchrun import python

SCRIPT = """
import resource, sys
import torch
from core.compute.malloc import disable_trimming
if sys.argv[1] == "keep":
    assert disable_trimming()
def faults(tensors):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(tensors):
        torch.ones(20_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults(6)
print(faults(5))
"""


def test_large_tensors_cost_no_page_faults_any_more() -> None:
    given_back, kept = (python("-c", SCRIPT, how) for how in ("default", "keep"))
    assert int(given_back.stdout) > 200, given_back.stderr  # 80 MB each, in pages of 4 KiB or 2 MiB
    assert int(kept.stdout) < 50, kept.stderr

"""Dense probes on a GPU: the CPU's numbers on small data in the layout of VOC and DAVIS."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluate.dense.corloc.probe import PROBE as CORLOC
from evaluate.dense.dense_knn.probe import PROBE as DENSE_KNN
from evaluate.dense.propagate.probe import PROBE as PROPAGATE
from evaluate.dense.segment_linear.probe import PROBE as SEGMENT
from evaluate.probes.base import Probe
from tests.evaluate.dense.small import VIT, measure, write_voc
from tests.evaluate.dense.test_corloc import write_voc07
from tests.evaluate.dense.test_propagate import DAVIS, write_davis

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("exact_products")]

SMALL = ["features.size=32"]
PROBES: dict[str, tuple[Probe, str, list[str], str]] = {
    "dense-knn": (DENSE_KNN, "voc12aug", [*SMALL, "memory.patches=100", "k=5"], VIT),
    "segment-linear": (
        SEGMENT, "voc12aug",
        [*SMALL, "test.stride=16", "heads.lrs=[0.05]", "heads.weight_decays=[0.0]", "heads.iterations=40",
         "heads.warmup=0", "heads.batch=4"], "pixels",
    ),
    "corloc": (CORLOC, "voc07", SMALL, VIT),
    "propagate": (PROPAGATE, "davis2017", DAVIS, "pixels"),
}  # fmt: skip
WRITE = {
    "voc12aug": write_voc,
    "voc07": lambda root: write_voc07(root / "VOCdevkit"),
    "davis2017": lambda root: write_davis(root / "DAVIS"),
}


@pytest.mark.parametrize("name", PROBES)
def test_the_numbers_are_the_cpus(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe, layout, settings, ckpt = PROBES[name]
    data = ["--data", f"{layout}:{WRITE[layout](tmp_path)}", *settings]
    found = []
    for device in ("cpu", "cuda"):
        monkeypatch.setenv("SSL_TRANSFER_CACHE", str(tmp_path / f"cache of {device}"))  # else maps are the CPU's
        found.append(measure(probe, tmp_path / device, *data, "--device", device, ckpt=ckpt))
    by_cpu, by_gpu = found
    numbers = {key: value for key, value in by_cpu.items() if isinstance(value, float)}
    assert numbers
    for key, value in numbers.items():
        assert by_gpu[key] == pytest.approx(value, abs=2.0), key
